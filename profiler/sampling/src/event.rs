//! What sampling tells: news of processes, and their rows second by second.

use std::sync::Arc;

use pyrite_model::Avma;

use crate::{Comm, MappedFile, ProcessKey, Second};

/// What sampling tells its consumer, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process was sampled for the first time, or runs a new program (exec): the time to look at who it is, while it
    /// lives. Comes before any row that names the process.
    ProcessSeen {
        /// The process.
        key: ProcessKey,
        /// Its parent, where known: who it is can be inherited if the process itself has ended.
        parent: Option<ProcessKey>,
        /// The name of its leader.
        comm: Comm,
        /// Whether it is a kernel thread.
        is_kernel_thread: bool,
    },
    /// A seen process has a file mapped executable: the time to open it, by `/proc/PID/map_files/START-END`.
    NewMapping {
        /// The process.
        process: ProcessKey,
        /// The file.
        file: Arc<MappedFile>,
        /// First address of the mapping.
        start: Avma,
        /// First address behind it.
        end: Avma,
    },
    /// The rows of one second.
    Second(Second),
    /// The process ended a while ago; or it was dropped from a full table or had its tgid used again, and then rows of what
    /// had been sampled by then may still come.
    ProcessGone {
        /// The process.
        key: ProcessKey,
    },
}
