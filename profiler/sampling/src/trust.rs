//! Which frames of a user stack can be trusted, and where each lies.
//!
//! The BPF program walks by the mappings that were published last, and mappings change at any moment. A frame that lies in
//! a mapping which came later was met by the rules of whatever was there before, so that all behind it is a guess: the
//! stack is cut there. What comes by the frame pointer or from a copy of the stack used no mapping and is judged by its end.

use pyrite_bpf::StackOutcome;
use pyrite_model::Avma;

use crate::process::Process;
use crate::{Generation, Mapping, Mappings, Sample, UserFrame};

/// Which mappings the walk of a stack knew.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust<'a> {
    /// It used none.
    All,
    /// Those of the process that are as old as this, or older.
    UpTo(Generation),
    /// Those of a process that it was forked from, changed since: where they agree with its own.
    Ancestral(&'a Mappings, Generation),
    /// Those of another process, which is not known any more.
    Lost,
}

/// The user frames of a stack, up to the first that cannot be trusted.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) frames: Vec<UserFrame>,
    /// Whether the last frame lies in a mapping that the walk did not know.
    pub(crate) is_cut: bool,
}

impl Located {
    /// Whether the leaf lies in no mapping.
    pub(crate) fn has_unmapped_leaf(&self) -> bool {
        matches!(self.frames.first(), Some(UserFrame::Unmapped(_)))
    }

    /// Whether what the walk knew after its first `frames` frames can be trusted.
    pub(crate) fn can_be_trusted_behind(&self, frames: u16) -> bool {
        !self.is_cut || usize::from(frames) < self.frames.len()
    }

    /// Ends the stack behind its first `frames` frames, where it is longer.
    pub(crate) fn end_behind(&mut self, frames: usize) {
        if frames < self.frames.len() {
            self.frames.truncate(frames);
            self.is_cut = false;
        }
    }

    /// How the walk ended, as far as it can be believed. A frame pointer that was none leads to numbers that are no code,
    /// and often to a zero behind them, which looks like the end of a chain.
    pub(crate) fn outcome(&self, walked: StackOutcome) -> StackOutcome {
        match self.frames.last() {
            _ if self.is_cut => StackOutcome::StaleMapping,
            Some(UserFrame::Unmapped(_)) if walked.is_known_end() => StackOutcome::NoMapping,
            _ => walked,
        }
    }
}

impl<'a> Trust<'a> {
    /// What `sample` was walked by. `last` is the generation given last, `ancestors` begin with the parent of `process`.
    pub(crate) fn of(
        sample: &Sample,
        process: &Process,
        mut ancestors: impl Iterator<Item = &'a Process>,
        last: Generation,
    ) -> Self {
        if sample.generation == 0 {
            return Self::All;
        }
        let walked_by = last.widen(sample.generation);
        if !sample.by_parent_mappings {
            let is_own = process.set.may_have_been(walked_by);
            return if is_own { Self::UpTo(walked_by) } else { Self::Lost };
        }
        if walked_by <= process.set.inherited {
            return Self::UpTo(walked_by);
        }
        // The BPF program takes no mappings but an ancestor's. Which one's they are matters where one has changed them.
        let nearest = ancestors.next();
        let walked =
            nearest.into_iter().chain(ancestors).find(|ancestor| ancestor.set.is_known_as(walked_by));
        walked.or(nearest).map_or(Self::Lost, |ancestor| Self::Ancestral(&ancestor.mappings, walked_by))
    }

    fn allows(self, mapping: &Mapping, avma: Avma) -> bool {
        match self {
            Self::All => true,
            Self::UpTo(generation) => mapping.since <= generation,
            Self::Ancestral(mappings, generation) => mappings
                .find(avma)
                .is_some_and(|theirs| theirs.since <= generation && theirs.is_same_code(mapping, avma)),
            Self::Lost => false,
        }
    }

    /// Places `stack` in `mappings` as far as it can be trusted.
    pub(crate) fn locate(self, stack: &[Avma], mappings: &Mappings) -> Located {
        let mut frames = Vec::with_capacity(stack.len());
        // Neighbours on the stack often lie in one mapping.
        let mut near: Option<&Mapping> = None;
        for at in instructions(stack) {
            let mapping = near.filter(|near| near.holds(at)).or_else(|| mappings.find(at));
            frames.push(mapping.map_or(UserFrame::Unmapped(at), |mapping| mapping.resolve(at)));
            if mapping.is_some_and(|mapping| !self.allows(mapping, at)) {
                return Located { frames, is_cut: true };
            }
            near = mapping.or(near);
        }
        Located { frames, is_cut: false }
    }
}

/// The address of the instruction that each frame is at. The leaf's is in the record; a caller's address is where the call
/// will return to, so the call is a byte before it, which may lie in another line or function.
pub(crate) fn instructions(stack: &[Avma]) -> impl Iterator<Item = Avma> {
    let call = |avma: &Avma| Avma(avma.0.saturating_sub(1));
    stack.iter().take(1).copied().chain(stack.iter().skip(1).map(call))
}
