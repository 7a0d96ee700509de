//! A store on its disk, and the model that it is held to.

mod check;
mod harm;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proptest::test_runner::TestCaseError;
use pyrite_model::{Batch, LabelSet, ProfileType, Row, SeriesRows, SymbolTable, TimeRange, UnixMs};

use super::steps::{NewRow, Step};
use crate::files::FileLayer;
use crate::head::Head;
use crate::maintain::Work;
use crate::segment::read::SegmentReader;
use crate::shared::Layout;
use crate::tests::answers::Found;
use crate::tests::disk::{Dice, Disk, Kept, Trouble};
use crate::tests::memory_dir;
use crate::{AppendError, Finding, FlushPolicy, Limits, Retention, Store, StoreConfig};

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
