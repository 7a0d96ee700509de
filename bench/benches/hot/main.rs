//! `hot`: what each hot path costs, from the ring's bytes to the flame graph, in CPU time.
//!
//! Every benchmark asserts its result, so a path cannot become fast by becoming wrong. CPU time, not wall time, is
//! reported, because it moves little when the machine is shared; the push benchmark adds the latency of
//! acknowledgement. Arguments choose benchmarks by a part of their name.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

mod containers;
mod data;
mod flame;
mod harness;
mod labels;
mod push;
#[path = "../sampled/mod.rs"]
mod sampled;
mod sampling;
mod store;
mod unwind;

use anyhow::{Result, ensure};

use crate::harness::Report;

/// The allocator that the product runs with.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Bench = fn(&mut Report) -> Result<()>;

const BENCHES: [(&str, Bench); 14] = [
    ("sampling", sampling::records_to_counted_stacks),
    ("score", sampling::counted_stacks_to_score),
    ("rows", sampling::counted_stacks_to_named_rows),
    ("unwind", unwind::tables_of_executables),
    ("append", store::append_and_flush),
    ("containers", containers::append_a_minute),
    ("known", containers::append_pushed_minutes),
    ("query", store::query_an_hour),
    ("labels", labels::values_of_labels),
    ("pprof", flame::decode_pprof),
    ("flame", flame::build_and_truncate),
    ("diff", flame::diff),
    ("merge", flame::merge_symbols),
    ("push", push::acknowledge),
];

fn main() -> Result<()> {
    // Cargo adds `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let mut report = Report::new();
    for (name, bench) in BENCHES {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            bench(&mut report)?;
        }
    }
    ensure!(report.figures() > 0, "no benchmark's name has any of {wanted:?} in it");
    Ok(())
}
