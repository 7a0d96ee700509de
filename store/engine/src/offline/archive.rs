//! Segments of a window in one file, with all that they need: a tar archive.
//!
//! ```text
//! format
//! segments/NAME/FILE
//! dictionaries/EPOCH/PART/FILE
//! ```
//!
//! Unpacked, it is a data directory without log and catalogue. [`Store::import_archive`] adds its rows to one that has data already.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use pyrite_model::TimeRange;

use super::{Imported, Progress, Step, check};
use crate::dictionary::{EpochState, inspect};
use crate::files::{FileLayer, read_all};
use crate::segment::{SegmentInfo, stacks_in_use};
use crate::{AppendError, Store, StoreError};

/// Where in a file it shows that it is an archive.
pub const ARCHIVE_MAGIC_AT: usize = 257;

/// Whether a file that begins like this is an archive.
pub fn is_archive(begin: &[u8]) -> bool {
    begin.get(ARCHIVE_MAGIC_AT..).is_some_and(|rest| rest.starts_with(b"ustar"))
}

/// Why an archive was not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file of the store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive could not be written.
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
    /// It ends early, or what tells its files apart is damaged.
    #[error("the archive is torn; nothing was taken from it")]
    Torn(#[source] io::Error),
    /// It holds what an archive of segments does not.
    #[error("not an archive of segments: it holds {name:?}")]
    Foreign {
        /// The name of the entry.
        name: String,
    },
    /// What it holds is damaged; nothing was taken from it.
    #[error("the archive is damaged, and nothing was taken from it: {what}")]
    Damaged {
        /// The first finding.
        what: String,
    },
    /// What would go into it is damaged.
    #[error("what is to be exported is damaged: {what}")]
    Unsound {
        /// The first finding.
        what: String,
    },
    /// What would go into it is not read by the system.
    #[error("what is to be exported cannot be read: {what}")]
    Unreadable {
        /// The file, and what the system said.
        what: String,
    },
    /// Its rows are stored up to here. Imported again, it goes on behind them.
    #[error("{done} of its {of} rows are stored; the same archive, imported again, goes on behind them")]
    Stopped {
        /// What this import has stored.
        stored: Imported,
        /// How many rows are stored, those of imports before included.
        done: u64,
        /// How many there are.
        of: u64,
        /// Why no more.
        #[source]
        source: Box<Halt>,
    },
}

/// Why no more rows are stored.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The store does not take them.
    #[error(transparent)]
    Refused(#[from] AppendError),
    /// A file of the store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What tells one archive from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArchiveId {
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

impl Store {
    /// Writes an archive of all segments that overlap a window, having flushed what is in memory. Returns how many there are
    /// and how many rows they have.
    ///
    /// # Errors
    /// Among others where some of that is damaged: no archive is made that could not be imported.
    pub fn export_archive(
        &self,
        range: TimeRange,
        out: impl Write,
        progress: Progress<'_>,
    ) -> Result<(u64, u64), ArchiveError> {
        self.flush()?;
        // Held until the end, so that their files stay.
        let view = self.shared().view();
        let within = view.segments.iter().filter(|segment| segment.range.overlaps(range));
        let segments: Vec<Arc<SegmentInfo>> = within.map(Arc::clone).collect();
        let of = segments.iter().map(|segment| segment.bytes).sum();
        let (files, layout) = (self.shared().files.as_ref(), &self.shared().layout);
        let mut archive = Packer { files, out: tar::Builder::new(out) };
        archive.file(&layout.format, Path::new("format"))?;
        for state in sound_dictionaries(files, &layout.dictionaries, &segments)? {
            for part in &state.parts {
                archive.tree(part, part.strip_prefix(&layout.root).unwrap_or(part))?;
            }
        }
        let mut done = 0;
        for segment in &segments {
            progress(Step { what: &segment.name, done, of });
            let dir = layout.segments.join(&segment.name);
            let checked = check::segment::check(files, &dir, &segment.name)?;
            if let Some(damage) = checked.damage.first() {
                return Err(ArchiveError::Unsound { what: damage.to_string() });
            }
            if let Some(what) = checked.unreadable.into_iter().next() {
                return Err(ArchiveError::Unreadable { what });
            }
            archive.tree(&dir, dir.strip_prefix(&layout.root).unwrap_or(&dir))?;
            done += segment.bytes;
        }
        archive.out.into_inner().and_then(|mut out| out.flush()).map_err(ArchiveError::Write)?;
        Ok((segments.len() as u64, segments.iter().map(|segment| segment.rows).sum()))
    }
}

/// The dictionaries that segments refer to.
fn sound_dictionaries(
    files: &dyn FileLayer,
    dir: &Path,
    segments: &[Arc<SegmentInfo>],
) -> Result<Vec<EpochState>, ArchiveError> {
    let in_use = stacks_in_use(segments.iter().filter_map(|segment| segment.dictionary));
    let states = inspect(files, dir, &in_use)?.into_iter().filter(|(id, _)| in_use.contains_key(id));
    let states = states.map(|(_, state)| state).collect::<Result<Vec<_>, _>>()?;
    for state in &states {
        if let Some(lost) = &state.lost {
            return Err(ArchiveError::Unsound { what: format!("{}: {}", lost.dir.display(), lost.why) });
        }
        for (path, index) in &state.files {
            if let Some(damage) = check::frame::check(files, path, index)? {
                return Err(ArchiveError::Unsound { what: damage.to_string() });
            }
        }
    }
    Ok(states)
}

struct Packer<'a, W: Write> {
    files: &'a dyn FileLayer,
    out: tar::Builder<W>,
}

impl<W: Write> Packer<'_, W> {
    /// A directory with all that is below it.
    fn tree(&mut self, dir: &Path, name: &Path) -> Result<(), ArchiveError> {
        for entry in self.files.list(dir).map_err(StoreError::io("list", dir))? {
            let (path, name) = (dir.join(&entry), name.join(&entry));
            if self.files.list(&path).is_ok() {
                self.tree(&path, &name)?;
            } else {
                self.file(&path, &name)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &Path) -> Result<(), ArchiveError> {
        let content = read_all(self.files, path).map_err(StoreError::io("read", path))?;
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        self.out.append_data(&mut header, name, content.as_slice()).map_err(ArchiveError::Write)
    }
}

/// Knows what it has read, and whether that was all.
struct Watched<R> {
    source: R,
    ended: bool,
    id: ArchiveId,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.ended |= read == 0 && !buffer.is_empty();
        self.id.bytes += read as u64;
        self.id.crc32c = crc32c::crc32c_append(self.id.crc32c, &buffer[..read]);
        Ok(read)
    }
}

/// Unpacks an archive into an empty directory, and says which one it is.
pub(super) fn unpack(
    files: &dyn FileLayer,
    source: impl Read,
    dir: &Path,
) -> Result<ArchiveId, ArchiveError> {
    let id = ArchiveId { bytes: 0, crc32c: 0 };
    let mut archive = tar::Archive::new(Watched { source, ended: false, id });
    for entry in archive.entries().map_err(ArchiveError::Torn)? {
        unpack_entry(files, entry.map_err(ArchiveError::Torn)?, dir)?;
    }
    // Empty blocks say that all of it is there.
    let Watched { ended, id, .. } = archive.into_inner();
    if ended {
        return Err(ArchiveError::Torn(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(id)
}

fn unpack_entry(
    files: &dyn FileLayer,
    mut entry: tar::Entry<'_, impl Read>,
    dir: &Path,
) -> Result<(), ArchiveError> {
    const CHUNK: u64 = 1 << 20;
    let name = entry.path().map_err(ArchiveError::Torn)?.into_owned();
    let kind = entry.header().entry_type();
    if kind == tar::EntryType::Directory {
        return Ok(());
    }
    let foreign = || ArchiveError::Foreign { name: name.display().to_string() };
    let to = place(dir, &name).filter(|_| kind == tar::EntryType::Regular).ok_or_else(foreign)?;
    let parent = to.parent().unwrap_or(dir);
    files.create_dir(parent).map_err(StoreError::io("create", parent))?;
    let mut file = files.create(&to).map_err(StoreError::io("create", &to))?;
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        entry.by_ref().take(CHUNK).read_to_end(&mut chunk).map_err(ArchiveError::Torn)?;
        if chunk.is_empty() {
            return Ok(());
        }
        file.append(&chunk).map_err(StoreError::io("write", &to))?;
    }
}

/// Where an entry belongs; `None` for names that no archive of segments has.
fn place(dir: &Path, name: &Path) -> Option<PathBuf> {
    let part = |part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    };
    let parts: Vec<&str> = name.components().map(part).collect::<Option<_>>()?;
    match parts.as_slice() {
        ["format"] | ["segments", _, _] | ["dictionaries", _, _, _] => Some(dir.join(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_archive_has_is_unpacked_and_only_where_it_belongs() {
        let dir = Path::new("/d");
        for name in ["format", "segments/a/b.parquet", "dictionaries/1/2/c.parquet"] {
            assert_eq!(place(dir, Path::new(name)), Some(dir.join(name)), "{name}");
        }
        for name in ["/etc/passwd", "segments/../../x", "../format", "lock", "segments/a", "wal/1.wal", ""] {
            assert_eq!(place(dir, Path::new(name)), None, "{name}");
        }
    }
}
