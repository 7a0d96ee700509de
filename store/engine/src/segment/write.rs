//! Making a segment: number series, stacks and symbols anew, sort rows a row group at a time, write, sync, rename.
//!
//! Within a row group rows are ordered by (series, time, stack). Stack ids are by falling frequency, so that the
//! usual id is small; nodes that no row ends in come after all that some row does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyrite_model::{SeriesKey, SymbolTable, TimeRange};

use super::SegmentInfo;
use super::manifest::{FORMAT, Manifest};
use super::schema::{self, SAMPLES};
use super::small_tables::{NumberedSymbols, SmallTables};
use crate::StoreError;
use crate::files::FileLayer;
use crate::rows::{StoredRow, widen};
use crate::symbols::Symbols;
use crate::table::{Column, TableWriter};

/// Rows per row group of the samples. At 400 rows a second about five minutes: a window of one minute reads one or
/// two of them, and one takes 3 MiB of memory to sort.
const ROW_GROUP_ROWS: usize = 128 * 1024;
const TEMPORARY: &str = "tmp-";

/// Whether a name in the segments' directory is of a segment that was never finished.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// Rows of one series in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentSeries {
    /// The id that the segment's samples use.
    pub(crate) id: u32,
    pub(crate) key: Arc<SeriesKey>,
    pub(crate) range: TimeRange,
    pub(crate) rows: u64,
}

/// What identifies a segment and its place in the life of the store.
#[derive(Clone, Debug)]
pub(crate) struct SegmentOrigin {
    pub(crate) name: String,
    pub(crate) level: u32,
    pub(crate) flushed_through: u64,
    pub(crate) replaces: Vec<String>,
}

/// New ids for the entries of a table, given out in order of first use.
pub(super) struct Renumbering {
    /// [`UNNUMBERED`] where an entry has none: a table of hundreds of thousands of stacks is renumbered at each flush.
    new_of: Vec<u32>,
    pub(super) old_of: Vec<u32>,
}

const UNNUMBERED: u32 = u32::MAX;

impl Renumbering {
    pub(super) fn new(len: usize) -> Self {
        Self { new_of: vec![UNNUMBERED; len], old_of: Vec::new() }
    }

    pub(super) fn take(&mut self, old: u32) -> u32 {
        let new = &mut self.new_of[old as usize];
        if *new == UNNUMBERED {
            *new = self.old_of.len() as u32;
            self.old_of.push(old);
        }
        *new
    }

    /// The new id of an entry that has one.
    pub(super) fn new_of(&self, old: u32) -> u32 {
        let new = self.new_of[old as usize];
        assert_ne!(new, UNNUMBERED, "every entry that is referred to was numbered before");
        new
    }
}

/// Rows on their way into a segment; their ids are those of the symbol table and series list given.
pub(crate) struct SegmentWriter<'a> {
    files: &'a dyn FileLayer,
    temporary: PathBuf,
    symbols: &'a SymbolTable,
    series: &'a [Arc<SeriesKey>],
    series_ids: Vec<u32>,
    stacks: Renumbering,
    stack_rows: &'a [u32],
    samples: TableWriter,
    buffer: Vec<StoredRow>,
    windows: Vec<(i64, i64)>,
    written: BTreeMap<u32, (TimeRange, u64)>,
}

/// What the rows of a new segment refer to.
pub(crate) struct SegmentVocabulary<'a> {
    pub(crate) symbols: &'a SymbolTable,
    pub(crate) series: &'a [Arc<SeriesKey>],
    /// How many rows each stack will have.
    pub(crate) stack_rows: &'a [u32],
}

impl<'a> SegmentWriter<'a> {
    /// Starts a segment in a temporary directory.
    pub(crate) fn create(
        files: &'a dyn FileLayer,
        segments_dir: &Path,
        name: &str,
        vocabulary: &SegmentVocabulary<'a>,
    ) -> Result<Self, StoreError> {
        let SegmentVocabulary { symbols, series, stack_rows } = *vocabulary;
        let temporary = segments_dir.join(format!("{TEMPORARY}{name}"));
        files.create_dir(&temporary).map_err(StoreError::io("create", &temporary))?;
        let samples =
            TableWriter::create(files, temporary.join(SAMPLES.file), SAMPLES.schema, schema::properties())?;
        let mut sorted: Vec<u32> = (0..series.len() as u32).collect();
        sorted.sort_unstable_by_key(|&i| &series[i as usize]);
        let mut series_ids = vec![0; series.len()];
        sorted.iter().zip(0..).for_each(|(&old, new)| series_ids[old as usize] = new);
        Ok(Self {
            files,
            temporary,
            symbols,
            series,
            series_ids,
            stacks: number_stacks(symbols, stack_rows),
            stack_rows,
            samples,
            buffer: Vec::new(),
            windows: Vec::new(),
            written: BTreeMap::new(),
        })
    }

    /// Adds a row. Rows that come in order of time make row groups that a narrow window can skip.
    pub(crate) fn push(&mut self, row: StoredRow) -> Result<(), StoreError> {
        let stack = self.stacks.take(row.stack);
        self.buffer.push(StoredRow { series: self.series_ids[row.series as usize], stack, ..row });
        if self.buffer.len() < ROW_GROUP_ROWS { Ok(()) } else { self.write_row_group() }
    }

    fn write_row_group(&mut self) -> Result<(), StoreError> {
        let mut rows = std::mem::take(&mut self.buffer);
        rows.sort_unstable_by_key(|row| (row.series, row.time, row.stack));
        let mut window: Option<TimeRange> = None;
        for row in &rows {
            window = Some(widen(window, row.time));
            let series = self.written.entry(row.series).or_insert((TimeRange::new(row.time, row.time), 0));
            *series = (widen(Some(series.0), row.time), series.1 + 1);
        }
        let Some(window) = window else { return Ok(()) };
        let series: Vec<u32> = rows.iter().map(|row| row.series).collect();
        let times: Vec<i64> = rows.iter().map(|row| row.time.0).collect();
        let stacks: Vec<u32> = rows.iter().map(|row| row.stack).collect();
        let values: Vec<i64> = rows.iter().map(|row| row.value).collect();
        let columns = [Column::U32(series), Column::I64(times), Column::U32(stacks), Column::I64(values)];
        self.samples.write(&columns)?;
        self.windows.push((window.start.0, window.end.0));
        rows.clear();
        self.buffer = rows;
        Ok(())
    }

    /// Writes the symbols and the manifest, syncs everything, and gives the segment its name.
    pub(crate) fn finish(
        mut self,
        origin: SegmentOrigin,
    ) -> Result<(SegmentInfo, Vec<SegmentSeries>), StoreError> {
        self.write_row_group()?;
        let Self { files, temporary, symbols, series, series_ids, stacks, stack_rows, samples, .. } = self;
        let mut tables = BTreeMap::new();
        tables.insert(SAMPLES.file.to_owned(), samples.finish()?);
        let mut by_id: Vec<(u32, &Arc<SeriesKey>)> = series_ids.into_iter().zip(series).collect();
        by_id.sort_unstable_by_key(|(id, _)| *id);
        let written = by_id.into_iter().filter_map(|(id, key)| {
            let (range, rows) = *self.written.get(&id)?;
            Some(SegmentSeries { id, key: Arc::clone(key), range, rows })
        });
        let written: Vec<SegmentSeries> = written.collect();
        let small = SmallTables { files, dir: &temporary };
        small.write_all(&mut tables, &written, &NumberedSymbols::new(symbols, &stacks, stack_rows))?;
        let range =
            written.iter().map(|s| s.range).reduce(|a, b| widen(Some(widen(Some(a), b.start)), b.end));
        let range = range.ok_or_else(|| StoreError::corrupt(&temporary, "a segment without rows"))?;
        let manifest = Manifest {
            format: FORMAT,
            level: origin.level,
            flushed_through: origin.flushed_through,
            replaces: origin.replaces,
            min_time_ms: range.start.0,
            max_time_ms: range.end.0,
            rows: written.iter().map(|s| s.rows).sum(),
            windows: self.windows,
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

fn number_stacks(symbols: &SymbolTable, rows: &[u32]) -> Renumbering {
    let mut used: Vec<u32> = (0..rows.len() as u32).filter(|&id| rows[id as usize] > 0).collect();
    used.sort_by_key(|&id| std::cmp::Reverse(rows[id as usize]));
    let mut stacks = Renumbering::new(symbols.stack_nodes().len());
    for id in used {
        stacks.take(id);
    }
    let mut at = 0;
    while let Some(&old) = stacks.old_of.get(at) {
        if let Some(parent) = Symbols::stack(symbols, old).0 {
            stacks.take(parent);
        }
        at += 1;
    }
    stacks
}
