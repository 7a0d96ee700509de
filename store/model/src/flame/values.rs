//! Values by node of a call tree, of the nodes that have any: a query for one container must not look at those of all.

use super::ROOT;
use crate::{CallTree, StackId};

/// What one source contributes to a flame tree: the nodes of its call tree that are on the way to a value, and the root.
#[derive(Clone, Debug)]
pub struct CallValues<'a, const SIDES: usize> {
    pub(super) tree: &'a CallTree,
    /// By place: the node of the tree. They ascend, so parents come before their children.
    pub(super) nodes: Vec<u32>,
    /// By place: that of the parent.
    pub(super) parents: Vec<u32>,
    /// By place: own values by side, none negative.
    pub(super) own: Vec<[i64; SIDES]>,
}

impl<'a, const SIDES: usize> CallValues<'a, SIDES> {
    /// Adds up values by stack, which are told for each side. Those of 0 and below are left out: a flame graph cannot draw
    /// them.
    pub fn new<I>(tree: &'a CallTree, by_stack: impl Fn(usize) -> I) -> Self
    where
        I: Iterator<Item = (StackId, i64)>,
    {
        Self::of_nodes(tree, |side| {
            by_stack(side).map(move |(stack, value)| (tree.node_of(stack) as u32, value))
        })
    }

    /// The same of values by node.
    pub(super) fn of_nodes<I>(tree: &'a CallTree, by_node: impl Fn(usize) -> I) -> Self
    where
        I: Iterator<Item = (u32, i64)>,
    {
        let positive = |side| by_node(side).filter(|(_, value)| *value > 0);
        let mut places = Places::among(tree.node_count());
        places.insert(ROOT);
        (0..SIDES).flat_map(positive).for_each(|(mut node, _)| {
            while places.insert(node) {
                node = tree.parent(node as usize);
            }
        });
        let nodes = places.number();
        let parents = nodes.iter().map(|node| places.of(tree.parent(*node as usize))).collect();
        // Fresh pages that are read before they are written to are faulted in twice.
        let mut own = Vec::with_capacity(nodes.len());
        own.resize(nodes.len(), [0_i64; SIDES]);
        for (side, values) in (0..SIDES).map(positive).enumerate() {
            values.for_each(|(node, value)| {
                let sum = &mut own[places.of(node) as usize][side];
                *sum = sum.saturating_add(value);
            });
        }
        Self { tree, nodes, parents, own }
    }

    /// How many nodes there are, the root among them.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The name of the node at a place, as the tree numbers them.
    pub(super) fn name_id(&self, place: usize) -> u32 {
        self.tree.name_id(self.nodes[place] as usize)
    }
}

/// A set of numbers and, once it is numbered, how many there are below each.
#[derive(Clone, Debug)]
struct Places {
    words: Vec<u64>,
    /// By word: how many are in the words before it.
    before: Vec<u32>,
}

impl Places {
    fn among(numbers: usize) -> Self {
        Self { words: vec![0; numbers.div_ceil(64)], before: Vec::new() }
    }

    /// Returns whether it was not there.
    fn insert(&mut self, number: u32) -> bool {
        let word = &mut self.words[number as usize / 64];
        let before = *word;
        *word |= 1 << (number % 64);
        *word != before
    }

    /// Counts them; returns them in order.
    fn number(&mut self) -> Vec<u32> {
        let count = self.words.iter().map(|word| word.count_ones() as usize).sum();
        let mut numbers = Vec::with_capacity(count);
        self.before.reserve_exact(self.words.len());
        for (at, &word) in self.words.iter().enumerate() {
            self.before.push(numbers.len() as u32);
            let mut left = word;
            while left != 0 {
                numbers.push(at as u32 * 64 + left.trailing_zeros());
                left &= left - 1;
            }
        }
        numbers
    }

    /// How many are below one that is there.
    fn of(&self, number: u32) -> u32 {
        let at = number as usize / 64;
        let below = self.words[at] & ((1 << (number % 64)) - 1);
        self.before[at] + below.count_ones()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_count_what_is_below(numbers in prop::collection::btree_set(0..300_u32, 0..80)) {
            let mut places = Places::among(300);
            for number in &numbers {
                prop_assert!(places.insert(*number));
                prop_assert!(!places.insert(*number));
            }
            prop_assert_eq!(places.number(), numbers.iter().copied().collect::<Vec<_>>());
            for (place, number) in numbers.iter().enumerate() {
                prop_assert_eq!(places.of(*number) as usize, place);
            }
        }
    }
}
