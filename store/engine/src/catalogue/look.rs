//! The catalogue seen by who may not change it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;

use pyrite_model::{SeriesKey, TimeRange, UnixMs};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Catalogue, SCHEMA_VERSION, error, unsigned};
use crate::StoreError;
use crate::segment::series::parse_key;

/// What older versions lack, for one who may not change the file: `temp` comes before `main`.
const AS_IF_FROM_VERSION_1: &str = "CREATE TEMP VIEW segments AS
    SELECT *, NULL AS epoch, NULL AS stacks, NULL AS crc32c, NULL AS series_crc32c FROM main.segments";
const AS_IF_FROM_VERSION_2: &str =
    "CREATE TEMP VIEW segments AS SELECT *, NULL AS crc32c, NULL AS series_crc32c FROM main.segments";

impl Catalogue {
    /// Opens the database to look at it: nothing is made, changed or brought up to date. Where there is no log of its own
    /// beside it, not even the files appear by which `SQLite` tells others that it reads.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let has_log = std::fs::metadata(path.with_extension("sqlite-wal")).is_ok_and(|log| log.len() > 0);
        let uri = read_only_uri(path, !has_log);
        let opened = Connection::open_with_flags(uri, flags).and_then(|db| {
            db.busy_timeout(std::time::Duration::from_secs(10))?;
            let version = db.query_row("PRAGMA user_version", [], |row| unsigned(row, 0))?;
            db.execute_batch(match version {
                1 => AS_IF_FROM_VERSION_1,
                2 => AS_IF_FROM_VERSION_2,
                _ => "",
            })?;
            Ok((db, version))
        });
        let (db, version) = opened.map_err(|source| error(path, source))?;
        if version > SCHEMA_VERSION {
            return Err(StoreError::Newer { path: path.into(), found: version, supported: SCHEMA_VERSION });
        }
        Ok(Self { path: path.into(), db: Mutex::new(db) })
    }

    /// Whether an error says that the database can be looked at only by who may write beside it: `SQLite` makes a file there
    /// to read a log that is not in the database yet.
    pub(crate) fn needs_writing(error: &StoreError) -> bool {
        let StoreError::Catalogue { source, .. } = error else { return false };
        matches!(source.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
    }

    /// What `SQLite` itself finds to be wrong with the file.
    pub(crate) fn faults(&self) -> Result<Vec<String>, StoreError> {
        let found: Vec<String> = self.read(|db| {
            let mut query = db.prepare("PRAGMA integrity_check(10)")?;
            query.query_map([], |row| row.get(0))?.collect()
        })?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// The series of a segment by the ids that its samples use, in order, as far as they are legible, and when each has rows.
    pub(crate) fn series_of(&self, segment: &str) -> Result<Vec<(u32, SeriesKey, TimeRange)>, StoreError> {
        let found: Vec<(u32, String, String, TimeRange)> = self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT local, profile_type, labels, held.min_time_ms, held.max_time_ms
                 FROM segment_series held JOIN series ON series.id = held.series
                 WHERE held.segment = (SELECT id FROM segments WHERE name = ?1) ORDER BY local",
            )?;
            let rows = query.query_map([segment], |row| {
                let range = TimeRange::new(UnixMs(row.get(3)?), UnixMs(row.get(4)?));
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, range))
            })?;
            rows.collect()
        })?;
        let legible = |(local, profile_type, labels, range): (_, String, String, _)| {
            Some((local, parse_key(&profile_type, &labels)?, range))
        };
        Ok(found.into_iter().filter_map(legible).collect())
    }
}

/// The file as `SQLite`'s URIs name it; an immutable one is read without a look at what others do to it.
fn read_only_uri(path: &Path, immutable: bool) -> String {
    let escaped = path.as_os_str().as_encoded_bytes().iter().fold(String::new(), |mut uri, byte| {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                uri.push(char::from(*byte));
            }
            other => write!(uri, "%{other:02X}").expect("a string takes all"),
        }
        uri
    });
    format!("file:{escaped}{}", if immutable { "?immutable=1" } else { "" })
}
