//! The books: every tick owed is stored or counted under its reason, whatever happens on the node.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::TracePoint;
use pyrite::sampler::{SamplerConfig, SamplerStats};
use pyrite_bpf::TickFate;
use pyrite_sampling::Event;

use crate::support::{Recording, Workload, privileged, source, stacks, ticks};

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
    let (_, alone, _) = run_for(at_hz(997), syscalls.command().args(["2000", "2"]));
    let _other_tool = attach_slow_tracepoint();
    let (events, beside, _) = run_for(at_hz(997), syscalls.command().args(["2000", "2"]));
    check_closed(&events, &beside);
    let skipped = |stats: &SamplerStats| {
        stats.ledger.fates.get(TickFate::MissedSkipped) as f64 / stats.ledger.owed as f64
    };
    println!("skipped alone {:.4}, beside the tracepoint program {:.4}", skipped(&alone), skipped(&beside));
    assert!(skipped(&beside) > 0.1 && skipped(&alone) < 0.05, "{alone:?} {beside:?}");
}

/// Attached until dropped.
fn attach_slow_tracepoint() -> Ebpf {
    if !Path::new("/sys/kernel/tracing/events").exists() {
        let mounted =
            Command::new("mount").args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"]).status();
        assert!(mounted.unwrap().success());
    }
    let directory = tempfile::TempDir::new().unwrap();
    let object = directory.path().join("slow_tracepoint.o");
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-isystem", "/usr/include/x86_64-linux-gnu"]);
    clang.args(["-isystem", "/usr/include/aarch64-linux-gnu", "-c"]);
    assert!(clang.arg(source("slow_tracepoint.bpf.c")).arg("-o").arg(&object).status().unwrap().success());
    let mut loaded = Ebpf::load_file(object).unwrap();
    let program: &mut TracePoint = loaded.program_mut("slow").unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach("syscalls", "sys_enter_getppid").unwrap();
    loaded
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
    let recording = Recording::start(at_hz(997));
    let mut load = syscalls.command().args(["9000", "4"]).spawn().unwrap();
    let cpus_after = |state: &str| {
        fs::write(ONLINE, state).unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        recording.sampler().stats().cpus
    };
    let with_one = cpus_after("0");
    let with_two = cpus_after("1");
    let before = ticks(stacks(&recording.events()), |counted| counted.count > 0);
    // So quick that both looks find it online.
    fs::write(ONLINE, "0").unwrap();
    fs::write(ONLINE, "1").unwrap();
    load.wait().unwrap();
    let (events, stats) = recording.stop();
    assert_eq!((with_one + 1, with_two, stats.cpus), (with_two, with_two, with_two));
    check_closed(&events, &stats);
    assert!(ticks(stacks(&events), |_| true) > before + 3 * 997, "the CPU that came back is sampled again");
}
