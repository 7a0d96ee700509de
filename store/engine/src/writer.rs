//! The writer: the one thread that changes the head and the WAL.
//!
//! It takes the first waiting batch and those that queue up behind it, finds their stacks in the dictionary or adds them,
//! writes their records with one write and one sync, makes their rows visible, and only then acknowledges. When the head
//! is due it opens the next generation and leaves the old one to the flush thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use pyrite_model::Batch;

use crate::dictionary::{Lens, Recall, Size};
use crate::head::{Head, HeadState, Mark};
use crate::rows::RowBlock;
use crate::shared::Shared;
use crate::wal::{WalWriter, encode_record};
use crate::{AppendError, CommitPolicy, StoreError};

/// Batches that share one sync at most; bounds the size of one write.
const GROUP_BATCHES: usize = 64;
/// The longest that a batch may be told to wait for others: clients give up after some seconds.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait before another try where opening a new generation failed.
const RETRY: Duration = Duration::from_secs(1);

/// Called once with what became of a batch.
pub(crate) type Acknowledge = Box<dyn FnOnce(Result<(), AppendError>) + Send>;

/// A batch that waits.
pub(crate) struct Request {
    /// Boxed so that the queue's slots are small.
    pub(crate) batch: Box<Batch>,
    /// Estimated memory, given back to the queue's budget when the batch leaves it.
    pub(crate) bytes: usize,
    pub(crate) acknowledge: Acknowledge,
}

pub(crate) enum Message {
    Append(Request),
    /// Open a new generation now where the head has rows; answered when that is done.
    Freeze(SyncSender<Result<(), StoreError>>),
    Stop,
}

/// A batch that is in the log's buffer but not yet durable.
struct Pending {
    rows: RowBlock,
    acknowledge: Acknowledge,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    head: Arc<Head>,
    wal: WalWriter,
    /// What the log holds of the head's dictionary.
    durable: Mark,
    /// Of the head's dictionary, to which this thread alone adds.
    size: Size,
    recall: Recall,
    queued_bytes: Arc<AtomicUsize>,
    /// Wakes the flush thread.
    wake: SyncSender<()>,
    records: Vec<u8>,
    /// How many of the head's series are in the index.
    indexed: usize,
    retry_freeze_at: Option<Instant>,
}

/// The open generation, as found or made when the store was opened.
pub(crate) struct OpenGeneration {
    pub(crate) wal: WalWriter,
    pub(crate) durable: Mark,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        open: OpenGeneration,
        queued_bytes: Arc<AtomicUsize>,
        wake: SyncSender<()>,
    ) -> Self {
        let head = shared.view().head;
        let OpenGeneration { wal, durable } = open;
        let (records, indexed) = (Vec::new(), head.read().series.keys().len());
        Self {
            size: head.dictionary().size(),
            recall: Recall::new(shared.config.limits.remembered_stacks),
            shared,
            head,
            wal,
            durable,
            queued_bytes,
            wake,
            records,
            indexed,
            retry_freeze_at: None,
        }
    }

    /// Serves the queue until told to stop.
    pub(crate) fn run(mut self, queue: &Receiver<Message>) {
        loop {
            let message = match self.next_deadline() {
                Some(wait) => queue.recv_timeout(wait),
                None => queue.recv().map_err(|_closed| RecvTimeoutError::Disconnected),
            };
            let mut next = match message {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(Message::Append(first)) = next {
                next = self.commit_group(first, queue);
            }
            match next {
                Some(Message::Stop) => return,
                Some(Message::Freeze(answer)) => {
                    // The one who asked may have given up waiting; a new generation is open all the same.
                    let _ = answer.send(if self.head.read().rows() == 0 { Ok(()) } else { self.freeze() });
                }
                Some(Message::Append(_)) | None => self.freeze_if_due(),
            }
        }
    }

    /// Commits the first batch and those that come behind it in time; returns the message that ended the group, if any.
    fn commit_group(&mut self, first: Request, queue: &Receiver<Message>) -> Option<Message> {
        let CommitPolicy { interval, max_bytes } = self.shared.config.commit;
        let until = Instant::now() + interval.min(MAX_INTERVAL);
        self.records.clear();
        let mut pending = Vec::new();
        let mut mark = self.durable;
        self.stage(first, &mut mark, &mut pending);
        let mut rest = None;
        while pending.len() < GROUP_BATCHES && self.records.len() < max_bytes {
            match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Append(request)) => self.stage(request, &mut mark, &mut pending),
                Ok(other) => {
                    rest = Some(other);
                    break;
                }
                Err(_nothing_in_time_or_closed) => break,
            }
        }
        self.commit(mark, pending);
        if rest.is_some() {
            self.freeze_if_due();
        }
        rest
    }

    /// Takes one batch in behind those already staged, or refuses it.
    fn stage(&mut self, request: Request, mark: &mut Mark, pending: &mut Vec<Pending>) {
        let Request { batch, bytes, acknowledge } = request;
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Err(error) = self.has_room_for(&batch) {
            self.shared.counters.reject(&error, batch.row_count());
            return acknowledge(Err(error));
        }
        let placed = self.recall.place(&batch, self.head.dictionary());
        self.shared.counters.placed(&placed, &self.recall);
        let mut head = self.head.write();
        let staged = head.intern(*batch, &placed);
        let new_series = head.series.keys()[self.indexed..].to_vec();
        let reached = head.mark();
        self.size = self.head.dictionary().size();
        match staged {
            Some(rows) => {
                encode_record(&mut self.records, &head, *mark, &rows);
                *mark = reached;
                pending.push(Pending { rows, acknowledge });
            }
            None => acknowledge(Ok(())),
        }
        drop(head);
        // Without the head's lock: queries take the index's first.
        self.indexed += new_series.len();
        self.shared.series.add_to_head(self.head.generation(), &new_series);
    }

    fn has_room_for(&self, batch: &Batch) -> Result<(), AppendError> {
        let policy = self.shared.config.flush;
        let (rows, bytes) = {
            let head = self.head.read();
            (head.rows(), head.bytes())
        };
        if rows > policy.max_rows.saturating_mul(2)
            || bytes > policy.max_bytes.saturating_mul(2)
            || self.shared.epochs.is_overfull(self.size)
        {
            return Err(AppendError::Overloaded { what: "the head is full and its flush is behind" });
        }
        self.shared.series.room_for(batch)
    }

    fn commit(&mut self, mark: Mark, pending: Vec<Pending>) {
        if pending.is_empty() {
            return;
        }
        let counters = &self.shared.counters;
        if let Err(error) = self.wal.append(&self.records) {
            let error = AppendError::from_write(error);
            tracing::error!(%error, batches = pending.len(), "batches refused");
            for Pending { rows, acknowledge } in pending {
                counters.reject(&error, rows.len());
                acknowledge(Err(error.clone()));
            }
            return;
        }
        self.durable = mark;
        counters.commits.add(1);
        counters.wal_bytes.add(self.records.len() as u64);
        counters.batches.add(pending.len() as u64);
        counters.rows.add(pending.iter().map(|p| p.rows.len() as u64).sum());
        let mut acknowledged = Vec::with_capacity(pending.len());
        {
            let mut head = self.head.write();
            for Pending { rows, acknowledge } in pending {
                head.publish(rows);
                acknowledged.push(acknowledge);
            }
        }
        for acknowledge in acknowledged {
            acknowledge(Ok(()));
        }
        // One huge group must not hold its buffer for ever.
        self.records.shrink_to(self.shared.config.commit.max_bytes / 4);
    }

    /// How long the head may still wait; `None` for as long as nothing comes in.
    fn next_deadline(&self) -> Option<Duration> {
        let now = Instant::now();
        if let Some(retry) = self.retry_freeze_at {
            return Some(retry.saturating_duration_since(now));
        }
        let first_row_at = self.head.read().first_row_at()?;
        // Not the sum of the two: a limit that says "never" would overflow it.
        Some(self.shared.config.flush.max_age.saturating_sub(now.saturating_duration_since(first_row_at)))
    }

    fn freeze_if_due(&mut self) {
        let policy = self.shared.config.flush;
        let due = {
            let head = self.head.read();
            let old = head.first_row_at().is_some_and(|at| at.elapsed() >= policy.max_age);
            let large = head.rows() >= policy.max_rows || head.bytes() >= policy.max_bytes;
            old || large || self.shared.epochs.is_full(self.size)
        };
        if !due || self.retry_freeze_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.retry_freeze_at = None;
        // One generation at a time is on its way: memory is bounded by two heads.
        let behind = !self.shared.view().frozen.is_empty();
        let frozen = if behind { Ok(()) } else { self.freeze() };
        if let Err(error) = &frozen {
            self.shared.counters.maintenance_failures.add(1);
            tracing::error!(%error, "cannot open a new generation of the log; trying again");
        }
        if behind || frozen.is_err() {
            self.retry_freeze_at = Some(Instant::now() + RETRY);
        }
    }

    /// Opens the next generation and hands the present head to the flush thread.
    fn freeze(&mut self) -> Result<(), StoreError> {
        let generation = self.head.generation() + 1;
        let epoch = self.shared.epochs.for_generation();
        self.wal = WalWriter::create(&self.shared.files, &self.shared.layout.wal, generation, epoch.id())?;
        // What the epoch has and no log says is said by the first record of this one.
        let symbols =
            if epoch.id() == self.head.epoch().id() { self.durable.symbols } else { Lens::default() };
        self.durable = Mark { symbols, series: 0 };
        self.size = epoch.dictionary().size();
        self.indexed = 0;
        let state = HeadState::new(epoch);
        self.head = Arc::new(Head::new(generation, state));
        self.shared.change_view(|view| {
            let frozen = std::mem::replace(&mut view.head, Arc::clone(&self.head));
            view.frozen.push(frozen);
        });
        // A full channel means that the thread has been woken already.
        let _ = self.wake.try_send(());
        Ok(())
    }
}
