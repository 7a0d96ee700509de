//! The catalogue: which segments there are and which series are in them, in `SQLite`.
//!
//! Segments describe themselves, so the catalogue can be made anew from them; it exists so that a start learns what
//! series there are without opening every segment, and so that adding a segment in the place of others is one
//! transaction. Queries do not come here: the series index is in memory.

mod look;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hashbrown::HashMap;
use pyrite_model::{TimeRange, UnixMs};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, params};

use crate::StoreError;
use crate::dictionary::EpochId;
use crate::segment::SegmentInfo;
use crate::segment::manifest::DictionaryUse;
use crate::segment::series::{SegmentSeries, labels_to_json, parse_key};
use crate::series_index::Filling;
use crate::sync::lock;

/// The newest schema of the database.
const SCHEMA_VERSION: u64 = 3;

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE segments (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        level INTEGER NOT NULL,
        min_time_ms INTEGER NOT NULL,
        max_time_ms INTEGER NOT NULL,
        rows INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        epoch INTEGER,
        stacks INTEGER,
        crc32c INTEGER,
        series_crc32c INTEGER
    );
    CREATE TABLE series (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        profile_type TEXT NOT NULL,
        labels TEXT NOT NULL,
        UNIQUE (profile_type, labels)
    );
    CREATE TABLE segment_series (
        segment INTEGER NOT NULL REFERENCES segments (id),
        local INTEGER NOT NULL,
        series INTEGER NOT NULL REFERENCES series (id),
        min_time_ms INTEGER NOT NULL,
        max_time_ms INTEGER NOT NULL,
        PRIMARY KEY (segment, local)
    ) WITHOUT ROWID;
    CREATE INDEX segment_series_by_series ON segment_series (series, segment, min_time_ms, max_time_ms);
";

/// Segments of the first version have dictionaries of their own.
const FROM_VERSION_1: &str = "
    ALTER TABLE segments ADD COLUMN epoch INTEGER;
    ALTER TABLE segments ADD COLUMN stacks INTEGER;
    ALTER TABLE segments ADD COLUMN crc32c INTEGER;
    ALTER TABLE segments ADD COLUMN series_crc32c INTEGER;
";

const FROM_VERSION_2: &str = "
    ALTER TABLE segments ADD COLUMN crc32c INTEGER;
    ALTER TABLE segments ADD COLUMN series_crc32c INTEGER;
";

const STATES: [&str; 3] = ["live", "removed", "quarantined"];
/// What a [`SegmentInfo`] is made of, in order.
const INFO: &str = "name, level, min_time_ms, max_time_ms, rows, bytes, epoch, stacks";
/// Keys of `meta`: the number, and its checksum.
const FLUSHED: &str = "flushed_through";
const FLUSHED_CRC: &str = "flushed_through_crc32c";

/// Why a segment is in the catalogue but not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retired {
    /// Its rows are elsewhere or no longer wanted; its directory is removed when no query reads it.
    Removed,
    /// It is damaged and is to be moved aside; forgotten when it has been.
    Quarantined,
}

impl Retired {
    fn state(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Quarantined => "quarantined",
        }
    }
}

/// The open database.
pub(crate) struct Catalogue {
    path: PathBuf,
    db: Mutex<Connection>,
}

type Sql<T> = Result<T, rusqlite::Error>;

impl Catalogue {
    /// Opens the database, making it where it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = connect(path).and_then(|db| {
            let version = db.query_row("PRAGMA user_version", [], |row| unsigned(row, 0))?;
            let change = match version {
                0 => SCHEMA,
                1 => FROM_VERSION_1,
                2 => FROM_VERSION_2,
                _ => "",
            };
            if version < SCHEMA_VERSION {
                db.execute_batch(&format!("BEGIN; {change} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"))?;
            }
            Ok((db, version))
        });
        let (db, version) = opened.map_err(|source| error(path, source))?;
        if version > SCHEMA_VERSION {
            return Err(StoreError::Newer { path: path.into(), found: version, supported: SCHEMA_VERSION });
        }
        Ok(Self { path: path.into(), db: Mutex::new(db) })
    }

    /// Whether an error says that the catalogue is no database, or that what it holds cannot be read.
    pub(crate) fn is_broken(error: &StoreError) -> bool {
        use rusqlite::Error::{
            FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, SqlInputError, Utf8Error,
        };
        match error {
            StoreError::Corrupt { .. } => true,
            StoreError::Catalogue { source, .. } => match source {
                // As to the input: our statements are right, so what they name is not there, or under another name.
                FromSqlConversionFailure(..)
                | IntegralValueOutOfRange(..)
                | InvalidColumnType(..)
                | SqlInputError { .. }
                | Utf8Error(..) => true,
                _ => matches!(
                    source.sqlite_error_code(),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                ),
            },
            _ => false,
        }
    }

    /// The segments in use, oldest first.
    pub(crate) fn segments(&self) -> Result<Vec<SegmentInfo>, StoreError> {
        self.segments_in("live")
    }

    /// The segments that are retired for this reason, oldest first.
    pub(crate) fn retired(&self, why: Retired) -> Result<Vec<SegmentInfo>, StoreError> {
        self.segments_in(why.state())
    }

    fn segments_in(&self, state: &str) -> Result<Vec<SegmentInfo>, StoreError> {
        self.read(|db| {
            let query = format!("SELECT {INFO} FROM segments WHERE state = ?1 ORDER BY min_time_ms, name");
            let mut query = db.prepare_cached(&query)?;
            let rows = query.query_map([state], info)?;
            rows.collect()
        })
    }

    /// Rows of WAL generations up to this one are in segments.
    pub(crate) fn flushed_through(&self) -> Result<u64, StoreError> {
        let (value, crc) = self.read(|db| Ok((meta(db, FLUSHED)?, meta(db, FLUSHED_CRC)?)))?;
        match crc {
            // A database whose pages were damaged may say anything; this would have logs removed.
            Some(crc) if value.map(crc_of) != Some(crc) => {
                Err(StoreError::corrupt(&self.path, "a number is not what it was"))
            }
            _ => Ok(value.unwrap_or(0)),
        }
    }

    /// Finds damage that changes what the database says without its noticing.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let sound = self.read(|db| {
            let mut query = db.prepare(&format!("SELECT {INFO}, state, crc32c FROM segments"))?;
            let rows = query.query_map([], |row| Ok((info(row)?, row.get(8)?, row.get(9)?)))?;
            let rows: Vec<(SegmentInfo, String, Option<u32>)> = rows.collect::<Sql<_>>()?;
            // Older releases wrote no checksum.
            let is_sound = |(segment, state, crc): &(SegmentInfo, String, Option<u32>)| {
                STATES.contains(&state.as_str()) && crc.is_none_or(|crc| crc == segment_crc(segment))
            };
            let said: String = db.query_row("PRAGMA quick_check('segments')", [], |row| row.get(0))?;
            Ok(rows.iter().all(is_sound) && said == "ok")
        })?;
        if sound {
            self.flushed_through().map(drop)
        } else {
            Err(StoreError::corrupt(&self.path, "its pages are damaged"))
        }
    }

    /// Adds a segment in the place of others, in one transaction.
    pub(crate) fn add(
        &self,
        segment: &SegmentInfo,
        series: &[SegmentSeries],
        replaces: &[String],
        flushed_through: u64,
    ) -> Result<(), StoreError> {
        self.write(|db| {
            raise_flushed_through(db, flushed_through)?;
            insert_segment(db, segment, series)?;
            replaces.iter().try_for_each(|name| retire(db, name, Retired::Removed))
        })
    }

    /// Says that rows of WAL generations up to this one are in segments.
    pub(crate) fn flush_through(&self, generation: u64) -> Result<(), StoreError> {
        self.write(|db| raise_flushed_through(db, generation))
    }

    /// Takes a segment out of use.
    pub(crate) fn retire(&self, name: &str, why: Retired) -> Result<(), StoreError> {
        self.write(|db| retire(db, name, why))
    }

    /// Forgets a segment whose directory is gone, and the series that were only in it.
    pub(crate) fn forget(&self, names: &[String]) -> Result<(), StoreError> {
        self.write(|db| {
            for name in names {
                delete_series(db, name)?;
                db.execute("DELETE FROM segments WHERE name = ?1", [name])?;
            }
            db.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM segment_series)", [])?;
            Ok(())
        })
    }

    /// Tells what series there are, and which of them each segment in use holds.
    ///
    /// # Errors
    /// Among others where what it says is no series, or names one that it does not have: then it is broken.
    pub(crate) fn fill(&self, index: &mut Filling) -> Result<(), StoreError> {
        let legible = self.read(|db| match fill_series(db, index)? {
            Some(crcs) => fill_segments(db, index, &crcs),
            None => Ok(false),
        })?;
        if legible { Ok(()) } else { Err(StoreError::corrupt(&self.path, "a series is not legible")) }
    }

    /// Moves all that was written into the database file itself.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        let checkpointed = lock(&self.db).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        checkpointed.map_err(|source| error(&self.path, source))
    }

    /// As a disk does that lets nothing be written.
    #[cfg(test)]
    pub(crate) fn refuse_writes(&self, refused: bool) {
        let set = lock(&self.db).execute_batch(&format!("PRAGMA query_only = {refused}"));
        set.expect("a pragma that does not write");
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> Sql<T>) -> Result<T, StoreError> {
        query(&lock(&self.db)).map_err(|source| error(&self.path, source))
    }

    fn write<T>(&self, change: impl FnOnce(&Transaction<'_>) -> Sql<T>) -> Result<T, StoreError> {
        let mut db = lock(&self.db);
        let changed = db.transaction().and_then(|transaction| {
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        });
        changed.map_err(|source| error(&self.path, source))
    }
}

fn connect(path: &Path) -> Sql<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    // FULL: a commit is on the disk when it returns. The page cache is kept at half a megabyte.
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -512;
         PRAGMA journal_size_limit = 1048576;",
    )?;
    Ok(db)
}

/// `SQLite`'s integers are signed; the numbers kept here are far below where that matters.
fn unsigned(row: &Row<'_>, column: usize) -> Sql<u64> {
    Ok(row.get::<_, i64>(column)? as u64)
}

fn info(row: &Row<'_>) -> Sql<SegmentInfo> {
    Ok(SegmentInfo {
        name: row.get(0)?,
        level: row.get(1)?,
        range: TimeRange::new(UnixMs(row.get(2)?), UnixMs(row.get(3)?)),
        rows: unsigned(row, 4)?,
        bytes: unsigned(row, 5)?,
        dictionary: dictionary(row)?,
    })
}

fn dictionary(row: &Row<'_>) -> Sql<Option<DictionaryUse>> {
    let (epoch, stacks): (Option<u32>, Option<i64>) = (row.get(6)?, row.get(7)?);
    Ok(epoch
        .zip(stacks)
        .map(|(epoch, stacks)| DictionaryUse { epoch: EpochId(epoch), stacks: stacks as usize }))
}

fn error(path: &Path, source: rusqlite::Error) -> StoreError {
    StoreError::Catalogue { path: path.to_owned(), source }
}

fn raise_flushed_through(db: &Transaction<'_>, generation: u64) -> Sql<()> {
    let value = generation.max(meta(db, FLUSHED)?.unwrap_or(0));
    for (key, value) in [(FLUSHED, value), (FLUSHED_CRC, crc_of(value))] {
        db.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", params![key, value as i64])?;
    }
    Ok(())
}

fn meta(db: &Connection, key: &str) -> Sql<Option<u64>> {
    db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| unsigned(row, 0)).optional()
}

fn crc_of(value: u64) -> u64 {
    u64::from(crc32c::crc32c(&value.to_le_bytes()))
}

/// Of what a segment's row says, without its state.
fn segment_crc(segment: &SegmentInfo) -> u32 {
    let SegmentInfo { name, level, range, rows, bytes, dictionary } = segment;
    let dictionary = dictionary.map(|used| (used.epoch.0, used.stacks));
    let text = format!("{name} {level} {} {} {rows} {bytes} {dictionary:?}", range.start.0, range.end.0);
    crc32c::crc32c(text.as_bytes())
}

fn series_crc(profile_type: &str, labels: &str) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(profile_type.as_bytes()), labels.as_bytes())
}

/// Of one series of a segment. Those of all are added up, in whatever order they come.
fn held_crc(local: u32, range: TimeRange, series: u32) -> u32 {
    let mut bytes = [0; 24];
    bytes[..4].copy_from_slice(&local.to_le_bytes());
    bytes[4..12].copy_from_slice(&range.start.0.to_le_bytes());
    bytes[12..20].copy_from_slice(&range.end.0.to_le_bytes());
    bytes[20..].copy_from_slice(&series.to_le_bytes());
    crc32c::crc32c(&bytes)
}

fn insert_segment(db: &Transaction<'_>, segment: &SegmentInfo, series: &[SegmentSeries]) -> Sql<()> {
    let SegmentInfo { name, level, range, rows, bytes, dictionary } = segment;
    let (epoch, stacks) = dictionary.map(|used| (used.epoch.0, used.stacks as i64)).unzip();
    delete_series(db, name)?;
    db.execute("DELETE FROM segments WHERE name = ?1", [name])?;
    db.execute(
        "INSERT INTO segments (name, state, level, min_time_ms, max_time_ms, rows, bytes, epoch, stacks, crc32c)
         VALUES (?1, 'live', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            name,
            level,
            range.start.0,
            range.end.0,
            *rows as i64,
            *bytes as i64,
            epoch,
            stacks,
            segment_crc(segment)
        ],
    )?;
    let id = db.last_insert_rowid();
    let mut crc = 0_u32;
    let mut add_series = db
        .prepare_cached("INSERT INTO series (profile_type, labels) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    let mut find_series =
        db.prepare_cached("SELECT id FROM series WHERE profile_type = ?1 AND labels = ?2")?;
    let mut add = db.prepare_cached("INSERT INTO segment_series VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for SegmentSeries { id: local, key, range, .. } in series {
        let key = [key.profile_type.to_string(), labels_to_json(key)];
        crc = crc.wrapping_add(held_crc(*local, *range, series_crc(&key[0], &key[1])));
        add_series.execute([&key[0], &key[1]])?;
        let series: i64 = find_series.query_row([&key[0], &key[1]], |row| row.get(0))?;
        add.execute(params![id, local, series, range.start.0, range.end.0])?;
    }
    db.execute("UPDATE segments SET series_crc32c = ?2 WHERE id = ?1", params![id, crc])?;
    Ok(())
}

/// A removed segment keeps its series until it is forgotten: a query that began before may still ask for them.
fn retire(db: &Transaction<'_>, name: &str, why: Retired) -> Sql<()> {
    db.execute("UPDATE segments SET state = ?2 WHERE name = ?1", params![name, why.state()])?;
    if why == Retired::Quarantined {
        delete_series(db, name)?;
    }
    Ok(())
}

fn delete_series(db: &Transaction<'_>, segment: &str) -> Sql<()> {
    let of = "DELETE FROM segment_series WHERE segment IN (SELECT id FROM segments WHERE name = ?1)";
    db.execute(of, [segment])?;
    Ok(())
}

/// The checksums of the series by their ids; `None` where one is not legible.
fn fill_series(db: &Connection, index: &mut Filling) -> Sql<Option<HashMap<i64, u32>>> {
    let mut crcs = HashMap::new();
    let mut query = db.prepare("SELECT id, profile_type, labels FROM series")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (profile_type, labels): (String, String) = (row.get(1)?, row.get(2)?);
        let Some(key) = parse_key(&profile_type, &labels) else { return Ok(None) };
        let id = row.get(0)?;
        crcs.insert(id, series_crc(&profile_type, &labels));
        index.series(id, &key);
    }
    Ok(Some(crcs))
}

/// False where a segment holds what is no series, or is not what was added.
fn fill_segments(db: &Connection, index: &mut Filling, crcs: &HashMap<i64, u32>) -> Sql<bool> {
    let mut query = db.prepare("SELECT id, name, series_crc32c FROM segments WHERE state = 'live'")?;
    let segments = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let segments: Vec<(i64, String, Option<u32>)> = segments.collect::<Sql<_>>()?;
    let mut query =
        db.prepare("SELECT local, series, min_time_ms, max_time_ms FROM segment_series WHERE segment = ?1")?;
    for (id, name, expected) in segments {
        let held = query.query_map([id], |row| {
            Ok((row.get(0)?, row.get(1)?, TimeRange::new(UnixMs(row.get(2)?), UnixMs(row.get(3)?))))
        })?;
        let held = held.collect::<Sql<Vec<(u32, i64, TimeRange)>>>()?;
        let of_held =
            held.iter().filter_map(|(local, id, range)| Some(held_crc(*local, *range, *crcs.get(id)?)));
        let crc = of_held.fold(0, u32::wrapping_add);
        // Older releases wrote none.
        let is_changed = expected.is_some_and(|expected| expected != crc);
        if is_changed || index.segment(&name, &held).is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
