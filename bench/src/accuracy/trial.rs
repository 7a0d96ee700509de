//! What is true of one captured stack, as far as others than the profiler can tell.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use regex::Regex;

use crate::accuracy::symbols::mapped_ranges;
use crate::accuracy::{
    Allowance, CapturedStack, Ending, Judge, Judgement, Language, MappingSet, ObservedStack, Root,
    SecondJudge, Step, Symbols, Workload,
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
    /// The judge's own stack, as if it had been observed.
    pub fn judged_stack(&self) -> ObservedStack {
        let frames = self.judgement.frames.iter().map(|frame| frame.avma);
        let frames = frames.take(self.allowance.root_at.unwrap_or(usize::MAX)).collect();
        let is_complete = self.judgement.ending == Ending::Complete || self.allowance.root_at.is_some();
        let outcome = match &self.judgement.ending {
            Ending::Complete => "complete".to_owned(),
            Ending::Stopped(reason) => reason.clone(),
        };
        ObservedStack { frames, is_complete, outcome }
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
        let root = self.find_root(set, &judgement);
        let allowance = Allowance {
            frame_pointers: self.workload.language == Language::Jit,
            root_at: root.map(|(at, _)| at),
            may_go_on: root.is_some_and(|(_, root)| root == Root::Open),
            leaf_callers: self.leaf_callers(set, stack, &judgement),
        };
        Ok(Reference { judgement, allowance, second_agrees })
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

    /// The code addresses at the top of the stack, where the leaf has no call frame information.
    fn leaf_callers(&self, set: &MappingSet, stack: &CapturedStack, judgement: &Judgement) -> Vec<u64> {
        /// A leaf without a frame may have pushed every register.
        const TOP_BYTES: usize = 16 * 8;

        let is_by_frame_pointer =
            judgement.frames.first().is_some_and(|leaf| leaf.step == Step::FramePointer);
        if self.workload.language != Language::Jit || !is_by_frame_pointer {
            return Vec::new();
        }
        let top = &stack.stack[..stack.stack.len().min(TOP_BYTES)];
        let words = top.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
        let code = mapped_ranges(set);
        words.filter(|word| code.iter().any(|range| range.contains(word))).collect()
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
