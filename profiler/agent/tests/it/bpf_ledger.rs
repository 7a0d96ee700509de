//! The books: every tick owed is stored or counted under its reason, whatever happens on the node.

use std::fs;
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use pyrite::sampler::{SamplerConfig, SamplerStats, Witness};
use pyrite::sys;
use pyrite_bpf::TickFate;
use pyrite_sampling::{Event, Sample};

use crate::common::privileged;
use crate::slow_tracepoint;
use crate::support::{Recording, Running, Workload, eventually, stacks, ticks};

/// The books balance to a tick, nothing is held, and what was stored is what the sink was given.
fn check_closed(events: &[Event], stats: &SamplerStats) {
    let ledger = &stats.ledger;
    for (fate, ticks) in ledger.fates.iter().filter(|(_, ticks)| *ticks > 0) {
        println!("  {:16} {ticks}", fate.name());
    }
    println!("  owed {} surplus {} held {}", ledger.owed, ledger.surplus, ledger.held);
    assert_eq!(ledger.unexplained(), 0, "{ledger:?}");
    assert_eq!(ledger.held, 0, "{ledger:?}");
    assert_eq!(ledger.fates.get(TickFate::Stored), ticks(stacks(events), |_| true));
    assert!(ledger.surplus <= 2 * stats.cpus as u64 + ledger.owed / 1000, "{ledger:?}");
}

/// What came of sampling beside `load`, and how long the clocks ran at least and at most.
fn run_for(
    config: SamplerConfig,
    load: &mut Command,
) -> (Vec<Event>, SamplerStats, RangeInclusive<Duration>) {
    let outer = Instant::now();
    let recording = Recording::start(config);
    let inner = Instant::now();
    assert!(load.stdout(Stdio::null()).status().unwrap().success());
    let at_least = inner.elapsed();
    let (events, stats) = recording.stop();
    (events, stats, at_least..=outer.elapsed())
}

fn at_hz(frequency_hz: u64) -> SamplerConfig {
    SamplerConfig { frequency_hz, ..SamplerConfig::default() }
}

#[test]
fn bpf_ledger_is_exact_under_load_and_when_idle() {
    let Some(_guard) = privileged("bpf_ledger_load") else { return };
    let syscalls = Workload::build("syscalls");
    let mut busy = syscalls.command();
    busy.args(["3000", "2"]);
    let mut idle = Command::new("sleep");
    idle.arg("3");
    for mut load in [busy, idle] {
        println!("{load:?}");
        let (events, stats, elapsed) = run_for(at_hz(997), &mut load);
        check_closed(&events, &stats);
        // What is owed is the time that went by, on every CPU, less a part of a tick on each.
        let cpus = stats.cpus as f64;
        let [fewest, most] = [elapsed.start(), elapsed.end()].map(|time| time.as_secs_f64() * 997.0 * cpus);
        let owed = stats.ledger.owed as f64;
        assert!(fewest - cpus <= owed && owed <= most, "{owed} is not in {fewest}..{most}");
    }
}

#[test]
fn bpf_ledger_counts_what_another_tracepoint_program_makes_the_kernel_skip() {
    let Some(_guard) = privileged("bpf_ledger_tracepoint") else { return };
    let syscalls = Workload::build("syscalls");
    let (_, alone, _) = run_for(at_hz(997), &mut slow_tracepoint::calls(&syscalls.path(), "2000"));
    let _other_tool = slow_tracepoint::attach();
    let (events, beside, _) = run_for(at_hz(997), &mut slow_tracepoint::calls(&syscalls.path(), "2000"));
    check_closed(&events, &beside);
    let skipped = |stats: &SamplerStats| {
        stats.ledger.fates.get(TickFate::MissedSkipped) as f64 / stats.ledger.owed as f64
    };
    println!("skipped alone {:.4}, beside the tracepoint program {:.4}", skipped(&alone), skipped(&beside));
    assert!(skipped(&beside) > 0.1 && skipped(&alone) < 0.05, "{alone:?} {beside:?}");
}

#[test]
fn bpf_ledger_counts_what_a_full_ring_refuses() {
    let Some(_guard) = privileged("bpf_ledger_ring") else { return };
    let syscalls = Workload::build("syscalls");
    let recording = Recording::start(SamplerConfig { ring_bytes: Some(4096), ..at_hz(2999) });
    assert!(syscalls.command().args(["1500", "2"]).status().unwrap().success());
    let (events, stats) = recording.stop();
    check_closed(&events, &stats);
    assert!(stats.ledger.fates.get(TickFate::RingFull) > 100, "{:?}", stats.ledger);
    assert!(stats.ledger.fates.get(TickFate::Stored) > 0);
}

#[test]
fn bpf_ledger_survives_a_cpu_that_goes_and_comes() {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
    let Some(_guard) = privileged("bpf_ledger_hotplug") else { return };
    if fs::OpenOptions::new().write(true).open(ONLINE).is_err() {
        eprintln!("\n*** SKIPPED bpf_ledger_hotplug: {ONLINE} is not writable ***\n");
        return;
    }
    let syscalls = Workload::build("syscalls");
    let (tell, samples) = sync_channel(1 << 16);
    let witness = Some(Witness { samples: tell, frequency_hz: 0 });
    let recording = Recording::start(SamplerConfig { witness, ..at_hz(997) });
    let _load = Running::start(syscalls.command().args(["600000", "4"]));
    eventually("the first statistics", || recording.sampler().stats().cpus > 1);
    let cpus = recording.sampler().stats().cpus;
    let switch = |state: &str, expect: usize| {
        fs::write(ONLINE, state).unwrap();
        eventually(&format!("{expect} CPUs"), || recording.sampler().stats().cpus == expect);
    };
    switch("0", cpus - 1);
    switch("1", cpus);
    // So quick that both looks find it online.
    fs::write(ONLINE, "0").unwrap();
    fs::write(ONLINE, "1").unwrap();
    let back = sys::boot_now();
    let is_of_it = |sample: &Sample| sample.cpu == 1 && sample.time > back;
    eventually("the CPU that came back is sampled again", || samples.try_iter().any(|one| is_of_it(&one)));
    let (events, stats) = recording.stop();
    assert_eq!(stats.cpus, cpus);
    check_closed(&events, &stats);
}
