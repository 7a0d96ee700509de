//! One process: what is known of it, and what `/proc` can say of it.

use std::sync::Arc;

use pyrite_bpf::Note;

use crate::publication::SetState;
use crate::{BootNs, Comm, Event, MappedRange, Mapping, MappingTarget, Mappings, OffCpu, ProcessKey, Sample};

/// Something strange about a process has it read again, but not more often than this.
const RELOAD_AFTER_NS: u64 = 10_000_000_000;
/// Where reading it brings nothing new, it is read half as often, down to this.
const MOST_RELOAD_AFTER_NS: u64 = 64 * RELOAD_AFTER_NS;
/// So many mappings are no reason to look whether all of them are still there.
const FEW_MAPPINGS: usize = 64;

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
    /// A moment at which this life of the tgid had begun. Unlike the key's, never before it had.
    pub(crate) began_by: BootNs,
    pub(crate) mappings: Arc<Mappings>,
    pub(crate) set: SetState,
    pub(crate) parent: Option<ProcessKey>,
    pub(crate) comm: Comm,
    pub(crate) is_kernel_thread: bool,
    /// The epoch in which the mappings were known to be complete.
    pub(crate) trusted_in: Option<u32>,
    pub(crate) threads: u32,
    /// When it was read from `/proc`, or was to be.
    pub(crate) loaded_at: BootNs,
    /// How long it is left alone before something strange has it read again.
    pub(crate) reload_after_ns: u64,
    /// How many mappings it had when all of them were known to be there.
    pub(crate) mappings_loaded: usize,
    pub(crate) exited: Option<BootNs>,
    pub(crate) last_used: BootNs,
    /// Whether the consumer has been told of it.
    pub(crate) announced: bool,
    /// Whether it is, or descends from, a process that the filter names. `None` while its parent is unknown, as it is for
    /// what is forked while `/proc` is still being read for the first time.
    pub(crate) descends: Option<bool>,
}

impl Process {
    /// Of which nothing more is known than that it had begun by `began_by`.
    pub(crate) fn new(key: ProcessKey, began_by: BootNs, set: SetState) -> Self {
        Self {
            key,
            began_by,
            mappings: Arc::default(),
            set,
            parent: None,
            comm: Comm::default(),
            is_kernel_thread: false,
            trusted_in: None,
            threads: 1,
            loaded_at: BootNs::default(),
            reload_after_ns: RELOAD_AFTER_NS,
            mappings_loaded: 0,
            exited: None,
            last_used: began_by,
            announced: false,
            descends: None,
        }
    }

    /// Learns from a sample that the process is alive and of what kind it is. Returns whether it was believed dead.
    pub(crate) fn sampled(&mut self, sample: &Sample) -> bool {
        self.last_used = sample.time;
        // A fork event does not say what a kernel thread is.
        if sample.is_kernel_thread && !self.is_kernel_thread {
            self.is_kernel_thread = true;
            self.comm = sample.comm;
        }
        // A thread's last moments come after the event of its end; a tail may be of one of them.
        let may_be_last = sample.is_exiting || matches!(sample.off_cpu, Some(OffCpu::Tail(_)));
        let was_dead = !may_be_last && self.exited.is_some_and(|exited| sample.time > exited);
        if was_dead {
            self.exited = None;
            self.threads = 1;
        }
        was_dead
    }

    /// Whether it should be read from `/proc` because something about it is strange; if so, counts it as read at `time`.
    pub(crate) fn asks_for_reload(&mut self, time: BootNs) -> bool {
        let asks = self.exited.is_none() && time.abs_diff(self.loaded_at) > self.reload_after_ns;
        if asks {
            self.loaded_at = time;
        }
        asks
    }

    /// It was read, or could not be. Where that brought no news, what is strange stays so and is looked at less and less often.
    pub(crate) fn was_read(&mut self, read_at: BootNs, brought_news: bool) {
        self.loaded_at = read_at;
        let next_ns = if brought_news { RELOAD_AFTER_NS } else { 2 * self.reload_after_ns };
        self.reload_after_ns = next_ns.min(MOST_RELOAD_AFTER_NS);
    }

    /// Whether its mappings have doubled since all of them were known to be there. Nobody tells of an `munmap`, so that
    /// many of them may be gone.
    pub(crate) fn has_outgrown_itself(&self) -> bool {
        self.mappings.len() > 2 * self.mappings_loaded.max(FEW_MAPPINGS)
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
