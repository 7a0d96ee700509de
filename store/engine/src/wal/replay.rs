//! Reading a WAL file back: what its whole records say, and where and why the rest was cut.

use std::path::Path;
use std::sync::Arc;

use super::v1::Generation;
use super::{HEADER_LEN, MAGIC, RECORD_HEADER_LEN, VERSION, record};
use crate::StoreError;
use crate::dictionary::{EpochId, Epochs};
use crate::files::{FileLayer, read_all};
use crate::head::{HeadState, Mark};

/// Of log version 1, which names no epoch.
const V1_HEADER_LEN: usize = 24;

/// What a WAL file held.
pub(crate) struct Replayed {
    /// The rows of all whole records.
    pub(crate) head: HeadState,
    /// Of the file's format; `None` where the header is bad.
    pub(crate) version: Option<u32>,
    /// What the whole records log of dictionary and series; `None` where none may be added to the file.
    pub(crate) mark: Option<Mark>,
    /// Number of whole records.
    pub(crate) records: usize,
    /// Stacks of the records that have no name, because dictionary entries before theirs are lost.
    pub(crate) nameless: usize,
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
    epochs: &Epochs,
) -> Result<Replayed, StoreError> {
    let bytes = read_all(files.as_ref(), path).map_err(StoreError::io("read", path))?;
    let header = check_header(&bytes, generation);
    let epoch = match header {
        Header::Good(epoch) => epochs.of_log(epoch)?,
        _ => epochs.for_generation(),
    };
    let head = HeadState::new(epoch);
    let version = match header {
        Header::Good(_) => Some(VERSION),
        Header::Version1 => Some(1),
        Header::Newer(_) | Header::Bad(_) => None,
    };
    let mut replayed = Replayed { head, version, mark: None, records: 0, nameless: 0, len: 0, cut: None };
    let why = match header {
        Header::Good(_) => read_records(&bytes, &mut replayed),
        Header::Version1 => read_version_1(&bytes, &mut replayed),
        Header::Newer(found) => {
            return Err(StoreError::Newer { path: path.into(), found, supported: u64::from(VERSION) });
        }
        Header::Bad(why) => Some(why),
    };
    replayed.cut = why.map(|why| Cut { why, bytes: bytes[replayed.len as usize..].to_vec() });
    Ok(replayed)
}

enum Header {
    Good(EpochId),
    Version1,
    Newer(u64),
    Bad(&'static str),
}

fn check_header(bytes: &[u8], generation: u64) -> Header {
    let whole = |len: usize| {
        let header = bytes.get(..len).filter(|header| header.starts_with(MAGIC));
        header.filter(|header| u32_at(header, len - 4) == crc32c::crc32c(&header[..len - 4]))
    };
    let of_generation = |header: &[u8]| header[MAGIC.len() + 4..].starts_with(&generation.to_le_bytes());
    let version = |header: &[u8]| u32_at(header, MAGIC.len());
    if let Some(header) = whole(V1_HEADER_LEN) {
        return match version(header) {
            1 if of_generation(header) => Header::Version1,
            newer if newer > VERSION => Header::Newer(u64::from(newer)),
            _ => Header::Bad("the file header is damaged"),
        };
    }
    match whole(HEADER_LEN) {
        Some(header) if version(header) > VERSION => Header::Newer(u64::from(version(header))),
        Some(header) if version(header) == VERSION && of_generation(header) => {
            Header::Good(EpochId(u32_at(header, HEADER_LEN - 8)))
        }
        None if bytes.len() < HEADER_LEN => Header::Bad("the file header is incomplete"),
        _ => Header::Bad("the file header is damaged"),
    }
}

fn read_records(bytes: &[u8], into: &mut Replayed) -> Option<&'static str> {
    into.mark = Some(into.head.mark());
    each_record(bytes, HEADER_LEN, into, |payload, into| {
        let Ok((rows, nameless)) = record::apply(payload, &mut into.head) else { return false };
        into.nameless += nameless;
        if let Some(rows) = rows {
            into.head.publish(rows);
        }
        into.mark = Some(into.head.mark());
        true
    })
}

fn read_version_1(bytes: &[u8], into: &mut Replayed) -> Option<&'static str> {
    let mut generation = Generation::default();
    let cut = each_record(bytes, V1_HEADER_LEN, into, |payload, into| {
        generation.take(payload, &mut into.head).is_ok()
    });
    generation.publish(&mut into.head);
    cut
}

/// Calls `take` for each whole record until it does not decode; returns why the rest cannot be used.
fn each_record(
    bytes: &[u8],
    header_len: usize,
    into: &mut Replayed,
    mut take: impl FnMut(&[u8], &mut Replayed) -> bool,
) -> Option<&'static str> {
    let mut at = header_len;
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
        if !take(payload, into) {
            return Some("a record does not decode");
        }
        into.records += 1;
        at = payload_at + len;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}
