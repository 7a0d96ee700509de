//! The epochs of a store: the current one, to which the head adds, and older ones, read when a query needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use super::epoch::{Epoch, EpochId, LostPart, epoch_dir};
use super::{Dictionary, Size, disk_use};
use crate::files::FileLayer;
use crate::sync::{lock, read, write};
use crate::{Limits, StoreError};

/// How long an older one that nobody asks for is kept for the next query.
const KEPT_FOR: Duration = Duration::from_mins(5);

/// How large epochs become, and how much of them is in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EpochLimits {
    /// With so many stack nodes the next generation of the log begins another.
    pub(crate) turn_at: usize,
    /// At this size that is not waited for.
    pub(crate) full: Size,
    /// Estimated memory of older ones that are kept for the next query.
    pub(crate) kept_bytes: usize,
}

impl From<&Limits> for EpochLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            turn_at: limits.dictionary_turn_stacks,
            full: Size { stacks: limits.dictionary_stacks, bytes: limits.dictionary_bytes },
            kept_bytes: limits.old_dictionary_bytes,
        }
    }
}

/// All dictionaries that heads and segments share.
pub(crate) struct Epochs {
    files: Arc<dyn FileLayer>,
    dir: PathBuf,
    limits: EpochLimits,
    current: RwLock<Arc<Epoch>>,
    /// Last used last.
    old: Mutex<Vec<Arc<Epoch>>>,
    /// Held while one is read, so that none is read twice at once. Who begins the next one does not wait for it.
    reading: Mutex<()>,
}

impl Epochs {
    /// Reads the newest epoch. `needed` says how many stacks of which epochs segments refer to.
    pub(crate) fn open(
        files: &Arc<dyn FileLayer>,
        dir: &Path,
        limits: EpochLimits,
        needed: &BTreeMap<EpochId, usize>,
    ) -> Result<(Self, Option<LostPart>), StoreError> {
        let (epochs, lost) = Self::look(files, dir, limits, needed)?;
        if lost.is_none() {
            epochs.current().tidy(files.as_ref(), dir)?;
        }
        // One that no segment uses may have been on its way out.
        let is_used = needed.get(&epochs.current().id()).is_some_and(|stacks| *stacks > 0);
        Ok((epochs, lost.filter(|_| is_used)))
    }

    /// The same without a change to what is on the disk.
    pub(crate) fn look(
        files: &Arc<dyn FileLayer>,
        dir: &Path,
        limits: EpochLimits,
        needed: &BTreeMap<EpochId, usize>,
    ) -> Result<(Self, Option<LostPart>), StoreError> {
        let stored = epoch_ids(files.as_ref(), dir)?;
        // One that is gone must not be begun anew: its numbers would mean other stacks then.
        let newest = stored.into_iter().chain(needed.keys().copied()).max().unwrap_or(EpochId(1));
        let stacks = needed.get(&newest).copied().unwrap_or(0);
        let (epoch, lost) = Epoch::load(files.as_ref(), dir, newest, stacks)?;
        let current = RwLock::new(Arc::new(epoch));
        let (files, dir) = (Arc::clone(files), dir.to_owned());
        let (old, reading) = (Mutex::default(), Mutex::default());
        Ok((Self { files, dir, limits, current, old, reading }, lost))
    }

    /// The epoch for the rows of a new generation: the current one, or a new one where that is large or damaged.
    pub(crate) fn for_generation(&self) -> Arc<Epoch> {
        let current = self.current();
        let size = current.dictionary().size();
        if size.stacks >= self.limits.turn_at || self.is_full(size) || current.is_damaged() {
            self.turn(EpochId(current.id().0 + 1));
        }
        self.current()
    }

    /// The epoch that a log says its rows are of, and that new entries may be added to.
    pub(crate) fn of_log(&self, id: EpochId) -> Result<Arc<Epoch>, StoreError> {
        let current = self.current().id();
        if id < current {
            return self.old_epoch(id, 0);
        }
        if id > current {
            self.turn(id);
        }
        Ok(self.current())
    }

    /// Whether the next generation is to begin, with another epoch than one of this size.
    pub(crate) fn is_full(&self, size: Size) -> bool {
        let full = self.limits.full;
        size.stacks >= full.stacks || size.bytes >= full.bytes
    }

    /// Whether not even the present generation may add to it.
    pub(crate) fn is_overfull(&self, size: Size) -> bool {
        self.is_full(Size { stacks: size.stacks / 2, bytes: size.bytes / 2 })
    }

    /// The dictionary of an epoch of which a segment needs so many stacks.
    pub(crate) fn get(&self, id: EpochId, stacks: usize) -> Result<Arc<Dictionary>, StoreError> {
        let current = self.current();
        let epoch = if current.id() == id { current } else { self.old_epoch(id, stacks)? };
        epoch.note_asked();
        Ok(Arc::clone(epoch.dictionary()))
    }

    /// Returns when all that the epoch has is on the disk.
    pub(crate) fn persist(&self, epoch: &Epoch) -> Result<(), StoreError> {
        epoch.persist(self.files.as_ref(), &self.dir)
    }

    /// Removes epochs that nothing uses and that do not grow any more.
    pub(crate) fn retain(&self, used: &BTreeSet<EpochId>) -> Result<(), StoreError> {
        let current = self.current().id();
        for id in epoch_ids(self.files.as_ref(), &self.dir)? {
            if id < current && !used.contains(&id) {
                lock(&self.old).retain(|epoch| epoch.id() != id);
                let dir = epoch_dir(&self.dir, id);
                self.files.remove_dir(&dir).map_err(StoreError::io("remove", &dir))?;
            }
        }
        Ok(())
    }

    /// What all epochs take on the disk.
    pub(crate) fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(disk_use(self.files.as_ref(), &self.dir)?.iter().map(|used| used.bytes).sum())
    }

    /// Lets go of what is too much or was not asked for lately, now that a head or a query is gone.
    pub(crate) fn forget_unused(&self) {
        self.trim(&mut lock(&self.old), 0);
    }

    /// Estimated memory.
    pub(crate) fn bytes(&self) -> usize {
        let old: usize = lock(&self.old).iter().map(|epoch| epoch.dictionary().bytes()).sum();
        self.current().dictionary().bytes() + old
    }

    #[cfg(test)]
    pub(crate) fn old_in_memory(&self) -> usize {
        lock(&self.old).len()
    }

    fn current(&self) -> Arc<Epoch> {
        Arc::clone(&read(&self.current))
    }

    fn turn(&self, next: EpochId) {
        // Under both locks: whoever looks for the one before finds it in one place or the other.
        let mut old = lock(&self.old);
        let before = std::mem::replace(&mut *write(&self.current), Arc::new(Epoch::new(next)));
        old.push(before);
        self.trim(&mut old, 0);
    }

    fn old_epoch(&self, id: EpochId, stacks: usize) -> Result<Arc<Epoch>, StoreError> {
        if let Some(epoch) = self.kept(id, stacks) {
            return Ok(epoch);
        }
        let _reading = lock(&self.reading);
        if let Some(epoch) = self.kept(id, stacks) {
            return Ok(epoch);
        }
        let (epoch, lost) = Epoch::load(self.files.as_ref(), &self.dir, id, stacks)?;
        if let Some(LostPart { dir, stacks, why }) = lost {
            tracing::error!(dir = %dir.display(), stacks, why, "a part of a dictionary is damaged; its stacks have no names");
        }
        let epoch = Arc::new(epoch);
        let mut old = lock(&self.old);
        old.retain(|epoch| epoch.id() != id);
        old.push(Arc::clone(&epoch));
        // What a log adds to it next must find it as it is now.
        self.trim(&mut old, 1);
        Ok(epoch)
    }

    /// One that is in memory, unless it was read before a flush added to it.
    fn kept(&self, id: EpochId, stacks: usize) -> Option<Arc<Epoch>> {
        let mut old = lock(&self.old);
        let at = old.iter().position(|epoch| epoch.id() == id && epoch.stack_count() >= stacks)?;
        let epoch = old.remove(at);
        old.push(Arc::clone(&epoch));
        Some(epoch)
    }

    /// Forgets those that no query has asked for lately, and of the others those that were used longest ago until the rest is
    /// small enough, as long as there are more than `least`. One that a query has stays, for it is in memory anyway and would be there twice; and so does one that a head has: on the disk its
    /// parts are about to be written anew as others, and who read it from there meanwhile would take some for lost.
    fn trim(&self, old: &mut Vec<Arc<Epoch>>, least: usize) {
        let is_free =
            |epoch: &Arc<Epoch>| Arc::strong_count(epoch) == 1 && Arc::strong_count(epoch.dictionary()) == 1;
        let bytes = |epoch: &Arc<Epoch>| epoch.dictionary().bytes();
        let is_idle = |epoch: &Arc<Epoch>| is_free(epoch) && !epoch.was_asked_within(KEPT_FOR);
        while old.len() > least
            && let Some(at) = old.iter().position(is_idle)
        {
            old.remove(at);
        }
        while old.len() > least
            && old.iter().filter(|epoch| is_free(epoch)).map(bytes).sum::<usize>() > self.limits.kept_bytes
            && let Some(at) = old.iter().position(is_free)
        {
            old.remove(at);
        }
    }
}

pub(super) fn epoch_ids(files: &dyn FileLayer, dir: &Path) -> Result<Vec<EpochId>, StoreError> {
    let names = match files.list(dir).map_err(StoreError::io("list", dir)) {
        // As in a directory of format 1 that is only looked at.
        Err(error) if error.is_missing() => Vec::new(),
        names => names?,
    };
    Ok(names.iter().filter_map(|name| name.parse().ok().map(EpochId)).collect())
}
