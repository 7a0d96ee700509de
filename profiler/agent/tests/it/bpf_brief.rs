//! Processes that live for 20 ms, without frame pointers: their CPU time must be there, with whole stacks.

use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pyrite::sampler::{SamplerConfig, SamplerStats};
use pyrite_sampling::{CountedStack, Event, UserFrame};
use tempfile::TempDir;

use crate::common::privileged;
use crate::support::{Recording, Workload, stacks, ticks};

const FREQUENCY_HZ: u64 = 997;
const LIFE_MS: u64 = 20;
const LIVES: u64 = 100;
/// From the leaf to main, and libc's two frames and _start below it.
const FRAMES: usize = 17;
/// What the processes are called, whatever their files are.
const NAME: &str = "brief";

/// Where the program of each process comes from, and what becomes of it when the process has ended.
trait Programs {
    fn of(&mut self, life: u64) -> PathBuf;
    fn ended(&mut self, _program: &Path) {}
    /// The file offsets of the function that burns the time.
    fn burn(&self) -> Range<u64>;
}

/// One for all.
struct One(Workload);

impl Programs for One {
    fn of(&mut self, _life: u64) -> PathBuf {
        self.0.path()
    }

    fn burn(&self) -> Range<u64> {
        self.0.function("burn")
    }
}

/// Each another one, written just before.
struct Fresh {
    original: Workload,
    directory: TempDir,
    stays: bool,
}

impl Fresh {
    fn new(stays: bool) -> Self {
        // Without a build id the content tells programs apart, and no two of them have the same.
        let original = Workload::build_with(NAME, &["-fomit-frame-pointer", "-Wl,--build-id=none"]);
        Self { original, directory: TempDir::new().unwrap(), stays }
    }
}

impl Programs for Fresh {
    fn of(&mut self, life: u64) -> PathBuf {
        let path = self.directory.path().join(format!("{NAME}-{life}"));
        fs::copy(self.original.path(), &path).unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&life.to_le_bytes()).unwrap();
        path
    }

    fn ended(&mut self, program: &Path) {
        if !self.stays {
            fs::remove_file(program).unwrap();
        }
    }

    fn burn(&self) -> Range<u64> {
        self.original.function("burn")
    }
}

/// Ticks of all these processes, from the moment on that the kernel runs their programs.
struct Found {
    all: u64,
    /// Of these, those with a stack down to its root, or that have none.
    complete: u64,
    /// Those within the program's chain of calls. The others are in the kernel's exec and exit and in the dynamic linker.
    burning: u64,
    /// Of these, those with every function of the chain.
    whole: u64,
    /// Those with a frame alone that is no code of theirs, as the registers of the program before exec would give.
    strange: u64,
}

/// Runs `LIVES` processes, 50 a second.
fn find(mut programs: impl Programs) -> Found {
    let config = SamplerConfig { frequency_hz: FREQUENCY_HZ, ..SamplerConfig::default() };
    let recording = Recording::start(config);
    recording.settle();
    let before = recording.sampler().stats();
    for life in 0..LIVES {
        let begun = Instant::now();
        let path = programs.of(life);
        let status = Command::new(&path).arg(LIFE_MS.to_string()).status().unwrap();
        assert!(status.success());
        programs.ended(&path);
        std::thread::sleep(Duration::from_millis(20).saturating_sub(begun.elapsed()));
    }
    let (events, stats) = recording.stop();
    let burn = programs.burn();
    let found = count(&events, &burn);
    for counted in stacks(&events).filter(|one| is_ours(one) && !is_complete(one)).take(10) {
        println!("cut: {:?} {:?}", counted.stack.user_outcome, counted.stack.user);
    }
    report(&found, &before, &stats);
    // What the kernel does not deliver is the ledger's business.
    let owed = LIVES * LIFE_MS * FREQUENCY_HZ / 1000;
    assert!(found.all * 4 >= owed, "{} of {owed} ticks were delivered at all", found.all);
    found
}

fn count(events: &[Event], burn: &Range<u64>) -> Found {
    let ours = |matches: &dyn Fn(&CountedStack) -> bool| {
        ticks(stacks(events), |counted| is_ours(counted) && matches(counted))
    };
    Found {
        all: ours(&|_| true),
        complete: ours(&is_complete),
        burning: ours(&|counted| burns(counted, burn)),
        whole: ours(&|counted| {
            burns(counted, burn) && is_complete(counted) && counted.stack.user.len() >= FRAMES
        }),
        strange: ours(&|counted| matches!(counted.stack.user.as_slice(), [UserFrame::Unmapped(_)])),
    }
}

fn report(found: &Found, before: &SamplerStats, after: &SamplerStats) {
    let Found { all, complete, burning, whole, strange } = found;
    let notes: Vec<_> = after.notes.iter().filter(|(_, count)| *count > 0).collect();
    println!(
        "{complete} of {all} ticks complete, {whole} of {burning} burning ones whole, {strange} strange, {notes:?}"
    );
    let per_life = |of: fn(&SamplerStats) -> Duration| of(after).saturating_sub(of(before)) / LIVES as u32;
    println!(
        "CPU time of a process's life: sampler {:?}, opener {:?}, tables {:?}",
        per_life(|stats| stats.drain_cpu),
        per_life(|stats| stats.unwind.opener_cpu),
        per_life(|stats| stats.unwind.builder_cpu),
    );
}

/// Of such a process, from the moment on that the kernel runs its program.
fn is_ours(counted: &CountedStack) -> bool {
    counted.stack.comm.to_string().starts_with(NAME)
}

fn is_complete(counted: &CountedStack) -> bool {
    counted.stack.user_outcome.is_known_end()
}

fn burns(counted: &CountedStack, burn: &Range<u64>) -> bool {
    counted.stack.user.iter().any(|frame| {
        matches!(frame, UserFrame::File { file, offset }
            if file.base_name().starts_with(NAME) && burn.contains(&offset.0))
    })
}

fn check(found: &Found) {
    let Found { all, complete, burning, whole, strange } = *found;
    assert!(whole * 100 >= burning * 95, "{whole} of {burning}");
    assert!(complete * 100 >= all * 95, "{complete} of {all}");
    assert!(strange * 500 <= all, "{strange} of {all} have a frame of another program");
    assert!(burning * 100 >= all * 80, "{burning} of {all} were spent where they should be");
}

#[test]
fn bpf_brief_lives_of_one_program_have_whole_stacks() {
    let Some(_guard) = privileged("bpf_brief_lives_of_one_program") else { return };
    check(&find(One(Workload::build_with(NAME, &["-fomit-frame-pointer"]))));
}

#[test]
fn bpf_brief_lives_of_programs_never_seen_before_have_whole_stacks() {
    let Some(_guard) = privileged("bpf_brief_lives_of_programs_never_seen_before") else { return };
    check(&find(Fresh::new(true)));
}

#[test]
fn bpf_brief_lives_of_programs_that_are_removed_at_once_have_whole_stacks() {
    let Some(_guard) = privileged("bpf_brief_lives_of_programs_that_are_removed") else { return };
    check(&find(Fresh::new(false)));
}
