//! Epochs as they lie on the disk, seen and mended from outside, where no store is open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::epoch::{self, Epoch, EpochId, LostPart, TEMPORARY};
use super::epochs::epoch_ids;
use super::part::{self, Lens};
use crate::StoreError;
use crate::files::{FileLayer, dir_bytes};
use crate::table::TableIndex;

/// What there is of one epoch.
pub(crate) struct EpochState {
    /// The directories of the parts that can be read.
    pub(crate) parts: Vec<PathBuf>,
    pub(crate) lost: Option<LostPart>,
    /// Directories that a start of the newest epoch removes.
    pub(crate) leftovers: Vec<PathBuf>,
    /// The files of the parts that can be read.
    pub(crate) files: Vec<(PathBuf, TableIndex)>,
}

/// Epochs, or why the system does not read them.
pub(crate) type EpochStates = BTreeMap<EpochId, Result<EpochState, StoreError>>;

/// Reads every epoch that is there, and says so of one that is needed and is not. `needed` says how many stacks of an
/// epoch some segment refers to.
pub(crate) fn inspect(
    files: &dyn FileLayer,
    dir: &Path,
    needed: &BTreeMap<EpochId, usize>,
) -> Result<EpochStates, StoreError> {
    let mut ids: BTreeSet<EpochId> = epoch_ids(files, dir)?.into_iter().collect();
    ids.extend(needed.keys());
    let state = |id: EpochId| inspect_epoch(files, dir, id, needed.get(&id).copied().unwrap_or(0));
    Ok(ids.into_iter().map(|id| (id, state(id))).collect())
}

fn inspect_epoch(
    files: &dyn FileLayer,
    epochs_dir: &Path,
    id: EpochId,
    needed: usize,
) -> Result<EpochState, StoreError> {
    let (epoch, lost) = Epoch::load(files, epochs_dir, id, needed)?;
    let names = epoch.part_names();
    let dir = epoch::epoch_dir(epochs_dir, id);
    // One that is needed may be gone altogether, which is said already.
    let mut leftovers = files.list(&dir).unwrap_or_default();
    let is_ours = |name: &String| name.starts_with(TEMPORARY) || epoch::stacks_of(name).is_some();
    leftovers.retain(|name| lost.is_none() && is_ours(name) && !names.contains(name));
    let leftovers = leftovers.iter().map(|name| dir.join(name)).collect();
    let parts: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
    let mut tables = Vec::new();
    for part in &parts {
        let of_part = part::tables(files, part)?.into_iter();
        tables.extend(of_part.map(|(file, index)| (part.join(file), index)));
    }
    Ok(EpochState { parts, lost, leftovers, files: tables })
}

/// Writes an epoch of which a part is lost anew as one part, in which the lost stacks are called so, and sets aside what
/// cannot be used any more: each directory is moved to where `set_aside` says for its name.
pub(crate) fn rewrite(
    files: &dyn FileLayer,
    epochs_dir: &Path,
    (id, needed): (EpochId, usize),
    set_aside: &dyn Fn(&str) -> Result<PathBuf, StoreError>,
) -> Result<(), StoreError> {
    let (epoch, _) = Epoch::load(files, epochs_dir, id, needed)?;
    let parts = epoch.part_names();
    let dir = epoch::epoch_dir(epochs_dir, id);
    let end = Lens::of(&epoch.dictionary().read());
    let name = epoch::part_name(Lens::default(), end);
    let temporary = dir.join(format!("{TEMPORARY}{name}"));
    files.create_dir(&temporary).map_err(StoreError::io("create", &temporary))?;
    part::write(files, &temporary, epoch.dictionary(), Lens::default()..end)?;
    let names = files.list(&dir).map_err(StoreError::io("list", &dir))?;
    for useless in names.iter().filter(|name| !name.starts_with(TEMPORARY) && !parts.contains(name)) {
        let (from, to) = (dir.join(useless), set_aside(useless)?);
        files.rename(&from, &to).map_err(StoreError::io("move", &from))?;
    }
    let written = dir.join(&name);
    files.rename(&temporary, &written).map_err(StoreError::io("rename", &temporary))?;
    for synced in [dir.as_path(), epochs_dir] {
        files.sync_dir(synced).map_err(StoreError::io("sync", synced))?;
    }
    for part in parts {
        let dir = dir.join(part);
        files.remove_dir(&dir).map_err(StoreError::io("remove", &dir))?;
    }
    Ok(())
}

/// What an epoch takes, as its directory has it.
pub(crate) struct EpochUse {
    pub(crate) id: EpochId,
    /// Directories in it.
    pub(crate) parts: u64,
    /// Stacks that their names speak of.
    pub(crate) stacks: u64,
    /// Of all files.
    pub(crate) bytes: u64,
}

/// What each epoch takes.
pub(crate) fn disk_use(files: &dyn FileLayer, dir: &Path) -> Result<Vec<EpochUse>, StoreError> {
    let of_epoch = |id: EpochId| {
        let dir = epoch::epoch_dir(dir, id);
        // A part may be replaced while a Pyrite runs.
        let names = files.list(&dir).unwrap_or_default();
        let ends = names.iter().filter_map(|name| epoch::stacks_of(name)).map(|(_, end)| end as u64);
        EpochUse {
            id,
            parts: names.len() as u64,
            stacks: ends.max().unwrap_or(0),
            bytes: names.iter().map(|name| dir_bytes(files, &dir.join(name))).sum(),
        }
    };
    Ok(epoch_ids(files, dir)?.into_iter().map(of_epoch).collect())
}
