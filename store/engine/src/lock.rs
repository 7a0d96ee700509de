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
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing would not do: a child between fork and exec holds the file open too, and with it the lock.
        // Where this fails, the system frees the lock a moment later.
        let _ = self.file.unlock();
    }
}
