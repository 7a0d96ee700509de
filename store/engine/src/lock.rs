//! One process at a time on a data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::StoreError;

/// Held for as long as this lives; the system frees it when the process ends, however it ends.
pub(crate) struct DirLock {
    file: File,
}

impl DirLock {
    /// Locks the directory by a file in it, which names the holder.
    pub(crate) fn take(dir: &Path, path: &Path) -> Result<Self, StoreError> {
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let mut file = opened.map_err(StoreError::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it is a courtesy; that it is held is the fact.
                let _ = file.read_to_string(&mut text);
                return Err(StoreError::Locked { dir: dir.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => {
                return Err(StoreError::Io { action: "lock", path: path.to_owned(), source });
            }
        }
        let pid = format!("{}\n", std::process::id());
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes()));
        written.map_err(StoreError::io("write", path))?;
        Ok(Self { file })
    }

    /// Who holds the lock now, without taking it or changing anything.
    pub(crate) fn holder(path: &Path) -> Result<Option<Holder>, StoreError> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { action: "open", path: path.to_owned(), source }),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                Ok(Some(Holder { pid: text.trim().parse().ok() }))
            }
            Err(TryLockError::Error(source)) => {
                Err(StoreError::Io { action: "lock", path: path.to_owned(), source })
            }
        }
    }
}

/// The process that works on a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The pid that it wrote into its lock file, where that is legible.
    pub pid: Option<u32>,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing would not do: a child between fork and exec holds the file open too, and with it the lock.
        // Where this fails, the system frees the lock a moment later.
        let _ = self.file.unlock();
    }
}
