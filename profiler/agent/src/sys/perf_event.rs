//! `perf_event_open`: the sampling clock and the stream of mapping events, one of each per CPU.
//!
//! Own calls in place of aya's, which cannot set the attributes needed here and does not give back the descriptor that
//! the time an event ran is read from.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use pyrite_bpf::abi::{
    PERF_COUNT_HW_CPU_CYCLES, PERF_COUNT_SW_CPU_CLOCK, PERF_COUNT_SW_DUMMY, PERF_FORMAT_TOTAL_TIME_ENABLED,
    PERF_FORMAT_TOTAL_TIME_RUNNING, PERF_SAMPLE_TIME, PERF_TYPE_HARDWARE, PERF_TYPE_SOFTWARE,
    perf_event_attr,
};

// ioctl numbers of linux/perf_event.h: _IO('$', n), and _IOW('$', 8, u32) for SET_BPF. bindgen skips function-like macros.
const IOC_ENABLE: libc::c_ulong = 0x2400;
const IOC_DISABLE: libc::c_ulong = 0x2401;
const IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
const FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// What the sampling clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TickSource {
    /// CPU cycles, by the hardware's counter. Sees code that runs with interrupts off.
    Cycles,
    /// Time, by a timer per CPU. Works everywhere.
    CpuClock,
}

impl TickSource {
    /// As perf calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::CpuClock => "cpu-clock",
        }
    }
}

/// What the kernel says of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerfCounts {
    /// How long the event has been enabled.
    pub enabled_ns: u64,
    /// How long it really ran; less where hardware counters were shared.
    pub running_ns: u64,
}

/// An open event on one CPU, for all processes. Closing it detaches its program.
#[derive(Debug)]
pub struct PerfEvent(OwnedFd);

impl PerfEvent {
    /// Opens the sampling clock on `cpu`, switched off.
    ///
    /// # Errors
    /// EACCES or EPERM without privilege, ENOENT or EOPNOTSUPP without such a counter, EINVAL where the frequency exceeds
    /// `kernel.perf_event_max_sample_rate`, ENODEV where the CPU is offline.
    pub fn open_ticks(cpu: u32, source: TickSource, frequency_hz: u64) -> io::Result<Self> {
        let (kind, config) = match source {
            TickSource::Cycles => (PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES),
            TickSource::CpuClock => (PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK),
        };
        let mut attr = new_attr(kind, config);
        attr.set_freq(1);
        attr.__bindgen_anon_1.sample_freq = frequency_hz;
        attr.read_format = u64::from(PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING);
        open(&attr, cpu)
    }

    /// Opens the stream of exec, fork, exit and executable mappings on `cpu`, switched off. It wakes a poller when
    /// `wakeup_bytes` wait in its ring.
    ///
    /// # Errors
    /// As for [`Self::open_ticks`].
    pub fn open_sideband(cpu: u32, wakeup_bytes: u32) -> io::Result<Self> {
        let mut attr = new_attr(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY);
        attr.set_mmap(1);
        attr.set_mmap2(1);
        attr.set_comm(1);
        attr.set_comm_exec(1);
        attr.set_task(1);
        attr.set_sample_id_all(1);
        attr.sample_type = u64::from(PERF_SAMPLE_TIME);
        attr.set_use_clockid(1);
        attr.clockid = libc::CLOCK_BOOTTIME;
        attr.set_watermark(1);
        attr.__bindgen_anon_2.wakeup_watermark = wakeup_bytes;
        open(&attr, cpu)
    }

    /// Runs `program` at every tick from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.ioctl(IOC_SET_BPF, program.as_raw_fd())
    }

    /// Switches the event on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn enable(&self) -> io::Result<()> {
        self.ioctl(IOC_ENABLE, 0)
    }

    /// Switches the event off; its times stand still.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn disable(&self) -> io::Result<()> {
        self.ioctl(IOC_DISABLE, 0)
    }

    /// How long the event was enabled and ran. Only for [`Self::open_ticks`].
    ///
    /// # Errors
    /// What the kernel says; an event in error state reads as end of file.
    pub fn counts(&self) -> io::Result<PerfCounts> {
        let mut words = [0_u64; 3];
        // SAFETY: the buffer is valid for its 24 bytes, which is what this read_format gives.
        let read = unsafe { libc::read(self.0.as_raw_fd(), words.as_mut_ptr().cast(), size_of_val(&words)) };
        match usize::try_from(read) {
            Err(_) => Err(io::Error::last_os_error()),
            Ok(read) if read < size_of_val(&words) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(PerfCounts { enabled_ns: words[1], running_ns: words[2] }),
        }
    }

    fn ioctl(&self, request: libc::c_ulong, argument: libc::c_int) -> io::Result<()> {
        // SAFETY: these requests take an integer, or a descriptor that the caller holds open; none takes a pointer.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl AsFd for PerfEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn new_attr(kind: u32, config: u32) -> perf_event_attr {
    let mut attr = perf_event_attr { type_: kind, config: u64::from(config), ..perf_event_attr::default() };
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.set_disabled(1);
    attr
}

fn open(attr: &perf_event_attr, cpu: u32) -> io::Result<PerfEvent> {
    let (every_process, no_group) = (-1, -1);
    // SAFETY: `attr` is a valid perf_event_attr that states its own size; the other arguments are integers.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const *attr,
            every_process,
            cpu,
            no_group,
            FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, nobody else owns it.
    Ok(PerfEvent(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}
