//! Why sampling cannot start, each with what to do about it.

use std::io;

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
