//! What the store counts, and how `/metrics` shows it.

use std::sync::atomic::{AtomicU64, Ordering};

use pyrite_model::Exposition;

use crate::AppendError;
use crate::dictionary::{Placed, Recall};
use crate::shared::Shared;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is what it was last set to.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) batches: Counter,
    pub(crate) rows: Counter,
    pub(crate) commits: Counter,
    pub(crate) wal_bytes: Counter,
    pub(crate) rejected_batches: [Counter; AppendError::REASONS.len()],
    pub(crate) rejected_rows: [Counter; AppendError::REASONS.len()],
    pub(crate) flushes: Counter,
    pub(crate) merges: Counter,
    pub(crate) maintenance_failures: Counter,
    pub(crate) removed_by_age: Counter,
    pub(crate) removed_by_size: Counter,
    pub(crate) segments_missing: Counter,
    pub(crate) stacks_recalled: Counter,
    pub(crate) stacks_looked_up: Counter,
    pub(crate) recall_bytes: Gauge,
}

impl Counters {
    pub(crate) fn reject(&self, error: &AppendError, rows: usize) {
        self.rejected_batches[error.index()].add(1);
        self.rejected_rows[error.index()].add(rows as u64);
    }

    /// Notes how the stacks of a batch were found.
    pub(crate) fn placed(&self, placed: &Placed, recall: &Recall) {
        self.stacks_recalled.add(placed.recalled as u64);
        self.stacks_looked_up.add(placed.looked_up as u64);
        self.recall_bytes.set(recall.bytes() as u64);
    }
}

/// Writes every metric of the store.
pub(crate) fn write(shared: &Shared, out: &mut Exposition) {
    let c = &shared.counters;
    let plain: [(&'static str, &'static str, &Counter); 8] = [
        ("pyrite_store_batches_total", "Batches stored and acknowledged.", &c.batches),
        ("pyrite_store_rows_total", "Rows stored and acknowledged.", &c.rows),
        (
            "pyrite_store_commits_total",
            "Syncs of the write-ahead log, each for one or more batches.",
            &c.commits,
        ),
        ("pyrite_store_wal_written_bytes_total", "Bytes written to the write-ahead log.", &c.wal_bytes),
        ("pyrite_store_flushes_total", "Heads written as segments.", &c.flushes),
        ("pyrite_store_merges_total", "Segments made from smaller ones.", &c.merges),
        (
            "pyrite_store_maintenance_failures_total",
            "Flushes, merges and removals that failed and are tried again.",
            &c.maintenance_failures,
        ),
        (
            "pyrite_store_segments_missing_total",
            "Segments found to be gone, their rows lost.",
            &c.segments_missing,
        ),
    ];
    for (name, help, counter) in plain {
        out.counter(name, help, &[], counter.get() as f64);
    }
    for (i, reason) in AppendError::REASONS.into_iter().enumerate() {
        let labels = &[("reason", reason)];
        let (batches, rows) = (c.rejected_batches[i].get(), c.rejected_rows[i].get());
        out.counter("pyrite_store_rejected_batches_total", "Batches refused.", labels, batches as f64);
        out.counter("pyrite_store_rejected_rows_total", "Rows in refused batches.", labels, rows as f64);
    }
    for (by, counter) in [("fingerprint", &c.stacks_recalled), ("name", &c.stacks_looked_up)] {
        let help =
            "Stacks of batches that were found in the dictionary, or added to it, by what was looked for.";
        out.counter("pyrite_store_stacks_found_total", help, &[("by", by)], counter.get() as f64);
    }
    for (reason, counter) in [("age", &c.removed_by_age), ("size", &c.removed_by_size)] {
        let help = "Segments removed by retention.";
        out.counter("pyrite_store_segments_removed_total", help, &[("reason", reason)], counter.get() as f64);
    }
    shared.jobs.metrics(out);
    shared.quarantine.metrics(out);
    write_gauges(shared, out);
}

fn write_gauges(shared: &Shared, out: &mut Exposition) {
    let view = shared.view();
    let heads: Vec<(usize, usize)> = view.heads().map(|h| (h.read().rows(), h.read().bytes())).collect();
    let rows: usize = heads.iter().map(|(rows, _)| rows).sum();
    let bytes: usize = heads.iter().map(|(_, bytes)| bytes).sum();
    out.gauge("pyrite_store_head_rows", "Rows in memory, not in a segment yet.", &[], rows as f64);
    out.gauge("pyrite_store_head_bytes", "Estimated memory of the head.", &[], bytes as f64);
    let series = shared.series.len();
    out.gauge("pyrite_store_series", "Distinct series, those in memory included.", &[], series as f64);
    let bytes = shared.series.bytes();
    out.gauge("pyrite_store_series_index_bytes", "Estimated memory of the series index.", &[], bytes as f64);
    let cached = shared.cache.bytes();
    out.gauge("pyrite_store_cache_bytes", "Estimated memory of open segments.", &[], cached as f64);
    let dictionaries = shared.epochs.bytes();
    let help = "Estimated memory of the dictionaries that segments share.";
    out.gauge("pyrite_store_dictionary_bytes", help, &[], dictionaries as f64);
    let recall = shared.counters.recall_bytes.get();
    let help = "Memory of the fingerprints by which stacks are found.";
    out.gauge("pyrite_store_fingerprint_bytes", help, &[], recall as f64);
    out.gauge("pyrite_store_segments", "Segments in use.", &[], view.segments.len() as f64);
    let bytes: u64 = view.segments.iter().map(|segment| segment.bytes).sum();
    out.gauge("pyrite_store_segment_bytes", "Disk space of the segments in use.", &[], bytes as f64);
    let rows: u64 = view.segments.iter().map(|segment| segment.rows).sum();
    out.gauge("pyrite_store_segment_rows", "Rows in the segments in use.", &[], rows as f64);
}
