//! The published tables as user space reads them, and the finishing of copied stacks by them: the same chunks, mappings
//! and rules that the BPF programs go by.

use pyrite_bpf::StackOutcome;
use pyrite_bpf::abi::{pyrite_executable, pyrite_stack_copy};
use pyrite_model::Avma;
use pyrite_sampling::{Mappings, StackCopy, Unwinder, Walked};
use pyrite_unwind::{Chunk, Machine, MappedCode, Rule, RuleId, Start, Tables, Walker};

use crate::unwind::Unwind;
use crate::unwind::chunks::ChunkId;
use crate::unwind::code::ExecutableIndex;
use crate::unwind::kernel::Kernel;
use crate::unwind::publisher::Publisher;
use crate::unwind::tables::{Table, pending_entry};

/// Bits of a code address that are no part of it: on aarch64, where user addresses have 48 bits, pointer authentication
/// and tags use the rest.
pub const ADDRESS_TAG_MASK: u64 = if cfg!(target_arch = "aarch64") { !0 << 48 } else { 0 };

const MACHINE: Machine = if cfg!(target_arch = "aarch64") {
    Machine::Aarch64 { address_tag_mask: ADDRESS_TAG_MASK }
} else {
    Machine::X86_64
};

impl<K: Kernel> Tables for Publisher<K> {
    fn chunk(&self, id: u32) -> Option<&Chunk> {
        self.chunks.get(ChunkId(id))
    }

    fn executable(&self, index: u32) -> Option<pyrite_executable> {
        match ExecutableIndex(index) {
            ExecutableIndex::UNOPENED => Some(pending_entry()),
            index => self.tables.get(index).map(Table::entry),
        }
    }

    fn rule(&self, id: u16) -> Option<Rule> {
        self.rules.get(RuleId(id))
    }
}

impl Unwinder for Unwind {
    fn walk(
        &mut self,
        copy: &StackCopy,
        mappings: &Mappings,
        frames: &mut Vec<Avma>,
        limit: usize,
    ) -> Walked {
        let code_at = |avma| {
            let code = self.publisher.code_of(mappings.find(avma)?);
            Some(MappedCode { executable: code.executable.0, bias: code.bias })
        };
        let walker = Walker {
            machine: MACHINE,
            tables: &self.publisher,
            mappings: &code_at,
            memory: &pyrite_unwind::StackCopy::new(copy.sp(), &copy.stack),
            limit,
        };
        let found = walker.walk(&start_of(copy), frames);
        if let Some(pending) = found.pending {
            self.publisher.tables.want(ExecutableIndex(pending.executable));
        }
        up_to_pending(found, frames)
    }
}

/// Takes back what the walker guessed behind code whose table is still being made.
fn up_to_pending(found: pyrite_unwind::Walked, frames: &mut Vec<Avma>) -> Walked {
    let pyrite_unwind::Walked { outcome, frame_pointer_frames, pending } = found;
    let Some(pending) = pending else {
        return Walked { outcome, is_provisional: false, frame_pointer_frames };
    };
    frames.truncate(pending.frames);
    Walked {
        outcome: StackOutcome::NoUnwindInfo,
        is_provisional: true,
        frame_pointer_frames: pending.frame_pointer_frames,
    }
}

fn start_of(copy: &StackCopy) -> Start {
    let state = pyrite_stack_copy {
        registers: copy.registers,
        ip: copy.ip.0,
        frames_before: copy.frames_before,
        all_registers: u8::from(copy.all_registers),
        sp_lost: u8::from(copy.sp_lost),
        ..pyrite_stack_copy::default()
    };
    Start::from_copy(&state, MACHINE)
}

#[cfg(test)]
mod tests {
    use pyrite_unwind::Pending;

    use super::*;

    #[test]
    fn what_was_guessed_behind_a_table_in_the_making_is_not_told() {
        let check = |pending: Option<Pending>, expect: (usize, StackOutcome, bool, u16)| {
            let mut frames = vec![Avma(1), Avma(2), Avma(3)];
            let found =
                pyrite_unwind::Walked { outcome: StackOutcome::ChainEnd, frame_pointer_frames: 2, pending };
            let Walked { outcome, is_provisional, frame_pointer_frames } = up_to_pending(found, &mut frames);
            assert_eq!((frames.len(), outcome, is_provisional, frame_pointer_frames), expect);
        };
        check(None, (3, StackOutcome::ChainEnd, false, 2));
        let met = Pending { executable: 5, frames: 2, frame_pointer_frames: 1 };
        check(Some(met), (2, StackOutcome::NoUnwindInfo, true, 1));
    }
}
