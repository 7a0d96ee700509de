//! How far the import of an archive has come: one that stopped goes on there when it is repeated, and no row comes twice.
//!
//! A note is written before each batch. Whether that one was stored, too, shows by the rows that the store has: while an
//! archive is imported nobody else adds any.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::archive::ArchiveId;
use crate::files::FileLayer;
use crate::shared::Layout;
use crate::{StoreError, sealed};

const FORMAT: u64 = 1;

/// What `import-BYTES-CRC.json` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    format: u64,
    /// So many rows of the archive, from its first one on, are stored.
    done: u64,
    /// Rows that the store had then.
    held: u64,
    /// Rows of the batch that came next.
    next: u64,
}

/// The note on one archive.
pub(super) struct Journal<'a> {
    files: &'a dyn FileLayer,
    layout: &'a Layout,
    path: PathBuf,
}

impl<'a> Journal<'a> {
    pub(super) fn new(files: &'a dyn FileLayer, layout: &'a Layout, archive: ArchiveId) -> Self {
        let ArchiveId { bytes, crc32c } = archive;
        let path = layout.root.join(format!("import-{bytes}-{crc32c:08x}.json"));
        Self { files, layout, path }
    }

    /// How many rows of the archive are stored, the store having so many in all.
    pub(super) fn done(&self, held: u64) -> Result<u64, StoreError> {
        let note: Note = match sealed::read(self.files, &self.path, FORMAT) {
            Err(error) if error.is_missing() => return Ok(0),
            note => note?,
        };
        let is_stored = held.checked_sub(note.held) == Some(note.next);
        Ok(if is_stored { note.done.saturating_add(note.next) } else { note.done })
    }

    /// Says what is stored, and what comes next.
    pub(super) fn note(&self, done: u64, held: u64, next: u64) -> Result<(), StoreError> {
        // Under a name that is no note's until all of it is there.
        let beside = self.path.with_extension("tmp");
        sealed::write(self.files, &beside, &Note { format: FORMAT, done, held, next })?;
        self.files.rename(&beside, &self.path).map_err(StoreError::io("rename", &beside))?;
        self.sync()
    }

    /// Forgets the archive, all of which is stored.
    pub(super) fn end(&self) -> Result<(), StoreError> {
        match self.files.remove_file(&self.path).map_err(StoreError::io("remove", &self.path)) {
            Err(error) if error.is_missing() => Ok(()),
            removed => removed.and_then(|()| self.sync()),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        let root = &self.layout.root;
        self.files.sync_dir(root).map_err(StoreError::io("sync", root))
    }
}
