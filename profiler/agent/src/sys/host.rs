//! Clocks, limits and the allocator.

use pyrite_sampling::{BootNs, WallClock};

fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to. The clocks used here exist on every supported kernel, and on
    // failure `now` stays zero.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Now, on the clock that samples are stamped with.
pub fn boot_now() -> BootNs {
    BootNs(clock_ns(libc::CLOCK_BOOTTIME) as u64)
}

/// Where the wall clock stands relative to the boot clock at this moment.
pub fn wall_clock() -> WallClock {
    WallClock { boot_at_unix_ns: clock_ns(libc::CLOCK_REALTIME) - clock_ns(libc::CLOCK_BOOTTIME) }
}

/// CPU time that the calling thread has used, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) as u64
}

/// The unit of times in `/proc/stat` and `/proc/PID/stat`.
pub fn clock_ticks_hz() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100).max(1)
}

/// The unit in which files are mapped.
pub fn page_bytes() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096).max(1)
}

/// How a thread stands back where others want the CPU.
#[derive(Debug)]
pub struct Niceness {
    tid: libc::id_t,
    /// As it was started.
    own: libc::c_int,
}

impl Niceness {
    /// Of the calling thread.
    pub fn of_this_thread() -> Self {
        // SAFETY: neither call has preconditions. On Linux 0 means the calling thread alone.
        let (tid, own) = unsafe { (libc::gettid(), libc::getpriority(libc::PRIO_PROCESS, 0)) };
        Self { tid: tid as libc::id_t, own }
    }

    /// Makes the thread, which must not have ended, nicer by so many steps than it was started. To take steps back is a
    /// privilege (`CAP_SYS_NICE`); without it the thread stays as nice as it is.
    pub fn stand_back(&self, steps: libc::c_int) {
        // SAFETY: setpriority has no preconditions. On Linux the number of a thread means that thread alone.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, self.tid, self.own + steps) };
    }
}

/// Lets kernels before 5.11 lock memory for BPF maps. Later ones account maps to the cgroup, so a refusal (no
/// `CAP_SYS_RESOURCE`) is no failure: if it matters, creating the first map says so.
pub fn raise_memlock_limit() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `unlimited` is a valid rlimit to read.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}

/// Lets this process keep as many files open as its hard limit allows: executables are kept open, and the soft limit is
/// often 1,024. A refusal is no failure: opening one file too many says so.
pub fn raise_open_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit to write to, and then to read.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Sends a signal to one process.
///
/// # Errors
/// When there is no such process, or it is not ours to signal.
pub fn send_signal(tgid: u32, signal: libc::c_int) -> std::io::Result<()> {
    let tgid = libc::pid_t::try_from(tgid).map_err(|_out_of_range| std::io::ErrorKind::NotFound)?;
    // SAFETY: kill has no preconditions. A positive tgid names one process, never a group.
    match unsafe { libc::kill(tgid, signal) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_stands_back_alone_and_from_where_it_was_started() {
        let (tell, told) = channel();
        let (ask, asked) = channel::<()>();
        let thread = std::thread::spawn(move || {
            Niceness::of_this_thread().stand_back(2);
            tell.send(Niceness::of_this_thread()).unwrap();
            asked.recv().unwrap();
            Niceness::of_this_thread().own
        });
        let own = Niceness::of_this_thread().own;
        told.recv().unwrap().stand_back(3);
        ask.send(()).unwrap();
        assert_eq!(thread.join().unwrap(), own + 5);
        assert_eq!(Niceness::of_this_thread().own, own);
    }
}
