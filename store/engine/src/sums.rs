//! Values by stack over all rows of a query, and the profiles and flame trees made of them.

use std::sync::Arc;

use pyrite_model::{CallValues, FlameTree, StackId, StackProfile, SymbolTable};

use crate::QueryError;
use crate::dictionary::{Copier, Dictionary};
use crate::query::{Fold, Source, StackQuery, run};
use crate::rows::Run;
use crate::segment::read::Grid;
use crate::shared::Shared;

/// Sums by stack, one list for each dictionary that some row's stack is from.
#[derive(Default)]
struct StackSums {
    sums: Vec<(Arc<Dictionary>, Vec<i64>)>,
}

impl StackSums {
    fn of(shared: &Shared, query: &StackQuery) -> Result<Self, QueryError> {
        let mut sums = Self::default();
        run(shared, query, &mut sums)?;
        if query.chooses_stacks() {
            sums.keep_counted(query);
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

impl Fold for StackSums {
    /// By stack of the source.
    type Part = Vec<i64>;

    fn needs_stacks(&self) -> bool {
        true
    }

    fn grid(&self) -> Grid {
        Grid::Window
    }

    fn begin(&mut self, source: &Source<'_>) -> Self::Part {
        zeros(source.stacks.map_or(0, |stacks| stacks.count))
    }

    fn add(part: &mut Self::Part, rows: Run<'_>) {
        for (stack, value) in rows.stacks.iter().zip(rows.values) {
            let sum = &mut part[*stack as usize];
            *sum = sum.saturating_add(*value);
        }
    }

    fn end(&mut self, part: Self::Part, source: &Source<'_>) -> Result<(), QueryError> {
        let Some(stacks) = source.stacks else { return Ok(()) };
        let sums = self.sums_of(stacks.dictionary);
        for (id, value) in part.into_iter().enumerate().filter(|(_, value)| *value != 0) {
            let sum = &mut sums[stacks.of(id).index()];
            *sum = sum.saturating_add(value);
        }
        Ok(())
    }
}

/// One value per stack over all rows of the query.
pub(crate) fn merge_stacks(shared: &Shared, query: &StackQuery) -> Result<StackProfile, QueryError> {
    let sums = StackSums::of(shared, query)?.sums;
    let mut symbols = SymbolTable::new();
    let mut values: Vec<i64> = Vec::new();
    for (dictionary, of_dictionary) in sums {
        let source = dictionary.read();
        let mut copier = Copier::new(&source);
        for (stack, value) in present(&of_dictionary) {
            let at = copier.stack(stack, &mut symbols).index();
            if at >= values.len() {
                values.resize(at + 1, 0);
            }
            values[at] = values[at].saturating_add(value);
        }
    }
    Ok(StackProfile { values: present(&values).collect(), symbols })
}

/// The flame tree of all rows of the queries, each of which is a side; one without a query is empty.
pub(crate) fn flame_tree<const SIDES: usize>(
    shared: &Shared,
    queries: [Option<&StackQuery>; SIDES],
    max_nodes: usize,
) -> Result<FlameTree<SIDES>, QueryError> {
    let mut dictionaries: Vec<(Arc<Dictionary>, [Vec<i64>; SIDES])> = Vec::new();
    for (side, query) in queries.into_iter().enumerate() {
        let Some(query) = query else { continue };
        for (dictionary, values) in StackSums::of(shared, query)?.sums {
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
    let parts = dictionaries
        .iter()
        .zip(&trees)
        .map(|((_, sides), tree)| CallValues::new(tree, |side| present(&sides[side])));
    Ok(FlameTree::of(parts.collect(), max_nodes))
}
