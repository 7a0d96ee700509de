//! `segment.json`: what a segment holds, and what its files must hash to.

use std::collections::BTreeMap;
use std::path::Path;

use pyrite_model::{TimeRange, UnixMs};
use serde::{Deserialize, Serialize};

use super::SegmentInfo;
use crate::StoreError;
use crate::files::{FileLayer, read_all};
use crate::table::TableIndex;

/// The newest segment format; every older one stays readable (I8).
pub(crate) const FORMAT: u64 = 1;
/// The manifest's file name.
pub(crate) const FILE: &str = "segment.json";

/// The first line of `segment.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u64,
    pub(crate) level: u32,
    /// Rows of all WAL generations up to this one are in this segment or an older one.
    pub(crate) flushed_through: u64,
    /// Names of the segments whose rows this one holds in their place.
    pub(crate) replaces: Vec<String>,
    pub(crate) min_time_ms: i64,
    pub(crate) max_time_ms: i64,
    pub(crate) rows: u64,
    /// First and last time of each row group of the samples.
    pub(crate) windows: Vec<(i64, i64)>,
    /// By file name.
    pub(crate) tables: BTreeMap<String, TableIndex>,
}

/// Only this much of a manifest is understood whatever its version.
#[derive(Deserialize)]
struct AnyVersion {
    format: u64,
}

impl Manifest {
    pub(crate) fn range(&self) -> TimeRange {
        TimeRange::new(UnixMs(self.min_time_ms), UnixMs(self.max_time_ms))
    }

    pub(crate) fn info(&self, name: &str) -> SegmentInfo {
        SegmentInfo {
            name: name.to_owned(),
            level: self.level,
            range: self.range(),
            rows: self.rows,
            bytes: self.tables.values().map(|table| table.bytes).sum(),
        }
    }

    /// Writes the manifest into a segment's directory and syncs it.
    pub(crate) fn write(&self, files: &dyn FileLayer, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(FILE);
        let line = serde_json::to_string(self).expect("a manifest has string keys and finite numbers");
        let text = format!("{line}\n{:08x}\n", crc32c::crc32c(line.as_bytes()));
        let mut file = files.create(&path).map_err(StoreError::io("create", &path))?;
        file.append(text.as_bytes()).and_then(|()| file.sync()).map_err(StoreError::io("write", &path))
    }

    /// Reads and checks the manifest in a segment's directory.
    pub(crate) fn read(files: &dyn FileLayer, dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let bytes = read_all(files, &path).map_err(StoreError::io("read", &path))?;
        let bad = |what| move || StoreError::Corrupt { path: dir.join(FILE), what };
        let text = std::str::from_utf8(&bytes).ok().ok_or_else(bad("it is not text"))?;
        let (line, rest) = text.split_once('\n').ok_or_else(bad("it has no checksum"))?;
        let crc = u32::from_str_radix(rest.trim_end(), 16).ok().ok_or_else(bad("it has no checksum"))?;
        if crc32c::crc32c(line.as_bytes()) != crc {
            return Err(bad("its checksum does not match")());
        }
        let version: AnyVersion = serde_json::from_str(line).ok().ok_or_else(bad("it states no format"))?;
        if version.format > FORMAT {
            return Err(StoreError::Newer { path, found: version.format, supported: FORMAT });
        }
        let manifest: Self = serde_json::from_str(line).ok().ok_or_else(bad("a field is missing"))?;
        let groups = manifest.tables.get(super::schema::SAMPLES.file).map(|table| table.row_groups.len());
        if groups != Some(manifest.windows.len()) {
            return Err(bad("it lists another number of windows than row groups")());
        }
        Ok(manifest)
    }
}
