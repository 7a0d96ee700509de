//! The store as others see it: open, append, ask, close.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use pyrite_model::{
    Batch, Exposition, FlameTree, ProfileType, Selector, SeriesKey, StackProfile, Tenants, TimeRange, UnixMs,
};

use crate::assemble::{Assembled, assemble};
use crate::files::{FileLayer, RealFiles};
use crate::head::validate;
use crate::job::Job;
use crate::lock::DirLock;
use crate::maintain::{Maintenance, Work};
use crate::query::Scan;
use crate::series_index::Answers;
use crate::shared::{Clock, Shared};
use crate::sync::lock;
use crate::timeline::select_series;
use crate::writer::{Acknowledge, Message, Request, Writer};
use crate::{
    AppendError, GroupSeries, OpenReport, QueryError, QueryStatus, SeriesProfiles, SeriesQuery, StackQuery,
    Stop, StoreConfig, StoreError, metrics, profiles, sums,
};

/// An open data directory. Clones are handles to the same one; when the last goes, the threads end, and what was
/// acknowledged is in the log.
#[derive(Clone)]
pub struct Store(
    Arc<Inner>,
    /// The query that this handle is for; what others are asked is a query of its own each time.
    Option<Arc<Job>>,
);

struct Inner {
    shared: Arc<Shared>,
    maintenance: Arc<Maintenance>,
    queue: SyncSender<Message>,
    queued_bytes: Arc<AtomicUsize>,
    closed: AtomicBool,
    running: Mutex<Option<Running>>,
}

/// The threads, what ends them, and the lock that they work under. Ends in the order of the fields.
struct Running {
    writer: JoinHandle<()>,
    flush: Worker,
    tend: Worker,
    lock: DirLock,
}

/// A thread of maintenance; it ends when the channel that wakes it is dropped.
struct Worker {
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

/// Size and reach of what is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Rows, those in memory included.
    pub rows: u64,
    /// Bytes of all segments.
    pub segment_bytes: u64,
    /// Number of segments.
    pub segments: u64,
    /// Distinct series.
    pub series: u64,
    /// Time of the oldest row.
    pub oldest: Option<UnixMs>,
    /// Time of the newest row.
    pub newest: Option<UnixMs>,
}

impl Store {
    /// Opens a data directory, making it where it is not there, and says what was found.
    ///
    /// # Errors
    /// When it cannot be read or written, another process uses it, or a newer release wrote it.
    pub fn open(config: StoreConfig) -> Result<(Self, OpenReport), StoreError> {
        Self::open_on(config, Arc::new(RealFiles), Arc::new(now))
    }

    pub(crate) fn open_on(
        config: StoreConfig,
        files: Arc<dyn FileLayer>,
        clock: Clock,
    ) -> Result<(Self, OpenReport), StoreError> {
        Self::open_tended(config, files, clock, [Maintenance::flush_when_woken, Maintenance::tend])
    }

    /// Likewise; `work` is what the threads of maintenance do.
    pub(crate) fn open_tended(
        config: StoreConfig,
        files: Arc<dyn FileLayer>,
        clock: Clock,
        work: [Work; 2],
    ) -> Result<(Self, OpenReport), StoreError> {
        let Assembled { lock, shared, generation, report } = assemble(config, files, clock)?;
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let (queue, waiting) = sync_channel(shared.config.limits.queued_appends);
        let maintenance = Arc::new(Maintenance::new(Arc::clone(&shared)));
        let [flush, tend] = work;
        let flush = Worker::spawn("store-flush", &maintenance, flush)?;
        let tend = Worker::spawn("store-maintain", &maintenance, tend)?;
        let (queued, wake) = (Arc::clone(&queued_bytes), flush.wake.clone());
        let writer = Writer::new(Arc::clone(&shared), generation, queued, wake);
        let writer = spawn("store-writer", move || writer.run(&waiting))?;
        let running = Mutex::new(Some(Running { writer, flush, tend, lock }));
        let closed = AtomicBool::new(false);
        let inner = Inner { shared, maintenance, queue, queued_bytes, closed, running };
        Ok((Self(Arc::new(inner), None), report))
    }

    /// Stores a batch; on success it is on the disk and every query from now on sees it.
    pub async fn append(&self, batch: Batch) -> Result<(), AppendError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        // Nobody waits any more where the caller was cancelled.
        self.0.submit(batch, Box::new(move |result| drop(answer.send(result))));
        answered.await.unwrap_or(Err(AppendError::Closed))
    }

    /// The same for threads.
    pub fn append_blocking(&self, batch: Batch) -> Result<(), AppendError> {
        let (answer, answered) = sync_channel(1);
        self.0.submit(batch, Box::new(move |result| drop(answer.send(result))));
        answered.recv().unwrap_or(Err(AppendError::Closed))
    }

    /// A handle for one query: what is asked by it is together within what one query may hold, and ends when `stop` says so.
    #[must_use]
    pub fn on_behalf(&self, stop: Stop) -> Self {
        Self(Arc::clone(&self.0), Some(self.0.shared.jobs.begin(stop)))
    }

    /// What the queries under way are at, the oldest first.
    pub fn queries(&self) -> Vec<QueryStatus> {
        self.0.shared.jobs.list()
    }

    /// The profile types that have rows in the window, sorted.
    ///
    /// Of heads and segments only the first and last row of a series are known here, as for the label queries below.
    pub fn profile_types(&self, tenants: &Tenants, range: TimeRange) -> Result<Vec<ProfileType>, QueryError> {
        let _job = self.begin("profile types")?;
        Ok(self.find(tenants, &[], range).profile_types())
    }

    /// The names of labels, stored and synthetic, that series matching every selector have, sorted.
    pub fn label_names(
        &self,
        tenants: &Tenants,
        selectors: &[Selector],
        range: TimeRange,
    ) -> Result<Vec<String>, QueryError> {
        let job = self.begin("label names")?;
        self.find(tenants, selectors, range).label_names(&job)
    }

    /// The values of one label, sorted.
    pub fn label_values(
        &self,
        tenants: &Tenants,
        name: &str,
        selectors: &[Selector],
        range: TimeRange,
    ) -> Result<Vec<String>, QueryError> {
        let job = self.begin("label values")?;
        self.find(tenants, selectors, range).label_values(name, &job)
    }

    /// The series that match every selector, sorted.
    pub fn series(
        &self,
        tenants: &Tenants,
        selectors: &[Selector],
        range: TimeRange,
    ) -> Result<Vec<SeriesKey>, QueryError> {
        let job = self.begin("series")?;
        self.find(tenants, selectors, range).series(&job)
    }

    /// One value per stack over all rows of the query; stacks whose values cancel out are left out.
    pub fn merge_stacks(&self, query: &StackQuery) -> Result<StackProfile, QueryError> {
        self.read_rows("stacks", |job| sums::merge_stacks(Scan { shared: &self.0.shared, job, query }))
    }

    /// The flame tree of all rows of the queries, each of which is a side; one without a query is empty. It is cut to about
    /// `max_nodes` nodes, 0 for all. Much cheaper than by way of their stacks.
    pub fn flame_tree<const SIDES: usize>(
        &self,
        queries: [Option<&StackQuery>; SIDES],
        max_nodes: usize,
    ) -> Result<FlameTree<SIDES>, QueryError> {
        let kind = if SIDES == 1 { "flame graph" } else { "comparison" };
        self.read_rows(kind, |job| sums::flame_tree(&self.0.shared, job, queries, max_nodes))
    }

    /// Values over time by group; the group with the largest sum comes first.
    pub fn select_series(&self, query: &SeriesQuery) -> Result<Vec<GroupSeries>, QueryError> {
        self.read_rows("values over time", |job| select_series(&self.0.shared, job, query))
    }

    /// The profiles of each series, sorted by labels. A profile is all that a series has of one instant.
    pub fn profiles(&self, query: &StackQuery) -> Result<Vec<SeriesProfiles>, QueryError> {
        self.read_rows("profiles", |job| profiles::list(Scan { shared: &self.0.shared, job, query }))
    }

    /// First and last time of the tenants' rows; `None` where they have none.
    pub fn extent(&self, tenants: &Tenants) -> Option<TimeRange> {
        let shared = &self.0.shared;
        shared.series.extent(|| shared.view(), tenants)
    }

    /// How much there is, of all tenants.
    pub fn stats(&self) -> StoreStats {
        let view = self.0.shared.view();
        let mut ranges: Vec<TimeRange> = view.segments.iter().map(|segment| segment.range).collect();
        let mut rows: u64 = view.segments.iter().map(|segment| segment.rows).sum();
        for head in view.heads() {
            let head = head.read();
            rows += head.rows() as u64;
            ranges.extend(head.range());
        }
        StoreStats {
            rows,
            segment_bytes: view.segments.iter().map(|segment| segment.bytes).sum(),
            segments: view.segments.len() as u64,
            series: self.0.shared.series.len() as u64,
            oldest: ranges.iter().map(|range| range.start).min(),
            newest: ranges.iter().map(|range| range.end).max(),
        }
    }

    /// Writes counters and gauges.
    pub fn metrics(&self, out: &mut Exposition) {
        metrics::write(&self.0.shared, out);
    }

    /// Writes everything in memory as segments, now.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.0.maintenance.flush_frozen()?;
        let (answer, answered) = sync_channel(1);
        self.0.queue.send(Message::Freeze(answer)).map_err(|_stopped| StoreError::Closed)?;
        answered.recv().unwrap_or(Err(StoreError::Closed))?;
        self.0.maintenance.flush_frozen()
    }

    /// Takes no more batches, stores those that wait, flushes, and frees the data directory. Queries go on working.
    ///
    /// # Errors
    /// When the flush fails; what was acknowledged is in the log then, and the directory is freed all the same.
    pub fn close(&self) -> Result<(), StoreError> {
        if self.0.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let flushed = self.flush();
        self.0.stop();
        flushed.and_then(|()| self.0.shared.catalogue.checkpoint())
    }

    /// The query that this handle is for, or a new one, and what it is at now.
    fn begin(&self, kind: &'static str) -> Result<Arc<Job>, QueryError> {
        let job = self.1.clone().unwrap_or_else(|| self.0.shared.jobs.begin(Stop::default()));
        job.asks_for(kind);
        job.check()?;
        Ok(job)
    }

    /// Runs a query, and lets go of the dictionaries that it alone needed.
    fn read_rows<T>(
        &self,
        kind: &'static str,
        run: impl FnOnce(&Job) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let job = self.begin(kind)?;
        let answer = run(&job);
        self.0.shared.epochs.forget_unused();
        answer
    }

    fn find(&self, tenants: &Tenants, selectors: &[Selector], range: TimeRange) -> Answers<'_> {
        let shared = &self.0.shared;
        shared.series.find(|| shared.view(), tenants, selectors, range)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    #[cfg(test)]
    pub(crate) fn maintenance(&self) -> &Maintenance {
        &self.0.maintenance
    }
}

impl Inner {
    fn submit(&self, batch: Batch, acknowledge: Acknowledge) {
        let rows = batch.row_count();
        match self.enqueue(batch, acknowledge) {
            Ok(()) => {}
            Err((error, acknowledge)) => {
                self.shared.counters.reject(&error, rows);
                acknowledge(Err(error));
            }
        }
    }

    fn enqueue(&self, batch: Batch, acknowledge: Acknowledge) -> Result<(), (AppendError, Acknowledge)> {
        if self.closed.load(Ordering::SeqCst) {
            return Err((AppendError::Closed, acknowledge));
        }
        if let Err(error) = validate(&batch) {
            return Err((error, acknowledge));
        }
        let limits = self.shared.config.limits;
        let bytes = estimated_bytes(&batch);
        if bytes > limits.batch_bytes {
            return Err((AppendError::TooLarge { bytes, limit: limits.batch_bytes }, acknowledge));
        }
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let full = |what| AppendError::Overloaded { what };
        if queued + bytes > limits.queued_bytes {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err((full("too many bytes wait to be written"), acknowledge));
        }
        let error = match self.queue.try_send(Message::Append(Request {
            batch: Box::new(batch),
            bytes,
            acknowledge,
        })) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(message)) => (full("too many batches wait to be written"), message),
            Err(TrySendError::Disconnected(message)) => (AppendError::Closed, message),
        };
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        match error {
            (error, Message::Append(Request { acknowledge, .. })) => Err((error, acknowledge)),
            _ => Ok(()),
        }
    }

    /// Ends the threads and frees the directory.
    fn stop(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let Some(Running { writer, flush, tend, lock }) = lock(&self.running).take() else { return };
        // The writer is gone already where its thread panicked, and then there is nothing to stop.
        let _ = self.queue.send(Message::Stop);
        let threads = [
            ("writer", writer, None),
            ("flush", flush.thread, Some(flush.wake)),
            ("maintenance", tend.thread, Some(tend.wake)),
        ];
        for (name, thread, wake) in threads {
            drop(wake);
            if thread.join().is_err() {
                tracing::error!(name, "a thread of the store panicked");
            }
        }
        drop(lock);
    }
}

impl Worker {
    fn spawn(name: &'static str, maintenance: &Arc<Maintenance>, work: Work) -> Result<Self, StoreError> {
        // One slot: a thread that has been woken once looks at everything.
        let (wake, woken) = sync_channel(1);
        let maintenance = Arc::clone(maintenance);
        let thread = spawn(name, move || work(&maintenance, &woken))?;
        Ok(Self { wake, thread })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Estimated memory of a batch, which is also more than its record in the log takes.
fn estimated_bytes(batch: &Batch) -> usize {
    let symbols = &batch.symbols;
    let lens = symbols.lens();
    let text: usize = symbols.strings().map(str::len).sum();
    let lines: usize = symbols.locations().iter().map(|location| location.lines.len()).sum();
    let entries = lens.strings + lens.mappings + lens.functions + lens.locations + lens.stacks + lines;
    let label = |label: &pyrite_model::Label| label.name.len() + label.value.len() + 48;
    // In the log every series names its tenant.
    let tenant = batch.tenant.as_str().len();
    let labels: usize =
        batch.series.iter().map(|series| series.labels.iter().map(label).sum::<usize>() + 200 + tenant).sum();
    text + entries * 32 + batch.row_count() * 25 + labels
}

pub(crate) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixMs(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
    spawned.map_err(StoreError::io("start thread", std::path::Path::new(name)))
}
