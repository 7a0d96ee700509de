//! The epochs of a store: the current one, to which the head adds, and older ones, read when a query needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use super::Dictionary;
use super::epoch::{Epoch, EpochId, LostPart, epoch_dir};
use crate::StoreError;
use crate::files::FileLayer;
use crate::sync::{lock, read, write};

/// Older epochs that are kept in memory.
const KEPT_EPOCHS: usize = 2;

/// All dictionaries that heads and segments share.
pub(crate) struct Epochs {
    files: Arc<dyn FileLayer>,
    dir: PathBuf,
    /// With so many stack nodes an epoch is full.
    max_stacks: usize,
    current: RwLock<Arc<Epoch>>,
    /// Last used last.
    old: Mutex<Vec<Arc<Epoch>>>,
}

impl Epochs {
    /// Reads the newest epoch. `needed` says how many stacks of which epochs segments refer to.
    pub(crate) fn open(
        files: &Arc<dyn FileLayer>,
        dir: &Path,
        max_stacks: usize,
        needed: &BTreeMap<EpochId, usize>,
    ) -> Result<(Self, Option<LostPart>), StoreError> {
        let stored = epoch_ids(files.as_ref(), dir)?;
        // One that is gone must not be begun anew: its numbers would mean other stacks then.
        let newest = stored.into_iter().chain(needed.keys().copied()).max().unwrap_or(EpochId(1));
        let stacks = needed.get(&newest).copied().unwrap_or(0);
        let (epoch, lost) = Epoch::load(files.as_ref(), dir, newest, stacks)?;
        if lost.is_none() {
            epoch.tidy(files.as_ref(), dir)?;
        }
        // One that no segment uses may have been on its way out.
        let lost = lost.filter(|_| stacks > 0);
        let current = RwLock::new(Arc::new(epoch));
        let (files, dir) = (Arc::clone(files), dir.to_owned());
        Ok((Self { files, dir, max_stacks, current, old: Mutex::default() }, lost))
    }

    /// The epoch for the rows of a new generation: the current one, or a new one where that is full or damaged.
    pub(crate) fn for_generation(&self) -> Arc<Epoch> {
        let current = self.current();
        if self.is_full(&current) || current.is_damaged() {
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

    /// Whether the next generation is to be of another epoch.
    pub(crate) fn is_full(&self, epoch: &Epoch) -> bool {
        epoch.dictionary().read().stack_nodes().len() >= self.max_stacks
    }

    /// Whether not even the present generation may add to it.
    pub(crate) fn is_overfull(&self, epoch: &Epoch) -> bool {
        epoch.dictionary().read().stack_nodes().len() >= self.max_stacks.saturating_mul(2)
    }

    /// The dictionary of an epoch of which a segment needs so many stacks.
    pub(crate) fn get(&self, id: EpochId, stacks: usize) -> Result<Arc<Dictionary>, StoreError> {
        let current = self.current();
        let epoch = if current.id() == id { current } else { self.old_epoch(id, stacks)? };
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
        let old: usize = lock(&self.old).iter().map(|epoch| epoch.dictionary().bytes()).sum();
        self.current().dictionary().bytes() + old
    }

    fn current(&self) -> Arc<Epoch> {
        Arc::clone(&read(&self.current))
    }

    fn turn(&self, next: EpochId) {
        let before = std::mem::replace(&mut *write(&self.current), Arc::new(Epoch::new(next)));
        keep(&mut lock(&self.old), before);
    }

    fn old_epoch(&self, id: EpochId, stacks: usize) -> Result<Arc<Epoch>, StoreError> {
        let mut old = lock(&self.old);
        // One that was read before a flush added to it is read again.
        let knows =
            |epoch: &Epoch| epoch.id() == id && epoch.dictionary().read().stack_nodes().len() >= stacks;
        if let Some(at) = old.iter().position(|epoch| knows(epoch)) {
            let epoch = old.remove(at);
            old.push(Arc::clone(&epoch));
            return Ok(epoch);
        }
        let (epoch, lost) = Epoch::load(self.files.as_ref(), &self.dir, id, stacks)?;
        if let Some(LostPart { dir, stacks, why }) = lost {
            tracing::error!(dir = %dir.display(), stacks, why, "a part of a dictionary is damaged; its stacks have no names");
        }
        let epoch = Arc::new(epoch);
        old.retain(|epoch| epoch.id() != id);
        keep(&mut old, Arc::clone(&epoch));
        Ok(epoch)
    }
}

/// Keeps an older epoch, and not too many of them.
fn keep(old: &mut Vec<Arc<Epoch>>, epoch: Arc<Epoch>) {
    old.push(epoch);
    if old.len() > KEPT_EPOCHS {
        old.remove(0);
    }
}

fn epoch_ids(files: &dyn FileLayer, dir: &Path) -> Result<Vec<EpochId>, StoreError> {
    let names = files.list(dir).map_err(StoreError::io("list", dir))?;
    Ok(names.iter().filter_map(|name| name.parse().ok().map(EpochId)).collect())
}
