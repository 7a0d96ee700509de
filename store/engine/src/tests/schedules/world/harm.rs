//! Harm that is done to files by hand, while nobody works on them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pyrite_model::{TimeRange, UnixMs};

use super::{Outcome, Risk, World};
use crate::shared::Layout;
use crate::tests::schedules::steps::Place;
use crate::wal;

impl World {
    pub(super) fn harm(&mut self, place: Place, file: usize, at: Option<usize>, closed: bool) -> Outcome {
        if self.is_troubled() {
            return Ok(());
        }
        self.settle()?;
        if place == Place::Quarantine && !self.risks.is_empty() {
            return Ok(());
        }
        // Nobody flips bits below a running database.
        let closed = closed || matches!(place, Place::Catalogue | Place::Format);
        let mut image = Vec::new();
        if closed {
            if file.is_multiple_of(2) {
                self.allow(self.store().close(), "close")?;
                self.maybe.clear();
            } else {
                image = self.catalogue_image();
            }
            self.store = None;
        }
        for (path, bytes) in image {
            fs::write(path, bytes).unwrap();
        }
        let candidates = self.files_of(place);
        if !candidates.is_empty() {
            self.harm_file(place, &candidates[(file / 2) % candidates.len()], at);
        }
        if closed { self.open() } else { Ok(()) }
    }

    pub(super) fn files_of(&self, place: Place) -> Vec<PathBuf> {
        let Layout { wal, segments, dictionaries, quarantine, catalogue, format, .. } = &self.layout;
        let files = self.disk.all_files();
        let below = |dir: &Path| files.iter().filter(|path| path.starts_with(dir)).cloned().collect();
        let dirs = |dir: &Path| {
            let files: Vec<PathBuf> = below(dir);
            let dirs: BTreeSet<PathBuf> =
                files.iter().map(|path| path.parent().unwrap().to_owned()).collect();
            dirs.into_iter().collect()
        };
        match place {
            Place::Segment => below(segments),
            Place::WholeSegment => dirs(segments),
            Place::Dictionary => below(dictionaries),
            Place::DictionaryPart => dirs(dictionaries),
            Place::Log => below(wal),
            Place::Quarantine => below(quarantine),
            Place::Format => vec![format.clone()],
            Place::Catalogue => {
                let databases = [catalogue.clone(), catalogue.with_extension("sqlite-wal")];
                databases.into_iter().filter(|path| path.exists()).collect()
            }
        }
    }

    fn harm_file(&mut self, place: Place, path: &Path, at: Option<usize>) {
        match place {
            Place::Segment | Place::WholeSegment => {
                let name = path.strip_prefix(&self.layout.segments).unwrap().iter().next().unwrap();
                let segment = name.to_str().unwrap().to_owned();
                let values = self.values_of(&segment);
                let times = values.iter().filter_map(|value| Some(self.rows.get(value)?.row.time));
                let times: Vec<i64> = times.collect();
                let range = TimeRange::new(
                    UnixMs(times.iter().copied().min().unwrap_or(0)),
                    UnixMs(times.iter().copied().max().unwrap_or(0)),
                );
                self.risks.push(Risk { segment, values, range, is_retired: false, is_in_trouble: false });
            }
            Place::Dictionary | Place::DictionaryPart => self.names_harmed = true,
            Place::Log => {
                let name = path.file_name().unwrap().to_str().unwrap();
                let generation = wal::generation_of(name);
                self.harmed_logs.extend(generation);
                self.logs_harmed = true;
                // Later logs build on its entries.
                self.names_harmed = true;
                let name_of = |log: &PathBuf| wal::generation_of(log.file_name()?.to_str()?);
                let logs: Vec<u64> = self.files_of(Place::Log).iter().filter_map(name_of).collect();
                if at.is_none() && logs.len() > 1 && logs.iter().max().copied() == generation {
                    // Nothing that is left says that there was a newer one.
                    self.untold_logs.extend(generation);
                }
            }
            Place::Catalogue => self.catalogue_harmed = true,
            Place::Format => self.format_harmed = true,
            Place::Quarantine => {}
        }
        let is_dir = matches!(place, Place::WholeSegment | Place::DictionaryPart);
        match at {
            Some(at) if !is_dir => self.disk.flip_bit(path, at),
            _ => self.disk.remove_by_hand(path),
        }
    }
}
