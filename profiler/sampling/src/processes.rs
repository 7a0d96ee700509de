//! Which processes there are and what each has mapped, kept up to date by the kernel's events.
//!
//! A process that ran before the events began, or whose events were lost, is read from `/proc` when it is first sampled;
//! until a later gap its entry is trusted. A process that ended stays for a while, because samples of it may still be
//! under way. Everything is bounded: processes, mappings of one process, mappings of all.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_bpf::Note;

use crate::files::Files;
use crate::{
    BootNs, Comm, Event, Filter, Limits, MappedRange, Mapping, MappingTarget, Mappings, Notes, ProcessKey,
    Sample,
};

/// How long a process is kept after its end. The rows of its last second are out by then.
const KEEP_EXITED_NS: u64 = 3_000_000_000;
/// A sampled address outside all mappings has the process read again, but not more often than this.
const RELOAD_AFTER_NS: u64 = 10_000_000_000;

/// A process as `/proc` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedProcess {
    /// Thread group id.
    pub tgid: u32,
    /// Its parent's.
    pub parent_tgid: u32,
    /// When it started.
    pub start: BootNs,
    /// The leader's name.
    pub comm: Comm,
    /// Whether it is a kernel thread.
    pub is_kernel_thread: bool,
    /// How many threads it has.
    pub threads: u32,
    /// When it was read.
    pub read_at: BootNs,
    /// Its executable mappings.
    pub ranges: Vec<MappedRange>,
}

/// Why a process could not be read from `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadFailure {
    /// It has ended.
    #[error("the process has ended")]
    Gone,
    /// Its entries may not be read.
    #[error("the process's /proc entries cannot be read")]
    Unreadable,
    /// Its entries have another shape than expected.
    #[error("the process's /proc entries cannot be understood")]
    Malformed,
}

impl LoadFailure {
    fn note(self) -> Note {
        match self {
            Self::Gone => Note::ProcessGone,
            Self::Unreadable => Note::ProcessUnreadable,
            Self::Malformed => Note::ProcessMalformed,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) key: ProcessKey,
    pub(crate) mappings: Arc<Mappings>,
    parent: Option<ProcessKey>,
    comm: Comm,
    is_kernel_thread: bool,
    /// The epoch in which the mappings were known to be complete.
    trusted_in: Option<u32>,
    threads: u32,
    loaded_at: BootNs,
    exited: Option<BootNs>,
    last_used: BootNs,
    /// Whether the consumer has been told of it.
    announced: bool,
    /// Whether it is, or descends from, a process that the filter names. `None` while its parent is unknown, as it is for
    /// what is forked while `/proc` is still being read for the first time.
    descends: Option<bool>,
}

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
                process.sampled(sample);
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
            let mut process = Process::new(key, sample.time);
            process.comm = sample.comm;
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

    /// Whether a process with this parent descends from one that the filter names, if that can be known yet.
    fn descends(&self, tgid: u32, parent_tgid: u32) -> Option<bool> {
        match self.get(parent_tgid) {
            _ if self.filter.roots.contains(&tgid) || self.filter.roots.contains(&parent_tgid) => Some(true),
            // The first process of all, and one whose parent is in a PID namespace that cannot be seen from here.
            None if parent_tgid == 0 => Some(false),
            parent => parent?.descends,
        }
    }

    /// Whether the process should be read again because a sample met an address that none of its mappings holds.
    pub(crate) fn wants_reload(&mut self, sample: &Sample) -> bool {
        match self.by_tgid.get_mut(&sample.tgid) {
            Some(process)
                if process.exited.is_none() && sample.time.abs_diff(process.loaded_at) > RELOAD_AFTER_NS =>
            {
                process.loaded_at = sample.time;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn forked(&mut self, tgid: u32, parent_tgid: u32, time: BootNs) {
        let is_known = |process: &Process| process.exited.is_none() && process.key.started_at(time);
        if self.get(tgid).is_some_and(is_known) {
            return;
        }
        let mut process = Process::new(ProcessKey { tgid, start: time }, time);
        process.descends = self.descends(tgid, parent_tgid);
        if let Some(parent) = self.get(parent_tgid) {
            process.parent = Some(parent.key);
            process.comm = parent.comm;
            process.mappings = Arc::clone(&parent.mappings);
            process.trusted_in = parent.trusted_in;
        }
        self.insert(process);
    }

    pub(crate) fn exec(&mut self, tgid: u32, comm: Comm) {
        let epoch = self.epoch;
        let Some(process) = self.by_tgid.get_mut(&tgid) else { return };
        self.mapping_count -= process.mappings.len();
        process.mappings = Arc::default();
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

    pub(crate) fn mapped(&mut self, tgid: u32, range: &MappedRange) {
        let Some(process) = self.by_tgid.get_mut(&tgid) else { return };
        let mapping = Mapping::new(range, |key, path| self.files.intern(key, path));
        let before = process.mappings.len();
        if Arc::make_mut(&mut process.mappings).insert(mapping.clone(), self.limits.mappings_per_process) {
            self.mapping_count = self.mapping_count - before + process.mappings.len();
            if process.announced {
                self.events.extend(new_mapping(process.key, &mapping));
            }
        } else {
            self.notes.add(Note::MappingDropped, 1);
        }
        self.evict_while_full();
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
                self.exits.push_back((time, process.key));
            }
        }
    }

    pub(crate) fn loaded(&mut self, loaded: &LoadedProcess) {
        self.notes.add(Note::ProcessLoaded, 1);
        if !self.get(loaded.tgid).is_some_and(|process| process.key.started_at(loaded.start)) {
            let key = ProcessKey { tgid: loaded.tgid, start: loaded.start };
            self.insert(Process::new(key, loaded.read_at));
        }
        let parent = self.get(loaded.parent_tgid).map(|parent| parent.key);
        let descends = self.descends(loaded.tgid, loaded.parent_tgid);
        let mut mappings = Mappings::default();
        for range in &loaded.ranges {
            let mapping = Mapping::new(range, |key, path| self.files.intern(key, path));
            if !mappings.insert(mapping, self.limits.mappings_per_process) {
                self.notes.add(Note::MappingDropped, 1);
            }
        }
        let Some(process) = self.by_tgid.get_mut(&loaded.tgid) else { return };
        self.mapping_count = self.mapping_count - process.mappings.len() + mappings.len();
        if process.announced {
            let new = mappings
                .as_slice()
                .iter()
                .filter(|mapping| process.mappings.find(mapping.start) != Some(mapping));
            self.events.extend(new.filter_map(|mapping| new_mapping(process.key, mapping)));
        }
        process.mappings = Arc::new(mappings);
        process.trusted_in = Some(self.epoch);
        process.comm = loaded.comm;
        process.is_kernel_thread = loaded.is_kernel_thread;
        process.threads = loaded.threads.max(1);
        process.loaded_at = loaded.read_at;
        process.parent = process.parent.or(parent);
        process.descends = process.descends.or(descends);
        self.evict_while_full();
    }

    pub(crate) fn load_failed(&mut self, failure: LoadFailure) {
        self.notes.add(failure.note(), 1);
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
            self.events.extend(
                process.mappings.as_slice().iter().filter_map(|mapping| new_mapping(process.key, mapping)),
            );
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

impl Process {
    fn new(key: ProcessKey, now: BootNs) -> Self {
        Self {
            key,
            mappings: Arc::default(),
            parent: None,
            comm: Comm::default(),
            is_kernel_thread: false,
            trusted_in: None,
            threads: 1,
            loaded_at: BootNs::default(),
            exited: None,
            last_used: now,
            announced: false,
            descends: None,
        }
    }

    /// Learns from a sample that the process is alive and of what kind it is.
    fn sampled(&mut self, sample: &Sample) {
        self.last_used = sample.time;
        if self.exited.is_some_and(|exited| sample.time > exited) {
            self.exited = None;
            self.threads = 1;
        }
        // A fork event does not say what a kernel thread is.
        if sample.is_kernel_thread && !self.is_kernel_thread {
            self.is_kernel_thread = true;
            self.comm = sample.comm;
        }
    }
}

fn new_mapping(process: ProcessKey, mapping: &Mapping) -> Option<Event> {
    match &mapping.target {
        MappingTarget::File(file) => Some(Event::NewMapping {
            process,
            file: Arc::clone(file),
            start: mapping.start,
            end: mapping.end,
        }),
        MappingTarget::Vdso | MappingTarget::Anonymous => None,
    }
}
