//! A segment written anew from its rows, stacks and series, where these are sound and its sums or its list of series are not,
//! or where some of the rows are sound and the others are not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pyrite_model::SeriesKey;

use super::check::samples::{Group, for_each_group};
use crate::catalogue::Catalogue;
use crate::files::FileLayer;
use crate::rows::StoredRow;
use crate::segment::manifest::Manifest;
use crate::segment::read::SegmentReader;
use crate::segment::series::{SegmentSeries, read_series};
use crate::segment::write::{SegmentContent, SegmentOrigin, SegmentWriter, StackUse};
use crate::segment::{self, SegmentInfo};
use crate::{Limits, StoreError};

/// Which rows are to be in the new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// All; it is an error where some cannot be read.
    All,
    /// Those that can be read.
    Sound,
}

impl Keep {
    fn of(self, group: Group) -> Result<Vec<StoredRow>, StoreError> {
        match group.rows {
            Err(error) if self == Self::Sound && error.is_corrupt() => Ok(Vec::new()),
            rows => rows,
        }
    }
}

/// The new segment, and those whose rows it holds.
pub(super) struct Rewritten {
    pub(super) info: SegmentInfo,
    pub(super) series: Vec<SegmentSeries>,
    pub(super) replaces: Vec<String>,
    pub(super) flushed_through: u64,
}

/// What rows refer to.
struct Meaning {
    /// By series id of the old segment, its place in `keys`.
    series: BTreeMap<u32, u32>,
    keys: Vec<Arc<SeriesKey>>,
    /// By stack of the old segment, the one of the epoch.
    stacks: Vec<u32>,
}

impl Meaning {
    fn read(
        files: &dyn FileLayer,
        dir: &Path,
        manifest: &Manifest,
        catalogue: Option<&Catalogue>,
    ) -> Result<Self, StoreError> {
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let own = read_series(files, dir, manifest);
        let known: Vec<(u32, Arc<SeriesKey>)> = match (own, catalogue) {
            (Ok(series), _) => series.into_iter().map(|series| (series.id, series.key)).collect(),
            (Err(error), Some(catalogue)) if error.is_corrupt() || error.is_missing() => {
                let series = catalogue.series_of(&name)?;
                series.into_iter().map(|(id, key, _)| (id, Arc::new(key))).collect()
            }
            (Err(error), _) => return Err(error),
        };
        let (ids, keys): (Vec<u32>, Vec<Arc<SeriesKey>>) = known.into_iter().unzip();
        let series = ids.into_iter().zip(0..).collect();
        Ok(Self { series, keys, stacks: SegmentReader::open(files, dir)?.stack_columns(files)?.stacks })
    }

    fn of(&self, row: StoredRow, dir: &Path) -> Result<StoredRow, StoreError> {
        let series = self.series.get(&row.series).copied();
        let stack = self.stacks.get(row.stack as usize).copied();
        match series.zip(stack) {
            Some((series, stack)) => Ok(StoredRow { series, stack, ..row }),
            None => Err(StoreError::corrupt(dir, "a row refers past the end of its tables")),
        }
    }
}

/// Writes the segment; the old one is as it was. What it lacks of series is taken from the catalogue.
pub(super) fn rewrite(
    files: &dyn FileLayer,
    segments: &Path,
    name: &str,
    catalogue: Option<&Catalogue>,
    keep: Keep,
) -> Result<Rewritten, StoreError> {
    let dir = segments.join(name);
    let manifest = Manifest::read(files, &dir)?;
    let own_dictionary = || StoreError::corrupt(&dir, "a segment of format 1 is not written any more");
    let dictionary = manifest.dictionary.ok_or_else(own_dictionary)?;
    let meaning = Meaning::read(files, &dir, &manifest, catalogue)?;
    let mut uses = vec![StackUse::default(); dictionary.stacks];
    for_each_group(files, &dir, &manifest, |group| {
        for row in keep.of(group)? {
            let row = meaning.of(row, &dir)?;
            let of_stack = uses.get_mut(row.stack as usize);
            let of_stack =
                of_stack.ok_or_else(|| StoreError::corrupt(&dir, "a stack is beyond its dictionary"))?;
            of_stack.add(1, row.series);
        }
        Ok(())
    })?;
    let (new, level) = free_name(files, segments, name, manifest.level);
    // It has sums where it had some.
    let has_sums = !manifest.rollups.is_empty() || !manifest.totals.is_empty();
    let sums_from_rows = if has_sums { 0 } else { Limits::default().sums_from_rows };
    let content = SegmentContent {
        epoch: dictionary.epoch,
        series: &meaning.keys,
        span_ms: manifest.max_time_ms.saturating_sub(manifest.min_time_ms),
        sums_from_rows,
        stacks: &uses,
    };
    let mut writer = SegmentWriter::create(files, segments, &new, content)?;
    for_each_group(files, &dir, &manifest, |group| {
        keep.of(group)?.into_iter().try_for_each(|row| writer.push(meaning.of(row, &dir)?))
    })?;
    let mut replaces = manifest.replaces;
    replaces.push(name.to_owned());
    let flushed_through = manifest.flushed_through;
    let origin = SegmentOrigin { name: new, level, flushed_through, replaces: replaces.clone() };
    let (info, series) = writer.finish(origin)?;
    Ok(Rewritten { info, series, replaces, flushed_through })
}

/// A name of the same generations that is not taken, and the level that is part of it.
fn free_name(files: &dyn FileLayer, segments: &Path, name: &str, level: u32) -> (String, u32) {
    let (first, last) = segment::generations(name).unwrap_or_default();
    let mut names = (level + 1..).map(|level| (segment::name(first, last, level), level));
    let free = names.find(|(name, _)| files.list(&segments.join(name)).is_err());
    free.expect("there are more levels than directories")
}
