//! Unpacks gzip, found by its magic bytes, up to a limit: a few kilobytes can inflate to gigabytes.

use std::borrow::Cow;
use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use crate::pprof::PprofError;

/// `body` itself, or what it unpacks to if it is gzip.
///
/// # Errors
/// Broken gzip; more than `max_bytes` in either form.
pub fn inflate(body: &[u8], max_bytes: usize) -> Result<Cow<'_, [u8]>, PprofError> {
    let too_large = PprofError::TooLarge { limit: max_bytes };
    if !body.starts_with(&[0x1f, 0x8b]) {
        return if body.len() > max_bytes { Err(too_large) } else { Ok(Cow::Borrowed(body)) };
    }
    let mut out = Vec::new();
    let mut limited = MultiGzDecoder::new(body).take(max_bytes as u64 + 1);
    limited.read_to_end(&mut out).map_err(|source| PprofError::Gzip { source })?;
    if out.len() > max_bytes { Err(too_large) } else { Ok(Cow::Owned(out)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pprof::gzip;

    #[test]
    fn plain_and_packed_bytes_come_out_alike() {
        let packed = gzip(b"profile");
        assert_eq!(*inflate(&packed, 7).unwrap(), *b"profile");
        assert_eq!(*inflate(b"profile", 7).unwrap(), *b"profile");
        let twice = [packed.clone(), packed].concat();
        assert_eq!(*inflate(&twice, 100).unwrap(), *b"profileprofile");
    }

    #[test]
    fn bombs_and_rubble_are_errors() {
        let bomb = gzip(&vec![0; 1 << 20]);
        // How small it gets depends on which backend of flate2 the build ends up with.
        assert!(bomb.len() < 50_000);
        assert!(matches!(inflate(&bomb, 1000), Err(PprofError::TooLarge { limit: 1000 })));
        assert!(matches!(inflate(b"12345", 4), Err(PprofError::TooLarge { limit: 4 })));
        assert!(matches!(inflate(&bomb[..50], 1 << 20), Err(PprofError::Gzip { .. })));
        assert!(matches!(inflate(b"\x1f\x8bxx", 10), Err(PprofError::Gzip { .. })));
    }
}
