//! One epoch: a dictionary in memory, and the parts of it that are on the disk.
//!
//! What it has got since the last flush becomes a new part on the disk before any segment refers to it; until then the log
//! has it. Parts of similar size are written anew as one, so that there are few of them; ids never change.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyrite_model::{Function, Line, Location, StackNode, SymbolTable};
use serde::{Deserialize, Serialize};

use super::part::{self, Lens};
use super::{Additions, Dictionary};
use crate::StoreError;
use crate::files::FileLayer;
use crate::sync::lock;

/// A part is written anew together with the next one where it is at most so many times as large.
const MERGE_FACTOR: usize = 4;
pub(super) const TEMPORARY: &str = "tmp-";
/// More stacks than an epoch can have. What a file says of more is not true, and not a reason to make them up.
pub(crate) const MAX_STACKS: usize = 1 << 23;
/// What a stack is called whose entry is damaged.
const LOST: &str = "[lost: damaged dictionary]";

/// Number of an epoch; they count up from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct EpochId(pub(crate) u32);

/// A part of an epoch that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostPart {
    pub(crate) dir: PathBuf,
    /// How many stacks have no name for it.
    pub(crate) stacks: usize,
    pub(crate) why: String,
}

/// A dictionary that heads and segments share.
#[derive(Debug)]
pub(crate) struct Epoch {
    id: EpochId,
    dictionary: Arc<Dictionary>,
    /// On the disk, in order.
    parts: Mutex<Vec<Part>>,
    /// Some entries are lost: others would no longer get the ids that rows know them by, so none are added.
    damaged: AtomicBool,
    /// When a query last needed it.
    asked: Mutex<Option<Instant>>,
}

#[derive(Clone, Debug)]
struct Part {
    name: String,
    first: Lens,
    end: Lens,
}

impl Part {
    fn stacks(&self) -> usize {
        self.end.stacks - self.first.stacks
    }
}

impl Epoch {
    /// One that nothing is known of yet.
    pub(crate) fn new(id: EpochId) -> Self {
        Self::of(id, Dictionary::default(), Vec::new(), false)
    }

    fn of(id: EpochId, dictionary: Dictionary, parts: Vec<Part>, is_damaged: bool) -> Self {
        Self {
            id,
            dictionary: Arc::new(dictionary),
            parts: Mutex::new(parts),
            damaged: AtomicBool::new(is_damaged),
            asked: Mutex::default(),
        }
    }

    /// Reads an epoch, of which at least `needed` stacks are to be there. From a damaged part on its stacks have no names.
    pub(super) fn load(
        files: &dyn FileLayer,
        dir: &Path,
        id: EpochId,
        needed: usize,
    ) -> Result<(Self, Option<LostPart>), StoreError> {
        let dir = epoch_dir(dir, id);
        let names = match files.list(&dir) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(StoreError::Io { action: "list", path: dir, source }),
        };
        let ends = names.iter().filter_map(|name| stacks_of(name)).map(|(_, end)| end);
        let end = ends.max().unwrap_or(0).max(needed);
        let (mut symbols, mut parts, mut damage) = (SymbolTable::new(), Vec::new(), None);
        while damage.is_none()
            && let Some(read) = read_part(files, &dir, &names, &mut symbols)?
        {
            match read {
                Ok(part) => parts.push(part),
                Err(lost) => {
                    if Lens::of(&symbols) == Lens::default() {
                        // It was taken in by half, and with it what those before it had brought.
                        parts.retain(|part: &Part| {
                            part::read(files, &dir.join(&part.name), &mut symbols).is_ok()
                        });
                    }
                    damage = Some(lost);
                }
            }
        }
        if damage.is_none() && symbols.stack_nodes().len() < end {
            damage = Some((dir, "segments refer to stacks that it does not have".to_owned()));
        }
        let lost = damage.map(|(dir, why)| LostPart { dir, stacks: pad(&mut symbols, end), why });
        Ok((Self::of(id, Dictionary::new(symbols), parts, lost.is_some()), lost))
    }

    /// Makes durable what was read, and removes what others hold as well or what was not finished.
    pub(super) fn tidy(&self, files: &dyn FileLayer, root: &Path) -> Result<(), StoreError> {
        let dir = epoch_dir(root, self.id);
        // One of which nothing is stored yet has no directory.
        let Ok(names) = files.list(&dir) else { return Ok(()) };
        // The process that wrote the last part may have died before its name was durable.
        for synced in [dir.as_path(), root] {
            files.sync_dir(synced).map_err(StoreError::io("sync", synced))?;
        }
        let parts = lock(&self.parts);
        let is_ours = |name: &str| name.starts_with(TEMPORARY) || stacks_of(name).is_some();
        let is_part = |name: &str| parts.iter().any(|part| part.name == name);
        for name in names.iter().filter(|name| is_ours(name) && !is_part(name)) {
            let leftover = dir.join(name);
            files.remove_dir(&leftover).map_err(StoreError::io("remove", &leftover))?;
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> EpochId {
        self.id
    }

    /// The directories of its parts, in order.
    pub(super) fn part_names(&self) -> Vec<String> {
        lock(&self.parts).iter().map(|part| part.name.clone()).collect()
    }

    pub(crate) fn dictionary(&self) -> &Arc<Dictionary> {
        &self.dictionary
    }

    /// How many stacks it has.
    pub(crate) fn stack_count(&self) -> usize {
        self.dictionary.read().stack_nodes().len()
    }

    /// A query needs it now.
    pub(super) fn note_asked(&self) {
        *lock(&self.asked) = Some(Instant::now());
    }

    pub(super) fn was_asked_within(&self, time: Duration) -> bool {
        lock(&self.asked).is_some_and(|at| at.elapsed() < time)
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Takes what a log says was added, as far as it is not here yet. Returns how many stacks have no name because other
    /// entries than those that it builds on are here.
    pub(crate) fn add(&self, additions: &Additions<'_>) -> usize {
        let mut symbols = self.dictionary.write();
        if !self.is_damaged() && additions.add_to(&mut symbols) {
            return 0;
        }
        self.damaged.store(true, Ordering::Relaxed);
        pad(&mut symbols, additions.end().stacks)
    }

    /// Returns when all that it has is on the disk. One that is damaged stays as it is there: its last stacks have no names
    /// that could be kept.
    pub(super) fn persist(&self, files: &dyn FileLayer, root: &Path) -> Result<(), StoreError> {
        if self.is_damaged() {
            return Ok(());
        }
        let mut parts = lock(&self.parts);
        let end = Lens::of(&self.dictionary.read());
        let stored = parts.last().map_or(Lens::default(), |part| part.end);
        if end.stacks == stored.stacks {
            return Ok(());
        }
        let mut first = stored;
        let mut kept = parts.len();
        while let Some(last) = parts[..kept].last()
            && last.stacks() <= MERGE_FACTOR * (end.stacks - first.stacks)
        {
            first = last.first;
            kept -= 1;
        }
        let name = part_name(first, end);
        let parent = epoch_dir(root, self.id);
        write_part(files, root, &parent.join(&name), &|dir| {
            part::write(files, dir, &self.dictionary, first..end)
        })?;
        for part in parts.drain(kept..) {
            let dir = parent.join(&part.name);
            if let Err(error) = files.remove_dir(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "cannot remove a replaced part; the next start does");
            }
        }
        parts.push(Part { name, first, end });
        Ok(())
    }
}

/// Gives the stacks from the end of the table up to `end` a name that says that their own is lost. Returns how many those
/// are.
fn pad(symbols: &mut SymbolTable, end: usize) -> usize {
    let known = symbols.stack_nodes().len();
    let name = symbols.intern_str(LOST);
    let function = symbols.intern_function(Function { name, ..Function::default() });
    for id in known..end {
        // Told apart by their line alone, so that each has its own id.
        let lines = Line { function, line: id as u32 }.into();
        let location = symbols.intern_location(Location { lines, ..Location::default() });
        symbols.intern_stack_node(StackNode { parent: None, location });
    }
    end.saturating_sub(known)
}

fn write_part(
    files: &dyn FileLayer,
    root: &Path,
    dir: &Path,
    write: &dyn Fn(&Path) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (parent, name) = (dir.parent().unwrap_or(root), dir.file_name().unwrap_or_default());
    let temporary = parent.join(format!("{TEMPORARY}{}", name.to_string_lossy()));
    files.create_dir(&temporary).map_err(StoreError::io("create", &temporary))?;
    if let Err(error) = write(&temporary) {
        // So that a full disk has that room again; the next try writes under another name.
        if let Err(error) = files.remove_dir(&temporary) {
            tracing::warn!(dir = %temporary.display(), %error, "cannot remove an unfinished part; the next start does");
        }
        return Err(error);
    }
    // One of an earlier try, which failed behind the renaming. To remove it would be to have half of it where the process
    // dies; the next start removes it.
    if files.list(dir).is_ok() {
        let aside = parent.join(format!("{TEMPORARY}aside-{}", name.to_string_lossy()));
        if files.list(&aside).is_ok() {
            files.remove_dir(&aside).map_err(StoreError::io("remove", &aside))?;
        }
        files.rename(dir, &aside).map_err(StoreError::io("rename", dir))?;
    }
    files.rename(&temporary, dir).map_err(StoreError::io("rename", &temporary))?;
    for synced in [parent, root] {
        files.sync_dir(synced).map_err(StoreError::io("sync", synced))?;
    }
    Ok(())
}

pub(super) fn epoch_dir(root: &Path, EpochId(id): EpochId) -> PathBuf {
    root.join(format!("{id:08}"))
}

pub(super) fn part_name(first: Lens, end: Lens) -> String {
    format!("{:010}-{:010}", first.stacks, end.stacks)
}

/// The first stack of a part and the one behind its last.
pub(super) fn stacks_of(name: &str) -> Option<(usize, usize)> {
    let (first, end) = name.split_once('-')?;
    let (first, end): (usize, usize) = (first.parse().ok()?, end.parse().ok()?);
    (end <= MAX_STACKS).then_some((first, end))
}

/// A part, or which one is damaged and how.
type ReadPart = Result<Part, (PathBuf, String)>;

/// Reads the part that goes on where the table ends; `None` where there is none. Those that a larger one was made of may be
/// there still, should that be damaged.
fn read_part(
    files: &dyn FileLayer,
    dir: &Path,
    names: &[String],
    symbols: &mut SymbolTable,
) -> Result<Option<ReadPart>, StoreError> {
    let first = Lens::of(symbols);
    let known = names.iter().filter_map(|name| Some((stacks_of(name)?, name)));
    let mut known: Vec<_> = known.filter(|((from, end), _)| *from == first.stacks && end > from).collect();
    known.sort_by_key(|((_, end), _)| std::cmp::Reverse(*end));
    let mut damage = None;
    for (_, name) in known {
        let part = dir.join(name);
        match part::read(files, &part, symbols) {
            Ok(()) => return Ok(Some(Ok(Part { name: name.clone(), first, end: Lens::of(symbols) }))),
            Err(error) if error.is_corrupt() || error.is_missing() => {
                damage.get_or_insert((part, error.to_string()));
            }
            Err(error) => return Err(error),
        }
        if Lens::of(symbols) != first {
            // It was taken in by half: nothing can be told from the table any more.
            *symbols = SymbolTable::new();
            break;
        }
    }
    Ok(damage.map(Err))
}
