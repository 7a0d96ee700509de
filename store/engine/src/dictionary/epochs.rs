//! The epochs of a store: the current one, which grows with every flush, and older ones, read when a query needs them.
//!
//! What the current one has got since the last flush becomes a new part on the disk before any segment refers to it. Parts
//! of similar size are written anew as one, so that there are few of them; ids never change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use pyrite_model::{Function, Line, Location, StackNode, SymbolTable};
use serde::{Deserialize, Serialize};

use super::Dictionary;
use super::part::{self, Lens};
use crate::StoreError;
use crate::files::FileLayer;
use crate::sync::{lock, read, write};

/// A part is written anew together with the next one where it is at most so many times as large.
const MERGE_FACTOR: usize = 4;
/// Older epochs that are kept in memory.
const KEPT_EPOCHS: usize = 2;
const TEMPORARY: &str = "tmp-";
/// What a stack is called whose entry is damaged.
const LOST: &str = "[lost: damaged dictionary]";

/// Number of an epoch; they count up from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct EpochId(pub(crate) u32);

/// The epoch that grows.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) id: EpochId,
    pub(crate) dictionary: Arc<Dictionary>,
}

/// A part of an epoch that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LostPart {
    pub(crate) dir: PathBuf,
    /// How many stacks have no name for it.
    pub(crate) stacks: usize,
    pub(crate) why: String,
}

/// All dictionaries that segments share.
pub(crate) struct Epochs {
    files: Arc<dyn FileLayer>,
    dir: PathBuf,
    /// With so many stack nodes an epoch is full.
    max_stacks: usize,
    current: RwLock<Current>,
    /// The parts of the current epoch, in order.
    parts: Mutex<Vec<Part>>,
    /// Last used last.
    old: Mutex<Vec<Current>>,
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

/// An epoch as it is on the disk.
struct Stored {
    symbols: SymbolTable,
    parts: Vec<Part>,
    lost: Option<LostPart>,
}

impl Epochs {
    /// Reads the newest epoch. `needed` says how many stacks of an epoch some segment refers to.
    pub(crate) fn open(
        files: &Arc<dyn FileLayer>,
        dir: &Path,
        max_stacks: usize,
        needed: impl Fn(EpochId) -> usize,
    ) -> Result<(Self, Option<LostPart>), StoreError> {
        let newest = epoch_ids(files.as_ref(), dir)?.into_iter().max().unwrap_or(EpochId(1));
        remove_leftovers(files.as_ref(), &epoch_dir(dir, newest))?;
        let Stored { symbols, parts, lost } = load(files.as_ref(), dir, newest, needed(newest))?;
        let current = Current { id: newest, dictionary: Arc::new(Dictionary::new(symbols)) };
        let epochs = Self {
            files: Arc::clone(files),
            dir: dir.to_owned(),
            max_stacks,
            current: RwLock::new(current),
            parts: Mutex::new(parts),
            old: Mutex::default(),
        };
        if lost.is_some() {
            epochs.turn();
        }
        Ok((epochs, lost))
    }

    /// The epoch that grows.
    pub(crate) fn current(&self) -> Current {
        read(&self.current).clone()
    }

    /// The epoch for the rows of a flush: the current one, or a new one where that is full.
    pub(crate) fn for_flush(&self) -> Current {
        if self.current().dictionary.read().stack_nodes().len() >= self.max_stacks {
            self.turn();
        }
        self.current()
    }

    /// An epoch of which a segment needs so many stacks.
    pub(crate) fn get(&self, id: EpochId, stacks: usize) -> Result<Arc<Dictionary>, StoreError> {
        let current = self.current();
        if current.id == id {
            return Ok(current.dictionary);
        }
        let mut old = lock(&self.old);
        if let Some(at) = old.iter().position(|epoch| epoch.id == id) {
            let epoch = old.remove(at);
            old.push(epoch.clone());
            return Ok(epoch.dictionary);
        }
        let Stored { symbols, lost, .. } = load(self.files.as_ref(), &self.dir, id, stacks)?;
        if let Some(LostPart { dir, stacks, why }) = lost {
            tracing::error!(dir = %dir.display(), stacks, why, "a part of a dictionary is damaged; its stacks have no names");
        }
        let dictionary = Arc::new(Dictionary::new(symbols));
        old.push(Current { id, dictionary: Arc::clone(&dictionary) });
        if old.len() > KEPT_EPOCHS {
            old.remove(0);
        }
        Ok(dictionary)
    }

    /// Returns when all that the current epoch has is on the disk.
    pub(crate) fn persist(&self) -> Result<(), StoreError> {
        let mut parts = lock(&self.parts);
        let Current { id, dictionary } = self.current();
        let symbols = dictionary.read();
        let end = Lens::of(&symbols);
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
        self.write_part(id, &name, &|dir| part::write(self.files.as_ref(), dir, &symbols, first, end))?;
        for part in parts.drain(kept..) {
            let dir = epoch_dir(&self.dir, id).join(&part.name);
            if let Err(error) = self.files.remove_dir(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "cannot remove a replaced part; the next start does");
            }
        }
        parts.push(Part { name, first, end });
        Ok(())
    }

    /// Removes epochs that no segment uses and that do not grow any more.
    pub(crate) fn retain(&self, used: &BTreeSet<EpochId>) -> Result<(), StoreError> {
        let current = self.current().id;
        for id in epoch_ids(self.files.as_ref(), &self.dir)? {
            if id < current && !used.contains(&id) {
                lock(&self.old).retain(|epoch| epoch.id != id);
                let dir = epoch_dir(&self.dir, id);
                self.files.remove_dir(&dir).map_err(StoreError::io("remove", &dir))?;
            }
        }
        Ok(())
    }

    /// What all epochs take on the disk.
    pub(crate) fn disk_bytes(&self) -> Result<u64, StoreError> {
        let files = self.files.as_ref();
        let list = |dir: &Path| files.list(dir).map_err(StoreError::io("list", dir));
        let mut bytes = 0;
        for id in epoch_ids(files, &self.dir)? {
            let epoch = epoch_dir(&self.dir, id);
            for part in list(&epoch)?.into_iter().map(|name| epoch.join(name)) {
                for file in list(&part)?.into_iter().map(|name| part.join(name)) {
                    bytes += files
                        .open_read(&file)
                        .and_then(|file| file.len())
                        .map_err(StoreError::io("read", &file))?;
                }
            }
        }
        Ok(bytes)
    }

    /// Estimated memory.
    pub(crate) fn bytes(&self) -> usize {
        let old: usize = lock(&self.old).iter().map(|epoch| epoch.dictionary.bytes()).sum();
        self.current().dictionary.bytes() + old
    }

    fn turn(&self) {
        let mut current = write(&self.current);
        let next = Current { id: EpochId(current.id.0 + 1), dictionary: Arc::default() };
        let full = std::mem::replace(&mut *current, next);
        drop(current);
        lock(&self.parts).clear();
        lock(&self.old).push(full);
    }

    fn write_part(
        &self,
        id: EpochId,
        name: &str,
        write: &dyn Fn(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let parent = epoch_dir(&self.dir, id);
        let (temporary, dir) = (parent.join(format!("{TEMPORARY}{name}")), parent.join(name));
        let files = self.files.as_ref();
        files.create_dir(&temporary).map_err(StoreError::io("create", &temporary))?;
        write(&temporary)?;
        if files.list(&dir).is_ok() {
            // Of an earlier try, which failed behind the renaming: it holds the same.
            files.remove_dir(&dir).map_err(StoreError::io("remove", &dir))?;
        }
        files.rename(&temporary, &dir).map_err(StoreError::io("rename", &temporary))?;
        for synced in [&parent, &self.dir] {
            files.sync_dir(synced).map_err(StoreError::io("sync", synced))?;
        }
        Ok(())
    }
}

fn epoch_dir(dir: &Path, EpochId(id): EpochId) -> PathBuf {
    dir.join(format!("{id:08}"))
}

fn epoch_ids(files: &dyn FileLayer, dir: &Path) -> Result<Vec<EpochId>, StoreError> {
    let names = files.list(dir).map_err(StoreError::io("list", dir))?;
    Ok(names.iter().filter_map(|name| name.parse().ok().map(EpochId)).collect())
}

fn part_name(first: Lens, end: Lens) -> String {
    format!("{:010}-{:010}", first.stacks, end.stacks)
}

/// The first stack of a part and the one behind its last.
fn stacks_of(name: &str) -> Option<(usize, usize)> {
    let (first, end) = name.split_once('-')?;
    Some((first.parse().ok()?, end.parse().ok()?))
}

/// The names of the parts that together are the epoch, in order, and those that others hold as well.
fn chain(names: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut known: Vec<(usize, usize, String)> = names
        .into_iter()
        .filter_map(|name| stacks_of(&name).map(|(first, end)| (first, end, name)))
        .collect();
    known.sort_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
    let (mut chain, mut redundant, mut reached) = (Vec::new(), Vec::new(), 0);
    for (_, end, name) in known {
        if end > reached {
            reached = end;
            chain.push(name);
        } else {
            redundant.push(name);
        }
    }
    (chain, redundant)
}

fn remove_leftovers(files: &dyn FileLayer, dir: &Path) -> Result<(), StoreError> {
    // An epoch of which nothing is stored yet has no directory.
    let mut names = files.list(dir).unwrap_or_default();
    let unfinished: Vec<String> = names.extract_if(.., |name| name.starts_with(TEMPORARY)).collect();
    let (_, redundant) = chain(names);
    for name in unfinished.iter().chain(&redundant) {
        let leftover = dir.join(name);
        files.remove_dir(&leftover).map_err(StoreError::io("remove", &leftover))?;
    }
    Ok(())
}

/// Reads an epoch, of which at least `needed` stacks are to be there. From a damaged part on its stacks have no names.
fn load(files: &dyn FileLayer, dir: &Path, id: EpochId, needed: usize) -> Result<Stored, StoreError> {
    let dir = epoch_dir(dir, id);
    let names = match files.list(&dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(StoreError::Io { action: "list", path: dir, source }),
    };
    let (names, _) = chain(names);
    let end = names.last().and_then(|name| stacks_of(name)).map_or(0, |(_, end)| end).max(needed);
    let mut stored = Stored { symbols: SymbolTable::new(), parts: Vec::new(), lost: None };
    for name in names {
        let first = Lens::of(&stored.symbols);
        let part = dir.join(&name);
        match part::read(files, &part, &mut stored.symbols) {
            Ok(()) => stored.parts.push(Part { name, first, end: Lens::of(&stored.symbols) }),
            Err(error) if error.is_corrupt() || error.is_missing() => {
                stored.lose(part, first, end, error.to_string());
                return Ok(stored);
            }
            Err(error) => return Err(error),
        }
    }
    let first = Lens::of(&stored.symbols);
    if first.stacks < end {
        stored.lose(dir, first, end, "segments refer to stacks that it does not have".to_owned());
    }
    Ok(stored)
}

impl Stored {
    /// Gives the stacks from `first` to `end` a name that says that their own is lost.
    fn lose(&mut self, dir: PathBuf, first: Lens, end: usize, why: String) {
        let symbols = &mut self.symbols;
        if Lens::of(symbols) != first {
            // A part was taken in by half: nothing can be told from it any more.
            *symbols = SymbolTable::new();
        }
        let known = symbols.stack_nodes().len();
        let name = symbols.intern_str(LOST);
        let function = symbols.intern_function(Function { name, ..Function::default() });
        for id in known..end {
            // Told apart by their line alone, so that each has its own id.
            let lines = vec![Line { function, line: id as u32 }];
            let location = symbols.intern_location(Location { lines, ..Location::default() });
            symbols.intern_stack_node(StackNode { parent: None, location });
        }
        self.lost = Some(LostPart { dir, stacks: end - known, why });
    }
}
