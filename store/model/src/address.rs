//! Which kind of address: in a process, in a file, in the kernel. A bare `u64` says none of that.

/// An address in a process, or in the kernel, as the CPU used it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Avma(pub u64);

/// A byte offset in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileOffset(pub u64);

/// What the kernel calls the same file: valid while the file is open or mapped; an inode may be reused afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey {
    /// Major number of the device that holds the file.
    pub dev_major: u32,
    /// Minor number of that device.
    pub dev_minor: u32,
    /// Inode number on that device.
    pub inode: u64,
}
