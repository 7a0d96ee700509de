//! The published tables as user space reads them, and the finishing of copied stacks by them: the same chunks, mappings
//! and rules that the BPF programs go by.

use pyrite_bpf::abi::{pyrite_executable, pyrite_stack_copy};
use pyrite_model::Avma;
use pyrite_sampling::{Mappings, StackCopy, Unwinder, Walked};
use pyrite_unwind::{Chunk, Machine, MappedCode, Rule, Start, Tables, Walker};

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
        self.rules.get(usize::from(id)).copied()
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
        let result = walker.walk(&start_of(copy), frames);
        if let Some(executable) = result.pending {
            self.publisher.tables.want(ExecutableIndex(executable));
        }
        Walked {
            outcome: result.outcome,
            is_provisional: result.pending.is_some(),
            frame_pointer_frames: result.frame_pointer_frames,
        }
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
