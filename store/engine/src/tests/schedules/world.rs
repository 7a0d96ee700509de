//! A store on its disk, and the model that it is held to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proptest::test_runner::TestCaseError;
use pyrite_model::{Batch, LabelSet, ProfileType, Row, SeriesRows, SymbolTable, TimeRange, UnixMs};

use super::steps::{NewRow, Place, Step};
use crate::files::FileLayer;
use crate::head::Head;
use crate::maintain::Work;
use crate::segment::read::SegmentReader;
use crate::shared::Layout;
use crate::tests::answers::{self, Found};
use crate::tests::disk::{Dice, Disk, Kept, Trouble};
use crate::tests::memory_dir;
use crate::{AppendError, Finding, FlushPolicy, Limits, Retention, Store, StoreConfig, wal};

pub(super) const SERVICES: [&str; 3] = ["api", "db", "web"];
/// The middle of a day.
const START_MS: i64 = 20_000 * 24 * 3_600_000 + 12 * 3_600_000;
const MAX_AGE_MS: i64 = 100 * 24 * 3_600_000;

pub(super) type Outcome<T = ()> = Result<T, TestCaseError>;

pub(super) fn fail<T>(why: impl Into<String>) -> Outcome<T> {
    Err(TestCaseError::fail(why.into()))
}

/// A row, and the generation of the log that it went into. Its value is its own.
#[derive(Clone, Debug)]
struct Stored {
    row: Found,
    batch: u64,
    generation: u64,
}

/// Rows of a segment that may be gone, all or none.
struct Risk {
    segment: String,
    values: BTreeSet<i64>,
    range: TimeRange,
    /// By retention, which need not name them.
    is_retired: bool,
    /// Whether the disk or catalogue has refused something since, so that it is named at the next start at the latest.
    is_in_trouble: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a kind of harm that was done")]
pub(super) struct World {
    _base: tempfile::TempDir,
    layout: Layout,
    pub(super) disk: Disk,
    store: Option<Store>,
    clock: Arc<AtomicI64>,
    dice: Dice,
    /// What was acknowledged and is not lost, by value.
    rows: BTreeMap<i64, Stored>,
    /// Batches that were refused by a disk that may hold them all the same.
    maybe: Vec<Vec<Stored>>,
    /// What retention removed.
    retired: BTreeMap<i64, Stored>,
    batches: u64,
    last_value: i64,
    risks: Vec<Risk>,
    /// Since the last start.
    harmed_logs: BTreeSet<u64>,
    /// The newest of several, removed by hand.
    untold_logs: BTreeSet<u64>,
    logs_harmed: bool,
    /// Whether dictionaries were harmed, so that stacks may have lost their names.
    names_harmed: bool,
    catalogue_harmed: bool,
    format_harmed: bool,
    catalogue_refuses: bool,
    /// What is kept where the disk goes down.
    then: Kept,
    /// Whether the power fails with it; by chance where that is not said.
    power_fails: Option<bool>,
    crashes: usize,
    findings: Vec<Finding>,
}

impl World {
    pub(super) fn new(seed: u64) -> Outcome<Self> {
        let base = memory_dir();
        let layout = Layout::new(base.path().join("data"));
        let disk = Disk::new(base.path(), seed);
        let mut world = Self {
            _base: base,
            layout,
            disk,
            store: None,
            clock: Arc::new(AtomicI64::new(START_MS)),
            dice: Dice(seed),
            rows: BTreeMap::new(),
            maybe: Vec::new(),
            retired: BTreeMap::new(),
            batches: 0,
            last_value: 0,
            risks: Vec::new(),
            harmed_logs: BTreeSet::new(),
            untold_logs: BTreeSet::new(),
            logs_harmed: false,
            names_harmed: false,
            catalogue_harmed: false,
            format_harmed: false,
            catalogue_refuses: false,
            then: Kept::Nothing,
            power_fails: None,
            crashes: 0,
            findings: Vec::new(),
        };
        world.open()?;
        Ok(world)
    }

    /// Has the machine stop after so many operations more, with its power or without; `then` is what is kept.
    pub(super) fn crash_after(&mut self, operations: u64, power_fails: bool, then: Kept) {
        (self.power_fails, self.then) = (Some(power_fails), then);
        self.disk.trouble_after(operations, Trouble::Crash);
    }

    pub(super) fn has_crashed(&self) -> bool {
        self.crashes > 0
    }

    /// On a disk that makes trouble from the first operation on.
    pub(super) fn is_troubled(&self) -> bool {
        self.disk.is_troubled() || self.catalogue_refuses
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open between steps")
    }

    pub(super) fn take(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Append(rows) => self.append(rows)?,
            Step::Flush => {
                let done = self.store().flush();
                if done.is_ok() {
                    self.maybe.clear();
                }
                self.allow(done, "flush")?;
            }
            Step::Merge => self.allow(self.store().maintenance().merge(), "merge")?,
            Step::Retain => self.retain()?,
            Step::Tidy => {
                self.settle()?;
                self.allow(self.store().maintenance().shared().remove_doomed(), "removal")?;
                self.allow(self.store().maintenance().shared().tend_quarantine(), "quarantine")?;
            }
            Step::Clock(by) => {
                self.settle()?;
                self.clock.fetch_add(*by, Ordering::SeqCst);
            }
            Step::Check(seed) => self.check(false, *seed)?,
            Step::Kill => self.kill(None)?,
            Step::PowerFails(kept) => self.kill(Some(*kept))?,
            Step::Close => {
                let closed = self.store().close();
                if closed.is_ok() {
                    self.maybe.clear();
                }
                self.allow(closed, "close")?;
                if !self.disk.is_down() {
                    self.store = None;
                    self.open()?;
                }
            }
            Step::Trouble { after, trouble, then } => {
                self.then = *then;
                self.disk.trouble_after(*after, *trouble);
            }
            Step::CatalogueRefuses => {
                self.store().maintenance().shared().catalogue.refuse_writes(true);
                self.catalogue_refuses = true;
            }
            Step::Heal => self.heal(),
            Step::Flip { place, file, at, closed } => self.harm(*place, *file, Some(*at), *closed)?,
            Step::Delete { place, file, closed } => self.harm(*place, *file, None, *closed)?,
        }
        if self.is_troubled() {
            self.risks.iter_mut().for_each(|risk| risk.is_in_trouble = true);
        }
        if self.disk.is_down() {
            // Now and then only the process had died.
            let by_chance = self.dice.below(3) > 0;
            let kept = self.power_fails.unwrap_or(by_chance).then_some(self.then);
            self.crashes += 1;
            self.kill(kept)?;
        }
        Ok(())
    }

    /// All is well again, and stays so when it is opened anew.
    pub(super) fn end(&mut self) -> Outcome {
        self.heal();
        self.check(false, 1)?;
        self.kill(None)?;
        self.allow(self.store().flush(), "flush")?;
        self.allow(self.store().close(), "close")?;
        self.store = None;
        self.open()?;
        let shared = self.store().maintenance().shared();
        let in_use: BTreeSet<String> = shared.view().segments.iter().map(|s| s.name.clone()).collect();
        let on_disk: BTreeSet<String> = self.disk.list(&self.layout.segments).unwrap().into_iter().collect();
        if in_use != on_disk {
            return fail(format!("{on_disk:?} on the disk, {in_use:?} in use"));
        }
        Ok(())
    }

    fn heal(&mut self) {
        self.disk.heal();
        self.store().maintenance().shared().catalogue.refuse_writes(false);
        self.catalogue_refuses = false;
    }

    /// What fails must have a reason.
    fn allow<E: std::fmt::Display>(&self, done: Result<(), E>, what: &str) -> Outcome {
        match done {
            Err(error) if !self.is_troubled() && !self.disk.is_down() => fail(format!("{what}: {error}")),
            _ => Ok(()),
        }
    }

    fn append(&mut self, rows: &[NewRow]) -> Outcome {
        let generation = self.store().maintenance().shared().view().head.generation();
        self.batches += 1;
        let batch = self.batches;
        let rows: Vec<Stored> = rows
            .iter()
            .map(|row| {
                self.last_value += 1;
                let row = Found {
                    service: SERVICES[row.service].to_owned(),
                    time: START_MS - row.age_ms,
                    path: path_text(row.path),
                    value: self.last_value,
                };
                Stored { row, batch, generation }
            })
            .collect();
        match self.store().append_blocking(batch_of(&rows)) {
            Ok(()) => {
                // The log was put in order first.
                self.maybe.retain(|batch| batch[0].generation != generation);
                // A full dictionary may have ended the generation that was open a moment ago.
                let generation = self.generation_of(self.last_value).unwrap_or(generation);
                self.rows
                    .extend(rows.into_iter().map(|kept| (kept.row.value, Stored { generation, ..kept })));
                Ok(())
            }
            Err(error @ (AppendError::Io { .. } | AppendError::DiskFull { .. })) => {
                self.maybe.push(rows);
                self.allow(Err(error), "append")
            }
            Err(error) => self.allow(Err(error), "append"),
        }
    }

    /// Which head holds a row.
    fn generation_of(&self, value: i64) -> Option<u64> {
        let view = self.store().maintenance().shared().view();
        let holds = |head: &Head| head.read().blocks().iter().any(|b| b.iter().any(|row| row.value == value));
        view.heads().find(|head| holds(head)).map(|head| head.generation())
    }

    fn retain(&mut self) -> Outcome {
        self.settle()?;
        let oldest = self.clock.load(Ordering::SeqCst) - MAX_AGE_MS;
        let segments = self.store().maintenance().shared().view().segments;
        let victims = segments.iter().filter(|segment| segment.range.end.0 < oldest);
        for segment in victims {
            let values = self.values_of(&segment.name);
            let (name, range) = (segment.name.clone(), segment.range);
            let is_in_trouble = false;
            self.risks.push(Risk { segment: name, values, range, is_retired: true, is_in_trouble });
        }
        let done = self.store().maintenance().retain();
        if done.is_ok() {
            for risk in self.risks.extract_if(.., |risk| risk.is_retired) {
                for value in risk.values {
                    self.retired.extend(self.rows.remove(&value).map(|kept| (value, kept)));
                }
            }
        }
        self.allow(done, "retention")
    }

    /// The values of a segment's rows, which nothing has harmed yet.
    fn values_of(&self, name: &str) -> BTreeSet<i64> {
        if let Some(risk) = self.risks.iter().find(|risk| risk.segment == name) {
            return risk.values.clone();
        }
        let mut values = BTreeSet::new();
        let reader = SegmentReader::open(&self.disk, &self.layout.segments.join(name));
        let read = reader.and_then(|reader| {
            reader.scan_all(&self.disk, |row| {
                values.insert(row.value);
                Ok(())
            })
        });
        // Where the disk refuses to read, nothing is known of what may go.
        if read.is_err() { BTreeSet::new() } else { values }
    }

    /// Makes the model know what the store has noticed so far.
    fn settle(&mut self) -> Outcome {
        if self.risks.is_empty() { Ok(()) } else { self.check(false, 0) }
    }

    /// Ends the process, and the machine's power with it, and starts again.
    fn kill(&mut self, power_fails: Option<Kept>) -> Outcome {
        let image = self.catalogue_image();
        // Closing the database would tidy it.
        self.store = None;
        for (path, bytes) in image {
            fs::write(path, bytes).unwrap();
        }
        match power_fails {
            Some(kept) => self.disk.restart_after_power_failure(kept),
            None => self.disk.restart(),
        }
        self.open()
    }

    fn catalogue_image(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = ["sqlite", "sqlite-wal"].map(|extension| self.layout.catalogue.with_extension(extension));
        files.into_iter().filter_map(|path| Some((path.clone(), fs::read(&path).ok()?))).collect()
    }

    fn open(&mut self) -> Outcome {
        self.catalogue_refuses = false;
        for _ in 0..8 {
            let clock = Arc::clone(&self.clock);
            let clock = Arc::new(move || UnixMs(clock.load(Ordering::SeqCst)));
            let files = Arc::new(self.disk.clone());
            let idle: Work = |_, woken| while woken.recv().is_ok() {};
            let opened = Store::open_tended(self.config(), files, clock, [idle; 2]);
            match opened {
                Ok((store, report)) => {
                    self.store = Some(store);
                    if self.disk.is_down() {
                        // It died behind the last thing that opening waits for.
                        self.store = None;
                        self.disk.restart();
                        continue;
                    }
                    self.check_findings(&report.findings)?;
                    self.findings.extend(report.findings);
                    let seed = self.dice.roll();
                    return self.check(true, seed);
                }
                Err(_) if self.disk.is_down() => match self.dice.below(3) {
                    0 => self.disk.restart(),
                    _ => self.disk.restart_after_power_failure(self.then),
                },
                Err(_) if self.disk.is_troubled() => self.disk.heal(),
                Err(error) if self.format_harmed && error.to_string().contains("format") => {
                    self.disk.write_by_hand(&self.layout.format, b"2\n");
                    self.format_harmed = false;
                }
                Err(error) => return fail(format!("cannot be opened: {}", error.in_full())),
            }
        }
        fail("it cannot be opened however often")
    }

    fn config(&self) -> StoreConfig {
        let max_age = Duration::from_millis(MAX_AGE_MS.unsigned_abs());
        let flush = FlushPolicy { max_age: Duration::MAX, ..FlushPolicy::default() };
        let limits =
            Limits { dictionary_stacks: 40, remembered_stacks: 5, sums_from_rows: 4, ..Limits::default() };
        let retention = Retention { max_age, ..Retention::default() };
        StoreConfig { retention, flush, limits, ..StoreConfig::new(&self.layout.root) }
    }

    /// Nothing is named as lost that nobody has harmed.
    fn check_findings(&self, findings: &[Finding]) -> Outcome {
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

    fn harm(&mut self, place: Place, file: usize, at: Option<usize>, closed: bool) -> Outcome {
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

    fn files_of(&self, place: Place) -> Vec<PathBuf> {
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

    /// Holds what is stored to the model. What was harmed may be noticed by the windows alone, which read sums.
    pub(super) fn check(&mut self, is_opened: bool, seed: u64) -> Outcome {
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

fn path_text(path: usize) -> String {
    format!("main;a function in the middle with a long name;{};leaf {path}", ["f", "g", "h"][path % 3])
}

fn batch_of(rows: &[Stored]) -> Batch {
    let mut symbols = SymbolTable::new();
    let series = SERVICES.map(|service| {
        let of_service = rows.iter().filter(|kept| kept.row.service == service);
        let rows = of_service.map(|Stored { row, .. }| {
            let frames = row.path.split(';').rev();
            let frames: Vec<_> = frames.map(|name| symbols.intern_named_location(name)).collect();
            let stack = symbols.intern_stack(&frames).unwrap();
            Row { time: UnixMs(row.time), stack, value: row.value }
        });
        let rows = rows.collect();
        let labels = LabelSet::from_pairs([("service_name", service)]);
        SeriesRows { labels, profile_type: ProfileType::cpu_time(), rows }
    });
    let series = series.into_iter().filter(|series| !series.rows.is_empty()).collect();
    Batch { series, symbols, tenant: pyrite_model::Tenant::default() }
}
