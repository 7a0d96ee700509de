//! What sampling needs from its caller to finish a stack that the BPF program could only copy.

use pyrite_bpf::StackOutcome;
use pyrite_model::Avma;

use crate::{Mappings, StackCopy};

/// Finishes copied stacks. The caller brings the unwind tables.
pub trait Unwinder {
    /// Walks on from the state that `copy` holds and appends to `frames`, the frame of that state first, up to `limit`
    /// frames in all. Ends at code whose unwind table is still being made: how to leave it will be known, and is not to be
    /// guessed. `mappings` are those of the process at the time of the sample.
    fn walk(&mut self, copy: &StackCopy, mappings: &Mappings, frames: &mut Vec<Avma>, limit: usize)
    -> Walked;
}

/// How a walk went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// How it ended.
    pub outcome: StackOutcome,
    /// Whether it ended at code whose unwind table is still being made, so that another walk a little later may do better.
    pub is_provisional: bool,
    /// How many of the frames it found were found by the frame pointer for want of unwind information.
    pub frame_pointer_frames: u16,
}
