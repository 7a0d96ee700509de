//! Why an address has no name. A miss is a value that travels with the data and is counted, never an error.

macro_rules! misses {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// Why an address has no name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Miss {
            $($(#[$doc])* #[error($name)] $variant,)*
        }

        impl Miss {
            /// Every reason, in the order of [`Miss::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Stable short name: the metric label.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Position in [`Miss::ALL`].
            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}

misses! {
    /// No candidate path exists any more: the process exited before its mappings could be opened.
    NotFound = "file_not_found",
    /// Every candidate path names another file than the one that was mapped.
    OtherFile = "other_file",
    /// What was mapped is a device, a FIFO, a socket or a directory.
    NotRegular = "not_a_regular_file",
    /// The kernel refused to open the file.
    PermissionDenied = "permission_denied",
    /// Pyrite has no file descriptor left.
    TooManyFiles = "too_many_open_files",
    /// The file could not be read.
    ReadFailed = "read_failed",
    /// The file is not an ELF file that a Linux process could execute.
    NotElf = "not_elf",
    /// The ELF file ends before what its headers promise.
    Truncated = "truncated",
    /// The file was changed after it was opened, so its offsets may mean other code now.
    Changed = "file_changed",
    /// The registry closed the file to keep its bound.
    Closed = "closed_by_bound",
    /// The file has neither a symbol table nor dynamic symbols for code.
    NoSymbols = "no_symbols",
    /// The symbol table has more entries than the bound allows.
    TooManySymbols = "symbol_table_too_large",
    /// The file has symbols, but none covers this offset.
    NoSymbolHere = "no_symbol_at_offset",
    /// No loadable segment covers this offset.
    OutsideSegments = "outside_segments",
    /// The address lies in memory without a file behind it: JIT code, a trampoline.
    Anonymous = "anonymous_memory",
    /// The process's mappings were known and none held the address.
    Unmapped = "unmapped",
    /// The kernel's symbol table is not readable or hides its addresses.
    NoKernelSymbols = "no_kernel_symbols",
    /// No kernel symbol covers this address.
    NoKernelSymbolHere = "no_kernel_symbol_at_address",
}

impl From<std::io::Error> for Miss {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR | libc::ESTALE) => Self::NotFound,
            Some(libc::EACCES | libc::EPERM) => Self::PermissionDenied,
            Some(libc::EMFILE | libc::ENFILE) => Self::TooManyFiles,
            _ if error.kind() == std::io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::ReadFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_indexes_dense() {
        let mut names: Vec<_> = Miss::ALL.iter().map(|m| m.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Miss::ALL.len());
        assert!(Miss::ALL.iter().enumerate().all(|(i, miss)| miss.index() == i));
    }
}
