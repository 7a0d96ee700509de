//! What a data directory holds and what it takes: segments by level and age, their sums, tenants, dictionaries, log. Read
//! from the manifests, so that it is told of a damaged catalogue, too.

mod survey;

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use self::survey::Survey;
use super::format_of;
use crate::StoreError;
use crate::files::{FileLayer, RealFiles};
use crate::lock::DirLock;
use crate::shared::Layout;

const HOUR_MS: i64 = 3_600_000;

/// How long ago the newest row of a segment was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgeBand {
    /// Less than an hour, or in the future.
    Hour,
    /// Less than a day.
    Day,
    /// Less than a week.
    Week,
    /// Less than 30 days.
    Month,
    /// More.
    Older,
}

impl AgeBand {
    fn of(age_ms: i64) -> Self {
        match age_ms / HOUR_MS {
            hours if hours < 1 => Self::Hour,
            hours if hours < 24 => Self::Day,
            hours if hours < 7 * 24 => Self::Week,
            hours if hours < 30 * 24 => Self::Month,
            _ => Self::Older,
        }
    }

    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Hour => "under 1 h",
            Self::Day => "under 1 d",
            Self::Week => "under 7 d",
            Self::Month => "under 30 d",
            Self::Older => "older",
        }
    }
}

/// Segments of one signal, level and age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupStats {
    /// What the rows are of.
    pub signal: &'static str,
    /// 0 flushed, more after each merge.
    pub level: u32,
    /// By the newest row.
    pub age: AgeBand,
    /// How many there are.
    pub segments: u64,
    /// Rows in them; a row is one sample as it was stored.
    pub rows: u64,
    /// Bytes of all their files, those of sums included.
    pub bytes: u64,
    /// Of the rows, in ms since the Unix epoch.
    pub oldest_ms: i64,
    /// Likewise.
    pub newest_ms: i64,
}

/// Sums of one resolution in the segments of one level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SumsStats {
    /// Of the segments.
    pub level: u32,
    /// `stacks`, or `totals`, which are without.
    pub of: &'static str,
    /// How long a time is added up; 1 for totals at each millisecond.
    pub bucket_ms: i64,
    /// Segments that have them.
    pub segments: u64,
    /// Rows that they are.
    pub rows: u64,
    /// Bytes of their files, which are among those of the segments.
    pub bytes: u64,
}

/// What is a tenant's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TenantStats {
    /// Its name.
    pub tenant: String,
    /// Distinct series.
    pub series: u64,
    /// Rows in segments and log. What bytes are a tenant's cannot be told: files are shared.
    pub rows: u64,
    /// Time of the oldest row, in ms since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// And of the newest.
    pub newest_ms: Option<i64>,
}

/// A dictionary that segments and logs share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EpochStats {
    /// Its number.
    pub epoch: u32,
    /// Segments that refer to it.
    pub segments: u64,
    /// Directories that it is in.
    pub parts: u64,
    /// Stack nodes in them.
    pub stacks: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// A file of the write-ahead log that is not in a segment yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LogStats {
    /// Its number.
    pub generation: u64,
    /// Of its format; `None` where its header is not legible.
    pub version: Option<u32>,
    /// The dictionary that its rows are of; `None` where they have one of their own, as in version 1.
    pub epoch: Option<u32>,
    /// Records, each a push, that can be read back.
    pub records: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Of these, what is no whole record.
    pub unusable_bytes: u64,
    /// Time of the oldest row, in ms since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// And of the newest.
    pub newest_ms: Option<i64>,
}

/// What quarantine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QuarantineStats {
    /// Segments.
    pub segments: u64,
    /// Rows that queries lack, as far as that is known.
    pub rows: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// When those rows were, in ms since the Unix epoch: the oldest.
    pub oldest_ms: Option<i64>,
    /// And the newest.
    pub newest_ms: Option<i64>,
}

/// All of a data directory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DirStats {
    /// Version of the layout.
    pub format: u64,
    /// Pid of the Pyrite that works on it, if one does; 0 where that is not legible.
    pub running_pid: Option<u32>,
    /// The segments.
    pub groups: Vec<GroupStats>,
    /// Their sums.
    pub sums: Vec<SumsStats>,
    /// Segments whose manifest cannot be read, which are in none of the groups, or whose list of series cannot, so that
    /// their rows are in none of the tenants.
    pub unreadable: Vec<String>,
    /// Whose the rows are, by name.
    pub tenants: Vec<TenantStats>,
    /// Distinct series, of all tenants.
    pub series: u64,
    /// What stacks are made of.
    pub dictionaries: Vec<EpochStats>,
    /// What is not in segments yet.
    pub logs: Vec<LogStats>,
    /// Bytes that were cut from logs and are kept beside them.
    pub cut_bytes: u64,
    /// The catalogue's files.
    pub catalogue_bytes: u64,
    /// What was set aside.
    pub quarantine: QuarantineStats,
    /// Rows in segments and log.
    pub rows: u64,
    /// Bytes of segments, dictionaries, log and catalogue.
    pub bytes: u64,
    /// One by the other; `None` without rows.
    pub bytes_per_sample: Option<f64>,
    /// Time of the oldest row, in ms since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// And of the newest.
    pub newest_ms: Option<i64>,
}

/// Reads what a directory holds. Takes no lock and changes nothing.
///
/// # Errors
/// When it cannot be read, or a newer release wrote it.
pub fn stats(dir: &Path) -> Result<DirStats, StoreError> {
    let files: Arc<dyn FileLayer> = Arc::new(RealFiles);
    let layout = Layout::new(dir.to_owned());
    let format = format_of(files.as_ref(), &layout)?;
    let running = DirLock::holder(&layout.lock)?;
    let mut survey = Survey::new(&files, &layout);
    survey.segments()?;
    survey.logs()?;
    survey.dictionaries()?;
    survey.rest();
    Ok(survey.finish(format, running.map(|holder| holder.pid.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_fall_into_bands() {
        for (hours, band) in [
            (-5, AgeBand::Hour),
            (0, AgeBand::Hour),
            (1, AgeBand::Day),
            (23, AgeBand::Day),
            (24, AgeBand::Week),
            (168, AgeBand::Month),
            (720, AgeBand::Older),
        ] {
            assert_eq!(AgeBand::of(hours * HOUR_MS), band, "{hours} h");
        }
        assert_eq!(AgeBand::of(i64::MAX), AgeBand::Older);
    }
}
