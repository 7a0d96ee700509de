//! One stack against its judgement, and the shares of many.

use std::collections::BTreeMap;
use std::fmt;

use crate::accuracy::{Ending, Frame, Judgement, Root, Step};

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
    /// Every frame of the judge's is there, and where it sees no further others are that fit what is known: the caller of a
    /// leaf that it left by the frame pointer, or what lies behind a function that it cannot leave.
    Further,
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
    /// How many frames the judge's stack has where the name of the last one's function says more than the judge can, and
    /// what it says.
    pub root: Option<(usize, Root)>,
    /// The caller of a leaf without a frame, which the judge has passed over by the frame pointer.
    pub leaf_caller: Option<u64>,
}

/// Why the judge's word does not count.
pub(crate) fn why_not_judged(judgement: &Judgement, allowance: &Allowance) -> Option<String> {
    if let (Ending::Stopped(reason), None) = (&judgement.ending, allowance.root) {
        return Some(reason.clone());
    }
    // The root's own step leads nowhere, so how it was tried says nothing.
    let steps = judged_frames(judgement, allowance).split_last().map_or(&[][..], |(_, steps)| steps);
    let is_by_frame_pointer = steps.iter().any(|frame| frame.step == Step::FramePointer);
    (is_by_frame_pointer && !allowance.frame_pointers).then(|| "frame_pointer".to_owned())
}

/// The judge's frames, down to a root that is known by its name.
pub(crate) fn judged_frames<'a>(judgement: &'a Judgement, allowance: &Allowance) -> &'a [Frame] {
    let frames = &judgement.frames;
    allowance.root.and_then(|(depth, _)| frames.get(..depth)).unwrap_or(frames)
}

/// Compares a stack with what the judge says. Where that leaves a stack open at its root, whoever asks has to look at what
/// [`Verdict::Further`] ends in.
pub(crate) fn compare(
    observed: Option<&ObservedStack>,
    judgement: &Judgement,
    allowance: &Allowance,
) -> Verdict {
    if let Some(reason) = why_not_judged(judgement, allowance) {
        return Verdict::NotJudged(reason);
    }
    let Some(observed) = observed else { return Verdict::Missing };
    if !observed.is_complete {
        return Verdict::Truncated(observed.outcome.clone());
    }
    let truth: Vec<u64> = judged_frames(judgement, allowance).iter().map(|frame| frame.avma).collect();
    let is_open = matches!(allowance.root, Some((_, Root::Open)));
    let fits = |frames: &[u64]| match frames.strip_prefix(&*truth) {
        Some(beyond) => beyond.is_empty() != is_open,
        None => false,
    };
    let fits_without_leaf_caller = || match &*observed.frames {
        [leaf, caller, rest @ ..] => {
            allowance.leaf_caller == Some(*caller) && fits(&[&[*leaf], rest].concat())
        }
        _ => false,
    };
    match fits(&observed.frames) {
        true if is_open => Verdict::Further,
        true => Verdict::Identical,
        false if fits_without_leaf_caller() => Verdict::Further,
        false => Verdict::Different,
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
        self.percent_of_judged(&Verdict::Identical)
    }

    /// Share of stacks that go further than the judge among those that could be judged, in percent.
    pub fn further_percent(&self) -> f64 {
        self.percent_of_judged(&Verdict::Further)
    }

    /// Share of both together, in percent.
    pub fn right_percent(&self) -> f64 {
        self.identical_percent() + self.further_percent()
    }

    /// Share of ticks that could not be judged, in percent.
    pub fn not_judged_percent(&self) -> f64 {
        percent(self.not_judged(), self.total())
    }

    fn percent_of_judged(&self, verdict: &Verdict) -> f64 {
        percent(self.0.get(verdict).copied().unwrap_or(0), self.total() - self.not_judged())
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
            Self::Further => f.write_str("further"),
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
    }

    #[test]
    fn a_root_known_by_its_name_ends_the_judges_stack() {
        let stopped = judgement(Ending::Stopped("no_info".into()), &[(1, C), (2, P), (3, Step::Failed)]);
        let check = |root, frames: &[u64]| {
            let allowance = Allowance { root: Some((2, root)), ..Allowance::default() };
            compare(Some(&complete(frames)), &stopped, &allowance)
        };
        assert_eq!(check(Root::End, &[1, 2]), Verdict::Identical);
        assert_eq!(check(Root::End, &[1, 2, 4]), Verdict::Different);
        // It was called from somewhere that the judge does not see.
        assert_eq!(check(Root::Open, &[1, 2, 4]), Verdict::Further);
        assert_eq!(check(Root::Open, &[1, 5, 4]), Verdict::Different);
        assert_eq!(check(Root::Open, &[1, 2]), Verdict::Different, "its callers are missing");
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
    fn a_caller_that_the_judge_passed_over_is_no_part_of_its_stack() {
        let truth = judgement(Ending::Complete, &[(1, P), (3, C), (4, C)]);
        let passed = Allowance { frame_pointers: true, leaf_caller: Some(2), ..Allowance::default() };
        let check = |frames: &[u64]| compare(Some(&complete(frames)), &truth, &passed);
        assert_eq!(check(&[1, 3, 4]), Verdict::Identical);
        assert_eq!(check(&[1, 2, 3, 4]), Verdict::Further);
        assert_eq!(check(&[1, 5, 3, 4]), Verdict::Different);
        assert_eq!(check(&[1, 2, 2, 3, 4]), Verdict::Different);
        assert_eq!(check(&[1, 2, 4]), Verdict::Different);
        let recursive = Allowance { leaf_caller: Some(3), ..passed.clone() };
        assert_eq!(compare(Some(&complete(&[1, 3, 4])), &truth, &recursive), Verdict::Identical);
        assert_eq!(compare(Some(&complete(&[1, 3, 3, 4])), &truth, &recursive), Verdict::Further);
    }

    #[test]
    fn shares_leave_out_what_could_not_be_judged() {
        let mut tally = Tally::default();
        for verdict in [Verdict::Identical, Verdict::Identical, Verdict::Further, Verdict::Missing] {
            tally.add(verdict);
        }
        tally.add(Verdict::NotJudged("no_info".into()));
        assert!((tally.identical_percent() - 50.0).abs() < 1e-9);
        assert!((tally.further_percent() - 25.0).abs() < 1e-9);
        assert!((tally.right_percent() - 75.0).abs() < 1e-9);
        assert!((tally.not_judged_percent() - 20.0).abs() < 1e-9);
        assert!(tally.to_string().starts_with("identical 2, "));
        assert!(Tally::default().identical_percent() < 1.0);
        let mut both = tally.clone();
        both.merge(&tally);
        assert_eq!((both.total(), both.to_string().starts_with("identical 4, ")), (10, true));
    }
}
