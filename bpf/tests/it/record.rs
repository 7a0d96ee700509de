//! Records as the programs write them.

use pyrite_bpf::StackOutcome;
use pyrite_bpf::abi::{self, pyrite_sample_header as Header, pyrite_stack_copy as Copy};

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) tgid: u32,
    pub(crate) flags: u32,
    pub(crate) outcome: StackOutcome,
    pub(crate) generation: u32,
    pub(crate) frame_pointer_frames: u16,
    pub(crate) kernel: Vec<u64>,
    pub(crate) user: Vec<u64>,
    pub(crate) copy: Option<(StackCopy, Vec<u8>)>,
}

/// Where a copied stack is to be gone on from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StackCopy {
    pub(crate) registers: [u64; 32],
    pub(crate) ip: u64,
    pub(crate) frames_before: u16,
    pub(crate) all_registers: bool,
    pub(crate) sp_lost: bool,
}

/// The bytes of a record, as the ABI says.
pub(crate) fn decode(bytes: &[u8]) -> Record {
    use std::mem::{offset_of, size_of};
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let quarter = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
    let kernel_frames = usize::from(quarter(offset_of!(Header, kernel_frames)));
    let user_frames = usize::from(quarter(offset_of!(Header, user_frames)));
    let kernel_end = size_of::<Header>() + 8 * kernel_frames;
    let user_end = kernel_end + 8 * user_frames;
    let flags = u32::from(bytes[offset_of!(Header, flags)]);
    let copy = (flags & abi::PYRITE_SAMPLE_STACK_COPY != 0).then(|| {
        let mut registers = [0; 32];
        for (at, register) in registers.iter_mut().enumerate() {
            *register = word(user_end + 8 * at);
        }
        let copy = StackCopy {
            registers,
            ip: word(user_end + offset_of!(Copy, ip)),
            frames_before: quarter(user_end + offset_of!(Copy, frames_before)),
            all_registers: bytes[user_end + offset_of!(Copy, all_registers)] != 0,
            sp_lost: bytes[user_end + offset_of!(Copy, sp_lost)] != 0,
        };
        let stack = user_end + size_of::<Copy>();
        let stack_bytes = word(user_end + offset_of!(Copy, bytes)) as usize;
        (copy, bytes[stack..stack + stack_bytes].to_vec())
    });
    Record {
        tgid: half(offset_of!(Header, tgid)),
        flags,
        outcome: StackOutcome::from_code(bytes[offset_of!(Header, user_stack)]).unwrap(),
        generation: half(offset_of!(Header, generation)),
        frame_pointer_frames: quarter(offset_of!(Header, frame_pointer_frames)),
        kernel: (size_of::<Header>()..kernel_end).step_by(8).map(word).collect(),
        user: (kernel_end..user_end).step_by(8).map(word).collect(),
        copy,
    }
}
