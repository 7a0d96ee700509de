//! Checking a data directory: everything is read, everything is compared with what says the same elsewhere.
//!
//! Nothing is written and no lock is held. Where a Pyrite works on the directory meanwhile, what it replaces or removes
//! while this reads is left out, and so is the log, whose end moves. What the system does not read is named, and the rest read.

mod catalogue;
mod fingerprint;
pub(super) mod frame;
pub(super) mod samples;
pub(super) mod segment;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::report::{CheckReport, Damage, Remedy, in_words, unreadable};
use super::{Progress, Step, format_of, joined, list};
use crate::catalogue::Catalogue;
use crate::dictionary::{EpochId, EpochLimits, EpochState, Epochs, inspect};
use crate::files::{FileLayer, RealFiles};
use crate::lock::{DirLock, Holder};
use crate::quarantine;
use crate::segment::manifest::Manifest;
use crate::segment::write::is_temporary;
use crate::segment::{generations, stacks_in_use};
use crate::shared::Layout;
use crate::{Limits, StoreError, wal};

use self::catalogue::Compared;
use self::segment::Checked;

/// Reads all of a directory.
///
/// # Errors
/// When it cannot be read, or a newer release wrote it; damage is no error but a finding.
pub fn check(dir: &Path, progress: Progress<'_>) -> Result<CheckReport, StoreError> {
    let running = DirLock::holder(&Layout::new(dir.to_owned()).lock)?;
    run(&(Arc::new(RealFiles) as Arc<dyn FileLayer>), dir, running, progress)
}

/// The same for who holds the lock.
pub(crate) fn check_locked(
    files: &Arc<dyn FileLayer>,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<CheckReport, StoreError> {
    run(files, dir, None, progress)
}

fn run(
    files: &Arc<dyn FileLayer>,
    dir: &Path,
    running: Option<Holder>,
    progress: Progress<'_>,
) -> Result<CheckReport, StoreError> {
    let layout = Layout::new(dir.to_owned());
    let report = CheckReport { running, ..CheckReport::default() };
    let (files, in_use, logged) = (Arc::clone(files), BTreeMap::new(), BTreeSet::new());
    let mut check = Check { files, layout, in_use, logged, report };
    check.run(progress)?;
    let Check { mut report, .. } = check;
    report.findings.sort_by(|a, b| (&b.remedy, &a.file).cmp(&(&a.remedy, &b.file)));
    Ok(report)
}

/// Refuses a directory that holds no data, or data of a newer release; what it does not say for sure is damage.
pub(super) fn ensure_known(files: &dyn FileLayer, layout: &Layout) -> Result<Option<Damage>, StoreError> {
    match format_of(files, layout) {
        Err(error) if error.is_corrupt() || error.is_missing() && files.list(&layout.segments).is_ok() => {
            Ok(Some(Damage::new(&layout.format, in_words(&error), Remedy::StateFormat)))
        }
        format => format.map(|_format| None),
    }
}

struct Check {
    files: Arc<dyn FileLayer>,
    layout: Layout,
    /// How many stacks of each epoch the segments refer to.
    in_use: BTreeMap<EpochId, usize>,
    /// The epochs that rows of the log are of.
    logged: BTreeSet<EpochId>,
    report: CheckReport,
}

/// Up to which generation segments hold the log.
struct Flushed {
    through: u64,
    /// Whether a log file that is not there is known to be lost; else it may be in a segment, for all that is known.
    is_certain: bool,
}

impl Check {
    fn run(&mut self, progress: Progress<'_>) -> Result<(), StoreError> {
        let format = ensure_known(self.files.as_ref(), &self.layout)?;
        self.report.findings.extend(format);
        let mut segments = self.segments(progress)?;
        self.in_use = stacks_in_use(segments.iter().filter_map(|checked| checked.info.as_ref()?.dictionary));
        let flushed = self.catalogue(&mut segments)?;
        self.log(&flushed)?;
        self.dictionaries(&segments)?;
        self.quarantine(&segments);
        for checked in segments {
            self.report.segments += 1;
            self.report.rows += checked.info.as_ref().map_or(0, |info| info.rows);
            self.report.findings.extend(checked.damage);
            self.report.unreadable.extend(checked.unreadable);
            let too_large = |path: PathBuf| format!("sums in {}: their values are too large", path.display());
            self.report.not_covered.extend(checked.uncompared.into_iter().map(too_large));
        }
        Ok(())
    }

    fn find(&mut self, damage: Damage) {
        self.report.findings.push(damage);
    }

    /// Notes what the system does not read.
    fn pass(&mut self, error: StoreError) -> Result<(), StoreError> {
        let what = unreadable(error)?;
        // More than one may need the same file.
        if !self.report.unreadable.contains(&what) {
            self.report.unreadable.push(what);
        }
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.report.running.is_some()
    }

    /// Reads every segment but those that were never finished or are replaced.
    fn segments(&mut self, progress: Progress<'_>) -> Result<Vec<Checked>, StoreError> {
        let dir = self.layout.segments.clone();
        let mut names = list(self.files.as_ref(), &dir)?;
        for unfinished in names.extract_if(.., |name| is_temporary(name)) {
            if !self.is_running() {
                let remedy = Remedy::Start("remove it; its rows are elsewhere");
                self.find(Damage::new(&dir.join(unfinished), "a segment that was never finished", remedy));
            }
        }
        for other in names.extract_if(.., |name| generations(name).is_none()) {
            self.report
                .not_covered
                .push(format!("{}, which is not of this program", dir.join(other).display()));
        }
        let manifests =
            names.iter().filter_map(|name| Manifest::read(self.files.as_ref(), &dir.join(name)).ok());
        let replaced: Vec<String> = manifests.flat_map(|manifest| manifest.replaces).collect();
        for left in names.extract_if(.., |name| replaced.contains(name)) {
            if !self.is_running() {
                let remedy = Remedy::Start("remove it; its rows are elsewhere");
                self.find(Damage::new(&dir.join(left), "a segment that another one replaces", remedy));
            }
        }
        let of = names.len() as u64;
        let mut checked = Vec::new();
        for (done, name) in (0..).zip(names) {
            progress(Step { what: &name, done, of });
            let segment = segment::check(self.files.as_ref(), &dir.join(&name), &name)?;
            checked.push(segment);
        }
        if self.is_running() {
            // Those that were replaced while they were read are not there any more.
            let left = list(self.files.as_ref(), &dir)?;
            checked.retain(|segment: &Checked| left.contains(&segment.name));
        }
        progress(Step { what: "dictionaries and log", done: of, of });
        Ok(checked)
    }

    fn dictionaries(&mut self, segments: &[Checked]) -> Result<(), StoreError> {
        let (files, dir) = (Arc::clone(&self.files), self.layout.dictionaries.clone());
        let mut states = inspect(files.as_ref(), &dir, &self.in_use)?;
        let is_in_doubt = |state: &Result<EpochState, StoreError>| match state {
            Ok(state) => state.lost.is_some(),
            Err(error) => error.is_missing(),
        };
        if self.is_running() && states.values().any(is_in_doubt) {
            // Parts that were written anew as one while they were read.
            states = inspect(files.as_ref(), &dir, &self.in_use)?;
        }
        let newest = states.keys().last().copied();
        for (id, state) in states {
            match state {
                // A start looks after the newest alone.
                Ok(state) => self.dictionary(id, state, newest == Some(id), segments)?,
                Err(error) => self.pass(error)?,
            }
        }
        Ok(())
    }

    fn dictionary(
        &mut self,
        id: EpochId,
        state: EpochState,
        is_newest: bool,
        segments: &[Checked],
    ) -> Result<(), StoreError> {
        self.report.parts += state.parts.len() as u64;
        for (path, index) in &state.files {
            match frame::check(self.files.as_ref(), path, index) {
                Ok(framed) => self.report.findings.extend(framed),
                Err(error) => self.pass(error)?,
            }
        }
        if !self.is_running() && is_newest {
            let remedy = || Remedy::Start("remove it; what it holds is elsewhere");
            let what = "a part that was never finished, or that another one replaces";
            let left = state.leftovers.iter().map(|dir| Damage::new(dir, what, remedy()));
            self.report.findings.extend(left);
        }
        self.lost_part(id, state, segments);
        Ok(())
    }

    fn lost_part(&mut self, id: EpochId, state: EpochState, segments: &[Checked]) {
        // One that nothing uses may have been on its way out.
        let is_used = self.in_use.contains_key(&id) || self.logged.contains(&id);
        let Some(lost) = state.lost.filter(|_| is_used) else { return };
        let using: Vec<_> = segments
            .iter()
            .filter(|checked| checked.epoch() == Some(id))
            .filter_map(|checked| checked.info.as_ref())
            .collect();
        let what = format!("{}; {} stacks have lost their names", lost.why, lost.stacks);
        let rows = Some(using.iter().map(|info| info.rows).sum());
        let range = joined(using.iter().map(|info| info.range));
        let damage = Damage::new(&lost.dir, what, Remedy::RewriteDictionary(id.0));
        self.find(Damage { rows, range, ..damage });
    }

    /// What was set aside and can be put in use again, all of it or a part.
    fn quarantine(&mut self, segments: &[Checked]) {
        if self.is_running() {
            return;
        }
        let manifests = segments.iter().filter_map(|checked| checked.manifest.as_ref());
        let mut taken: BTreeSet<String> = manifests.flat_map(|manifest| manifest.replaces.clone()).collect();
        let in_use: BTreeSet<String> = segments.iter().map(|checked| checked.name.clone()).collect();
        taken.extend(in_use.iter().cloned());
        let is_of_these = |manifest: &Manifest| manifest.replaces.iter().any(|name| in_use.contains(name));
        let files = Arc::clone(&self.files);
        for held in quarantine::survey(files.as_ref(), &self.layout.quarantine) {
            if held.is_copy || taken.contains(&held.segment) {
                continue;
            }
            let dir = self.layout.quarantine.join(&held.name);
            // Of a newer release.
            let Ok(mut checked) = segment::check(files.as_ref(), &dir, &held.segment) else { continue };
            if checked.manifest.as_ref().is_some_and(is_of_these) {
                // Those in use would be taken for what it replaces.
                continue;
            }
            checked.name_series(None);
            let Some((rows, range)) = checked.sound_rows() else { continue };
            taken.insert(held.segment);
            let what = "it was set aside, and has rows that are sound";
            let damage = Damage::new(&dir, what, Remedy::BringBack(held.name));
            self.find(Damage { rows: Some(rows), range: Some(range), ..damage });
        }
    }

    /// Compares the catalogue with the segments.
    fn catalogue(&mut self, segments: &mut Vec<Checked>) -> Result<Flushed, StoreError> {
        let in_segments =
            segments.iter().filter_map(|checked| Some(checked.manifest.as_ref()?.flushed_through));
        let through = in_segments.max().unwrap_or(0);
        let are_told = segments.iter().all(|checked| checked.unreadable.is_empty());
        let path = self.layout.catalogue.clone();
        if self.is_running() {
            return Ok(Flushed { through, is_certain: false });
        }
        let compared = Catalogue::open_read_only(&path);
        let compared = compared.and_then(|catalogue| catalogue::compare(&catalogue, &path, segments));
        match compared {
            Ok(Compared { flushed_through, findings, removed }) => {
                self.report.findings.extend(findings);
                for checked in segments.extract_if(.., |checked| removed.contains(&checked.name)) {
                    let remedy = Remedy::Start("remove it; its rows are elsewhere or not wanted any more");
                    let dir = self.layout.segments.join(checked.name);
                    self.find(Damage::new(&dir, "a segment that was taken out of use", remedy));
                }
                Ok(Flushed { through: flushed_through.max(through), is_certain: true })
            }
            Err(error) if Catalogue::is_broken(&error) || is_absent(&path) => {
                for checked in segments {
                    checked.name_series(None);
                }
                self.find(Damage::new(&path, in_words(&error), Remedy::RebuildCatalogue));
                Ok(Flushed { through, is_certain: are_told })
            }
            Err(error) if Catalogue::needs_writing(&error) => {
                let why = "its log is not in it yet and can be read only where one may write";
                self.report.not_covered.push(format!("the catalogue {}: {why}", path.display()));
                Ok(Flushed { through, is_certain: false })
            }
            Err(error) => {
                self.pass(error)?;
                Ok(Flushed { through, is_certain: false })
            }
        }
    }

    fn log(&mut self, flushed: &Flushed) -> Result<(), StoreError> {
        if self.is_running() {
            let why = "the write-ahead log and the catalogue: a Pyrite writes to them";
            self.report.not_covered.push(why.to_owned());
            return Ok(());
        }
        let names = list(self.files.as_ref(), &self.layout.wal)?;
        let generations = names.iter().filter_map(|name| wal::generation_of(name));
        let generations: Vec<u64> = generations.filter(|it| *it > flushed.through).collect();
        if flushed.is_certain {
            self.missing_logs(flushed.through.saturating_add(1), &generations);
        }
        let epochs = match looked_at(&self.files, &self.layout, &self.in_use) {
            Ok(epochs) => epochs,
            Err(error) => return self.pass(error),
        };
        for generation in generations {
            if let Err(error) = self.log_file(generation, &epochs) {
                // What those behind it build on is not known then.
                return self.pass(error);
            }
        }
        Ok(())
    }

    /// What is missing of the log from one generation on. There is always one: a flush makes the file of the next before
    /// it removes its own.
    fn missing_logs(&mut self, first: u64, generations: &[u64]) {
        let none = [first.saturating_add(1)];
        let generations = if generations.is_empty() { &none[..] } else { generations };
        let mut next = first;
        for &there in generations {
            if next < there {
                let files = there - next;
                let what = format!(
                    "it is gone, {files} log files in all: what no segment holds of their rows is lost"
                );
                let remedy = Remedy::Start("go on behind it");
                self.find(Damage::new(&wal::path(&self.layout.wal, next), what, remedy));
            }
            next = there.saturating_add(1);
        }
    }

    fn log_file(&mut self, generation: u64, epochs: &Epochs) -> Result<(), StoreError> {
        let path = wal::path(&self.layout.wal, generation);
        let replayed = wal::replay(&self.files, &path, generation, epochs)?;
        let (rows, range) = (replayed.head.rows() as u64, replayed.head.range());
        self.report.rows += rows;
        self.logged.extend((rows > 0).then(|| replayed.head.epoch.id()));
        if let Some(cut) = &replayed.cut {
            let (why, at, bytes) = (cut.why, replayed.len, cut.bytes.len());
            let sound = match range {
                Some(range) => format!("the {rows} rows before it, up to {}, are sound", range.end),
                None => "no rows come before it".to_owned(),
            };
            let what = format!("{why}, at byte {at}: the {bytes} bytes from there on are of no use; {sound}");
            let remedy = Remedy::Start("cut it there and keep what follows in a file beside it");
            self.find(Damage::new(&path, what, remedy));
        }
        if replayed.nameless > 0 {
            let what = format!("{} stacks build on entries of a dictionary that are lost", replayed.nameless);
            let remedy = Remedy::Start("keep its rows, and call those stacks lost");
            self.find(Damage { rows: Some(rows), range, ..Damage::new(&path, what, remedy) });
        }
        Ok(())
    }
}

/// The dictionaries that a log builds on, looked at and left as they are.
pub(super) fn looked_at(
    files: &Arc<dyn FileLayer>,
    layout: &Layout,
    in_use: &BTreeMap<EpochId, usize>,
) -> Result<Epochs, StoreError> {
    let limits = EpochLimits::from(&Limits::default());
    Ok(Epochs::look(files, &layout.dictionaries, limits, in_use)?.0)
}

fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}
