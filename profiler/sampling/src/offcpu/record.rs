//! What the BPF program says of threads that leave a CPU and come back. Layout: `bpf/include/abi.h`.

use std::mem::offset_of;

use pyrite_bpf::StackOutcome;
use pyrite_bpf::abi::{
    PYRITE_COMM_BYTES, PYRITE_OFF_CPU_UNIT_SHIFT, PYRITE_RECORD_OFF_CPU, PYRITE_RECORD_OFF_CPU_END,
    PYRITE_RECORD_OFF_CPU_TAIL, PYRITE_SAMPLE_PREEMPTED, pyrite_off_cpu_end as End,
    pyrite_off_cpu_tail as TailRecord, pyrite_sample_header as Header,
};

use crate::record::{decode_kind, field, u32_at, u64_at};
use crate::{BootNs, Comm, RecordError, Sample, decode_sample};

/// `PYRITE_RUNNABLE_UNKNOWN`, which bindgen does not carry over.
const UNKNOWN: u64 = u64::MAX;

/// With what probability something was recorded; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probability(u32);

impl Probability {
    /// Recorded whatever the dice said.
    pub const CERTAIN: Self = Self(u32::MAX);

    /// From units of 2⁻³², where all ones mean certain; `None` for 0.
    pub fn new(per_2_32: u32) -> Option<Self> {
        (per_2_32 != 0).then_some(Self(per_2_32))
    }

    /// What a recorded `ns` stands for: itself and what was not recorded.
    pub fn weigh(self, ns: u64) -> u64 {
        match self {
            Self::CERTAIN => ns,
            Self(chance) => u64::try_from((u128::from(ns) << 32) / u128::from(chance)).unwrap_or(u64::MAX),
        }
    }
}

/// What makes a sample one of time off the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffCpu {
    /// The thread leaves the CPU, its stack is taken.
    Left(Left),
    /// The thread came back after longer than foreseen; no stack was taken.
    Tail(Tail),
}

/// A captured departure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// How likely it was to be captured.
    pub probability: Probability,
    /// So much of the time off the CPU is weighted by the probability; what is longer counts once.
    pub head_ns: u64,
    /// Whether the thread was ready to run on.
    pub is_preempted: bool,
}

/// The part of a departure beyond its head, where no stack was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// How likely it was to be recorded.
    pub probability: Probability,
    /// How long.
    pub tail_ns: u64,
    /// How much of it, at its end, the thread waited for a CPU; `None` where the kernel does not say.
    pub runnable_ns: Option<u64>,
}

/// A captured thread is back on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffCpuEnd {
    /// Thread id.
    pub tid: u32,
    /// When it had left; names the departure together with the tid.
    pub start: BootNs,
    /// When it came back.
    pub end: BootNs,
    /// How much of it, at its end, the thread waited for a CPU; `None` where the kernel does not say.
    pub runnable_ns: Option<u64>,
}

/// Any record of the sample ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RingRecord {
    /// A tick, a departure or a tail.
    Sample(Sample),
    /// The end of a departure.
    End(OffCpuEnd),
}

/// What a record that does not follow the ABI would have told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A tick, or nothing that there is.
    Tick,
    /// A departure.
    Left,
    /// The end of one.
    End,
    /// A tail.
    Tail,
}

/// Decodes a record of any kind.
pub(crate) fn decode_record(bytes: &[u8]) -> Result<RingRecord, Broken> {
    let (decoded, broken) = match u32_at(bytes, 0) {
        Ok(PYRITE_RECORD_OFF_CPU) => (decode_left(bytes).map(RingRecord::Sample), Broken::Left),
        Ok(PYRITE_RECORD_OFF_CPU_END) => (decode_end(bytes).map(RingRecord::End), Broken::End),
        Ok(PYRITE_RECORD_OFF_CPU_TAIL) => (decode_tail(bytes).map(RingRecord::Sample), Broken::Tail),
        _ => (decode_sample(bytes).map(RingRecord::Sample), Broken::Tick),
    };
    decoded.or(Err(broken))
}

fn decode_left(bytes: &[u8]) -> Result<Sample, RecordError> {
    let mut sample = decode_kind(bytes, PYRITE_RECORD_OFF_CPU)?;
    sample.off_cpu = Some(OffCpu::Left(Left {
        probability: probability(u32_at(bytes, offset_of!(Header, probability))?)?,
        head_ns: u64::from(u32_at(bytes, offset_of!(Header, head))?) << PYRITE_OFF_CPU_UNIT_SHIFT,
        is_preempted: u32::from(bytes[offset_of!(Header, flags)]) & PYRITE_SAMPLE_PREEMPTED != 0,
    }));
    Ok(sample)
}

fn decode_end(bytes: &[u8]) -> Result<OffCpuEnd, RecordError> {
    let bytes = &field::<{ size_of::<End>() }>(bytes, 0)?;
    Ok(OffCpuEnd {
        tid: u32_at(bytes, offset_of!(End, tid))?,
        start: BootNs(u64_at(bytes, offset_of!(End, start_boot_ns))?),
        end: BootNs(u64_at(bytes, offset_of!(End, end_boot_ns))?),
        runnable_ns: known(u64_at(bytes, offset_of!(End, runnable_ns))?),
    })
}

fn decode_tail(bytes: &[u8]) -> Result<Sample, RecordError> {
    let bytes = &field::<{ size_of::<TailRecord>() }>(bytes, 0)?;
    let tail = Tail {
        probability: probability(u32_at(bytes, offset_of!(TailRecord, probability))?)?,
        tail_ns: u64_at(bytes, offset_of!(TailRecord, tail_ns))?,
        runnable_ns: known(u64_at(bytes, offset_of!(TailRecord, runnable_ns))?),
    };
    Ok(Sample {
        time: BootNs(u64_at(bytes, offset_of!(TailRecord, end_boot_ns))?),
        tgid: u32_at(bytes, offset_of!(TailRecord, tgid))?,
        tid: u32_at(bytes, offset_of!(TailRecord, tid))?,
        start: BootNs(u64_at(bytes, offset_of!(TailRecord, start_boot_ns))?),
        cgroup_id: u64_at(bytes, offset_of!(TailRecord, cgroup_id))?,
        comm: Comm::new(&field::<{ PYRITE_COMM_BYTES as usize }>(bytes, offset_of!(TailRecord, comm))?),
        cpu: 0,
        is_kernel_thread: bytes[offset_of!(TailRecord, is_kernel_thread)] != 0,
        is_exiting: false,
        is_user_mode: false,
        by_parent_mappings: false,
        generation: 0,
        frame_pointer_frames: 0,
        kernel_outcome: StackOutcome::Absent,
        user_outcome: StackOutcome::NotTaken,
        kernel: Vec::new(),
        user: Vec::new(),
        copy: None,
        off_cpu: Some(OffCpu::Tail(tail)),
    })
}

fn probability(per_2_32: u32) -> Result<Probability, RecordError> {
    Probability::new(per_2_32).ok_or(RecordError::Improbable)
}

fn known(runnable_ns: u64) -> Option<u64> {
    (runnable_ns != UNKNOWN).then_some(runnable_ns)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::tests::{encode, sample};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    /// One in four, for a millisecond.
    pub(crate) fn departure() -> Left {
        Left { probability: Probability(1 << 30), head_ns: 1 << 20, is_preempted: true }
    }

    /// The bytes that the BPF program would write for a departure with the stack of `sample`.
    pub(crate) fn encode_left(sample: &Sample, left: Left) -> Vec<u8> {
        let mut bytes = encode(sample);
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(offset_of!(Header, kind), PYRITE_RECORD_OFF_CPU);
        put(offset_of!(Header, probability), left.probability.0);
        put(offset_of!(Header, head), (left.head_ns >> PYRITE_OFF_CPU_UNIT_SHIFT) as u32);
        bytes[offset_of!(Header, flags)] |= (u32::from(left.is_preempted) * PYRITE_SAMPLE_PREEMPTED) as u8;
        bytes
    }

    pub(crate) fn encode_end(end: &OffCpuEnd) -> Vec<u8> {
        let mut bytes = PYRITE_RECORD_OFF_CPU_END.to_ne_bytes().to_vec();
        bytes.extend(end.tid.to_ne_bytes());
        for word in [end.start.0, end.end.0, end.runnable_ns.unwrap_or(UNKNOWN)] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes
    }

    /// The bytes that the BPF program would write for a tail of the thread that `sample` is of.
    pub(crate) fn encode_tail(sample: &Sample, tail: Tail) -> Vec<u8> {
        let mut bytes = PYRITE_RECORD_OFF_CPU_TAIL.to_ne_bytes().to_vec();
        bytes.extend(tail.probability.0.to_ne_bytes());
        let runnable_ns = tail.runnable_ns.unwrap_or(UNKNOWN);
        for word in [sample.time.0, tail.tail_ns, runnable_ns, sample.start.0, sample.cgroup_id] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(sample.tgid.to_ne_bytes());
        bytes.extend(sample.tid.to_ne_bytes());
        bytes.extend([u8::from(sample.is_kernel_thread), 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(sample.comm.as_bytes());
        bytes.resize(size_of::<TailRecord>(), 0);
        bytes
    }

    #[test]
    fn every_kind_of_record_says_what_was_written() {
        let left = Sample { off_cpu: Some(OffCpu::Left(departure())), ..sample() };
        assert_eq!(decode_record(&encode_left(&left, departure())), Ok(RingRecord::Sample(left)));
        for runnable_ns in [None, Some(7)] {
            let end = OffCpuEnd { tid: 9, start: BootNs(3), end: BootNs(5), runnable_ns };
            assert_eq!(decode_record(&encode_end(&end)), Ok(RingRecord::End(end)));
            let tail = Tail { probability: Probability::CERTAIN, tail_ns: 11, runnable_ns };
            let Ok(RingRecord::Sample(decoded)) = decode_record(&encode_tail(&sample(), tail)) else {
                panic!("not a tail")
            };
            assert_eq!(decoded.off_cpu, Some(OffCpu::Tail(tail)));
            assert_eq!((decoded.time, decoded.tgid, decoded.tid), (sample().time, 42, 43));
            assert_eq!((decoded.comm, decoded.cgroup_id, decoded.start), (sample().comm, 99, sample().start));
            assert_eq!((decoded.user_outcome, decoded.user), (StackOutcome::NotTaken, vec![]));
        }
    }

    #[test]
    fn broken_records_go_into_the_books_they_belong_to() {
        let impossible = Left { probability: Probability(0), ..departure() };
        assert_eq!(decode_record(&encode_left(&sample(), impossible)), Err(Broken::Left));
        assert_eq!(decode_record(&encode_left(&sample(), departure())[..70]), Err(Broken::Left));
        assert_eq!(decode_record(&PYRITE_RECORD_OFF_CPU_END.to_ne_bytes()), Err(Broken::End));
        assert_eq!(decode_record(&PYRITE_RECORD_OFF_CPU_TAIL.to_ne_bytes()), Err(Broken::Tail));
        assert_eq!(decode_record(&99_u32.to_ne_bytes()), Err(Broken::Tick));
        assert_eq!(decode_record(&[]), Err(Broken::Tick));
    }

    #[test]
    fn weights_are_the_inverse_of_probabilities() {
        assert_eq!(Probability(1 << 30).weigh(5), 20);
        assert_eq!(Probability::CERTAIN.weigh(5), 5);
        assert_eq!(Probability(1).weigh(u64::MAX), u64::MAX);
        assert_eq!(Probability::new(0), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0..6_u32, mut bytes in proptest::collection::vec(any::<u8>(), 4..200)) {
            bytes[..4].copy_from_slice(&kind.to_ne_bytes());
            if let Ok(RingRecord::End(end)) = decode_record(&bytes) {
                prop_assert_eq!(encode_end(&end), &bytes[..size_of::<End>()]);
            }
        }
    }
}
