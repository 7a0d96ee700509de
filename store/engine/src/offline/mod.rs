//! Tools for a data directory: what is in it, whether it is sound, mending, merging, moving it elsewhere.
//!
//! ```text
//! stats, check      read alone; they take no lock and change nothing
//! repair, compact   under the lock, without the threads of a store: what a start does, and what a start cannot
//! export, import    a store that removes nothing
//! ```
//!
//! None of them removes data by age or size: whoever looks at an old directory does not want it emptied.

mod archive;
mod check;
mod import;
mod journal;
mod repair;
mod report;
mod rewrite;
mod stats;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyrite_model::TimeRange;

pub use self::archive::{ARCHIVE_MAGIC_AT, ArchiveError, Halt, is_archive};
pub use self::check::check;
#[cfg(test)]
pub(crate) use self::check::check_locked;
pub use self::import::Imported;
#[cfg(test)]
pub(crate) use self::repair::repair_on;
pub use self::repair::{Repaired, plan, repair};
pub use self::report::{CheckReport, Damage, Remedy};
pub use self::stats::{
    AgeBand, DirStats, EpochStats, GroupStats, LogStats, QuarantineStats, SumsStats, TenantStats, stats,
};
use crate::assemble::{Assembled, assemble};
use crate::files::{FileLayer, RealFiles, read_all};
pub use crate::lock::Holder;
use crate::maintain::Maintenance;
use crate::open::FORMAT;
use crate::rows::widen;
use crate::shared::Layout;
use crate::store::now;
use crate::{Limits, OpenReport, QuarantineLimits, Retention, StoreConfig, StoreError};

/// How far a piece of work has come.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What is worked on now.
    pub what: &'a str,
    /// How much of the work is done, in an arbitrary unit.
    pub done: u64,
    /// All of it.
    pub of: u64,
}

/// Told at every step.
pub type Progress<'a> = &'a mut dyn FnMut(Step<'_>);

/// What merging has made of the segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments before.
    pub segments_before: u64,
    /// And after.
    pub segments_after: u64,
    /// Their bytes before.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
}

/// The configuration of a store that removes nothing, takes in rows of as many tenants as there are and answers whatever is
/// asked: the bounds on these are for a server.
pub fn keeping_all(dir: &Path) -> StoreConfig {
    let retention = Retention { max_age: Duration::MAX, max_bytes: u64::MAX };
    let quarantine = QuarantineLimits { max_age: Duration::MAX, max_bytes: u64::MAX };
    let limits = Limits {
        tenants: usize::MAX,
        query_bytes: usize::MAX,
        queries_bytes: usize::MAX,
        ..Limits::default()
    };
    StoreConfig { retention, quarantine, limits, ..StoreConfig::new(dir) }
}

/// Makes sure that a directory holds data that this release can read; unlike a start it makes nothing.
pub fn ensure_data(dir: &Path) -> Result<(), StoreError> {
    format_of(&RealFiles, &Layout::new(dir.to_owned())).map(|_format| ())
}

/// Likewise, but a directory that is not there or empty will do: data may come to it.
pub fn ensure_data_or_empty(dir: &Path) -> Result<(), StoreError> {
    match RealFiles.list(dir) {
        Ok(names) if names.is_empty() => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        _ => ensure_data(dir),
    }
}

fn format_of(files: &dyn FileLayer, layout: &Layout) -> Result<u64, StoreError> {
    let path = &layout.format;
    let bytes = read_all(files, path).map_err(StoreError::io("read", path))?;
    let found = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    match found {
        None | Some(0) => Err(StoreError::corrupt(path, "it does not state a format version")),
        Some(found) if found > FORMAT => {
            Err(StoreError::Newer { path: path.clone(), found, supported: FORMAT })
        }
        Some(found) => Ok(found),
    }
}

/// The names in a directory; one that is not there has nothing in it, and a start makes it.
fn list(files: &dyn FileLayer, dir: &Path) -> Result<Vec<String>, StoreError> {
    match files.list(dir).map_err(StoreError::io("list", dir)) {
        Err(error) if error.is_missing() => Ok(Vec::new()),
        names => names,
    }
}

/// The window from the first of these to the last.
fn joined(ranges: impl Iterator<Item = TimeRange>) -> Option<TimeRange> {
    ranges.reduce(|a, b| widen(Some(widen(Some(a), b.start)), b.end))
}

/// Merges all segments that may be merged now. What is in the log alone stays there.
///
/// # Errors
/// When the directory cannot be read or written, a process works on it, or a newer release wrote it.
pub fn compact(dir: &Path, progress: Progress<'_>) -> Result<(Compacted, OpenReport), StoreError> {
    ensure_data(dir)?;
    let Assembled { shared, report, lock, .. } =
        assemble(keeping_all(dir), Arc::new(RealFiles), Arc::new(now))?;
    let size = || {
        let segments = shared.view().segments;
        (segments.len() as u64, segments.iter().map(|segment| segment.bytes).sum())
    };
    let (segments_before, bytes_before) = size();
    let maintenance = Maintenance::new(Arc::clone(&shared));
    let mut merges = 0;
    loop {
        progress(Step { what: "segments", done: merges, of: merges + size().0 });
        if !maintenance.merge_next()? {
            break;
        }
        merges += 1;
    }
    shared.remove_doomed()?;
    shared.catalogue.checkpoint()?;
    let (segments_after, bytes_after) = size();
    drop(lock);
    Ok((Compacted { segments_before, segments_after, bytes_before, bytes_after }, report))
}
