//! Rollups of a segment on their way: rows added up by series, bucket and stack, the minutes from the rows, and each
//! coarser resolution from the one before it. Totals are the same without stacks.
//!
//! Rows come roughly in order of time, so few buckets are open at once. One that is closed too early is continued in further
//! rows: equal ones add up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use pyrite_model::UnixMs;
use serde::{Deserialize, Serialize};

use super::cover::ceil;
use super::schema::Packing;
use super::write::RowGroups;
use crate::StoreError;
use crate::files::FileLayer;
use crate::rows::StoredRow;
use crate::table::TableIndexes;

/// Lengths of the buckets: a minute, ten, an hour, six and a day. Six hours have few more stacks than one, and without them the
/// ends of a window of days are most of what it reads. Totals are few enough with three.
const BUCKETS_MS: [i64; 5] = [60_000, 600_000, 3_600_000, 21_600_000, 86_400_000];
const TOTAL_BUCKETS_MS: [i64; 3] = [60_000, 3_600_000, 86_400_000];
/// Rollups of so long buckets are not compressed: they are a twentieth of all bytes, and most of what long windows read.
const PLAIN_FROM_MS: i64 = 3_600_000;
/// The bucket of a millisecond holds what is of just that time.
const EXACT_MS: i64 = 1;
/// Buckets of one resolution that are open at once, and the entries in all of them.
const OPEN_BUCKETS: usize = 16;
const OPEN_ENTRIES: usize = 500_000;
/// Rows after which it shows whether a resolution is worth its place, and how many rows of the finer one a row must then
/// stand for.
const TRIAL_ROWS: u64 = 50_000;
const WORTH: u64 = 2;

/// A resolution that a segment has besides its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rollup {
    pub(crate) bucket_ms: i64,
    /// First and last stamp of each row group.
    pub(crate) windows: Vec<(i64, i64)>,
}

/// Whether rows are told apart by their stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Stacks,
    Totals,
}

impl Rollup {
    /// Its file in the segment's directory.
    pub(crate) fn file(shape: Shape, bucket_ms: i64) -> String {
        match (shape, bucket_ms) {
            (Shape::Stacks, _) => format!("rollup-{}s.parquet", bucket_ms / 1000),
            (Shape::Totals, EXACT_MS) => "totals.parquet".to_owned(),
            (Shape::Totals, _) => format!("totals-{}s.parquet", bucket_ms / 1000),
        }
    }
}

/// All resolutions of one segment.
pub(super) struct Rollups {
    levels: Vec<Level>,
}

impl Rollups {
    /// Resolutions for rows from so many milliseconds, which fill at least half a bucket.
    pub(super) fn create(
        files: &dyn FileLayer,
        dir: &Path,
        shape: Shape,
        span_ms: i64,
    ) -> Result<Self, StoreError> {
        let buckets_ms: &[i64] = if shape == Shape::Stacks { &BUCKETS_MS } else { &TOTAL_BUCKETS_MS };
        let fitting = buckets_ms.iter().filter(|bucket_ms| **bucket_ms / 2 <= span_ms);
        let level = |bucket_ms: &i64| Level::create(files, dir, shape, *bucket_ms);
        Ok(Self { levels: fitting.map(level).collect::<Result<_, _>>()? })
    }

    /// Takes a row; ids are those of the segment.
    pub(super) fn push(&mut self, row: StoredRow) -> Result<(), StoreError> {
        push(&mut self.levels, row)
    }

    /// Closes everything; adds the files to the index and returns what they are, finest first.
    pub(super) fn finish(
        mut self,
        files: &dyn FileLayer,
        tables: &mut TableIndexes,
    ) -> Result<Vec<Rollup>, StoreError> {
        for at in 0..self.levels.len() {
            close(&mut self.levels[at..], 0)?;
        }
        let mut rollups = Vec::new();
        for level in self.levels {
            let Level { shape, bucket_ms, path, groups, .. } = level;
            match groups {
                Some(groups) => rollups.push(groups.finish(shape, bucket_ms, tables)?),
                None => files.remove_file(&path).map_err(StoreError::io("remove", &path))?,
            }
        }
        Ok(rollups)
    }
}

/// The totals of one segment: what each series has at each time, and its rollups.
pub(super) struct Totals {
    exact: RowGroups,
    rollups: Rollups,
}

impl Totals {
    pub(super) fn create(files: &dyn FileLayer, dir: &Path, span_ms: i64) -> Result<Self, StoreError> {
        let path = dir.join(Rollup::file(Shape::Totals, EXACT_MS));
        let exact = RowGroups::create(files, path, Shape::Totals, Packing::Zstd)?;
        Ok(Self { exact, rollups: Rollups::create(files, dir, Shape::Totals, span_ms)? })
    }

    /// Takes rows that are ordered by series and time.
    pub(super) fn push(&mut self, rows: &[StoredRow]) -> Result<(), StoreError> {
        for same in rows.chunk_by(|a, b| (a.series, a.time) == (b.series, b.time)) {
            let value = same.iter().fold(0_i64, |sum, row| sum.saturating_add(row.value));
            let total = StoredRow { stack: 0, value, ..same[0] };
            self.exact.extend(&[total])?;
            self.rollups.push(total)?;
        }
        Ok(())
    }

    /// See [`Rollups::finish`].
    pub(super) fn finish(
        self,
        files: &dyn FileLayer,
        tables: &mut TableIndexes,
    ) -> Result<Vec<Rollup>, StoreError> {
        let exact = self.exact.finish(Shape::Totals, EXACT_MS, tables)?;
        let coarser = self.rollups.finish(files, tables)?;
        Ok(std::iter::once(exact).chain(coarser).collect())
    }
}

/// Sums by series and stack.
type Bucket = HashMap<(u32, u32), i64>;

struct Level {
    shape: Shape,
    bucket_ms: i64,
    path: PathBuf,
    /// By stamp.
    open: BTreeMap<i64, Bucket>,
    entries: usize,
    taken: u64,
    given: u64,
    /// `None` once it has shown not to be worth its place.
    groups: Option<RowGroups>,
}

impl Level {
    fn create(files: &dyn FileLayer, dir: &Path, shape: Shape, bucket_ms: i64) -> Result<Self, StoreError> {
        let path = dir.join(Rollup::file(shape, bucket_ms));
        let packing = if bucket_ms < PLAIN_FROM_MS { Packing::Zstd } else { Packing::Plain };
        let groups = Some(RowGroups::create(files, path.clone(), shape, packing)?);
        let open = BTreeMap::new();
        Ok(Self { shape, bucket_ms, path, open, entries: 0, taken: 0, given: 0, groups })
    }

    fn is_worth_it(&self) -> bool {
        self.given < TRIAL_ROWS || self.taken >= WORTH * self.given
    }
}

/// Takes a row into the first of these levels.
fn push(levels: &mut [Level], row: StoredRow) -> Result<(), StoreError> {
    let Some((level, coarser)) = levels.split_first_mut() else { return Ok(()) };
    // Of the last milliseconds of time there is no bucket; they are rows alone.
    let Some(stamp) = ceil(row.time.0, level.bucket_ms) else { return Ok(()) };
    if level.groups.is_none() {
        return push(coarser, row);
    }
    level.taken += 1;
    let bucket = level.open.entry(stamp).or_default();
    let before = bucket.len();
    let sum = bucket.entry((row.series, row.stack)).or_insert(0);
    *sum = sum.saturating_add(row.value);
    level.entries += bucket.len() - before;
    if level.entries > OPEN_ENTRIES {
        close(levels, 0)
    } else if level.open.len() > OPEN_BUCKETS {
        close(levels, OPEN_BUCKETS / 2)
    } else {
        Ok(())
    }
}

/// Writes the oldest open buckets of the first of these levels until no more than `keep` are left, and hands them on.
fn close(levels: &mut [Level], keep: usize) -> Result<(), StoreError> {
    let Some((level, coarser)) = levels.split_first_mut() else { return Ok(()) };
    while level.open.len() > keep
        && let Some((stamp, bucket)) = level.open.pop_first()
    {
        level.entries -= bucket.len();
        let row = |((series, stack), value)| StoredRow { series, time: UnixMs(stamp), stack, value };
        let mut rows: Vec<StoredRow> = bucket.into_iter().map(row).collect();
        rows.sort_unstable_by_key(|row| (row.series, row.stack));
        level.given += rows.len() as u64;
        if let Some(groups) = &mut level.groups {
            groups.extend(&rows)?;
        }
        for row in rows {
            push(coarser, row)?;
        }
    }
    if level.groups.is_some() && !level.is_worth_it() {
        level.groups = None;
        // From now on rows go past it; those that are still open go on from here.
        return close(levels, 0);
    }
    Ok(())
}
