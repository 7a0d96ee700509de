//! Reading a segment: the rows of some series within a window, and which stacks their ids mean.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pyrite_model::{StackId, TimeRange, UnixMs};

use super::cover::{Piece, Resolution, cover};
use super::manifest::{DictionaryUse, Manifest};
use super::rollup::{Rollup, Shape};
use super::schema::{SAMPLES, STACK_IDS};
use super::v1;
use crate::StoreError;
use crate::dictionary::{Dictionary, Epochs};
use crate::files::FileLayer;
use crate::rows::{Run, StoredRow};
use crate::sync::lock;
use crate::table::{RowGroup, TableReader};

/// A set of small ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdSet {
    bits: Vec<bool>,
}

impl IdSet {
    pub(crate) fn insert(&mut self, id: u32) {
        let at = id as usize;
        if at >= self.bits.len() {
            self.bits.resize(at + 1, false);
        }
        self.bits[at] = true;
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.bits.get(id as usize).copied().unwrap_or(false)
    }
}

/// What the stack ids of a segment's samples mean.
#[derive(Clone, Debug)]
pub(crate) struct StackIds {
    pub(crate) dictionary: Arc<Dictionary>,
    /// By id in the segment.
    pub(crate) stacks: Vec<StackId>,
}

/// By stack of a segment.
#[derive(Debug, Default)]
pub(crate) struct StackColumns {
    /// Which one of the epoch it is.
    pub(crate) stacks: Vec<u32>,
    /// How many rows have it.
    pub(crate) rows: Vec<u32>,
    /// A series that some of them are of.
    pub(crate) series: Vec<u32>,
}

/// An open segment.
pub(crate) struct SegmentReader {
    dir: PathBuf,
    manifest: Manifest,
    samples: TableReader,
    /// As the manifest lists them.
    rollups: Vec<TableReader>,
    totals: Vec<TableReader>,
    stacks: Mutex<Option<Arc<StackIds>>>,
}

impl SegmentReader {
    pub(crate) fn open(files: &dyn FileLayer, dir: &Path) -> Result<Self, StoreError> {
        let manifest = Manifest::read(files, dir)?;
        let samples = manifest.open_table(files, dir, SAMPLES.file)?;
        let ladder = |shape| {
            let file = |rollup: &Rollup| Rollup::file(shape, rollup.bucket_ms);
            let open = |rollup| manifest.open_table(files, dir, &file(rollup));
            manifest.ladder(shape).iter().map(open).collect::<Result<Vec<_>, _>>()
        };
        let (rollups, totals) = (ladder(Shape::Stacks)?, ladder(Shape::Totals)?);
        Ok(Self { dir: dir.to_owned(), manifest, samples, rollups, totals, stacks: Mutex::new(None) })
    }

    /// What its stack ids mean, read when first asked for.
    pub(crate) fn stacks(&self, files: &dyn FileLayer, epochs: &Epochs) -> Result<Arc<StackIds>, StoreError> {
        let mut loaded = lock(&self.stacks);
        if let Some(stacks) = &*loaded {
            return Ok(Arc::clone(stacks));
        }
        let stacks = Arc::new(match self.manifest.dictionary {
            None => v1::read_stacks(files, &self.dir, &self.manifest)?,
            Some(DictionaryUse { epoch, stacks: end }) => {
                let ids = self.stack_columns(files)?.stacks;
                if ids.iter().any(|id| *id as usize >= end) {
                    return Err(self.corrupt("a stack is beyond its dictionary"));
                }
                StackIds {
                    dictionary: epochs.get(epoch, end)?,
                    stacks: ids.into_iter().map(StackId).collect(),
                }
            }
        });
        *loaded = Some(Arc::clone(&stacks));
        Ok(stacks)
    }

    /// What it says of its stacks. In format 2 only.
    pub(crate) fn stack_columns(&self, files: &dyn FileLayer) -> Result<StackColumns, StoreError> {
        let table = self.manifest.open_table(files, &self.dir, STACK_IDS.file)?;
        let mut columns = StackColumns::default();
        for i in 0..table.row_group_count() {
            let group = table.row_group(i)?;
            columns.stacks.extend(group.u32s(1)?);
            columns.rows.extend(group.u32s(2)?);
            columns.series.extend(group.u32s(3)?);
        }
        if columns.stacks.len() != self.stack_count() {
            return Err(self.corrupt("the manifest lists another number of stacks"));
        }
        Ok(columns)
    }

    /// Its stack ids are below this.
    pub(crate) fn stack_count(&self) -> usize {
        self.manifest.tables.get(STACK_IDS.file).map_or(0, |table| table.rows as usize)
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The error for a segment whose files contradict each other.
    pub(crate) fn corrupt(&self, what: &'static str) -> StoreError {
        StoreError::corrupt(&self.dir, what)
    }

    /// Estimated memory.
    pub(crate) fn bytes(&self) -> usize {
        let own = |stacks: &StackIds| {
            // The epoch's dictionary is everybody's.
            let dictionary = if self.manifest.format == 1 { stacks.dictionary.bytes() } else { 0 };
            dictionary + stacks.stacks.len() * size_of::<StackId>()
        };
        let stacks = lock(&self.stacks).as_deref().map_or(0, own);
        // The Parquet metadata of a row group of four columns, and the fixed parts.
        let sums = self.rollups.iter().chain(&self.totals);
        let groups: usize = sums.map(TableReader::row_group_count).sum();
        (self.samples.row_group_count() + groups) * 2048 + 8192 + stacks
    }

    /// Calls `each` for the rows of the series within the window, a run of one series at a time. They come added up where
    /// that makes no difference to the grid, and without stacks where nobody wants them and there are totals.
    pub(crate) fn scan(&self, wanted: &Wanted<'_>, mut each: impl FnMut(Run<'_>)) -> Result<(), StoreError> {
        let (shape, tables) = match wanted.shape {
            Shape::Totals if !self.totals.is_empty() => (Shape::Totals, &self.totals),
            _ => (Shape::Stacks, &self.rollups),
        };
        let ladder = self.manifest.ladder(shape);
        let usable = ladder.iter().take_while(|rollup| wanted.grid.allows(rollup.bucket_ms));
        let bucket_ms: Vec<i64> = usable.map(|rollup| rollup.bucket_ms).collect();
        // Where the window holds all of the segment, so do the buckets that hold its ends.
        let range = self.manifest.range();
        let within = wanted.window.start <= range.start && range.end <= wanted.window.end;
        let pieces = match bucket_ms.len().checked_sub(1).filter(|_| within) {
            Some(coarsest) => vec![Piece { from: Resolution::Rollup(coarsest), range: EVER }],
            None => cover(wanted.window, &bucket_ms),
        };
        for Piece { from, range } in pieces {
            let (table, windows, shape) = match from {
                Resolution::Rows => (&self.samples, &self.manifest.windows, Shape::Stacks),
                Resolution::Rollup(level) => (&tables[level], &ladder[level].windows, shape),
            };
            self.scan_table(table, windows, &Wanted { window: range, shape, ..*wanted }, &mut each)?;
        }
        Ok(())
    }

    /// Likewise for one file, which is of the wanted shape.
    fn scan_table(
        &self,
        table: &TableReader,
        windows: &[(i64, i64)],
        wanted: &Wanted<'_>,
        each: &mut impl FnMut(Run<'_>),
    ) -> Result<(), StoreError> {
        for (i, &(first, last)) in windows.iter().enumerate() {
            let held = TimeRange::new(UnixMs(first), UnixMs(last));
            if held.overlaps(wanted.window) {
                self.scan_row_group(&table.row_group(i)?, held, wanted, each)?;
            }
        }
        Ok(())
    }

    fn scan_row_group(
        &self,
        group: &RowGroup<'_>,
        held: TimeRange,
        wanted: &Wanted<'_>,
        each: &mut impl FnMut(Run<'_>),
    ) -> Result<(), StoreError> {
        let mut runs = runs(&group.u32s(0)?, wanted.series);
        if runs.is_empty() {
            return Ok(());
        }
        let is_inside = wanted.window.start <= held.start && held.end <= wanted.window.end;
        let mut times = Vec::new();
        if !is_inside || wanted.grid != Grid::Window {
            times = group.i64s_in(1, &joined(&runs))?;
            if !is_inside {
                times = clip(&mut runs, &times, wanted.window);
            }
        }
        let rows = joined(&runs);
        let (stacks, values) = match wanted.shape {
            Shape::Stacks => (group.u32s_in(2, &rows)?, group.i64s_in(3, &rows)?),
            Shape::Totals => (Vec::new(), group.i64s_in(2, &rows)?),
        };
        if stacks.iter().any(|&stack| stack as usize >= self.stack_count()) {
            return Err(self.corrupt("a row refers past the end of its tables"));
        }
        let mut at = 0;
        for (series, rows) in runs {
            let part = at..at + rows.len();
            at = part.end;
            let times = times.get(part.clone()).unwrap_or_default();
            let stacks = stacks.get(part.clone()).unwrap_or_default();
            each(Run { series, times, stacks, values: &values[part] });
        }
        Ok(())
    }

    /// Calls `each` for every row, row group by row group.
    pub(crate) fn scan_all(
        &self,
        mut each: impl FnMut(StoredRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for i in 0..self.samples.row_group_count() {
            let group = self.samples.row_group(i)?;
            let (series, times) = (group.u32s(0)?, group.i64s(1)?);
            let (stacks, values) = (group.u32s(2)?, group.i64s(3)?);
            for at in 0..group.rows() {
                let (series, time) = (series[at], UnixMs(times[at]));
                each(StoredRow { series, time, stack: stacks[at], value: values[at] })?;
            }
        }
        Ok(())
    }
}

const EVER: TimeRange = TimeRange { start: UnixMs(i64::MIN), end: UnixMs(i64::MAX) };

/// Which rows to read.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) series: &'a IdSet,
    pub(crate) window: TimeRange,
    pub(crate) grid: Grid,
    /// Whether their stacks matter.
    pub(crate) shape: Shape,
}

/// Which instants must be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grid {
    /// None within the window.
    Window,
    /// Those on the two sides of `origin` + k · `step`, in ms; each is the last of its step.
    Steps { origin: i64, step: i64 },
}

impl Grid {
    /// Whether buckets of this length lie within steps.
    fn allows(self, bucket_ms: i64) -> bool {
        match self {
            Self::Window => true,
            Self::Steps { origin, step } => origin % bucket_ms == 0 && step % bucket_ms == 0,
        }
    }
}

/// The runs of wanted series, as they follow each other in a column of series.
fn runs(ids: &[u32], wanted: &IdSet) -> Vec<(u32, Range<usize>)> {
    let mut at = 0;
    let mut runs = Vec::new();
    for run in ids.chunk_by(|a, b| a == b) {
        if wanted.contains(run[0]) {
            runs.push((run[0], at..at + run.len()));
        }
        at += run.len();
    }
    runs
}

/// Their rows as ranges that do not touch.
fn joined(runs: &[(u32, Range<usize>)]) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for (_, rows) in runs {
        match joined.last_mut() {
            Some(last) if last.end == rows.start => last.end = rows.end,
            _ => joined.push(rows.clone()),
        }
    }
    joined
}

/// Cuts each run, in which rows are in order of time, to the window. Takes the times of all runs and returns those that
/// stay.
fn clip(runs: &mut Vec<(u32, Range<usize>)>, times: &[i64], window: TimeRange) -> Vec<i64> {
    let (mut at, mut kept) = (0, Vec::new());
    for (_, rows) in runs.iter_mut() {
        let of_run = &times[at..at + rows.len()];
        at += rows.len();
        let first = of_run.partition_point(|time| *time < window.start.0);
        let end = of_run.partition_point(|time| *time <= window.end.0).max(first);
        kept.extend_from_slice(&of_run[first..end]);
        *rows = rows.start + first..rows.start + end;
    }
    runs.retain(|(_, rows)| !rows.is_empty());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_joined_and_clipped() {
        let mut wanted = IdSet::default();
        for id in [1, 2, 4] {
            wanted.insert(id);
        }
        let mut runs = runs(&[0, 0, 1, 1, 1, 2, 3, 4, 4], &wanted);
        assert_eq!(runs, [(1, 2..5), (2, 5..6), (4, 7..9)]);
        assert_eq!(joined(&runs), [2..6, 7..9]);
        let times = vec![10, 20, 30, 5, 20, 40];
        let window = TimeRange::new(UnixMs(20), UnixMs(30));
        assert_eq!(clip(&mut runs, &times, window), [20, 30, 20]);
        assert_eq!(runs, [(1, 3..5), (4, 7..8)]);
    }
}
