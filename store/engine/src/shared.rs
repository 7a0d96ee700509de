//! What the writer, the threads of maintenance and queries share: the view of what is stored, and the way to change it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};

use pyrite_model::UnixMs;

use crate::cache::SegmentCache;
use crate::catalogue::{Catalogue, Retired};
use crate::dictionary::{EpochId, Epochs};
use crate::files::FileLayer;
use crate::head::Head;
use crate::job::Jobs;
use crate::metrics::Counters;
use crate::quarantine::{Quarantine, window_text};
use crate::segment::SegmentInfo;
use crate::segment::read::SegmentReader;
use crate::segment::series::SegmentSeries;
use crate::series_index::SeriesIndex;
use crate::sync::{lock, read, write};
use crate::{StoreConfig, StoreError};

/// The directories and files inside the data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) wal: PathBuf,
    pub(crate) segments: PathBuf,
    pub(crate) dictionaries: PathBuf,
    pub(crate) quarantine: PathBuf,
    pub(crate) catalogue: PathBuf,
    pub(crate) format: PathBuf,
    pub(crate) lock: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            wal: root.join("wal"),
            segments: root.join("segments"),
            dictionaries: root.join("dictionaries"),
            quarantine: root.join("quarantine"),
            catalogue: root.join("catalogue.sqlite"),
            format: root.join("format"),
            lock: root.join("lock"),
            root,
        }
    }
}

/// Everything that is stored, each row in exactly one place. A query takes one and keeps it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Takes new rows.
    pub(crate) head: Arc<Head>,
    /// Heads on their way into a segment, oldest first.
    pub(crate) frozen: Vec<Arc<Head>>,
    /// Oldest first.
    pub(crate) segments: Arc<Vec<Arc<SegmentInfo>>>,
}

impl View {
    /// The heads, oldest first.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &Arc<Head>> {
        self.frozen.iter().chain([&self.head])
    }

    /// Puts one segment in the place of others.
    pub(crate) fn replace_segments(
        &mut self,
        gone: &[String],
        new: Option<SegmentInfo>,
    ) -> Vec<Arc<SegmentInfo>> {
        let (removed, mut kept): (Vec<_>, Vec<_>) =
            self.segments.iter().map(Arc::clone).partition(|segment| gone.contains(&segment.name));
        kept.extend(new.map(Arc::new));
        kept.sort_by(|a, b| (a.range.start, &a.name).cmp(&(b.range.start, &b.name)));
        self.segments = Arc::new(kept);
        removed
    }
}

/// Tells the time; tests have their own.
pub(crate) type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) config: StoreConfig,
    pub(crate) layout: Layout,
    pub(crate) files: Arc<dyn FileLayer>,
    pub(crate) clock: Clock,
    pub(crate) catalogue: Catalogue,
    pub(crate) quarantine: Quarantine,
    pub(crate) series: SeriesIndex,
    pub(crate) cache: SegmentCache,
    pub(crate) epochs: Epochs,
    pub(crate) counters: Counters,
    pub(crate) jobs: Arc<Jobs>,
    view: RwLock<View>,
    /// Segments whose rows are out of the view but whose files queries may still read.
    doomed: Mutex<Vec<Arc<SegmentInfo>>>,
    /// Merged segments that the catalogue does not have, so that they are nobody's.
    disowned: Mutex<Vec<PathBuf>>,
}

/// What a store is made of when it opens.
pub(crate) struct Parts {
    pub(crate) config: StoreConfig,
    pub(crate) layout: Layout,
    pub(crate) files: Arc<dyn FileLayer>,
    pub(crate) clock: Clock,
    pub(crate) catalogue: Catalogue,
    pub(crate) quarantine: Quarantine,
    pub(crate) series: SeriesIndex,
    pub(crate) epochs: Epochs,
    pub(crate) view: View,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, layout, files, clock, catalogue, quarantine, series, epochs, view } = parts;
        let cache = SegmentCache::new(config.limits.cache_bytes);
        let jobs = Arc::new(Jobs::new(config.limits));
        Self {
            config,
            layout,
            files,
            clock,
            catalogue,
            quarantine,
            series,
            cache,
            epochs,
            counters: Counters::default(),
            jobs,
            view: RwLock::new(view),
            doomed: Mutex::default(),
            disowned: Mutex::default(),
        }
    }

    /// What is stored now.
    pub(crate) fn view(&self) -> View {
        read(&self.view).clone()
    }

    /// Changes the view at one instant.
    pub(crate) fn change_view<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut write(&self.view))
    }

    /// An open segment, from the cache where it is there.
    pub(crate) fn open_segment(&self, segment: &SegmentInfo) -> Result<Arc<SegmentReader>, StoreError> {
        self.cache.get(&segment.name, || {
            SegmentReader::open(self.files.as_ref(), &self.layout.segments.join(&segment.name))
        })
    }

    /// Makes a segment known that is on the disk, in the place of others; the view is the caller's to change.
    pub(crate) fn add_segment(
        &self,
        segment: &SegmentInfo,
        series: &[SegmentSeries],
        replaces: &[String],
        flushed_through: u64,
    ) -> Result<(), StoreError> {
        self.catalogue.add(segment, series, replaces, flushed_through)?;
        self.series.add_segment(&segment.name, series);
        Ok(())
    }

    /// Takes segments out of the view, once the catalogue no longer has them in use.
    pub(crate) fn doom(&self, names: &[String]) {
        let removed = self.change_view(|view| view.replace_segments(names, None));
        self.doom_removed(removed);
    }

    /// Has the files of segments that left the view removed once nobody reads them.
    pub(crate) fn doom_removed(&self, removed: Vec<Arc<SegmentInfo>>) {
        lock(&self.doomed).extend(removed);
    }

    /// Has a merged segment removed, as far as it is there, that could not be added. What it was made of may be merged
    /// with others next, and a start must not find both.
    pub(crate) fn disown(&self, dir: PathBuf) {
        lock(&self.disowned).push(dir);
    }

    /// Removes what was disowned; nothing may be merged before that.
    pub(crate) fn remove_disowned(&self) -> Result<(), StoreError> {
        let mut disowned = lock(&self.disowned);
        while let Some(dir) = disowned.last() {
            match self.files.remove_dir(dir).map_err(StoreError::io("remove", dir)) {
                Err(error) if !error.is_missing() => return Err(error),
                _ => drop(disowned.pop()),
            }
        }
        Ok(())
    }

    /// Removes the files of doomed segments that no query holds any more.
    pub(crate) fn remove_doomed(&self) -> Result<(), StoreError> {
        let free: Vec<Arc<SegmentInfo>> = {
            let mut doomed = lock(&self.doomed);
            let (free, held) =
                std::mem::take(&mut *doomed).into_iter().partition(|s| Arc::strong_count(s) == 1);
            *doomed = held;
            free
        };
        let mut gone = Vec::new();
        let mut result = Ok(());
        for segment in free {
            self.cache.remove(&segment.name);
            let dir = self.layout.segments.join(&segment.name);
            match self.files.remove_dir(&dir).map_err(StoreError::io("remove", &dir)) {
                Err(error) if !error.is_missing() => {
                    lock(&self.doomed).push(segment);
                    result = Err(error);
                }
                _ => {
                    self.series.drop_segment(&segment.name);
                    gone.push(segment.name.clone());
                }
            }
        }
        if !gone.is_empty() {
            // Or they might come back when the power fails, and be taken for new ones.
            let dir = &self.layout.segments;
            self.files.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
            self.catalogue.forget(&gone)?;
            self.epochs.retain(&self.epochs_in_use()?)?;
        }
        result
    }

    /// The dictionaries that some row is of which is stored, or can be brought back from quarantine.
    fn epochs_in_use(&self) -> Result<BTreeSet<EpochId>, StoreError> {
        // The doomed first: what a merge dooms meanwhile is then in the view still. And the catalogue before the quarantine:
        // what a query sets aside meanwhile is in the one until it is in the other.
        let doomed = lock(&self.doomed).clone();
        let mut segments = self.catalogue.segments()?;
        segments.extend(self.catalogue.retired(Retired::Quarantined)?);
        let set_aside = self.quarantine.epochs();
        let view = self.view();
        let heads = view.heads().map(|head| head.epoch().id());
        let used = doomed.iter().chain(view.segments.iter()).map(|segment| &**segment).chain(&segments);
        let used = used.filter_map(|segment| segment.dictionary).map(|used| used.epoch);
        Ok(used.chain(heads).chain(set_aside).collect())
    }

    /// Deals with a segment that cannot be read: a damaged one is moved aside, a missing one forgotten; the rest of
    /// the store goes on, even where moving fails. Any other error is the caller's to report.
    pub(crate) fn give_up(&self, segment: &SegmentInfo, error: StoreError) -> Result<(), StoreError> {
        if !error.is_corrupt() && !error.is_missing() {
            return Err(error);
        }
        let names = [segment.name.clone()];
        let removed = self.change_view(|view| view.replace_segments(&names, None));
        if removed.is_empty() {
            // Another query met the same, or the segment was replaced while this one was reading it.
            return Ok(());
        }
        self.cache.remove(&segment.name);
        self.series.drop_segment(&segment.name);
        let (from, until) = window_text(Some(segment.range));
        let (name, rows, why) = (&segment.name, segment.rows, error.in_full());
        let listed = self.files.list(&self.layout.segments.join(name));
        let is_gone = listed.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let settled = if error.is_missing() && is_gone {
            self.counters.segments_missing.add(1);
            tracing::error!(name, %from, %until, rows, why, "segment is gone; its rows are lost");
            self.catalogue.retire(name, Retired::Removed)
        } else {
            tracing::error!(name, %from, %until, rows, why, "segment is damaged; moved to quarantine");
            self.catalogue.retire(name, Retired::Quarantined).and_then(|()| self.set_aside(segment, &why))
        };
        if let Err(error) = settled {
            self.counters.maintenance_failures.add(1);
            tracing::error!(name, error = error.in_full(), "cannot put the segment away now");
        }
        Ok(())
    }

    /// Moves to quarantine what could not be moved when it was found, and removes what quarantine may not hold.
    pub(crate) fn tend_quarantine(&self) -> Result<(), StoreError> {
        for segment in self.catalogue.retired(Retired::Quarantined)? {
            self.set_aside(&segment, "damaged; it could not be moved at once")?;
        }
        self.quarantine.trim()
    }

    fn set_aside(&self, segment: &SegmentInfo, why: &str) -> Result<(), StoreError> {
        self.quarantine.take(&segment.name, why, Some(segment))?;
        self.catalogue.forget(std::slice::from_ref(&segment.name))
    }
}
