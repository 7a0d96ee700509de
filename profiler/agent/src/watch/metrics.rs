//! The agent's counters as `/metrics` shows them.

use std::collections::BTreeMap;

use pyrite_model::Exposition;
use pyrite_sampling::{HealthReport, Ledger, StackCounts};
use pyrite_symbolizer::{ExecutablesStats, Miss, SymbolizerStats};

use crate::identity::IdentityStats;
use crate::identity::process::ProcessMiss;
use crate::identity::runtime::RuntimeMiss;
use crate::rows::RowStats;
use crate::sampler::SamplerStats;

/// Everything that a row passes through on its way to the store.
pub(super) fn rows(stats: &RowStats, out: &mut Exposition) {
    symbols(&stats.symbolizer, out);
    executables(&stats.executables, out);
    identity(&stats.identity, out);
    stacks(&stats.stacks, out);
}

/// The last minute's stacks that are not complete: where they stop, and whose they are. At most ten of each, by name.
pub(super) fn unwind(report: &HealthReport, out: &mut Exposition) {
    let help = "Share of the last minute's user stacks that end at the thread's outermost frame.";
    out.gauge("pyrite_unwind_complete_ratio", help, &[], report.stacks.share_complete());
    let mut executables: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for score in &report.executables {
        let (passed, stopped) = executables.entry(score.code.name()).or_default();
        *passed += score.passed;
        *stopped += score.stopped.total();
    }
    for (name, (passed, stopped)) in executables {
        let help = "User stacks of the last minute that met the executables at which most stop, by what became of them.";
        for (walk, stacks) in [("passed", passed), ("stopped", stopped)] {
            let labels = [("executable", name), ("walk", walk)];
            out.gauge("pyrite_unwind_executable_stacks", help, &labels, stacks as f64);
        }
    }
    let mut processes: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for score in &report.processes {
        let (complete, truncated) = processes.entry(score.comm.to_string()).or_default();
        *complete += score.stacks.complete();
        *truncated += score.stacks.truncated();
    }
    for (name, (complete, truncated)) in processes {
        let help =
            "User stacks of the last minute of the processes of which most are truncated, by how they ended.";
        for (walk, stacks) in [("complete", complete), ("truncated", truncated)] {
            let labels = [("comm", name.as_str()), ("walk", walk)];
            out.gauge("pyrite_unwind_process_stacks", help, &labels, stacks as f64);
        }
    }
}

/// The sampling clock's ledger and the sampler's own state.
pub(super) fn sampler(stats: &SamplerStats, ledger: &Ledger, out: &mut Exposition) {
    let help = "Ticks of the sampling clock by what became of them; see the ledger in ARCHITECTURE.md.";
    for (fate, ticks) in ledger.fates.iter() {
        out.counter("pyrite_sampler_ticks_total", help, &[("fate", fate.name())], ticks as f64);
    }
    let help = "Ticks owed: time the perf events ran times frequency.";
    out.counter("pyrite_sampler_ticks_owed_total", help, &[], ledger.owed as f64);
    let help = "Ticks delivered beyond those owed: timer and clock drift apart.";
    out.counter("pyrite_sampler_ticks_surplus_total", help, &[], ledger.surplus as f64);
    out.gauge("pyrite_sampler_ticks_held", "Ticks on their way to the store.", &[], ledger.held as f64);
    out.gauge("pyrite_sampler_cpus", "CPUs being sampled.", &[], stats.cpus as f64);
    out.gauge("pyrite_sampler_processes", "Processes known to the sampler.", &[], stats.processes as f64);
    let help = "Executable mappings known to the sampler, each counted in every process that has it.";
    out.gauge("pyrite_sampler_mappings", help, &[], stats.mappings as f64);
    let help = "Size of the rings that the kernel writes to.";
    out.gauge("pyrite_sampler_ring_bytes", help, &[], stats.ring_bytes as f64);
    let help = "Size of copied stacks that are to be finished.";
    out.gauge("pyrite_sampler_copy_bytes", help, &[], stats.copy_bytes as f64);
    let help = "CPU time of the thread that empties the rings.";
    out.counter("pyrite_sampler_drain_cpu_seconds_total", help, &[], stats.drain_cpu.as_secs_f64());
    if let Some(off_cpu) = &stats.off_cpu {
        let help = "Times that a thread left a CPU by what became of them.";
        for (fate, count) in off_cpu.fates.iter() {
            out.counter("pyrite_off_cpu_switches_total", help, &[("fate", fate.name())], count as f64);
        }
        let help = "Captured threads that are off the CPU.";
        out.gauge("pyrite_off_cpu_open", help, &[], off_cpu.open as f64);
    }
    for (note, count) in stats.notes.iter() {
        let help = "Incidents of sampling that lose no tick, by kind.";
        out.counter("pyrite_sampler_notes_total", help, &[("note", note.name())], count as f64);
    }
}

fn stacks(stacks: &StackCounts, out: &mut Exposition) {
    for (outcome, count) in stacks.iter() {
        let help = "Samples by how the walk of their user stack ended.";
        out.counter("pyrite_unwind_stacks_total", help, &[("outcome", outcome.name())], count as f64);
    }
    let help = "Samples with frames that were found by the frame pointer for want of unwind information.";
    out.counter("pyrite_unwind_guessed_stacks_total", help, &[], stacks.guessed as f64);
}

fn symbols(symbols: &SymbolizerStats, out: &mut Exposition) {
    out.counter("pyrite_symbols_hits_total", "Addresses named from the cache.", &[], symbols.hits as f64);
    out.counter("pyrite_symbols_lookups_total", "Addresses looked up.", &[], symbols.lookups as f64);
    out.counter(
        "pyrite_symbols_evictions_total",
        "Names dropped to keep the bound.",
        &[],
        symbols.evictions as f64,
    );
    out.gauge("pyrite_symbols_cache_bytes", "Size of the name cache.", &[], symbols.cached_bytes as f64);
    out.gauge("pyrite_symbols_index_bytes", "Size of the symbol indexes.", &[], symbols.index_bytes as f64);
    for (miss, count) in Miss::ALL.iter().zip(symbols.unknown) {
        let help = "Addresses without a name, by reason.";
        out.counter("pyrite_symbols_unknown_total", help, &[("reason", miss.name())], count as f64);
    }
}

fn executables(executables: &ExecutablesStats, out: &mut Exposition) {
    out.gauge("pyrite_executables_open", "Executables kept open.", &[], executables.open as f64);
    out.counter("pyrite_executables_opened_total", "Executables opened.", &[], executables.opened as f64);
    let help = "Mapped files that were open already.";
    out.counter("pyrite_executables_reused_total", help, &[], executables.reused as f64);
    let help = "Executables opened anew because they had been changed in place.";
    out.counter("pyrite_executables_replaced_total", help, &[], executables.replaced as f64);
    let help = "Executables closed to keep the bound.";
    out.counter("pyrite_executables_evicted_total", help, &[], executables.evicted as f64);
    for (miss, count) in Miss::ALL.iter().zip(executables.failed) {
        let help = "Executables that could not be opened or read, by reason.";
        out.counter("pyrite_executables_failed_total", help, &[("reason", miss.name())], count as f64);
    }
}

fn identity(identity: &IdentityStats, out: &mut Exposition) {
    out.gauge("pyrite_identity_processes", "Processes remembered.", &[], identity.processes as f64);
    out.gauge("pyrite_identity_containers", "Containers remembered.", &[], identity.containers as f64);
    for (miss, count) in ProcessMiss::ALL.iter().zip(identity.process_misses) {
        let help = "Processes that /proc did not tell of, by reason.";
        out.counter("pyrite_identity_process_misses_total", help, &[("reason", miss.name())], count as f64);
    }
    for (means, count) in [("cgroup", identity.placed_by_cgroup), ("parent", identity.placed_by_parent)] {
        let help = "Of those, how many were placed all the same, by what.";
        out.counter("pyrite_identity_placed_total", help, &[("by", means)], count as f64);
    }
    for (miss, count) in RuntimeMiss::ALL.iter().zip(identity.runtime_misses) {
        let help = "Containers that no runtime named, by reason.";
        out.counter("pyrite_identity_runtime_misses_total", help, &[("reason", miss.name())], count as f64);
    }
    let help = "Label values replaced by \"other\" to bound their number.";
    out.counter("pyrite_identity_label_values_replaced_total", help, &[], identity.values_replaced as f64);
}
