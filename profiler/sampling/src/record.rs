//! Sample records: the bytes that the BPF sampler put into the ring, made into a [`Sample`]. Layout: `bpf/include/abi.h`.

use std::mem::offset_of;

use pyrite_bpf::StackOutcome;
use pyrite_bpf::abi::{
    PYRITE_AARCH64_REGISTERS, PYRITE_COMM_BYTES, PYRITE_MAX_COPY_BYTES, PYRITE_MAX_KERNEL_FRAMES,
    PYRITE_MAX_USER_FRAMES, PYRITE_RECORD_SAMPLE, PYRITE_SAMPLE_EXITING, PYRITE_SAMPLE_KERNEL_THREAD,
    PYRITE_SAMPLE_PARENT_MAPPINGS, PYRITE_SAMPLE_STACK_COPY, PYRITE_SAMPLE_USER_MODE,
    pyrite_sample_header as Header, pyrite_stack_copy as Copied,
};
use pyrite_model::Avma;

use crate::{BootNs, Comm, OffCpu};

/// Registers in a stack copy, by DWARF number; `x86_64` uses the first 16.
pub const COPIED_REGISTERS: usize = PYRITE_AARCH64_REGISTERS as usize;

/// DWARF number of the stack pointer.
const STACK_POINTER: usize = if cfg!(target_arch = "aarch64") { 31 } else { 7 };

/// One tick that met a running task. Frames are leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the record has these flags, and any of them can be with any other"
)]
pub struct Sample {
    /// When the tick came.
    pub time: BootNs,
    /// Thread group id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// When the thread group's leader started.
    pub start: BootNs,
    /// Id of the task's cgroup v2 directory.
    pub cgroup_id: u64,
    /// Which CPU.
    pub cpu: u32,
    /// The thread's name.
    pub comm: Comm,
    /// Whether the task is a kernel thread.
    pub is_kernel_thread: bool,
    /// Whether the tick interrupted user mode.
    pub is_user_mode: bool,
    /// Whether the user stack was walked by the mappings of the process's parent.
    pub by_parent_mappings: bool,
    /// Whether the thread is on its way out.
    pub is_exiting: bool,
    /// [`Generation::abi`](crate::Generation::abi) of the mapping set that the user stack was walked by; 0 where the
    /// process was not known.
    pub generation: u32,
    /// How many of the user frames were found by the frame pointer for want of unwind information.
    pub frame_pointer_frames: u16,
    /// How the kernel stack's walk ended.
    pub kernel_outcome: StackOutcome,
    /// How the user stack's walk ended.
    pub user_outcome: StackOutcome,
    /// Addresses in the kernel.
    pub kernel: Vec<Avma>,
    /// Addresses in the process.
    pub user: Vec<Avma>,
    /// From where on user space can finish the walk.
    pub copy: Option<Box<StackCopy>>,
    /// Where it is no tick, but of a thread that left the CPU: the stack is that of the moment it left.
    pub off_cpu: Option<OffCpu>,
}

/// Registers and the top of the stack, as they were at a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackCopy {
    /// By DWARF number. All are valid where `all_registers` is set, else the stack pointer, the frame pointer and, on
    /// aarch64, the link register.
    pub registers: [u64; COPIED_REGISTERS],
    /// The code address of the frame.
    pub ip: Avma,
    /// How many of the sample's user frames come before this one.
    pub frames_before: u16,
    /// Whether every register is valid, as at the leaf.
    pub all_registers: bool,
    /// Whether the stack pointer is no more than a lower bound.
    pub sp_lost: bool,
    /// The stack from the stack pointer on.
    pub stack: Vec<u8>,
}

impl StackCopy {
    /// Where the copied part of the stack starts.
    pub fn sp(&self) -> Avma {
        Avma(self.registers[STACK_POINTER])
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the header, or than it announces.
    #[error("record of {len} bytes is shorter than the {need} it announces")]
    Short {
        /// Bytes there are.
        len: usize,
        /// Bytes there should be.
        need: usize,
    },
    /// The first word names no known record.
    #[error("unknown record kind {kind}")]
    Kind {
        /// The word.
        kind: u32,
    },
    /// A stack outcome that this build does not know.
    #[error("unknown stack outcome {code}")]
    Outcome {
        /// The code.
        code: u8,
    },
    /// More frames than the ABI allows.
    #[error("{frames} frames in one stack")]
    Frames {
        /// How many are announced.
        frames: u16,
    },
    /// A stack copy that is larger than the ABI allows, or that goes on from a frame the record does not have.
    #[error("stack copy of {bytes} bytes behind frame {frames_before}")]
    Copy {
        /// Bytes announced.
        bytes: u64,
        /// Frames it says to come before it.
        frames_before: u16,
    },
    /// Recorded with a probability of 0.
    #[error("recorded with a probability of 0")]
    Improbable,
}

/// Decodes a sample record.
///
/// # Errors
/// Anything that does not follow the ABI; trailing bytes are allowed, as the ring pads.
pub fn decode_sample(bytes: &[u8]) -> Result<Sample, RecordError> {
    decode_kind(bytes, PYRITE_RECORD_SAMPLE)
}

/// Decodes a record that has the shape of a sample's.
pub(crate) fn decode_kind(bytes: &[u8], expected: u32) -> Result<Sample, RecordError> {
    let header = &field::<{ size_of::<Header>() }>(bytes, 0)?;
    let kind = u32_at(header, offset_of!(Header, kind))?;
    if kind != expected {
        return Err(RecordError::Kind { kind });
    }
    let kernel_frames = frame_count(header, offset_of!(Header, kernel_frames), PYRITE_MAX_KERNEL_FRAMES)?;
    let user_frames = frame_count(header, offset_of!(Header, user_frames), PYRITE_MAX_USER_FRAMES)?;
    let frames_at = size_of::<Header>();
    let user_at = frames_at + 8 * kernel_frames;
    let copy_at = user_at + 8 * user_frames;
    let flags = u32::from(header[offset_of!(Header, flags)]);
    let has = |flag: u32| flags & flag != 0;
    let copy = has(PYRITE_SAMPLE_STACK_COPY).then(|| stack_copy(bytes, copy_at, user_frames)).transpose()?;
    Ok(Sample {
        time: BootNs(u64_at(header, offset_of!(Header, time_boot_ns))?),
        tgid: u32_at(header, offset_of!(Header, tgid))?,
        tid: u32_at(header, offset_of!(Header, tid))?,
        start: BootNs(u64_at(header, offset_of!(Header, start_boot_ns))?),
        cgroup_id: u64_at(header, offset_of!(Header, cgroup_id))?,
        cpu: u32_at(header, offset_of!(Header, cpu))?,
        comm: Comm::new(&field::<{ PYRITE_COMM_BYTES as usize }>(header, offset_of!(Header, comm))?),
        is_kernel_thread: has(PYRITE_SAMPLE_KERNEL_THREAD),
        is_user_mode: has(PYRITE_SAMPLE_USER_MODE),
        by_parent_mappings: has(PYRITE_SAMPLE_PARENT_MAPPINGS),
        is_exiting: has(PYRITE_SAMPLE_EXITING),
        generation: u32_at(header, offset_of!(Header, generation))?,
        frame_pointer_frames: u16_at(header, offset_of!(Header, frame_pointer_frames))?,
        kernel_outcome: outcome(header[offset_of!(Header, kernel_stack)])?,
        user_outcome: outcome(header[offset_of!(Header, user_stack)])?,
        kernel: frames(bytes, frames_at, kernel_frames)?,
        user: frames(bytes, user_at, user_frames)?,
        copy,
        off_cpu: None,
    })
}

fn stack_copy(bytes: &[u8], at: usize, user_frames: usize) -> Result<Box<StackCopy>, RecordError> {
    let fixed = slice(bytes, at, size_of::<Copied>())?;
    let frames_before = u16_at(fixed, offset_of!(Copied, frames_before))?;
    let copied = u64_at(fixed, offset_of!(Copied, bytes))?;
    if copied > u64::from(PYRITE_MAX_COPY_BYTES) || usize::from(frames_before) > user_frames {
        return Err(RecordError::Copy { bytes: copied, frames_before });
    }
    let mut registers = [0; COPIED_REGISTERS];
    for (n, register) in registers.iter_mut().enumerate() {
        *register = u64_at(fixed, offset_of!(Copied, registers) + 8 * n)?;
    }
    let stack = slice(bytes, at + size_of::<Copied>(), copied as usize)?.to_vec();
    Ok(Box::new(StackCopy {
        registers,
        ip: Avma(u64_at(fixed, offset_of!(Copied, ip))?),
        frames_before,
        all_registers: fixed[offset_of!(Copied, all_registers)] != 0,
        sp_lost: fixed[offset_of!(Copied, sp_lost)] != 0,
        stack,
    }))
}

fn frames(bytes: &[u8], at: usize, count: usize) -> Result<Vec<Avma>, RecordError> {
    let frames = slice(bytes, at, 8 * count)?;
    Ok(frames.as_chunks::<8>().0.iter().map(|frame| Avma(u64::from_ne_bytes(*frame))).collect())
}

fn outcome(code: u8) -> Result<StackOutcome, RecordError> {
    StackOutcome::from_code(code).ok_or(RecordError::Outcome { code })
}

fn frame_count(header: &[u8], at: usize, limit: u32) -> Result<usize, RecordError> {
    let frames = u16_at(header, at)?;
    if u32::from(frames) > limit {
        return Err(RecordError::Frames { frames });
    }
    Ok(usize::from(frames))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, RecordError> {
    field(bytes, at).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, RecordError> {
    field(bytes, at).map(u32::from_ne_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Result<u64, RecordError> {
    field(bytes, at).map(u64::from_ne_bytes)
}

pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], RecordError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().ok_or(RecordError::Short { len: bytes.len(), need: at + N })
}

/// `len` bytes from `at` on, both bounded by the ABI, so that their sum cannot overflow.
fn slice(bytes: &[u8], at: usize, len: usize) -> Result<&[u8], RecordError> {
    bytes.get(at..at + len).ok_or(RecordError::Short { len: bytes.len(), need: at + len })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    /// The bytes that the BPF program would write for `sample`.
    pub(crate) fn encode(sample: &Sample) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Header>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(offset_of!(Header, kind), &PYRITE_RECORD_SAMPLE.to_ne_bytes());
        put(offset_of!(Header, cpu), &sample.cpu.to_ne_bytes());
        put(offset_of!(Header, time_boot_ns), &sample.time.0.to_ne_bytes());
        put(offset_of!(Header, start_boot_ns), &sample.start.0.to_ne_bytes());
        put(offset_of!(Header, cgroup_id), &sample.cgroup_id.to_ne_bytes());
        put(offset_of!(Header, tgid), &sample.tgid.to_ne_bytes());
        put(offset_of!(Header, tid), &sample.tid.to_ne_bytes());
        put(offset_of!(Header, kernel_frames), &(sample.kernel.len() as u16).to_ne_bytes());
        put(offset_of!(Header, user_frames), &(sample.user.len() as u16).to_ne_bytes());
        put(offset_of!(Header, kernel_stack), &[sample.kernel_outcome as u8]);
        put(offset_of!(Header, user_stack), &[sample.user_outcome as u8]);
        put(offset_of!(Header, frame_pointer_frames), &sample.frame_pointer_frames.to_ne_bytes());
        put(offset_of!(Header, generation), &sample.generation.to_ne_bytes());
        put(offset_of!(Header, flags), &[flags(sample) as u8]);
        put(offset_of!(Header, comm), sample.comm.as_bytes());
        for frame in sample.kernel.iter().chain(&sample.user) {
            bytes.extend(frame.0.to_ne_bytes());
        }
        if let Some(copy) = &sample.copy {
            bytes.extend(encode_copy(copy));
        }
        bytes
    }

    fn flags(sample: &Sample) -> u32 {
        [
            (sample.is_kernel_thread, PYRITE_SAMPLE_KERNEL_THREAD),
            (sample.is_user_mode, PYRITE_SAMPLE_USER_MODE),
            (sample.by_parent_mappings, PYRITE_SAMPLE_PARENT_MAPPINGS),
            (sample.is_exiting, PYRITE_SAMPLE_EXITING),
            (sample.copy.is_some(), PYRITE_SAMPLE_STACK_COPY),
        ]
        .into_iter()
        .map(|(is_set, flag)| u32::from(is_set) * flag)
        .sum()
    }

    fn encode_copy(copy: &StackCopy) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Copied>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        for (n, register) in copy.registers.iter().enumerate() {
            put(offset_of!(Copied, registers) + 8 * n, &register.to_ne_bytes());
        }
        put(offset_of!(Copied, ip), &copy.ip.0.to_ne_bytes());
        put(offset_of!(Copied, frames_before), &copy.frames_before.to_ne_bytes());
        put(offset_of!(Copied, all_registers), &[u8::from(copy.all_registers)]);
        put(offset_of!(Copied, sp_lost), &[u8::from(copy.sp_lost)]);
        put(offset_of!(Copied, bytes), &(copy.stack.len() as u64).to_ne_bytes());
        bytes.extend(&copy.stack);
        bytes
    }

    pub(crate) fn sample() -> Sample {
        Sample {
            time: BootNs(5_000),
            tgid: 42,
            tid: 43,
            start: BootNs(17),
            cgroup_id: 99,
            cpu: 1,
            comm: Comm::new(b"worker"),
            is_kernel_thread: false,
            is_user_mode: true,
            by_parent_mappings: false,
            is_exiting: false,
            generation: 0,
            frame_pointer_frames: 0,
            kernel_outcome: StackOutcome::Absent,
            user_outcome: StackOutcome::ChainEnd,
            kernel: vec![],
            user: vec![Avma(0x1010), Avma(0x1020)],
            copy: None,
            off_cpu: None,
        }
    }

    pub(crate) fn stack_copy_at(ip: u64, frames_before: u16, words: &[u64]) -> StackCopy {
        let mut registers = [0; COPIED_REGISTERS];
        registers[STACK_POINTER] = 0x7000_0000;
        StackCopy {
            registers,
            ip: Avma(ip),
            frames_before,
            all_registers: true,
            sp_lost: false,
            stack: words.iter().flat_map(|word| word.to_ne_bytes()).collect(),
        }
    }

    #[test]
    fn every_field_survives() {
        let sent = Sample {
            kernel: vec![Avma(0xffff_8000_0000_1234)],
            kernel_outcome: StackOutcome::TooDeep,
            is_user_mode: false,
            by_parent_mappings: true,
            is_exiting: true,
            generation: 7,
            frame_pointer_frames: 1,
            copy: Some(Box::new(stack_copy_at(0x1030, 2, &[1, 2, 3]))),
            ..sample()
        };
        assert_eq!(decode_sample(&encode(&sent)), Ok(sent));
    }

    #[test]
    fn what_does_not_follow_the_abi_is_refused_with_its_reason() {
        let good = encode(&sample());
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            decode_sample(&bytes)
        };
        let header = size_of::<Header>();
        let short = |len: usize, need: usize| Err(RecordError::Short { len, need });
        assert_eq!(decode_sample(&good[..header + 15]), short(header + 15, header + 16));
        assert_eq!(decode_sample(&[]), short(0, header));
        assert_eq!(with(0, 9), Err(RecordError::Kind { kind: 9 }));
        assert_eq!(with(offset_of!(Header, user_stack), 200), Err(RecordError::Outcome { code: 200 }));
        assert_eq!(with(offset_of!(Header, kernel_frames), 128), Err(RecordError::Frames { frames: 128 }));
        let too_deep = with(offset_of!(Header, user_frames) + 1, 4);
        assert_eq!(too_deep, Err(RecordError::Frames { frames: 1026 }));
    }

    #[test]
    fn a_copy_that_does_not_follow_the_abi_is_refused() {
        let with_copy = |copy: StackCopy| encode(&Sample { copy: Some(Box::new(copy)), ..sample() });
        let good = with_copy(stack_copy_at(0x1030, 2, &[1, 2]));
        let cut = decode_sample(&good[..good.len() - 1]);
        assert_eq!(cut, Err(RecordError::Short { len: good.len() - 1, need: good.len() }));
        let from_nowhere = decode_sample(&with_copy(stack_copy_at(0x1030, 3, &[])));
        assert_eq!(from_nowhere, Err(RecordError::Copy { bytes: 0, frames_before: 3 }));
        let large = PYRITE_MAX_COPY_BYTES as usize / 8 + 1;
        let large = decode_sample(&with_copy(stack_copy_at(0x1030, 2, &vec![0; large])));
        assert_eq!(large, Err(RecordError::Copy { bytes: 16392, frames_before: 2 }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_decodes_encodes_the_same(mut bytes in proptest::collection::vec(any::<u8>(), 0..900), patch: bool, copied in 0_u8..80) {
            let header = size_of::<Header>();
            if patch && bytes.len() >= header {
                bytes[..4].copy_from_slice(&PYRITE_RECORD_SAMPLE.to_ne_bytes());
                bytes[offset_of!(Header, kernel_frames)..][..4].copy_from_slice(&[3, 0, 5, 0]);
                bytes[offset_of!(Header, kernel_stack)..][..2].copy_from_slice(&[1, 2]);
                let copy_at = header + 8 * (3 + 5);
                if bytes.len() >= copy_at + size_of::<Copied>() {
                    bytes[copy_at + offset_of!(Copied, frames_before)..][..2].copy_from_slice(&[copied % 7, 0]);
                    bytes[copy_at + offset_of!(Copied, bytes)..][..8].copy_from_slice(&[copied, 0, 0, 0, 0, 0, 0, 0]);
                }
            }
            if let Ok(sample) = decode_sample(&bytes) {
                prop_assert_eq!(decode_sample(&encode(&sample)), Ok(sample));
            }
        }
    }
}
