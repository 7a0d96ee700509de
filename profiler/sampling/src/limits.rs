//! How much sampling holds at most.

/// Bounds of everything that grows (invariant I4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes known at once.
    pub processes: usize,
    /// Executable mappings of one process.
    pub mappings_per_process: usize,
    /// Executable mappings of all processes.
    pub mappings: usize,
    /// Records between two calls of [`Sampling::advance`](crate::Sampling::advance).
    pub pending: usize,
    /// Samples that wait for their process to be read from `/proc`.
    pub waiting: usize,
    /// Distinct stacks within the seconds that are still open.
    pub stacks: usize,
    /// Samples whose copied stack waits for an unwind table.
    pub copies: usize,
    /// Copied stacks in all samples that are held, in bytes.
    pub copy_bytes: usize,
    /// Threads off the CPU at once, of those that were captured.
    pub blocks: usize,
    /// Their distinct stacks, and as many that were accounted and not told yet.
    pub block_stacks: usize,
}

impl Default for Limits {
    /// Enough for a node with 200 CPUs at 97 Hz. Two CPUs and 100 processes hold about half a megabyte in all.
    fn default() -> Self {
        Self {
            processes: 16_384,
            mappings_per_process: 4_096,
            mappings: 262_144,
            pending: 32_768,
            waiting: 4_096,
            stacks: 32_768,
            copies: 2048,
            copy_bytes: 8 << 20,
            blocks: 32_768,
            block_stacks: 8_192,
        }
    }
}
