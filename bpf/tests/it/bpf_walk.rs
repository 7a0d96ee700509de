//! Walks of programs whose call chains are known.

use std::time::{Duration, Instant};

use pyrite_bpf::StackOutcome;

use crate::kernel::{Walker, attach, config, detach, privileged};
use crate::tables::Published;
use crate::workload::Workloads;

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
    walker.processes().insert(running.tgid(), process, 0).unwrap();
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
