//! Counted stacks, second by second.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hash, Hasher};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use pyrite_bpf::StackOutcome;
use pyrite_model::{Avma, FileOffset, UnixMs};

use crate::{Comm, MappedFile, OffCpuStack, ProcessKey};

/// One frame in user space. Addresses of callers are those of the call, one byte before the return address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserFrame {
    /// Code of a file.
    File {
        /// Which file.
        file: Arc<MappedFile>,
        /// Where in it.
        offset: FileOffset,
    },
    /// Code of the kernel's vDSO.
    Vdso {
        /// Where in it.
        offset: FileOffset,
    },
    /// Code without a file, made by a JIT compiler.
    Anonymous(Avma),
    /// No mapping was known to hold this address.
    Unmapped(Avma),
}

/// Stacks of equal places in different files are rare, so hashing more than the place would only cost time.
impl Hash for UserFrame {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::File { offset: FileOffset(place), .. }
            | Self::Vdso { offset: FileOffset(place) }
            | Self::Anonymous(Avma(place))
            | Self::Unmapped(Avma(place)) => place.hash(state),
        }
    }
}

/// A stack trace and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SampledStack {
    /// The process.
    pub process: ProcessKey,
    /// The thread's name.
    pub comm: Comm,
    /// Id of the task's cgroup v2 directory.
    pub cgroup_id: u64,
    /// Whether the task is a kernel thread.
    pub is_kernel_thread: bool,
    /// Whether some of the user frames were found by the frame pointer for want of unwind information.
    pub has_guessed_frames: bool,
    /// How the kernel stack's walk ended.
    pub kernel_outcome: StackOutcome,
    /// How the user stack's walk ended.
    pub user_outcome: StackOutcome,
    /// Frames in the kernel, leaf first; they come before the user frames.
    pub kernel: Vec<Avma>,
    /// Frames in user space, leaf first.
    pub user: Vec<UserFrame>,
}

/// How often a stack was met within one second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedStack {
    /// The stack.
    pub stack: SampledStack,
    /// Ticks that met it.
    pub count: u64,
}

/// The stacks of one second. A second may come in several parts; counts add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Second {
    /// The wall-clock second.
    pub start: UnixMs,
    /// Its stacks, each once, in no particular order.
    pub stacks: Vec<CountedStack>,
    /// Time off the CPU that was accounted in it, each stack and state once.
    pub off_cpu: Vec<OffCpuStack>,
}

impl Second {
    /// Ticks in all its stacks.
    pub fn ticks(&self) -> u64 {
        self.stacks.iter().map(|counted| counted.count).sum()
    }

    /// About what it holds in memory.
    pub fn bytes(&self) -> usize {
        let of_frames = |stack: &SampledStack| {
            stack.kernel.len() * size_of::<Avma>() + stack.user.len() * size_of::<UserFrame>()
        };
        let running: usize = self.stacks.iter().map(|counted| of_frames(&counted.stack)).sum();
        // Shared with the blocks that are still open, but whoever waits for this second may be the last to hold it.
        let off: usize =
            self.off_cpu.iter().map(|off| of_frames(&off.stack) + size_of::<OffCpuStack>()).sum();
        running + self.stacks.len() * size_of::<CountedStack>() + off
    }
}

/// Seconds that may still grow.
#[derive(Debug, Default)]
pub(crate) struct OpenSeconds {
    seconds: BTreeMap<UnixMs, HashTable<Hashed>>,
    hashing: DefaultHashBuilder,
    distinct: usize,
    ticks: u64,
}

/// Hashing a stack costs as much as all the rest of counting it, so that a table that grows must not do it again.
#[derive(Debug)]
struct Hashed {
    hash: u64,
    counted: CountedStack,
}

impl OpenSeconds {
    /// Counts one tick. Returns false where that would make more than `limit` distinct stacks.
    pub(crate) fn add(&mut self, start: UnixMs, stack: SampledStack, limit: usize) -> bool {
        let hash = self.hashing.hash_one(&stack);
        let second = self.seconds.entry(start).or_default();
        let same = |known: &Hashed| known.hash == hash && known.counted.stack == stack;
        if let Some(known) = second.find_mut(hash, same) {
            known.counted.count += 1;
        } else if self.distinct < limit {
            let counted = CountedStack { stack, count: 1 };
            second.insert_unique(hash, Hashed { hash, counted }, |known| known.hash);
            self.distinct += 1;
        } else {
            return false;
        }
        self.ticks += 1;
        true
    }

    /// Ticks in all open seconds.
    pub(crate) fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Takes every second but `current` and its successor.
    pub(crate) fn take_all_but(&mut self, current: Option<UnixMs>) -> Vec<Second> {
        let seconds: Vec<Second> = take_finished(&mut self.seconds, current)
            .map(|(start, stacks)| Second {
                start,
                stacks: stacks.into_iter().map(|hashed| hashed.counted).collect(),
                off_cpu: Vec::new(),
            })
            .filter(|second| !second.stacks.is_empty())
            .collect();
        self.distinct -= seconds.iter().map(|second| second.stacks.len()).sum::<usize>();
        self.ticks -= seconds.iter().map(Second::ticks).sum::<u64>();
        seconds
    }
}

/// Takes the seconds that are over: all but `current` and its successor, which may still grow. Those after that exist only
/// where the wall clock was set back.
pub(crate) fn take_finished<T>(
    seconds: &mut BTreeMap<UnixMs, T>,
    current: Option<UnixMs>,
) -> impl Iterator<Item = (UnixMs, T)> {
    let may_grow = move |start: UnixMs| current.is_some_and(|now| (0..=1000).contains(&(start.0 - now.0)));
    seconds.extract_if(.., move |start, _| !may_grow(*start))
}
