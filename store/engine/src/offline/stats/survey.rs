//! Counting what a data directory holds, file by file.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pyrite_model::{SeriesKey, TimeRange};

use super::{AgeBand, DirStats, EpochStats, GroupStats, LogStats, QuarantineStats, SumsStats, TenantStats};
use crate::dictionary::disk_use;
use crate::files::{FileLayer, dir_bytes};
use crate::head::HeadState;
use crate::offline::check::looked_at;
use crate::offline::{joined, list};
use crate::quarantine::{self, Surveyed};
use crate::rows::RowBlock;
use crate::segment::manifest::Manifest;
use crate::segment::rollup::{Rollup, Shape};
use crate::segment::series::read_series;
use crate::segment::{generations, stacks_in_use};
use crate::shared::Layout;
use crate::store::now;
use crate::wal::Replayed;
use crate::{StoreError, wal};

/// Rows of one tenant.
#[derive(Default)]
struct OfTenant {
    rows: u64,
    range: Option<TimeRange>,
    /// Hashes of its series, of which two among a million are the same in one of thirty million directories.
    series: HashSet<u64>,
}

/// What was counted so far.
pub(super) struct Survey<'a> {
    files: &'a Arc<dyn FileLayer>,
    layout: &'a Layout,
    /// Of segments that no other replaces, and that can be read.
    manifests: Vec<(String, Manifest)>,
    groups: BTreeMap<(u32, AgeBand), GroupStats>,
    sums: BTreeMap<(u32, &'static str, i64), SumsStats>,
    tenants: BTreeMap<String, OfTenant>,
    unreadable: BTreeSet<String>,
    logs: Vec<LogStats>,
    dictionaries: Vec<EpochStats>,
    cut_bytes: u64,
    catalogue_bytes: u64,
    quarantine: QuarantineStats,
}

impl<'a> Survey<'a> {
    pub(super) fn new(files: &'a Arc<dyn FileLayer>, layout: &'a Layout) -> Self {
        Self {
            files,
            layout,
            manifests: Vec::new(),
            groups: BTreeMap::new(),
            sums: BTreeMap::new(),
            tenants: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            logs: Vec::new(),
            dictionaries: Vec::new(),
            cut_bytes: 0,
            catalogue_bytes: 0,
            quarantine: QuarantineStats::default(),
        }
    }

    pub(super) fn segments(&mut self) -> Result<(), StoreError> {
        let dir = &self.layout.segments;
        let names = list(self.files.as_ref(), dir)?;
        let mut found = Vec::new();
        for name in names.into_iter().filter(|name| generations(name).is_some()) {
            match Manifest::read(self.files.as_ref(), &dir.join(&name)) {
                Ok(manifest) => found.push((name, manifest)),
                Err(error @ StoreError::Newer { .. }) => return Err(error),
                Err(_unreadable) => {
                    self.unreadable.insert(name);
                }
            }
        }
        // Their rows are in the segments that replace them.
        let replaced: BTreeSet<String> =
            found.iter().flat_map(|(_, manifest)| manifest.replaces.clone()).collect();
        found.retain(|(name, _)| !replaced.contains(name));
        for (name, manifest) in &found {
            self.segment(name, manifest);
        }
        self.manifests = found;
        Ok(())
    }

    fn segment(&mut self, name: &str, manifest: &Manifest) {
        let (level, range) = (manifest.level, manifest.range());
        let dir = self.layout.segments.join(name);
        let age = AgeBand::of(now().0.saturating_sub(range.end.0));
        let (oldest_ms, newest_ms) = (range.start.0, range.end.0);
        let (signal, segments, rows, bytes) = ("profiles", 0, 0, 0);
        let none = GroupStats { signal, level, age, segments, rows, bytes, oldest_ms, newest_ms };
        let group = self.groups.entry((level, age)).or_insert(none);
        group.segments += 1;
        group.rows += manifest.rows;
        group.bytes += dir_bytes(self.files.as_ref(), &dir);
        group.oldest_ms = group.oldest_ms.min(oldest_ms);
        group.newest_ms = group.newest_ms.max(newest_ms);
        for (shape, of) in [(Shape::Stacks, "stacks"), (Shape::Totals, "totals")] {
            for Rollup { bucket_ms, .. } in manifest.ladder(shape) {
                let Some(table) = manifest.tables.get(&Rollup::file(shape, *bucket_ms)) else { continue };
                let none = SumsStats { level, of, bucket_ms: *bucket_ms, segments: 0, rows: 0, bytes: 0 };
                let sums = self.sums.entry((level, of, *bucket_ms)).or_insert(none);
                sums.segments += 1;
                sums.rows += table.rows;
                sums.bytes += table.bytes;
            }
        }
        match read_series(self.files.as_ref(), &dir, manifest) {
            Ok(series) => {
                for series in series {
                    self.of_series(&series.key, series.rows, series.range);
                }
            }
            // Whatever is wrong with it, a check says it.
            Err(_unreadable) => {
                self.unreadable.insert(name.to_owned());
            }
        }
    }

    fn of_series(&mut self, key: &SeriesKey, rows: u64, range: TimeRange) {
        let tenant = self.tenants.entry(key.tenant.as_str().to_owned()).or_default();
        tenant.rows += rows;
        tenant.range = joined(tenant.range.into_iter().chain([range]));
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        tenant.series.insert(hasher.finish());
    }

    /// The log's files of generations that are in no segment.
    pub(super) fn logs(&mut self) -> Result<(), StoreError> {
        let manifests = || self.manifests.iter().map(|(_, manifest)| manifest);
        let flushed_through = manifests().map(|manifest| manifest.flushed_through).max().unwrap_or(0);
        let in_use = stacks_in_use(manifests().filter_map(|manifest| manifest.dictionary));
        let epochs = looked_at(self.files, self.layout, &in_use)?;
        let dir = &self.layout.wal;
        for name in list(self.files.as_ref(), dir)? {
            let path = dir.join(&name);
            let Some(generation) = wal::generation_of(&name) else {
                self.cut_bytes += self.files.open_read(&path).and_then(|file| file.len()).unwrap_or(0);
                continue;
            };
            if generation <= flushed_through {
                continue;
            }
            match wal::replay(self.files, &path, generation, &epochs) {
                // A running Pyrite removes one when it has become a segment.
                Err(error) if error.is_missing() => {}
                replayed => self.log(generation, &replayed?),
            }
        }
        Ok(())
    }

    fn log(&mut self, generation: u64, replayed: &Replayed) {
        let Replayed { head, version, records, len, cut, .. } = replayed;
        let unusable_bytes = cut.as_ref().map_or(0, |cut| cut.bytes.len() as u64);
        self.logs.push(LogStats {
            generation,
            version: *version,
            epoch: version.filter(|version| *version > 1).map(|_| head.epoch.id().0),
            records: *records as u64,
            rows: head.rows() as u64,
            bytes: len + unusable_bytes,
            unusable_bytes,
            oldest_ms: head.range().map(|range| range.start.0),
            newest_ms: head.range().map(|range| range.end.0),
        });
        for (key, rows, range) in series_of(head) {
            self.of_series(key, rows, range);
        }
    }

    pub(super) fn dictionaries(&mut self) -> Result<(), StoreError> {
        let mut users: BTreeMap<u32, u64> = BTreeMap::new();
        for used in self.manifests.iter().filter_map(|(_, manifest)| manifest.dictionary) {
            *users.entry(used.epoch.0).or_default() += 1;
        }
        let used = disk_use(self.files.as_ref(), &self.layout.dictionaries)?;
        let of_epoch = used.into_iter().map(|used| EpochStats {
            epoch: used.id.0,
            segments: users.get(&used.id.0).copied().unwrap_or(0),
            parts: used.parts,
            stacks: used.stacks,
            bytes: used.bytes,
        });
        self.dictionaries = of_epoch.collect();
        Ok(())
    }

    /// Catalogue and quarantine.
    pub(super) fn rest(&mut self) {
        let database =
            ["sqlite", "sqlite-wal"].map(|extension| self.layout.catalogue.with_extension(extension));
        let lengths = database.iter().map(|path| self.files.open_read(path).and_then(|file| file.len()));
        self.catalogue_bytes = lengths.filter_map(Result::ok).sum();
        let held = quarantine::survey(self.files.as_ref(), &self.layout.quarantine);
        let range = joined(held.iter().filter_map(|held| held.range));
        let mut stats = QuarantineStats::default();
        for Surveyed { bytes, rows, .. } in held {
            stats.segments += 1;
            stats.bytes += bytes;
            stats.rows += rows.unwrap_or(0);
        }
        (stats.oldest_ms, stats.newest_ms) = ends(range);
        self.quarantine = stats;
    }

    /// All of it, with what the caller knows.
    pub(super) fn finish(self, format: u64, running_pid: Option<u32>) -> DirStats {
        let Self { groups, sums, tenants, logs, dictionaries, .. } = self;
        let groups: Vec<GroupStats> = groups.into_values().collect();
        let tenant = |(tenant, OfTenant { rows, range, series }): (String, OfTenant)| {
            let (oldest_ms, newest_ms) = ends(range);
            TenantStats { tenant, series: series.len() as u64, rows, oldest_ms, newest_ms }
        };
        let tenants: Vec<TenantStats> = tenants.into_iter().map(tenant).collect();
        let rows =
            groups.iter().map(|group| group.rows).sum::<u64>() + logs.iter().map(|log| log.rows).sum::<u64>();
        let bytes = groups.iter().map(|group| group.bytes).sum::<u64>()
            + dictionaries.iter().map(|dictionary| dictionary.bytes).sum::<u64>()
            + logs.iter().map(|log| log.bytes).sum::<u64>()
            + self.catalogue_bytes;
        let oldest =
            groups.iter().map(|group| group.oldest_ms).chain(logs.iter().filter_map(|log| log.oldest_ms));
        let newest =
            groups.iter().map(|group| group.newest_ms).chain(logs.iter().filter_map(|log| log.newest_ms));
        let (oldest_ms, newest_ms) = (oldest.min(), newest.max());
        DirStats {
            format,
            running_pid,
            groups,
            sums: sums.into_values().collect(),
            unreadable: self.unreadable.into_iter().collect(),
            series: tenants.iter().map(|tenant| tenant.series).sum(),
            tenants,
            dictionaries,
            logs,
            cut_bytes: self.cut_bytes,
            catalogue_bytes: self.catalogue_bytes,
            quarantine: self.quarantine,
            rows,
            bytes,
            bytes_per_sample: (rows > 0).then(|| bytes as f64 / rows as f64),
            oldest_ms,
            newest_ms,
        }
    }
}

fn ends(range: Option<TimeRange>) -> (Option<i64>, Option<i64>) {
    range.map(|range| (range.start.0, range.end.0)).unzip()
}

/// The series of a head that have rows, and which these are.
fn series_of(head: &HeadState) -> Vec<(&SeriesKey, u64, TimeRange)> {
    let keys = head.series.keys();
    let mut rows = vec![0_u64; keys.len()];
    for row in head.blocks().iter().flat_map(RowBlock::iter) {
        rows[row.series as usize] += 1;
    }
    let ranges = head.series_ranges().iter();
    let all = keys.iter().zip(rows).zip(ranges);
    all.filter_map(|((key, rows), range)| Some((key.as_ref(), rows, (*range)?))).collect()
}
