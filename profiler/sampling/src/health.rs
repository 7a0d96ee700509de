//! How many stacks are complete, and where and why the others stop.
//!
//! Totals since the start for every outcome; shares by process and by executable over the last minute, because what was
//! wrong an hour ago helps nobody now. Memory is bounded: so many processes and executables per part of the window, the
//! rest is only in the totals.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_bpf::StackOutcome;
use pyrite_model::UnixMs;

use crate::{Comm, CountedStack, MappedFile, ProcessKey, SampledStack, Second, UserFrame};

/// The window is moved on in steps of this.
const PART_MS: i64 = 10_000;
/// So much is in the window.
const WINDOW_MS: u64 = 60_000;
/// Processes and executables that one part tells apart.
const ENTRIES: usize = 1_024;
/// Entries in a report's lists.
const WORST: usize = 10;

/// User stacks by how their walk ended. Ticks without a user stack are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackCounts {
    by_outcome: [u64; StackOutcome::COUNT],
    /// Stacks in which frames were found by the frame pointer for want of unwind information.
    pub guessed: u64,
}

/// What code a frame belongs to, as far as unwinding is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CodeOrigin {
    /// Of a file.
    File(Arc<MappedFile>),
    /// The kernel's vDSO.
    Vdso,
    /// Made by a JIT compiler.
    Anonymous,
    /// In no mapping that is known.
    Unmapped,
}

/// Keeps the score. Fed with the seconds that sampling tells.
#[derive(Debug, Default)]
pub struct UnwindHealth {
    totals: StackCounts,
    window: VecDeque<Part>,
}

/// The score of the last minute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthReport {
    /// All stacks.
    pub stacks: StackCounts,
    /// Processes with the most stacks that are not complete, those first.
    pub processes: Vec<ProcessScore>,
    /// Executables at which the most stacks stop, those first.
    pub executables: Vec<ExecutableScore>,
}

/// The stacks of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessScore {
    /// The process.
    pub process: ProcessKey,
    /// The name of the thread that was met first.
    pub comm: Comm,
    /// Its stacks.
    pub stacks: StackCounts,
}

/// The stacks that met an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutableScore {
    /// The executable.
    pub code: CodeOrigin,
    /// Stacks whose walk came through it.
    pub passed: u64,
    /// Stacks whose walk stopped in it, by reason.
    pub stopped: StackCounts,
}

#[derive(Debug)]
struct Part {
    start: UnixMs,
    stacks: StackCounts,
    processes: HashMap<ProcessKey, (Comm, StackCounts)>,
    executables: HashMap<CodeOrigin, (u64, StackCounts)>,
}

impl StackCounts {
    /// How many ended like this.
    pub fn get(&self, outcome: StackOutcome) -> u64 {
        self.by_outcome[outcome as usize]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_outcome.iter().sum()
    }

    /// Those that came to a known end.
    pub fn complete(&self) -> u64 {
        self.iter().filter(|(outcome, _)| outcome.is_known_end()).map(|(_, stacks)| stacks).sum()
    }

    /// Those that did not.
    pub fn truncated(&self) -> u64 {
        self.total() - self.complete()
    }

    /// The share that came to a known end, 1 where there is no stack at all.
    pub fn share_complete(&self) -> f64 {
        let total = self.total();
        if total == 0 { 1.0 } else { self.complete() as f64 / total as f64 }
    }

    /// Every outcome with its count.
    pub fn iter(&self) -> impl Iterator<Item = (StackOutcome, u64)> + '_ {
        StackOutcome::ALL.into_iter().zip(self.by_outcome)
    }

    /// Why walks stopped before a known end, the most frequent reason first.
    pub fn reasons(&self) -> Vec<(StackOutcome, u64)> {
        let mut reasons: Vec<_> =
            self.iter().filter(|(outcome, stacks)| *stacks > 0 && !outcome.is_known_end()).collect();
        reasons.sort_by_key(|(_, stacks)| std::cmp::Reverse(*stacks));
        reasons
    }

    fn add(&mut self, stack: &SampledStack, count: u64) {
        self.by_outcome[stack.user_outcome as usize] += count;
        self.guessed += u64::from(stack.has_guessed_frames) * count;
    }

    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.by_outcome.iter_mut().zip(other.by_outcome) {
            *mine += theirs;
        }
        self.guessed += other.guessed;
    }
}

impl CodeOrigin {
    /// Of a frame.
    pub fn of(frame: &UserFrame) -> Self {
        match frame {
            UserFrame::File { file, .. } => Self::File(Arc::clone(file)),
            UserFrame::Vdso { .. } => Self::Vdso,
            UserFrame::Anonymous(_) => Self::Anonymous,
            UserFrame::Unmapped(_) => Self::Unmapped,
        }
    }

    /// The file's base name, or what stands for code without one.
    pub fn name(&self) -> &str {
        match self {
            Self::File(file) => file.base_name(),
            Self::Vdso => "[vdso]",
            Self::Anonymous => "[anonymous code]",
            Self::Unmapped => "[unmapped code]",
        }
    }
}

impl UnwindHealth {
    /// Takes one second's stacks.
    pub fn on_second(&mut self, second: &Second) {
        let start = UnixMs(second.start.0 - second.start.0.rem_euclid(PART_MS));
        // A second may come late or in parts; only the newest part grows, so that the window never runs backwards. It begins
        // anew where the wall clock was set back by more than it holds.
        let is_past = |part: &Part| part.start < start || start.0.abs_diff(part.start.0) >= WINDOW_MS;
        if self.window.back().is_none_or(is_past) {
            self.window.push_back(Part::new(start));
            self.window.retain(|part| start.0.abs_diff(part.start.0) < WINDOW_MS);
        }
        let Some(part) = self.window.back_mut() else { return };
        let with_user_stack = |counted: &&CountedStack| counted.stack.user_outcome != StackOutcome::Absent;
        for CountedStack { stack, count } in second.stacks.iter().filter(with_user_stack) {
            self.totals.add(stack, *count);
            part.add(stack, *count);
        }
    }

    /// All stacks since the start.
    pub fn totals(&self) -> StackCounts {
        self.totals
    }

    /// The last minute.
    pub fn report(&self) -> HealthReport {
        let mut stacks = StackCounts::default();
        let mut processes: HashMap<ProcessKey, (Comm, StackCounts)> = HashMap::new();
        let mut executables: HashMap<CodeOrigin, (u64, StackCounts)> = HashMap::new();
        for part in &self.window {
            stacks.merge(&part.stacks);
            for (process, (comm, counts)) in &part.processes {
                processes.entry(*process).or_insert((*comm, StackCounts::default())).1.merge(counts);
            }
            for (code, (passed, stopped)) in &part.executables {
                let score = executables.entry(code.clone()).or_default();
                score.0 += passed;
                score.1.merge(stopped);
            }
        }
        let processes =
            processes.into_iter().map(|(process, (comm, stacks))| ProcessScore { process, comm, stacks });
        let executables = executables.into_iter().map(|(code, (passed, stopped))| ExecutableScore {
            code,
            passed,
            stopped,
        });
        HealthReport {
            stacks,
            processes: worst(processes, |score| (score.stacks.truncated(), score.process.tgid.into())),
            executables: worst(executables, |score| (score.stopped.truncated(), score.passed)),
        }
    }
}

/// Those with the largest keys among those that have anything wrong.
fn worst<T>(scores: impl Iterator<Item = T>, key: impl Fn(&T) -> (u64, u64)) -> Vec<T> {
    let mut scores: Vec<T> = scores.filter(|score| key(score).0 > 0).collect();
    scores.sort_by_key(|score| std::cmp::Reverse(key(score)));
    scores.truncate(WORST);
    scores
}

impl Part {
    fn new(start: UnixMs) -> Self {
        Self { start, stacks: StackCounts::default(), processes: HashMap::new(), executables: HashMap::new() }
    }

    fn add(&mut self, stack: &SampledStack, count: u64) {
        self.stacks.add(stack, count);
        if self.processes.len() < ENTRIES || self.processes.contains_key(&stack.process) {
            self.processes
                .entry(stack.process)
                .or_insert((stack.comm, StackCounts::default()))
                .1
                .add(stack, count);
        }
        let stopped_in = stack.user.last().filter(|_| !stack.user_outcome.is_known_end()).map(CodeOrigin::of);
        for code in distinct_code(&stack.user) {
            let stopped_here = stopped_in.as_ref() == Some(&code);
            if self.executables.len() < ENTRIES || self.executables.contains_key(&code) {
                let (passed, stopped) = self.executables.entry(code).or_default();
                if stopped_here {
                    stopped.add(stack, count);
                } else {
                    *passed += count;
                }
            }
        }
    }
}

/// What the frames belong to, each once. Few executables take part in a stack, and neighbours mostly belong together.
fn distinct_code(frames: &[UserFrame]) -> Vec<CodeOrigin> {
    let mut distinct = Vec::new();
    for neighbours in frames.chunk_by(is_same_code) {
        let code = CodeOrigin::of(&neighbours[0]);
        if !distinct.contains(&code) {
            distinct.push(code);
        }
    }
    distinct
}

fn is_same_code(one: &UserFrame, other: &UserFrame) -> bool {
    match (one, other) {
        (UserFrame::File { file: one, .. }, UserFrame::File { file: other, .. }) => Arc::ptr_eq(one, other),
        _ => discriminant(one) == discriminant(other),
    }
}

#[cfg(test)]
mod tests {
    use pyrite_model::{FileKey, FileOffset};

    use super::*;
    use crate::BootNs;

    fn frame(name: &str) -> UserFrame {
        let inode = name.bytes().fold(0, |hash, byte| hash * 31 + u64::from(byte));
        let key = FileKey { dev_major: 8, dev_minor: 1, inode };
        let path = format!("/usr/lib/{name}").into();
        UserFrame::File { file: Arc::new(MappedFile { key, path }), offset: FileOffset(1) }
    }

    fn stack(tgid: u32, user: Vec<UserFrame>, user_outcome: StackOutcome) -> SampledStack {
        SampledStack {
            process: ProcessKey { tgid, start: BootNs(1) },
            comm: Comm::new(b"app"),
            cgroup_id: 1,
            is_kernel_thread: false,
            has_guessed_frames: user.len() > 2,
            kernel_outcome: StackOutcome::Absent,
            user_outcome,
            kernel: vec![],
            user,
        }
    }

    fn second(at_s: i64, stacks: Vec<(SampledStack, u64)>) -> Second {
        let stacks = stacks.into_iter().map(|(stack, count)| CountedStack { stack, count }).collect();
        Second { start: UnixMs(at_s * 1000), stacks, off_cpu: vec![] }
    }

    #[test]
    fn shares_by_process_executable_and_reason() {
        use StackOutcome::{Absent, ChainEnd, Complete, NoUnwindInfo, StaleMapping};
        let mut health = UnwindHealth::default();
        let through = |last: &str| vec![frame("a"), frame("b"), frame("a"), frame(last)];
        health.on_second(&second(
            100,
            vec![
                (stack(1, through("c"), Complete), 5),
                (stack(1, through("b"), NoUnwindInfo), 3),
                (stack(2, vec![frame("b")], StaleMapping), 1),
                (stack(2, vec![frame("b")], ChainEnd), 1),
                (stack(3, vec![], Absent), 100),
            ],
        ));
        let report = health.report();
        assert_eq!((report.stacks.total(), report.stacks.complete(), report.stacks.guessed), (10, 6, 8));
        assert_eq!(report.stacks.reasons(), [(NoUnwindInfo, 3), (StaleMapping, 1)]);
        let processes: Vec<_> = report
            .processes
            .iter()
            .map(|p| (p.process.tgid, p.stacks.truncated(), p.stacks.total()))
            .collect();
        assert_eq!(processes, [(1, 3, 8), (2, 1, 2)]);
        let executables: Vec<_> =
            report.executables.iter().map(|e| (e.code.name(), e.stopped.total(), e.passed)).collect();
        assert_eq!(executables, [("b", 4, 6)], "what stops no stack is not listed");
        assert_eq!(health.totals().get(ChainEnd), 1);
    }

    #[test]
    fn the_window_forgets_and_the_totals_do_not() {
        let mut health = UnwindHealth::default();
        let one = |at_s| second(at_s, vec![(stack(1, vec![frame("a")], StackOutcome::Fault), 1)]);
        for at_s in [0, 9, 59, 60, 30] {
            health.on_second(&one(at_s));
        }
        assert_eq!((health.report().stacks.total(), health.totals().total()), (3, 5));
        for at_s in [100_000, 40_000, 40_020] {
            health.on_second(&one(at_s));
            let expect = if at_s == 40_020 { 2 } else { 1 };
            assert_eq!((health.report().stacks.total(), health.window.len()), (expect, expect as usize));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut health = UnwindHealth::default();
        let many = (0..3_000).map(|n| (stack(n, vec![frame(&n.to_string())], StackOutcome::Fault), 1));
        health.on_second(&second(0, many.collect()));
        let part = health.window.back().unwrap();
        assert_eq!((part.processes.len(), part.executables.len()), (ENTRIES, ENTRIES));
        let report = health.report();
        assert_eq!((report.stacks.total(), report.processes.len()), (3_000, WORST));
    }

    #[test]
    fn no_stack_at_all_is_no_failure() {
        assert!((UnwindHealth::default().report().stacks.share_complete() - 1.0).abs() < f64::EPSILON);
    }
}
