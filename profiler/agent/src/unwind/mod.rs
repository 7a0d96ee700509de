//! Unwind tables of everything that runs on this node: made, kept within a budget, and published to the BPF programs.
//!
//! ```text
//!  sampling's commands                      ┌▶ opener: files, while their processes live
//!        │                                  │
//!        ▼              requests ───────────┤
//!  Publisher, on the sampler's thread       └▶ builder: cache on disk, tables, slabs, grace periods
//!        │              ◀─────────── reports
//!        ▼ chunks (mmap), processes, executables
//!  BPF programs
//! ```
//!
//! The publisher is the only one that writes chunks, processes and executables, and the only one that reads them in user
//! space, so there is nothing to lock. The kernel's side is drawn in `bpf/include/unwind.h`.

mod builder;
mod cache;
mod chunks;
mod code;
mod files;
mod finish;
mod grace;
mod kernel;
mod opener;
mod publisher;
mod reports;
mod room;
mod rules;
mod stats;
mod tables;
mod work;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use pyrite_sampling::{BootNs, Command};
use pyrite_symbolizer::Executables;

use crate::sys::{self, Alarm, ChunkMemory, Niceness};
use crate::unwind::builder::Builder;
use crate::unwind::cache::Cache;
use crate::unwind::files::OpenRequest;
use crate::unwind::kernel::PublisherMaps;
use crate::unwind::publisher::Publisher;
use crate::unwind::room::Room;
use crate::unwind::stats::ThreadCounters;
use crate::unwind::work::{Report, WorkRequest};

pub use finish::ADDRESS_TAG_MASK;
pub use kernel::UnwindMaps;
pub use stats::{Absence, CacheOutcome, PublishFailure, UnwindStats};
pub use tables::TableCounts;

/// Requests on their way to a thread; the rest waits with the publisher, each file and each slab once.
const MAX_REQUESTS: usize = 64;

/// How far the thread that makes tables stands back while nobody waits for one. On a busy CPU it still gets a quarter of a
/// task's share, for what it makes should be there when it is wanted: 19 steps would leave it a seventieth.
const STEPS_BACK: i32 = 6;

/// How to unwind.
#[derive(Clone, Debug)]
pub struct UnwindConfig {
    /// Kernel memory that the maps of unwind tables may take, those that never grow included.
    pub budget_bytes: u64,
    /// Where tables are kept on disk; `None` makes them anew at every start.
    pub cache: Option<PathBuf>,
    /// What the tables on disk may take.
    pub cache_bytes: u64,
    /// Open files, shared with whoever names addresses.
    pub executables: Arc<Executables>,
}

/// Files kept open. Each costs a descriptor; a busy node maps a few hundred distinct ones.
const MAX_OPEN_EXECUTABLES: usize = 1024;

impl Default for UnwindConfig {
    /// With open files of its own.
    fn default() -> Self {
        Self::new(Arc::new(Executables::new(MAX_OPEN_EXECUTABLES)))
    }
}

impl UnwindConfig {
    /// 60 MB of kernel memory, for which a node with 2,000 processes and 200 executables is enough, and no cache.
    pub fn new(executables: Arc<Executables>) -> Self {
        Self { budget_bytes: 60_000_000, cache: None, cache_bytes: 256 << 20, executables }
    }
}

/// The unwind tables of this node. Owned by the sampler's thread; the threads that help end when it is dropped.
pub struct Unwind {
    publisher: Publisher<PublisherMaps>,
    opens: SyncSender<OpenRequest>,
    work: SyncSender<WorkRequest>,
    reports: Receiver<Report<ChunkMemory>>,
    alarm: Arc<Alarm>,
    counters: Arc<ThreadCounters>,
    opener: JoinHandle<()>,
    builder: JoinHandle<()>,
    builder_niceness: Niceness,
    is_waited_for: bool,
}

impl Unwind {
    /// Takes the maps of the loaded object over and starts the threads.
    ///
    /// # Errors
    /// Where the kernel makes no slab or no thread. A cache that cannot be opened is only reported.
    pub fn start(maps: UnwindMaps, config: UnwindConfig) -> io::Result<Self> {
        let (publisher_maps, slab_maps, first) = maps.open()?;
        let room = Room::new(config.budget_bytes, first.fixed_bytes, first.slab_bytes);
        let mut publisher = Publisher::new(publisher_maps, first.memory, room, sys::boot_now())?;
        let counters = Arc::new(ThreadCounters::default());
        let cache = config.cache.and_then(|directory| {
            let opened = Cache::open(&directory, config.cache_bytes);
            opened
                .inspect_err(|error| {
                    tracing::warn!("no cache of unwind tables in {}: {error}", directory.display());
                })
                .ok()
        });
        let (builder, rules) = Builder::new(slab_maps, cache, Arc::clone(&counters))?;
        publisher.rules.learn(rules);
        let alarm = Arc::new(Alarm::new()?);
        let (report, reports) = reports::channel(Arc::clone(&alarm));
        let (opens, open_requests) = sync_channel(MAX_REQUESTS);
        let (work, work_requests) = sync_channel(MAX_REQUESTS);
        let (executables, opener_counters) = (config.executables, Arc::clone(&counters));
        let opener_report = report.clone();
        // Nobody waits for these threads: a file system that hangs may hold them for ever.
        let opener = std::thread::Builder::new().name("pyrite-opener".to_owned()).spawn(move || {
            opener::run(&executables, &open_requests, &opener_report, &opener_counters);
        })?;
        let (tell_niceness, niceness) = sync_channel(1);
        let builder = std::thread::Builder::new().name("pyrite-tables".to_owned()).spawn(move || {
            // It has room for one, and whoever takes it waits just below.
            let _ = tell_niceness.send(Niceness::of_this_thread());
            builder.run(&work_requests, &report);
        })?;
        let builder_niceness = niceness.recv().map_err(io::Error::other)?;
        builder_niceness.stand_back(STEPS_BACK);
        Ok(Self {
            publisher,
            opens,
            work,
            reports,
            alarm,
            counters,
            opener,
            builder,
            builder_niceness,
            is_waited_for: false,
        })
    }

    /// One round: takes what the threads have done, carries out what sampling asks for, knowing all events up to `until`,
    /// and asks the threads for more. Never waits.
    pub fn carry_out(&mut self, commands: Vec<Command>, until: BootNs, now: BootNs) {
        self.publisher.advance(until);
        self.alarm.clear();
        while let Ok(report) = self.reports.try_recv() {
            self.publisher.report(report, now);
        }
        for command in commands {
            self.publisher.command(command, now);
        }
        self.publisher.settle(now);
        if self.publisher.has_room_for_files() {
            send(&mut self.publisher.opens, &self.opens);
        }
        send(&mut self.publisher.work, &self.work);
    }

    /// Says whether stacks wait for tables. While they do, the thread that makes them stands back for nobody.
    pub fn wait_for_tables(&mut self, is_waited_for: bool) {
        if self.is_waited_for != is_waited_for && !self.builder.is_finished() {
            self.is_waited_for = is_waited_for;
            self.builder_niceness.stand_back(if is_waited_for { 0 } else { STEPS_BACK });
        }
    }

    /// Whether a thread is gone that makes tables or opens files. They end by themselves only when this is dropped.
    pub fn has_lost_a_thread(&self) -> bool {
        self.opener.is_finished() || self.builder.is_finished()
    }

    /// How it goes.
    pub fn stats(&self) -> UnwindStats {
        let mut stats = self.publisher.stats();
        self.counters.enter(&mut stats);
        stats
    }
}

/// Readable when a thread has something to report.
impl AsFd for Unwind {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.alarm.as_fd()
    }
}

/// Sends as much as a thread takes.
fn send<T>(waiting: &mut VecDeque<T>, to: &SyncSender<T>) {
    while let Some(request) = waiting.pop_front() {
        if let Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) = to.try_send(request) {
            waiting.push_front(request);
            return;
        }
    }
}
