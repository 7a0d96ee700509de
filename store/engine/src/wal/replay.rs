//! Reading a WAL file back: what its whole records say, and where and why the rest was cut.

use std::path::Path;
use std::sync::Arc;

use super::{HEADER_LEN, MAGIC, RECORD_HEADER_LEN, VERSION, header, record};
use crate::StoreError;
use crate::files::{FileLayer, read_all};
use crate::head::{HeadState, Mark};

/// What a WAL file held.
pub(crate) struct Replayed {
    /// The rows and dictionary of all whole records.
    pub(crate) head: HeadState,
    /// What the whole records log of the dictionary.
    pub(crate) mark: Mark,
    /// Number of whole records.
    pub(crate) records: usize,
    /// Length of the header and the whole records; 0 where the header itself is bad.
    pub(crate) len: u64,
    /// What follows them.
    pub(crate) cut: Option<Cut>,
}

/// The part of a file that cannot be used.
pub(crate) struct Cut {
    /// Why.
    pub(crate) why: &'static str,
    /// The bytes from there to the end of the file.
    pub(crate) bytes: Vec<u8>,
}

/// Reads the file of `generation`.
///
/// # Errors
/// When it cannot be read or a newer release wrote it; damage is no error but a [`Cut`].
pub(crate) fn replay(
    files: &Arc<dyn FileLayer>,
    path: &Path,
    generation: u64,
) -> Result<Replayed, StoreError> {
    let bytes = read_all(files.as_ref(), path).map_err(StoreError::io("read", path))?;
    let mut replayed = Replayed {
        head: HeadState::default(),
        mark: HeadState::default().mark(),
        records: 0,
        len: 0,
        cut: None,
    };
    let why = match check_header(&bytes, generation) {
        Header::Good => read_records(&bytes, &mut replayed),
        Header::Newer(found) => {
            return Err(StoreError::Newer { path: path.into(), found, supported: u64::from(VERSION) });
        }
        Header::Bad(why) => Some(why),
    };
    replayed.cut = why.map(|why| Cut { why, bytes: bytes[replayed.len as usize..].to_vec() });
    Ok(replayed)
}

enum Header {
    Good,
    Newer(u64),
    Bad(&'static str),
}

fn check_header(bytes: &[u8], generation: u64) -> Header {
    let Some(found) = bytes.get(..HEADER_LEN) else {
        return Header::Bad("the file header is incomplete");
    };
    let whole = u32_at(found, HEADER_LEN - 4) == crc32c::crc32c(&found[..HEADER_LEN - 4]);
    match u32_at(found, MAGIC.len()) {
        version if whole && found.starts_with(MAGIC) && version > VERSION => {
            Header::Newer(u64::from(version))
        }
        _ if found == header(generation) => Header::Good,
        _ => Header::Bad("the file header is damaged"),
    }
}

fn read_records(bytes: &[u8], into: &mut Replayed) -> Option<&'static str> {
    let mut at = HEADER_LEN;
    loop {
        into.len = at as u64;
        if at == bytes.len() {
            return None;
        }
        let Some(payload_at) = at.checked_add(RECORD_HEADER_LEN).filter(|&end| end <= bytes.len()) else {
            return Some("the last record is incomplete");
        };
        let (len, crc) = (u32_at(bytes, at) as usize, u32_at(bytes, at + 4));
        let Some(payload) = bytes.get(payload_at..).and_then(|rest| rest.get(..len)) else {
            return Some("the last record is incomplete");
        };
        if crc32c::crc32c(payload) != crc {
            return Some("a record fails its checksum");
        }
        match record::apply(payload, &mut into.head) {
            Ok(Some(rows)) => into.head.publish(rows),
            Ok(None) => {}
            Err(_malformed) => return Some("a record does not decode"),
        }
        into.mark = into.head.mark();
        into.records += 1;
        at = payload_at + len;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}
