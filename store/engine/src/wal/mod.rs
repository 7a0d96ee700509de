//! The write-ahead log: one file per head generation.
//!
//! ```text
//! file   := magic "PYRITWAL", version u32, generation u64, epoch u32, crc32c u32 of the 24 bytes before, record …
//! record := len u32, crc32c u32 of the payload, payload [len]
//! ```
//!
//! Integers are little-endian. A batch is acknowledged after the sync that follows its record. Reading stops at the
//! first record that is incomplete, fails its checksum, or does not decode: what follows it is set aside.

mod record;
mod replay;
mod v1;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::StoreError;
use crate::dictionary::EpochId;
use crate::files::{FileLayer, WriteFile};
use crate::head::{HeadState, Mark};
use crate::rows::RowBlock;

pub(crate) use replay::{Cut, Replayed, replay};

const MAGIC: &[u8; 8] = b"PYRITWAL";
const VERSION: u32 = 2;
const HEADER_LEN: usize = 28;
const RECORD_HEADER_LEN: usize = 8;

/// The file of one generation.
pub(crate) fn path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation:016}.wal"))
}

/// The generation that a file name states; `None` for other files.
pub(crate) fn generation_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    (digits.len() == 16).then(|| digits.parse().ok())?
}

fn header(generation: u64, epoch: EpochId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&epoch.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Appends one record to `out` and returns its length.
pub(crate) fn encode_record(out: &mut Vec<u8>, head: &HeadState, since: Mark, rows: &RowBlock) -> usize {
    let start = out.len();
    out.resize(start + RECORD_HEADER_LEN, 0);
    record::encode(out, head, since, rows);
    let payload = &out[start + RECORD_HEADER_LEN..];
    let (len, crc) = (payload.len() as u32, crc32c::crc32c(payload));
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.len() - start
}

/// A whole file of one record with this payload.
#[cfg(fuzzing)]
pub(crate) fn sealed(generation: u64, payload: &[u8]) -> Vec<u8> {
    let mut file = header(generation, EpochId(1));
    file.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    file.extend_from_slice(payload);
    file
}

/// The payloads of a whole file's records.
#[cfg(fuzzing)]
pub(crate) fn payloads(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = file.get(HEADER_LEN..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_at_checked(RECORD_HEADER_LEN)?;
        let len = u32::from_le_bytes(*head.first_chunk()?) as usize;
        let (payload, next) = tail.split_at_checked(len)?;
        rest = next;
        Some(payload)
    })
}

/// The open end of a WAL file.
pub(crate) struct WalWriter {
    path: PathBuf,
    file: Box<dyn WriteFile>,
    /// Up to here the file is whole and on the disk.
    len: u64,
    /// Whether there may be bytes after `len`.
    dirty: bool,
}

impl WalWriter {
    /// Makes the file of a new generation; it is on the disk, name included, when this returns.
    pub(crate) fn create(
        files: &Arc<dyn FileLayer>,
        dir: &Path,
        generation: u64,
        epoch: EpochId,
    ) -> Result<Self, StoreError> {
        let path = path(dir, generation);
        let header = header(generation, epoch);
        let made = files.create(&path).and_then(|mut file| {
            file.append(&header)?;
            file.sync()?;
            files.sync_dir(dir)?;
            Ok(file)
        });
        match made {
            Ok(file) => Ok(Self { path, file, len: header.len() as u64, dirty: false }),
            Err(source) => {
                // Best effort: a file without a whole header is set aside when the store is opened next.
                let _ = files.remove_file(&path);
                Err(StoreError::Io { action: "create", path, source })
            }
        }
    }

    /// Continues a file after its first `len` bytes.
    pub(crate) fn resume(files: &Arc<dyn FileLayer>, path: PathBuf, len: u64) -> Result<Self, StoreError> {
        let file = files.open_append(&path).map_err(StoreError::io("open", &path))?;
        let mut writer = Self { path, file, len, dirty: true };
        writer.repair()?;
        Ok(writer)
    }

    /// Writes whole records and syncs. After an error nothing of them will be seen, and later appends may succeed.
    pub(crate) fn append(&mut self, records: &[u8]) -> Result<(), StoreError> {
        if self.dirty {
            self.repair()?;
        }
        let written = self.file.append(records).and_then(|()| self.file.sync());
        if let Err(source) = written {
            self.dirty = true;
            let error = StoreError::Io { action: "append to", path: self.path.clone(), source };
            if let Err(repair) = self.repair() {
                tracing::warn!(%repair, "the failed append is not undone yet; the next append tries again");
            }
            return Err(error);
        }
        self.len += records.len() as u64;
        Ok(())
    }

    fn repair(&mut self) -> Result<(), StoreError> {
        let undone = self.file.truncate(self.len).and_then(|()| self.file.sync());
        undone.map_err(StoreError::io("truncate", &self.path))?;
        self.dirty = false;
        Ok(())
    }
}
