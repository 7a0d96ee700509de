//! One segment: each of its files by itself, and what they say of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pyrite_model::TimeRange;

use super::frame;
use super::samples::{self, Facts, Lost, Sums};
use crate::StoreError;
use crate::catalogue::Catalogue;
use crate::dictionary::EpochId;
use crate::files::FileLayer;
use crate::offline::report::{Damage, Remedy, file_of, in_words, unreadable};
use crate::segment::SegmentInfo;
use crate::segment::manifest::{self, Manifest};
use crate::segment::own_stacks;
use crate::segment::read::{SegmentReader, StackColumns};
use crate::segment::rollup::{Rollup, Shape};
use crate::segment::schema::{SAMPLES, SERIES, STACK_IDS};
use crate::segment::series::{SegmentSeries, read_series};

/// A segment that was read.
pub(in crate::offline) struct Checked {
    pub(in crate::offline) name: String,
    dir: PathBuf,
    /// `None` where the manifest is not legible.
    pub(in crate::offline) manifest: Option<Manifest>,
    pub(in crate::offline) info: Option<SegmentInfo>,
    /// `None` where they are not legible.
    pub(super) series: Option<Vec<SegmentSeries>>,
    /// Those that its rows are of, as far as these are legible.
    row_series: Vec<u32>,
    pub(in crate::offline) damage: Vec<Damage>,
    /// Files that the system did not read, with what it said.
    pub(in crate::offline) unreadable: Vec<String>,
    /// Files whose sums could not be compared.
    pub(super) uncompared: Vec<PathBuf>,
}

/// Reads all of a segment.
pub(in crate::offline) fn check(
    files: &dyn FileLayer,
    dir: &Path,
    name: &str,
) -> Result<Checked, StoreError> {
    let mut checked = Checked {
        name: name.to_owned(),
        dir: dir.to_owned(),
        manifest: None,
        info: None,
        series: None,
        row_series: Vec::new(),
        damage: Vec::new(),
        unreadable: Vec::new(),
        uncompared: Vec::new(),
    };
    match Manifest::read(files, dir) {
        Ok(manifest) => {
            checked.info = Some(manifest.info(name));
            checked.read(files, &manifest)?;
            checked.manifest = Some(manifest);
        }
        Err(error) if error.is_corrupt() || error.is_missing() => {
            let remedy = Remedy::QuarantineSegment(name.to_owned());
            checked.damage.push(Damage::new(&dir.join(manifest::FILE), in_words(&error), remedy));
        }
        Err(error) => checked.pass(error)?,
    }
    if !checked.unreadable.is_empty() {
        // To write it anew would meet the same, and to move it away would say more than is known.
        checked.damage.iter_mut().for_each(|damage| damage.remedy = Remedy::Leave);
    }
    Ok(checked)
}

impl Checked {
    fn read(&mut self, files: &dyn FileLayer, manifest: &Manifest) -> Result<(), StoreError> {
        for (file, index) in &manifest.tables {
            match frame::check(files, &self.dir.join(file), index) {
                Ok(damage) => self.damage.extend(damage),
                Err(error) => self.pass(error)?,
            }
        }
        let stacks = match manifest.dictionary {
            Some(_) => self.dictionary_stacks(files, manifest),
            None => own_stacks(files, &self.dir, manifest).map(|_| StackColumns::default()),
        };
        let stacks = self.attempt(STACK_IDS.file, true, stacks)?;
        let series = read_series(files, &self.dir, manifest);
        self.series = self.attempt(SERIES.file, manifest.dictionary.is_none(), series)?;
        let facts = samples::read(files, &self.dir, manifest);
        let Some(mut facts) = self.attempt(SAMPLES.file, true, facts)? else { return Ok(()) };
        self.row_series = facts.series.keys().copied().collect();
        if !facts.lost.is_empty() {
            // Sums and lists are of all rows; what they say of those that are left cannot be told.
            self.note_lost(manifest, &mut facts);
            return Ok(());
        }
        self.compare(manifest, &facts, stacks.as_ref());
        for shape in [Shape::Stacks, Shape::Totals] {
            for level in 0..manifest.ladder(shape).len() {
                let file = Rollup::file(shape, manifest.ladder(shape)[level].bucket_ms);
                let sums = samples::compare(files, &self.dir, manifest, (shape, level), &facts);
                if let Some(Sums::TooLarge) = self.attempt(&file, false, sums)? {
                    self.uncompared.push(self.dir.join(file));
                }
            }
        }
        Ok(())
    }

    /// Some row groups cannot be used. The others stay in use, where the segment can be written anew from them.
    fn note_lost(&mut self, manifest: &Manifest, facts: &mut Facts) {
        let path = self.dir.join(SAMPLES.file);
        let lost = std::mem::take(&mut facts.lost);
        if facts.rows == 0 || manifest.dictionary.is_none() {
            let what = lost.into_iter().next().map(|lost| lost.what).unwrap_or_default();
            return self.note(&path, true, what);
        }
        for Lost { rows, range, what } in lost {
            let damage = Damage::new(&path, what, Remedy::SaveRows(self.name.clone()));
            self.damage.push(Damage { rows: Some(rows), range: Some(range), ..damage });
        }
    }

    fn dictionary_stacks(
        &self,
        files: &dyn FileLayer,
        manifest: &Manifest,
    ) -> Result<StackColumns, StoreError> {
        let columns = SegmentReader::open(files, &self.dir)?.stack_columns(files)?;
        let end = manifest.dictionary.map_or(0, |used| used.stacks);
        if columns.stacks.iter().any(|id| *id as usize >= end) {
            let path = self.dir.join(STACK_IDS.file);
            return Err(StoreError::corrupt(&path, "a stack is beyond its dictionary"));
        }
        Ok(columns)
    }

    /// Notes a file that the system does not read.
    fn pass(&mut self, error: StoreError) -> Result<(), StoreError> {
        let what = unreadable(error)?;
        // Its content may have been asked for after its frame.
        if !self.unreadable.contains(&what) {
            self.unreadable.push(what);
        }
        Ok(())
    }

    /// Notes damage of a file; a `vital` one cannot be made anew from the others.
    fn attempt<T>(
        &mut self,
        file: &str,
        vital: bool,
        read: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.is_corrupt() || error.is_missing() => {
                // Where something is read from several files, it may be another one of them.
                let found_in = file_of(&error).filter(|path| path.parent() == Some(self.dir.as_path()));
                let path = found_in.map_or_else(|| self.dir.join(file), Path::to_owned);
                self.note(&path, vital, in_words(&error));
                Ok(None)
            }
            Err(error) => self.pass(error).map(|()| None),
        }
    }

    fn note(&mut self, path: &Path, vital: bool, what: impl Into<String>) {
        let name = self.name.clone();
        let remedy = if vital { Remedy::QuarantineSegment(name) } else { Remedy::RewriteSegment(name) };
        self.damage.push(match &self.info {
            Some(info) => Damage::of(info, path, what, remedy),
            None => Damage::new(path, what, remedy),
        });
    }

    /// What the rows are against what the manifest, the stacks and the series say of them.
    fn compare(&mut self, manifest: &Manifest, facts: &Facts, stacks: Option<&StackColumns>) {
        // Format 1 is not written any more.
        let vital = manifest.dictionary.is_none();
        if (facts.rows, facts.range) != (manifest.rows, Some(manifest.range())) {
            let (rows, said) = (facts.rows, manifest.rows);
            let what = format!("it says {said} rows from when to when they are not: {rows} are there");
            self.note(&self.dir.join(manifest::FILE), vital, what);
        }
        let differ = |stacks: &StackColumns| {
            let counted = |stack: u32| facts.stack_rows.get(&stack).copied().unwrap_or(0);
            let differs =
                |(stack, rows): (u32, &u32)| u32::try_from(counted(stack)).unwrap_or(u32::MAX) != *rows;
            let of_none = |series: &u32| !facts.series.contains_key(series);
            (0..).zip(&stacks.rows).any(differs) || stacks.series.iter().any(of_none)
        };
        if manifest.dictionary.is_some() && stacks.is_some_and(differ) {
            let what = "it says other rows or series of its stacks than there are";
            self.note(&self.dir.join(STACK_IDS.file), vital, what);
        }
        let Some(series) = &self.series else { return };
        let said = series.iter().map(|series| (series.id, (series.range, series.rows)));
        if said.collect::<BTreeMap<_, _>>() != facts.series {
            let named: BTreeSet<u32> = series.iter().map(|series| series.id).collect();
            let unnamed = facts.series.keys().any(|id| !named.contains(id));
            let what = "it says other rows of its series than there are";
            self.note(&self.dir.join(SERIES.file), vital || unnamed, what);
        }
    }
}

impl Checked {
    /// Where its own list of series is damaged, it can be written anew only with what the catalogue knows of them.
    pub(super) fn name_series(&mut self, catalogue: Option<&Catalogue>) {
        if self.manifest.is_none() || self.series.is_some() {
            return;
        }
        let known = catalogue.and_then(|catalogue| catalogue.series_of(&self.name).ok()).unwrap_or_default();
        if self.row_series.iter().all(|id| known.binary_search_by_key(id, |(id, ..)| *id).is_ok()) {
            return;
        }
        for damage in &mut self.damage {
            if matches!(damage.remedy, Remedy::RewriteSegment(_) | Remedy::SaveRows(_)) {
                damage.remedy = Remedy::QuarantineSegment(self.name.clone());
            }
        }
    }

    /// Takes from the catalogue what a segment does not say itself, its manifest not being legible.
    pub(super) fn date(&mut self, listed: &[SegmentInfo]) {
        let known = listed.iter().find(|listed| listed.name == self.name && self.info.is_none());
        if let Some(SegmentInfo { rows, range, .. }) = known {
            self.damage.iter_mut().for_each(|damage| {
                (damage.rows, damage.range) = (Some(*rows), Some(*range));
            });
        }
    }

    /// How many rows repair would keep, and when all of them were; `None` where it keeps none.
    pub(super) fn sound_rows(&self) -> Option<(u64, TimeRange)> {
        let SegmentInfo { rows, range, .. } = self.info.as_ref()?;
        let is_beyond = |damage: &Damage| matches!(damage.remedy, Remedy::QuarantineSegment(_));
        if !self.unreadable.is_empty() || self.damage.iter().any(is_beyond) {
            return None;
        }
        let lost = self.damage.iter().filter(|damage| matches!(damage.remedy, Remedy::SaveRows(_)));
        let lost: u64 = lost.filter_map(|damage| damage.rows).sum();
        Some((rows.saturating_sub(lost), *range))
    }

    pub(super) fn epoch(&self) -> Option<EpochId> {
        Some(self.info.as_ref()?.dictionary?.epoch)
    }
}
