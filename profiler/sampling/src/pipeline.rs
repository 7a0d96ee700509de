//! The whole of sampling as one function of its input: what the rings gave, in order of time, becomes counted stacks.
//!
//! Samples and mapping events come from different rings, so they are held until a horizon that every ring has been read
//! up to, and then taken in order of time: a sample meets the mappings of its moment.

use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_bpf::{Note, TickFate};
use pyrite_model::UnixMs;

use crate::copies::{Copies, Unfinished, end_at_copy};
use crate::offcpu::{BlockLimits, Blocks, Broken, RingRecord, decode_record};
use crate::processes::{Lookup, Processes};
use crate::second::OpenSeconds;
use crate::tape::Taping;
use crate::trust::{Located, Trust};
use crate::{
    BootNs, Change, ChangeKind, Command, Event, Fates, Filter, Limits, LoadFailure, LoadedProcess, Notes,
    OffCpu, OffFates, ProcessKey, Sample, SampledStack, TapeEntry, Unwinder, WallClock, decode_change,
};

/// Whether a sample that its process's mappings do not explain may wait for the process to be read from `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    MayHelp,
    IsDone,
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
            Err(Broken::Tick) => self.fates.add(TickFate::Malformed, 1),
            Err(Broken::Left) => self.blocks.malformed(),
            Err(Broken::End) => self.blocks.lose_end(),
            Err(Broken::Tail) => self.blocks.lose_tail(),
            Ok(RingRecord::Sample(sample)) if is_full => self.drop_sample(&sample, TickFate::PendingFull),
            Ok(RingRecord::Sample(mut sample)) => {
                self.copies.admit(&mut sample);
                match sample.off_cpu {
                    None => self.under_way += 1,
                    Some(OffCpu::Left(_)) => self.blocks.expect((sample.tid, sample.time)),
                    Some(OffCpu::Tail(_)) => {}
                }
                self.pending.push((sample.time, Pending::Sample(sample)));
            }
            // It names its departure, so it need not wait for its turn.
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
            Ok(change) => self.hold_change(change),
        }
    }

    /// Holds a change until its turn comes.
    fn hold_change(&mut self, Change { time, kind }: Change) {
        if let ChangeKind::Lost { records } = kind {
            self.notes.add(Note::SidebandLost, records);
        }
        if self.pending.len() >= self.limits.pending {
            self.notes.add(Note::SidebandFull, 1);
            self.processes.gap();
            return;
        }
        if let ChangeKind::Mapped { tgid, range } = &kind {
            self.processes.meet(*tgid, range);
        }
        self.pending.push((time, Pending::Change(kind)));
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
            Err(failure) => self.processes.load_failed(tgid, failure),
        }
        for sample in self.waiting.remove(&tgid).unwrap_or_default() {
            self.waiting_samples -= 1;
            match self.processes.adopt(&sample) {
                Lookup::Filtered => self.lose(&sample, TickFate::Filtered),
                Lookup::Known | Lookup::Load => self.count(sample, Reading::IsDone),
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
        std::mem::take(&mut self.processes.to_read)
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
        self.enter_all(finished);
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
    /// not finished by [`Self::finish_copies`] end at the frame that the copy is of.
    #[must_use]
    pub fn finish(&mut self) -> Vec<Event> {
        self.on_tape(&TapeEntry::End);
        // Nobody will answer these requests: whoever wants the answers calls advance() first.
        drop(self.take_in(BootNs::MAX, self.clock));
        for sample in std::mem::take(&mut self.waiting).into_values().flatten() {
            self.lose(&sample, TickFate::WaitingFull);
        }
        self.waiting_samples = 0;
        let unfinished = self.copies.take_all();
        self.enter_all(unfinished);
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
            ChangeKind::ThreadExited { tgid, tid } => {
                self.processes.thread_exited(*tgid, time);
                self.blocks.ran_until(*tid, time);
            }
            ChangeKind::Lost { .. } => self.processes.gap(),
            ChangeKind::Other => {}
        }
    }

    fn on_sample(&mut self, sample: Sample) {
        // While a process is being read its samples wait together, so that none overtakes another.
        let is_waited_for = self.waiting.contains_key(&sample.tgid);
        let lookup = if is_waited_for { Lookup::Load } else { self.processes.lookup(&sample) };
        match lookup {
            Lookup::Known => self.count(sample, Reading::MayHelp),
            Lookup::Load => self.wait(sample),
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
            self.processes.to_read.push(tgid);
        }
    }

    /// Counts a sample whose process is known: now, once its stack is finished, or once the process has been read again where
    /// that may help.
    fn count(&mut self, mut sample: Sample, reading: Reading) {
        let Some((process, trust)) = self.processes.of_sample(&sample) else {
            // adopt() or lookup() has just put it there; only a table of no entries at all can have dropped it.
            self.lose(&sample, TickFate::WaitingFull);
            return;
        };
        let key = process.key;
        let mut located = trust.locate(&sample.user, &process.mappings);
        let mappings = sample.copy.as_ref().map(|_| Arc::clone(&process.mappings));
        // In the kernel's execve the registers belong to the memory of the program before.
        let is_strange = located.has_unmapped_leaf() && sample.is_user_mode;
        if is_strange && reading == Reading::MayHelp && self.processes.is_worth_reading(&sample) {
            self.wait(sample);
        } else if let Some(mappings) = mappings.filter(|_| self.copies.wants(&sample, &located)) {
            // The BPF program went on from there as well as it could, perhaps by mappings that held no more.
            sample.user.truncate(located.frames.len());
            sample.user_outcome = located.outcome(sample.user_outcome);
            self.copies.push(sample, key, mappings);
        } else {
            end_at_copy(&mut sample);
            located.end_behind(sample.user.len());
            self.enter(sample, key, located);
        }
    }

    /// Enters samples whose copied stack is finished, or never will be.
    fn enter_all(&mut self, samples: Vec<Unfinished>) {
        for Unfinished { sample, process, mappings, .. } in samples {
            let located = Trust::All.locate(&sample.user, &mappings);
            self.enter(sample, process, located);
        }
    }

    /// Enters a sample into its second.
    fn enter(&mut self, sample: Sample, process: ProcessKey, user: Located) {
        self.copies.release(&sample);
        let user_outcome = user.outcome(sample.user_outcome);
        // Other code may be where the mappings say that this is.
        let is_strange = user_outcome.is_astray() && !user.has_unmapped_leaf();
        if is_strange && self.processes.is_worth_reading(&sample) {
            self.processes.to_read.push(sample.tgid);
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
        match sample.off_cpu {
            None => self.fates.add(fate, 1),
            Some(OffCpu::Left(_)) => self.blocks.lose((sample.tid, sample.time), fate),
            // Those that nobody asked for are missed by nobody.
            Some(OffCpu::Tail(_)) if fate == TickFate::Filtered => {}
            Some(OffCpu::Tail(_)) => self.blocks.lose_tail(),
        }
    }
}

#[cfg(test)]
mod off_cpu_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unwind_tests;
