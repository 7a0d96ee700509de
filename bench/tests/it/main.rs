//! The judge of stacks, judged: by chains of calls that are known beforehand, by a second judge, and by stacks that were
//! made wrong on purpose. Captures with the kernel's perf, so these tests need root.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod load;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use pyrite_bench::accuracy::{
    Capture, CapturedStack, Ending, Judge, MappingSet, Message, ObservedStack, Tools, Trial, Verdict,
    WORKLOADS, Workload, open_cases,
};
use tempfile::TempDir;

/// Of fewer stacks a handful that begin or end a process would be too many.
const ENOUGH: usize = 100;

/// Stacks of a workload, and what it takes to judge them.
struct Captured {
    _scratch: TempDir,
    workload: &'static Workload,
    built: PathBuf,
    tools: Tools,
    cases: Vec<(MappingSet, CapturedStack)>,
}

impl Captured {
    /// `None` where we are not root, which fails under CI.
    fn of(name: &str) -> Option<Self> {
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            assert!(
                std::env::var_os("CI").is_none(),
                "{name}: perf needs root and must not be skipped under CI"
            );
            eprintln!("\n*** SKIPPED {name}: perf needs root ***\n");
            return None;
        }
        let workload = WORKLOADS.iter().find(|workload| workload.name == name).unwrap();
        let scratch = TempDir::new().unwrap();
        let tools = Tools::build(scratch.path()).unwrap();
        let built = workload.build(scratch.path()).unwrap();
        let file = scratch.path().join("cases");
        let mut cases = Vec::new();
        // The first will do, unless others want the CPUs too. Each capture counts its mapping sets anew.
        for seconds in [2, 4, 8, 16, 32] {
            cases.clear();
            let what = Capture { frequency_hz: 199, seconds: seconds + 10, program: 0 };
            tools.capture(what, &mut workload.command(&built, seconds), &file).unwrap();
            let mut last = None;
            for message in open_cases(&file).unwrap() {
                match message.unwrap() {
                    Message::Mappings(set) => last = Some(set),
                    // One process alone runs at a time, so the set told last is the stack's.
                    Message::Stack(stack) => cases.push((last.clone().unwrap(), *stack)),
                    Message::Lost(_) => {}
                }
            }
            if cases.len() >= ENOUGH {
                break;
            }
        }
        assert!(cases.len() >= ENOUGH, "{} stacks", cases.len());
        Some(Self { _scratch: scratch, workload, built, tools, cases })
    }

    fn judge(&self) -> Judge {
        self.tools.judge().unwrap()
    }

    fn trial(&self) -> Trial<'static> {
        Trial::new(self.workload, self.built.clone(), self.judge()).unwrap()
    }
}

/// Of every case it is known what it is, save for one in fifty: ticks in exec, or before the linker has set up the stack.
fn check_planted(name: &str) {
    let Some(captured) = Captured::of(name) else { return };
    let mut trial = captured.trial();
    let (mut planted, mut second, mut odd) = (0, 0, Vec::new());
    for (set, stack) in &captured.cases {
        let reference = trial.hear(set, stack).unwrap();
        let frames = reference.frames();
        let is_whole = reference.judgement.ending == Ending::Complete;
        let outcome = trial.is_as_planted(set, &frames).filter(|_| is_whole);
        if !is_whole || reference.second_agrees == Some(false) || outcome.as_ref().is_some_and(Result::is_err)
        {
            let names = trial.names(set, &frames);
            odd.push((reference.judgement.ending, names));
            continue;
        }
        second += usize::from(reference.second_agrees.is_some());
        planted += usize::from(outcome.is_some());
    }
    let all = captured.cases.len();
    assert!(odd.len() <= all.div_ceil(50), "{} of {all}: {odd:?}", odd.len());
    assert!(planted >= all / 2, "{planted} of {all} were in the program");
    assert!(second > 0, "the second judge reached no root");
}

#[test]
fn root_the_judge_finds_a_chain_through_seven_libraries() {
    check_planted("chain");
}

#[test]
fn root_the_judge_finds_six_hundred_frames_of_a_recursion() {
    check_planted("recursion");
}

#[test]
fn root_the_judge_finds_its_way_out_of_linkage_tables() {
    check_planted("plt");
}

#[test]
fn root_the_judge_finds_its_way_through_signal_handlers_on_two_stacks() {
    check_planted("signals");
}

/// Each way to spoil a case, and what may not be said of it.
#[test]
fn root_a_spoilt_case_is_never_found_identical() {
    let Some(captured) = Captured::of("chain") else { return };
    let mut trial = captured.trial();
    let mut spoilt_cases = 0;
    for (set, stack) in &captured.cases {
        let truth = trial.hear(set, stack).unwrap();
        let observed =
            ObservedStack { frames: truth.frames(), is_complete: true, outcome: "complete".into() };
        assert_eq!(trial.verdict(set, Some(&observed), &truth), truth.own_verdict());
        // The program's start and its shell have little that could be spoilt.
        if truth.own_verdict() != Verdict::Identical || observed.frames.len() <= 20 {
            continue;
        }
        let mut shifted = stack.clone();
        shifted.registers[7] += 8;
        // The bytes stay where they are.
        shifted.stack.drain(..8);
        let mut cut = stack.clone();
        cut.stack.truncate(512);
        let mut zeroed = stack.clone();
        zeroed.stack[..512].fill(0);
        for spoilt in [shifted, cut, zeroed] {
            let reference = trial.hear(set, &spoilt).unwrap();
            assert_ne!(trial.verdict(set, Some(&observed), &reference), Verdict::Identical);
            spoilt_cases += 1;
        }
    }
    assert!(spoilt_cases > 10, "{spoilt_cases}");
}

/// Without the rest of the stack the judge must not take the last frame that it has for the root.
#[test]
fn root_a_stack_that_was_not_captured_whole_is_not_judged() {
    let Some(captured) = Captured::of("recursion") else { return };
    let mut judge = captured.judge();
    let (set, stack) = captured.cases.iter().max_by_key(|(_, stack)| stack.stack.len()).unwrap();
    judge.learn(set).unwrap();
    let whole = judge.judge(stack).unwrap();
    assert_eq!(whole.ending, Ending::Complete);
    let mut cut = stack.clone();
    cut.stack.truncate(4096);
    let part = judge.judge(&cut).unwrap();
    assert_eq!(part.ending, Ending::Stopped("no_memory".into()));
    assert!(part.frames.len() > 50 && part.frames.len() < whole.frames.len());
    let same = part.frames.iter().zip(&whole.frames).filter(|(part, whole)| part.avma == whole.avma).count();
    assert_eq!(same, part.frames.len());
}
