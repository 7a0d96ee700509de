//! One pass over the rows of a segment: what they come to by series, by stack and at each resolution, and which of them
//! cannot be read.

use std::collections::BTreeMap;
use std::path::Path;

use hashbrown::HashMap;
use pyrite_model::{TimeRange, UnixMs};

use super::fingerprint::{Fingerprint, Key};
use crate::StoreError;
use crate::files::FileLayer;
use crate::offline::report::in_words;
use crate::rows::{StoredRow, widen};
use crate::segment::ceil;
use crate::segment::manifest::Manifest;
use crate::segment::rollup::{Rollup, Shape};
use crate::segment::schema::SAMPLES;
use crate::table::{RowGroup, TableReader};

/// What the rows of a segment are.
pub(super) struct Facts {
    pub(super) rows: u64,
    pub(super) range: Option<TimeRange>,
    pub(super) series: BTreeMap<u32, (TimeRange, u64)>,
    /// By stack of the segment, as far as there are any.
    pub(super) stack_rows: HashMap<u32, u64>,
    /// What is not among all that.
    pub(super) lost: Vec<Lost>,
    /// By resolution, in the manifest's order.
    rollups: Vec<Fingerprint>,
    totals: Vec<Fingerprint>,
}

/// The rows of a row group that cannot be used.
pub(super) struct Lost {
    pub(super) rows: u64,
    pub(super) range: TimeRange,
    pub(super) what: String,
}

impl Facts {
    fn fingerprints(&self, shape: Shape) -> &[Fingerprint] {
        match shape {
            Shape::Stacks => &self.rollups,
            Shape::Totals => &self.totals,
        }
    }

    fn add(&mut self, row: StoredRow, manifest: &Manifest) {
        self.rows += 1;
        self.range = Some(widen(self.range, row.time));
        let series = self.series.entry(row.series).or_insert((TimeRange::new(row.time, row.time), 0));
        *series = (widen(Some(series.0), row.time), series.1 + 1);
        *self.stack_rows.entry(row.stack).or_default() += 1;
        for shape in [Shape::Stacks, Shape::Totals] {
            let fingerprints = match shape {
                Shape::Stacks => &mut self.rollups,
                Shape::Totals => &mut self.totals,
            };
            for (fingerprint, rollup) in fingerprints.iter_mut().zip(manifest.ladder(shape)) {
                if let Some(key) = key(row, shape, rollup) {
                    fingerprint.add(key, row.value);
                }
            }
        }
    }
}

fn key(row: StoredRow, shape: Shape, rollup: &Rollup) -> Option<Key> {
    let stack = if shape == Shape::Stacks { row.stack } else { 0 };
    Some(Key { series: row.series, stamp: ceil(row.time.0, rollup.bucket_ms)?, stack })
}

/// Reads all rows.
pub(super) fn read(files: &dyn FileLayer, dir: &Path, manifest: &Manifest) -> Result<Facts, StoreError> {
    let none = |shape| vec![Fingerprint::default(); manifest.ladder(shape).len()];
    let mut facts = Facts {
        rows: 0,
        range: None,
        series: BTreeMap::new(),
        stack_rows: HashMap::new(),
        lost: Vec::new(),
        rollups: none(Shape::Stacks),
        totals: none(Shape::Totals),
    };
    for_each_group(files, dir, manifest, |Group { count, range, rows }| {
        match rows {
            Ok(rows) => rows.into_iter().for_each(|row| facts.add(row, manifest)),
            Err(error) if error.is_corrupt() => {
                facts.lost.push(Lost { rows: count, range, what: in_words(&error) });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    })?;
    Ok(facts)
}

/// A row group of the samples.
pub(in crate::offline) struct Group {
    /// How many rows it has.
    pub(in crate::offline) count: u64,
    /// When they were.
    pub(in crate::offline) range: TimeRange,
    /// They themselves, or why they cannot be used.
    pub(in crate::offline) rows: Result<Vec<StoredRow>, StoreError>,
}

/// Calls `each` for all row groups.
pub(in crate::offline) fn for_each_group(
    files: &dyn FileLayer,
    dir: &Path,
    manifest: &Manifest,
    mut each: impl FnMut(Group) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let path = dir.join(SAMPLES.file);
    let table = manifest.open_table(files, dir, SAMPLES.file)?;
    let stacks = manifest.stack_count();
    for (i, &(first, last)) in manifest.windows.iter().enumerate() {
        let rows = table.row_group(i).and_then(|group| {
            let rows = rows(&group, Shape::Stacks)?;
            check_group(&path, &rows, (first, last), stacks)?;
            let order = |row: &StoredRow| (row.series, row.time, row.stack);
            if rows.is_sorted_by_key(order) {
                Ok(rows)
            } else {
                Err(StoreError::corrupt(&path, "its rows are not in order"))
            }
        });
        let range = TimeRange::new(UnixMs(first), UnixMs(last));
        each(Group { count: table.rows_of(i) as u64, range, rows })?;
    }
    Ok(())
}

fn rows(group: &RowGroup<'_>, shape: Shape) -> Result<Vec<StoredRow>, StoreError> {
    let (series, times) = (group.u32s(0)?, group.i64s(1)?);
    let (stacks, values) = match shape {
        Shape::Stacks => (group.u32s(2)?, group.i64s(3)?),
        Shape::Totals => (vec![0; series.len()], group.i64s(2)?),
    };
    let columns = series.into_iter().zip(times).zip(stacks).zip(values);
    let row = |(((series, time), stack), value)| StoredRow { series, time: UnixMs(time), stack, value };
    Ok(columns.map(row).collect())
}

fn check_group(
    path: &Path,
    rows: &[StoredRow],
    (first, last): (i64, i64),
    stacks: usize,
) -> Result<(), StoreError> {
    let times = || rows.iter().map(|row| row.time.0);
    if (times().min(), times().max()) != (Some(first), Some(last)) {
        return Err(StoreError::corrupt(path, "the manifest gives a row group another window than it has"));
    }
    if rows.iter().any(|row| row.stack as usize >= stacks) {
        return Err(StoreError::corrupt(path, "a row refers past the end of its tables"));
    }
    Ok(())
}

/// What is wrong with a file of sums, the facts being what the rows say.
pub(super) enum Sums {
    Agree,
    /// They may be right: values of this size are added up without overflow only in the right order.
    TooLarge,
}

/// Reads the sums of one resolution and compares them with the rows.
///
/// # Errors
/// Where they are damaged or differ.
pub(super) fn compare(
    files: &dyn FileLayer,
    dir: &Path,
    manifest: &Manifest,
    (shape, level): (Shape, usize),
    facts: &Facts,
) -> Result<Sums, StoreError> {
    let rollup = &manifest.ladder(shape)[level];
    let file = Rollup::file(shape, rollup.bucket_ms);
    let path = dir.join(&file);
    let table: TableReader = manifest.open_table(files, dir, &file)?;
    let mut found = Fingerprint::default();
    for (i, window) in rollup.windows.iter().enumerate() {
        let rows = rows(&table.row_group(i)?, shape)?;
        check_group(&path, &rows, *window, manifest.stack_count())?;
        for row in rows {
            if row.time.0.rem_euclid(rollup.bucket_ms) != 0 {
                return Err(StoreError::corrupt(&path, "a bucket ends where none does"));
            }
            found.add(Key { series: row.series, stamp: row.time.0, stack: row.stack }, row.value);
        }
    }
    let expected = &facts.fingerprints(shape)[level];
    match () {
        () if found.agrees_with(expected) => Ok(Sums::Agree),
        () if expected.may_saturate() => Ok(Sums::TooLarge),
        () => Err(StoreError::corrupt(&path, "its sums are not those of the rows")),
    }
}
