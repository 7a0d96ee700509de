//! Samples whose stack the BPF program could only copy: they are finished here, by the caller's unwind tables.
//!
//! A table may still be in the making, above all that of a program never met before. Its samples wait for it, a bounded
//! number of them for a bounded time, with the mappings of their moment. What is not finished by then ends at the frame
//! that the copy is of: from there on the BPF program went by the frame pointer alone, which in a prologue, and in code that
//! keeps none, is a caller's. Such a walk passes over frames and may come to the root all the same.

use std::sync::Arc;

use pyrite_bpf::abi::PYRITE_MAX_USER_FRAMES;
use pyrite_bpf::{Note, StackOutcome};
use pyrite_model::Avma;

use crate::trust::{Located, instructions};
use crate::{BootNs, Limits, Mappings, Notes, ProcessKey, Sample, StackCopy, Unwinder};

/// How long a sample waits for an unwind table. The largest of them takes a tenth of that.
const PATIENCE_NS: u64 = 1_000_000_000;
/// How long a sample that met no table is left alone; after that, as long again as it has waited already.
const RETRY_NS: u64 = 20_000_000;

/// A sample to be finished.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) sample: Sample,
    pub(crate) process: ProcessKey,
    pub(crate) mappings: Arc<Mappings>,
    try_at: BootNs,
}

/// All of them, and how much all copies in all held samples take.
#[derive(Debug)]
pub(crate) struct Copies {
    waiting: Vec<Unfinished>,
    limit: usize,
    bytes: usize,
    bytes_limit: usize,
    pub(crate) notes: Notes,
}

impl Copies {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            waiting: Vec::new(),
            limit: limits.copies,
            bytes: 0,
            bytes_limit: limits.copy_bytes,
            notes: Notes::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What the copies of all held samples take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the copy of a sample that has just come in into the account, or takes it from the sample where there is no
    /// room.
    pub(crate) fn admit(&mut self, sample: &mut Sample) {
        let Some(copy) = &sample.copy else { return };
        if self.bytes + copy.stack.len() > self.bytes_limit {
            end_at_copy(sample);
            sample.copy = None;
            self.notes.add(Note::CopyDropped, 1);
        } else {
            self.bytes += copy.stack.len();
        }
    }

    /// The sample is held no longer.
    pub(crate) fn release(&mut self, sample: &Sample) {
        self.bytes -= sample.copy.as_ref().map_or(0, |copy| copy.stack.len());
    }

    /// Whether there is something to finish, reached by a walk that can be trusted, and room for it to wait.
    pub(crate) fn wants(&mut self, sample: &Sample, located: &Located) -> bool {
        let is_usable = |copy: &StackCopy| located.can_be_trusted_behind(copy.frames_before);
        if !sample.copy.as_deref().is_some_and(is_usable) {
            return false;
        }
        let has_room = self.waiting.len() < self.limit;
        if !has_room {
            self.notes.add(Note::CopyDropped, 1);
        }
        has_room
    }

    pub(crate) fn push(&mut self, sample: Sample, process: ProcessKey, mappings: Arc<Mappings>) {
        self.waiting.push(Unfinished { try_at: sample.time, sample, process, mappings });
    }

    /// Takes those that are finished, or that have waited long enough.
    pub(crate) fn finish(&mut self, unwinder: &mut dyn Unwinder, now: BootNs) -> Vec<Unfinished> {
        let mut finished = Vec::new();
        for mut unfinished in std::mem::take(&mut self.waiting) {
            if now < unfinished.try_at {
                self.waiting.push(unfinished);
                continue;
            }
            let came = unfinished.sample.time;
            let give_up_at = came.saturating_add(PATIENCE_NS);
            if let Some(note) = unfinished.walk(unwinder, now >= give_up_at) {
                self.notes.add(note, 1);
                finished.push(unfinished);
            } else {
                let pause_ns = now.abs_diff(came).max(RETRY_NS);
                unfinished.try_at = now.saturating_add(pause_ns).min(give_up_at);
                self.waiting.push(unfinished);
            }
        }
        finished
    }

    /// Takes all of them, unfinished.
    pub(crate) fn take_all(&mut self) -> Vec<Unfinished> {
        self.waiting.iter_mut().for_each(|unfinished| end_at_copy(&mut unfinished.sample));
        std::mem::take(&mut self.waiting)
    }
}

/// Ends the stack of a sample that will not be finished at the frame that its copy is of, for what the BPF program took for
/// the callers is a guess, and so is that it came to an end.
pub(crate) fn end_at_copy(sample: &mut Sample) {
    let Some(copy) = &sample.copy else { return };
    let sure = usize::from(copy.frames_before) + 1;
    if sample.user.len() <= sure && !sample.user_outcome.is_known_end() {
        return;
    }
    let is_known = sample.generation != 0;
    sample.frame_pointer_frames = guessed_before(sample, copy);
    sample.user.truncate(sure);
    sample.user_outcome = if is_known { StackOutcome::NoUnwindInfo } else { StackOutcome::UnknownProcess };
}

/// How many of the frames before the copied one were guessed. Of which the BPF program's count is, is not known, so that it
/// counts in full where there are any.
fn guessed_before(sample: &Sample, copy: &StackCopy) -> u16 {
    if copy.frames_before == 0 { 0 } else { sample.frame_pointer_frames }
}

impl Unfinished {
    /// Walks on from the copy. Says what came of it, or nothing where another try may do better.
    fn walk(&mut self, unwinder: &mut dyn Unwinder, gives_up: bool) -> Option<Note> {
        // Only samples with a copy are taken in.
        let Some(copy) = &self.sample.copy else { return Some(Note::CopyDropped) };
        let before = usize::from(copy.frames_before);
        let mut frames: Vec<_> = self.sample.user.iter().take(before).copied().collect();
        let walked = unwinder.walk(copy, &self.mappings, &mut frames, PYRITE_MAX_USER_FRAMES as usize);
        if walked.is_provisional && !gives_up {
            return None;
        }
        if !self.is_led_further(before, walked.outcome, &frames) {
            let guessed_before = guessed_before(&self.sample, copy);
            self.sample.frame_pointer_frames = guessed_before.saturating_add(walked.frame_pointer_frames);
            self.sample.user = frames;
            self.sample.user_outcome = walked.outcome;
        }
        Some(if walked.is_provisional { Note::CopyGaveUp } else { Note::CopyFinished })
    }

    /// Whether the frame pointers led the BPF program further than the copied part of the stack, in which it came by the same
    /// `frames` as the rules: to one caller of the copied frame at least, the first behind `before` others.
    fn is_led_further(&self, before: usize, outcome: StackOutcome, frames: &[Avma]) -> bool {
        let lies_elsewhere = matches!(outcome, StackOutcome::CopyEnded | StackOutcome::Fault);
        let user = &self.sample.user;
        let is_confirmed = frames.len() > before + 1 && frames.len() < user.len() && user.starts_with(frames);
        lies_elsewhere && is_confirmed && !self.went_astray(before)
    }

    /// Whether what the BPF program took for callers of the copied frame, the first behind `before` others, is no code.
    fn went_astray(&self, before: usize) -> bool {
        let mut guessed = instructions(&self.sample.user).skip(before + 1);
        guessed.any(|call| self.mappings.find(call).is_none())
    }
}
