//! Sample records: the bytes that the BPF sampler put into the ring, made into a [`Sample`]. Layout: `bpf/include/abi.h`.

use std::mem::offset_of;

use pyrite_bpf::StackOutcome;
use pyrite_bpf::abi::{
    PYRITE_COMM_BYTES, PYRITE_MAX_FRAMES, PYRITE_RECORD_SAMPLE, PYRITE_SAMPLE_KERNEL_THREAD,
    PYRITE_SAMPLE_USER_MODE, pyrite_sample_header as Header,
};
use pyrite_model::Avma;

use crate::{BootNs, Comm};

/// One tick that met a running task. Frames are leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// How the kernel stack's walk ended.
    pub kernel_outcome: StackOutcome,
    /// How the user stack's walk ended.
    pub user_outcome: StackOutcome,
    /// Addresses in the kernel.
    pub kernel: Vec<Avma>,
    /// Addresses in the process.
    pub user: Vec<Avma>,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the header, or than the frames it announces.
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
}

/// Decodes a sample record.
///
/// # Errors
/// Anything that does not follow the ABI; trailing bytes are allowed, as the ring pads.
pub fn decode_sample(bytes: &[u8]) -> Result<Sample, RecordError> {
    let header = field::<{ size_of::<Header>() }>(bytes, 0)?;
    let header = &header;
    let kind = u32_at(header, offset_of!(Header, kind))?;
    if kind != PYRITE_RECORD_SAMPLE {
        return Err(RecordError::Kind { kind });
    }
    let kernel_frames = frame_count(header, offset_of!(Header, kernel_frames))?;
    let user_frames = frame_count(header, offset_of!(Header, user_frames))?;
    let frames_at = size_of::<Header>();
    let need = frames_at + 8 * (kernel_frames + user_frames);
    let frames = bytes.get(frames_at..need).ok_or(RecordError::Short { len: bytes.len(), need })?;
    let mut frames = frames.as_chunks::<8>().0.iter().map(|frame| Avma(u64::from_ne_bytes(*frame)));
    let flags = u32::from(header[offset_of!(Header, flags)]);
    Ok(Sample {
        time: BootNs(u64_at(header, offset_of!(Header, time_boot_ns))?),
        tgid: u32_at(header, offset_of!(Header, tgid))?,
        tid: u32_at(header, offset_of!(Header, tid))?,
        start: BootNs(u64_at(header, offset_of!(Header, start_boot_ns))?),
        cgroup_id: u64_at(header, offset_of!(Header, cgroup_id))?,
        cpu: u32_at(header, offset_of!(Header, cpu))?,
        comm: Comm::new(&field::<{ PYRITE_COMM_BYTES as usize }>(header, offset_of!(Header, comm))?),
        is_kernel_thread: flags & PYRITE_SAMPLE_KERNEL_THREAD != 0,
        is_user_mode: flags & PYRITE_SAMPLE_USER_MODE != 0,
        kernel_outcome: outcome(header[offset_of!(Header, kernel_stack)])?,
        user_outcome: outcome(header[offset_of!(Header, user_stack)])?,
        kernel: frames.by_ref().take(kernel_frames).collect(),
        user: frames.collect(),
    })
}

fn outcome(code: u8) -> Result<StackOutcome, RecordError> {
    StackOutcome::from_code(code).ok_or(RecordError::Outcome { code })
}

fn frame_count(header: &[u8], at: usize) -> Result<usize, RecordError> {
    let frames = u16::from_ne_bytes(field(header, at)?);
    if u32::from(frames) > PYRITE_MAX_FRAMES {
        return Err(RecordError::Frames { frames });
    }
    Ok(usize::from(frames))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, RecordError> {
    field(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, RecordError> {
    field(bytes, at).map(u64::from_ne_bytes)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], RecordError> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    found.copied().ok_or(RecordError::Short { len: bytes.len(), need: at + N })
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
        let flags = (u32::from(sample.is_kernel_thread) * PYRITE_SAMPLE_KERNEL_THREAD)
            | (u32::from(sample.is_user_mode) * PYRITE_SAMPLE_USER_MODE);
        put(offset_of!(Header, flags), &[flags as u8]);
        put(offset_of!(Header, comm), sample.comm.as_bytes());
        for frame in sample.kernel.iter().chain(&sample.user) {
            bytes.extend(frame.0.to_ne_bytes());
        }
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
            kernel_outcome: StackOutcome::Absent,
            user_outcome: StackOutcome::Walked,
            kernel: vec![],
            user: vec![Avma(0x1010), Avma(0x1020)],
        }
    }

    #[test]
    fn every_field_survives() {
        let sent = Sample {
            kernel: vec![Avma(0xffff_8000_0000_1234)],
            kernel_outcome: StackOutcome::Truncated,
            is_user_mode: false,
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
        assert_eq!(decode_sample(&good[..79]), Err(RecordError::Short { len: 79, need: 80 }));
        assert_eq!(decode_sample(&[]), Err(RecordError::Short { len: 0, need: 64 }));
        assert_eq!(with(0, 9), Err(RecordError::Kind { kind: 9 }));
        assert_eq!(with(offset_of!(Header, user_stack), 200), Err(RecordError::Outcome { code: 200 }));
        assert_eq!(with(offset_of!(Header, user_frames), 128), Err(RecordError::Frames { frames: 128 }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_decodes_encodes_the_same(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), patch: bool) {
            if patch && bytes.len() >= 64 {
                bytes[..4].copy_from_slice(&PYRITE_RECORD_SAMPLE.to_ne_bytes());
                bytes[offset_of!(Header, kernel_frames)..][..4].copy_from_slice(&[3, 0, 5, 0]);
                bytes[offset_of!(Header, kernel_stack)..][..2].copy_from_slice(&[1, 2]);
            }
            if let Ok(sample) = decode_sample(&bytes) {
                prop_assert_eq!(decode_sample(&encode(&sample)), Ok(sample));
            }
        }
    }
}
