//! The embedded store: what producers append survives a crash, is queryable at once, and ends up in open files.
//!
//! ```text
//! append ─▶ writer: WAL, sync, head ─▶ acknowledged
//!                        │ every few minutes
//!                        ▼
//!           maintenance: segment (Parquet) ─▶ catalogue (`SQLite`) ─▶ WAL file removed ─▶ merged by hour and day
//! queries  ◀─ one view: head, frozen heads, segments
//! ```
//!
//! `FORMAT.md` describes the files. [`Store`] is the whole interface; it knows no HTTP and no kernel.

#![forbid(unsafe_code)]

mod assemble;
mod block_sums;
mod cache;
mod catalogue;
mod config;
mod deltas;
mod dictionary;
mod error;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
mod job;
mod lock;
mod maintain;
mod merge;
mod metrics;
pub mod offline;
mod open;
mod profiles;
mod quarantine;
mod query;
mod rows;
mod scan;
mod sealed;
mod segment;
mod series_index;
mod shared;
mod store;
mod stored_key;
mod sums;
mod sync;
mod table;
#[cfg(test)]
mod tests;
mod timeline;
mod varint;
mod wal;
mod writer;

pub use config::{CommitPolicy, FlushPolicy, Limits, QuarantineLimits, Retention, StoreConfig};
pub use error::{AppendError, QueryError, StoreError};
pub use job::{QueryStatus, Stop};
pub use open::{Finding, OpenReport};
pub use profiles::SeriesProfiles;
pub use query::StackQuery;
pub use store::{Store, StoreStats};
pub use timeline::{GroupSeries, SeriesQuery};
