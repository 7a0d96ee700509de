//! The whole of sampling as one function of its input: what the rings gave, in order of time, becomes counted stacks.
//!
//! Samples and mapping events come from different rings, so they are held until a horizon that every ring has been read
//! up to, and then taken in order of time: a sample meets the mappings of its moment.

use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_bpf::{Note, TickFate};
use pyrite_model::UnixMs;

use crate::copies::{Copies, Unfinished};
use crate::offcpu::{BlockLimits, Blocks, IsTick, RingRecord, decode_record};
use crate::processes::{Lookup, Processes};
use crate::second::OpenSeconds;
use crate::tape::Taping;
use crate::trust::{Located, Trust};
use crate::{
    BootNs, Change, ChangeKind, Command, Event, Fates, Filter, LoadFailure, LoadedProcess, Mappings, Notes,
    OffCpu, OffFates, ProcessKey, Sample, SampledStack, TapeEntry, Unwinder, UserFrame, WallClock,
    decode_change,
};

/// Bounds of everything that grows (invariant I4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes known at once.
    pub processes: usize,
    /// Executable mappings of one process.
    pub mappings_per_process: usize,
    /// Executable mappings of all processes.
    pub mappings: usize,
    /// Records between two calls of [`Sampling::advance`].
    pub pending: usize,
    /// Samples that wait for their process to be read from `/proc`.
    pub waiting: usize,
    /// Distinct stacks within the seconds that are still open.
    pub stacks: usize,
    /// Samples whose copied stack waits for an unwind table.
    pub copies: usize,
    /// Copied stacks in all samples that are held, in bytes.
    pub copy_bytes: usize,
    /// Threads off the CPU at once, of those that were captured.
    pub blocks: usize,
    /// Their distinct stacks, and as many that were accounted and not told yet.
    pub block_stacks: usize,
}

impl Default for Limits {
    /// Enough for a node with 200 CPUs at 97 Hz. Two CPUs and 100 processes hold about half a megabyte in all.
    fn default() -> Self {
        Self {
            processes: 16_384,
            mappings_per_process: 4_096,
            mappings: 262_144,
            pending: 32_768,
            waiting: 4_096,
            stacks: 32_768,
            copies: 2048,
            copy_bytes: 8 << 20,
            blocks: 32_768,
            block_stacks: 8_192,
        }
    }
}

#[derive(Debug)]
enum Pending {
    Sample(Sample),
    Change(ChangeKind),
}

/// Records in, counted stacks out.
#[derive(Debug)]
pub struct Sampling {
    limits: Limits,
    pending: Vec<(BootNs, Pending)>,
    /// Ticks between [`Sampling::on_record`] and their second.
    under_way: u64,
    processes: Processes,
    /// Samples by the process that is being read from `/proc`. A tgid is here from the asking to the answer.
    waiting: HashMap<u32, Vec<Sample>>,
    waiting_samples: usize,
    load: Vec<u32>,
    copies: Copies,
    seconds: OpenSeconds,
    /// Samples as they were counted, where somebody wants to see them.
    witnessed: Option<Vec<Sample>>,
    /// All that came in, where somebody wants to keep it.
    tape: Option<Vec<u8>>,
    blocks: Blocks,
    /// Up to when everything was taken.
    taken_until: BootNs,
    clock: WallClock,
    fates: Fates,
    notes: Notes,
}

impl Sampling {
    /// Knows no process yet.
    pub fn new(filter: Filter, limits: Limits) -> Self {
        Self {
            limits,
            pending: Vec::new(),
            under_way: 0,
            processes: Processes::new(filter, limits),
            waiting: HashMap::new(),
            waiting_samples: 0,
            load: Vec::new(),
            copies: Copies::new(limits),
            seconds: OpenSeconds::default(),
            witnessed: None,
            tape: None,
            blocks: Blocks::new(BlockLimits { open: limits.blocks, stacks: limits.block_stacks }),
            taken_until: BootNs::default(),
            clock: WallClock::default(),
            fates: Fates::default(),
            notes: Notes::default(),
        }
    }

    /// Keeps every sample as it is counted, until [`Self::take_witnessed`].
    pub fn witness(&mut self) {
        self.witnessed = Some(Vec::new());
    }

    /// The samples counted since the last call, their user stacks finished. None unless [`Self::witness`] was called.
    pub fn take_witnessed(&mut self) -> Vec<Sample> {
        self.witnessed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Writes down from now on all that comes in.
    pub fn tape(&mut self) {
        self.tape = Some(Vec::new());
    }

    /// What came in since the last call. Empty unless [`Self::tape`] was called.
    pub fn take_tape(&mut self) -> Vec<u8> {
        self.tape.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn on_tape(&mut self, entry: &TapeEntry<'_>) {
        if let Some(tape) = &mut self.tape {
            entry.write(tape);
        }
    }

    /// Takes one record of the BPF ring.
    pub fn on_record(&mut self, bytes: &[u8]) {
        self.on_tape(&TapeEntry::Record(bytes));
        let is_full = self.pending.len() >= self.limits.pending;
        match decode_record(bytes) {
            Err(IsTick(true)) => self.fates.add(TickFate::Malformed, 1),
            Err(IsTick(false)) => self.blocks.malformed(),
            Ok(RingRecord::Sample(sample)) if is_full => self.drop_sample(&sample, TickFate::PendingFull),
            Ok(RingRecord::Sample(mut sample)) => {
                self.copies.admit(&mut sample);
                self.under_way += u64::from(sample.off_cpu.is_none());
                self.pending.push((sample.time, Pending::Sample(sample)));
            }
            // It names its departure, so it need not come after it.
            Ok(RingRecord::End(end)) => self.blocks.ended(end, self.clock),
        }
    }

    /// The BPF program could not tell of the end of some times off the CPU.
    pub fn off_cpu_ends_lost(&mut self) {
        self.on_tape(&TapeEntry::EndsLost);
        self.blocks.lose_end();
    }

    /// Takes one record of a sideband ring.
    pub fn on_sideband(&mut self, bytes: &[u8]) {
        self.on_tape(&TapeEntry::Sideband(bytes));
        match decode_change(bytes) {
            Err(_) => self.notes.add(Note::SidebandMalformed, 1),
            Ok(Change { kind: ChangeKind::Other, .. }) => {}
            Ok(_) if self.pending.len() >= self.limits.pending => {
                self.notes.add(Note::SidebandFull, 1);
                self.processes.gap();
            }
            Ok(change) => {
                if let ChangeKind::Mapped { tgid, range } = &change.kind {
                    self.processes.meet(*tgid, range);
                }
                self.pending.push((change.time, Pending::Change(change.kind)));
            }
        }
    }

    /// Events may have been missed, for example because a CPU came online before its ring was opened.
    pub fn sideband_gap(&mut self) {
        self.on_tape(&TapeEntry::Gap);
        self.processes.gap();
    }

    /// Takes the answer to a load request, or a process nobody asked for (at the start).
    pub fn process_loaded(&mut self, tgid: u32, answer: Result<LoadedProcess, LoadFailure>) {
        if let Some(tape) = &mut self.tape {
            TapeEntry::Read(tgid, answer.clone()).write(tape);
        }
        match answer {
            Ok(loaded) => self.processes.loaded(&loaded),
            Err(failure) => self.processes.load_failed(failure),
        }
        for sample in self.waiting.remove(&tgid).unwrap_or_default() {
            self.waiting_samples -= 1;
            match self.processes.adopt(&sample) {
                Lookup::Filtered => self.lose(&sample, TickFate::Filtered),
                Lookup::Known | Lookup::Load => self.count(sample),
            }
        }
    }

    /// Takes everything up to `until` in order of time. Every ring must have been read up to there. Returns the processes
    /// to be read from `/proc`, each to be answered by [`Self::process_loaded`].
    #[must_use]
    pub fn advance(&mut self, until: BootNs, clock: WallClock) -> Vec<u32> {
        self.on_tape(&TapeEntry::Advance(until, clock));
        self.take_in(until, clock)
    }

    fn take_in(&mut self, until: BootNs, clock: WallClock) -> Vec<u32> {
        self.clock = clock;
        self.pending.sort_by_key(|(time, _)| *time);
        let due = self.pending.partition_point(|(time, _)| *time <= until);
        let later = self.pending.split_off(due);
        for (time, item) in std::mem::replace(&mut self.pending, later) {
            match item {
                Pending::Sample(sample) => self.on_sample(sample),
                Pending::Change(change) => self.on_change(time, &change),
            }
        }
        self.processes.advanced(until);
        self.load.append(&mut self.processes.to_read);
        std::mem::take(&mut self.load)
    }

    /// What the caller has to do for unwinding, once the load requests of [`Self::advance`] are answered.
    #[must_use]
    pub fn take_commands(&mut self) -> Vec<Command> {
        self.on_tape(&TapeEntry::Commands);
        self.processes.take_commands()
    }

    /// Finishes the copied stacks that came in up to `now`, once the commands of [`Self::take_commands`] are carried out.
    /// One whose unwind table is still being made waits a while.
    pub fn finish_copies(&mut self, unwinder: &mut dyn Unwinder, now: BootNs) {
        let finished = match &mut self.tape {
            Some(tape) => {
                TapeEntry::Copies(now).write(tape);
                self.copies.finish(&mut Taping { unwinder, tape }, now)
            }
            None => self.copies.finish(unwinder, now),
        };
        for Unfinished { sample, process, mappings, .. } in finished {
            let located = Trust::All.locate(&sample.user, &mappings);
            self.enter(sample, process, located);
        }
    }

    /// What there is to tell, once the load requests of [`Self::advance`] up to `until` are answered: news of processes
    /// and the seconds that are complete.
    #[must_use]
    pub fn take_events(&mut self, until: BootNs) -> Vec<Event> {
        self.on_tape(&TapeEntry::Events(until));
        self.taken_until = self.taken_until.max(until);
        self.take(until, Some(self.clock.second_of(until)))
    }

    /// Takes and tells everything there is. Samples whose process was never answered for count as lost; stacks that were
    /// not finished by [`Self::finish_copies`] stay as the BPF program walked them.
    #[must_use]
    pub fn finish(&mut self) -> Vec<Event> {
        self.on_tape(&TapeEntry::End);
        // Nobody will answer these requests: whoever wants the answers calls advance() first.
        drop(self.take_in(BootNs::MAX, self.clock));
        for sample in std::mem::take(&mut self.waiting).into_values().flatten() {
            self.lose(&sample, TickFate::WaitingFull);
        }
        self.waiting_samples = 0;
        for Unfinished { sample, process, mappings, .. } in self.copies.take_all() {
            let located = Trust::All.locate(&sample.user, &mappings);
            self.enter(sample, process, located);
        }
        self.blocks.account_all(self.taken_until, self.clock);
        self.take(BootNs::default(), None)
    }

    /// What became of the records that are in no counted stack.
    pub fn fates(&self) -> &Fates {
        &self.fates
    }

    /// Counters of what lost no tick.
    pub fn notes(&self) -> Notes {
        let mut notes = self.notes;
        notes.merge(&self.processes.notes);
        notes.merge(&self.copies.notes);
        notes.merge(&self.blocks.notes);
        notes
    }

    /// What became of the captured times off the CPU; the others are [`Self::open_blocks`], or on their way there.
    pub fn off_fates(&self) -> &OffFates {
        &self.blocks.fates
    }

    /// Captured threads that are off the CPU.
    pub fn open_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Ticks taken in and neither told nor lost yet.
    pub fn held(&self) -> u64 {
        self.under_way + self.seconds.ticks()
    }

    /// Processes known at the moment.
    pub fn process_count(&self) -> usize {
        self.processes.len()
    }

    /// Executable mappings known at the moment, each counted in every process that has it.
    pub fn mapping_count(&self) -> usize {
        self.processes.mapping_count()
    }

    /// Whether mapping or process events have come in that [`Self::advance`] has not reached yet: what they change is to be
    /// published as soon as it can be.
    pub fn has_pending_changes(&self) -> bool {
        self.pending.iter().any(|(_, item)| matches!(item, Pending::Change(_)))
    }

    /// Samples whose copied stack waits for an unwind table.
    pub fn unfinished_copies(&self) -> usize {
        self.copies.len()
    }

    /// Memory of the stack copies in samples that are held.
    pub fn copy_bytes(&self) -> usize {
        self.copies.bytes()
    }

    fn take(&mut self, until: BootNs, open: Option<UnixMs>) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.processes.events);
        let seconds = self.seconds.take_all_but(open);
        let seconds = self.blocks.take_with(seconds, until, self.clock, open);
        events.extend(seconds.into_iter().map(Event::Second));
        self.processes.reap(until);
        events.append(&mut self.processes.events);
        events
    }

    fn on_change(&mut self, time: BootNs, change: &ChangeKind) {
        match change {
            ChangeKind::Mapped { tgid, range } => self.processes.mapped(*tgid, range, time),
            ChangeKind::Exec { tgid, comm } => self.processes.exec(*tgid, *comm),
            ChangeKind::ProcessForked { tgid, parent_tgid } => {
                self.processes.forked(*tgid, *parent_tgid, time);
            }
            ChangeKind::ThreadStarted { tgid } => self.processes.thread_started(*tgid, time),
            ChangeKind::ThreadExited { tgid } => self.processes.thread_exited(*tgid, time),
            ChangeKind::Lost { records } => {
                self.notes.add(Note::SidebandLost, *records);
                self.processes.gap();
            }
            ChangeKind::Other => {}
        }
    }

    fn on_sample(&mut self, sample: Sample) {
        // While a process is being read its samples wait together, so that none overtakes another.
        let is_waited_for = self.waiting.contains_key(&sample.tgid);
        let lookup = if is_waited_for { Lookup::Load } else { self.processes.lookup(&sample) };
        match lookup {
            Lookup::Known if !self.processes.wants_reload(&sample) => self.count(sample),
            Lookup::Known | Lookup::Load => self.wait(sample),
            Lookup::Filtered => self.lose(&sample, TickFate::Filtered),
        }
    }

    /// Keeps a sample until its process has been read from `/proc`.
    fn wait(&mut self, sample: Sample) {
        if self.waiting_samples >= self.limits.waiting {
            self.lose(&sample, TickFate::WaitingFull);
            return;
        }
        self.waiting_samples += 1;
        let tgid = sample.tgid;
        let waiting = self.waiting.entry(tgid).or_default();
        waiting.push(sample);
        if waiting.len() == 1 {
            self.load.push(tgid);
        }
    }

    /// Counts a sample whose process is known, now or once its stack is finished.
    fn count(&mut self, sample: Sample) {
        let Some((process, trust)) = self.processes.of_sample(&sample) else {
            // adopt() or lookup() has just put it there; only a table of no entries at all can have dropped it.
            self.lose(&sample, TickFate::WaitingFull);
            return;
        };
        let (key, mappings) = (process.key, &process.mappings);
        if self.copies.wants(&sample) && is_trusted_up_to_copy(&sample, trust, mappings) {
            self.copies.push(sample, key, Arc::clone(mappings));
        } else {
            let located = trust.locate(&sample.user, mappings);
            self.enter(sample, key, located);
        }
    }

    /// Enters a sample into its second.
    fn enter(&mut self, sample: Sample, process: ProcessKey, user: Located) {
        self.copies.release(&sample);
        let user_outcome = user.outcome(sample.user_outcome);
        let has_leaf = !matches!(user.frames.first(), None | Some(UserFrame::Unmapped(_)));
        if has_leaf && user_outcome.is_astray() {
            self.processes.ended_badly(&sample);
        }
        if let Some(witnessed) = &mut self.witnessed {
            witnessed.push(Sample { user_outcome, ..sample.clone() });
        }
        let second = self.clock.second_of(sample.time);
        let stack = SampledStack {
            process,
            comm: sample.comm,
            cgroup_id: sample.cgroup_id,
            is_kernel_thread: sample.is_kernel_thread,
            has_guessed_frames: sample.frame_pointer_frames > 0,
            kernel_outcome: sample.kernel_outcome,
            user_outcome,
            kernel: sample.kernel,
            user: user.frames,
        };
        match sample.off_cpu {
            Some(OffCpu::Left(left)) => self.blocks.left((sample.tid, sample.time), stack, left, self.clock),
            Some(OffCpu::Tail(tail)) => self.blocks.tail(sample.time, stack, tail, self.clock),
            None => {
                self.under_way -= 1;
                if !self.seconds.add(second, stack, self.limits.stacks) {
                    self.fates.add(TickFate::SecondFull, 1);
                }
            }
        }
    }

    /// Gives up a sample that was taken in.
    fn lose(&mut self, sample: &Sample, fate: TickFate) {
        self.copies.release(sample);
        self.under_way -= u64::from(sample.off_cpu.is_none());
        self.drop_sample(sample, fate);
    }

    fn drop_sample(&mut self, sample: &Sample, fate: TickFate) {
        match &sample.off_cpu {
            None => self.fates.add(fate, 1),
            Some(off_cpu) => self.blocks.lose(off_cpu, fate),
        }
    }
}

/// Whether the frames that led to the copied state were all walked by mappings that held.
fn is_trusted_up_to_copy(sample: &Sample, trust: Trust<'_>, mappings: &Mappings) -> bool {
    let before = sample.copy.as_ref().map_or(0, |copy| usize::from(copy.frames_before));
    let led_there = sample.user.get(..before).unwrap_or(&sample.user);
    led_there.is_empty() || !trust.locate(led_there, mappings).is_cut
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod unwind_tests;
