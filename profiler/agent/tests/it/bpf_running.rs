//! Processes that ran before the sampler: what is known of them comes from `/proc` alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use pyrite::sampler::{SamplerConfig, Witness};
use pyrite_sampling::{CountedStack, Event, Sample};
use tempfile::TempDir;

use crate::common::privileged;
use crate::support::{PATIENCE, Recording, Running, Workload, stacks, ticks};

const WINDOW: Duration = Duration::from_secs(3);
/// Far more samples than a window has.
const ROOM: usize = 1 << 14;
/// So many processes, each with one library more than the one before: a search that goes wrong at some counts of mappings
/// goes wrong in one of them.
const PROCESSES: usize = 9;

/// A library that does nothing.
fn library(directory: &Path, number: usize) -> PathBuf {
    let path = directory.join(format!("libnothing{number}.so"));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-xc", "/dev/null", "-o"]).arg(&path);
    assert!(cc.status().expect("cc is installed").success());
    path
}

#[test]
fn bpf_running_processes_are_walked_by_their_tables() {
    let Some(_guard) = privileged("bpf_running_processes") else { return };
    let chain = Workload::build_with("chain", &["-fomit-frame-pointer"]);
    let directory = TempDir::new().unwrap();
    let libraries: Vec<PathBuf> = (1..PROCESSES).map(|number| library(directory.path(), number)).collect();
    let running: Vec<Running> = (0..PROCESSES)
        .map(|count| {
            let preload: Vec<_> = libraries[..count].iter().map(|path| path.to_str().unwrap()).collect();
            let mut command = chain.command();
            Running::start(command.arg("library").env("LD_PRELOAD", preload.join(":")))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));

    let (tell, samples) = sync_channel(ROOM);
    let witness = Some(Witness { samples: tell, frequency_hz: 0 });
    let recording =
        Recording::start(SamplerConfig { frequency_hz: 499, witness, ..SamplerConfig::default() });
    let begun = Instant::now();
    loop {
        let before = recording.events().len();
        std::thread::sleep(WINDOW);
        let events = recording.events();
        let shares: Vec<_> = running.iter().map(|process| whole_of_all(&events[before..], process)).collect();
        let is_ours = |sample: &Sample| running.iter().any(|process| process.tgid() == sample.tgid);
        let copied =
            samples.try_iter().filter(|sample| is_ours(sample) && sample.copy.is_some()).count() as u64;
        println!("whole by their tables of all, by process: {shares:?}; {copied} stacks copied");
        let is_well = |(whole, all): &(u64, u64)| *all >= 40 && whole * 100 >= all * 99;
        let all: u64 = shares.iter().map(|(_, all)| all).sum();
        if shares.iter().all(is_well) && copied * 100 <= all {
            break;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "not all are walked by their tables: {shares:?}, {copied} copied"
        );
    }
}

/// Ticks of a process: those whose stacks are whole without a guess, and all.
fn whole_of_all(events: &[Event], process: &Running) -> (u64, u64) {
    let ours = |counted: &CountedStack| counted.stack.process.tgid == process.tgid();
    let whole = |counted: &CountedStack| {
        ours(counted) && counted.stack.user_outcome.is_known_end() && !counted.stack.has_guessed_frames
    };
    (ticks(stacks(events), whole), ticks(stacks(events), ours))
}
