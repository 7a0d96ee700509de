//! Time off the CPU of threads whose waiting is known: as much as the kernel says, of the right kind, at the right stack.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use pyrite::sampler::{OffCpuBudget, SamplerConfig, SamplerStats};
use pyrite_bpf::OffFate;
use pyrite_sampling::{Event, OffCpuStack, ThreadState, UserFrame};

use crate::support::{Recording, Workload, privileged};

/// Far more than by default, so that sampling error is small beside what is tested.
fn with_off_cpu() -> SamplerConfig {
    SamplerConfig { off_cpu: OffCpuBudget::PerCpu(2_000), ..SamplerConfig::default() }
}

fn off_cpu(events: &[Event]) -> impl Iterator<Item = &OffCpuStack> {
    events.iter().flat_map(|event| match event {
        Event::Second(second) => second.off_cpu.as_slice(),
        _ => &[],
    })
}

/// Every captured departure is closed, open or counted under a reason.
fn check_books(stats: &SamplerStats) {
    let off_cpu = stats.off_cpu.expect("time off the CPU is recorded");
    for (fate, count) in off_cpu.fates.iter().filter(|(_, count)| *count > 0) {
        println!("  {:16} {count}", fate.name());
    }
    println!("  open {}", off_cpu.open);
    let settled = off_cpu.fates.settled() + off_cpu.open as u64;
    assert_eq!(off_cpu.fates.get(OffFate::Sent), settled, "{off_cpu:?}");
}

/// What the kernel says of the threads of one name.
#[derive(Clone, Copy, Debug, Default)]
struct Truth {
    wall: f64,
    cpu: f64,
    queued: f64,
}

/// `NAME wall NS cpu NS queued NS` per thread.
fn truths(said: &str) -> BTreeMap<String, Truth> {
    let mut truths = BTreeMap::<String, Truth>::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let ns = |at: usize| words[at].parse::<f64>().unwrap();
        let truth = truths.entry(words[0].to_owned()).or_default();
        truth.wall += ns(2);
        truth.cpu += ns(4);
        truth.queued += ns(6);
    }
    truths
}

#[test]
fn bpf_off_cpu_time_is_what_the_kernel_says_by_state_and_stack() {
    let Some(_guard) = privileged("bpf_off_cpu") else { return };
    let waits = Workload::build("waits");
    let recording = Recording::start(with_off_cpu());
    let child = waits.command().arg("12000").stdout(Stdio::piped()).spawn().unwrap();
    let tgid = child.id();
    let output = child.wait_with_output().unwrap();
    let (events, stats) = recording.stop();
    check_books(&stats);

    let mut compared = 0;
    for (name, truth) in truths(&String::from_utf8(output.stdout).unwrap()) {
        let of_thread = |off: &&OffCpuStack| {
            off.stack.process.tgid == tgid && off.stack.comm.as_bytes() == name.as_bytes()
        };
        // A walk by frame pointers misses the function that calls into libc, which keeps none, but not its caller.
        let bodies = [waits.function(&name), waits.function("live")];
        let is_in_body = |off: &&OffCpuStack| {
            let holds = |at: u64| bodies.iter().any(|body| body.contains(&at));
            let is_here =
                |frame: &UserFrame| matches!(frame, UserFrame::File { offset, .. } if holds(offset.0));
            off.stack.user.iter().any(is_here)
        };
        for (state, expect) in [
            (ThreadState::Runnable, truth.queued),
            (ThreadState::Blocked, truth.wall - truth.cpu - truth.queued),
        ] {
            let values: Vec<&OffCpuStack> =
                off_cpu(&events).filter(of_thread).filter(|off| off.state == state).collect();
            let found: f64 = values.iter().map(|off| off.ns as f64).sum();
            let in_body: f64 = values.iter().copied().filter(is_in_body).map(|off| off.ns as f64).sum();
            let (expect_s, found_s) = (expect / 1e9, found / 1e9);
            println!("{name} {}: {expect_s:.3} s, found {found_s:.3} s", state.name());
            if expect_s > 1.0 {
                compared += 1;
                assert!((found / expect - 1.0).abs() < 0.1, "{name} {}: {found_s} s", state.name());
                assert!(in_body > 0.8 * found, "{name}: {:.3} s of {found_s:.3} through it", in_body / 1e9);
            } else {
                assert!(found_s < expect_s + 0.5, "{name} {}: {found_s} s", state.name());
            }
        }
    }
    assert!(compared >= 4, "sleeping, the lock from both sides, and two threads on one CPU");
}

#[test]
fn bpf_off_cpu_shows_a_thread_that_does_not_wake_up() {
    let Some(_guard) = privileged("bpf_off_cpu_open") else { return };
    let recording = Recording::start(with_off_cpu());
    let waits = Workload::build("waits");
    // Ten short sleeps, so that the long one is foreseen, and captured for certain.
    let mut sleeper = waits.command().args(["doze", "60000"]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(13));
    let events = recording.events();
    let of_sleeper =
        |off: &&OffCpuStack| off.stack.process.tgid == sleeper.id() && off.state == ThreadState::Blocked;
    let meanwhile_ns: u64 = off_cpu(&events).filter(of_sleeper).map(|off| off.ns).sum();
    let (events, stats) = recording.stop();
    let at_the_end_ns: u64 = off_cpu(&events).filter(of_sleeper).map(|off| off.ns).sum();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    check_books(&stats);
    println!(
        "after 13 s: {:.3} s, when stopped {:.3} s",
        meanwhile_ns as f64 / 1e9,
        at_the_end_ns as f64 / 1e9
    );
    assert!(meanwhile_ns > 5_000_000_000, "two round times have passed");
    assert!((12_000_000_000..15_000_000_000).contains(&at_the_end_ns));
}

#[test]
fn bpf_off_cpu_loses_no_tick() {
    let Some(_guard) = privileged("bpf_off_cpu_ticks") else { return };
    let waits = Workload::build("waits");
    let recording = Recording::start(SamplerConfig { frequency_hz: 997, ..with_off_cpu() });
    assert!(waits.command().arg("3000").stdout(Stdio::null()).status().unwrap().success());
    let (_, stats) = recording.stop();
    check_books(&stats);
    assert_eq!((stats.ledger.unexplained(), stats.ledger.held), (0, 0), "{:?}", stats.ledger);
    let skipped = stats.ledger.fates.get(pyrite_bpf::TickFate::MissedSkipped);
    assert!(skipped * 20 < stats.ledger.owed, "{skipped} of {} ticks skipped", stats.ledger.owed);
}
