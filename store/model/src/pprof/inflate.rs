//! Unpacks gzip, found by its magic bytes, up to a limit: a few kilobytes can inflate to gigabytes.

use std::borrow::Cow;
use std::io;

use flate2::{Decompress, FlushDecompress, Status};

use crate::pprof::PprofError;

/// Log2 of the window that deflate may refer back to.
const WINDOW_BITS: u8 = 15;
/// Deflate makes no more than this of one byte.
const MAX_RATIO: usize = 1032;
/// The least room that is made for output at once.
const MIN_ROOM: usize = 4 << 10;

/// `body` itself, or what it unpacks to if it is gzip.
///
/// # Errors
/// Broken gzip; more than `max_bytes` in either form.
pub fn inflate(body: &[u8], max_bytes: usize) -> Result<Cow<'_, [u8]>, PprofError> {
    if body.starts_with(&[0x1f, 0x8b]) {
        return gunzip(body, max_bytes).map(Cow::Owned);
    }
    if body.len() > max_bytes { Err(PprofError::TooLarge { limit: max_bytes }) } else { Ok(body.into()) }
}

/// What gzip of one member or several unpacks to.
///
/// All of the input is at hand, so a member is unpacked in one call wherever its trailer tells the size: nothing then
/// passes through a window or a buffer between.
///
/// # Errors
/// Broken gzip; more than `max_bytes` of content.
pub fn gunzip(packed: &[u8], max_bytes: usize) -> Result<Vec<u8>, PprofError> {
    let broken = |source| PprofError::Gzip { source };
    // One byte beyond the limit tells what is too large from what just fits.
    let most = max_bytes.saturating_add(1);
    let mut out = Vec::with_capacity(claimed_bytes(packed).max(MIN_ROOM).min(most));
    let mut rest = packed;
    loop {
        let mut member = Decompress::new_gzip(WINDOW_BITS);
        loop {
            let unread = &rest[member.total_in() as usize..];
            let status = member.decompress_vec(unread, &mut out, FlushDecompress::Finish);
            let status = status.map_err(|error| broken(error.into()))?;
            if out.len() > max_bytes {
                return Err(PprofError::TooLarge { limit: max_bytes });
            }
            match status {
                Status::StreamEnd => break,
                // It ran out of room, not of input.
                _ if out.len() == out.capacity() => {
                    out.reserve_exact(out.len().max(MIN_ROOM).min(most - out.len()));
                }
                _ => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        rest = &rest[member.total_in() as usize..];
        if rest.is_empty() {
            return Ok(out);
        }
    }
}

/// The size that the last member's trailer claims, as far as it is possible at all: anybody can write anything there.
fn claimed_bytes(packed: &[u8]) -> usize {
    let claim = packed.last_chunk().map_or(0, |size| u32::from_le_bytes(*size) as usize);
    claim.min(packed.len().saturating_mul(MAX_RATIO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert!(bomb.len() < 50_000);
        assert!(matches!(inflate(&bomb, 1000), Err(PprofError::TooLarge { limit: 1000 })));
        assert!(matches!(inflate(b"12345", 4), Err(PprofError::TooLarge { limit: 4 })));
        assert!(matches!(inflate(&bomb[..50], 1 << 20), Err(PprofError::Gzip { .. })));
        assert!(matches!(inflate(b"\x1f\x8bxx", 10), Err(PprofError::Gzip { .. })));
        assert!(matches!(gunzip(b"", 10), Err(PprofError::Gzip { .. })));
        assert!(matches!(gunzip(b"profile", 10), Err(PprofError::Gzip { .. })));
    }

    #[test]
    fn nothing_may_follow_the_last_member() {
        let packed = gzip(b"profile");
        for tail in [&b"\0"[..], b"rubble", &packed[..5], &packed[packed.len() - 8..]] {
            let body = [&packed, tail].concat();
            assert!(matches!(inflate(&body, 100), Err(PprofError::Gzip { .. })), "{tail:?}");
        }
    }

    #[test]
    fn a_checksum_or_size_that_is_wrong_is_an_error() {
        let packed = gzip(&[7; 5000]);
        for from_end in 1..=8 {
            let mut body = packed.clone();
            let at = body.len() - from_end;
            body[at] ^= 1;
            assert!(matches!(inflate(&body, 1 << 20), Err(PprofError::Gzip { .. })), "byte {at}");
        }
    }

    #[test]
    fn a_claimed_size_makes_no_more_room_than_there_can_be_content() {
        let mut body = gzip(b"profile");
        let end = body.len();
        body[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(claimed_bytes(&body), end * MAX_RATIO);
        assert!(matches!(inflate(&body, usize::MAX), Err(PprofError::Gzip { .. })));
    }

    proptest! {
        #[test]
        fn members_add_up_to_the_limit_and_no_further(
            members in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..4),
        ) {
            let (plain, packed) = (members.concat(), members.iter().flat_map(|member| gzip(member)).collect::<Vec<_>>());
            prop_assert_eq!(&gunzip(&packed, plain.len()).unwrap(), &plain);
            if let Some(less) = plain.len().checked_sub(1) {
                let error = gunzip(&packed, less).expect_err("one byte too many");
                prop_assert_eq!(error.reason(), "too_large");
            }
        }

        #[test]
        fn a_member_cut_short_is_an_error(plain in prop::collection::vec(0..4_u8, 1..20_000), at: prop::sample::Index) {
            let packed = gzip(&plain);
            let cut = &packed[..at.index(packed.len())];
            let error = gunzip(cut, 1 << 20).expect_err("cut short");
            prop_assert_eq!(error.reason(), "gzip");
        }
    }
}
