//! What sampling asks of its caller for the sake of unwinding: files to open, mapping sets to publish and to withdraw.
//!
//! A mapping set has a generation. A sample says which generation its stack was walked by, so that a frame that was found
//! by mappings which had changed by then can be told from one that was not.

use std::sync::Arc;

use pyrite_model::Avma;

use crate::{BootNs, MappedFile, Mappings, ProcessKey};

/// The number of a mapping set: unique on the node, given in order of time, never used again. Processes that were forked
/// and have changed nothing since share the set of their parent, and its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// Older than every mapping set.
    pub const NONE: Self = Self(0);

    /// The number as the BPF programs know it: never 0, which means "process not known" there. Comes round after 2^32
    /// sets, so only [`Self::widen`] may compare it.
    pub fn abi(self) -> u32 {
        self.0 as u32
    }

    /// The generation that comes after this one.
    #[must_use]
    pub(crate) fn next(self) -> Self {
        let next = self.0 + 1;
        Self(if next as u32 == 0 { next + 1 } else { next })
    }

    /// The latest generation, no later than `self`, that the BPF programs know as `abi`.
    pub(crate) fn widen(self, abi: u32) -> Self {
        if abi == 0 {
            Self::NONE
        } else {
            Self(self.0.saturating_sub(u64::from(self.abi().wrapping_sub(abi))))
        }
    }
}

/// Something for the caller to do, in order. None of it needs an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A file was mapped: the time to open it and to begin with its unwind table, if there is none yet, by
    /// `/proc/TGID/map_files/START-END` while the process lives, else by its path. Comes as soon as the event is read,
    /// before the events are put in order.
    Open {
        /// Thread group id of a process that has it mapped.
        tgid: u32,
        /// The file.
        file: Arc<MappedFile>,
        /// First address of the mapping.
        start: Avma,
        /// First address behind it.
        end: Avma,
    },
    /// A process has these executable mappings now. Replaces whatever was published for its tgid. What changed within one
    /// round comes as one command.
    Publish {
        /// The process.
        process: ProcessKey,
        /// When its leader started, as samples state it; `None` where no sample has said so yet.
        start: Option<BootNs>,
        /// The number of the set. The same number always means the same set: processes can share what is made of it.
        generation: Generation,
        /// The set.
        mappings: Arc<Mappings>,
    },
    /// What was published for this tgid holds no more: the process ended, runs another program, or was forgotten.
    Withdraw {
        /// Thread group id.
        tgid: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_stay_in_order_when_their_short_form_comes_round() {
        let last = Generation(u64::from(u32::MAX));
        let next = last.next();
        assert_eq!((next.0, next.abi()), ((1 << 32) + 1, 1));
        assert_eq!(next.widen(u32::MAX), last);
        assert_eq!(next.widen(1), next);
        assert_eq!(next.widen(0), Generation::NONE);
        assert_eq!(Generation(5).widen(9), Generation::NONE, "a number never given");
    }
}
