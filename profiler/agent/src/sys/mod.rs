//! The seam to the kernel: every system call that neither std nor aya makes for us, and all of the agent's unsafe code.

mod bpf_map;
mod host;
mod perf_event;
mod perf_ring;
mod wait;

pub use bpf_map::{
    Chunk, ChunkMemory, ExecutableValue, ProcessValue, RuleValue, map_bytes, remove_inner_map,
};
pub use host::{
    Niceness, boot_now, clock_ticks_hz, page_bytes, raise_memlock_limit, raise_open_file_limit, send_signal,
    thread_cpu_ns, wall_clock,
};
pub use perf_event::{PerfCounts, PerfEvent, TickSource};
pub use perf_ring::PerfRing;
pub use wait::{Alarm, wait_readable};

use pyrite_bpf::abi::{pyrite_cpu, pyrite_switch_cpu};

/// One CPU's counters as the BPF map holds them.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct CpuCounters(pub pyrite_cpu);

// SAFETY: pyrite_cpu consists of u64 fields alone, without padding (-Wpadded): every bit pattern is a value.
unsafe impl aya::Pod for CpuCounters {}

/// One CPU's counters of context switches as the BPF map holds them.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct SwitchCounters(pub pyrite_switch_cpu);

// SAFETY: pyrite_switch_cpu consists of u64 fields alone, without padding (-Wpadded): every bit pattern is a value.
unsafe impl aya::Pod for SwitchCounters {}
