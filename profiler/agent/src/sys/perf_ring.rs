//! The ring buffer of a perf event, mapped into memory: one control page, then 2^n pages of records.
//!
//! The kernel moves `data_head` forward, we move `data_tail`; both only grow. A record may wrap around the end.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use pyrite_bpf::abi::{perf_event_header, perf_event_mmap_page};

use crate::sys::{PerfEvent, page_bytes};

/// An event together with its ring.
#[derive(Debug)]
pub struct PerfRing {
    event: PerfEvent,
    /// Start of the mapping: the control page.
    base: NonNull<u8>,
    page_bytes: usize,
    data_bytes: usize,
    /// A record that wraps is put together here.
    joined: Vec<u8>,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread.
unsafe impl Send for PerfRing {}

impl PerfRing {
    /// Maps a ring of at least `data_bytes` (rounded up to a power of two of pages) for `event`.
    ///
    /// # Errors
    /// EPERM or ENOMEM where the kernel does not let us lock that much memory.
    pub fn new(event: PerfEvent, data_bytes: usize) -> io::Result<Self> {
        let page_bytes = page_bytes() as usize;
        let data_bytes = data_bytes.max(page_bytes).next_power_of_two();
        // SAFETY: a new shared mapping at an address of the kernel's choice; the length is a page plus 2^n pages, as
        // perf demands.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page_bytes + data_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_fd().as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { event, base, page_bytes, data_bytes, joined: Vec::new() })
    }

    /// The event that fills the ring.
    pub fn event(&self) -> &PerfEvent {
        &self.event
    }

    /// Hands every record that is there now, header included, to `each`, and frees its room.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        // Acquire: the records were written before the head moved past them.
        let head =
            self.position(std::mem::offset_of!(perf_event_mmap_page, data_head)).load(Ordering::Acquire);
        let tail_position = std::mem::offset_of!(perf_event_mmap_page, data_tail);
        let mut tail = self.position(tail_position).load(Ordering::Relaxed);
        while head.wrapping_sub(tail) >= size_of::<perf_event_header>() as u64 {
            // Records are multiples of 8 bytes, so a header never wraps; its last two bytes are the record's size.
            let header = self.bytes_at(tail, size_of::<perf_event_header>());
            let size = usize::from(u16::from_ne_bytes([header[6], header[7]]));
            if size < size_of::<perf_event_header>() || size as u64 > head.wrapping_sub(tail) {
                // Cannot be: the kernel wrote it. Giving up what is left beats reading it wrongly for ever.
                tail = head;
                break;
            }
            self.read_record(tail, size, &mut each);
            tail = tail.wrapping_add(size as u64);
        }
        // Release: the records were read before the kernel may write over them.
        self.position(tail_position).store(tail, Ordering::Release);
    }

    fn read_record(&mut self, at: u64, size: usize, each: &mut impl FnMut(&[u8])) {
        let until_end = self.data_bytes - self.offset(at);
        if size <= until_end {
            return each(self.bytes_at(at, size));
        }
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        joined.extend_from_slice(self.bytes_at(at, until_end));
        joined.extend_from_slice(self.bytes_at(at.wrapping_add(until_end as u64), size - until_end));
        each(&joined);
        self.joined = joined;
    }

    fn offset(&self, position: u64) -> usize {
        position as usize & (self.data_bytes - 1)
    }

    fn position(&self, field_offset: usize) -> &AtomicU64 {
        // SAFETY: data_head and data_tail are aligned u64 fields of the control page, which stays mapped as long as
        // `self`; the kernel accesses them atomically.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(field_offset).cast()) }
    }

    /// `len` bytes at a ring position that do not reach beyond the end of the mapping.
    fn bytes_at(&self, position: u64, len: usize) -> &[u8] {
        let offset = self.offset(position);
        assert!(offset + len <= self.data_bytes, "a slice of the ring ends within it");
        // SAFETY: within the data pages by the assertion. The kernel does not write between tail and head.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(self.page_bytes + offset), len) }
    }
}

impl AsFd for PerfRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Drop for PerfRing {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in new(), with its length, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.page_bytes + self.data_bytes) };
    }
}
