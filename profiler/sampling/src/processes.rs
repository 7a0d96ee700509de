//! Which processes there are and what each has mapped, kept up to date by the kernel's events.
//!
//! A process that ran before the events began, or whose events were lost, is read from `/proc` when it is first sampled;
//! until a later gap its entry is trusted. A process that ended stays for a while, because samples of it may still be
//! under way. Everything is bounded: processes, mappings of one process, mappings of all.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_bpf::{Note, StackOutcome};

use crate::files::Files;
use crate::process::{Process, new_mapping};
use crate::publication::{Publisher, SetState};
use crate::trust::Trust;
use crate::{
    BootNs, Comm, Command, Event, Filter, Generation, Insertion, Limits, LoadFailure, LoadedProcess,
    MappedRange, Mapping, Mappings, Notes, ProcessKey, Sample,
};

/// How long a process is kept after its end. The rows of its last second are out by then.
const KEEP_EXITED_NS: u64 = 3_000_000_000;
/// Kernels count the start times in `/proc` in hundredths of a second, rounded down.
const PROC_START_GRAIN_NS: u64 = 10_000_000;

/// How many generations of forks the BPF program looks back for mappings.
const MAX_ANCESTORS: usize = 4;

/// What to do with a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Count it: its process is known.
    Known,
    /// Keep it until its process has been read from `/proc`.
    Load,
    /// Its process was not asked for.
    Filtered,
}

#[derive(Debug)]
pub(crate) struct Processes {
    by_tgid: HashMap<u32, Process>,
    /// Ends in order of time. An entry whose process has been replaced or revived since means nothing.
    exits: VecDeque<(BootNs, ProcessKey)>,
    /// Grows with every gap in the events; what was known before a gap is not trusted after it.
    epoch: u32,
    files: Files,
    filter: Filter,
    limits: Limits,
    mapping_count: usize,
    publisher: Publisher,
    /// Processes to be read from `/proc`.
    pub(crate) to_read: Vec<u32>,
    pub(crate) notes: Notes,
    pub(crate) events: Vec<Event>,
}

impl Processes {
    pub(crate) fn new(filter: Filter, limits: Limits) -> Self {
        Self {
            by_tgid: HashMap::new(),
            exits: VecDeque::new(),
            epoch: 0,
            files: Files::new(),
            filter,
            limits,
            mapping_count: 0,
            publisher: Publisher::default(),
            to_read: Vec::new(),
            notes: Notes::default(),
            events: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_tgid.len()
    }

    pub(crate) fn mapping_count(&self) -> usize {
        self.mapping_count
    }

    /// Events were lost: nothing known so far is trusted any more.
    pub(crate) fn gap(&mut self) {
        self.epoch += 1;
    }

    /// All events up to `until` have been taken in.
    pub(crate) fn advanced(&mut self, until: BootNs) {
        self.publisher.as_of = until;
    }

    pub(crate) fn get(&self, tgid: u32) -> Option<&Process> {
        self.by_tgid.get(&tgid)
    }

    /// What to do with a sample, by what is known of its process.
    pub(crate) fn lookup(&mut self, sample: &Sample) -> Lookup {
        let by_cgroup_alone = self.filter.roots.is_empty() && !self.filter.cgroup_ids.is_empty();
        if by_cgroup_alone && !self.filter.cgroup_ids.contains(&sample.cgroup_id) {
            return Lookup::Filtered;
        }
        let epoch = self.epoch;
        match self.by_tgid.get_mut(&sample.tgid).filter(|process| process.key.started_at(sample.start)) {
            None if sample.is_kernel_thread => self.adopt(sample),
            None => Lookup::Load,
            Some(process) => {
                if process.sampled(sample) {
                    self.publisher.note(&mut process.set, sample.tgid);
                }
                let has_walked =
                    !matches!(sample.user_outcome, StackOutcome::Absent | StackOutcome::NotTaken);
                if has_walked && sample.generation == 0 {
                    process.set.was_unknown_at(sample.time, &mut self.publisher, sample.tgid);
                }
                let is_trusted = process.trusted_in == Some(epoch) || sample.is_kernel_thread;
                let is_placed =
                    process.descends.is_some() || self.filter.roots.is_empty() || sample.is_kernel_thread;
                let needs_no_reading = is_placed && (is_trusted || !self.takes(sample));
                if needs_no_reading { self.adopt(sample) } else { Lookup::Load }
            }
        }
    }

    /// Takes what is known of a sample's process for all there is to know; knows it by the sample alone if need be.
    pub(crate) fn adopt(&mut self, sample: &Sample) -> Lookup {
        if !self.get(sample.tgid).is_some_and(|process| process.key.started_at(sample.start)) {
            let key = ProcessKey { tgid: sample.tgid, start: sample.start };
            let mut process = Process::new(key, sample.start, SetState::new(self.publisher.last));
            process.comm = sample.comm;
            process.loaded_at = sample.time;
            process.sampled(sample);
            process.descends = self.filter.roots.contains(&sample.tgid).then_some(true);
            self.insert(process);
        }
        if !self.takes(sample) {
            return Lookup::Filtered;
        }
        if let Some(process) = self.by_tgid.get_mut(&sample.tgid) {
            process.trusted_in = Some(self.epoch);
        }
        self.announce(sample.tgid);
        Lookup::Known
    }

    /// Whether the filter takes the sample, as far as is known.
    fn takes(&self, sample: &Sample) -> bool {
        self.filter.takes_all()
            || self.filter.cgroup_ids.contains(&sample.cgroup_id)
            || self.get(sample.tgid).is_some_and(|process| process.descends == Some(true))
    }

    /// Whether the filter may take samples of a process, which may be one that is not known yet.
    fn may_be_sampled(&self, process: Option<&Process>) -> bool {
        self.filter.takes_all()
            || !self.filter.cgroup_ids.is_empty()
            || process.is_none_or(|process| process.descends != Some(false))
    }

    /// Whether a process with this parent descends from one that the filter names, if that can be known yet.
    fn descends(&self, tgid: u32, parent_tgid: u32) -> Option<bool> {
        match self.get(parent_tgid) {
            _ if self.filter.roots.contains(&tgid) || self.filter.roots.contains(&parent_tgid) => Some(true),
            // The first process of all, and one whose parent is in a PID namespace that cannot be seen from here.
            None if parent_tgid == 0 => Some(false),
            parent => parent?.descends,
        }
    }

    /// Whether the process of a sample that its mappings do not explain is to be read again: the kernel tells of no `mremap`
    /// and no `munmap`. Not whenever it is asked.
    pub(crate) fn is_worth_reading(&mut self, sample: &Sample) -> bool {
        let process = self.by_tgid.get_mut(&sample.tgid);
        process.is_some_and(|process| process.asks_for_reload(sample.time))
    }

    pub(crate) fn forked(&mut self, tgid: u32, parent_tgid: u32, time: BootNs) {
        let is_known = |process: &Process| process.exited.is_none() && process.key.started_at(time);
        if self.get(tgid).is_some_and(is_known) {
            return;
        }
        let set = SetState::new(self.publisher.last);
        let mut process = Process::new(ProcessKey { tgid, start: time }, time, set);
        process.descends = self.descends(tgid, parent_tgid);
        if let Some(parent) = self.by_tgid.get(&parent_tgid) {
            process.parent = Some(parent.key);
            process.comm = parent.comm;
            process.mappings = Arc::clone(&parent.mappings);
            process.set = SetState::of_fork(&parent.set, &mut self.publisher, tgid);
            process.trusted_in = parent.trusted_in;
            process.mappings_loaded = parent.mappings_loaded;
        }
        self.insert(process);
    }

    pub(crate) fn exec(&mut self, tgid: u32, comm: Comm) {
        let epoch = self.epoch;
        let Some(process) = self.by_tgid.get_mut(&tgid) else { return };
        self.mapping_count -= process.mappings.len();
        process.mappings = Arc::default();
        process.mappings_loaded = 0;
        process.set.inherited = Generation::NONE;
        process.set.changed(&mut self.publisher, tgid);
        process.trusted_in = Some(epoch);
        process.comm = comm;
        process.threads = 1;
        // The kernel's own helpers begin as kernel threads.
        process.is_kernel_thread = false;
        process.announced = false;
        if self.filter.takes_all() || process.descends == Some(true) {
            self.announce(tgid);
        }
    }

    pub(crate) fn mapped(&mut self, tgid: u32, range: &MappedRange, time: BootNs) {
        let Some(process) = self.by_tgid.get_mut(&tgid) else { return };
        let since = process.set.opening(self.publisher.last);
        let mapping = Mapping::new(range, since, |key, path| self.files.intern(key, path));
        if process.mappings.has(&mapping) {
            return;
        }
        let before = process.mappings.len();
        let limit = self.limits.mappings_per_process;
        let is_refused =
            Arc::make_mut(&mut process.mappings).insert(mapping.clone(), limit) == Insertion::Refused;
        if (is_refused || process.has_outgrown_itself()) && process.asks_for_reload(time) {
            self.to_read.push(tgid);
        }
        if is_refused {
            self.notes.add(Note::MappingDropped, 1);
            return;
        }
        process.set.changed(&mut self.publisher, tgid);
        self.mapping_count = self.mapping_count - before + process.mappings.len();
        if process.announced {
            self.events.extend(new_mapping(process.key, &mapping));
        }
        self.evict_while_full();
    }

    /// Has the caller open a file as early as can be, before the events are put in order. Every time: the caller knows
    /// whether it still has the file, and a process that lives too briefly to be published says nothing else of it.
    pub(crate) fn meet(&mut self, tgid: u32, range: &MappedRange) {
        if range.file.inode != 0 && self.may_be_sampled(self.get(tgid)) {
            let file = self.files.intern(range.file, &range.name);
            let (start, end) = (range.start, range.end);
            self.publisher.commands.push(Command::Open { tgid, file, start, end });
        }
    }

    pub(crate) fn thread_started(&mut self, tgid: u32, time: BootNs) {
        if let Some(process) = self.by_tgid.get_mut(&tgid).filter(|process| process.loaded_at < time) {
            process.threads += 1;
        }
    }

    pub(crate) fn thread_exited(&mut self, tgid: u32, time: BootNs) {
        if let Some(process) = self.by_tgid.get_mut(&tgid).filter(|process| process.loaded_at < time) {
            process.threads = process.threads.saturating_sub(1);
            if process.threads == 0 && process.exited.is_none() {
                process.exited = Some(time);
                self.publisher.note(&mut process.set, tgid);
                self.exits.push_back((time, process.key));
            }
        }
    }

    pub(crate) fn loaded(&mut self, loaded: &LoadedProcess) {
        self.notes.add(Note::ProcessLoaded, 1);
        if !self.get(loaded.tgid).is_some_and(|process| process.key.started_at(loaded.start)) {
            let key = ProcessKey { tgid: loaded.tgid, start: loaded.start };
            let began_by = loaded.start.saturating_add(PROC_START_GRAIN_NS);
            let mut process = Process::new(key, began_by, SetState::new(self.publisher.last));
            process.last_used = loaded.read_at;
            self.insert(process);
        }
        let parent = self.get(loaded.parent_tgid).map(|parent| parent.key);
        let descends = self.descends(loaded.tgid, loaded.parent_tgid);
        let (mappings, is_same) = self.read_anew(loaded);
        let Some(process) = self.by_tgid.get_mut(&loaded.tgid) else { return };
        self.mapping_count = self.mapping_count - process.mappings.len() + mappings.len();
        if process.announced {
            let new = mappings.as_slice().iter().filter(|mapping| !process.mappings.has(mapping));
            self.events.extend(new.filter_map(|mapping| new_mapping(process.key, mapping)));
        }
        if !is_same {
            process.mappings = Arc::new(mappings);
            process.set.changed(&mut self.publisher, loaded.tgid);
        }
        process.mappings_loaded = process.mappings.len();
        process.was_read(loaded.read_at, !is_same);
        self.publisher.note(&mut process.set, loaded.tgid);
        process.trusted_in = Some(self.epoch);
        process.comm = loaded.comm;
        process.is_kernel_thread = loaded.is_kernel_thread;
        process.threads = loaded.threads.max(1);
        process.parent = process.parent.or(parent);
        process.descends = process.descends.or(descends);
        self.evict_while_full();
    }

    /// The mappings that `/proc` told of, and whether they are those that are known already.
    fn read_anew(&mut self, loaded: &LoadedProcess) -> (Mappings, bool) {
        let known = self.get(loaded.tgid);
        let old = known.map(|process| Arc::clone(&process.mappings)).unwrap_or_default();
        let since =
            known.map_or(self.publisher.last.next(), |process| process.set.opening(self.publisher.last));
        let mut mappings = Mappings::default();
        for range in &loaded.ranges {
            let mapping = Mapping::new(range, since, |key, path| self.files.intern(key, path));
            if mappings.insert(mapping, self.limits.mappings_per_process) == Insertion::Refused {
                self.notes.add(Note::MappingDropped, 1);
            }
        }
        let is_same = mappings.keep_ages(&old);
        (mappings, is_same)
    }

    pub(crate) fn load_failed(&mut self, tgid: u32, failure: LoadFailure) {
        self.notes.add(failure.note(), 1);
        if let Some(process) = self.by_tgid.get_mut(&tgid) {
            process.was_read(self.publisher.as_of, false);
        }
    }

    /// Forgets the processes that ended long enough before `until`.
    pub(crate) fn reap(&mut self, until: BootNs) {
        let horizon = until.saturating_sub(KEEP_EXITED_NS);
        while let Some((exited, key)) = self.exits.pop_front_if(|(exited, _)| *exited < horizon) {
            if self.get(key.tgid).is_some_and(|process| process.key == key && process.exited == Some(exited))
            {
                self.remove(key.tgid);
            }
        }
    }

    /// What the caller has to do for unwinding, so that it walks by what is known here by now.
    pub(crate) fn take_commands(&mut self) -> Vec<Command> {
        for tgid in self.publisher.take_noted() {
            let may_be_sampled = self.may_be_sampled(self.get(tgid));
            let Some(process) = self.by_tgid.get_mut(&tgid) else { continue };
            let is_alive = process.exited.is_none() && !process.is_kernel_thread;
            let should_be_known = may_be_sampled && is_alive && !process.mappings.is_empty();
            let (key, began_by, mappings) = (process.key, process.began_by, &process.mappings);
            let publication = should_be_known.then_some(|generation| Command::Publish {
                process: key,
                began_by,
                generation,
                mappings: Arc::clone(mappings),
            });
            self.publisher.settle(&mut process.set, tgid, publication);
        }
        std::mem::take(&mut self.publisher.commands)
    }

    /// A sample's process, and what its stack was walked by.
    pub(crate) fn of_sample(&self, sample: &Sample) -> Option<(&Process, Trust<'_>)> {
        let process = self.get(sample.tgid)?;
        let parent_of = |process: &&'_ Process| {
            let key = process.parent?;
            self.get(key.tgid).filter(|parent| parent.key == key)
        };
        let ancestors = std::iter::successors(Some(process), parent_of).skip(1).take(MAX_ANCESTORS);
        Some((process, Trust::of(sample, process, ancestors, self.publisher.last)))
    }

    /// Tells the consumer of a process and its files, once per program that it runs.
    fn announce(&mut self, tgid: u32) {
        if let Some(process) = self.by_tgid.get_mut(&tgid).filter(|process| !process.announced) {
            process.announced = true;
            self.events.push(Event::ProcessSeen {
                key: process.key,
                parent: process.parent,
                comm: process.comm,
                is_kernel_thread: process.is_kernel_thread,
            });
            self.events.extend(process.new_mappings());
        }
    }

    fn insert(&mut self, process: Process) {
        self.remove(process.key.tgid);
        self.mapping_count += process.mappings.len();
        self.by_tgid.insert(process.key.tgid, process);
        self.evict_while_full();
    }

    fn remove(&mut self, tgid: u32) {
        if let Some(process) = self.by_tgid.remove(&tgid) {
            self.mapping_count -= process.mappings.len();
            self.publisher.forget(process.set, tgid);
            if process.announced {
                self.events.push(Event::ProcessGone { key: process.key });
            }
        }
    }

    /// Drops the eighth that has not been sampled for longest, as often as it takes. The one used last stays.
    fn evict_while_full(&mut self) {
        while self.by_tgid.len() > self.limits.processes
            || (self.mapping_count > self.limits.mappings && self.by_tgid.len() > 1)
        {
            let mut by_age: Vec<(BootNs, u32)> =
                self.by_tgid.iter().map(|(tgid, process)| (process.last_used, *tgid)).collect();
            by_age.sort_unstable();
            by_age.truncate((by_age.len() / 8).max(1));
            self.notes.add(Note::ProcessEvicted, by_age.len() as u64);
            for (_, tgid) in by_age {
                self.remove(tgid);
            }
        }
    }
}
