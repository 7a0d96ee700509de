//! Mapping and process events of the kernel: the perf "sideband" records, from bytes to [`Change`].
//!
//! Each record is `perf_event_header { type: u32, misc: u16, size: u16 }`, its body, and, because the event is opened with
//! `sample_id_all` and `PERF_SAMPLE_TIME` alone, a last `u64` with the time. Bodies, from `linux/perf_event.h`:
//!
//! ```text
//! MMAP2      pid tid u32 | addr len pgoff u64 | maj min u32 | ino ino_generation u64 | prot flags u32 | name, zero-padded to 8
//! COMM       pid tid u32 | name, zero-padded to 8              misc bit 13: by exec
//! FORK, EXIT pid ppid tid ptid u32 | time u64
//! LOST       id lost u64
//! ```

use std::sync::Arc;

use pyrite_bpf::abi::{
    PERF_RECORD_COMM, PERF_RECORD_EXIT, PERF_RECORD_FORK, PERF_RECORD_LOST, PERF_RECORD_MMAP2,
};
use pyrite_model::{Avma, FileKey, FileOffset};

use crate::{BootNs, Comm};

/// `PERF_RECORD_MISC_COMM_EXEC`.
const MISC_COMM_EXEC: u16 = 1 << 13;
/// `PERF_RECORD_MISC_BUILD_ID`: MMAP2 carries a build id in place of the inode. We never ask for that.
const MISC_BUILD_ID: u16 = 1 << 14;

/// Something that changed which code is where, or which processes there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub time: BootNs,
    /// What.
    pub kind: ChangeKind,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// A process mapped something executable.
    Mapped {
        /// Thread group id.
        tgid: u32,
        /// What and where.
        range: MappedRange,
    },
    /// A process replaced its program: all its mappings are gone, one thread is left.
    Exec {
        /// Thread group id.
        tgid: u32,
        /// The new name.
        comm: Comm,
    },
    /// A new process, with a copy of its parent's mappings.
    ProcessForked {
        /// Thread group id of the new process.
        tgid: u32,
        /// Its parent's.
        parent_tgid: u32,
    },
    /// A new thread.
    ThreadStarted {
        /// Thread group id.
        tgid: u32,
    },
    /// A thread ended; with its last thread the process ends.
    ThreadExited {
        /// Thread group id.
        tgid: u32,
        /// Thread id.
        tid: u32,
    },
    /// The kernel had no room for this many records.
    Lost {
        /// How many.
        records: u64,
    },
    /// A record that changes nothing here.
    Other,
}

/// A part of an address space, and what backs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedRange {
    /// First address.
    pub start: Avma,
    /// First address behind it.
    pub end: Avma,
    /// Where in the file `start` lies.
    pub file_offset: FileOffset,
    /// The file; inode 0 where there is none.
    pub file: FileKey,
    /// Its path as the process sees it, or a name such as `[vdso]` or `//anon`.
    pub name: Arc<str>,
}

/// Why bytes are no sideband record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SidebandError {
    /// Shorter than its type demands.
    #[error("sideband record of type {kind} is too short")]
    Short {
        /// The record's type, 0 where not even that could be read.
        kind: u32,
    },
    /// An MMAP2 record with a build id where the inode should be.
    #[error("mapping record carries a build id, which was not asked for")]
    BuildId,
    /// An MMAP2 record whose range ends before it starts.
    #[error("mapping record with an impossible address range")]
    Range,
}

/// Reads fields from the front; the first miss makes the record short.
struct Fields<'a> {
    rest: &'a [u8],
    kind: u32,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SidebandError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(SidebandError::Short { kind: self.kind })?;
        self.rest = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, SidebandError> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, SidebandError> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, SidebandError> {
        self.take().map(u64::from_ne_bytes)
    }

    /// All that is left, up to the first zero.
    fn text(&self) -> &[u8] {
        let len = self.rest.iter().position(|byte| *byte == 0).unwrap_or(self.rest.len());
        &self.rest[..len]
    }
}

/// Decodes one record with its header.
///
/// # Errors
/// Anything shorter than its type demands, or that means something we did not ask for.
pub fn decode_change(bytes: &[u8]) -> Result<Change, SidebandError> {
    let mut fields = Fields { rest: bytes, kind: 0 };
    fields.kind = fields.u32()?;
    let misc = fields.u16()?;
    fields.u16()?;
    let (body, time) =
        fields.rest.split_last_chunk::<8>().ok_or(SidebandError::Short { kind: fields.kind })?;
    fields.rest = body;
    let kind = match fields.kind {
        PERF_RECORD_MMAP2 if misc & MISC_BUILD_ID != 0 => return Err(SidebandError::BuildId),
        PERF_RECORD_MMAP2 => mapped(&mut fields)?,
        PERF_RECORD_COMM if misc & MISC_COMM_EXEC != 0 => {
            let (tgid, _tid) = (fields.u32()?, fields.u32()?);
            ChangeKind::Exec { tgid, comm: Comm::new(fields.text()) }
        }
        PERF_RECORD_FORK => {
            let (tgid, parent_tgid) = (fields.u32()?, fields.u32()?);
            if tgid == parent_tgid {
                ChangeKind::ThreadStarted { tgid }
            } else {
                ChangeKind::ProcessForked { tgid, parent_tgid }
            }
        }
        PERF_RECORD_EXIT => {
            let (tgid, _parent) = (fields.u32()?, fields.u32()?);
            ChangeKind::ThreadExited { tgid, tid: fields.u32()? }
        }
        PERF_RECORD_LOST => {
            let (_id, records) = (fields.u64()?, fields.u64()?);
            ChangeKind::Lost { records }
        }
        _ => ChangeKind::Other,
    };
    Ok(Change { time: BootNs(u64::from_ne_bytes(*time)), kind })
}

fn mapped(fields: &mut Fields<'_>) -> Result<ChangeKind, SidebandError> {
    let (tgid, _tid) = (fields.u32()?, fields.u32()?);
    let (start, len, file_offset) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (dev_major, dev_minor, inode) = (fields.u32()?, fields.u32()?, fields.u64()?);
    let (_generation, _prot, _flags) = (fields.u64()?, fields.u32()?, fields.u32()?);
    let end = start.checked_add(len).filter(|end| *end > start).ok_or(SidebandError::Range)?;
    let range = MappedRange {
        start: Avma(start),
        end: Avma(end),
        file_offset: FileOffset(file_offset),
        file: FileKey { dev_major, dev_minor, inode },
        name: String::from_utf8_lossy(fields.text()).into(),
    };
    Ok(ChangeKind::Mapped { tgid, range })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    /// The bytes that the kernel would write for `change`.
    pub(crate) fn encode(change: &Change) -> Vec<u8> {
        let mut body = Vec::new();
        let words =
            |body: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|w| body.extend(w.to_ne_bytes()));
        let padded = |body: &mut Vec<u8>, text: &[u8]| {
            body.extend(text);
            body.push(0);
            body.resize(body.len().next_multiple_of(8), 0);
        };
        let (kind, misc) = match &change.kind {
            ChangeKind::Mapped { tgid, range } => {
                words(&mut body, &[*tgid, *tgid]);
                for long in [range.start.0, range.end.0 - range.start.0, range.file_offset.0] {
                    body.extend(long.to_ne_bytes());
                }
                words(&mut body, &[range.file.dev_major, range.file.dev_minor]);
                body.extend(range.file.inode.to_ne_bytes());
                body.extend([0; 16]);
                padded(&mut body, range.name.as_bytes());
                (PERF_RECORD_MMAP2, 0)
            }
            ChangeKind::Exec { tgid, comm } => {
                words(&mut body, &[*tgid, *tgid]);
                padded(&mut body, comm.as_bytes());
                (PERF_RECORD_COMM, MISC_COMM_EXEC)
            }
            ChangeKind::ProcessForked { tgid, parent_tgid } => {
                words(&mut body, &[*tgid, *parent_tgid, *tgid, *parent_tgid, 0, 0]);
                (PERF_RECORD_FORK, 0)
            }
            ChangeKind::ThreadStarted { tgid } => {
                words(&mut body, &[*tgid, *tgid, *tgid + 1, *tgid, 0, 0]);
                (PERF_RECORD_FORK, 0)
            }
            ChangeKind::ThreadExited { tgid, tid } => {
                words(&mut body, &[*tgid, 1, *tid, 1, 0, 0]);
                (PERF_RECORD_EXIT, 0)
            }
            ChangeKind::Lost { records } => {
                body.extend([0; 8]);
                body.extend(records.to_ne_bytes());
                (PERF_RECORD_LOST, 0)
            }
            ChangeKind::Other => (PERF_RECORD_COMM, 0),
        };
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(misc.to_ne_bytes());
        bytes.extend(((body.len() + 16) as u16).to_ne_bytes());
        bytes.extend(body);
        bytes.extend(change.time.0.to_ne_bytes());
        bytes
    }

    pub(crate) fn range(start: u64, end: u64, inode: u64, name: &str) -> MappedRange {
        MappedRange {
            start: Avma(start),
            end: Avma(end),
            file_offset: FileOffset(0x1000),
            file: FileKey { dev_major: 8, dev_minor: 1, inode },
            name: name.into(),
        }
    }

    fn check(kind: ChangeKind) {
        let change = Change { time: BootNs(77), kind };
        assert_eq!(decode_change(&encode(&change)), Ok(change));
    }

    #[test]
    fn every_kind_survives() {
        check(ChangeKind::Mapped { tgid: 3, range: range(0x1000, 0x2000, 5, "/usr/bin/true") });
        check(ChangeKind::Exec { tgid: 3, comm: Comm::new(b"true") });
        check(ChangeKind::ProcessForked { tgid: 4, parent_tgid: 3 });
        check(ChangeKind::ThreadStarted { tgid: 4 });
        check(ChangeKind::ThreadExited { tgid: 4, tid: 5 });
        check(ChangeKind::Lost { records: 9 });
        check(ChangeKind::Other);
    }

    #[test]
    fn impossible_records_are_refused() {
        let change = Change {
            time: BootNs(1),
            kind: ChangeKind::Mapped { tgid: 3, range: range(0x1000, 0x2000, 5, "/x") },
        };
        let good = encode(&change);
        assert_eq!(decode_change(&good[..60]), Err(SidebandError::Short { kind: PERF_RECORD_MMAP2 }));
        assert_eq!(decode_change(&[1, 2]), Err(SidebandError::Short { kind: 0 }));
        let mut endless = good.clone();
        endless[24..32].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert_eq!(decode_change(&endless), Err(SidebandError::Range));
        let mut with_build_id = good;
        with_build_id[5] |= (MISC_BUILD_ID >> 8) as u8;
        assert_eq!(decode_change(&with_build_id), Err(SidebandError::BuildId));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0_u32..24, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = kind.to_ne_bytes().to_vec();
            bytes.extend(rest);
            let _ = decode_change(&bytes);
        }
    }
}
