//! What changes in the life of a process: libraries that come, go and move, exec, forks, tgids that are used again. In each
//! case the programs of `fixtures/workloads/lives.c` must have whole stacks, and whatever is told must be right.
//!
//! Nothing has a frame pointer and no two programs have the same frames, so that only the tables of the code that is really
//! there lead from the leaf to `main`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use pyrite::sampler::{SamplerConfig, Witness};
use pyrite::unwind::UnwindConfig;
use pyrite_sampling::{CountedStack, Sample, UserFrame};

use crate::common::privileged;
use crate::support::{Function, Recording, Workload, eventually, stacks};

/// Every stack may be a copied one, of which there are 1,024 a second and CPU at most.
const FREQUENCY_HZ: u64 = 997;
/// Samples on their way to be counted.
const WITNESSED: usize = 10_000;

/// Two programs with the same functions at the same addresses, and two libraries, whose frames have other sizes.
struct Lives {
    a: Workload,
    b: Workload,
    p: Workload,
    q: Workload,
}

/// How many ticks in user mode had which stacks.
#[derive(Clone, Copy, Debug, Default)]
struct Shares {
    all: u64,
    /// All of a chain, from the function that burns to `main` and a known end.
    whole: u64,
    /// Said to be complete, and is part of no chain.
    wrong: u64,
    /// Led to where no code is, as the tables of other code do.
    astray: u64,
    /// The share of stacks that were copied, for want of mappings that were known.
    copied: f64,
}

impl Shares {
    fn whole(self) -> f64 {
        self.whole as f64 / self.all.max(1) as f64
    }
}

impl Lives {
    fn build() -> Self {
        let program = |flags: &[&str]| {
            Workload::build_with("lives", &[&["-fomit-frame-pointer", "-no-pie"], flags].concat())
        };
        let library = |flags: &[&str]| {
            let common = ["-fomit-frame-pointer", "-fPIC", "-shared", "-DLIBRARY"];
            Workload::build_with("lives", &[&common[..], flags].concat())
        };
        Self {
            a: program(&["-DPREFIX=a", "-DSTRIDE=1"]),
            b: program(&["-DPREFIX=b", "-DSTRIDE=7"]),
            p: library(&["-DPREFIX=p", "-DSTRIDE=1"]),
            q: library(&["-DPREFIX=q", "-DSTRIDE=7"]),
        }
    }

    fn workloads(&self) -> [&Workload; 4] {
        [&self.a, &self.b, &self.p, &self.q]
    }

    /// Samples program a in one of its modes, for so many seconds, and sorts its stacks by `chains`.
    fn sample(&self, frequency_hz: u64, seconds: u64, mode: &str, chains: &[String]) -> Shares {
        let others: Vec<PathBuf> = match mode {
            "exec" | "reuse" => vec![self.b.path()],
            "fork" | "vfork" => Vec::new(),
            "move" => vec![self.p.path()],
            _ => vec![self.p.path(), self.q.path()],
        };
        let (witness, samples) = sync_channel(WITNESSED);
        let counter = std::thread::spawn(move || count_copied(&samples));
        let recording = settled(frequency_hz, Some(witness));
        let seconds = seconds.to_string();
        let mut command = self.a.command();
        let ended = command.args([&seconds, mode]).args(others).stdin(Stdio::null()).status().unwrap();
        assert!(ended.success(), "{mode}: {ended}");
        let (events, stats) = recording.stop();
        let notes: Vec<_> = stats.notes.iter().filter(|(_, count)| *count > 0).collect();
        let (witnessed, copied) = counter.join().unwrap();
        let copied = copied as f64 / witnessed.max(1) as f64;
        let shares = Shares { copied, ..self.judge(stacks(&events), chains) };
        println!("{mode}: {shares:?}, {:.4} whole; {notes:?}", shares.whole());
        shares
    }

    /// Sorts the stacks of ticks that interrupted one of our programs.
    fn judge<'a>(&self, stacks: impl Iterator<Item = &'a CountedStack>, chains: &[String]) -> Shares {
        let files: Vec<_> = self.workloads().map(|one| (one.path(), one.functions())).into();
        let chains: Vec<Vec<&str>> = chains.iter().map(|chain| chain.split(' ').collect()).collect();
        let mut shares = Shares::default();
        let mut shown = 0;
        for CountedStack { stack, count } in stacks {
            if stack.comm.as_bytes() != b"lives" || !stack.kernel.is_empty() {
                continue;
            }
            let own: Vec<&str> = stack.user.iter().filter_map(|frame| own_function(frame, &files)).collect();
            let is_ended = stack.user_outcome.is_known_end();
            let is_whole = is_ended && chains.contains(&own);
            let is_wrong = is_ended && !chains.iter().any(|chain| is_part(&own, chain));
            shares.all += count;
            shares.whole += if is_whole { *count } else { 0 };
            shares.wrong += if is_wrong { *count } else { 0 };
            shares.astray += if stack.user_outcome.is_astray() { *count } else { 0 };
            if !is_whole && (shown < 12 || is_wrong) {
                shown += 1;
                println!("  {count} x {:?} {}", stack.user_outcome, own.join(" "));
            }
        }
        shares
    }
}

/// What is no part of the chains: what starts a program, and what may be called from everywhere.
const ASIDE: [&str; 2] = ["_start", "now_ns"];

/// The name of the function that a frame lies in, where that is one of ours.
fn own_function<'a>(frame: &UserFrame, files: &'a [(PathBuf, Vec<Function>)]) -> Option<&'a str> {
    let UserFrame::File { file, offset } = frame else { return None };
    let (_, functions) = files.iter().find(|(path, _)| path == Path::new(&*file.path))?;
    let function = functions.iter().find(|function| function.offsets.contains(&offset.0));
    Some(function.map_or("?", |function| &function.name)).filter(|name| !ASIDE.contains(name))
}

/// Whether a stack leads to the end of a chain, from wherever it was or what it called there. Before `main` there is none.
fn is_part(own: &[&str], chain: &[&str]) -> bool {
    let from = own.iter().position(|name| chain.contains(name));
    from.map_or(own.is_empty(), |from| chain.ends_with(&own[from..]))
}

/// How many samples in user mode of our programs there are, and how many of them have a copy of their stack.
fn count_copied(samples: &Receiver<Sample>) -> (u64, u64) {
    let ours = samples.iter().filter(|sample| sample.comm.as_bytes() == b"lives" && sample.is_user_mode);
    ours.fold((0, 0), |(all, copied), sample| (all + 1, copied + u64::from(sample.copy.is_some())))
}

/// A recording that has met what runs already.
fn settled(frequency_hz: u64, witness: Option<SyncSender<Sample>>) -> Recording {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("lifecycle-tables");
    let unwind = UnwindConfig { cache: Some(cache), ..UnwindConfig::default() };
    // It runs the program by no event of its own.
    let witness = witness.map(|samples| Witness { samples, frequency_hz: 0 });
    let recording =
        Recording::start(SamplerConfig { frequency_hz, unwind, witness, ..SamplerConfig::default() });
    recording.settle();
    recording
}

/// The chain of calls of program or library `prefix`, from the function that burns on, up to `rest`.
fn chain(prefix: &str, rest: &str) -> String {
    let levels: Vec<String> = (1..=6).map(|level| format!("{prefix}_level{level}")).collect();
    format!("{prefix}_burn {} {rest}", levels.join(" "))
}

/// Sampling one mode: at least `whole` of the ticks have whole stacks, and no stack is said to be complete that is not.
fn check(test: &str, mode: &str, frequency_hz: u64, chains: &[String], whole: f64) -> Shares {
    let Some(_guard) = privileged(test) else { return Shares::default() };
    let lives = Lives::build();
    let mut shares = Shares::default();
    // The first will do, unless others want the CPUs too: then there are few ticks, and first tables take a part of them.
    for seconds in [4, 8, 16] {
        shares = lives.sample(frequency_hz, seconds, mode, chains);
        assert_eq!(shares.wrong, 0);
        assert!(shares.astray * 50 <= shares.all, "{} of {} went astray", shares.astray, shares.all);
        if shares.all > 200 && shares.whole() >= whole {
            break;
        }
    }
    assert!(shares.all > 200, "hardly sampled");
    assert!(shares.whole() >= whole, "{}", shares.whole());
    shares
}

#[test]
fn bpf_lifecycle_libraries_opened_in_a_thread_have_whole_stacks_from_their_first_sample_on() {
    let chains = ["p", "q"].map(|library| chain(library, "plugin a_use a_open"));
    check("bpf_lifecycle_open", "open", FREQUENCY_HZ, &chains, 0.95);
}

#[test]
fn bpf_lifecycle_a_library_where_another_one_was_is_never_walked_by_its_tables() {
    let chains = ["p", "q"].map(|library| chain(library, "plugin a_use a_swap main"));
    check("bpf_lifecycle_swap", "swap", FREQUENCY_HZ, &chains, 0.6);
}

#[test]
fn bpf_lifecycle_code_that_mremap_has_moved_is_found() {
    check("bpf_lifecycle_move", "move", FREQUENCY_HZ, &[chain("p", "plugin a_use a_move main")], 0.95);
}

#[test]
fn bpf_lifecycle_code_that_mremap_has_put_over_other_code_is_found_soon() {
    let chains = ["p", "q"].map(|library| chain(library, "plugin a_use a_cover main"));
    check("bpf_lifecycle_cover", "cover", FREQUENCY_HZ, &chains, 0.9);
}

#[test]
fn bpf_lifecycle_a_program_that_another_becomes_is_not_walked_by_what_was_there_before() {
    let mut chains =
        ["a", "b"].map(|program| chain(program, &format!("{program}_burn_for {program}_exec main"))).to_vec();
    // The thread that calls exec.
    chains.push("become".to_owned());
    check("bpf_lifecycle_exec", "exec", FREQUENCY_HZ, &chains, 0.9);
}

#[test]
fn bpf_lifecycle_a_fork_that_never_calls_exec_goes_by_the_mappings_of_its_parent() {
    let shares =
        check("bpf_lifecycle_fork", "fork", FREQUENCY_HZ, &[chain("a", "a_burn_for a_fork main")], 0.95);
    assert!(shares.copied < 0.2, "{} had to be copied", shares.copied);
}

#[test]
fn bpf_lifecycle_a_child_in_the_memory_of_its_parent_goes_by_its_mappings() {
    let shares =
        check("bpf_lifecycle_vfork", "vfork", FREQUENCY_HZ, &[chain("a", "a_burn_for a_vfork main")], 0.95);
    assert!(shares.copied < 0.2, "{} had to be copied", shares.copied);
}

#[test]
fn bpf_lifecycle_a_tgid_used_again_is_not_walked_by_the_mappings_of_its_former_life() {
    check("bpf_lifecycle_reuse", "reuse", FREQUENCY_HZ, &[chain("a", "a_burn_for a_reuse main")], 0.9);
}

#[test]
fn bpf_lifecycle_processes_that_have_ended_are_forgotten() {
    const PROCESSES: usize = 1000;
    let Some(_guard) = privileged("bpf_lifecycle_end") else { return };
    let recording = settled(2999, None);
    let published = || recording.sampler().stats().unwind.processes;
    let before = published();
    for _ in 0..PROCESSES {
        assert!(Command::new("true").status().unwrap().success());
    }
    // The dead are kept for three seconds, and the statistics are a second old. What else runs here comes and goes as well.
    eventually("they are forgotten", || published() < before + PROCESSES / 20);
}
