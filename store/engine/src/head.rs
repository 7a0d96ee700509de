//! The in-memory part of the store: the rows of one WAL generation, whose stacks are those of an epoch's dictionary.
//!
//! The writer thread takes a batch in, logs what is new since the last durable [`Mark`], syncs, and only then
//! publishes the rows; so the dictionary may run ahead of the log, rows never do. Readers take cheap copies of the
//! block list and hold the lock only while they copy symbols.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use hashbrown::HashMap;
use pyrite_model::{
    Batch, Function, LabelSet, Location, Mapping, ProfileType, SeriesKey, SeriesRows, StackNode, StringId,
    TableLens, TimeRange,
};

use crate::AppendError;
use crate::dictionary::{Dictionary, Epoch, Lens, Placed};
use crate::rows::{BlockEncoder, IdBounds, RowBlock, widen};
use crate::stored_key::TENANT_LABEL;
use crate::sync::{read, write};

/// Estimated memory of one series: its key, the label strings and index slots.
const SERIES_BYTES: usize = 1024;
/// Estimated memory of one block beside its bytes.
const BLOCK_BYTES: usize = 96;

/// How much of the dictionary and of the series the log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) symbols: Lens,
    pub(crate) series: usize,
}

/// Series, each once, numbered in order of appearance.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    keys: Vec<Arc<SeriesKey>>,
    index: HashMap<Arc<SeriesKey>, u32>,
}

impl SeriesTable {
    pub(crate) fn intern(&mut self, key: SeriesKey) -> u32 {
        if let Some(&id) = self.index.get(&key) {
            return id;
        }
        let (key, id) = (Arc::new(key), self.keys.len() as u32);
        self.keys.push(Arc::clone(&key));
        self.index.insert(key, id);
        id
    }

    pub(crate) fn keys(&self) -> &[Arc<SeriesKey>] {
        &self.keys
    }
}

/// What a head holds.
#[derive(Debug)]
pub(crate) struct HeadState {
    pub(crate) epoch: Arc<Epoch>,
    pub(crate) series: SeriesTable,
    blocks: Vec<RowBlock>,
    rows: usize,
    row_bytes: usize,
    range: Option<TimeRange>,
    /// Of the visible rows of each series.
    series_ranges: Vec<Option<TimeRange>>,
    first_row_at: Option<Instant>,
}

impl HeadState {
    /// One without rows, whose stacks will be of this epoch.
    pub(crate) fn new(epoch: Arc<Epoch>) -> Self {
        Self {
            epoch,
            series: SeriesTable::default(),
            blocks: Vec::new(),
            rows: 0,
            row_bytes: 0,
            range: None,
            series_ranges: Vec::new(),
            first_row_at: None,
        }
    }

    /// Where dictionary and series end now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { symbols: Lens::of(&self.epoch.dictionary().read()), series: self.series.keys.len() }
    }

    /// Adds the batch's series, whose stacks were placed in the dictionary, and encodes its rows; they stay invisible.
    pub(crate) fn intern(&mut self, batch: Batch, placed: &Placed) -> Option<RowBlock> {
        let mut encoder = BlockEncoder::default();
        for rows in batch.series {
            let SeriesRows { labels, profile_type, rows } = rows;
            let key = SeriesKey { labels, profile_type, tenant: batch.tenant.clone() };
            let series = self.series.intern(key);
            encoder.run(series, rows.iter().map(|row| (row.time, placed.stack(row.stack).0, row.value)));
        }
        encoder.finish()
    }

    /// Makes rows visible.
    pub(crate) fn publish(&mut self, block: RowBlock) {
        self.first_row_at.get_or_insert_with(Instant::now);
        self.rows += block.len();
        self.row_bytes += block.bytes().len() + BLOCK_BYTES;
        self.range = Some(widen(Some(widen(self.range, block.range().start)), block.range().end));
        self.series_ranges.resize(self.series.keys.len(), None);
        for row in block.iter() {
            let range = &mut self.series_ranges[row.series as usize];
            *range = Some(widen(*range, row.time));
        }
        self.blocks.push(block);
    }

    /// The visible rows; cheap to clone.
    pub(crate) fn blocks(&self) -> &[RowBlock] {
        &self.blocks
    }

    /// Number of visible rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The window that the visible rows lie in.
    pub(crate) fn range(&self) -> Option<TimeRange> {
        self.range
    }

    /// The same for each series, as far as there are rows.
    pub(crate) fn series_ranges(&self) -> &[Option<TimeRange>] {
        &self.series_ranges
    }

    /// When the first row became visible.
    pub(crate) fn first_row_at(&self) -> Option<Instant> {
        self.first_row_at
    }

    /// Estimated memory, which is free again when the head is flushed.
    pub(crate) fn bytes(&self) -> usize {
        self.row_bytes + self.series.keys.len() * SERIES_BYTES
    }

    /// The ids that rows may use.
    pub(crate) fn bounds(&self) -> IdBounds {
        IdBounds {
            series: self.series.keys.len(),
            stacks: self.epoch.dictionary().read().stack_nodes().len(),
        }
    }
}

/// A head that queries and the writer share.
#[derive(Debug)]
pub(crate) struct Head {
    generation: u64,
    epoch: Arc<Epoch>,
    state: RwLock<HeadState>,
}

impl Head {
    pub(crate) fn new(generation: u64, state: HeadState) -> Self {
        Self { generation, epoch: Arc::clone(&state.epoch), state: RwLock::new(state) }
    }

    /// The number of the WAL file that holds the same rows.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// What its stack ids are of.
    pub(crate) fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    /// What the stacks of its rows are. To be locked behind the head, where both are.
    pub(crate) fn dictionary(&self) -> &Arc<Dictionary> {
        self.epoch.dictionary()
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, HeadState> {
        read(&self.state)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, HeadState> {
        write(&self.state)
    }
}

/// Refuses a batch that refers to what it does not hold, so that the writer may index without fear.
pub(crate) fn validate(batch: &Batch) -> Result<(), AppendError> {
    let symbols = &batch.symbols;
    let TableLens { strings, mappings, functions, locations, stacks } = symbols.lens();
    let string = |id: StringId| id.index() < strings;
    let check = |ok: bool, what| if ok { Ok(()) } else { Err(AppendError::Invalid { what }) };
    let mapping_ok = |m: &Mapping| string(m.build_id) && string(m.path);
    check(symbols.mappings().iter().all(mapping_ok), "a mapping without its strings")?;
    let function_ok = |f: &Function| string(f.name) && string(f.system_name) && string(f.filename);
    check(symbols.functions().iter().all(function_ok), "a function without its strings")?;
    let location_ok = |l: &Location| {
        l.mapping.is_none_or(|m| m.index() < mappings)
            && l.lines.iter().all(|l| l.function.index() < functions)
    };
    check(symbols.locations().iter().all(location_ok), "a location without its mapping or functions")?;
    // Its parent a node always has: the table takes none without.
    let node_ok = |n: &StackNode| n.location.index() < locations;
    check(symbols.stack_nodes().iter().all(node_ok), "a stack node without its location")?;
    let mut rows = batch.series.iter().flat_map(|s| &s.rows);
    check(rows.all(|row| row.stack.index() < stacks), "a row without its stack")?;
    // The parts of a profile type id are stored as one text, joined by colons.
    let parts_ok = |t: &ProfileType| {
        let parts = [&t.name, &t.sample_type, &t.sample_unit, &t.period_type, &t.period_unit];
        parts.into_iter().all(|part| !part.contains(':'))
    };
    check(
        batch.series.iter().all(|s| parts_ok(&s.profile_type)),
        "a profile type with a colon in a part of it",
    )?;
    let names_no_tenant = |labels: &LabelSet| labels.get(TENANT_LABEL).is_none();
    check(
        batch.series.iter().all(|s| names_no_tenant(&s.labels)),
        "a label __tenant__, which is the store's own",
    )
}

#[cfg(test)]
impl HeadState {
    /// What the writer does with a batch.
    pub(crate) fn take_in(&mut self, batch: Batch) -> Option<RowBlock> {
        let placed = crate::dictionary::Recall::new(0).place(&batch, self.epoch.dictionary());
        self.intern(batch, &placed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dictionary::EpochId;
    use pyrite_model::{LocationId, Row, StackId, SymbolTable, Tenant, UnixMs};

    fn batch(symbols: SymbolTable, stack: u32) -> Batch {
        let rows = vec![Row { time: UnixMs(1), stack: StackId(stack), value: 1 }];
        let series = SeriesRows { labels: LabelSet::default(), profile_type: ProfileType::cpu_time(), rows };
        Batch { tenant: Tenant::default(), symbols, series: vec![series] }
    }

    #[test]
    fn dangling_references_are_refused() {
        assert!(validate(&batch(SymbolTable::new(), 0)).is_err());
        let mut symbols = SymbolTable::new();
        symbols.intern_stack_node(StackNode { parent: None, location: LocationId(0) });
        assert!(validate(&batch(symbols.clone(), 0)).is_err());
        symbols.intern_location(Location::default());
        assert!(validate(&batch(symbols.clone(), 0)).is_ok());
        assert!(validate(&batch(symbols, 1)).is_err());
    }

    #[test]
    fn rows_are_invisible_until_published() {
        let mut symbols = SymbolTable::new();
        let location = symbols.intern_named_location("main");
        symbols.intern_stack(&[location]);
        let mut head = HeadState::new(Arc::new(Epoch::new(EpochId(1))));
        let block = head.take_in(batch(symbols, 0)).unwrap();
        assert_eq!((head.rows(), head.range()), (0, None));
        head.publish(block);
        assert_eq!((head.rows(), head.range()), (1, Some(TimeRange::new(UnixMs(1), UnixMs(1)))));
    }
}
