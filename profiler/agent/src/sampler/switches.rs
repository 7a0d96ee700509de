//! Time off the CPU: the program that runs at every context switch, while this lives, and what it has counted.

use aya::maps::{MapData, PerCpuArray};
use aya::{Btf, Ebpf};
use pyrite_sampling::OffFates;

use crate::sampler::SamplerError;
use crate::sampler::load::{Attached, attach, explain, take_map};
use crate::sys::SwitchCounters;

/// Captures per second that a node of many CPUs may make in all; each costs some 30 µs, most of it in user space.
const MOST_PER_NODE: u32 = 600;
/// And so many per CPU at most.
const MOST_PER_CPU: u32 = 30;

/// Captures per second on the whole node while somebody waits for a recording, and per CPU.
const MOST_WHILE_RECORDING: u32 = 4_000;
const MOST_PER_CPU_WHILE_RECORDING: u32 = 1_000;

/// How much recording time off the CPU may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffCpuBudget {
    /// Nothing: it is not recorded.
    Off,
    /// Little beside the sampling clock: at most 30 captures per second and CPU, and 600 on the node.
    Node,
    /// Far more, for as long as a recording takes.
    Recording,
    /// So many captures per second and CPU.
    PerCpu(u32),
}

impl OffCpuBudget {
    /// Captures per second and CPU, 0 for none at all.
    pub(super) fn per_cpu(self, cpus: usize) -> u32 {
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX).max(1);
        match self {
            Self::Off => 0,
            Self::Node => (MOST_PER_NODE / cpus).clamp(1, MOST_PER_CPU),
            Self::Recording => (MOST_WHILE_RECORDING / cpus).clamp(1, MOST_PER_CPU_WHILE_RECORDING),
            Self::PerCpu(captures) => captures.clamp(1, 65_535),
        }
    }
}

/// The attached program. Dropping it detaches it.
pub(super) struct Switches {
    program: Option<Attached>,
    counters: PerCpuArray<MapData, SwitchCounters>,
    ends_lost: u64,
}

/// What the program counted, over all CPUs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SwitchCounts {
    pub(super) fates: OffFates,
    pub(super) tails_lost: u64,
    /// Whether ends of captured times were lost since the last look.
    pub(super) has_lost_ends: bool,
}

impl Switches {
    /// Loads and attaches the program. Minimum kernel: 5.10, with BTF.
    pub(super) fn attach(object: &mut Ebpf, btf: &Btf) -> Result<Self, SamplerError> {
        let program = attach(object, btf, "on_switch", "sched_switch")?;
        let counters = PerCpuArray::try_from(take_map(object, "switch_cpus")?);
        let counters = counters.map_err(|error| explain(error.into()))?;
        Ok(Self { program: Some(program), counters, ends_lost: 0 })
    }

    /// From now on no thread is captured. The counts stay readable.
    pub(super) fn detach(&mut self) {
        self.program = None;
    }

    pub(super) fn counts(&mut self) -> SwitchCounts {
        let Ok(cpus) = self.counters.get(&0, 0) else { return SwitchCounts::default() };
        let mut counts = SwitchCounts::default();
        let mut ends_lost = 0;
        for SwitchCounters(cpu) in cpus.iter() {
            counts.fates.merge(&OffFates::from_counts(cpu.fates));
            counts.tails_lost += cpu.tails_lost;
            ends_lost += cpu.ends_lost;
        }
        counts.has_lost_ends = ends_lost > self.ends_lost;
        self.ends_lost = ends_lost;
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_the_nodes_and_no_cpu_gets_none() {
        let per_cpu = |cpus| OffCpuBudget::Node.per_cpu(cpus);
        assert_eq!([1, 20, 64, 4_000].map(per_cpu), [30, 30, 9, 1]);
        assert_eq!([2, 64].map(|cpus| OffCpuBudget::Recording.per_cpu(cpus)), [1_000, 62]);
        assert_eq!(OffCpuBudget::Off.per_cpu(2), 0);
        assert_eq!(OffCpuBudget::PerCpu(70_000).per_cpu(2), 65_535);
    }
}
