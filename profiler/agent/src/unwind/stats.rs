//! How unwinding goes: gauges of everything bounded, counters of everything refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::unwind::tables::TableCounts;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// How many there are.
            pub const COUNT: usize = [$(Self::$variant),*].len();
            /// All of them.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant),*];

            /// The stable short name, used as the metric label.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }
        }
    };
}

reasons! {
    /// Why something that the BPF programs should know could not be told them.
    PublishFailure {
        /// No chunk was free; the mapping set is published once there is one.
        NoChunk = "no_chunk",
        /// The map of processes was full.
        ProcessesFull = "processes_full",
        /// A process has more mappings than can be searched; the first ones were published.
        TooManyMappings = "too_many_mappings",
        /// Every index of executables was in use.
        ExecutablesFull = "executables_full",
        /// The kernel refused for another reason.
        Refused = "refused",
        /// The kernel made no further slab.
        NoSlab = "no_slab",
        /// More files came than could be opened; those that stay mapped are opened later.
        FilePostponed = "file_postponed",
    }
}

reasons! {
    /// Why an executable has no table.
    Absence {
        /// Its file could not be read.
        Io = "io",
        /// Its file ends too early.
        Truncated = "truncated",
        /// No ELF file, or a malformed one.
        Malformed = "malformed",
        /// For another machine.
        OtherArchitecture = "other_architecture",
        /// Nothing in it is loaded.
        NotExecutable = "not_executable",
        /// Its unwind information is too large.
        TooLarge = "too_large",
        /// It has too many rows.
        TooManyRows = "too_many_rows",
        /// It has no unwind information.
        NoUnwindInfo = "no_unwind_info",
        /// Its code is spread too far.
        TooManyLeaves = "too_many_leaves",
        /// Its headers are not those that it was opened with.
        OtherLayout = "other_layout",
        /// It was changed while it was read.
        Changed = "changed",
        /// The kernel did not take its rules.
        RulesRefused = "rules_refused",
    }
}

reasons! {
    /// What became of looking a table up in the cache on disk.
    CacheOutcome {
        /// It was there.
        Hit = "hit",
        /// It was not.
        Miss = "miss",
        /// It was there but could not be used, and was removed.
        Corrupt = "corrupt",
        /// A new one was written.
        Written = "written",
        /// A new one could not be written.
        WriteFailed = "write_failed",
        /// Removed to keep the bound.
        Evicted = "evicted",
    }
}

/// How unwinding goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnwindStats {
    /// Kernel memory that the maps of unwind tables may take.
    pub budget_bytes: u64,
    /// Kernel memory that they take.
    pub map_bytes: u64,
    /// Slabs there are.
    pub slabs: usize,
    /// Chunks that hold tables.
    pub table_chunks: usize,
    /// Chunks that hold mapping sets.
    pub mapping_chunks: usize,
    /// Chunks that wait until no program can read them any more.
    pub retired_chunks: usize,
    /// Chunks that are free.
    pub free_chunks: usize,
    /// Rows in all tables.
    pub rows: u64,
    /// Rows in the files that they were made of.
    pub input_rows: u64,
    /// Rules that tables share.
    pub rules: usize,
    /// Executables by what there is of their table.
    pub tables: TableCounts,
    /// Files known.
    pub files: usize,
    /// Those of them that wait to be opened.
    pub files_waiting: usize,
    /// Processes known to the BPF programs.
    pub processes: usize,
    /// Mapping sets that they share.
    pub mapping_sets: usize,
    /// Mapping sets written, whether for the first time or because a file became known.
    pub sets_written: u64,
    /// What could not be published, by [`PublishFailure`].
    pub publish_failures: [u64; PublishFailure::COUNT],
    /// Rules that found the map of rules full; the code that needs them counts as unsupported.
    pub rules_refused: u64,
    /// Tables made and put into the kernel.
    pub tables_made: u64,
    /// Executables without a table, by [`Absence`]. Each time one was looked at.
    pub absent: [u64; Absence::COUNT],
    /// Tables taken out to keep the budget.
    pub tables_evicted: u64,
    /// Tables left out to keep the budget.
    pub tables_refused: u64,
    /// Looks into the cache on disk, by [`CacheOutcome`].
    pub cache: [u64; CacheOutcome::COUNT],
    /// CPU time of the thread that makes tables.
    pub builder_cpu: Duration,
    /// CPU time of the thread that opens files.
    pub opener_cpu: Duration,
}

/// What the threads count themselves.
#[derive(Debug, Default)]
pub(crate) struct ThreadCounters {
    pub(crate) builder_cpu_ns: AtomicU64,
    pub(crate) opener_cpu_ns: AtomicU64,
    cache: [AtomicU64; CacheOutcome::COUNT],
}

impl ThreadCounters {
    pub(crate) fn count(&self, outcome: CacheOutcome, times: u64) {
        self.cache[outcome as usize].fetch_add(times, Ordering::Relaxed);
    }

    /// Enters what was counted.
    pub(crate) fn enter(&self, stats: &mut UnwindStats) {
        let time = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        stats.builder_cpu = time(&self.builder_cpu_ns);
        stats.opener_cpu = time(&self.opener_cpu_ns);
        stats.cache = self.cache.each_ref().map(|counter| counter.load(Ordering::Relaxed));
    }
}
