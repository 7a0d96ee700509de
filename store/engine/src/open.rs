//! Opening a data directory: take the lock, read the catalogue, put right what a crash left, replay the log.
//!
//! Whatever is odd is reported in words and nothing is thrown away: a torn log tail and a broken catalogue are kept
//! under other names, a damaged segment goes to quarantine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyrite_model::TimeRange;

use crate::catalogue::{Catalogue, Retired};
use crate::dictionary::{EpochLimits, Epochs, LostPart};
use crate::files::{FileLayer, read_all};
use crate::head::{Head, HeadState};
use crate::quarantine::{Quarantine, window_text};
use crate::segment::manifest::Manifest;
use crate::segment::series::read_series;
use crate::segment::write::is_temporary;
use crate::segment::{self, SegmentInfo, stacks_in_use};
use crate::series_index::{Filling, SeriesIndex};
use crate::shared::{Layout, View};
use crate::wal::{self, WalWriter};
use crate::writer::OpenGeneration;
use crate::{Limits, StoreError};

/// The newest layout of a data directory.
pub(crate) const FORMAT: u64 = 2;

/// What opening a store found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Rows that were read back from the log.
    pub replayed_rows: u64,
    /// Everything out of the ordinary.
    pub findings: Vec<Finding>,
}

/// Something out of the ordinary in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The log ended in bytes that are no whole record: the batch in flight at a crash, or damage.
    LogCut {
        /// The log file.
        file: PathBuf,
        /// Where the cut is.
        offset: u64,
        /// How much follows it.
        bytes: u64,
        /// Why.
        why: &'static str,
        /// The file that holds what was cut.
        kept_as: PathBuf,
    },
    /// A finished segment that the catalogue did not know; it does now.
    SegmentAdopted {
        /// Its name.
        name: String,
    },
    /// Something that somebody else has put among the segments; left alone.
    NotOurs {
        /// What it is.
        path: PathBuf,
    },
    /// A segment that was not finished, its rows being in the log still; removed.
    SegmentUnfinished {
        /// Its name.
        name: String,
    },
    /// A damaged segment, moved to the quarantine directory.
    SegmentQuarantined {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
        /// When its rows were, where that is known.
        range: Option<TimeRange>,
    },
    /// A segment that the catalogue lists and the disk does not have.
    SegmentMissing {
        /// Its name.
        name: String,
        /// When its rows were.
        range: TimeRange,
        /// How many there were.
        rows: u64,
    },
    /// Log files that ought to be there are not: what was acknowledged since the last flush before them is lost.
    LogMissing {
        /// The first of them.
        file: PathBuf,
        /// How many there are.
        files: u64,
    },
    /// A part of a dictionary is damaged: rows are all there, some of their stacks have no names any more.
    DictionaryDamaged {
        /// The part.
        dir: PathBuf,
        /// How many stacks are nameless.
        stacks: usize,
        /// What is wrong.
        why: String,
    },
    /// The catalogue was broken; it was made anew from the segments.
    CatalogueRebuilt {
        /// The file that holds the broken one.
        kept_as: PathBuf,
    },
}

impl fmt::Display for OpenReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows read back from the log", self.replayed_rows)?;
        self.findings.iter().try_for_each(|finding| write!(f, "; {finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogCut { file, offset, bytes, why, kept_as } => {
                let (file, kept_as) = (file.display(), kept_as.display());
                write!(
                    f,
                    "{file} cut at byte {offset}: {why}; the {bytes} bytes after it are kept in {kept_as}"
                )
            }
            Self::SegmentAdopted { name } => write!(f, "segment {name} added to the catalogue"),
            Self::NotOurs { path } => write!(f, "{} is not of this program and left alone", path.display()),
            Self::SegmentUnfinished { name } => write!(f, "unfinished segment {name} removed"),
            Self::SegmentQuarantined { name, why, range } => {
                let (start, end) = window_text(*range);
                write!(f, "segment {name} with rows from {start} to {end} moved to quarantine: {why}")
            }
            Self::SegmentMissing { name, range, rows } => {
                let (start, end) = window_text(Some(*range));
                write!(f, "segment {name} is gone: {rows} rows from {start} to {end} are lost")
            }
            Self::LogMissing { file, files } => {
                let file = file.display();
                write!(
                    f,
                    "{file} is gone, {files} log files in all: what no segment holds of their rows is lost"
                )
            }
            Self::DictionaryDamaged { dir, stacks, why } => {
                write!(f, "{stacks} stacks have lost their names, {}: {why}", dir.display())
            }
            Self::CatalogueRebuilt { kept_as } => {
                write!(
                    f,
                    "broken catalogue made anew from the segments; the old one is {}",
                    kept_as.display()
                )
            }
        }
    }
}

/// Whether a data directory has been in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// It states no format yet, which it does from when all else is there that has to be.
    New,
    Used,
}

/// Makes the directories and checks that this release may use what is there.
pub(crate) fn prepare(files: &dyn FileLayer, layout: &Layout) -> Result<Age, StoreError> {
    for dir in [&layout.wal, &layout.segments, &layout.dictionaries] {
        files.create_dir(dir).map_err(StoreError::io("create", dir))?;
    }
    let path = &layout.format;
    match read_all(files, path) {
        Ok(bytes) if !bytes.is_empty() => {
            let found = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
            match found {
                Some(found) if found > FORMAT => {
                    Err(StoreError::Newer { path: path.clone(), found, supported: FORMAT })
                }
                Some(FORMAT) => Ok(Age::Used),
                Some(_older) => write_format(files, layout).map(|()| Age::Used),
                None => Err(StoreError::corrupt(path, "it does not state a format version")),
            }
        }
        // An empty one was being made when the machine stopped.
        Ok(_) => Ok(Age::New),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(Age::New),
        Err(source) => Err(StoreError::Io { action: "read", path: path.clone(), source }),
    }
}

/// States the format, and makes the names in the data directory durable.
pub(crate) fn write_format(files: &dyn FileLayer, layout: &Layout) -> Result<(), StoreError> {
    let made = files.create(&layout.format).and_then(|mut file| {
        file.append(format!("{FORMAT}\n").as_bytes())?;
        file.sync()?;
        files.sync_dir(&layout.root)
    });
    made.map_err(StoreError::io("write", &layout.format))
}

/// Makes the names durable that lead to a new data directory.
pub(crate) fn sync_above(files: &dyn FileLayer, root: &Path) -> Result<(), StoreError> {
    for dir in root.ancestors().skip(1) {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        match files.sync_dir(dir) {
            // One that cannot be looked into was there before.
            Err(source) if source.kind() == std::io::ErrorKind::PermissionDenied => break,
            synced => synced.map_err(StoreError::io("sync", dir))?,
        }
    }
    Ok(())
}

/// The state that a store starts from.
pub(crate) struct Opened {
    pub(crate) view: View,
    pub(crate) catalogue: Catalogue,
    pub(crate) series: SeriesIndex,
    pub(crate) epochs: Epochs,
    pub(crate) generation: OpenGeneration,
    pub(crate) report: OpenReport,
}

/// Reads the data directory, which must be locked and prepared.
pub(crate) fn open(
    files: &Arc<dyn FileLayer>,
    layout: &Layout,
    limits: &Limits,
    quarantine: &Quarantine,
    age: Age,
) -> Result<Opened, StoreError> {
    let epoch_limits = EpochLimits::from(limits);
    let mut recovery =
        Recovery { files, layout, quarantine, epoch_limits, age, report: OpenReport::default() };
    let (catalogue, filling) = recovery.open_catalogue()?;
    let flushed_through = catalogue.flushed_through()?;
    let segments: Vec<Arc<SegmentInfo>> = catalogue.segments()?.into_iter().map(Arc::new).collect();
    let epochs = recovery.open_dictionaries(&segments)?;
    let ReplayedLog { head, frozen, generation } = recovery.open_wal(flushed_through, &epochs)?;
    let view = View { head, frozen, segments: Arc::new(segments) };
    let series = filling.finish(&view, limits);
    Ok(Opened { view, catalogue, series, epochs, generation, report: recovery.report })
}

/// What the log files hold.
struct ReplayedLog {
    head: Arc<Head>,
    frozen: Vec<Arc<Head>>,
    generation: OpenGeneration,
}

struct Recovery<'a> {
    files: &'a Arc<dyn FileLayer>,
    layout: &'a Layout,
    quarantine: &'a Quarantine,
    epoch_limits: EpochLimits,
    age: Age,
    report: OpenReport,
}

impl Recovery<'_> {
    /// Opens the catalogue and reads all of it, or else one made anew.
    fn open_catalogue(&mut self) -> Result<(Catalogue, Filling), StoreError> {
        match self.read_catalogue() {
            Err(error) if Catalogue::is_broken(&error) => {
                tracing::warn!(%error, "the catalogue is broken and made anew");
                let path = &self.layout.catalogue;
                let kept_as = self.free_name(path, "broken")?;
                self.files.rename(path, &kept_as).map_err(StoreError::io("rename", path))?;
                self.sync_dir(&self.layout.root)?;
                for extra in ["sqlite-wal", "sqlite-shm"] {
                    // These belong to the database that was renamed; often they are not there.
                    let _ = self.files.remove_file(&path.with_extension(extra));
                }
                self.report.findings.push(Finding::CatalogueRebuilt { kept_as });
                self.read_catalogue()
            }
            read => read,
        }
    }

    fn read_catalogue(&mut self) -> Result<(Catalogue, Filling), StoreError> {
        let catalogue = Catalogue::open(&self.layout.catalogue)?;
        // Before anything is removed for what it says.
        catalogue.check()?;
        self.reconcile(&catalogue)?;
        let mut filling = Filling::default();
        catalogue.fill(&mut filling)?;
        Ok((catalogue, filling))
    }

    /// Brings catalogue and directories into agreement.
    fn reconcile(&mut self, catalogue: &Catalogue) -> Result<(), StoreError> {
        let dir = &self.layout.segments;
        let mut on_disk = self.files.list(dir).map_err(StoreError::io("list", dir))?;
        for name in on_disk.extract_if(.., |name| is_temporary(name)) {
            self.remove_segment(&name)?;
            self.report.findings.push(Finding::SegmentUnfinished { name });
        }
        for name in on_disk.extract_if(.., |name| segment::generations(name).is_none()) {
            self.report.findings.push(Finding::NotOurs { path: dir.join(name) });
        }
        let removed = catalogue.retired(Retired::Removed)?;
        let removed: Vec<String> = removed.into_iter().map(|segment| segment.name).collect();
        for name in on_disk.extract_if(.., |name| removed.contains(name)) {
            self.remove_segment(&name)?;
        }
        self.forget(catalogue, &removed)?;
        for segment in catalogue.retired(Retired::Quarantined)? {
            if on_disk.contains(&segment.name) {
                let why = "damaged; it could not be moved when that was found".to_owned();
                self.set_aside(&segment.name, why, Some(&segment))?;
                on_disk.retain(|other| *other != segment.name);
            }
            catalogue.forget(std::slice::from_ref(&segment.name))?;
        }
        let listed = catalogue.segments()?;
        let unknown = |name: &String| listed.iter().all(|segment| segment.name != *name);
        self.adopt(catalogue, on_disk.iter().filter(|name| unknown(name)).cloned().collect())?;
        // What another one replaces is not missing; that one may just have been found.
        let listed = catalogue.segments()?;
        for segment in listed.iter().filter(|segment| !on_disk.contains(&segment.name)) {
            let SegmentInfo { name, range, rows, .. } = segment.clone();
            catalogue.retire(&name, Retired::Removed)?;
            catalogue.forget(std::slice::from_ref(&name))?;
            self.report.findings.push(Finding::SegmentMissing { name, range, rows });
        }
        Ok(())
    }

    /// Forgets segments whose directories were removed; first that is made durable, or they might be taken for new ones
    /// when the power has failed.
    fn forget(&self, catalogue: &Catalogue, names: &[String]) -> Result<(), StoreError> {
        if names.is_empty() {
            return Ok(());
        }
        self.sync_dir(&self.layout.segments)?;
        catalogue.forget(names)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), StoreError> {
        self.files.sync_dir(dir).map_err(StoreError::io("sync", dir))
    }

    /// Adds finished segments that the catalogue does not know, but for those that another one replaces.
    fn adopt(&mut self, catalogue: &Catalogue, names: Vec<String>) -> Result<(), StoreError> {
        if !names.is_empty() {
            // Their names may not be on the disk yet, and their log files are about to go.
            self.sync_dir(&self.layout.segments)?;
        }
        let mut found = Vec::new();
        for name in names {
            let dir = self.layout.segments.join(&name);
            let described = Manifest::read(self.files.as_ref(), &dir)
                .and_then(|manifest| Ok((read_series(self.files.as_ref(), &dir, &manifest)?, manifest)));
            match described {
                Ok((series, manifest)) => found.push((name, manifest, series)),
                Err(error) if error.is_corrupt() || error.is_missing() => {
                    let manifest = Manifest::read(self.files.as_ref(), &dir).ok();
                    let known = manifest.map(|manifest| manifest.info(&name));
                    self.set_aside(&name, error.in_full(), known.as_ref())?;
                }
                Err(error) => return Err(error),
            }
        }
        let replaced: Vec<String> =
            found.iter().flat_map(|(_, manifest, _)| manifest.replaces.clone()).collect();
        for (name, manifest, series) in found {
            if replaced.contains(&name) {
                self.remove_segment(&name)?;
                continue;
            }
            let info = manifest.info(&name);
            catalogue.add(&info, &series, &manifest.replaces, manifest.flushed_through)?;
            for gone in &manifest.replaces {
                self.remove_segment(gone)?;
            }
            self.forget(catalogue, &manifest.replaces)?;
            self.report.findings.push(Finding::SegmentAdopted { name });
        }
        Ok(())
    }

    fn set_aside(&mut self, name: &str, why: String, known: Option<&SegmentInfo>) -> Result<(), StoreError> {
        self.quarantine.take(name, &why, known)?;
        let (name, range) = (name.to_owned(), known.map(|known| known.range));
        self.report.findings.push(Finding::SegmentQuarantined { name, why, range });
        Ok(())
    }

    fn open_dictionaries(&mut self, segments: &[Arc<SegmentInfo>]) -> Result<Epochs, StoreError> {
        let needed = stacks_in_use(segments.iter().filter_map(|segment| segment.dictionary));
        let (epochs, lost) = Epochs::open(self.files, &self.layout.dictionaries, self.epoch_limits, &needed)?;
        if let Some(LostPart { dir, stacks, why }) = lost {
            self.report.findings.push(Finding::DictionaryDamaged { dir, stacks, why });
        }
        Ok(epochs)
    }

    fn remove_segment(&self, name: &str) -> Result<(), StoreError> {
        let dir = self.layout.segments.join(name);
        match self.files.remove_dir(&dir).map_err(StoreError::io("remove", &dir)) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Replays the log: the newest file is continued, older ones are on their way into segments.
    fn open_wal(&mut self, flushed_through: u64, epochs: &Epochs) -> Result<ReplayedLog, StoreError> {
        let dir = &self.layout.wal;
        // The process that made the newest file may have died before its name was durable.
        self.sync_dir(dir)?;
        let names = self.files.list(dir).map_err(StoreError::io("list", dir))?;
        let mut heads = Vec::new();
        let mut next = flushed_through + 1;
        for generation in names.iter().filter_map(|name| wal::generation_of(name)) {
            let path = wal::path(dir, generation);
            if generation <= flushed_through {
                self.files.remove_file(&path).map_err(StoreError::io("remove", &path))?;
                continue;
            }
            self.miss_logs(next, generation);
            next = generation + 1;
            let replayed = wal::replay(self.files, &path, generation, epochs)?;
            self.report.replayed_rows += replayed.head.rows() as u64;
            if let Some(cut) = &replayed.cut {
                self.cut_log(&path, replayed.len, cut)?;
            }
            if replayed.nameless > 0 {
                let (dir, stacks) = (path.clone(), replayed.nameless);
                let why = "the entries that it builds on are lost".to_owned();
                self.report.findings.push(Finding::DictionaryDamaged { dir, stacks, why });
            }
            let head = Arc::new(Head::new(generation, replayed.head));
            heads.push((head, path, replayed.len, replayed.mark));
        }
        if heads.is_empty() {
            // The file of the next generation is made before the one before it goes.
            self.miss_logs(next, next + 1);
        }
        let epoch = epochs.for_generation();
        let newest = heads.pop_if(|(head, .., mark)| mark.is_some() && head.epoch().id() == epoch.id());
        let frozen: Vec<Arc<Head>> = heads.iter().map(|(head, ..)| Arc::clone(head)).collect();
        if let Some((head, path, len, Some(durable))) = newest {
            let wal = WalWriter::resume(self.files, path, len)?;
            return Ok(ReplayedLog { head, frozen, generation: OpenGeneration { wal, durable } });
        }
        let last = frozen.last().map_or(flushed_through, |head| head.generation());
        let generation = last.max(flushed_through) + 1;
        let wal = WalWriter::create(self.files, dir, generation, epoch.id())?;
        let state = HeadState::new(epoch);
        let durable = state.mark();
        let head = Arc::new(Head::new(generation, state));
        Ok(ReplayedLog { head, frozen, generation: OpenGeneration { wal, durable } })
    }

    /// Reports the log files from one generation up to another, should there be any between them.
    fn miss_logs(&mut self, from: u64, until: u64) {
        if self.age == Age::Used && from < until {
            let file = wal::path(&self.layout.wal, from);
            self.report.findings.push(Finding::LogMissing { file, files: until - from });
        }
    }

    /// Keeps what is about to be cut from a log file in a file of its own, then cuts.
    fn cut_log(&mut self, path: &Path, len: u64, cut: &wal::Cut) -> Result<(), StoreError> {
        if !cut.bytes.is_empty() {
            let kept_as = self.free_name(path, &format!("cut-at-{len}"))?;
            let kept = self.files.create(&kept_as).and_then(|mut file| {
                file.append(&cut.bytes)?;
                file.sync()?;
                self.files.sync_dir(&self.layout.wal)
            });
            kept.map_err(StoreError::io("write", &kept_as))?;
            let (file, bytes, why) = (path.to_owned(), cut.bytes.len() as u64, cut.why);
            self.report.findings.push(Finding::LogCut { file, offset: len, bytes, why, kept_as });
        }
        let mut file = self.files.open_append(path).map_err(StoreError::io("open", path))?;
        file.truncate(len).and_then(|()| file.sync()).map_err(StoreError::io("truncate", path))
    }

    /// A name beside `path` that is not taken.
    fn free_name(&self, path: &Path, what: &str) -> Result<PathBuf, StoreError> {
        let dir = path.parent().unwrap_or(path);
        let taken = self.files.list(dir).map_err(StoreError::io("list", dir))?;
        let stem = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let names = (0..).map(|n: u32| format!("{stem}.{what}-{n}"));
        let name = names.into_iter().find(|name| !taken.contains(name));
        Ok(dir.join(name.expect("there are more numbers than files")))
    }
}
