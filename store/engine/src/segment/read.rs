//! Reading a segment: the rows of some series within a window, and the dictionary they refer to.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pyrite_model::{ProfileType, SeriesKey, TimeRange, UnixMs};

use super::dictionary::{Dictionary, open_table};
use super::manifest::Manifest;
use super::schema::{SAMPLES, SERIES, STACKS};
use super::small_tables::labels_from_json;
use super::write::SegmentSeries;
use crate::StoreError;
use crate::files::FileLayer;
use crate::rows::StoredRow;
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

/// An open segment.
pub(crate) struct SegmentReader {
    dir: PathBuf,
    manifest: Manifest,
    samples: TableReader,
    dictionary: Mutex<Option<Arc<Dictionary>>>,
}

impl SegmentReader {
    pub(crate) fn open(files: &dyn FileLayer, dir: &Path) -> Result<Self, StoreError> {
        let manifest = Manifest::read(files, dir)?;
        let samples = open_table(files, dir, &manifest, &SAMPLES)?;
        Ok(Self { dir: dir.to_owned(), manifest, samples, dictionary: Mutex::new(None) })
    }

    /// The symbols, read when first asked for.
    pub(crate) fn dictionary(&self, files: &dyn FileLayer) -> Result<Arc<Dictionary>, StoreError> {
        let mut loaded = lock(&self.dictionary);
        if let Some(dictionary) = &*loaded {
            return Ok(Arc::clone(dictionary));
        }
        let dictionary = Arc::new(self.load_dictionary(files)?);
        *loaded = Some(Arc::clone(&dictionary));
        Ok(dictionary)
    }

    /// The symbols, read for this caller only.
    pub(crate) fn load_dictionary(&self, files: &dyn FileLayer) -> Result<Dictionary, StoreError> {
        Dictionary::load(files, &self.dir, &self.manifest)
    }

    fn stack_count(&self) -> u64 {
        self.manifest.tables.get(STACKS.file).map_or(0, |table| table.rows)
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
        let dictionary = lock(&self.dictionary).as_ref().map_or(0, |d| d.bytes());
        // The Parquet metadata of a row group of four columns, and the fixed parts.
        self.samples.row_group_count() * 2048 + 8192 + dictionary
    }

    /// Calls `each` for every row of the series within the window.
    pub(crate) fn scan(
        &self,
        series: &IdSet,
        window: TimeRange,
        mut each: impl FnMut(StoredRow),
    ) -> Result<(), StoreError> {
        for (i, &(first, last)) in self.manifest.windows.iter().enumerate() {
            let held = TimeRange::new(UnixMs(first), UnixMs(last));
            if !held.overlaps(window) {
                continue;
            }
            let group = self.samples.row_group(i)?;
            if !scan_row_group(&group, &Wanted { series, window, stacks: self.stack_count() }, &mut each)? {
                return Err(self.corrupt("a row refers past the end of its tables"));
            }
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

/// Which rows of a row group to read.
struct Wanted<'a> {
    series: &'a IdSet,
    window: TimeRange,
    /// Stack ids are below this.
    stacks: u64,
}

/// Calls `each` for the wanted rows; false where a row's stack does not exist.
fn scan_row_group(
    group: &RowGroup<'_>,
    wanted: &Wanted<'_>,
    each: &mut impl FnMut(StoredRow),
) -> Result<bool, StoreError> {
    let Wanted { series, window, stacks: stack_count } = *wanted;
    let ids = group.u32s(0)?;
    let of_series = ranges_where(0..ids.len(), |at| series.contains(ids[at]));
    if of_series.is_empty() {
        return Ok(true);
    }
    let times = group.i64s_in(1, &of_series)?;
    let positions: Vec<usize> = of_series.into_iter().flatten().collect();
    let inside = ranges_where(0..times.len(), |at| window.contains(UnixMs(times[at])));
    // Positions among the rows of these series, mapped to positions in the row group, where runs may split again.
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for at in inside.iter().cloned().flatten() {
        let position = positions[at];
        match ranges.last_mut() {
            Some(last) if last.end == position => last.end += 1,
            _ => ranges.push(position..position + 1),
        }
    }
    let (stacks, values) = (group.u32s_in(2, &ranges)?, group.i64s_in(3, &ranges)?);
    if stacks.iter().any(|&stack| u64::from(stack) >= stack_count) {
        return Ok(false);
    }
    for (i, at) in inside.into_iter().flatten().enumerate() {
        let (series, time) = (ids[positions[at]], UnixMs(times[at]));
        each(StoredRow { series, time, stack: stacks[i], value: values[i] });
    }
    Ok(true)
}

fn ranges_where(all: Range<usize>, keep: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for at in all.filter(|&at| keep(at)) {
        match ranges.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => ranges.push(at..at + 1),
        }
    }
    ranges
}

/// The series that a segment holds.
pub(crate) fn read_series(
    files: &dyn FileLayer,
    dir: &Path,
    manifest: &Manifest,
) -> Result<Vec<SegmentSeries>, StoreError> {
    let reader = open_table(files, dir, manifest, &SERIES)?;
    let mut series = Vec::new();
    for i in 0..reader.row_group_count() {
        let group = reader.row_group(i)?;
        let (ids, types, labels) = (group.u32s(0)?, group.texts(1)?, group.texts(2)?);
        let (starts, ends, rows) = (group.i64s(3)?, group.i64s(4)?, group.i64s(5)?);
        for at in 0..group.rows() {
            let key = types[at].as_utf8().ok().zip(labels[at].as_utf8().ok());
            let key = key.and_then(|(profile_type, labels)| parse_key(profile_type, labels));
            let key =
                key.ok_or_else(|| StoreError::corrupt(&dir.join(SERIES.file), "a series is not legible"))?;
            let range = TimeRange::new(UnixMs(starts[at]), UnixMs(ends[at]));
            series.push(SegmentSeries { id: ids[at], key: Arc::new(key), range, rows: rows[at] as u64 });
        }
    }
    Ok(series)
}

/// A series key from the text of its profile type and labels.
pub(crate) fn parse_key(profile_type: &str, labels: &str) -> Option<SeriesKey> {
    let profile_type: ProfileType = profile_type.parse().ok()?;
    Some(SeriesKey { labels: labels_from_json(labels)?, profile_type })
}
