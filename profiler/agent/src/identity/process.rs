//! What `/proc/PID` says of a process, read once. Every read is bounded, and a read that fails has a reason.

use std::fs::File;
use std::io::{self, Read};

use pyrite_sampling::{BootNs, ProcStat, ProcessKey, parse_stat};

use crate::mapped_file;
use crate::sys;

/// The largest `/proc` text that is read; real ones are a few hundred bytes.
const MAX_TEXT_BYTES: u64 = 16 << 10;

/// Why `/proc/PID` did not tell who a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ProcessMiss {
    /// The process is gone.
    #[error("process exited")]
    Exited,
    /// The pid now belongs to another process.
    #[error("pid belongs to a later process")]
    Reused,
    /// The kernel refused, as it does for processes hidden by `hidepid`.
    #[error("proc entry is not readable")]
    Unreadable,
}

impl ProcessMiss {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Exited, Self::Reused, Self::Unreadable];

    /// Stable short name: the metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Reused => "pid_reused",
            Self::Unreadable => "proc_unreadable",
        }
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// The parent's tgid.
    pub parent: u32,
    /// Whether this is a kernel thread, which has no executable and no container.
    pub is_kernel: bool,
    /// The text of `/proc/PID/cgroup`.
    pub cgroup: String,
    /// The executable's path as the process sees it; `None` where it may not be read and for a process that has ended and is not
    /// reaped yet.
    pub exe: Option<String>,
}

/// Reads what `/proc` says of `process`; a start of zero means whichever life of this tgid is on.
pub fn read(process: ProcessKey) -> Result<ProcessFacts, ProcessMiss> {
    let dir = format!("/proc/{}", process.tgid);
    let stat = stat(process.tgid)?;
    if process.start != BootNs(0) && !process.started_at(stat.start) {
        return Err(ProcessMiss::Reused);
    }
    let parent = stat.parent_tgid;
    if stat.is_kernel_thread {
        return Ok(ProcessFacts { parent, is_kernel: true, ..ProcessFacts::default() });
    }
    let cgroup = read_text(&format!("{dir}/cgroup"))?;
    let exe = std::fs::read_link(format!("{dir}/exe")).ok();
    let exe = exe.map(|exe| mapped_file::without_note(&exe.to_string_lossy()).to_owned());
    Ok(ProcessFacts { parent, is_kernel: false, cgroup, exe })
}

/// The parent's tgid and the name of the process's main thread.
pub(crate) fn parent_and_comm(tgid: u32) -> Result<(u32, String), ProcessMiss> {
    let stat = stat(tgid)?;
    Ok((stat.parent_tgid, stat.comm.to_string()))
}

/// The arguments of a process.
pub(crate) fn arguments(tgid: u32) -> Result<Vec<String>, ProcessMiss> {
    let text = read_text(&format!("/proc/{tgid}/cmdline"))?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

fn stat(tgid: u32) -> Result<ProcStat, ProcessMiss> {
    let text = read_bytes(&format!("/proc/{tgid}/stat"))?;
    parse_stat(&text, sys::clock_ticks_hz()).ok_or(ProcessMiss::Unreadable)
}

fn read_text(path: &str) -> Result<String, ProcessMiss> {
    Ok(String::from_utf8_lossy(&read_bytes(path)?).into_owned())
}

fn read_bytes(path: &str) -> Result<Vec<u8>, ProcessMiss> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TEXT_BYTES).read_to_end(&mut bytes));
    read.map_err(|error| miss_of(&error))?;
    Ok(bytes)
}

fn miss_of(error: &io::Error) -> ProcessMiss {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => ProcessMiss::Exited,
        _ => ProcessMiss::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process() {
        let pid = std::process::id();
        let facts = read(ProcessKey { tgid: pid, start: BootNs(0) }).unwrap();
        assert_eq!(facts.exe.as_deref(), std::env::current_exe().unwrap().to_str());
        assert!(facts.cgroup.contains("0::/") && !facts.is_kernel && facts.parent != 0);
        let later = ProcessKey { tgid: pid, start: BootNs(1) };
        assert_eq!(read(later), Err(ProcessMiss::Reused));
        let gone = ProcessKey { tgid: u32::MAX, start: BootNs(0) };
        assert_eq!(read(gone), Err(ProcessMiss::Exited));
    }
}
