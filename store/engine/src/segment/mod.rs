//! A segment: a directory of Parquet files that never changes once it has its name.
//!
//! ```text
//! samples.parquet    series, time_ms, stack, value             in row groups that follow each other in time
//! series.parquet     series, profile_type, labels, min_time_ms, max_time_ms, rows
//! rollup-Ns.parquet  the same for buckets of N seconds, where that is much less
//! stacks.parquet     stack, dictionary_stack, rows             which stack of the epoch each one is
//! segment.json       the manifest, and on its second line the crc32c of the first
//! ```
//!
//! `FORMAT.md` beside this crate is the full description. Neighbours: `write` makes segments, `read` opens them and
//! `row_table` their files of rows, `v1` knows the symbols that segments of format 1 have in them.

mod cover;
pub(crate) mod manifest;
pub(crate) mod read;
pub(crate) mod rollup;
pub(crate) mod row_table;
pub(crate) mod schema;
pub(crate) mod series;
mod v1;
pub(crate) mod write;

use std::collections::BTreeMap;

use pyrite_model::TimeRange;

pub(crate) use self::cover::ceil;
use self::manifest::DictionaryUse;
pub(crate) use self::v1::read_stacks as own_stacks;
use crate::dictionary::EpochId;

/// What the store keeps in memory of every segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentInfo {
    /// The directory's name.
    pub(crate) name: String,
    /// 0 as flushed, more after each merge.
    pub(crate) level: u32,
    /// The window that its rows lie in.
    pub(crate) range: TimeRange,
    pub(crate) rows: u64,
    /// Length of all its files.
    pub(crate) bytes: u64,
    /// `None` where it has one of its own, as in format 1.
    pub(crate) dictionary: Option<DictionaryUse>,
}

/// How many stacks of each epoch segments refer to.
pub(crate) fn stacks_in_use(used: impl Iterator<Item = DictionaryUse>) -> BTreeMap<EpochId, usize> {
    let mut in_use = BTreeMap::new();
    for DictionaryUse { epoch, stacks } in used {
        let known = in_use.entry(epoch).or_insert(0);
        *known = stacks.max(*known);
    }
    in_use
}

/// The name of the segment that holds the rows of these WAL generations.
pub(crate) fn name(first: u64, last: u64, level: u32) -> String {
    format!("{first:016}-{last:016}-l{level}")
}

/// The first and last WAL generation that a segment's name states.
pub(crate) fn generations(name: &str) -> Option<(u64, u64)> {
    let (first, rest) = name.split_once('-')?;
    let (last, _level) = rest.split_once("-l")?;
    Some((first.parse().ok()?, last.parse().ok()?))
}
