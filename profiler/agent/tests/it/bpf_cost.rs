//! What sampling costs at its default frequency: the program per tick, the thread per second, memory. Printed, and held
//! to a generous bound, because the machines that run this are noisy.

use std::fs;
use std::time::Duration;

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use pyrite::sampler::SamplerConfig;

use crate::common::privileged;
use crate::support::{Recording, Workload, stacks};

#[test]
fn bpf_cost_at_the_default_frequency() {
    const SECONDS: u64 = 10;
    let Some(_guard) = privileged("bpf_cost") else { return };
    let _statistics = enable_stats(Stats::RunTime).unwrap();
    let shares = Workload::build("shares");
    let load =
        |ms: u64| shares.command().arg(ms.to_string()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut loads = [load(SECONDS * 1000), load(SECONDS * 1000)];
    let recording = Recording::start(SamplerConfig::default());
    // /proc is read through first, and the books are read once a second.
    std::thread::sleep(Duration::from_secs(3));
    let drain_before = recording.sampler().stats().drain_cpu;
    let (runs_before, time_before) = run_statistics();
    std::thread::sleep(Duration::from_secs(SECONDS - 4));
    let (runs, time) = run_statistics();
    let drain = recording.sampler().stats().drain_cpu.saturating_sub(drain_before);
    for load in &mut loads {
        load.kill().unwrap();
        load.wait().unwrap();
    }
    let (events, stats) = recording.stop();
    let ns_per_run = time.saturating_sub(time_before).as_nanos() as f64 / (runs - runs_before) as f64;
    println!(
        "{}: {ns_per_run:.0} ns per tick, drain thread {:.2} ms CPU per second ({:?} before that), {} processes, {} distinct rows",
        stats.source.name(),
        drain.as_secs_f64() * 1000.0 / (SECONDS - 4) as f64,
        drain_before,
        stats.processes,
        stacks(&events).count(),
    );
    println!("{}", resident());
    assert!(runs - runs_before > 100 * (SECONDS - 4), "{runs}");
    assert!(ns_per_run < 100_000.0, "{ns_per_run} ns");
    assert!(drain < Duration::from_millis(20) * SECONDS as u32, "{drain:?}");
}

/// Runs and run time of every sampler program that is loaded.
fn run_statistics() -> (u64, Duration) {
    let ours =
        loaded_programs().filter_map(Result::ok).filter(|program| program.name_as_str() == Some("on_tick"));
    ours.fold((0, Duration::ZERO), |(runs, time), program| {
        (runs + program.run_count(), time + program.run_time())
    })
}

fn resident() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .filter(|line| line.starts_with("Rss") || line.starts_with("VmRSS"))
        .collect::<Vec<_>>()
        .join(" ")
}
