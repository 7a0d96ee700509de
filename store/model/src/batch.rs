//! What goes into the store and what comes out of it.

use crate::{LabelSet, ProfileType, StackId, SymbolTable, Tenant, UnixMs};

/// Rows that are stored and acknowledged together. Self-contained: its stacks are ids in its own symbol table.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Whose rows they are.
    pub tenant: Tenant,
    /// What the rows' stacks are made of.
    pub symbols: SymbolTable,
    /// The rows by series. A series may appear more than once.
    pub series: Vec<SeriesRows>,
}

impl Batch {
    /// Number of rows over all series.
    pub fn row_count(&self) -> usize {
        self.series.iter().map(|s| s.rows.len()).sum()
    }
}

/// Rows of one series.
#[derive(Clone, Debug)]
pub struct SeriesRows {
    /// Who it was.
    pub labels: LabelSet,
    /// What was counted.
    pub profile_type: ProfileType,
    /// The values, in any order. Rows with equal time and stack add up; none replaces another.
    pub rows: Vec<Row>,
}

impl SeriesRows {
    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.labels.bytes() + size_of_val(&self.rows[..])
    }
}

/// One value of one stack at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// When; sampled rows are stamped with the end of their second, pushed ones with their profile's time.
    pub time: UnixMs,
    /// Which stack, in the batch's symbol table.
    pub stack: StackId,
    /// How much, in the profile type's sample unit.
    pub value: i64,
}

/// The answer to a query: one value per distinct stack.
#[derive(Clone, Debug, Default)]
pub struct StackProfile {
    /// What the stacks are made of.
    pub symbols: SymbolTable,
    /// Stack and value, each stack once, in no particular order.
    pub values: Vec<(StackId, i64)>,
}

impl StackProfile {
    /// The sum of all values; pushed values may be of any size, so it saturates.
    pub fn total(&self) -> i64 {
        self.values.iter().fold(0, |sum, (_, value)| sum.saturating_add(*value))
    }
}
