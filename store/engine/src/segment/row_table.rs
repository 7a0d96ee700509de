//! One file of a segment's rows, samples or sums: opened when it is first read, and then kept together with where in its row
//! groups the rows of each series are, so that a query decodes what it wants and nothing else.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use pyrite_model::{TimeRange, UnixMs};

use super::manifest::Manifest;
use super::read::{Grid, IdSet, Wanted};
use super::rollup::Shape;
use crate::StoreError;
use crate::files::FileLayer;
use crate::rows::{Run, StoredRow};
use crate::table::{RowGroup, TableReader};

/// Estimated memory of the Parquet metadata of one row group.
const GROUP_BYTES: usize = 2048;
/// Runs of fewer rows on average are not remembered: they take more memory than they are worth.
const WORTH: usize = 16;

/// The segment that a file is of.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) files: &'a dyn FileLayer,
    pub(super) dir: &'a Path,
    pub(super) manifest: &'a Manifest,
}

/// A file of rows.
pub(super) struct RowTable {
    file: String,
    opened: OnceLock<Opened>,
}

struct Opened {
    table: TableReader,
    /// By row group.
    runs: Vec<OnceLock<Box<[SeriesRun]>>>,
}

/// Rows of one series that follow each other in a row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SeriesRun {
    series: u32,
    /// Its first row is where the run before it ends.
    end: u32,
}

impl RowTable {
    pub(super) fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), opened: OnceLock::new() }
    }

    fn open(&self, place: &Place<'_>) -> Result<&Opened, StoreError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let table = place.manifest.open_table(place.files, place.dir, &self.file)?;
        let runs = (0..table.row_group_count()).map(|_| OnceLock::new()).collect();
        // Another query may have been faster; either is as good.
        Ok(self.opened.get_or_init(|| Opened { table, runs }))
    }

    /// The row groups to read for the wanted rows, which are of its shape. `windows` are those of all its row groups.
    pub(super) fn plan<'a>(
        &'a self,
        place: &Place<'_>,
        windows: &[(i64, i64)],
        wanted: Wanted<'a>,
    ) -> Result<Vec<GroupScan<'a>>, StoreError> {
        let opened = self.open(place)?;
        let stack_count = place.manifest.stack_count();
        let scan = |(group, &(first, last)): (usize, &(i64, i64))| {
            let held = TimeRange::new(UnixMs(first), UnixMs(last));
            let wants = held.overlaps(wanted.window) && opened.may_have(group, wanted.series);
            wants.then_some(GroupScan { opened, group, held, wanted, stack_count })
        };
        Ok(windows.iter().enumerate().filter_map(scan).collect())
    }

    /// Calls `each` for every row, row group by row group.
    pub(super) fn scan_all(
        &self,
        place: &Place<'_>,
        mut each: impl FnMut(StoredRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let table = &self.open(place)?.table;
        for i in 0..table.row_group_count() {
            let group = table.row_group(i)?;
            let (series, times) = (group.u32s(0)?, group.i64s(1)?);
            let (stacks, values) = (group.u32s(2)?, group.i64s(3)?);
            for at in 0..group.rows() {
                let (series, time) = (series[at], UnixMs(times[at]));
                each(StoredRow { series, time, stack: stacks[at], value: values[at] })?;
            }
        }
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        self.opened.get().is_some()
    }

    /// Estimated memory.
    pub(super) fn bytes(&self) -> usize {
        let Some(Opened { runs, .. }) = self.opened.get() else { return 0 };
        let remembered: usize = runs.iter().filter_map(OnceLock::get).map(|runs| runs.len()).sum();
        runs.len() * GROUP_BYTES + remembered * size_of::<SeriesRun>()
    }
}

impl Opened {
    /// Whether a row group has one of these series, as far as that is known without reading it.
    fn may_have(&self, i: usize, wanted: &IdSet) -> bool {
        self.runs[i].get().is_none_or(|runs| runs.iter().any(|run| wanted.contains(run.series)))
    }

    fn runs(&self, i: usize, group: &RowGroup<'_>) -> Result<Cow<'_, [SeriesRun]>, StoreError> {
        if let Some(runs) = self.runs[i].get() {
            return Ok(Cow::Borrowed(runs));
        }
        let runs = runs(&group.u32s(0)?);
        if runs.len() * WORTH > group.rows() {
            return Ok(Cow::Owned(runs));
        }
        Ok(Cow::Borrowed(self.runs[i].get_or_init(|| runs.into())))
    }
}

/// One row group to read.
pub(crate) struct GroupScan<'a> {
    opened: &'a Opened,
    group: usize,
    held: TimeRange,
    wanted: Wanted<'a>,
    /// Ids of stacks are below this.
    stack_count: usize,
}

impl GroupScan<'_> {
    /// How many rows it has, wanted or not.
    pub(crate) fn rows(&self) -> usize {
        self.opened.table.rows_of(self.group)
    }

    /// Memory that it takes while it is read.
    pub(crate) fn bytes(&self) -> usize {
        self.opened.table.bytes_of(self.group)
    }

    /// Calls `each` for the wanted rows, a run of one series at a time.
    pub(crate) fn run(&self, mut each: impl FnMut(Run<'_>)) -> Result<(), StoreError> {
        let Self { opened, held, wanted, .. } = self;
        let group = opened.table.row_group(self.group)?;
        let mut runs = of_wanted(&opened.runs(self.group, &group)?, wanted.series);
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
        if stacks.iter().copied().reduce(u32::max).is_some_and(|largest| largest as usize >= self.stack_count)
        {
            return Err(opened.table.corrupt("a row refers past the end of its tables"));
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
}

/// The runs of a column of series.
fn runs(ids: &[u32]) -> Vec<SeriesRun> {
    let mut end = 0;
    let run = |run: &[u32]| {
        end += run.len() as u32;
        SeriesRun { series: run[0], end }
    };
    ids.chunk_by(|a, b| a == b).map(run).collect()
}

/// The wanted series of the runs, with their rows.
fn of_wanted(runs: &[SeriesRun], wanted: &IdSet) -> Vec<(u32, Range<usize>)> {
    let starts = std::iter::once(0).chain(runs.iter().map(|run| run.end as usize));
    let runs = runs.iter().zip(starts).filter(|(run, _)| wanted.contains(run.series));
    runs.map(|(run, start)| (run.series, start..run.end as usize)).collect()
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
        let wanted: IdSet = [1, 2, 4].into_iter().collect();
        let all = runs(&[0, 0, 1, 1, 1, 2, 3, 4, 4]);
        assert_eq!(
            all.iter().map(|run| (run.series, run.end)).collect::<Vec<_>>(),
            [(0, 2), (1, 5), (2, 6), (3, 7), (4, 9)]
        );
        let mut runs = of_wanted(&all, &wanted);
        assert_eq!(runs, [(1, 2..5), (2, 5..6), (4, 7..9)]);
        assert_eq!(joined(&runs), [2..6, 7..9]);
        let times = vec![10, 20, 30, 5, 20, 40];
        let window = TimeRange::new(UnixMs(20), UnixMs(30));
        assert_eq!(clip(&mut runs, &times, window), [20, 30, 20]);
        assert_eq!(runs, [(1, 3..5), (4, 7..8)]);
    }
}
