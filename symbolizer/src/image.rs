//! The bytes of an executable, read in bounded pieces: an open file, or a copy in memory for the vDSO.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::miss::Miss;

/// Where the bytes are.
#[derive(Debug)]
pub(crate) enum Image {
    /// A regular file that is kept open.
    File(File),
    /// A copy: the vDSO, which no file holds.
    Memory(Vec<u8>),
}

/// What tells two versions of one inode apart. Not ctime: unlinking or renaming a file leaves its bytes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) bytes: u64,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
}

impl Image {
    /// Size and time of the last change.
    pub(crate) fn version(&self) -> Result<Version, Miss> {
        match self {
            Self::File(file) => {
                let meta = file.metadata()?;
                Ok(Version { bytes: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()) })
            }
            Self::Memory(bytes) => Ok(Version { bytes: bytes.len() as u64, modified: (0, 0) }),
        }
    }

    /// Reads `len` bytes at `offset`, or fewer at the end.
    pub(crate) fn read_up_to(&self, offset: u64, len: usize) -> Result<Vec<u8>, Miss> {
        let mut buf = vec![0; len];
        let read = self.read_into(offset, &mut buf)?;
        buf.truncate(read);
        Ok(buf)
    }

    /// Reads `len` bytes at `offset`.
    pub(crate) fn read_exact(&self, offset: u64, len: usize) -> Result<Vec<u8>, Miss> {
        let bytes = self.read_up_to(offset, len)?;
        if bytes.len() < len { Err(Miss::Truncated) } else { Ok(bytes) }
    }

    /// Fills `buf` from `offset` and says how much there was.
    pub(crate) fn read_into(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => read_file(file, offset, buf),
            Self::Memory(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let len = rest.len().min(buf.len());
                buf[..len].copy_from_slice(&rest[..len]);
                Ok(len)
            }
        }
    }
}

fn read_file(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        // Offsets come from untrusted headers; beyond i64 the kernel would call them invalid.
        let Some(at) = offset.checked_add(done as u64).filter(|&at| i64::try_from(at).is_ok()) else { break };
        match file.read_at(&mut buf[done..], at) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
