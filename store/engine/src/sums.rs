//! Values by stack over all rows of a query, and the profiles and flame trees made of them.

use std::sync::Arc;

use pyrite_model::{CallValues, FlameTree, StackProfile, SymbolTable};

use crate::QueryError;
use crate::block_sums::BlockSums;
use crate::dictionary::{Copier, Dictionary};
use crate::job::Job;
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

/// Sums by stack for each dictionary that some row's stack is from.
struct StackSums<'a> {
    job: &'a Job,
    sums: Vec<(Arc<Dictionary>, BlockSums)>,
}

impl<'a> StackSums<'a> {
    fn of(scan: Scan<'a>) -> Result<Self, QueryError> {
        let mut sums = Self { job: scan.job, sums: Vec::new() };
        scan.run(&mut sums)?;
        if scan.query.chooses_stacks() {
            sums.keep_counted(scan.query);
        }
        Ok(sums)
    }

    fn keep_counted(&mut self, query: &StackQuery) {
        for (dictionary, sums) in &mut self.sums {
            let calls = dictionary.calls(sums.end());
            let counted = query.counted_nodes(&calls);
            sums.retain(|stack| counted[calls.node_of(stack)]);
        }
    }

    fn sums_of(&mut self, dictionary: &Arc<Dictionary>) -> &mut BlockSums {
        let known = self.sums.iter().position(|(known, _)| Arc::ptr_eq(known, dictionary));
        let at = known.unwrap_or_else(|| {
            self.sums.push((Arc::clone(dictionary), BlockSums::default()));
            self.sums.len() - 1
        });
        &mut self.sums[at].1
    }
}

impl Fold for StackSums<'_> {
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
        let job = self.job;
        let sums = self.sums_of(stacks.dictionary);
        let before = sums.bytes();
        part.present().for_each(|(id, value)| sums.add(stacks.of(id.index()), value));
        job.keep(sums.bytes() - before);
        Ok(())
    }
}

/// One value per stack over all rows of the query.
pub(crate) fn merge_stacks(scan: Scan<'_>) -> Result<StackProfile, QueryError> {
    let job = scan.job;
    let sums = StackSums::of(scan)?.sums;
    let mut symbols = SymbolTable::new();
    let mut values = BlockSums::default();
    let mut held = job.hold(0);
    for (dictionary, of_dictionary) in sums {
        let mut copier = Copier::new(&dictionary.read());
        let mut left = of_dictionary.present().peekable();
        while left.peek().is_some() {
            let source = dictionary.read();
            for (stack, value) in left.by_ref().take(COPIED_AT_ONCE) {
                values.add(copier.stack(&source, stack, &mut symbols), value);
            }
            drop(source);
            held.set(symbols.estimated_bytes() + values.bytes() + copier.bytes());
            job.check()?;
        }
    }
    drop(held);
    let values: Vec<_> = values.present().collect();
    job.keep(symbols.estimated_bytes() + size_of_val(&*values));
    Ok(StackProfile { values, symbols })
}

/// The flame tree of all rows of the queries, each of which is a side; one without a query is empty.
pub(crate) fn flame_tree<const SIDES: usize>(
    shared: &Shared,
    job: &Job,
    queries: [Option<&StackQuery>; SIDES],
    max_nodes: usize,
) -> Result<FlameTree<SIDES>, QueryError> {
    let mut dictionaries: Vec<(Arc<Dictionary>, [BlockSums; SIDES])> = Vec::new();
    for (side, query) in queries.into_iter().enumerate() {
        let Some(query) = query else { continue };
        for (dictionary, values) in StackSums::of(Scan { shared, job, query })?.sums {
            let known = dictionaries.iter().position(|(known, _)| Arc::ptr_eq(known, &dictionary));
            let at = known.unwrap_or_else(|| {
                dictionaries.push((dictionary, std::array::from_fn(|_| BlockSums::default())));
                dictionaries.len() - 1
            });
            dictionaries[at].1[side] = values;
        }
    }
    let trees: Vec<_> = dictionaries
        .iter()
        .map(|(dictionary, sides)| dictionary.calls(sides.iter().map(BlockSums::end).max().unwrap_or(0)))
        .collect();
    let parts: Vec<_> = dictionaries
        .iter()
        .zip(&trees)
        .map(|((_, sides), tree)| CallValues::new(tree, |side| sides[side].present()))
        .collect();
    let nodes: usize = parts.iter().map(CallValues::node_count).sum();
    let kept = if max_nodes == 0 { nodes } else { nodes.min(max_nodes) };
    job.keep((nodes + kept) * (NODE_BYTES + SIDES * NODE_BYTES_PER_SIDE));
    job.check()?;
    Ok(FlameTree::of(parts, max_nodes))
}
