//! What a store is told when it is opened, and its defaults.

use std::path::PathBuf;
use std::time::Duration;

const MIB: usize = 1 << 20;

/// Where the data lives and how much of it is kept.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The data directory; made if it is not there. One process at a time.
    pub dir: PathBuf,
    /// When stored rows are removed.
    pub retention: Retention,
    /// How long damaged segments are kept.
    pub quarantine: QuarantineLimits,
    /// When appended batches are written and acknowledged.
    pub commit: CommitPolicy,
    /// When the head becomes a segment.
    pub flush: FlushPolicy,
    /// What may be held in memory and in flight.
    pub limits: Limits,
}

impl StoreConfig {
    /// The defaults for everything but the place.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            retention: Retention::default(),
            quarantine: QuarantineLimits::default(),
            commit: CommitPolicy::default(),
            flush: FlushPolicy::default(),
            limits: Limits::default(),
        }
    }
}

/// What is removed, oldest segment first. Both bounds hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A segment whose newest row is older than this is removed.
    pub max_age: Duration,
    /// Segments are removed until the segments and the WAL together take no more than this.
    pub max_bytes: u64,
}

impl Default for Retention {
    /// 30 days and 10 GiB.
    fn default() -> Self {
        Self { max_age: Duration::from_hours(30 * 24), max_bytes: 10 << 30 }
    }
}

/// What is removed from quarantine, the segment that was set aside first going first. Both bounds hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantineLimits {
    /// A segment that was set aside longer ago than this is removed.
    pub max_age: Duration,
    /// Segments are removed until the rest takes no more than this. It is beside what [`Retention`] allows.
    pub max_bytes: u64,
}

impl Default for QuarantineLimits {
    /// 30 days and 1 GiB.
    fn default() -> Self {
        Self { max_age: Duration::from_hours(30 * 24), max_bytes: 1 << 30 }
    }
}

/// How batches share one write and one sync of the log. A batch is acknowledged after that, whatever is set here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPolicy {
    /// How long a batch may wait for others, a second at most. At zero none waits: those share a sync that came in while the
    /// one before was under way.
    pub interval: Duration,
    /// Bytes of the log from which on a group waits for no more.
    pub max_bytes: usize,
}

impl Default for CommitPolicy {
    /// No wait, 4 MiB.
    fn default() -> Self {
        Self { interval: Duration::ZERO, max_bytes: 4 * MIB }
    }
}

/// The head is flushed when the first of these is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Rows in the head.
    pub max_rows: usize,
    /// Estimated memory of the head: rows and dictionary.
    pub max_bytes: usize,
    /// Time since the head took its first row.
    pub max_age: Duration,
}

impl Default for FlushPolicy {
    /// Two million rows, 24 MiB, four minutes.
    ///
    /// Four minutes because the memory of the process then reaches its plateau within its first five; the small
    /// segments that this makes are merged by the hour.
    fn default() -> Self {
        Self { max_rows: 2_000_000, max_bytes: 24 * MIB, max_age: Duration::from_mins(4) }
    }
}

/// Bounds on memory, each with a clear refusal behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Appends that wait for the writer; one more is refused as overloaded.
    pub queued_appends: usize,
    /// Estimated memory of the appends that wait; beyond it the next is refused as overloaded.
    pub queued_bytes: usize,
    /// Encoded size of one batch; a larger one is refused for good.
    pub batch_bytes: usize,
    /// Memory of the dictionaries and file indexes of segments that queries keep for reuse.
    pub cache_bytes: usize,
    /// Threads that read for one query.
    pub query_threads: usize,
    /// Points that one series query may return.
    pub query_points: usize,
    /// Values that one query may hold to compare others with them, 32 bytes each; see what is said of cumulative profiles.
    pub compared_values: usize,
    /// Estimated memory that one query may hold; beyond it the query is refused.
    pub query_bytes: usize,
    /// The same of all queries under way together; beyond it those that hold more than their share are refused.
    pub queries_bytes: usize,
    /// Distinct series, all of which are in memory; an append that would make one more is refused.
    pub series: usize,
    /// Tenants with rows; a batch of one more is refused.
    pub tenants: usize,
    /// Stack nodes of one dictionary, some 20 bytes of memory each; when it has them the head is flushed and the next one begins.
    pub dictionary_stacks: usize,
    /// Estimated memory of one dictionary, its names included, at which the same happens.
    pub dictionary_bytes: usize,
    /// Stack nodes from which on the next one begins when the head is flushed anyway: where most stacks are new, an old
    /// dictionary is of little use to them.
    pub dictionary_turn_stacks: usize,
    /// Estimated memory of older dictionaries that are kept for the next query.
    pub old_dictionary_bytes: usize,
    /// Stacks, and as many functions, that appends find in the dictionary by a fingerprint of 16 bytes; 25 to 50 bytes of
    /// memory each. When there are more all are forgotten and looked up again as they come.
    pub remembered_stacks: usize,
    /// Rows from which on a segment has sums by minute, hour and day besides them.
    pub sums_from_rows: u64,
}

impl Limits {
    /// For a store beside the programs that it is about, on a node whose memory is theirs.
    pub fn of_a_node() -> Self {
        Self {
            cache_bytes: 8 * MIB,
            dictionary_stacks: 500_000,
            dictionary_bytes: 32 * MIB,
            dictionary_turn_stacks: 100_000,
            old_dictionary_bytes: 16 * MIB,
            remembered_stacks: full_table(1 << 14),
            ..Self::default()
        }
    }
}

impl Default for Limits {
    /// For a machine that does nothing else.
    fn default() -> Self {
        Self {
            queued_appends: 256,
            queued_bytes: 64 * MIB,
            batch_bytes: 32 * MIB,
            cache_bytes: 32 * MIB,
            query_threads: std::thread::available_parallelism().map_or(1, Into::into).min(4),
            query_points: 2_000_000,
            compared_values: 500_000,
            query_bytes: 64 * MIB,
            queries_bytes: 96 * MIB,
            series: 1_000_000,
            tenants: 1_000,
            dictionary_stacks: 1_000_000,
            dictionary_bytes: 128 * MIB,
            dictionary_turn_stacks: 1_000_000,
            old_dictionary_bytes: 128 * MIB,
            remembered_stacks: full_table(1 << 18),
            sums_from_rows: 50_000,
        }
    }
}

/// How many entries a hash table of so many slots takes before it doubles.
const fn full_table(slots: usize) -> usize {
    slots / 8 * 7
}
