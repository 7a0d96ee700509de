//! How files come in, and why one cannot be used. The crate itself opens nothing.

use std::io;

use thiserror::Error;

/// A file that can be read at any place, as `pread` does.
pub trait ReadAt {
    /// Reads at most `buffer.len()` bytes from `offset` on and says how many; 0 at or behind the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// How many bytes the file has.
    fn byte_count(&self) -> u64;
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn byte_count(&self) -> u64 {
        self.len() as u64
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.as_slice().read_at(offset, buffer)
    }

    fn byte_count(&self) -> u64 {
        self.len() as u64
    }
}

/// Reads `bytes` bytes from `offset` on, all of them.
pub(crate) fn read_range<F: ReadAt + ?Sized>(
    file: &F,
    offset: u64,
    bytes: u64,
) -> Result<Vec<u8>, Unreadable> {
    if offset.checked_add(bytes).is_none_or(|end| end > file.byte_count()) {
        return Err(Unreadable::Truncated);
    }
    let mut buffer = Vec::new();
    let count = usize::try_from(bytes).map_err(|_too_large| Unreadable::TooLarge { bytes })?;
    buffer.try_reserve_exact(count).map_err(|_no_memory| Unreadable::TooLarge { bytes })?;
    buffer.resize(count, 0);
    read_exact(file, offset, &mut buffer)?;
    Ok(buffer)
}

/// Fills `buffer` from `offset` on.
pub(crate) fn read_exact<F: ReadAt + ?Sized>(
    file: &F,
    mut offset: u64,
    mut buffer: &mut [u8],
) -> Result<(), Unreadable> {
    while !buffer.is_empty() {
        match file.read_at(offset, buffer) {
            Ok(0) => return Err(Unreadable::Truncated),
            Ok(count) => {
                offset += count as u64;
                buffer = buffer.get_mut(count..).ok_or(Unreadable::Truncated)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Unreadable::Io { source }),
        }
    }
    Ok(())
}

/// Why no unwind table could be made of a file.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// The operating system did not let it be read.
    #[error("the file cannot be read")]
    Io {
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// A header points behind the end of the file.
    #[error("the file ends before what its headers announce")]
    Truncated,
    /// No ELF file, or one whose headers contradict themselves.
    #[error("not an ELF file, or its headers are malformed")]
    Malformed,
    /// ELF, but of 32 bits, another byte order or another machine.
    #[error("an executable of another architecture")]
    OtherArchitecture,
    /// Neither a program nor a shared object, or none that loads anything.
    #[error("an ELF file without loadable code")]
    NotExecutable,
    /// A section beyond what is read into memory.
    #[error("a section of {bytes} bytes is beyond what is read")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// More rows, or rows of more different rules, than a table can hold.
    #[error("more unwind rows than a table can hold")]
    TooManyRows,
    /// Neither unwind information nor anything to make it from.
    #[error("no unwind information")]
    NoUnwindInfo,
}

impl Unreadable {
    /// The stable short name, used as the metric label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::OtherArchitecture => "other_architecture",
            Self::NotExecutable => "not_executable",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyRows => "too_many_rows",
            Self::NoUnwindInfo => "no_unwind_info",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that gives one byte at a time, as a network file system may.
    struct Slow<'a>(&'a [u8]);

    impl ReadAt for Slow<'_> {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            let one = buffer.len().min(1);
            self.0.read_at(offset, &mut buffer[..one])
        }

        fn byte_count(&self) -> u64 {
            self.0.len() as u64
        }
    }

    #[test]
    fn short_reads_are_continued() {
        assert_eq!(read_range(&Slow(b"abcdef"), 1, 4).unwrap(), b"bcde");
    }

    #[test]
    fn ranges_behind_the_end_are_refused_before_memory_is_taken() {
        for (offset, bytes) in [(0, 7), (6, 1), (u64::MAX, 2), (1, u64::MAX)] {
            let refused = read_range(b"abcdef".as_slice(), offset, bytes);
            assert!(matches!(refused, Err(Unreadable::Truncated)), "{offset} {bytes}");
        }
    }
}
