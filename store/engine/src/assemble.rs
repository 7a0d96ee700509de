//! A data directory taken and read: all that a store is before a thread works on it.

use std::sync::Arc;

use crate::files::FileLayer;
use crate::lock::DirLock;
use crate::open::{self, Age, Opened};
use crate::quarantine::Quarantine;
use crate::shared::{Clock, Layout, Parts, Shared};
use crate::writer::OpenGeneration;
use crate::{OpenReport, StoreConfig, StoreError};

/// What is there, and what had to be put right.
pub(crate) struct Assembled {
    pub(crate) shared: Arc<Shared>,
    pub(crate) generation: OpenGeneration,
    pub(crate) report: OpenReport,
    pub(crate) lock: DirLock,
}

/// Locks the directory, making it where it is not there, and reads it.
pub(crate) fn assemble(
    config: StoreConfig,
    files: Arc<dyn FileLayer>,
    clock: Clock,
) -> Result<Assembled, StoreError> {
    let layout = Layout::new(config.dir.clone());
    files.create_dir(&layout.root).map_err(StoreError::io("create", &layout.root))?;
    let lock = DirLock::take(&layout.root, &layout.lock)?;
    assemble_locked(config, files, clock, lock)
}

/// Reads a directory that is locked already.
pub(crate) fn assemble_locked(
    config: StoreConfig,
    files: Arc<dyn FileLayer>,
    clock: Clock,
    lock: DirLock,
) -> Result<Assembled, StoreError> {
    let layout = Layout::new(config.dir.clone());
    let age = open::prepare(files.as_ref(), &layout)?;
    let quarantine = Quarantine::open(&files, &layout, &clock, config.quarantine)?;
    let Opened { view, catalogue, series, epochs, generation, report } =
        open::open(&files, &layout, &config.limits, &quarantine, age)?;
    if age == Age::New {
        open::sync_above(files.as_ref(), &layout.root)?;
        open::write_format(files.as_ref(), &layout)?;
    }
    let parts = Parts { config, layout, files, clock, catalogue, quarantine, series, epochs, view };
    Ok(Assembled { shared: Arc::new(Shared::new(parts)), generation, report, lock })
}
