//! The unwind tables of this node: one per executable, however many files hold it and however many processes map it.

use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_bpf::abi::{
    PYRITE_MAX_EXECUTABLES, PYRITE_TABLE_ABSENT, PYRITE_TABLE_OVER_BUDGET, PYRITE_TABLE_PENDING,
    pyrite_executable,
};
use pyrite_sampling::BootNs;
use pyrite_symbolizer::{ExecutableId, ExecutableReader, Segment};
use pyrite_unwind::RuleId;

use crate::unwind::chunks::ChunkId;
use crate::unwind::code::ExecutableIndex;
use crate::unwind::grace::Retired;

/// What makes two executables one: their tables are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TableIdentity {
    pub(crate) id: ExecutableId,
    pub(crate) bytes: u64,
    pub(crate) segments: Vec<Segment>,
    /// When the file was changed, where it does not name its contents: its id then says nothing of its middle.
    pub(crate) modified: Option<(i64, i64)>,
}

/// What there is of an executable's table.
#[derive(Debug)]
pub(crate) enum TableState {
    /// To be made when its turn comes.
    Queued(ExecutableReader),
    /// Being made, or waiting for chunks.
    Building,
    /// In the kernel, as this entry says.
    Ready(pyrite_executable),
    /// There is none.
    Absent,
    /// There is none, for its file could not be read through; whoever opens it again tries again.
    Unread,
    /// There is no room for its `chunks`.
    OverBudget { chunks: usize },
    /// There may be room for its `chunks` now; its file is being opened once more.
    Reopening { chunks: usize },
}

/// How many rows a table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableRows {
    /// In its file, where each differs from the one before.
    pub(crate) input: u32,
    /// In the kernel, after runs were folded.
    pub(crate) kept: u32,
}

/// Gauges by kind of state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// To be made.
    pub pending: usize,
    /// In the kernel.
    pub ready: usize,
    /// Executables without a table.
    pub absent: usize,
    /// Left out to keep the budget.
    pub over_budget: usize,
}

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) identity: Arc<TableIdentity>,
    pub(crate) state: TableState,
    pub(crate) chunks: Vec<ChunkId>,
    /// Those that its rows name, each once.
    pub(crate) rules: Vec<RuleId>,
    pub(crate) rows: TableRows,
    /// How many mapping sets show the executable, once per file of it that they show.
    pub(crate) sets: u32,
    /// When the last mapping set that shows it went, or a process was seen to map it.
    unused_since: BootNs,
}

impl Table {
    /// As the BPF programs know it.
    pub(crate) fn entry(&self) -> pyrite_executable {
        let absent = pyrite_executable { state: PYRITE_TABLE_ABSENT as u8, ..Default::default() };
        match self.state {
            TableState::Queued(_) | TableState::Building => pending_entry(),
            TableState::Ready(entry) => entry,
            TableState::Absent | TableState::Unread => absent,
            TableState::OverBudget { .. } | TableState::Reopening { .. } => {
                pyrite_executable { state: PYRITE_TABLE_OVER_BUDGET as u8, ..absent }
            }
        }
    }

    /// Whether no process maps it and nobody works on it.
    pub(crate) fn is_evictable(&self) -> bool {
        let is_worked_on =
            matches!(self.state, TableState::Queued(_) | TableState::Building | TableState::Reopening { .. });
        self.sets == 0 && !is_worked_on
    }

    /// Whether it is to be made now that its file has been opened again.
    pub(crate) fn wants_another_try(&self) -> bool {
        matches!(self.state, TableState::Unread | TableState::Reopening { .. })
    }
}

/// The entry of an executable whose table is not there yet.
pub(crate) fn pending_entry() -> pyrite_executable {
    pyrite_executable { state: PYRITE_TABLE_PENDING as u8, ..Default::default() }
}

/// All tables by index.
#[derive(Debug)]
pub(crate) struct ExecutableTables {
    slots: Vec<Option<Table>>,
    by_identity: HashMap<Arc<TableIdentity>, ExecutableIndex>,
    /// Those in state [`TableState::Queued`]: first so many that are wanted, then the others, each in order of arrival.
    queued: Vec<ExecutableIndex>,
    wanted: usize,
    free: Vec<ExecutableIndex>,
    retired: Retired<ExecutableIndex>,
}

impl ExecutableTables {
    pub(crate) fn new() -> Self {
        let mut slots = Vec::new();
        slots.resize_with(ExecutableIndex::FIRST.0 as usize, || None);
        Self {
            slots,
            by_identity: HashMap::new(),
            queued: Vec::new(),
            wanted: 0,
            free: Vec::new(),
            retired: Retired::new(),
        }
    }

    pub(crate) fn find(&self, identity: &TableIdentity) -> Option<ExecutableIndex> {
        self.by_identity.get(identity).copied()
    }

    /// A new executable, or `None` where every index is in use.
    pub(crate) fn add(
        &mut self,
        identity: Arc<TableIdentity>,
        reader: ExecutableReader,
        now: BootNs,
    ) -> Option<ExecutableIndex> {
        let index = self.free.pop().or_else(|| self.grow())?;
        self.by_identity.insert(Arc::clone(&identity), index);
        self.slots[index.0 as usize] = Some(Table {
            identity,
            state: TableState::Absent,
            chunks: Vec::new(),
            rules: Vec::new(),
            rows: TableRows::default(),
            sets: 0,
            unused_since: now,
        });
        self.queue(index, reader);
        Some(index)
    }

    /// The table of an executable, which was not queued, is to be made.
    pub(crate) fn queue(&mut self, index: ExecutableIndex, reader: ExecutableReader) {
        if let Some(table) = self.get_mut(index) {
            table.state = TableState::Queued(reader);
            self.queued.push(index);
        }
    }

    /// A stack waits for this table, if it is still queued: it comes before those that no stack waits for.
    pub(crate) fn want(&mut self, index: ExecutableIndex) {
        let others = &mut self.queued[self.wanted..];
        if let Some(at) = others.iter().position(|queued| *queued == index) {
            others[..=at].rotate_right(1);
            self.wanted += 1;
        }
    }

    /// How many wait for their turn to be made.
    pub(crate) fn queued(&self) -> usize {
        self.queued.len()
    }

    /// How many executables can be added, those included whose indexes wait until no program can hold them.
    pub(crate) fn vacancies(&self) -> usize {
        PYRITE_MAX_EXECUTABLES as usize - self.slots.len() + self.free.len() + self.retired.len()
    }

    pub(crate) fn get(&self, index: ExecutableIndex) -> Option<&Table> {
        self.slots.get(index.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: ExecutableIndex) -> Option<&mut Table> {
        self.slots.get_mut(index.0 as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ExecutableIndex, &Table)> {
        let numbered = self.slots.iter().enumerate();
        numbered.filter_map(|(at, table)| Some((ExecutableIndex(at as u32), table.as_ref()?)))
    }

    /// Some process has mapped this executable, whether or not that comes to be published.
    pub(crate) fn met(&mut self, index: ExecutableIndex, now: BootNs) {
        if let Some(table) = self.get_mut(index) {
            table.unused_since = now;
        }
    }

    /// `sets` more mapping sets show this executable.
    pub(crate) fn refer(&mut self, index: ExecutableIndex, sets: u32) {
        if let Some(table) = self.get_mut(index) {
            table.sets += sets;
        }
    }

    /// `sets` mapping sets less show this executable.
    pub(crate) fn unrefer(&mut self, index: ExecutableIndex, sets: u32, now: BootNs) {
        if let Some(table) = self.get_mut(index) {
            table.sets = table.sets.saturating_sub(sets);
            table.unused_since = now;
        }
    }

    /// The file of a table that was to try again was not it, or could not be opened.
    pub(crate) fn give_up_reopening(&mut self, index: ExecutableIndex) {
        if let Some(table) = self.get_mut(index)
            && let TableState::Reopening { chunks } = table.state
        {
            table.state = TableState::OverBudget { chunks };
        }
    }

    /// The executable whose table is to be made next: the smallest that is wanted, for stacks wait for a short time alone,
    /// else that which most mapping sets show.
    pub(crate) fn next_to_build(&mut self) -> Option<(ExecutableIndex, ExecutableReader)> {
        let sets = |index: ExecutableIndex| self.get(index).map_or(0, |table| table.sets);
        let bytes = |index: ExecutableIndex| self.get(index).map_or(0, |table| table.identity.bytes);
        let wanted = self.queued.iter().take(self.wanted).enumerate();
        let (at, _) = wanted.min_by_key(|(_, index)| bytes(**index)).or_else(|| {
            // Of equals max_by_key takes the last.
            self.queued.iter().enumerate().rev().max_by_key(|(_, index)| sets(**index))
        })?;
        self.wanted = self.wanted.saturating_sub(1);
        let index = self.queued.remove(at);
        match std::mem::replace(&mut self.get_mut(index)?.state, TableState::Building) {
            TableState::Queued(reader) => Some((index, reader)),
            _ => None,
        }
    }

    /// The executables that no process maps, out of those that `choose` takes; the one that was not met for longest first.
    pub(crate) fn unused(&self, choose: impl Fn(&Table) -> bool) -> Vec<(ExecutableIndex, &Table)> {
        let mut unused: Vec<_> =
            self.iter().filter(|(_, table)| table.is_evictable() && choose(table)).collect();
        unused.sort_by_key(|(_, table)| table.unused_since);
        unused
    }

    /// Takes an executable out. Its index waits until no program can hold it.
    pub(crate) fn remove(&mut self, index: ExecutableIndex) -> Option<Table> {
        let table = self.slots.get_mut(index.0 as usize)?.take()?;
        self.by_identity.remove(&table.identity);
        self.retired.retire([index]);
        Some(table)
    }

    /// See [`Retired::begin_grace`].
    pub(crate) fn begin_grace(&mut self) -> bool {
        self.retired.begin_grace()
    }

    /// See [`Retired::extend_grace`].
    pub(crate) fn extend_grace(&mut self) {
        self.retired.extend_grace();
    }

    /// See [`Retired::end_grace`].
    pub(crate) fn end_grace(&mut self) {
        self.free.extend(self.retired.end_grace());
    }

    pub(crate) fn counts(&self) -> TableCounts {
        let mut counts = TableCounts::default();
        for (_, table) in self.iter() {
            *match table.state {
                TableState::Queued(_) | TableState::Building => &mut counts.pending,
                TableState::Ready(_) => &mut counts.ready,
                TableState::Absent | TableState::Unread => &mut counts.absent,
                TableState::OverBudget { .. } | TableState::Reopening { .. } => &mut counts.over_budget,
            } += 1;
        }
        counts
    }

    fn grow(&mut self) -> Option<ExecutableIndex> {
        let index = ExecutableIndex(self.slots.len() as u32);
        (index.0 < PYRITE_MAX_EXECUTABLES).then(|| {
            self.slots.push(None);
            index
        })
    }
}
