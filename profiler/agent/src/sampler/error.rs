//! Why sampling cannot start, each with what to do about it.

use std::io;

use aya::EbpfError;
use aya::programs::ProgramError;

/// Why sampling cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// The kernel does not describe its types.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux): use a kernel built with CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf {
        /// What reading it said.
        #[source]
        source: aya::BtfError,
    },
    /// There is no BPF.
    #[error(
        "no bpf syscall: the kernel was built without CONFIG_BPF_SYSCALL, or the container's seccomp profile hides it"
    )]
    NoBpf,
    /// The kernel keeps its memory from BPF.
    #[error(
        "the kernel is locked down (lockdown=confidentiality), which forbids BPF to read memory: boot with lockdown=integrity or without it"
    )]
    LockedDown,
    /// Sampling may freeze the machine.
    #[error(
        "Linux {version} can freeze when BPF reads a process's stack (mended in 6.1.36, 6.3.10 and 6.4): upgrade it, boot with hardened_usercopy=off, or take the risk with --allow-freezing-kernel"
    )]
    FreezingKernel {
        /// The kernel's version.
        version: String,
    },
    /// The kernel refused BPF.
    #[error(
        "no permission to load BPF programs: run as root, or grant CAP_BPF and CAP_PERFMON (in a container also allow the bpf syscall)"
    )]
    NoPrivilege,
    /// The kernel refused perf events.
    #[error(
        "no permission to open perf events (kernel.perf_event_paranoid is {paranoid}): run as root, grant CAP_PERFMON, or allow the perf_event_open syscall in the container's seccomp profile"
    )]
    PerfRefused {
        /// The setting, or `unreadable`.
        paranoid: String,
    },
    /// There are no perf events.
    #[error(
        "no perf events: the kernel was built without CONFIG_PERF_EVENTS, or the container's seccomp profile hides the perf_event_open syscall"
    )]
    NoPerfEvents,
    /// The kernel does not sample that often.
    #[error(
        "cannot sample {frequency_hz} times a second: choose 1 to {max_hz} (kernel.perf_event_max_sample_rate)"
    )]
    Frequency {
        /// What was asked for.
        frequency_hz: u64,
        /// What the kernel allows.
        max_hz: u64,
    },
    /// The verifier did not accept the program.
    #[error(
        "this kernel's verifier rejects the sampler: please report the kernel version and this log: {log}"
    )]
    Rejected {
        /// The end of the verifier's log.
        log: String,
    },
    /// The object could not be loaded for another reason.
    #[error("cannot load the sampler's BPF object")]
    Load {
        /// What the loader said.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The object lacks something: it does not belong to this build.
    #[error("the sampler's BPF object has no {name}: rebuild Pyrite")]
    Incomplete {
        /// What is missing.
        name: &'static str,
    },
    /// No CPU's events could be opened.
    #[error(
        "cannot open the perf events of CPU {cpu}: check the open file limit (ulimit -n) and free memory"
    )]
    Perf {
        /// The CPU.
        cpu: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A part of the operating system that everything needs.
    #[error("cannot {action}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl SamplerError {
    /// What a refusal to open perf events means.
    pub(super) fn of_perf(cpu: u32, source: io::Error, paranoid: impl FnOnce() -> String) -> Self {
        match (source.kind(), source.raw_os_error()) {
            (_, Some(libc::ENOSYS)) => Self::NoPerfEvents,
            (io::ErrorKind::PermissionDenied, _) => Self::PerfRefused { paranoid: paranoid() },
            _ => Self::Perf { cpu, source },
        }
    }

    /// What the loader's failure means. `lockdown` is what `/sys/kernel/security/lockdown` says.
    pub(super) fn of_load(error: EbpfError, lockdown: &str) -> Self {
        if let EbpfError::ProgramError(ProgramError::LoadError { io_error, verifier_log }) = &error
            && let Some(rejection) = Self::of_verifier(io_error, &verifier_log.to_string(), lockdown)
        {
            return rejection;
        }
        match os_error(&error) {
            Some(libc::ENOSYS) => Self::NoBpf,
            Some(libc::EPERM | libc::EACCES) if is_locked_down("", lockdown) => Self::LockedDown,
            Some(libc::EPERM | libc::EACCES) => Self::NoPrivilege,
            _ => Self::Load { source: Box::new(error) },
        }
    }

    /// What the verifier has against a program; `None` where the kernel let nobody near it. Of memory that the program may
    /// not read the verifier says EACCES as well, but it writes a log.
    fn of_verifier(refusal: &io::Error, log: &str, lockdown: &str) -> Option<Self> {
        match refusal.raw_os_error() {
            Some(libc::EPERM) => return None,
            Some(libc::EACCES) if log.is_empty() => return None,
            _ => {}
        }
        if is_locked_down(log, lockdown) {
            return Some(Self::LockedDown);
        }
        let tail = log.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
        Some(Self::Rejected { log: format!("{refusal}: {}", &log[tail..]) })
    }
}

/// A kernel that is locked down does not offer the helpers that read memory. The file that says so may not be mounted.
fn is_locked_down(log: &str, lockdown: &str) -> bool {
    let lacks_helper = |line: &str| {
        let refused = line.contains("unknown func") || line.contains("cannot use helper");
        refused && line.contains("bpf_probe_read")
    };
    lockdown.contains("[confidentiality]") || log.lines().any(lacks_helper)
}

/// The error number at the bottom of an error's causes.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
}

#[cfg(test)]
mod tests {
    use aya::maps::MapError;

    use super::*;

    fn check_perf(errno: i32, starts: &str) {
        let error = SamplerError::of_perf(3, io::Error::from_raw_os_error(errno), || "4".to_owned());
        assert!(error.to_string().starts_with(starts), "{errno}: {error}");
    }

    #[test]
    fn perf_refusals_say_what_to_do() {
        check_perf(libc::ENOSYS, "no perf events: the kernel was built without");
        check_perf(libc::EACCES, "no permission to open perf events (kernel.perf_event_paranoid is 4)");
        check_perf(libc::EPERM, "no permission to open perf events");
        check_perf(libc::EMFILE, "cannot open the perf events of CPU 3");
    }

    fn check_load(errno: i32, lockdown: &str, starts: &str) {
        let io_error = io::Error::from_raw_os_error(errno);
        let error = EbpfError::MapError(MapError::CreateError { name: "ring".to_owned(), io_error });
        let error = SamplerError::of_load(error, lockdown);
        assert!(error.to_string().starts_with(starts), "{errno} {lockdown}: {error}");
    }

    #[test]
    fn load_failures_say_what_to_do() {
        check_load(libc::ENOSYS, "", "no bpf syscall");
        check_load(libc::EPERM, "[none] integrity confidentiality", "no permission to load BPF programs");
        check_load(libc::EPERM, "none integrity [confidentiality]", "the kernel is locked down");
        check_load(libc::ENOMEM, "", "cannot load the sampler's BPF object");
    }

    #[test]
    fn a_verifier_that_denies_access_is_told_from_a_kernel_that_does() {
        let of_verifier = |errno, log| {
            let refusal = io::Error::from_raw_os_error(errno);
            SamplerError::of_verifier(&refusal, log, "").map(|error| error.to_string())
        };
        let rejected = of_verifier(libc::EACCES, "R1 invalid mem access 'scalar'").unwrap_or_default();
        assert!(rejected.starts_with("this kernel's verifier rejects"), "{rejected}");
        assert!(rejected.ends_with("R1 invalid mem access 'scalar'"), "{rejected}");
        assert_eq!(of_verifier(libc::EACCES, ""), None);
        assert_eq!(of_verifier(libc::EPERM, ""), None);
        assert!(of_verifier(libc::EINVAL, "").is_some(), "what no permission would mend");
    }

    #[test]
    fn a_lockdown_is_seen_in_the_verifiers_log_too() {
        for log in [
            "12: (85) call bpf_probe_read_kernel#113\nunknown func bpf_probe_read_kernel#113\n",
            "program of this type cannot use helper bpf_probe_read_user#112",
        ] {
            assert!(is_locked_down(log, ""), "{log}");
        }
        assert!(!is_locked_down("unknown func bpf_loop#181", "[none] integrity confidentiality"));
        assert!(!is_locked_down("R1 invalid mem access\n12: (85) call bpf_probe_read_kernel#113", ""));
    }
}
