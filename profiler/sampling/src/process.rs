//! One process: what is known of it, and what `/proc` can say of it.

use std::sync::Arc;

use pyrite_bpf::Note;

use crate::publication::SetState;
use crate::{BootNs, Comm, Event, MappedRange, Mapping, MappingTarget, Mappings, ProcessKey, Sample};

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
    pub(crate) fn note(self) -> Note {
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
    pub(crate) set: SetState,
    pub(crate) parent: Option<ProcessKey>,
    pub(crate) comm: Comm,
    pub(crate) is_kernel_thread: bool,
    /// The epoch in which the mappings were known to be complete.
    pub(crate) trusted_in: Option<u32>,
    pub(crate) threads: u32,
    pub(crate) loaded_at: BootNs,
    pub(crate) exited: Option<BootNs>,
    pub(crate) last_used: BootNs,
    /// Whether the consumer has been told of it.
    pub(crate) announced: bool,
    /// Whether it is, or descends from, a process that the filter names. `None` while its parent is unknown, as it is for
    /// what is forked while `/proc` is still being read for the first time.
    pub(crate) descends: Option<bool>,
}

impl Process {
    pub(crate) fn new(key: ProcessKey, now: BootNs) -> Self {
        Self {
            key,
            mappings: Arc::default(),
            set: SetState::new(),
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

    /// Learns from a sample that the process is alive and of what kind it is. Returns whether it was believed dead.
    pub(crate) fn sampled(&mut self, sample: &Sample) -> bool {
        self.last_used = sample.time;
        self.set.start = Some(sample.start);
        // A fork event does not say what a kernel thread is.
        if sample.is_kernel_thread && !self.is_kernel_thread {
            self.is_kernel_thread = true;
            self.comm = sample.comm;
        }
        let was_dead = self.exited.is_some_and(|exited| sample.time > exited);
        if was_dead {
            self.exited = None;
            self.threads = 1;
        }
        was_dead
    }

    /// The news of all its files.
    pub(crate) fn new_mappings(&self) -> impl Iterator<Item = Event> + '_ {
        self.mappings.as_slice().iter().filter_map(|mapping| new_mapping(self.key, mapping))
    }
}

/// The news of a file, where there is one behind the mapping.
pub(crate) fn new_mapping(process: ProcessKey, mapping: &Mapping) -> Option<Event> {
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
