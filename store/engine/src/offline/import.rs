//! Taking in the rows of an archive: as if they were pushed, so that they get the ids of the store that they come to, are
//! in its log, and survive whatever happens then.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use pyrite_model::{Batch, Row, SeriesKey, SeriesRows, SymbolTable, TimeRange};

use super::archive::{ArchiveError, ArchiveId, Halt, unpack};
use super::check::{check_locked, samples::for_each_group};
use super::journal::Journal;
use super::{Progress, Step, keeping_all};
use crate::assemble::assemble;
use crate::dictionary::Copier;
use crate::files::FileLayer;
use crate::rows::{StoredRow, widen};
use crate::segment::SegmentInfo;
use crate::segment::read::{SegmentReader, StackIds};
use crate::segment::series::read_series;
use crate::shared::Shared;
use crate::store::now;
use crate::{AppendError, Store, StoreError};

/// Where an archive is unpacked, in the data directory that its rows come to; removed when they have.
const UNPACKED: &str = "import.tmp";
/// Rows stored together.
const BATCH_ROWS: usize = 50_000;

/// What was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rows.
    pub rows: u64,
    /// When they were; `None` where there are none.
    pub range: Option<TimeRange>,
}

impl Store {
    /// Adds all rows of an archive. Those that are there already are then there twice, but for those of an import of this very
    /// archive that stopped: it goes on behind them. Nobody else may append meanwhile.
    ///
    /// # Errors
    /// Where it is no archive, is damaged or of a newer release: then nothing is added. Where the store fails or takes no more,
    /// the rows before are added.
    pub fn import_archive(
        &self,
        archive: impl Read,
        progress: Progress<'_>,
    ) -> Result<Imported, ArchiveError> {
        let files = self.shared().files.as_ref();
        let dir = self.shared().layout.root.join(UNPACKED);
        clear(files, &dir)?;
        files.create_dir(&dir).map_err(StoreError::io("create", &dir))?;
        let imported = unpack(files, archive, &dir).and_then(|id| self.import_dir(&dir, id, progress));
        if let Err(error) = clear(files, &dir) {
            // What became of the rows is more than what became of their copies.
            tracing::warn!(%error, "an unpacked archive stays; the next import removes it");
        }
        imported
    }

    fn import_dir(
        &self,
        dir: &Path,
        archive: ArchiveId,
        progress: Progress<'_>,
    ) -> Result<Imported, ArchiveError> {
        let report = check_locked(&self.shared().files, dir, progress)?;
        // It has neither catalogue nor log, which is no damage.
        let damaged = report.findings.iter().find(|damage| {
            damage.file.starts_with(dir.join("segments"))
                || damage.file.starts_with(dir.join("dictionaries"))
                || damage.file == dir.join("format")
        });
        let what = damaged.map(ToString::to_string).or(report.unreadable.into_iter().next());
        if let Some(what) = what {
            return Err(ArchiveError::Damaged { what });
        }
        let source = assemble(keeping_all(dir), Arc::clone(&self.shared().files), Arc::new(now))?;
        let view = source.shared.view();
        let of = view.segments.iter().map(|segment| segment.rows).sum();
        let journal = Journal::new(self.shared().files.as_ref(), &self.shared().layout, archive);
        let done = journal.done(self.stats().rows)?;
        let mut importer = Importer { store: self, journal, skip: done, done, imported: Imported::default() };
        let stored = view.segments.iter().try_for_each(|segment| {
            importer.segment(&source.shared, segment, &mut |done| {
                progress(Step { what: &segment.name, done, of });
            })
        });
        importer.finish(stored, of)
    }

    /// Stores a batch, however long it takes until there is room for it.
    ///
    /// # Errors
    /// Where waiting does not help.
    pub fn append_patiently(&self, batch: &Batch) -> Result<(), Halt> {
        loop {
            match self.append_blocking(batch.clone()) {
                // A flush makes room, or says why there will be none.
                Err(AppendError::Overloaded { .. }) => self.flush()?,
                stored => return Ok(stored?),
            }
        }
    }
}

fn clear(files: &dyn FileLayer, dir: &Path) -> Result<(), StoreError> {
    match files.remove_dir(dir).map_err(StoreError::io("remove", dir)) {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
}

/// The series of a segment, by id.
type Keys = BTreeMap<u32, Arc<SeriesKey>>;

struct Importer<'a> {
    store: &'a Store,
    journal: Journal<'a>,
    /// So many of the archive's next rows are stored already.
    skip: u64,
    /// And so many of all.
    done: u64,
    imported: Imported,
}

impl Importer<'_> {
    fn segment(
        &mut self,
        source: &Shared,
        segment: &SegmentInfo,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Halt> {
        let files = source.files.as_ref();
        let dir = source.layout.segments.join(&segment.name);
        let reader = SegmentReader::open(files, &dir)?;
        let stacks = reader.stacks(files, &source.epochs)?;
        let series = read_series(files, &dir, reader.manifest())?;
        let keys: Keys = series.into_iter().map(|s| (s.id, s.key)).collect();
        let mut stored = Ok(());
        for_each_group(files, &dir, reader.manifest(), |group| {
            let rows = group.rows?;
            let tenant_of = |row: &StoredRow| keys.get(&row.series).map(|key| &key.tenant);
            // A batch is of one tenant.
            let of_tenants = rows.chunk_by(|a, b| tenant_of(a) == tenant_of(b));
            for rows in of_tenants.flat_map(|rows| rows.chunks(BATCH_ROWS)) {
                let rows = self.not_stored(rows);
                if stored.is_ok() && !rows.is_empty() {
                    stored = self.store_rows(rows, &keys, &stacks);
                    progress(self.done);
                }
            }
            Ok(())
        })?;
        stored
    }

    /// Those of the next rows that no import before this one has stored.
    fn not_stored<'r>(&mut self, rows: &'r [StoredRow]) -> &'r [StoredRow] {
        let stored = rows.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= stored as u64;
        &rows[stored..]
    }

    fn store_rows(&mut self, rows: &[StoredRow], keys: &Keys, stacks: &StackIds) -> Result<(), Halt> {
        let unknown = || StoreError::corrupt(Path::new(UNPACKED), "a row refers past the end of its tables");
        let batch = batch(rows, keys, stacks).ok_or_else(unknown)?;
        self.journal.note(self.done, self.store.stats().rows, rows.len() as u64)?;
        match self.store.append_patiently(&batch) {
            // The stacks of so many rows can be deep.
            Err(Halt::Refused(AppendError::TooLarge { .. })) if rows.len() > 1 => {
                let (one, other) = rows.split_at(rows.len() / 2);
                self.store_rows(one, keys, stacks)?;
                self.store_rows(other, keys, stacks)
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.count(rows);
                Ok(())
            }
        }
    }

    fn count(&mut self, rows: &[StoredRow]) {
        self.done += rows.len() as u64;
        self.imported.rows += rows.len() as u64;
        self.imported.range =
            rows.iter().fold(self.imported.range, |range, row| Some(widen(range, row.time)));
    }

    /// Forgets the import where it has stored all of its rows.
    fn finish(self, stored: Result<(), Halt>, of: u64) -> Result<Imported, ArchiveError> {
        let Self { journal, done, imported, .. } = self;
        let ended = stored.and_then(|()| Ok(journal.end()?));
        ended.map(|()| imported).map_err(|source| ArchiveError::Stopped {
            stored: imported,
            done,
            of,
            source: Box::new(source),
        })
    }
}

/// The rows with what they refer to; `None` where they refer to what is not there.
fn batch(rows: &[StoredRow], keys: &Keys, stacks: &StackIds) -> Option<Batch> {
    let source = stacks.dictionary.read();
    let mut copier = Copier::new(&source);
    let tenant = keys.get(&rows.first()?.series)?.tenant.clone();
    let mut symbols = SymbolTable::new();
    let mut series = Vec::new();
    for run in rows.chunk_by(|a, b| a.series == b.series) {
        let SeriesKey { labels, profile_type, .. } = keys.get(&run.first()?.series)?.as_ref().clone();
        let mut of_series = Vec::with_capacity(run.len());
        for StoredRow { time, stack, value, .. } in run {
            let stack = copier.stack(&source, *stacks.stacks.get(*stack as usize)?, &mut symbols);
            of_series.push(Row { time: *time, stack, value: *value });
        }
        series.push(SeriesRows { labels, profile_type, rows: of_series });
    }
    Some(Batch { tenant, symbols, series })
}
