//! Queries under way: what each holds in memory, how far it has read, and whether anybody still wants its answer.
//!
//! Every query has a [`Job`]. What it holds is noted there in large steps, such as a source, a row group or a thousand
//! names, and between steps [`Job::check`] says whether it may go on. So it stops within a step, and memory passes a limit
//! by no more than one step of each query that runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use pyrite_model::{Exposition, LabelSet, SeriesKey};

use crate::metrics::Counter;
use crate::sync::lock;
use crate::{Limits, QueryError};

/// Items that make up a step where they are small.
const STEP: usize = 1024;

/// Whether the answer to a query is still wanted. Clones are the same one: who waits for the answer has one, and who works
/// on it another.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Wish>);

#[derive(Debug, Default)]
struct Wish {
    cancelled: AtomicBool,
    /// With the time that was given.
    deadline: Option<(Instant, Duration)>,
}

impl Stop {
    /// One that comes by itself when this time is over.
    pub fn after(time: Duration) -> Self {
        // A time that no clock reaches is none.
        let deadline = Instant::now().checked_add(time).map(|at| (at, time));
        Self(Arc::new(Wish { cancelled: AtomicBool::new(false), deadline }))
    }

    /// Says that nobody wants the answer any more.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// To be asked between steps of the work.
    ///
    /// # Errors
    /// When the answer is not wanted any more, or its time is over.
    pub fn check(&self) -> Result<(), QueryError> {
        if self.0.cancelled.load(Ordering::Relaxed) {
            return Err(QueryError::Cancelled);
        }
        match self.0.deadline {
            Some((at, limit)) if Instant::now() >= at => Err(QueryError::TimedOut { limit }),
            _ => Ok(()),
        }
    }
}

/// What a query is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryStatus {
    /// Its number; they count up from 1 and are not given twice.
    pub id: u64,
    /// What it asks for.
    pub kind: &'static str,
    /// How long it has been running.
    pub age: Duration,
    /// Estimated memory that it holds.
    pub bytes: usize,
    /// Rows of the segments and heads that it is done with, those included that it read sums in place of.
    pub rows_read: u64,
    /// Rows of all that overlap its window, as far as it has looked: more come with the second side of a comparison.
    pub rows_to_read: u64,
}

/// All queries under way, and the limits that they have in common.
#[derive(Debug)]
pub(crate) struct Jobs {
    limits: Limits,
    bytes: AtomicUsize,
    begun: AtomicU64,
    running: Mutex<BTreeMap<u64, Weak<Job>>>,
    running_count: AtomicUsize,
    ended: [Counter; Ended::ALL.len()],
}

/// Why a query ended without an answer.
#[derive(Clone, Copy)]
enum Ended {
    Client,
    Deadline,
    QueryMemory,
    TotalMemory,
}

impl Ended {
    const ALL: [Self; 4] = [Self::Client, Self::Deadline, Self::QueryMemory, Self::TotalMemory];

    fn of(error: &QueryError) -> Option<Self> {
        match error {
            QueryError::Cancelled => Some(Self::Client),
            QueryError::TimedOut { .. } => Some(Self::Deadline),
            QueryError::TooMuchMemory { .. } => Some(Self::QueryMemory),
            QueryError::MemoryTaken { .. } => Some(Self::TotalMemory),
            QueryError::Store(_)
            | QueryError::BadStep { .. }
            | QueryError::TooManyPoints { .. }
            | QueryError::TooManyProfiles { .. }
            | QueryError::TooManyToCompare { .. } => None,
        }
    }
}

impl Jobs {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            bytes: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            running: Mutex::default(),
            running_count: AtomicUsize::new(0),
            ended: Default::default(),
        }
    }

    /// Enters a query, which ends when `stop` says so.
    pub(crate) fn begin(self: &Arc<Self>, stop: Stop) -> Arc<Job> {
        let id = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let job = Arc::new(Job {
            all: Arc::clone(self),
            id,
            stop,
            begun: Instant::now(),
            kind: Mutex::new(""),
            bytes: AtomicUsize::new(0),
            rows_read: AtomicU64::new(0),
            rows_to_read: AtomicU64::new(0),
            is_counted: AtomicBool::new(false),
        });
        self.running_count.fetch_add(1, Ordering::Relaxed);
        lock(&self.running).insert(id, Arc::downgrade(&job));
        job
    }

    /// What each is at, the oldest first.
    pub(crate) fn list(&self) -> Vec<QueryStatus> {
        // A job that ends here takes itself off the list, which must not be locked then.
        let running: Vec<_> = lock(&self.running).values().cloned().collect();
        running.iter().filter_map(Weak::upgrade).map(|job| job.status()).collect()
    }

    pub(crate) fn metrics(&self, out: &mut Exposition) {
        let count = |ended: Ended| self.ended[ended as usize].get() as f64;
        for (reason, ended) in [("client", Ended::Client), ("deadline", Ended::Deadline)] {
            let help = "Queries stopped because nobody waited any more or their time was over.";
            let labels = &[("reason", reason)];
            out.counter("pyrite_store_queries_cancelled_total", help, labels, count(ended));
        }
        for (reason, ended) in [("query_memory", Ended::QueryMemory), ("total_memory", Ended::TotalMemory)] {
            let help = "Queries refused because they, or all together, held too much memory.";
            let labels = &[("reason", reason)];
            out.counter("pyrite_store_queries_refused_total", help, labels, count(ended));
        }
        let running = self.list();
        let sum = |of: fn(&QueryStatus) -> u64| running.iter().map(of).sum::<u64>() as f64;
        out.gauge("pyrite_store_queries_running", "Queries under way.", &[], running.len() as f64);
        let bytes = self.bytes.load(Ordering::Relaxed) as f64;
        out.gauge("pyrite_store_query_bytes", "Estimated memory of the queries under way.", &[], bytes);
        let help = "Rows that the queries under way are about.";
        out.gauge("pyrite_store_query_rows_to_read", help, &[], sum(|status| status.rows_to_read));
        let help = "Those of them that are done.";
        out.gauge("pyrite_store_query_rows_read", help, &[], sum(|status| status.rows_read));
    }
}

/// One query under way.
#[derive(Debug)]
pub(crate) struct Job {
    all: Arc<Jobs>,
    id: u64,
    stop: Stop,
    begun: Instant,
    kind: Mutex<&'static str>,
    bytes: AtomicUsize,
    rows_read: AtomicU64,
    rows_to_read: AtomicU64,
    /// Whether its end is in the counters.
    is_counted: AtomicBool,
}

impl Job {
    /// Says what is being asked for.
    pub(crate) fn asks_for(&self, kind: &'static str) {
        *lock(&self.kind) = kind;
    }

    /// Whether to go on. Where all queries together hold too much, those end that hold more than their share of the limit,
    /// and small ones are left in peace.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        let checked = self.stop.check().and_then(|()| self.check_memory());
        if let Some(ended) = checked.as_ref().err().and_then(Ended::of)
            && !self.is_counted.swap(true, Ordering::Relaxed)
        {
            self.all.ended[ended as usize].add(1);
        }
        checked
    }

    fn check_memory(&self) -> Result<(), QueryError> {
        let Limits { query_bytes, queries_bytes, .. } = self.all.limits;
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes > query_bytes {
            return Err(QueryError::TooMuchMemory { bytes, limit: query_bytes });
        }
        let all = self.all.bytes.load(Ordering::Relaxed);
        let share = queries_bytes / self.all.running_count.load(Ordering::Relaxed).max(1);
        if all > queries_bytes && bytes > share {
            return Err(QueryError::MemoryTaken { bytes: all, limit: queries_bytes });
        }
        Ok(())
    }

    /// Notes memory that the query holds until its end.
    pub(crate) fn keep(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.all.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes memory that it holds for as long as what this returns is there.
    pub(crate) fn hold(&self, bytes: usize) -> Held<'_> {
        self.keep(bytes);
        Held { job: self, bytes }
    }

    /// Collects items, each of which takes so many bytes beside its place in the list, until the end of the query.
    pub(crate) fn collect<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        bytes: impl Fn(&T) -> usize,
    ) -> Result<Vec<T>, QueryError> {
        let (mut all, mut step) = (Vec::new(), 0);
        for item in items {
            step += size_of::<T>() + bytes(&item);
            all.push(item);
            if all.len().is_multiple_of(STEP) {
                self.keep(std::mem::take(&mut step));
                self.check()?;
            }
        }
        self.keep(step);
        self.check()?;
        Ok(all)
    }

    /// The same check, for the `at`th of many small things: made once for each step.
    pub(crate) fn check_at(&self, at: usize) -> Result<(), QueryError> {
        if at.is_multiple_of(STEP) { self.check() } else { Ok(()) }
    }

    /// Says that it will read so many rows, or be done with them otherwise.
    pub(crate) fn plan(&self, rows: u64) {
        self.rows_to_read.fetch_add(rows, Ordering::Relaxed);
    }

    /// Says that it has.
    pub(crate) fn done(&self, rows: u64) {
        self.rows_read.fetch_add(rows, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.all.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn status(&self) -> QueryStatus {
        QueryStatus {
            id: self.id,
            kind: *lock(&self.kind),
            age: self.begun.elapsed(),
            bytes: self.bytes.load(Ordering::Relaxed),
            rows_read: self.rows_read.load(Ordering::Relaxed),
            rows_to_read: self.rows_to_read.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.give_back(self.bytes.load(Ordering::Relaxed));
        lock(&self.all.running).remove(&self.id);
        self.all.running_count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory that a query holds for a while; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    job: &'a Job,
    bytes: usize,
}

impl Held<'_> {
    /// Says that it is more by now, or less.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.job.keep(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.job.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.job.give_back(self.bytes);
    }
}

/// Of a label beside its texts: their places, and what the allocator adds to each.
const LABEL_BYTES: usize = 80;
/// Of a series beside its labels and its own place: the parts of its type.
const KEY_BYTES: usize = 160;

/// Estimated memory of labels.
pub(crate) fn label_bytes(labels: &LabelSet) -> usize {
    labels.iter().map(|label| LABEL_BYTES + label.name.len() + label.value.len()).sum()
}

/// Estimated memory of a series' name, its own place not counted.
pub(crate) fn key_bytes(key: &SeriesKey) -> usize {
    KEY_BYTES + label_bytes(&key.labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(query_bytes: usize, queries_bytes: usize) -> Arc<Jobs> {
        Arc::new(Jobs::new(Limits { query_bytes, queries_bytes, ..Limits::default() }))
    }

    fn metric(jobs: &Jobs, line: &str) -> bool {
        let mut out = Exposition::new();
        jobs.metrics(&mut out);
        out.to_string().lines().any(|found| found == line)
    }

    #[test]
    fn one_that_holds_too_much_ends_and_gives_all_back() {
        let jobs = jobs(100, 1000);
        let job = jobs.begin(Stop::default());
        let held = job.hold(60);
        job.keep(40);
        assert!(job.check().is_ok(), "as much as it may");
        job.keep(1);
        let error = job.check().unwrap_err();
        assert!(matches!(error, QueryError::TooMuchMemory { bytes: 101, limit: 100 }), "{error}");
        assert!(job.check().is_err());
        drop(held);
        assert!(job.check().is_ok(), "what it let go of counts no more");
        assert_eq!(jobs.list()[0].bytes, 41);
        drop(job);
        assert!(
            metric(&jobs, "pyrite_store_queries_refused_total{reason=\"query_memory\"} 1"),
            "counted once"
        );
        assert!(metric(&jobs, "pyrite_store_query_bytes 0"));
        assert!(metric(&jobs, "pyrite_store_queries_running 0"));
    }

    #[test]
    fn where_all_hold_too_much_the_small_ones_go_on() {
        let jobs = jobs(100, 150);
        let [small, large, larger] = [10, 70, 80].map(|bytes| {
            let job = jobs.begin(Stop::default());
            job.keep(bytes);
            job
        });
        assert!(small.check().is_ok());
        for job in [&large, &larger] {
            assert!(matches!(job.check().unwrap_err(), QueryError::MemoryTaken { bytes: 160, limit: 150 }));
        }
        drop(larger);
        assert!(large.check().is_ok(), "there is room again");
        assert!(metric(&jobs, "pyrite_store_queries_refused_total{reason=\"total_memory\"} 2"));
    }

    #[test]
    fn what_is_collected_is_checked_on_the_way() {
        let jobs = jobs(100_000, 100_000);
        let job = jobs.begin(Stop::default());
        let mut made = 0_usize;
        let endless = std::iter::repeat_with(|| {
            made += 1;
            "x".repeat(76)
        });
        assert!(job.collect(endless, String::len).is_err());
        assert_eq!(made, STEP, "100 bytes each, noticed at the end of the first step");
        let job = jobs.begin(Stop::default());
        assert_eq!(job.collect([1_u8, 2, 3], |_| 7).unwrap(), [1, 2, 3]);
        assert_eq!(jobs.list().last().unwrap().bytes, 24);
    }

    #[test]
    fn memory_that_is_held_follows_what_is_said_of_it() {
        let jobs = jobs(100, 100);
        let job = jobs.begin(Stop::default());
        let mut held = job.hold(0);
        for bytes in [10, 90, 5, 5, 0, 30] {
            held.set(bytes);
            assert_eq!(job.status().bytes, bytes);
        }
    }

    #[test]
    fn a_stop_comes_by_hand_or_by_the_clock() {
        let jobs = jobs(1, 1);
        let stop = Stop::default();
        let job = jobs.begin(stop.clone());
        assert!(job.check().is_ok());
        stop.cancel();
        assert!(matches!(job.check().unwrap_err(), QueryError::Cancelled));
        let late = jobs.begin(Stop::after(Duration::ZERO));
        assert!(matches!(late.check().unwrap_err(), QueryError::TimedOut { .. }));
        assert!(jobs.begin(Stop::after(Duration::MAX)).check().is_ok());
        for reason in ["client", "deadline"] {
            assert!(metric(&jobs, &format!("pyrite_store_queries_cancelled_total{{reason=\"{reason}\"}} 1")));
        }
    }

    #[test]
    fn the_list_says_what_each_is_at() {
        let jobs = jobs(100, 100);
        let [first, second] = [jobs.begin(Stop::default()), jobs.begin(Stop::default())];
        first.asks_for("series");
        second.plan(10);
        second.done(4);
        let list = jobs.list();
        assert_eq!(
            list.iter().map(|status| (status.id, status.kind)).collect::<Vec<_>>(),
            [(1, "series"), (2, "")]
        );
        assert_eq!((list[1].rows_read, list[1].rows_to_read), (4, 10));
        drop(first);
        assert_eq!(jobs.list().len(), 1);
    }
}
