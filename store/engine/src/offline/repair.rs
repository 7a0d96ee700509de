//! Mending a data directory: the files first, one finding after the other, and then all that a start does.
//!
//! Every step leaves a directory that a start understands, so that repair may be interrupted and run again. Rows are
//! removed by none of them: what cannot be mended goes to quarantine as it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::{self, frame};
use super::report::{CheckReport, Damage, Remedy};
use super::rewrite::{Keep, Rewritten, rewrite};
use super::{Progress, joined, keeping_all};
use crate::assemble::{Assembled, assemble_locked};
use crate::catalogue::{Catalogue, Retired};
use crate::dictionary;
use crate::files::{FileLayer, RealFiles, read_all};
use crate::lock::DirLock;
use crate::maintain::Maintenance;
use crate::open::write_format;
use crate::quarantine::Quarantine;
use crate::segment::manifest::Manifest;
use crate::segment::{SegmentInfo, stacks_in_use};
use crate::shared::{Clock, Layout};
use crate::store::now;
use crate::{OpenReport, StoreError};

/// What repair did.
#[derive(Clone, Debug)]
pub struct Repaired {
    /// What was wrong.
    pub before: CheckReport,
    /// What was done about it, in this order.
    pub done: Vec<String>,
    /// What the start that followed found and did.
    pub start: OpenReport,
    /// What is wrong still.
    pub after: CheckReport,
}

/// What repair would do. Changes nothing.
///
/// # Errors
/// As [`repair`].
pub fn plan(dir: &Path, progress: Progress<'_>) -> Result<CheckReport, StoreError> {
    let layout = Layout::new(dir.to_owned());
    if let Some(holder) = DirLock::holder(&layout.lock)? {
        return Err(StoreError::Locked { dir: layout.root, pid: holder.pid });
    }
    check::check(dir, progress)
}

/// Mends what can be mended and sets aside what cannot.
///
/// # Errors
/// When the directory cannot be read or written, a process works on it, or a newer release wrote it.
pub fn repair(dir: &Path, progress: Progress<'_>) -> Result<Repaired, StoreError> {
    let files: Arc<dyn FileLayer> = Arc::new(RealFiles);
    repair_on(&files, dir, progress)
}

pub(crate) fn repair_on(
    files: &Arc<dyn FileLayer>,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<Repaired, StoreError> {
    let layout = Layout::new(dir.to_owned());
    // Before the lock is taken, which makes a file: it may be no data directory, or one of a newer release.
    check::ensure_known(files.as_ref(), &layout)?;
    let lock = DirLock::take(&layout.root, &layout.lock)?;
    let mut done = Vec::new();
    let mended = mend(files, &layout, lock, &mut done, progress);
    if mended.is_err() {
        // Whoever asked hears of the error alone.
        for what in &done {
            tracing::warn!("done before repair failed: {what}");
        }
    }
    let (before, start, after) = mended?;
    Ok(Repaired { before, done, start, after })
}

/// What was wrong, what the start said, and what is wrong still. What was done is noted as it is.
fn mend(
    files: &Arc<dyn FileLayer>,
    layout: &Layout,
    lock: DirLock,
    done: &mut Vec<String>,
    progress: Progress<'_>,
) -> Result<(CheckReport, OpenReport, CheckReport), StoreError> {
    let dir = &*layout.root;
    let before = check::check_locked(files, dir, progress)?;
    let mut held = before.remedies();
    held.retain(|(_, remedy)| matches!(remedy, Remedy::BringBack(_)));
    Repair::new(files, layout, done)?.run(held, &before)?;
    // What is back may be damaged as others are.
    let found = if done.is_empty() { before.clone() } else { check::check_locked(files, dir, progress)? };
    let of_files = found.remedies().into_iter().filter(|(_, remedy)| remedy.epoch().is_none());
    Repair::new(files, layout, done)?.run(of_files, &found)?;
    let Assembled { shared, report: start, lock, generation } =
        assemble_locked(keeping_all(dir), Arc::clone(files), Arc::new(now), lock)?;
    // What a log builds on lost entries becomes a segment now: the entries that take their place have other ids.
    Maintenance::new(Arc::clone(&shared)).flush_frozen()?;
    // What comes before the open log is in segments then, or it is lost and was said to be.
    shared.catalogue.flush_through(shared.view().head.generation().saturating_sub(1))?;
    drop((shared, generation));
    let mut after = check::check_locked(files, dir, progress)?;
    let mut of_dictionaries = after.remedies();
    of_dictionaries.retain(|(_, remedy)| remedy.epoch().is_some());
    if !of_dictionaries.is_empty() {
        Repair::new(files, layout, done)?.run(of_dictionaries, &after)?;
        after = check::check_locked(files, dir, progress)?;
    }
    drop(lock);
    Ok((before, start, after))
}

struct Repair<'a> {
    files: &'a Arc<dyn FileLayer>,
    layout: &'a Layout,
    quarantine: Quarantine,
    /// `None` where there is none, or none that can be read: the start makes it anew.
    catalogue: Option<Catalogue>,
    /// Whether that is to be made anew all the same.
    rebuild: bool,
    done: &'a mut Vec<String>,
}

impl<'a> Repair<'a> {
    fn new(
        files: &'a Arc<dyn FileLayer>,
        layout: &'a Layout,
        done: &'a mut Vec<String>,
    ) -> Result<Self, StoreError> {
        let clock: Clock = Arc::new(now);
        let limits = keeping_all(&layout.root).quarantine;
        let quarantine = Quarantine::open(files, layout, &clock, limits)?;
        // Opening it would make one.
        let there = files.open_read(&layout.catalogue).map_err(StoreError::io("open", &layout.catalogue));
        let catalogue = match there.and_then(|_file| Catalogue::open(&layout.catalogue)) {
            Err(error) if error.is_missing() || Catalogue::is_broken(&error) => None,
            opened => Some(opened?),
        };
        Ok(Self { files, layout, quarantine, catalogue, rebuild: false, done })
    }

    /// Applies remedies, which are for what the report has found.
    fn run(
        mut self,
        remedies: impl IntoIterator<Item = (PathBuf, Remedy)>,
        report: &CheckReport,
    ) -> Result<(), StoreError> {
        for (file, remedy) in remedies {
            let of_it =
                report.findings.iter().filter(|damage| damage.file == file && damage.remedy == remedy);
            let of_it: Vec<&Damage> = of_it.collect();
            if self.apply(&file, &remedy, &of_it)? {
                self.done.push(format!("{}: {remedy}", file.display()));
            }
        }
        self.finish()
    }

    /// Whether there was something to do now.
    fn apply(&mut self, file: &Path, remedy: &Remedy, damage: &[&Damage]) -> Result<bool, StoreError> {
        let why = damage.first().map(|damage| damage.what.as_str()).unwrap_or_default();
        match remedy {
            Remedy::Leave | Remedy::Start(_) => return Ok(false),
            // Last, when nothing needs to be known from the old one any more.
            Remedy::RebuildCatalogue => {
                self.rebuild = true;
                return Ok(false);
            }
            Remedy::Reframe { bytes } => self.reframe(file, *bytes)?,
            Remedy::BringBack(name) => {
                let back = self.quarantine.give_back(name)?;
                // It may still know it as one to be set aside.
                self.forget(back.as_slice())?;
            }
            Remedy::StateFormat => write_format(self.files.as_ref(), self.layout)?,
            Remedy::RewriteSegment(name) => self.rewrite(name, Keep::All)?,
            Remedy::SaveRows(name) => self.save_rows(name, why, damage)?,
            Remedy::RewriteDictionary(_) => self.rewrite_dictionary(remedy)?,
            Remedy::ForgetSegment(name) => self.forget(std::slice::from_ref(name))?,
            Remedy::QuarantineSegment(name) => self.set_aside(name, why)?,
        }
        Ok(true)
    }

    /// Puts back the bytes of a file that never differ, beside it first.
    fn reframe(&self, path: &Path, bytes: u64) -> Result<(), StoreError> {
        let mut content = read_all(self.files.as_ref(), path).map_err(StoreError::io("read", path))?;
        content.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        if let Some(begin) = content.get_mut(..frame::MAGIC.len()) {
            begin.copy_from_slice(frame::MAGIC);
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".mended");
        let beside = PathBuf::from(beside);
        let written = self.files.create(&beside).and_then(|mut file| {
            file.append(&content)?;
            file.sync()
        });
        written.map_err(StoreError::io("write", &beside))?;
        self.files.rename(&beside, path).map_err(StoreError::io("rename", &beside))?;
        let dir = path.parent().unwrap_or(path);
        self.files.sync_dir(dir).map_err(StoreError::io("sync", dir))
    }

    fn rewrite(&mut self, name: &str, keep: Keep) -> Result<(), StoreError> {
        let Rewritten { info, series, replaces, flushed_through } =
            rewrite(self.files.as_ref(), &self.layout.segments, name, self.catalogue.as_ref(), keep)?;
        self.tell(|catalogue| catalogue.add(&info, &series, &replaces, flushed_through))?;
        for old in &replaces {
            self.remove_segment(old)?;
        }
        self.forget_removed(&replaces)
    }

    /// Puts a copy of a segment of which some rows are damaged into quarantine, and one of the others in its place.
    fn save_rows(&mut self, name: &str, why: &str, damage: &[&Damage]) -> Result<(), StoreError> {
        let manifest = Manifest::read(self.files.as_ref(), &self.layout.segments.join(name))?;
        let rows = damage.iter().filter_map(|damage| damage.rows).sum();
        let range = joined(damage.iter().filter_map(|damage| damage.range)).unwrap_or(manifest.range());
        self.quarantine.copy(why, &SegmentInfo { range, rows, ..manifest.info(name) })?;
        let Layout { segments, .. } = self.layout;
        let is_there = |name: &String| self.files.list(&segments.join(name)).is_ok();
        if manifest.replaces.is_empty() || !manifest.replaces.iter().all(is_there) {
            return self.rewrite(name, Keep::Sound);
        }
        // All that it was merged from is there still, and takes its place again when a start finds it.
        let mut unknown = manifest.replaces;
        unknown.push(name.to_owned());
        self.forget(&unknown)?;
        self.remove_segment(name)?;
        self.files.sync_dir(segments).map_err(StoreError::io("sync", segments))
    }

    fn rewrite_dictionary(&self, remedy: &Remedy) -> Result<(), StoreError> {
        let Some(id) = remedy.epoch() else { return Ok(()) };
        let Layout { root, segments, dictionaries, quarantine, .. } = self.layout;
        let names = self.files.list(segments).map_err(StoreError::io("list", segments))?;
        let used = names
            .iter()
            .filter_map(|name| Manifest::read(self.files.as_ref(), &segments.join(name)).ok()?.dictionary);
        let needed = stacks_in_use(used).get(&id).copied().unwrap_or(0);
        self.files.create_dir(quarantine).map_err(StoreError::io("create", quarantine))?;
        self.files.sync_dir(root).map_err(StoreError::io("sync", root))?;
        let set_aside = |part: &str| {
            let taken = self.files.list(quarantine).map_err(StoreError::io("list", quarantine))?;
            let mut names = (0..).map(|n: u32| format!("dictionary-{:08}-{part}-{n}", id.0));
            let free = names.find(|name| !taken.contains(name));
            Ok(quarantine.join(free.expect("there are more numbers than directories")))
        };
        dictionary::rewrite(self.files.as_ref(), dictionaries, (id, needed), &set_aside)?;
        self.files.sync_dir(quarantine).map_err(StoreError::io("sync", quarantine))
    }

    fn set_aside(&mut self, name: &str, why: &str) -> Result<(), StoreError> {
        let dir = self.layout.segments.join(name);
        let manifest = Manifest::read(self.files.as_ref(), &dir).ok().map(|manifest| manifest.info(name));
        let listed = || self.catalogue.as_ref()?.segments().ok()?.into_iter().find(|info| info.name == name);
        let known = manifest.or_else(listed);
        self.quarantine.take(name, why, known.as_ref())?;
        self.forget(&[name.to_owned()])
    }

    /// Has the catalogue forget segments whose directories were removed, once that is durable.
    fn forget_removed(&mut self, names: &[String]) -> Result<(), StoreError> {
        let dir = &self.layout.segments;
        self.files.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
        self.forget(names)
    }

    fn forget(&mut self, names: &[String]) -> Result<(), StoreError> {
        self.tell(|catalogue| catalogue.forget(names))
    }

    /// Changes the catalogue; one that cannot be changed for damage is made anew from the segments.
    fn tell(&mut self, change: impl FnOnce(&Catalogue) -> Result<(), StoreError>) -> Result<(), StoreError> {
        match self.catalogue.as_ref().map_or(Ok(()), change) {
            Err(error) if Catalogue::is_broken(&error) => {
                self.rebuild = true;
                Ok(())
            }
            told => told,
        }
    }

    fn remove_segment(&self, name: &str) -> Result<(), StoreError> {
        let dir = self.layout.segments.join(name);
        match self.files.remove_dir(&dir).map_err(StoreError::io("remove", &dir)) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Has the catalogue made anew where it does not say what the segments say.
    fn finish(mut self) -> Result<(), StoreError> {
        let Some(catalogue) = self.catalogue.take().filter(|_| self.rebuild) else { return Ok(()) };
        let path = &self.layout.catalogue;
        // Their rows are elsewhere, which without the catalogue nobody would know. Where it may be wrong of this, too, they
        // come back: rather that than remove what is in use.
        if catalogue.check().is_ok() {
            for segment in catalogue.retired(Retired::Removed)? {
                self.remove_segment(&segment.name)?;
            }
        }
        if let Err(error) = catalogue.checkpoint() {
            tracing::warn!(%error, "what the old catalogue had in its log is not kept with it");
        }
        drop(catalogue);
        let mut kept = path.as_os_str().to_owned();
        kept.push(format!(".wrong-{}", now().0));
        let kept = PathBuf::from(kept);
        self.files.rename(path, &kept).map_err(StoreError::io("rename", path))?;
        for extension in ["sqlite-wal", "sqlite-shm"] {
            // They belong to the database that was renamed; mostly they are not there.
            let _ = self.files.remove_file(&path.with_extension(extension));
        }
        let (path, kept) = (path.display(), kept.display());
        self.done.push(format!("{path}: {}; the old one is {kept}", Remedy::RebuildCatalogue));
        Ok(())
    }
}
