//! `segment.json`: what a segment holds, and what its files must hash to.

use std::path::Path;

use pyrite_model::{TimeRange, UnixMs};
use serde::{Deserialize, Serialize};

use super::SegmentInfo;
use super::rollup::{Rollup, Shape};
use super::schema::{SAMPLES, STACK_IDS};
use crate::dictionary::{EpochId, MAX_STACKS};
use crate::files::FileLayer;
use crate::table::{TableIndexes, TableReader};
use crate::{StoreError, sealed};

/// The newest segment format; every older one stays readable (I8).
pub(crate) const FORMAT: u64 = 2;
/// The manifest's file name.
pub(crate) const FILE: &str = "segment.json";

/// The dictionary that a segment's stacks are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DictionaryUse {
    pub(crate) epoch: EpochId,
    /// Every stack that the segment refers to is below this.
    pub(crate) stacks: usize,
}

/// The first line of `segment.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u64,
    /// `None` in format 1, where each segment has its own.
    #[serde(default)]
    pub(crate) dictionary: Option<DictionaryUse>,
    pub(crate) level: u32,
    /// Rows of all WAL generations up to this one are in this segment or an older one.
    pub(crate) flushed_through: u64,
    /// Names of the segments whose rows this one holds in their place.
    pub(crate) replaces: Vec<String>,
    pub(crate) min_time_ms: i64,
    pub(crate) max_time_ms: i64,
    pub(crate) rows: u64,
    /// First and last time of each row group of the samples.
    pub(crate) windows: Vec<(i64, i64)>,
    /// Finest first; none in format 1.
    #[serde(default)]
    pub(crate) rollups: Vec<Rollup>,
    /// Likewise, without stacks; the first is exact.
    #[serde(default)]
    pub(crate) totals: Vec<Rollup>,
    /// By file name.
    pub(crate) tables: TableIndexes,
}

impl Manifest {
    pub(crate) fn range(&self) -> TimeRange {
        TimeRange::new(UnixMs(self.min_time_ms), UnixMs(self.max_time_ms))
    }

    pub(crate) fn info(&self, name: &str) -> SegmentInfo {
        SegmentInfo {
            name: name.to_owned(),
            level: self.level,
            range: self.range(),
            rows: self.rows,
            bytes: self.tables.values().map(|table| table.bytes).sum(),
            dictionary: self.dictionary,
        }
    }

    /// The sums of this shape, finest first.
    pub(crate) fn ladder(&self, shape: Shape) -> &[Rollup] {
        match shape {
            Shape::Stacks => &self.rollups,
            Shape::Totals => &self.totals,
        }
    }

    fn ladder_ok(&self, shape: Shape) -> bool {
        let ladder = self.ladder(shape);
        ladder.is_sorted_by(|a, b| a.bucket_ms < b.bucket_ms)
            && ladder.iter().all(|rollup| {
                let table = self.tables.get(&Rollup::file(shape, rollup.bucket_ms));
                let groups = table.map(|table| table.row_groups.len());
                rollup.bucket_ms > 0 && groups == Some(rollup.windows.len())
            })
    }

    /// Stack ids of its rows are below this.
    pub(crate) fn stack_count(&self) -> usize {
        self.tables.get(STACK_IDS.file).map_or(0, |table| table.rows as usize)
    }

    /// Opens one file of the segment.
    pub(crate) fn open_table(
        &self,
        files: &dyn FileLayer,
        dir: &Path,
        file: &str,
    ) -> Result<TableReader, StoreError> {
        let index = self.tables.get(file);
        let index = index.ok_or_else(|| StoreError::corrupt(dir, "the manifest lacks a table"))?;
        TableReader::open(files, dir.join(file), index.clone())
    }

    /// Writes the manifest into a segment's directory and syncs it.
    pub(crate) fn write(&self, files: &dyn FileLayer, dir: &Path) -> Result<(), StoreError> {
        sealed::write(files, &dir.join(FILE), self)
    }

    /// Reads and checks the manifest in a segment's directory.
    pub(crate) fn read(files: &dyn FileLayer, dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let manifest: Self = sealed::read(files, &path, FORMAT)?;
        let groups = manifest.tables.get(SAMPLES.file).map(|table| table.row_groups.len());
        if groups != Some(manifest.windows.len()) {
            return Err(StoreError::corrupt(&path, "it lists another number of windows than row groups"));
        }
        if !manifest.ladder_ok(Shape::Stacks) || !manifest.ladder_ok(Shape::Totals) {
            return Err(StoreError::corrupt(&path, "its rollups are not as they must be"));
        }
        if (manifest.format == 1) != manifest.dictionary.is_none() {
            return Err(StoreError::corrupt(&path, "its format and its dictionary contradict each other"));
        }
        if manifest.dictionary.is_some_and(|used| used.stacks > MAX_STACKS) {
            return Err(StoreError::corrupt(&path, "its dictionary is larger than any"));
        }
        Ok(manifest)
    }
}
