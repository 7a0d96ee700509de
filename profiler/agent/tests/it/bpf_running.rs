//! Processes that ran before the sampler: what is known of them comes from `/proc` alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use pyrite::sampler::SamplerConfig;
use pyrite_bpf::Note;
use pyrite_sampling::{CountedStack, Event};
use tempfile::TempDir;

use crate::support::{Recording, Workload, privileged, stacks, ticks};

/// A build without optimization takes long for the largest libraries of a node.
const TABLES_MADE: Duration = Duration::from_mins(2);
const WINDOW: Duration = Duration::from_secs(3);
/// So many processes, each with one library more than the one before: a search that goes wrong at some counts of mappings
/// goes wrong in one of them.
const PROCESSES: usize = 9;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It can only have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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
            Running(command.arg("library").env("LD_PRELOAD", preload.join(":")).spawn().unwrap())
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));

    let recording = Recording::start(SamplerConfig { frequency_hz: 499, ..SamplerConfig::default() });
    let begun = Instant::now();
    loop {
        let (before, copied) = (recording.events().len(), copies(&recording));
        std::thread::sleep(WINDOW);
        let (events, copied) = (recording.events(), copies(&recording) - copied);
        let shares: Vec<_> = running.iter().map(|process| whole_of_all(&events[before..], process)).collect();
        println!("whole by their tables of all, by process: {shares:?}; {copied} stacks copied");
        let is_well = |(whole, all): &(u64, u64)| *all >= 40 && whole * 100 >= all * 99;
        // Other processes come and go, and are met first by a copy.
        if shares.iter().all(is_well) && copied < 200 {
            break;
        }
        assert!(
            begun.elapsed() < TABLES_MADE,
            "not all are walked by their tables: {shares:?}, {copied} copied"
        );
    }
}

/// Ticks of a process: those whose stacks are whole without a guess, and all.
fn whole_of_all(events: &[Event], process: &Running) -> (u64, u64) {
    let ours = |counted: &CountedStack| counted.stack.process.tgid == process.0.id();
    let whole = |counted: &CountedStack| {
        ours(counted) && counted.stack.user_outcome.is_known_end() && !counted.stack.has_guessed_frames
    };
    (ticks(stacks(events), whole), ticks(stacks(events), ours))
}

fn copies(recording: &Recording) -> u64 {
    recording.sampler().stats().notes.get(Note::CopyFinished)
}
