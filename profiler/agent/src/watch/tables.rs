//! The state of the unwind tables as `/metrics` shows it.

use pyrite_model::Exposition;

use crate::unwind::{Absence, CacheOutcome, PublishFailure, UnwindStats};

/// Everything about tables, mapping sets and the memory they take.
pub(super) fn metrics(stats: &UnwindStats, out: &mut Exposition) {
    memory(stats, out);
    published(stats, out);
    made(stats, out);
}

fn memory(stats: &UnwindStats, out: &mut Exposition) {
    let help = "Kernel memory that the maps of unwind tables may take.";
    out.gauge("pyrite_unwind_map_budget_bytes", help, &[], stats.budget_bytes as f64);
    let help = "Kernel memory that the maps of unwind tables take.";
    out.gauge("pyrite_unwind_map_bytes", help, &[], stats.map_bytes as f64);
    out.gauge("pyrite_unwind_slabs", "Slabs of 1,024 chunks of 1 KiB.", &[], stats.slabs as f64);
    let chunks = [
        ("table", stats.table_chunks),
        ("mapping", stats.mapping_chunks),
        ("retired", stats.retired_chunks),
        ("free", stats.free_chunks),
    ];
    for (use_of, count) in chunks {
        let help = "Chunks by what they hold; retired ones may still be read by a program.";
        out.gauge("pyrite_unwind_chunks", help, &[("use", use_of)], count as f64);
    }
    out.gauge("pyrite_unwind_rows", "Rows in all tables.", &[], stats.rows as f64);
    let help = "Rows of unwind information that these tables were made of.";
    out.gauge("pyrite_unwind_input_rows", help, &[], stats.input_rows as f64);
    out.gauge("pyrite_unwind_rules", "Rules that the rows of all tables share.", &[], stats.rules as f64);
    let help = "Rules that found no room among them; the code that needs one counts as unsupported.";
    out.counter("pyrite_unwind_rules_refused_total", help, &[], stats.rules_refused as f64);
}

fn published(stats: &UnwindStats, out: &mut Exposition) {
    let help = "Processes whose mappings the BPF programs know.";
    out.gauge("pyrite_unwind_processes", help, &[], stats.processes as f64);
    let help = "Mapping sets that these processes share.";
    out.gauge("pyrite_unwind_mapping_sets", help, &[], stats.mapping_sets as f64);
    let help = "Mapping sets written for the BPF programs.";
    out.counter("pyrite_unwind_mapping_sets_written_total", help, &[], stats.sets_written as f64);
    for (failure, count) in PublishFailure::ALL.iter().zip(stats.publish_failures) {
        let help = "What the BPF programs could not be told, by reason.";
        out.counter(
            "pyrite_unwind_publish_failures_total",
            help,
            &[("reason", failure.name())],
            count as f64,
        );
    }
    let executables = [
        ("pending", stats.tables.pending),
        ("ready", stats.tables.ready),
        ("absent", stats.tables.absent),
        ("over_budget", stats.tables.over_budget),
    ];
    for (state, count) in executables {
        let help = "Executables by the state of their unwind table.";
        out.gauge("pyrite_unwind_executables", help, &[("state", state)], count as f64);
    }
    out.gauge("pyrite_unwind_files", "Mapped files that are known.", &[], stats.files as f64);
    let waiting = stats.files_waiting as f64;
    out.gauge("pyrite_unwind_files_waiting", "Mapped files that wait to be opened.", &[], waiting);
}

fn made(stats: &UnwindStats, out: &mut Exposition) {
    out.counter("pyrite_unwind_tables_made_total", "Unwind tables made.", &[], stats.tables_made as f64);
    for (absence, count) in Absence::ALL.iter().zip(stats.absent) {
        let help = "Executables found to have no unwind table, by reason.";
        out.counter("pyrite_unwind_tables_absent_total", help, &[("reason", absence.name())], count as f64);
    }
    let help = "Unwind tables of executables that no process mapped, taken out to keep the budget.";
    out.counter("pyrite_unwind_tables_evicted_total", help, &[], stats.tables_evicted as f64);
    let help = "Unwind tables left out to keep the budget.";
    out.counter("pyrite_unwind_tables_refused_total", help, &[], stats.tables_refused as f64);
    for (outcome, count) in CacheOutcome::ALL.iter().zip(stats.cache) {
        let help = "Looks into the cache of tables on disk and changes to it, by outcome.";
        out.counter("pyrite_unwind_cache_total", help, &[("outcome", outcome.name())], count as f64);
    }
    let help = "CPU time of the threads that open executables and make tables.";
    let threads = [("opener", stats.opener_cpu), ("builder", stats.builder_cpu)];
    for (thread, cpu) in threads {
        out.counter("pyrite_unwind_cpu_seconds_total", help, &[("thread", thread)], cpu.as_secs_f64());
    }
}
