//! Processes that live for 20 ms, without frame pointers: their CPU time must be there, with whole stacks.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pyrite::sampler::SamplerConfig;
use pyrite_sampling::{CountedStack, UserFrame};
use tempfile::TempDir;

use crate::support::{Recording, Workload, privileged, stacks, ticks};

const FREQUENCY_HZ: u64 = 997;
const LIFE_MS: u64 = 20;
const LIVES: u64 = 100;
/// A build without optimization takes seconds for the largest libraries.
const WARM_UP: Duration = Duration::from_mins(1);
/// By then the sampler has met what runs.
const SETTLED: Duration = Duration::from_secs(3);
/// From the leaf to main, and libc's two frames below it.
const FRAMES: usize = 14;

/// Runs `LIVES` processes, 50 a second, each the program that `program` names for it; returns the share of their CPU time
/// that is found with whole stacks.
fn share_found(mut program: impl FnMut(u64) -> PathBuf) -> f64 {
    let recording =
        Recording::start(SamplerConfig { frequency_hz: FREQUENCY_HZ, ..SamplerConfig::default() });
    // What runs on the node already gets its tables first.
    let begun = Instant::now();
    while begun.elapsed() < WARM_UP && (begun.elapsed() < SETTLED || tables_in_the_making(&recording) > 0) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut paths = Vec::new();
    for life in 0..LIVES {
        let begun = Instant::now();
        let path = program(life);
        let status = Command::new(&path).arg(LIFE_MS.to_string()).status().unwrap();
        assert!(status.success());
        paths.push(path);
        std::thread::sleep(Duration::from_millis(20).saturating_sub(begun.elapsed()));
    }
    let (events, stats) = recording.stop();
    let is_ours = |counted: &CountedStack| runs_one_of(counted, &paths);
    let whole = |counted: &CountedStack| {
        is_ours(counted)
            && counted.stack.user_outcome.is_known_end()
            && counted.stack.user.len() + counted.stack.kernel.len() >= FRAMES
    };
    let (all, found) = (ticks(stacks(&events), is_ours), ticks(stacks(&events), whole));
    let owed = LIVES * LIFE_MS * FREQUENCY_HZ / 1000;
    for counted in stacks(&events).filter(|counted| is_ours(counted) && !whole(counted)).take(10) {
        println!("not whole: {:?} {:?}", counted.stack.user_outcome, counted.stack.user);
    }
    let notes: Vec<_> = stats.notes.iter().filter(|(_, count)| *count > 0).collect();
    println!("{found} of {all} ticks with whole stacks, {owed} owed, {notes:?}");
    // What the kernel does not deliver is the ledger's business.
    assert!(all * 4 >= owed, "{all} of {owed} ticks were delivered at all");
    found as f64 / all.max(1) as f64
}

fn tables_in_the_making(recording: &Recording) -> usize {
    recording.sampler().stats().unwind.tables.pending
}

/// Whether a frame lies in one of these files: the kernel runs a new process for a while in the program before.
fn runs_one_of(counted: &CountedStack, paths: &[PathBuf]) -> bool {
    counted.stack.user.iter().any(|frame| match frame {
        UserFrame::File { file, .. } => {
            let path = file.path.strip_suffix(" (deleted)").unwrap_or(&file.path);
            paths.iter().any(|one| one == Path::new(path))
        }
        _ => false,
    })
}

#[test]
#[ignore = "their stacks are finished by a frame pointer that is none; run it with --ignored"]
fn bpf_brief_lives_of_one_program_have_whole_stacks() {
    let Some(_guard) = privileged("bpf_brief_lives_of_one_program") else { return };
    let brief = Workload::build_with("brief", &["-fomit-frame-pointer"]);
    let share = share_found(|_| brief.path());
    assert!(share >= 0.95, "{share}");
}

#[test]
#[ignore = "their stacks are finished by a frame pointer that is none; run it with --ignored"]
fn bpf_brief_lives_of_programs_never_seen_before_have_whole_stacks() {
    let Some(_guard) = privileged("bpf_brief_lives_of_programs_never_seen_before") else { return };
    // Without a build id the content tells programs apart, and no two of them have the same.
    let brief = Workload::build_with("brief", &["-fomit-frame-pointer", "-Wl,--build-id=none"]);
    let directory = TempDir::new().unwrap();
    let share = share_found(|life| {
        let path = directory.path().join(format!("brief-{life}"));
        fs::copy(brief.path(), &path).unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&life.to_le_bytes()).unwrap();
        path
    });
    assert!(share >= 0.95, "{share}");
}
