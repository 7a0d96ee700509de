//! What aya does not do with BPF maps: map an array into memory, take an element out of an array of maps, ask the kernel
//! what a map costs; and the structs of the unwind tables as values of maps.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

use pyrite_bpf::abi::{PYRITE_CHUNK_BYTES, pyrite_executable, pyrite_process, pyrite_rule};

/// One chunk of unwind tables.
pub type Chunk = [u8; PYRITE_CHUNK_BYTES as usize];

/// An array map of chunks (created with `BPF_F_MMAPABLE`), mapped into memory. The kernel keeps the map for as long as it
/// is mapped.
///
/// BPF programs read the memory while we write it; what they may see of a chunk is decided by who points to it.
///
/// Minimum kernel: 5.5.
#[derive(Debug)]
pub struct ChunkMemory {
    base: NonNull<Chunk>,
    chunks: usize,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread.
unsafe impl Send for ChunkMemory {}

impl ChunkMemory {
    /// Maps the `chunks` elements of `map`.
    ///
    /// # Errors
    /// EINVAL or EPERM where the map is no such array, ENOMEM.
    pub fn map(map: BorrowedFd<'_>, chunks: usize) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice. The kernel refuses a length beyond the map's.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                chunks * size_of::<Chunk>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, chunks })
    }
}

impl Deref for ChunkMemory {
    type Target = [Chunk];

    fn deref(&self) -> &[Chunk] {
        // SAFETY: mapped for this length as long as `self`; an array of bytes has no invalid value and no alignment. Only
        // this value writes: the programs read, and no other part of Pyrite writes to the map.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.chunks) }
    }
}

impl DerefMut for ChunkMemory {
    fn deref_mut(&mut self) -> &mut [Chunk] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.chunks) }
    }
}

impl Drop for ChunkMemory {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in map(), with its length, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.chunks * size_of::<Chunk>()) };
    }
}

/// Takes an element out of an array of maps. Returns when every program that may have looked it up has ended.
///
/// # Errors
/// ENOENT where there is none.
pub fn remove_inner_map(outer: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    const BPF_MAP_DELETE_ELEM: libc::c_long = 3;

    /// The part of `union bpf_attr` that the command reads: linux/bpf.h.
    #[repr(C)]
    struct DeleteElement {
        map_fd: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }

    let attr = DeleteElement {
        map_fd: outer.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const index).addr() as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: `attr` and the key it points to are valid for the whole call, and the command reads no more than they hold.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_ELEM, &raw const attr, size_of::<DeleteElement>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Kernel memory of a map in bytes, as the kernel states it; `None` where it does not.
pub fn map_bytes(map: impl AsFd) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path).ok()?;
    info.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

/// Makes a struct of the ABI a value of aya's maps.
macro_rules! map_value {
    ($($(#[$doc:meta])* $name:ident($inner:ty),)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            #[repr(transparent)]
            pub struct $name(pub $inner);

            // SAFETY: the struct consists of integers alone, without hidden padding (-Wpadded): every bit pattern is a value.
            unsafe impl aya::Pod for $name {}
        )*
    };
}

map_value! {
    /// A value of the map `processes`.
    ProcessValue(pyrite_process),
    /// A value of the map `executables`.
    ExecutableValue(pyrite_executable),
    /// A value of the map `rules`.
    RuleValue(pyrite_rule),
}
