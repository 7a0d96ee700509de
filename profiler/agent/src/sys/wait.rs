//! Waiting for rings, and being woken from another thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// Something to wait for that another thread sets off.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// Not yet set off.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes integers alone.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor, nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wakes whoever waits.
    pub fn set_off(&self) {
        let one = 1_u64;
        // SAFETY: an eventfd takes 8 bytes, which `one` has. It can fail only where the counter is full, that is, set off.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of_val(&one)) };
    }

    /// Stops waking whoever waits, until it is set off again.
    pub fn clear(&self) {
        let mut times = 0_u64;
        // SAFETY: an eventfd gives 8 bytes, for which `times` has room. It can fail only where it is not set off.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut times).cast(), size_of_val(&times)) };
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `fds` can be read, or `timeout` has passed, or a signal came.
pub fn wait_readable<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, timeout: Duration) {
    let mut polls: Vec<libc::pollfd> =
        fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `polls` is valid for its length, and the descriptors are borrowed for longer than the call.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
}
