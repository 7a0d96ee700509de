//! Walks of programs whose call chains are known.

use std::process::Command;
use std::time::{Duration, Instant};

use pyrite_bpf::StackOutcome;

use crate::kernel::{Walker, attach, config, detach, privileged};
use crate::tables::Published;
use crate::workload::{Workloads, start};

#[test]
fn bpf_walk_follows_28_functions_through_seven_libraries() {
    let Some(_guard) = privileged("bpf_walk_layers") else { return };
    let workloads = Workloads::new();
    workloads.build_layers();
    let running = workloads.run("layers", &[]);
    let mut published = Published::new();
    let process = published.add_process(running.tgid());
    let mut walker = Walker::load(&config());
    walker.publish(&published);
    walker.set_process(running.tgid(), process);
    let links = attach(walker.program(), 997);
    // On a quiet machine in a fifth of a second.
    let (begun, mut records) = (Instant::now(), Vec::new());
    while records.len() < 200 && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(100));
        records.extend(walker.records(running.tgid()));
    }
    detach(walker.program(), links);
    let complete = records.iter().filter(|record| record.outcome == StackOutcome::Complete).count();
    println!("{complete} of {} complete", records.len());
    assert!(records.len() >= 200, "{}", records.len());
    assert_eq!(complete, records.len());
    // burn, the 28, main, three of libc's start.
    assert!(records.iter().all(|record| record.frame_pointer_frames == 0));
    assert!(records.iter().filter(|record| record.user.len() == 33).count() > records.len() * 9 / 10);
}

/// A mapping set of which only the generation can be told.
fn set_of_no_mappings(generation: u32) -> [u8; 24] {
    let mut process = [0; 24];
    process[..8].copy_from_slice(&u64::MAX.to_ne_bytes());
    process[8..12].copy_from_slice(&generation.to_ne_bytes());
    process
}

#[test]
fn bpf_walk_goes_by_the_newest_mappings_and_by_none_after_exec() {
    let Some(_guard) = privileged("bpf_walk_changes") else { return };
    let workloads = Workloads::new();
    workloads.build_busy();
    let mut walker = Walker::load(&config());
    let script = format!(
        "while [ ! -e {} ]; do :; done; exec {} 1 100 5",
        workloads.path("go").display(),
        workloads.path("busy").display()
    );
    let running = start(Command::new("sh").arg("-c").arg(script));
    let links = attach(walker.program(), 997);
    let mut generations_seen = Vec::new();
    for generation in [7, 8] {
        walker.set_process(running.tgid(), set_of_no_mappings(generation));
        generations_seen.push(generation_now(&mut walker, running.tgid()));
    }
    std::fs::write(workloads.path("go"), "").unwrap();
    generations_seen.push(generation_now(&mut walker, running.tgid()));
    detach(walker.program(), links);
    assert_eq!(generations_seen, [7, 8, 0], "of the last sample in each part");
}

/// The generation that a process's stacks are walked by.
fn generation_now(walker: &mut Walker, tgid: u32) -> u32 {
    std::thread::sleep(Duration::from_millis(500));
    let records = walker.records(tgid);
    assert!(records.len() > 20, "{}", records.len());
    let last = records.last().unwrap().generation;
    // Those at the beginning may be from before.
    assert!(records.iter().rev().take(10).all(|record| record.generation == last));
    last
}
