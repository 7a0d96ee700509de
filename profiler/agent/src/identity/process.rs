//! What `/proc/PID` says of a process, read once. Every read is bounded, and a read that fails has a reason.

use std::fs::File;
use std::io::{self, Read};

/// The largest `/proc` text that is read; real ones are a few hundred bytes.
const MAX_TEXT_BYTES: u64 = 16 << 10;
const PF_KTHREAD: u64 = 0x0020_0000;
/// `/proc` gives start times in ticks of `USER_HZ`, which is 100 on every Linux ABI.
const NS_PER_TICK: u64 = 10_000_000;
/// How far a start time learnt from a sample or a fork event may be off; far below the time in which pids come round.
const START_SLACK_NS: u64 = 500_000_000;

/// Which process: a tgid alone is used again by later processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessKey {
    /// The process id in the host's namespace; 0 is the idle task.
    pub tgid: u32,
    /// When its first thread started, in nanoseconds of `CLOCK_BOOTTIME`; 0 where unknown.
    pub start_boot_ns: u64,
}

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
    /// The executable's path as the process sees it; `None` where it may not be read.
    pub exe: Option<String>,
}

/// Reads what `/proc` says of `process`.
pub fn read(process: ProcessKey) -> Result<ProcessFacts, ProcessMiss> {
    let dir = format!("/proc/{}", process.tgid);
    let stat = read_text(&format!("{dir}/stat"))?;
    let stat = parse_stat(&stat).ok_or(ProcessMiss::Unreadable)?;
    let start_boot_ns = stat.start_ticks.saturating_mul(NS_PER_TICK);
    if process.start_boot_ns != 0 && start_boot_ns.abs_diff(process.start_boot_ns) > START_SLACK_NS {
        return Err(ProcessMiss::Reused);
    }
    if stat.is_kernel {
        return Ok(ProcessFacts { parent: stat.parent, is_kernel: true, ..ProcessFacts::default() });
    }
    let cgroup = read_text(&format!("{dir}/cgroup"))?;
    let exe = std::fs::read_link(format!("{dir}/exe")).ok().map(|exe| exe.to_string_lossy().into_owned());
    // The kernel appends this to the name of a file that was replaced or removed, as upgrades do.
    let exe = exe.map(|exe| exe.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(exe));
    Ok(ProcessFacts { parent: stat.parent, is_kernel: false, cgroup, exe })
}

/// The parent's tgid and the name of the process's main thread.
pub(crate) fn parent_and_comm(tgid: u32) -> Result<(u32, String), ProcessMiss> {
    let text = read_text(&format!("/proc/{tgid}/stat"))?;
    let stat = parse_stat(&text).ok_or(ProcessMiss::Unreadable)?;
    Ok((stat.parent, stat.comm.to_owned()))
}

/// The arguments of a process.
pub(crate) fn arguments(tgid: u32) -> Result<Vec<String>, ProcessMiss> {
    let text = read_text(&format!("/proc/{tgid}/cmdline"))?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

fn read_text(path: &str) -> Result<String, ProcessMiss> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TEXT_BYTES).read_to_end(&mut bytes));
    read.map_err(|error| miss_of(&error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn miss_of(error: &io::Error) -> ProcessMiss {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => ProcessMiss::Exited,
        _ => ProcessMiss::Unreadable,
    }
}

struct Stat<'a> {
    comm: &'a str,
    parent: u32,
    is_kernel: bool,
    start_ticks: u64,
}

/// `pid (comm) state ppid … flags(9) … starttime(22)`; the comm may hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat<'_>> {
    let (_, rest) = text.split_once('(')?;
    let (comm, rest) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        comm,
        parent: number(4)? as u32,
        is_kernel: number(9)? & PF_KTHREAD != 0,
        start_ticks: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comm_may_look_like_the_rest_of_the_line() {
        let text = "7 (a) R 1 (b)) S 42 7 7 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1234 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            (stat.comm, stat.parent, stat.is_kernel, stat.start_ticks),
            ("a) R 1 (b)", 42, true, 1234)
        );
        assert!(parse_stat("").is_none());
        assert!(parse_stat("7 (a) S").is_none());
        assert!(parse_stat(")(").is_none());
    }

    #[test]
    fn this_process() {
        let pid = std::process::id();
        let facts = read(ProcessKey { tgid: pid, start_boot_ns: 0 }).unwrap();
        assert_eq!(facts.exe.as_deref(), std::env::current_exe().unwrap().to_str());
        assert!(facts.cgroup.contains("0::/") && !facts.is_kernel && facts.parent != 0);
        let later = ProcessKey { tgid: pid, start_boot_ns: 1 };
        assert_eq!(read(later), Err(ProcessMiss::Reused));
        let gone = ProcessKey { tgid: u32::MAX, start_boot_ns: 0 };
        assert_eq!(read(gone), Err(ProcessMiss::Exited));
    }
}
