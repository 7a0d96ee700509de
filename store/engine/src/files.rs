//! The seam between the store and the file system.
//!
//! Every file the store writes itself goes through [`FileLayer`], so that a test can put a layer under it that
//! records the order of operations, refuses some of them, or forgets what was never synced. `SQLite` does its own
//! file handling and is not seen here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file that grows at its end.
pub(crate) trait WriteFile: Send {
    /// Writes all bytes at the end of the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all that was appended is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `len` bytes; what is appended next goes there.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// A file that is read at any offset.
pub(crate) trait ReadFile: Send + Sync {
    /// Exactly `len` bytes from `offset`; an end of file before that is an error.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// The file's length.
    fn len(&self) -> io::Result<u64>;
}

/// The file operations that the store uses.
pub(crate) trait FileLayer: Send + Sync {
    /// A new empty file; one that is there already is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// An existing file, to be continued at its end.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// An existing file, to be read.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Makes a directory and those above it.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file or directory another name on the same file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all in it.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns when the names in a directory are on the disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The operating system's files.
pub(crate) struct RealFiles;

struct RealFile(File);

impl WriteFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

impl ReadFile for RealFile {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.0.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl FileLayer for RealFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        // Truncated by hand: append mode, which makes each write go to the end, excludes the open flag for it.
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(0)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().append(true).open(path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(RealFile(File::open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// The whole content of a file.
pub(crate) fn read_all(files: &dyn FileLayer, path: &Path) -> io::Result<Vec<u8>> {
    let file = files.open_read(path)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    file.read_at(0, len)
}

/// What the files of a directory take, those of its subdirectories not counted.
pub(crate) fn dir_bytes(files: &dyn FileLayer, dir: &Path) -> u64 {
    let names = files.list(dir).unwrap_or_default();
    let length = |name: &String| files.open_read(&dir.join(name)).and_then(|file| file.len());
    names.iter().map(length).filter_map(Result::ok).sum()
}
