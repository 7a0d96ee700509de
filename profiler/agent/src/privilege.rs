//! What this process may do, read from /proc/self so that nothing has to be tried to know it.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// A Linux capability by its bit (include/uapi/linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Read other processes' /proc entries and mapped files.
    SysPtrace = 19,
    /// The old umbrella over BPF and perf, enough by itself before Linux 5.8.
    SysAdmin = 21,
    /// perf events over the whole node, since Linux 5.8.
    Perfmon = 38,
    /// Load BPF programs, since Linux 5.8.
    Bpf = 39,
}

/// The effective capabilities of a process.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those of this process; none where /proc does not tell.
    pub fn of_self() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::from_status(&status)
    }

    fn from_status(status: &str) -> Self {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self(effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0))
    }

    /// Whether `capability` is in effect.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u64) != 0
    }

    /// The names of those that sampling a whole node needs and that are missing.
    pub fn missing_for_sampling(self) -> Vec<&'static str> {
        let needed = [
            (Capability::Bpf, "CAP_BPF"),
            (Capability::Perfmon, "CAP_PERFMON"),
            (Capability::SysPtrace, "CAP_SYS_PTRACE"),
        ];
        let covered = |capability| {
            self.has(capability) || (capability != Capability::SysPtrace && self.has(Capability::SysAdmin))
        };
        needed.into_iter().filter(|(capability, _)| !covered(*capability)).map(|(_, name)| name).collect()
    }
}

/// Whether the effective user is root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// One sentence for a user who lacks the privilege to sample, or `None` where nothing is missing.
pub fn refusal() -> Option<String> {
    let missing = Capabilities::of_self().missing_for_sampling();
    if missing.is_empty() {
        return None;
    }
    Some(format!(
        "watching a whole node needs root (or {}): run it with sudo, or use `pyrite server`, which needs no privilege",
        missing.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(cap_eff: &str) -> Vec<&'static str> {
        Capabilities::from_status(&format!("Name:\tx\nCapEff:\t{cap_eff}\n")).missing_for_sampling()
    }

    #[test]
    fn what_is_missing() {
        assert_eq!(missing("000001ffffffffff"), Vec::<&str>::new());
        assert_eq!(missing("0000000000000000"), ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]);
        // CAP_SYS_ADMIN stands for the two that were split from it, not for ptrace.
        assert_eq!(missing("0000000000200000"), ["CAP_SYS_PTRACE"]);
        assert_eq!(missing("not hex"), ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]);
    }
}
