//! Blocks: the time between a thread's departure from a CPU and its return, accounted to seconds.
//!
//! A block that has ended is accounted in the second of its end. One that is still open is accounted every five seconds
//! for what has passed since, so that a thread that sleeps for an hour shows in every window; five and not one, because
//! a node has hundreds of sleeping threads and each stack of theirs is a row every time. Where they are more, it takes
//! longer. Timelines have steps of 5, 10, 15, 30 or 60 s, so no step gets more of these rows than another.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};
use pyrite_bpf::{Note, OffFate, TickFate};
use pyrite_model::UnixMs;

use super::{Left, OffCpuEnd, OffFates, Tail};
use crate::second::take_finished;
use crate::{BootNs, Notes, SampledStack, Second, WallClock};

/// How often open blocks are accounted: as often as makes no more rows a second than [`OPEN_ROWS_PER_SECOND`], and at least
/// every last of these.
const ACCOUNT_EVERY_MS: [i64; 5] = [5_000, 10_000, 15_000, 30_000, 60_000];
/// A tenth of a percent of a CPU.
const OPEN_ROWS_PER_SECOND: i64 = 100;

/// What a thread does, off the CPU or on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ThreadState {
    /// It runs.
    Running,
    /// It waits for a CPU.
    Runnable,
    /// It waits for something else.
    Blocked,
}

impl ThreadState {
    /// The value of the label `state`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Runnable => "runnable",
            Self::Blocked => "blocked",
        }
    }
}

/// Time that threads spent off the CPU at one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffCpuStack {
    /// The stack at which they left.
    pub stack: Arc<SampledStack>,
    /// What they waited for.
    pub state: ThreadState,
    /// How long, all together; weighted, so that it stands for what was not captured as well.
    pub ns: u64,
}

/// Bounds of what is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockLimits {
    /// Blocks open at once.
    pub(crate) open: usize,
    /// Distinct stacks of open blocks, and of seconds that were not told yet.
    pub(crate) stacks: usize,
}

/// What names a departure: which thread left, and when.
pub(crate) type DepartureId = (u32, BootNs);

#[derive(Debug)]
struct Block {
    start: BootNs,
    accounted: BootNs,
    stack: Arc<SampledStack>,
    left: Left,
}

/// All open blocks, and what was accounted and not told yet.
#[derive(Debug)]
pub(crate) struct Blocks {
    limits: BlockLimits,
    /// By tid: a thread is in one place at a time.
    open: HashMap<u32, Block>,
    /// Each stack once, however many threads sleep in it.
    stacks: HashSet<Arc<SampledStack>>,
    /// Departures that wait for their turn, for their process to be read from `/proc` or for an unwind table, and their end
    /// where that is here already. As many as samples may wait for that.
    under_way: HashMap<DepartureId, Option<OffCpuEnd>>,
    seconds: BTreeMap<UnixMs, HashMap<(Arc<SampledStack>, ThreadState), u64>>,
    distinct: usize,
    accounted_up_to: UnixMs,
    pub(crate) fates: OffFates,
    pub(crate) notes: Notes,
}

impl Blocks {
    pub(crate) fn new(limits: BlockLimits) -> Self {
        Self {
            limits,
            open: HashMap::new(),
            stacks: HashSet::new(),
            under_way: HashMap::new(),
            seconds: BTreeMap::new(),
            distinct: 0,
            accounted_up_to: UnixMs::default(),
            fates: OffFates::default(),
            notes: Notes::default(),
        }
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// A departure has come in. [`Self::left`] or [`Self::lose`] will say what becomes of it.
    pub(crate) fn expect(&mut self, departure: DepartureId) {
        self.under_way.insert(departure, None);
    }

    /// A thread left the CPU.
    pub(crate) fn left(&mut self, departure: DepartureId, stack: SampledStack, left: Left, clock: WallClock) {
        let (tid, start) = departure;
        self.ran_until(tid, start);
        match self.under_way.remove(&departure) {
            // Most are back within the time for which records are held.
            Some(Some(end)) => {
                let block = Block { start, accounted: start, stack: Arc::new(stack), left };
                self.close(&block, end, clock);
            }
            Some(None) => self.open(departure, stack, left),
            // Ends were lost meanwhile, and its own may be one of them.
            None => self.fates.count(OffFate::EndLost),
        }
    }

    fn open(&mut self, (tid, start): DepartureId, stack: SampledStack, left: Left) {
        let is_full = self.open.len() >= self.limits.open
            || (self.stacks.len() >= self.limits.stacks && !self.stacks.contains(&stack));
        if is_full {
            self.fates.count(OffFate::OpenFull);
            return;
        }
        match self.open.entry(tid) {
            // One that was held up, and has a successor.
            Entry::Occupied(_) => self.fates.count(OffFate::EndLost),
            Entry::Vacant(free) => {
                let stack = Arc::clone(self.stacks.get_or_insert(Arc::new(stack)));
                free.insert(Block { start, accounted: start, stack, left });
            }
        }
    }

    /// A thread ran right before `time`, so that what it left earlier than that is over, and its end was lost.
    pub(crate) fn ran_until(&mut self, tid: u32, time: BootNs) {
        if self.open.get(&tid).is_some_and(|open| open.start < time) {
            self.open.remove(&tid);
            self.fates.count(OffFate::EndLost);
        }
    }

    /// A thread is back.
    pub(crate) fn ended(&mut self, end: OffCpuEnd, clock: WallClock) {
        self.ran_until(end.tid, end.start);
        if let Entry::Occupied(open) = self.open.entry(end.tid)
            && open.get().start == end.start
        {
            let block = open.remove();
            self.close(&block, end, clock);
        } else if let Some(known_end) = self.under_way.get_mut(&(end.tid, end.start)) {
            *known_end = Some(end);
        }
        // Any other departure was lost and counted.
    }

    fn close(&mut self, block: &Block, end: OffCpuEnd, clock: WallClock) {
        self.account(clock.second_of(end.end), block, end.end, end.runnable_ns);
        self.fates.count(OffFate::Closed);
    }

    /// A thread is back whose stack nobody took.
    pub(crate) fn tail(&mut self, end: BootNs, stack: SampledStack, tail: Tail, clock: WallClock) {
        self.notes.add(Note::OffCpuTail, 1);
        let second = clock.second_of(end);
        let stack = Arc::new(stack);
        let runnable_ns = tail.runnable_ns.unwrap_or(0).min(tail.tail_ns);
        self.add(second, &stack, ThreadState::Blocked, tail.probability.weigh(tail.tail_ns - runnable_ns));
        self.add(second, &stack, ThreadState::Runnable, tail.probability.weigh(runnable_ns));
    }

    /// The record of a departure does not follow the ABI.
    pub(crate) fn malformed(&mut self) {
        self.fates.count(OffFate::Malformed);
    }

    /// A departure is given up, for what would lose a tick as well.
    pub(crate) fn lose(&mut self, departure: DepartureId, why: TickFate) {
        self.under_way.remove(&departure);
        self.fates.count(match why {
            TickFate::Filtered => OffFate::Filtered,
            TickFate::WaitingFull => OffFate::WaitingFull,
            _ => OffFate::PendingFull,
        });
    }

    /// A tail was lost.
    pub(crate) fn lose_tail(&mut self) {
        self.notes.add(Note::OffCpuTailLost, 1);
    }

    /// An end was lost: nobody knows which blocks are still open, so none is taken for open any more.
    pub(crate) fn lose_end(&mut self) {
        self.notes.add(Note::OffCpuEndLost, 1);
        self.under_way.retain(|_, end| end.is_some());
        for _ in self.open.drain() {
            self.fates.count(OffFate::EndLost);
        }
    }

    /// Accounts open blocks where it is time, and returns the seconds that are over: those of `seconds`, to which it adds
    /// its own. The second `current` and its successor may still grow.
    pub(crate) fn take_with(
        &mut self,
        mut seconds: Vec<Second>,
        until: BootNs,
        clock: WallClock,
        current: Option<UnixMs>,
    ) -> Vec<Second> {
        self.account_open(clock.second_of(until), clock);
        for (start, values) in take_finished(&mut self.seconds, current) {
            self.distinct -= values.len();
            let values = values.into_iter().map(|((stack, state), ns)| OffCpuStack { stack, state, ns });
            match seconds.iter_mut().find(|second| second.start == start) {
                Some(second) => second.off_cpu.extend(values),
                None => seconds.push(Second { start, stacks: Vec::new(), off_cpu: values.collect() }),
            }
        }
        seconds.sort_by_key(|second| second.start);
        seconds
    }

    /// Accounts what is open up to the last round time, once it is past.
    fn account_open(&mut self, now: UnixMs, clock: WallClock) {
        // Of the stacks some are no longer open, and blocks can share one.
        let rows = self.stacks.len().min(self.open.len()) as i64;
        let is_rare_enough = |every_ms: &i64| rows * 1_000 <= OPEN_ROWS_PER_SECOND * every_ms;
        let [.., rarest] = ACCOUNT_EVERY_MS;
        let every_ms = ACCOUNT_EVERY_MS.into_iter().find(is_rare_enough).unwrap_or(rarest);
        let up_to = UnixMs(now.0 - now.0.rem_euclid(every_ms));
        // Later than now it is where the wall clock was set back.
        if (up_to..=now).contains(&self.accounted_up_to) {
            return;
        }
        self.accounted_up_to = up_to;
        let boundary_ns = i128::from(up_to.0) * 1_000_000 - i128::from(clock.boot_at_unix_ns);
        // The second that ends here, so that the row is stamped with the boundary.
        let second = UnixMs(up_to.0 - 1000);
        self.account_in_second(BootNs(u64::try_from(boundary_ns).unwrap_or(0)), second);
        self.stacks.retain(|stack| Arc::strong_count(stack) > 1);
    }

    /// Accounts what is open up to `until`.
    pub(crate) fn account_all(&mut self, until: BootNs, clock: WallClock) {
        self.account_in_second(until, clock.second_of(until));
    }

    fn account_in_second(&mut self, until: BootNs, second: UnixMs) {
        let mut open = std::mem::take(&mut self.open);
        for block in open.values_mut().filter(|block| block.accounted < until) {
            self.account(second, block, until, None);
            block.accounted = until;
        }
        self.open = open;
    }

    /// Accounts a block from where it was accounted up to `up_to`, of which the last `runnable_ns` in its run queue.
    fn account(&mut self, second: UnixMs, block: &Block, up_to: BootNs, runnable_ns: Option<u64>) {
        let (from, up_to) = (block.accounted.0, up_to.0.max(block.accounted.0));
        let runnable_ns = if block.left.is_preempted { u64::MAX } else { runnable_ns.unwrap_or(0) };
        let queued = up_to.saturating_sub(runnable_ns).max(from);
        self.add(second, &block.stack, ThreadState::Blocked, block.value(queued) - block.value(from));
        self.add(second, &block.stack, ThreadState::Runnable, block.value(up_to) - block.value(queued));
    }

    fn add(&mut self, second: UnixMs, stack: &Arc<SampledStack>, state: ThreadState, ns: u64) {
        if ns == 0 {
            return;
        }
        match self.seconds.entry(second).or_default().entry((Arc::clone(stack), state)) {
            Entry::Occupied(mut known) => *known.get_mut() = known.get().saturating_add(ns),
            Entry::Vacant(free) if self.distinct < self.limits.stacks => {
                free.insert(ns);
                self.distinct += 1;
            }
            Entry::Vacant(_) => self.notes.add(Note::OffCpuStackLost, 1),
        }
    }
}

impl Block {
    /// What the block stands for from its start up to `at`.
    fn value(&self, at: u64) -> u64 {
        let ns = at.saturating_sub(self.start.0);
        let head_ns = ns.min(self.left.head_ns);
        self.left.probability.weigh(head_ns).saturating_add(ns - head_ns)
    }
}

#[cfg(test)]
mod tests;
