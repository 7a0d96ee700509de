//! Time off the CPU of threads whose waiting is known: as much as the kernel says, of the right kind, at the right stack.

use std::process::Stdio;
use std::time::{Duration, Instant};

use pyrite::sampler::{OffCpuBudget, SamplerConfig, SamplerStats};
use pyrite_bpf::OffFate;
use pyrite_sampling::{Event, OffCpuStack, ThreadState, UserFrame};

use crate::common::privileged;
use crate::support::{Recording, Running, Workload};
use crate::waits::truths;

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
        for (state, expect) in
            [(ThreadState::Runnable, truth.queued), (ThreadState::Blocked, truth.blocked())]
        {
            let values: Vec<&OffCpuStack> =
                off_cpu(&events).filter(of_thread).filter(|off| off.state == state).collect();
            let found = values.iter().map(|off| off.ns as f64).sum::<f64>() / 1e9;
            let in_body =
                values.iter().copied().filter(is_in_body).map(|off| off.ns as f64).sum::<f64>() / 1e9;
            println!("{name} {}: {expect:.3} s, found {found:.3} s", state.name());
            if expect > 1.0 {
                compared += 1;
                assert!((found / expect - 1.0).abs() < 0.1, "{name} {}: {found} s", state.name());
                assert!(in_body > 0.8 * found, "{name}: {in_body:.3} s of {found:.3} through it");
            } else {
                assert!(found < expect + 0.5, "{name} {}: {found} s", state.name());
            }
        }
    }
    assert!(compared >= 4, "sleeping, the lock from both sides, and two threads on one CPU");
}

#[test]
fn bpf_off_cpu_shows_a_thread_that_does_not_wake_up() {
    let Some(_guard) = privileged("bpf_off_cpu_open") else { return };
    let waits = Workload::build("waits");
    let recording = Recording::start(with_off_cpu());
    let before = Instant::now();
    // Ten short sleeps, so that the long one is foreseen, and captured for certain.
    let sleeper = Running::start(waits.command().args(["doze", "600000"]));
    let born = Instant::now();
    let blocked_ns = |events: &[Event]| -> u64 {
        let ours = off_cpu(events).filter(|off| off.stack.process.tgid == sleeper.tgid());
        ours.filter(|off| off.state == ThreadState::Blocked).map(|off| off.ns).sum()
    };
    // Which the short ones together do not last.
    recording.wait_for("the long sleep is told while it lasts", |events| blocked_ns(events) > 5_000_000_000);
    let at_least = born.elapsed();
    let (events, stats) = recording.stop();
    let at_most = before.elapsed();
    check_books(&stats);
    let found = Duration::from_nanos(blocked_ns(&events));
    println!("slept for {at_least:?} to {at_most:?}, found {found:?}");
    let slack = Duration::from_secs(1);
    assert!(at_least < found + slack && found < at_most + 2 * slack, "{found:?}");
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
