//! Maintenance: heads become segments, small segments large ones, old ones go; ingest and queries go on meanwhile. Flushing has a
//! thread of its own: a merge may take long, and until a flush is done the head takes no more than twice its size.
//!
//! The order of a flush is what makes it safe to die anywhere in it: every file of the segment is synced, the
//! directory gets its name, the catalogue learns of it, queries see it in the head's place, and only then is the
//! WAL file removed. A segment states the generation it covers, so a WAL file that outlived its flush is recognised.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyrite_model::UnixMs;

use crate::StoreError;
use crate::head::Head;
use crate::merge;
use crate::rows::RowBlock;
use crate::segment::manifest::Manifest;
use crate::segment::series::{SegmentSeries, read_series};
use crate::segment::write::{SegmentContent, SegmentOrigin, SegmentWriter, StackUse};
use crate::segment::{self, SegmentInfo};
use crate::shared::Shared;
use crate::sync::lock;
use crate::wal;

/// How often each thread looks around, woken or not.
const PERIOD: Duration = Duration::from_mins(1);
/// How soon they look again after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// One of the things to do; each is tried even where the one before failed.
type Step = fn(&Maintenance) -> Result<(), StoreError>;

/// What the threads share.
pub(crate) struct Maintenance {
    shared: Arc<Shared>,
    /// Held by a flush: callers of `Store::flush` must not meet the thread at the same head.
    flushing: Mutex<()>,
    /// Held by each other piece of work.
    tending: Mutex<()>,
}

/// A thread: works until the other end of its channel is gone, and each time it is woken.
pub(crate) type Work = fn(&Maintenance, &Receiver<()>);

impl Maintenance {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, flushing: Mutex::new(()), tending: Mutex::new(()) }
    }

    /// Flushes.
    pub(crate) fn flush_when_woken(&self, wake: &Receiver<()>) {
        self.work(wake, &[("flush", Self::flush_frozen)]);
    }

    /// Does all else.
    pub(crate) fn tend(&self, wake: &Receiver<()>) {
        let steps: [(&str, Step); 4] = [
            ("merge", Self::merge),
            ("retention", Self::retain),
            ("removal", |this| this.shared.remove_doomed()),
            ("quarantine", |this| this.shared.tend_quarantine()),
        ];
        self.work(wake, &steps);
    }

    fn work(&self, wake: &Receiver<()>, steps: &[(&str, Step)]) {
        let mut wait = Duration::ZERO;
        loop {
            match wake.recv_timeout(wait) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            wait = PERIOD;
            for (step, run) in steps {
                if let Err(error) = run(self) {
                    self.shared.counters.maintenance_failures.add(1);
                    tracing::error!(step, %error, "maintenance failed; trying again");
                    wait = RETRY;
                }
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Writes every frozen head as a segment, oldest first.
    pub(crate) fn flush_frozen(&self) -> Result<(), StoreError> {
        let _flushing = lock(&self.flushing);
        while let Some(head) = self.shared.view().frozen.first() {
            flush(&self.shared, head)?;
        }
        self.shared.epochs.forget_unused();
        Ok(())
    }

    /// Merges what is ready to be merged.
    pub(crate) fn merge(&self) -> Result<(), StoreError> {
        while self.merge_next()? {}
        Ok(())
    }

    /// Merges the next group of segments; false where there is none.
    pub(crate) fn merge_next(&self) -> Result<bool, StoreError> {
        let _tending = lock(&self.tending);
        self.shared.remove_disowned()?;
        let Some(group) = merge::choose(&self.shared.view().segments, (self.shared.clock)()) else {
            return Ok(false);
        };
        merge::merge(&self.shared, &group)?;
        Ok(true)
    }

    /// Removes segments that are too old or too many.
    pub(crate) fn retain(&self) -> Result<(), StoreError> {
        let _tending = lock(&self.tending);
        let shared = &self.shared;
        let policy = shared.config.retention;
        let max_age_ms = i64::try_from(policy.max_age.as_millis()).unwrap_or(i64::MAX);
        let oldest = UnixMs((shared.clock)().0.saturating_sub(max_age_ms));
        let mut segments: Vec<Arc<SegmentInfo>> = shared.view().segments.to_vec();
        segments.sort_by_key(|segment| segment.range.end);
        let rows: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let mut used = rows + wal_bytes(shared)? + shared.epochs.disk_bytes()?;
        for segment in segments {
            let counter = if segment.range.end < oldest {
                &shared.counters.removed_by_age
            } else if used > policy.max_bytes {
                &shared.counters.removed_by_size
            } else {
                // The rest is younger still, and fits.
                break;
            };
            used = used.saturating_sub(segment.bytes);
            counter.add(1);
            remove(shared, &segment)?;
        }
        Ok(())
    }
}

fn remove(shared: &Shared, segment: &SegmentInfo) -> Result<(), StoreError> {
    tracing::info!(name = segment.name, rows = segment.rows, "segment removed by retention");
    shared.catalogue.retire(&segment.name, crate::catalogue::Retired::Removed)?;
    shared.doom(std::slice::from_ref(&segment.name));
    Ok(())
}

fn wal_bytes(shared: &Shared) -> Result<u64, StoreError> {
    let dir = &shared.layout.wal;
    let mut bytes = 0;
    for name in shared.files.list(dir).map_err(StoreError::io("list", dir))? {
        // A file that a flush removed since it was listed takes no space.
        bytes += shared.files.open_read(&dir.join(name)).and_then(|file| file.len()).unwrap_or(0);
    }
    Ok(bytes)
}

/// Writes one frozen head as a segment and removes its WAL file.
fn flush(shared: &Shared, head: &Arc<Head>) -> Result<(), StoreError> {
    let generation = head.generation();
    let name = segment::name(generation, generation, 0);
    let dir = shared.layout.segments.join(&name);
    let files = shared.files.as_ref();
    let written = if head.read().rows() == 0 {
        None
    } else if files.list(&dir).is_ok() {
        // An earlier try came this far.
        Some(describe(shared, &dir, &name)?)
    } else {
        Some(write_head(shared, head, name.clone()).inspect_err(|_| discard_unfinished(shared, &name))?)
    };
    match &written {
        Some((segment, series)) => shared.add_segment(segment, series, &[], generation)?,
        None => shared.catalogue.flush_through(generation)?,
    }
    shared.change_view(|view| {
        view.frozen.retain(|frozen| frozen.generation() != generation);
        if let Some((segment, _)) = written {
            view.replace_segments(&[], Some(segment));
        }
    });
    shared.series.drop_head(generation);
    shared.counters.flushes.add(1);
    let path = wal::path(&shared.layout.wal, generation);
    match files.remove_file(&path).map_err(StoreError::io("remove", &path)) {
        // Somebody else has removed it.
        Err(error) if !error.is_missing() => return Err(error),
        _ => {}
    }
    files.sync_dir(&shared.layout.wal).map_err(StoreError::io("sync", &shared.layout.wal))
}

/// What a finished segment says of itself, its name made durable first: what failed when it was written may have
/// been just that.
fn describe(
    shared: &Shared,
    dir: &Path,
    name: &str,
) -> Result<(SegmentInfo, Vec<SegmentSeries>), StoreError> {
    let (files, parent) = (shared.files.as_ref(), &shared.layout.segments);
    files.sync_dir(parent).map_err(StoreError::io("sync", parent))?;
    let manifest = Manifest::read(files, dir)?;
    Ok((manifest.info(name), read_series(files, dir, &manifest)?))
}

/// Writes what the head's stacks are made of, and then its rows.
fn write_head(
    shared: &Shared,
    head: &Head,
    name: String,
) -> Result<(SegmentInfo, Vec<SegmentSeries>), StoreError> {
    let epoch = head.epoch();
    shared.epochs.persist(epoch)?;
    let state = head.read();
    let rows = || state.blocks().iter().flat_map(RowBlock::iter);
    let mut stacks = vec![StackUse::default(); state.bounds().stacks];
    for row in rows() {
        stacks[row.stack as usize].add(1, row.series);
    }
    let span_ms = state.range().map_or(0, |range| range.end.0.saturating_sub(range.start.0));
    let content = SegmentContent {
        epoch: epoch.id(),
        series: state.series.keys(),
        span_ms,
        sums_from_rows: shared.config.limits.sums_from_rows,
        stacks: &stacks,
    };
    let mut writer = SegmentWriter::create(shared.files.as_ref(), &shared.layout.segments, &name, content)?;
    for row in rows() {
        writer.push(row)?;
    }
    let flushed_through = head.generation();
    writer.finish(SegmentOrigin { name, level: 0, flushed_through, replaces: Vec::new() })
}

/// Removes what a failed attempt left, so that a full disk has that room again.
pub(crate) fn discard_unfinished(shared: &Shared, name: &str) {
    match shared.files.remove_dir(&segment::write::temporary_dir(&shared.layout.segments, name)) {
        // It may have failed before there was anything.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(name, %error, "cannot remove an unfinished segment; the next start does");
        }
        _ => {}
    }
}
