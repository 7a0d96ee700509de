//! Making a segment: number series and stacks anew, sort rows a row group at a time, write, sync, rename.
//!
//! Within a row group rows are ordered by (series, time, stack).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyrite_model::{SeriesKey, TimeRange};

use super::SegmentInfo;
use super::manifest::{DictionaryUse, FORMAT, Manifest};
use super::rollup::{Rollup, Rollups, Shape, Totals};
use super::schema::{self, Packing, SAMPLES, SERIES, STACK_IDS, TOTALS_SCHEMA, Table};
use super::series::{self, SegmentSeries};
use crate::StoreError;
use crate::dictionary::EpochId;
use crate::files::FileLayer;
use crate::rows::{StoredRow, widen};
use crate::table::{Column, TableIndexes, TableWriter};

/// Rows per row group of the samples. At 400 rows a second about five minutes: a window of one minute reads one or
/// two of them, and one takes 3 MiB of memory to sort.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// The same of a rollup, in which a narrow window is a few buckets.
const ROLLUP_GROUP_ROWS: usize = 64 * 1024;
/// And of one that is not packed, so that whoever asks for one of many series reads little more than its rows.
const PLAIN_GROUP_ROWS: usize = 16 * 1024;
const TEMPORARY: &str = "tmp-";

/// Where a segment is until it is finished.
pub(crate) fn temporary_dir(segments_dir: &Path, name: &str) -> PathBuf {
    segments_dir.join(format!("{TEMPORARY}{name}"))
}

/// Whether a name in the segments' directory is of a segment that was never finished.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// What identifies a segment and its place in the life of the store.
#[derive(Clone, Debug)]
pub(crate) struct SegmentOrigin {
    pub(crate) name: String,
    pub(crate) level: u32,
    pub(crate) flushed_through: u64,
    pub(crate) replaces: Vec<String>,
}

/// What the rows of a new segment refer to.
pub(crate) struct SegmentContent<'a> {
    pub(crate) epoch: EpochId,
    pub(crate) series: &'a [Arc<SeriesKey>],
    /// How long the time is that the rows are from.
    pub(crate) span_ms: i64,
    /// See `Limits`.
    pub(crate) sums_from_rows: u64,
    /// By stack of the epoch.
    pub(crate) stacks: &'a [StackUse],
}

/// What is known beforehand of the rows of a stack.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StackUse {
    /// How many there will be.
    pub(crate) rows: u32,
    /// A series that some of them are of.
    pub(crate) series: u32,
}

impl StackUse {
    /// Counts rows of a series.
    pub(crate) fn add(&mut self, rows: u32, series: u32) {
        if self.rows == 0 {
            self.series = series;
        }
        self.rows = self.rows.saturating_add(rows);
    }
}

/// Stack ids of a segment. Those of one series follow each other, the most frequent first, so that the steps between the
/// stacks of a series' rows are small.
struct Numbering {
    /// By stack of the epoch; [`UNUSED`] where no row has it.
    segment_of: Vec<u32>,
    epoch_of: Vec<u32>,
}

const UNUSED: u32 = u32::MAX;

impl Numbering {
    fn new(stacks: &[StackUse], series_ids: &[u32]) -> Self {
        let mut epoch_of: Vec<u32> =
            (0..stacks.len() as u32).filter(|&id| stacks[id as usize].rows > 0).collect();
        epoch_of.sort_by_key(|&id| {
            let StackUse { rows, series } = stacks[id as usize];
            (series_ids[series as usize], std::cmp::Reverse(rows))
        });
        let mut segment_of = vec![UNUSED; stacks.len()];
        for (segment, &epoch) in epoch_of.iter().enumerate() {
            segment_of[epoch as usize] = segment as u32;
        }
        Self { segment_of, epoch_of }
    }
}

/// Rows on their way into a segment; their stacks are those of the epoch, their series those of the list given.
pub(crate) struct SegmentWriter<'a> {
    files: &'a dyn FileLayer,
    temporary: PathBuf,
    content: SegmentContent<'a>,
    series_ids: Vec<u32>,
    numbering: Numbering,
    samples: RowGroups,
    /// None where there are few rows.
    sums: Option<(Rollups, Totals)>,
    buffer: Vec<StoredRow>,
    written: BTreeMap<u32, (TimeRange, u64)>,
}

/// A file of rows, in row groups that say which window they hold.
pub(super) struct RowGroups {
    shape: Shape,
    table: TableWriter,
    /// Rows of a row group at least, where there are so many.
    group_rows: usize,
    buffer: Vec<StoredRow>,
    windows: Vec<(i64, i64)>,
}

impl RowGroups {
    pub(super) fn create(
        files: &dyn FileLayer,
        path: PathBuf,
        shape: Shape,
        packing: Packing,
    ) -> Result<Self, StoreError> {
        let schema = if shape == Shape::Stacks { SAMPLES.schema } else { TOTALS_SCHEMA };
        let table = TableWriter::create(files, path, schema, schema::properties(packing))?;
        let group_rows = if packing == Packing::Plain { PLAIN_GROUP_ROWS } else { ROLLUP_GROUP_ROWS };
        Ok(Self { shape, table, group_rows, buffer: Vec::new(), windows: Vec::new() })
    }

    /// Adds rows behind those before; they make up row groups once there are enough.
    pub(super) fn extend(&mut self, rows: &[StoredRow]) -> Result<(), StoreError> {
        self.buffer.extend_from_slice(rows);
        if self.buffer.len() < ROLLUP_GROUP_ROWS { Ok(()) } else { self.end_groups() }
    }

    fn end_groups(&mut self) -> Result<(), StoreError> {
        let mut rows = std::mem::take(&mut self.buffer);
        // A bucket that was continued comes behind later ones. Of totals there is one in a series at a time: by time their
        // runs would be single rows.
        match self.shape {
            Shape::Stacks => rows.sort_unstable_by_key(|row| (row.time, row.series, row.stack)),
            Shape::Totals => rows.sort_unstable_by_key(|row| (row.series, row.time)),
        }
        let groups = (rows.len() / self.group_rows).max(1);
        rows.chunks(rows.len().div_ceil(groups).max(1)).try_for_each(|group| self.write_group(group))?;
        self.buffer = rows;
        self.buffer.clear();
        Ok(())
    }

    fn write_group(&mut self, rows: &[StoredRow]) -> Result<(), StoreError> {
        let window = rows.iter().fold(None, |window, row| Some(widen(window, row.time)));
        let Some(window) = window else { return Ok(()) };
        let series = Column::U32(rows.iter().map(|row| row.series).collect());
        let times = Column::I64(rows.iter().map(|row| row.time.0).collect());
        let stacks = || Column::U32(rows.iter().map(|row| row.stack).collect());
        let values = Column::I64(rows.iter().map(|row| row.value).collect());
        match self.shape {
            Shape::Stacks => self.table.write(&[series, times, stacks(), values])?,
            Shape::Totals => self.table.write(&[series, times, values])?,
        }
        self.windows.push((window.start.0, window.end.0));
        Ok(())
    }

    /// Ends the file of a rollup and adds it to the index.
    pub(super) fn finish(
        mut self,
        shape: Shape,
        bucket_ms: i64,
        tables: &mut TableIndexes,
    ) -> Result<Rollup, StoreError> {
        self.end_groups()?;
        tables.insert(Rollup::file(shape, bucket_ms), self.table.finish()?);
        Ok(Rollup { bucket_ms, windows: self.windows })
    }
}

impl<'a> SegmentWriter<'a> {
    /// Starts a segment in a temporary directory.
    pub(crate) fn create(
        files: &'a dyn FileLayer,
        segments_dir: &Path,
        name: &str,
        content: SegmentContent<'a>,
    ) -> Result<Self, StoreError> {
        let series = content.series;
        let temporary = temporary_dir(segments_dir, name);
        files.create_dir(&temporary).map_err(StoreError::io("create", &temporary))?;
        let samples = RowGroups::create(files, temporary.join(SAMPLES.file), Shape::Stacks, Packing::Zstd)?;
        let rows: u64 = content.stacks.iter().map(|stack| u64::from(stack.rows)).sum();
        // With few rows a segment is read as fast as its sums.
        let sums = (rows >= content.sums_from_rows).then(|| {
            let rollups = Rollups::create(files, &temporary, Shape::Stacks, content.span_ms)?;
            Ok::<_, StoreError>((rollups, Totals::create(files, &temporary, content.span_ms)?))
        });
        let sums = sums.transpose()?;
        let mut sorted: Vec<u32> = (0..series.len() as u32).collect();
        sorted.sort_unstable_by_key(|&i| &series[i as usize]);
        let mut series_ids = vec![0; series.len()];
        sorted.iter().zip(0..).for_each(|(&old, new)| series_ids[old as usize] = new);
        Ok(Self {
            files,
            temporary,
            numbering: Numbering::new(content.stacks, &series_ids),
            content,
            series_ids,
            samples,
            sums,
            buffer: Vec::new(),
            written: BTreeMap::new(),
        })
    }

    /// Adds a row, whose stack was counted. Rows that come in order of time make row groups that a narrow window can skip.
    pub(crate) fn push(&mut self, row: StoredRow) -> Result<(), StoreError> {
        let stack = self.numbering.segment_of[row.stack as usize];
        let row = StoredRow { series: self.series_ids[row.series as usize], stack, ..row };
        if let Some((rollups, _)) = &mut self.sums {
            rollups.push(row)?;
        }
        self.buffer.push(row);
        if self.buffer.len() < ROW_GROUP_ROWS { Ok(()) } else { self.write_row_group() }
    }

    fn write_row_group(&mut self) -> Result<(), StoreError> {
        let mut rows = std::mem::take(&mut self.buffer);
        rows.sort_unstable_by_key(|row| (row.series, row.time, row.stack));
        for row in &rows {
            let series = self.written.entry(row.series).or_insert((TimeRange::new(row.time, row.time), 0));
            *series = (widen(Some(series.0), row.time), series.1 + 1);
        }
        self.samples.write_group(&rows)?;
        if let Some((_, totals)) = &mut self.sums {
            totals.push(&rows)?;
        }
        rows.clear();
        self.buffer = rows;
        Ok(())
    }

    /// Writes the other files and the manifest, syncs everything, and gives the segment its name.
    pub(crate) fn finish(
        mut self,
        origin: SegmentOrigin,
    ) -> Result<(SegmentInfo, Vec<SegmentSeries>), StoreError> {
        self.write_row_group()?;
        let Self { files, temporary, content, series_ids, numbering, samples, sums, .. } = self;
        let SegmentContent { epoch, series, stacks: uses, .. } = content;
        let mut tables = TableIndexes::new();
        tables.insert(SAMPLES.file.to_owned(), samples.table.finish()?);
        let (mut rollups, mut totals) = (Vec::new(), Vec::new());
        if let Some(sums) = sums {
            rollups = sums.0.finish(files, &mut tables)?;
            totals = sums.1.finish(files, &mut tables)?;
        }
        let mut by_id: Vec<(u32, &Arc<SeriesKey>)> = series_ids.iter().copied().zip(series).collect();
        by_id.sort_unstable_by_key(|(id, _)| *id);
        let written = by_id.into_iter().filter_map(|(id, key)| {
            let (range, rows) = *self.written.get(&id)?;
            Some(SegmentSeries { id, key: Arc::clone(key), range, rows })
        });
        let written: Vec<SegmentSeries> = written.collect();
        let stacks = &numbering.epoch_of;
        let use_of = |&stack: &u32| uses[stack as usize];
        write_table(files, &temporary, &SERIES, &series::columns(&written), &mut tables)?;
        let stack_ids = [
            Column::U32((0..stacks.len() as u32).collect()),
            Column::U32(stacks.clone()),
            Column::U32(stacks.iter().map(|stack| use_of(stack).rows).collect()),
            Column::U32(stacks.iter().map(|stack| series_ids[use_of(stack).series as usize]).collect()),
        ];
        write_table(files, &temporary, &STACK_IDS, &stack_ids, &mut tables)?;
        let range =
            written.iter().map(|s| s.range).reduce(|a, b| widen(Some(widen(Some(a), b.start)), b.end));
        let range = range.ok_or_else(|| StoreError::corrupt(&temporary, "a segment without rows"))?;
        let manifest = Manifest {
            format: FORMAT,
            dictionary: Some(DictionaryUse { epoch, stacks: uses.len() }),
            level: origin.level,
            flushed_through: origin.flushed_through,
            replaces: origin.replaces,
            min_time_ms: range.start.0,
            max_time_ms: range.end.0,
            rows: written.iter().map(|s| s.rows).sum(),
            windows: samples.windows,
            rollups,
            totals,
            tables,
        };
        manifest.write(files, &temporary)?;
        files.sync_dir(&temporary).map_err(StoreError::io("sync", &temporary))?;
        let dir = temporary.with_file_name(&origin.name);
        files.rename(&temporary, &dir).map_err(StoreError::io("rename", &temporary))?;
        let parent = dir.parent().unwrap_or(&dir);
        files.sync_dir(parent).map_err(StoreError::io("sync", parent))?;
        Ok((manifest.info(&origin.name), written))
    }
}

/// Writes a file of one row group.
fn write_table(
    files: &dyn FileLayer,
    dir: &Path,
    table: &Table,
    columns: &[Column],
    tables: &mut TableIndexes,
) -> Result<(), StoreError> {
    let mut writer =
        TableWriter::create(files, dir.join(table.file), table.schema, schema::properties(Packing::Zstd))?;
    writer.write(columns)?;
    tables.insert(table.file.to_owned(), writer.finish()?);
    Ok(())
}
