//! The catalogue: which segments there are and which series are in them, in `SQLite`.
//!
//! Segments describe themselves, so the catalogue can be made anew from them; it exists so that a start learns what
//! series there are without opening every segment, and so that adding a segment in the place of others is one
//! transaction. Queries do not come here: the series index is in memory.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

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
const SCHEMA_VERSION: u64 = 2;

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
        stacks INTEGER
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
";

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
            FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error,
        };
        match error {
            StoreError::Corrupt { .. } => true,
            StoreError::Catalogue { source, .. } => match source {
                FromSqlConversionFailure(..)
                | IntegralValueOutOfRange(..)
                | InvalidColumnType(..)
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
            let mut query = db.prepare_cached(
                "SELECT name, level, min_time_ms, max_time_ms, rows, bytes, epoch, stacks FROM segments
                 WHERE state = ?1 ORDER BY min_time_ms, name",
            )?;
            let rows = query.query_map([state], |row| {
                Ok(SegmentInfo {
                    name: row.get(0)?,
                    level: row.get(1)?,
                    range: TimeRange::new(UnixMs(row.get(2)?), UnixMs(row.get(3)?)),
                    rows: unsigned(row, 4)?,
                    bytes: unsigned(row, 5)?,
                    dictionary: dictionary(row)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Rows of WAL generations up to this one are in segments.
    pub(crate) fn flushed_through(&self) -> Result<u64, StoreError> {
        let query = "SELECT value FROM meta WHERE key = 'flushed_through'";
        let found = self.read(|db| db.query_row(query, [], |row| unsigned(row, 0)).optional())?;
        Ok(found.unwrap_or(0))
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
            db.execute(
                "INSERT INTO meta VALUES ('flushed_through', ?1)
                 ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
                [flushed_through as i64],
            )?;
            insert_segment(db, segment, series)?;
            replaces.iter().try_for_each(|name| retire(db, name, Retired::Removed))
        })
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
        let legible = self.read(|db| Ok(fill_series(db, index)? && fill_segments(db, index)?))?;
        if legible { Ok(()) } else { Err(StoreError::corrupt(&self.path, "a series is not legible")) }
    }

    /// Moves all that was written into the database file itself.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        let checkpointed = lock(&self.db).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        checkpointed.map_err(|source| error(&self.path, source))
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

fn dictionary(row: &Row<'_>) -> Sql<Option<DictionaryUse>> {
    let (epoch, stacks): (Option<u32>, Option<i64>) = (row.get(6)?, row.get(7)?);
    Ok(epoch
        .zip(stacks)
        .map(|(epoch, stacks)| DictionaryUse { epoch: EpochId(epoch), stacks: stacks as usize }))
}

fn error(path: &Path, source: rusqlite::Error) -> StoreError {
    StoreError::Catalogue { path: path.to_owned(), source }
}

fn insert_segment(db: &Transaction<'_>, segment: &SegmentInfo, series: &[SegmentSeries]) -> Sql<()> {
    let SegmentInfo { name, level, range, rows, bytes, dictionary } = segment;
    let (epoch, stacks) = dictionary.map(|used| (used.epoch.0, used.stacks as i64)).unzip();
    delete_series(db, name)?;
    db.execute("DELETE FROM segments WHERE name = ?1", [name])?;
    db.execute(
        "INSERT INTO segments (name, state, level, min_time_ms, max_time_ms, rows, bytes, epoch, stacks)
         VALUES (?1, 'live', ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![name, level, range.start.0, range.end.0, *rows as i64, *bytes as i64, epoch, stacks],
    )?;
    let id = db.last_insert_rowid();
    let mut add_series = db
        .prepare_cached("INSERT INTO series (profile_type, labels) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    let mut find_series =
        db.prepare_cached("SELECT id FROM series WHERE profile_type = ?1 AND labels = ?2")?;
    let mut add = db.prepare_cached("INSERT INTO segment_series VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for SegmentSeries { id: local, key, range, .. } in series {
        let key = [key.profile_type.to_string(), labels_to_json(key)];
        add_series.execute([&key[0], &key[1]])?;
        let series: i64 = find_series.query_row([&key[0], &key[1]], |row| row.get(0))?;
        add.execute(params![id, local, series, range.start.0, range.end.0])?;
    }
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

/// False where a series is not legible.
fn fill_series(db: &Connection, index: &mut Filling) -> Sql<bool> {
    let mut query = db.prepare("SELECT id, profile_type, labels FROM series")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (profile_type, labels): (String, String) = (row.get(1)?, row.get(2)?);
        let Some(key) = parse_key(&profile_type, &labels) else { return Ok(false) };
        index.series(row.get(0)?, &key);
    }
    Ok(true)
}

/// False where a segment holds what is no series.
fn fill_segments(db: &Connection, index: &mut Filling) -> Sql<bool> {
    let mut query = db.prepare("SELECT id, name FROM segments WHERE state = 'live'")?;
    let segments = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let segments: Vec<(i64, String)> = segments.collect::<Sql<_>>()?;
    let mut query =
        db.prepare("SELECT local, series, min_time_ms, max_time_ms FROM segment_series WHERE segment = ?1")?;
    for (id, name) in segments {
        let held = query.query_map([id], |row| {
            Ok((row.get(0)?, row.get(1)?, TimeRange::new(UnixMs(row.get(2)?), UnixMs(row.get(3)?))))
        })?;
        if index.segment(&name, &held.collect::<Sql<Vec<(u32, i64, TimeRange)>>>()?).is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}
