//! What is true of one captured stack, as far as others than the profiler can tell.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use regex::Regex;

use crate::accuracy::leaf::caller_passed_over;
use crate::accuracy::verdict::{compare, judged_frames, why_not_judged};
use crate::accuracy::{
    Allowance, CapturedStack, Ending, Judge, Judgement, Language, MappingSet, ObservedStack, Root,
    SecondJudge, Symbols, Verdict, Workload,
};

/// A workload's stacks before the judges.
pub struct Trial<'a> {
    workload: &'a Workload,
    /// Where its own files are.
    directory: PathBuf,
    planted: Option<Regex>,
    judge: Judge,
    second: SecondJudge,
    symbols: Symbols,
    /// Mapping sets that the judge has been told.
    learnt: HashSet<u64>,
}

/// What a stack has to be.
#[derive(Clone, Debug)]
pub struct Reference {
    /// By the judge.
    pub judgement: Judgement,
    /// What is known beyond its judgement.
    pub allowance: Allowance,
    /// Whether the second judge, where it reached a root, went the same way.
    pub second_agrees: Option<bool>,
}

impl Reference {
    /// The frames that a stack must have.
    pub fn frames(&self) -> Vec<u64> {
        judged_frames(&self.judgement, &self.allowance).iter().map(|frame| frame.avma).collect()
    }

    /// The verdict on the judge's own stack.
    pub fn own_verdict(&self) -> Verdict {
        why_not_judged(&self.judgement, &self.allowance).map_or(Verdict::Identical, Verdict::NotJudged)
    }
}

impl<'a> Trial<'a> {
    /// Opens the trial of a workload that was built into `directory`.
    ///
    /// # Errors
    /// Where its planted chain is no regular expression.
    pub fn new(workload: &'a Workload, directory: PathBuf, judge: Judge) -> Result<Self> {
        let planted = workload.planted.map(Regex::new).transpose();
        let planted = planted.with_context(|| format!("the planted chain of {}", workload.name))?;
        Ok(Self {
            workload,
            directory,
            planted,
            judge,
            second: SecondJudge::default(),
            symbols: Symbols::default(),
            learnt: HashSet::new(),
        })
    }

    /// Asks the judges.
    ///
    /// # Errors
    /// Where the judge has ended.
    pub fn hear(&mut self, set: &MappingSet, stack: &CapturedStack) -> Result<Reference> {
        if self.learnt.insert(set.id) {
            self.judge.learn(set)?;
        }
        let judgement = self.judge.judge(stack)?;
        let second_agrees = match (&judgement.ending, self.second.judge(set, stack)) {
            (Ending::Complete, Some(frames)) => {
                Some(judgement.frames.iter().map(|frame| frame.avma).eq(frames))
            }
            _ => None,
        };
        let is_jit = self.workload.language == Language::Jit;
        let allowance = Allowance {
            frame_pointers: is_jit,
            root: self.find_root(set, &judgement),
            leaf_caller: is_jit.then(|| caller_passed_over(set, stack, &judgement)).flatten(),
        };
        Ok(Reference { judgement, allowance, second_agrees })
    }

    /// What becomes of a tick for which the profiler has this stack.
    pub fn verdict(
        &mut self,
        set: &MappingSet,
        observed: Option<&ObservedStack>,
        reference: &Reference,
    ) -> Verdict {
        let verdict = compare(observed, &reference.judgement, &reference.allowance);
        let is_open = matches!(reference.allowance.root, Some((_, Root::Open)));
        match observed.and_then(|observed| observed.frames.last()) {
            Some(last) if is_open && verdict == Verdict::Further && !self.is_outermost(set, *last) => {
                Verdict::Different
            }
            _ => verdict,
        }
    }

    /// Whether a stack is the chain of calls that was planted; `None` where none was, or where the tick fell into the
    /// program's start or end, outside its own code.
    pub fn is_as_planted(&mut self, set: &MappingSet, frames: &[u64]) -> Option<Result<(), String>> {
        let names = self.own_names(set, frames);
        let planted = self.planted.as_ref()?;
        // The dynamic loader and the shell that starts it have no function of its own on the stack.
        if names.is_empty() || names == "_start " {
            return None;
        }
        Some(if planted.is_match(&names) { Ok(()) } else { Err(names) })
    }

    /// Names of all frames, for a person to read.
    pub fn names(&mut self, set: &MappingSet, frames: &[u64]) -> String {
        let name = |(depth, avma): (usize, &u64)| {
            let place = self.symbols.place_of_frame(set, *avma, depth == 0);
            let file = place
                .and_then(|place| place.path.file_name())
                .map_or("?".into(), |file| file.to_string_lossy());
            let name = place.and_then(|place| place.name).unwrap_or("?");
            format!("{name}@{file}")
        };
        frames.iter().enumerate().map(name).collect::<Vec<_>>().join(" ")
    }

    /// Names of the frames in the workload's own files, each followed by a blank.
    fn own_names(&mut self, set: &MappingSet, frames: &[u64]) -> String {
        let mut names = String::new();
        for (depth, avma) in frames.iter().enumerate() {
            if let Some(place) = self.symbols.place_of_frame(set, *avma, depth == 0)
                && place.path.starts_with(&self.directory)
            {
                names.push_str(place.name.unwrap_or("?"));
                names.push(' ');
            }
        }
        names
    }

    /// Whether stacks of this workload may end in the function that a caller's frame lies in.
    fn is_outermost(&mut self, set: &MappingSet, avma: u64) -> bool {
        let place = self.symbols.place_of_frame(set, avma, false);
        place.is_some_and(|place| self.workload.is_outermost(place.name))
    }

    /// How many frames the truth has where a function's name says so, and what kind of root that is.
    fn find_root(&mut self, set: &MappingSet, judgement: &Judgement) -> Option<(usize, Root)> {
        if self.workload.language != Language::Go && self.workload.without_information.is_empty() {
            return None;
        }
        judgement.frames.iter().enumerate().skip(1).find_map(|(depth, frame)| {
            let name = self.symbols.place_of_frame(set, frame.avma, false)?.name?;
            Some((depth + 1, self.workload.root(name, frame.step)?))
        })
    }
}
