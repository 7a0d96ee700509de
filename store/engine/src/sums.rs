//! Values by stack over all rows of a query, and the profiles and flame trees made of them.
//!
//! Stacks are numbers of a dictionary, of which the rows of weeks have many: as soon as rows of another one come, what there
//! is of the one before is noted by names, and that dictionary may go.

use std::sync::Arc;

use pyrite_model::{CallValues, FlameTree, PathValues, StackProfile, SymbolTable};

use crate::QueryError;
use crate::block_sums::BlockSums;
use crate::dictionary::{Copier, Dictionary};
use crate::job::{Held, Job};
use crate::query::{Fold, Scan, Source, StackQuery};
use crate::rows::Run;
use crate::segment::read::Grid;
use crate::shared::Shared;

/// Stacks whose names are read under one lock of the dictionary, for which appends may have to wait.
const COPIED_AT_ONCE: usize = 256;

/// Of a node with a value while a flame tree is made: which one it is, its parent, and what it is in the answer.
const NODE_BYTES: usize = 3 * size_of::<u32>();
/// Its own value and its total.
const NODE_BYTES_PER_SIDE: usize = 2 * size_of::<i64>();

/// Values that no dictionary is needed for any more.
trait ByName<const SIDES: usize>: Default {
    /// Adds sums by stack of a dictionary.
    fn take(
        &mut self,
        dictionary: &Dictionary,
        sums: [BlockSums; SIDES],
        job: &Job,
    ) -> Result<(), QueryError>;
    /// Memory that they take.
    fn bytes(&self) -> usize;
}

/// Sums by stack of the dictionary whose rows come now, by name of those before it.
struct StackSums<'a, const SIDES: usize, N> {
    job: &'a Job,
    held: Held<'a>,
    /// The side whose rows come.
    side: usize,
    /// Their query.
    query: Option<&'a StackQuery>,
    open: Option<(Arc<Dictionary>, [BlockSums; SIDES])>,
    by_name: N,
}

impl<'a, const SIDES: usize, N: ByName<SIDES>> StackSums<'a, SIDES, N> {
    fn new(job: &'a Job) -> Self {
        Self { job, held: job.hold(0), side: 0, query: None, open: None, by_name: N::default() }
    }

    /// Adds all rows of a side's query.
    fn add_rows(&mut self, side: usize, scan: Scan<'a>) -> Result<(), QueryError> {
        (self.side, self.query) = (side, Some(scan.query));
        scan.run(self)?;
        self.keep_chosen();
        Ok(())
    }

    /// Of the side whose rows come, leaves the sums of the stacks that its query chooses.
    fn keep_chosen(&mut self) {
        let Some(query) = self.query.filter(|query| query.chooses_stacks()) else { return };
        let Some((dictionary, sums)) = &mut self.open else { return };
        let sums = &mut sums[self.side];
        let calls = dictionary.calls(sums.end());
        let counted = query.counted_nodes(&calls);
        sums.retain(|stack| counted[calls.node_of(stack)]);
    }

    /// The sums of the side whose rows come, by stack of this dictionary.
    fn sums_of(&mut self, dictionary: &Arc<Dictionary>) -> Result<&mut BlockSums, QueryError> {
        if self.open.as_ref().is_some_and(|(open, _)| !Arc::ptr_eq(open, dictionary)) {
            self.close()?;
        }
        let (_, sums) = self.open.get_or_insert_with(|| (Arc::clone(dictionary), no_sums()));
        Ok(&mut sums[self.side])
    }

    /// Notes by name what there is, and lets go of its dictionary.
    fn close(&mut self) -> Result<(), QueryError> {
        self.keep_chosen();
        if let Some((dictionary, sums)) = self.open.take() {
            self.by_name.take(&dictionary, sums, self.job)?;
        }
        self.charge();
        self.job.check()
    }

    fn charge(&mut self) {
        let open: usize = self.open.iter().flat_map(|(_, sums)| sums).map(BlockSums::bytes).sum();
        self.held.set(open + self.by_name.bytes());
    }
}

impl<const SIDES: usize, N: ByName<SIDES>> Fold for StackSums<'_, SIDES, N> {
    /// By stack of the source.
    type Part = BlockSums;

    fn needs_stacks(&self) -> bool {
        true
    }

    fn grid(&self) -> Grid {
        Grid::Window
    }

    fn begin(&mut self, _source: &Source<'_>) -> Result<BlockSums, QueryError> {
        Ok(BlockSums::default())
    }

    fn add(part: &mut BlockSums, rows: Run<'_>) {
        part.add_all(rows.stacks, rows.values);
    }

    fn bytes(part: &BlockSums) -> usize {
        part.bytes()
    }

    fn end(&mut self, part: BlockSums, source: &Source<'_>) -> Result<(), QueryError> {
        let Some(stacks) = source.stacks else { return Ok(()) };
        let sums = self.sums_of(stacks.dictionary)?;
        part.present().for_each(|(id, value)| sums.add(stacks.of(id.index()), value));
        self.charge();
        Ok(())
    }
}

fn no_sums<const SIDES: usize>() -> [BlockSums; SIDES] {
    std::array::from_fn(|_| BlockSums::default())
}

/// A profile on its way.
#[derive(Default)]
struct Stacks {
    symbols: SymbolTable,
    values: BlockSums,
}

impl ByName<1> for Stacks {
    fn take(&mut self, dictionary: &Dictionary, [sums]: [BlockSums; 1], job: &Job) -> Result<(), QueryError> {
        let mut copier = Copier::new(&dictionary.read());
        let (mut held, before) = (job.hold(0), self.bytes());
        let mut left = sums.present().peekable();
        while left.peek().is_some() {
            let source = dictionary.read();
            for (stack, value) in left.by_ref().take(COPIED_AT_ONCE) {
                self.values.add(copier.stack(&source, stack, &mut self.symbols), value);
            }
            drop(source);
            held.set(copier.bytes() + self.bytes() - before);
            job.check()?;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.symbols.estimated_bytes() + self.values.bytes()
    }
}

/// One value per stack over all rows of the query.
pub(crate) fn merge_stacks(scan: Scan<'_>) -> Result<StackProfile, QueryError> {
    let job = scan.job;
    let mut sums: StackSums<'_, 1, Stacks> = StackSums::new(job);
    sums.add_rows(0, scan)?;
    sums.close()?;
    let Stacks { symbols, values } = sums.by_name;
    let values: Vec<_> = values.present().collect();
    job.keep(symbols.estimated_bytes() + size_of_val(&*values));
    Ok(StackProfile { values, symbols })
}

impl<const SIDES: usize> ByName<SIDES> for PathValues<SIDES> {
    fn take(
        &mut self,
        dictionary: &Dictionary,
        sums: [BlockSums; SIDES],
        job: &Job,
    ) -> Result<(), QueryError> {
        let calls = dictionary.calls(end(&sums));
        let values = CallValues::new(&calls, |side| sums[side].present());
        let _held = job.hold(values.node_count() * (NODE_BYTES + SIDES * NODE_BYTES_PER_SIDE));
        job.check()?;
        self.add(&values);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }
}

/// All stacks with a sum are below this one.
fn end(sides: &[BlockSums]) -> usize {
    sides.iter().map(BlockSums::end).max().unwrap_or(0)
}

/// The flame tree of all rows of the queries, each of which is a side; one without a query is empty.
pub(crate) fn flame_tree<const SIDES: usize>(
    shared: &Shared,
    job: &Job,
    queries: [Option<&StackQuery>; SIDES],
    max_nodes: usize,
) -> Result<FlameTree<SIDES>, QueryError> {
    let mut sums: StackSums<'_, SIDES, PathValues<SIDES>> = StackSums::new(job);
    for (side, query) in queries.into_iter().enumerate() {
        if let Some(query) = query {
            sums.add_rows(side, Scan { shared, job, query })?;
        }
    }
    match &sums.open {
        // Mostly all rows are of one dictionary.
        Some((dictionary, of_sides)) if sums.by_name.is_empty() => {
            let calls = dictionary.calls(end(of_sides));
            cut(&CallValues::new(&calls, |side| of_sides[side].present()), max_nodes, job)
        }
        _ => {
            sums.close()?;
            cut(&sums.by_name.values(), max_nodes, job)
        }
    }
}

fn cut<const SIDES: usize>(
    values: &CallValues<'_, SIDES>,
    max_nodes: usize,
    job: &Job,
) -> Result<FlameTree<SIDES>, QueryError> {
    let nodes = values.node_count();
    let kept = if max_nodes == 0 { nodes } else { nodes.min(max_nodes) };
    job.keep((nodes + kept) * (NODE_BYTES + SIDES * NODE_BYTES_PER_SIDE));
    job.check()?;
    Ok(FlameTree::of(values, max_nodes))
}
