//! One stack against its judgement, and the shares of many.

use std::collections::BTreeMap;
use std::fmt;

use crate::accuracy::{Ending, Judgement, Step};

/// A stack as the profiler under test recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedStack {
    /// Leaf first: the instruction, then return addresses.
    pub frames: Vec<u64>,
    /// Whether the profiler says that the last frame is the thread's root.
    pub is_complete: bool,
    /// Its word for how the walk ended.
    pub outcome: String,
}

/// What becomes of one tick.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every frame is the judge's, down to the root.
    Identical,
    /// Ended before the root, for this reason.
    Truncated(String),
    /// Said to be complete, and is not the judge's stack.
    Different,
    /// The profiler has no stack for this tick.
    Missing,
    /// The judge could not reach the root, for this reason.
    NotJudged(String),
}

/// What a workload's stacks may look like beyond plain call frame information.
#[derive(Clone, Debug, Default)]
pub struct Allowance {
    /// Code without call frame information keeps a chain of frame pointers.
    pub frame_pointers: bool,
    /// The judge's chain ends after this many frames: the last of them is known to be a root.
    pub root_at: Option<usize>,
    /// Behind that frame another stack begins, which only a profiler that knows the language's own stacks can follow.
    pub may_go_on: bool,
    /// Where the judge left the leaf by the frame pointer: the code addresses at the top of the stack. A leaf that has not
    /// made its frame yet, or makes none, was called from one of them, and the frame pointer leads past that.
    pub leaf_callers: Vec<u64>,
}

/// Compares a stack with what the judge says.
pub fn compare(observed: Option<&ObservedStack>, judgement: &Judgement, allowance: &Allowance) -> Verdict {
    let root_at = allowance.root_at;
    let truth = &judgement.frames[..root_at.unwrap_or(judgement.frames.len()).min(judgement.frames.len())];
    if let (Ending::Stopped(reason), None) = (&judgement.ending, root_at) {
        return Verdict::NotJudged(reason.clone());
    }
    // The root's own step leads nowhere, so how it was tried says nothing.
    let steps = truth.split_last().map_or(&[][..], |(_, steps)| steps);
    if !allowance.frame_pointers && steps.iter().any(|frame| frame.step == Step::FramePointer) {
        return Verdict::NotJudged("frame_pointer".to_owned());
    }
    let Some(observed) = observed else { return Verdict::Missing };
    let mut frames = observed.frames.clone();
    let is_passed_over = |caller| {
        allowance.leaf_callers.contains(caller) && truth.get(1).is_none_or(|frame| frame.avma != *caller)
    };
    if frames.get(1).is_some_and(is_passed_over) {
        frames.remove(1);
    }
    let begins_alike =
        truth.len() <= frames.len() && truth.iter().zip(&frames).all(|(truth, frame)| truth.avma == *frame);
    match begins_alike {
        true if frames.len() == truth.len() && observed.is_complete => Verdict::Identical,
        true if frames.len() > truth.len() && allowance.may_go_on && observed.is_complete => {
            Verdict::Identical
        }
        _ if !observed.is_complete => Verdict::Truncated(observed.outcome.clone()),
        _ => Verdict::Different,
    }
}

/// How often each verdict was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<Verdict, u64>);

impl Tally {
    /// Counts one.
    pub fn add(&mut self, verdict: Verdict) {
        *self.0.entry(verdict).or_default() += 1;
    }

    /// Counts what another has counted.
    pub fn merge(&mut self, other: &Self) {
        for (verdict, count) in &other.0 {
            *self.0.entry(verdict.clone()).or_default() += count;
        }
    }

    /// Ticks looked at.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Share of identical stacks among those that could be judged, in percent.
    pub fn identical_percent(&self) -> f64 {
        let identical = self.0.get(&Verdict::Identical).copied().unwrap_or(0);
        percent(identical, self.total() - self.not_judged())
    }

    /// Share of ticks that could not be judged, in percent.
    pub fn not_judged_percent(&self) -> f64 {
        percent(self.not_judged(), self.total())
    }

    fn not_judged(&self) -> u64 {
        let not_judged = |(verdict, _): &(&Verdict, &u64)| matches!(verdict, Verdict::NotJudged(_));
        self.0.iter().filter(not_judged).map(|(_, count)| count).sum()
    }
}

/// Nothing is no share of anything: a workload without ticks has reached no bound.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identical => f.write_str("identical"),
            Self::Truncated(reason) => write!(f, "truncated:{reason}"),
            Self::Different => f.write_str("different"),
            Self::Missing => f.write_str("missing"),
            Self::NotJudged(reason) => write!(f, "not_judged:{reason}"),
        }
    }
}

/// Every verdict with its count, the most frequent first.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<_> = self.0.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (at, (verdict, count)) in counts.into_iter().enumerate() {
            write!(f, "{}{verdict} {count}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accuracy::Frame;

    fn judgement(ending: Ending, frames: &[(u64, Step)]) -> Judgement {
        let frames = frames.iter().map(|(avma, step)| Frame { avma: *avma, step: *step }).collect();
        Judgement { id: 1, ending, frames }
    }

    fn complete(frames: &[u64]) -> ObservedStack {
        ObservedStack { frames: frames.to_vec(), is_complete: true, outcome: "complete".into() }
    }

    const C: Step = Step::Information;
    const P: Step = Step::FramePointer;

    #[test]
    fn only_the_whole_stack_is_identical() {
        let truth = judgement(Ending::Complete, &[(1, C), (2, C), (3, C)]);
        let check = |observed: ObservedStack| compare(Some(&observed), &truth, &Allowance::default());
        assert_eq!(check(complete(&[1, 2, 3])), Verdict::Identical);
        assert_eq!(check(complete(&[1, 2])), Verdict::Different);
        assert_eq!(check(complete(&[1, 2, 4])), Verdict::Different);
        assert_eq!(check(complete(&[1, 2, 3, 4])), Verdict::Different);
        let truncated =
            |frames| ObservedStack { is_complete: false, outcome: "fault".into(), ..complete(frames) };
        assert_eq!(check(truncated(&[1, 2])), Verdict::Truncated("fault".into()));
        assert_eq!(check(truncated(&[1, 2, 3])), Verdict::Truncated("fault".into()));
        assert_eq!(compare(None, &truth, &Allowance::default()), Verdict::Missing);
    }

    #[test]
    fn without_a_root_there_is_no_verdict() {
        let stopped = judgement(Ending::Stopped("no_memory".into()), &[(1, C), (2, Step::Failed)]);
        let observed = complete(&[1, 2]);
        let not_judged = Verdict::NotJudged("no_memory".into());
        assert_eq!(compare(Some(&observed), &stopped, &Allowance::default()), not_judged);
        // Unless the last frame is known to be one.
        let rooted = Allowance { root_at: Some(2), ..Allowance::default() };
        assert_eq!(compare(Some(&observed), &stopped, &rooted), Verdict::Identical);
        assert_eq!(compare(Some(&complete(&[1, 2, 3])), &stopped, &rooted), Verdict::Different);
        let onwards = Allowance { may_go_on: true, ..rooted.clone() };
        assert_eq!(compare(Some(&complete(&[1, 2, 3])), &stopped, &onwards), Verdict::Identical);
    }

    #[test]
    fn frame_pointer_steps_count_only_where_there_is_a_chain() {
        let truth = judgement(Ending::Complete, &[(1, C), (2, P), (3, C)]);
        let observed = complete(&[1, 2, 3]);
        let strict = compare(Some(&observed), &truth, &Allowance::default());
        assert_eq!(strict, Verdict::NotJudged("frame_pointer".into()));
        let chain = Allowance { frame_pointers: true, ..Allowance::default() };
        assert_eq!(compare(Some(&observed), &truth, &chain), Verdict::Identical);
    }

    #[test]
    fn the_frame_pointer_passes_over_the_caller_of_a_leaf_without_a_frame() {
        let truth = judgement(Ending::Complete, &[(1, P), (3, C), (4, C)]);
        let leaf_callers = vec![2, 9];
        let passed = Allowance { frame_pointers: true, leaf_callers, ..Allowance::default() };
        let check = |frames: &[u64]| compare(Some(&complete(frames)), &truth, &passed);
        assert_eq!(check(&[1, 3, 4]), Verdict::Identical);
        assert_eq!(check(&[1, 2, 3, 4]), Verdict::Identical);
        assert_eq!(check(&[1, 5, 3, 4]), Verdict::Different);
        assert_eq!(check(&[1, 2, 9, 3, 4]), Verdict::Different);
        assert_eq!(check(&[1, 2, 4]), Verdict::Different);
    }

    #[test]
    fn shares_leave_out_what_could_not_be_judged() {
        let mut tally = Tally::default();
        for verdict in [Verdict::Identical, Verdict::Identical, Verdict::Different, Verdict::Missing] {
            tally.add(verdict);
        }
        tally.add(Verdict::NotJudged("no_info".into()));
        assert!((tally.identical_percent() - 50.0).abs() < 1e-9);
        assert!((tally.not_judged_percent() - 20.0).abs() < 1e-9);
        assert!(tally.to_string().starts_with("identical 2, "));
        assert!(Tally::default().identical_percent() < 1.0);
        let mut both = tally.clone();
        both.merge(&tally);
        assert_eq!((both.total(), both.to_string().starts_with("identical 4, ")), (10, true));
    }
}
