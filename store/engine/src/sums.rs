//! Values by stack over all rows of a query, and the profiles and flame trees made of them.

use std::sync::Arc;

use pyrite_model::{CallValues, FlameTree, StackId, StackProfile, SymbolTable};

use crate::QueryError;
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

/// Sums by stack, one list for each dictionary that some row's stack is from.
struct StackSums<'a> {
    job: &'a Job,
    sums: Vec<(Arc<Dictionary>, Vec<i64>)>,
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
        for (dictionary, values) in &mut self.sums {
            let calls = dictionary.calls(values.len());
            let counted = query.counted_nodes(&calls);
            for (id, value) in values.iter_mut().enumerate().filter(|(_, value)| **value != 0) {
                if !counted[calls.node_of(StackId(id as u32))] {
                    *value = 0;
                }
            }
        }
    }

    /// What the lists take.
    fn memory(&self) -> usize {
        self.sums.iter().map(|(_, sums)| sums.capacity() * size_of::<i64>()).sum()
    }

    /// The list of a dictionary, long enough for the stacks that it has now.
    fn sums_of(&mut self, dictionary: &Arc<Dictionary>) -> &mut Vec<i64> {
        let known = self.sums.iter().position(|(known, _)| Arc::ptr_eq(known, dictionary));
        let at = known.unwrap_or_else(|| {
            self.sums.push((Arc::clone(dictionary), Vec::new()));
            self.sums.len() - 1
        });
        let sums = &mut self.sums[at].1;
        let stacks = dictionary.read().stack_nodes().len();
        if sums.is_empty() {
            *sums = zeros(stacks);
        } else if sums.len() < stacks {
            sums.resize(stacks, 0);
        }
        sums
    }
}

/// So many zeros.
#[expect(
    clippy::slow_vector_initialization,
    reason = "fresh pages are faulted in twice, to be read and written"
)]
fn zeros(count: usize) -> Vec<i64> {
    let mut zeros = Vec::with_capacity(count);
    zeros.resize(count, 0);
    zeros
}

fn present(values: &[i64]) -> impl Iterator<Item = (StackId, i64)> + '_ {
    let values = values.iter().zip(0..).filter(|(value, _)| **value != 0);
    values.map(|(value, id)| (StackId(id), *value))
}

/// Sums by stack of a source.
struct PartSums {
    stacks: usize,
    /// Nothing until there is a row: whoever reads it makes room for them.
    sums: Vec<i64>,
}

impl Fold for StackSums<'_> {
    type Part = PartSums;

    fn needs_stacks(&self) -> bool {
        true
    }

    fn grid(&self) -> Grid {
        Grid::Window
    }

    fn begin(&mut self, source: &Source<'_>) -> Result<Self::Part, QueryError> {
        Ok(PartSums { stacks: source.stacks.map_or(0, |stacks| stacks.count), sums: Vec::new() })
    }

    fn add(part: &mut Self::Part, rows: Run<'_>) {
        if part.sums.is_empty() {
            part.sums = zeros(part.stacks);
        }
        for (stack, value) in rows.stacks.iter().zip(rows.values) {
            let sum = &mut part.sums[*stack as usize];
            *sum = sum.saturating_add(*value);
        }
    }

    fn bytes(part: &Self::Part) -> usize {
        size_of_val(&*part.sums)
    }

    fn end(&mut self, part: Self::Part, source: &Source<'_>) -> Result<(), QueryError> {
        let Some(stacks) = source.stacks else { return Ok(()) };
        let (job, before) = (self.job, self.memory());
        let sums = self.sums_of(stacks.dictionary);
        for (id, value) in part.sums.into_iter().enumerate().filter(|(_, value)| *value != 0) {
            let sum = &mut sums[stacks.of(id).index()];
            *sum = sum.saturating_add(value);
        }
        job.keep(self.memory() - before);
        Ok(())
    }
}

/// One value per stack over all rows of the query.
pub(crate) fn merge_stacks(scan: Scan<'_>) -> Result<StackProfile, QueryError> {
    let job = scan.job;
    let sums = StackSums::of(scan)?.sums;
    let mut symbols = SymbolTable::new();
    let mut values: Vec<i64> = Vec::new();
    let mut held = job.hold(0);
    for (dictionary, of_dictionary) in sums {
        let mut copier = Copier::new(&dictionary.read());
        let mut left = present(&of_dictionary).peekable();
        while left.peek().is_some() {
            let source = dictionary.read();
            for (stack, value) in left.by_ref().take(COPIED_AT_ONCE) {
                let at = copier.stack(&source, stack, &mut symbols).index();
                if at >= values.len() {
                    values.resize(at + 1, 0);
                }
                values[at] = values[at].saturating_add(value);
            }
            drop(source);
            held.set(symbols.estimated_bytes() + size_of_val(&*values) + copier.bytes());
            job.check()?;
        }
    }
    drop(held);
    let values: Vec<_> = present(&values).collect();
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
    let mut dictionaries: Vec<(Arc<Dictionary>, [Vec<i64>; SIDES])> = Vec::new();
    for (side, query) in queries.into_iter().enumerate() {
        let Some(query) = query else { continue };
        for (dictionary, values) in StackSums::of(Scan { shared, job, query })?.sums {
            let known = dictionaries.iter().position(|(known, _)| Arc::ptr_eq(known, &dictionary));
            let at = known.unwrap_or_else(|| {
                dictionaries.push((dictionary, std::array::from_fn(|_| Vec::new())));
                dictionaries.len() - 1
            });
            dictionaries[at].1[side] = values;
        }
    }
    let trees: Vec<_> = dictionaries
        .iter()
        .map(|(dictionary, sides)| dictionary.calls(sides.iter().map(Vec::len).max().unwrap_or(0)))
        .collect();
    let parts: Vec<_> = dictionaries
        .iter()
        .zip(&trees)
        .map(|((_, sides), tree)| CallValues::new(tree, |side| present(&sides[side])))
        .collect();
    let nodes: usize = parts.iter().map(CallValues::node_count).sum();
    let kept = if max_nodes == 0 { nodes } else { nodes.min(max_nodes) };
    job.keep((nodes + kept) * (NODE_BYTES + SIDES * NODE_BYTES_PER_SIDE));
    job.check()?;
    Ok(FlameTree::of(parts, max_nodes))
}
