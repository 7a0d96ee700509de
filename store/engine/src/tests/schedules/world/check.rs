//! What is stored held to the model: every row that was acknowledged is there, or it is named as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Outcome, Risk, START_MS, Stored, World, fail};
use crate::tests::answers::{self, Found};
use crate::tests::schedules::steps::Place;
use crate::{Finding, wal};

impl World {
    /// Nothing is named as lost that nobody has harmed.
    pub(super) fn check_findings(&self, findings: &[Finding]) -> Outcome {
        for finding in findings {
            let is_reasonable = match finding {
                Finding::SegmentQuarantined { name, .. } | Finding::SegmentMissing { name, .. } => {
                    self.risks.iter().any(|risk| risk.segment == *name) || self.catalogue_harmed
                }
                Finding::DictionaryDamaged { .. } => self.names_harmed,
                Finding::CatalogueRebuilt { .. } => self.catalogue_harmed,
                // Until the log behind it is flushed, at each start.
                Finding::LogMissing { .. } => self.logs_harmed || self.catalogue_harmed,
                _ => true,
            };
            if !is_reasonable {
                return fail(format!("a false alarm: {finding}"));
            }
        }
        Ok(())
    }

    /// Holds what is stored to the model. What was harmed may be noticed by the windows alone, which read sums.
    pub(in crate::tests::schedules) fn check(&mut self, is_opened: bool, seed: u64) -> Outcome {
        let harmed = self.risks.iter().filter(|risk| !risk.values.is_empty()).count();
        let mut checked = self.check_once(is_opened, seed);
        for _ in 0..harmed {
            if checked.is_ok() {
                break;
            }
            checked = self.check_once(is_opened, seed);
        }
        checked
    }

    fn check_once(&mut self, is_opened: bool, seed: u64) -> Outcome {
        let Some(found) = answers::all_rows(self.store()).or_else(|error| self.unless_troubled(&error))?
        else {
            return Ok(());
        };
        let mut here = BTreeMap::new();
        for row in &found {
            if here.insert(row.value, row).is_some() {
                return fail(format!("doubled: {row:?}"));
            }
        }
        self.take_back(&here, is_opened)?;
        let passed_over = self.let_go(&here, is_opened)?;
        for (value, kept) in &self.rows {
            match here.get(value) {
                Some(row) => self.check_row(row, &kept.row)?,
                None if passed_over.contains(value) => {}
                None => return fail(format!("lost, and not named: {kept:?}; {:?}", self.findings)),
            }
        }
        if self.is_troubled() {
            return Ok(());
        }
        answers::check(self.store(), &found, START_MS, seed)
    }

    fn unless_troubled<T>(&self, error: &crate::QueryError) -> Outcome<Option<T>> {
        if self.is_troubled() { Ok(None) } else { fail(format!("a query: {error}")) }
    }

    fn check_row(&self, found: &Found, expected: &Found) -> Outcome {
        let is_lost = self.names_harmed && found.path == answers::LOST;
        let named = Found { path: expected.path.clone(), ..found.clone() };
        if named == *expected && (is_lost || found.path == expected.path) {
            return Ok(());
        }
        fail(format!("{found:?} is there for {expected:?}"))
    }

    /// Rows that are there and that the model lacks: of a batch in flight, or let back in by a catalogue that was lost.
    fn take_back(&mut self, here: &BTreeMap<i64, &Found>, is_opened: bool) -> Outcome {
        if is_opened {
            for batch in std::mem::take(&mut self.maybe) {
                let there = batch.iter().filter(|kept| here.contains_key(&kept.row.value)).count();
                if there == batch.len() {
                    self.rows.extend(batch.into_iter().map(|kept| (kept.row.value, kept)));
                } else if there > 0 {
                    return fail(format!("{there} rows of a batch of {}", batch.len()));
                }
            }
        }
        for value in here.keys().filter(|value| !self.rows.contains_key(value)).collect::<Vec<_>>() {
            match self.retired.remove(value) {
                Some(kept) if self.catalogue_harmed => drop(self.rows.insert(*value, kept)),
                _ => return fail(format!("there, and was not stored: {:?}", here[value])),
            }
        }
        Ok(())
    }

    /// Takes out of the model what is gone and named; returns what is gone and need not be named yet.
    fn let_go(&mut self, here: &BTreeMap<i64, &Found>, is_opened: bool) -> Outcome<BTreeSet<i64>> {
        let mut passed_over = BTreeSet::new();
        for risk in std::mem::take(&mut self.risks) {
            let known = |value: &&i64| self.rows.contains_key(value);
            let there = risk.values.iter().filter(known).filter(|value| here.contains_key(value)).count();
            let is_there = risk.values.iter().filter(known).count() == there;
            if is_there {
                // A retired one is in use again; what was harmed may be noticed later.
                if !risk.is_retired {
                    self.risks.push(risk);
                }
            } else if there > 0 {
                return fail(format!("{there} rows of {} of segment {}", risk.values.len(), risk.segment));
            } else if risk.is_retired || self.is_named(&risk) {
                risk.values.iter().for_each(|value| drop(self.rows.remove(value)));
                // It may be named again.
                self.risks.push(Risk { values: BTreeSet::new(), ..risk });
            } else if risk.is_in_trouble && !is_opened {
                passed_over.extend(&risk.values);
                self.risks.push(risk);
            } else {
                return fail(format!("segment {} is gone and not named", risk.segment));
            }
        }
        if is_opened {
            self.let_go_logs(here)?;
        }
        Ok(passed_over)
    }

    /// What is lost of a log is its end, from some batch on.
    fn let_go_logs(&mut self, here: &BTreeMap<i64, &Found>) -> Outcome {
        for generation in std::mem::take(&mut self.harmed_logs) {
            let of_log = self.rows.values().filter(|kept| kept.generation == generation);
            let lost: Vec<&Stored> =
                of_log.clone().filter(|kept| !here.contains_key(&kept.row.value)).collect();
            let Some(first) = lost.iter().map(|kept| kept.batch).min() else { continue };
            let file = wal::path(&self.layout.wal, generation);
            let is_named = self.findings.iter().any(|finding| match finding {
                Finding::LogCut { file: cut, .. } => *cut == file,
                Finding::LogMissing { file: first, files } => {
                    (0..*files).any(|n| wal::path(&self.layout.wal, log_of(first) + n) == file)
                }
                _ => false,
            });
            if !is_named && !self.untold_logs.contains(&generation) {
                return fail(format!("log {generation} has lost {} rows and is not named", lost.len()));
            }
            if of_log.filter(|kept| kept.batch >= first).count() != lost.len() {
                return fail(format!("log {generation} has lost what is not its end"));
            }
            let lost: Vec<i64> = lost.iter().map(|kept| kept.row.value).collect();
            for value in lost {
                self.rows.remove(&value);
            }
        }
        Ok(())
    }

    fn is_named(&self, risk: &Risk) -> bool {
        let rows = risk.values.len() as u64;
        let in_report = self.findings.iter().any(|finding| match finding {
            Finding::SegmentQuarantined { name, range, .. } => {
                *name == risk.segment && range.is_none_or(|range| range == risk.range)
            }
            Finding::SegmentMissing { name, range, rows: missing } => {
                *name == risk.segment && *range == risk.range && *missing == rows
            }
            _ => false,
        });
        let note = |path: PathBuf| -> Option<serde_json::Value> {
            serde_json::from_slice(&crate::files::read_all(&self.disk, &path).ok()?).ok()
        };
        let mut notes = self.files_of(Place::Quarantine).into_iter().filter_map(note);
        let in_note = notes.any(|note| {
            note["segment"] == risk.segment.as_str()
                && (note["rows"].is_null()
                    || note["rows"] == rows
                        && note["min_time_ms"] == risk.range.start.0
                        && note["max_time_ms"] == risk.range.end.0)
        });
        in_report || in_note || self.store().maintenance().shared().counters.segments_missing.get() > 0
    }
}

fn log_of(file: &Path) -> u64 {
    wal::generation_of(file.file_name().unwrap().to_str().unwrap()).unwrap()
}
