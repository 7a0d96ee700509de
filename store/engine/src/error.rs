//! What can go wrong, told apart by what the caller can do about it.
//!
//! [`StoreError`] is about files, [`AppendError`] says whether to retry, [`QueryError`] whether to ask differently.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parquet::errors::ParquetError;

/// A failure of the store's own files.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process uses the data directory.
    #[error("{} is in use by the process with pid {}", dir.display(), pid.map_or("unknown".into(), |p| p.to_string()))]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The pid that the holder wrote into its lock file.
        pid: Option<u32>,
    },
    /// Written by a newer release; left as it is.
    #[error("{} has format version {found}, this release reads up to {supported}; use a newer release", path.display())]
    Newer {
        /// The file that says so.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version known here.
        supported: u64,
    },
    /// The file does not hold what was written to it.
    #[error("{} is damaged: {what}", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A Parquet file could not be written or does not decode.
    #[error("{}: {source}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the Parquet library said.
        #[source]
        source: ParquetError,
    },
    /// The catalogue failed.
    #[error("catalogue {}: {source}", path.display())]
    Catalogue {
        /// The database file.
        path: PathBuf,
        /// What `SQLite` said.
        #[source]
        source: rusqlite::Error,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Wraps the error of a file operation.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// A damaged file.
    pub(crate) fn corrupt(path: &Path, what: &'static str) -> Self {
        Self::Corrupt { path: path.to_owned(), what }
    }

    /// The error with its cause, where its own text leaves that to [`source`](std::error::Error::source).
    pub(crate) fn in_full(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }

    /// Whether the file itself is bad, so that trying again will not help.
    pub(crate) fn is_corrupt(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            // What the library could not read is an error of ours; what it could not parse is an error of the file.
            Self::Parquet { source, .. } => !matches!(source, ParquetError::External(_)),
            Self::Io { source, .. } => source.kind() == io::ErrorKind::UnexpectedEof,
            _ => false,
        }
    }

    /// Whether the file is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether there was no room on the disk.
    pub(crate) fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => disk_full(source),
            Self::Parquet { source: ParquetError::External(source), .. } => {
                source.downcast_ref::<io::Error>().is_some_and(disk_full)
            }
            Self::Catalogue { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            _ => false,
        }
    }
}

fn disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why a batch was not stored. Nothing of it is visible then.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// More is waiting than the store may hold; try again later.
    #[error("the store is overloaded: {what}")]
    Overloaded {
        /// Which bound was met.
        what: &'static str,
    },
    /// It has series that are new, and there are as many as may be; there is room again when old ones have gone.
    #[error("the store holds {limit} series, as many as it may, and the batch has new ones")]
    TooManySeries {
        /// The limit.
        limit: usize,
    },
    /// It is the first of its tenant, and there are as many tenants as may be; there is room again when one has gone.
    #[error("the store holds {limit} tenants, as many as it may, and the batch is of a new one")]
    TooManyTenants {
        /// The limit.
        limit: usize,
    },
    /// No room on the disk; try again when there is.
    #[error("the disk is full")]
    DiskFull {
        /// What the system said.
        #[source]
        source: Arc<StoreError>,
    },
    /// The log could not be written.
    #[error("the write-ahead log could not be written: {source}")]
    Io {
        /// What the system said.
        #[source]
        source: Arc<StoreError>,
    },
    /// The batch contradicts itself or cannot be told from another once stored.
    #[error("malformed batch: {what}")]
    Invalid {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The batch is larger than the store takes at once.
    #[error("batch of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl AppendError {
    /// Every reason's stable short name, as metrics show it.
    pub const REASONS: [&'static str; 8] = [
        "overloaded",
        "disk_full",
        "io",
        "invalid",
        "too_large",
        "closed",
        "too_many_series",
        "too_many_tenants",
    ];

    /// The reason's stable short name.
    pub fn reason(&self) -> &'static str {
        Self::REASONS[self.index()]
    }

    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Overloaded { .. } => 0,
            Self::DiskFull { .. } => 1,
            Self::Io { .. } => 2,
            Self::Invalid { .. } => 3,
            Self::TooLarge { .. } => 4,
            Self::Closed => 5,
            Self::TooManySeries { .. } => 6,
            Self::TooManyTenants { .. } => 7,
        }
    }

    pub(crate) fn from_write(source: StoreError) -> Self {
        let full = source.is_disk_full();
        let source = Arc::new(source);
        if full { Self::DiskFull { source } } else { Self::Io { source } }
    }
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The store's files failed in a way that retrying may cure.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Steps shorter than a millisecond cannot be told apart.
    #[error("step must be at least 1 ms, got {step_ms} ms")]
    BadStep {
        /// The step asked for.
        step_ms: i64,
    },
    /// Nobody waits for the answer any more.
    #[error("the query was cancelled")]
    Cancelled,
    /// The time that the query was given is over.
    #[error("the query took longer than the {} s that it may; ask for a shorter window or fewer series", limit.as_secs_f64())]
    TimedOut {
        /// That time.
        limit: Duration,
    },
    /// The query needs more memory than one may.
    #[error(
        "the query holds {bytes} bytes of memory, more than the {limit} that one may; ask for a shorter window, fewer series or fewer groups"
    )]
    TooMuchMemory {
        /// What it held by estimate when it was stopped.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// All queries together need more than they may, and this one is among the large ones.
    #[error(
        "the queries under way hold {bytes} bytes of memory, more than the {limit} that they may, and this one more than its share; try again later, or ask for a shorter window or fewer series"
    )]
    MemoryTaken {
        /// What they held by estimate.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The answer would be larger than the store gives.
    #[error("the answer has more than {limit} points; ask for a longer step or a shorter window")]
    TooManyPoints {
        /// The limit.
        limit: usize,
    },
    /// There are more profiles than the store tells apart in one answer.
    #[error("the window holds more than {limit} profiles; ask for a shorter one or for fewer series")]
    TooManyProfiles {
        /// The limit.
        limit: usize,
    },
    /// More is to be compared with what was before it than the store holds at once.
    #[error(
        "more than {limit} values would have to be compared with those before them at once; ask for fewer series"
    )]
    TooManyToCompare {
        /// The limit.
        limit: usize,
    },
}
