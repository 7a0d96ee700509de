//! Cutting a tree down to its largest nodes while it is made: what nobody will see is never built.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::{CallValues, FlameTree, Node, OTHER, ROOT};

impl<const SIDES: usize> FlameTree<SIDES> {
    /// The tree of the nodes that have values, as far as they are among the largest. With `max_nodes` 0 it is whole.
    pub fn of(values: &CallValues<'_, SIDES>, max_nodes: usize) -> Self {
        let CallValues { tree, parents, own, .. } = values;
        let texts = tree.names();
        let totals = totals(own.clone(), parents);
        let threshold = threshold(&totals, max_nodes);
        let mut kept = Kept::new(own[0], totals[0], own.len());
        let mut names: Vec<Option<u32>> = vec![None; texts.len()];
        for (place, &total) in totals.iter().enumerate().skip(1) {
            let Some(parent) = kept.target(parents[place]) else { continue };
            let name = values.name_id(place) as usize;
            let text = &texts[name];
            if max_nodes > 0 && (largest(&total) < threshold || &**text == OTHER) {
                kept.fold(parent, total);
            } else {
                let name = *names[name].get_or_insert_with(|| kept.name(text));
                kept.keep(place, Node { parent, name, own: own[place], total });
            }
        }
        kept.into_tree()
    }
}

/// The total of every node: its own value and those of all below it. Parents come before their children.
fn totals<const SIDES: usize>(mut own: Vec<[i64; SIDES]>, parents: &[u32]) -> Vec<[i64; SIDES]> {
    for node in (1..own.len()).rev() {
        let total = own[node];
        let parent = &mut own[parents[node] as usize];
        parent.iter_mut().zip(total).for_each(|(sum, value)| *sum = sum.saturating_add(value));
    }
    own
}

/// The smallest total that stays: the `max_nodes`-th largest, or 0 where there is room for all.
fn threshold<const SIDES: usize>(totals: &[[i64; SIDES]], max_nodes: usize) -> i64 {
    let counted = if SIDES == 1 { &totals[1..] } else { totals };
    nth_largest(counted.iter().map(largest), max_nodes).unwrap_or(0)
}

/// The `nth` largest of several; `None` where there are not more than so many.
pub(super) fn nth_largest<T: Copy + Ord>(values: impl ExactSizeIterator<Item = T>, nth: usize) -> Option<T> {
    if nth == 0 || values.len() <= nth {
        return None;
    }
    // Of many few are as large as those that are found first, so to look for one is mostly to compare two numbers.
    let mut found: BinaryHeap<Reverse<T>> = BinaryHeap::with_capacity(nth);
    for value in values {
        if found.len() < nth {
            found.push(Reverse(value));
        } else if let Some(mut smallest) = found.peek_mut()
            && smallest.0 < value
        {
            *smallest = Reverse(value);
        }
    }
    found.peek().map(|smallest| smallest.0)
}

fn largest<const SIDES: usize>(total: &[i64; SIDES]) -> i64 {
    total.iter().copied().max().unwrap_or(0)
}

/// What becomes of a node's children: they are under this one, or have gone with it.
const GONE: u32 = u32::MAX;

/// A tree on its way, parents before children.
pub(super) struct Kept<const SIDES: usize> {
    tree: FlameTree<SIDES>,
    /// By parent, the node that its small children were folded into.
    others: HashMap<u32, u32>,
    other_name: Option<u32>,
    /// By node of the whole tree, which one it is here, or [`GONE`].
    targets: Vec<u32>,
}

impl<const SIDES: usize> Kept<SIDES> {
    /// Starts with the root of a tree of so many nodes.
    pub(super) fn new(own: [i64; SIDES], total: [i64; SIDES], nodes: usize) -> Self {
        let mut targets = vec![GONE; nodes];
        targets[ROOT as usize] = ROOT;
        Self { tree: FlameTree::rooted(own, total), others: HashMap::new(), other_name: None, targets }
    }

    /// What a node of the whole tree is here; `None` where it was folded away.
    pub(super) fn target(&self, node: u32) -> Option<u32> {
        Some(self.targets[node as usize]).filter(|target| *target != GONE)
    }

    pub(super) fn name(&mut self, text: &str) -> u32 {
        self.tree.name(text)
    }

    /// Adds a node; its parent and name are those of this tree.
    pub(super) fn keep(&mut self, id: usize, node: Node<SIDES>) {
        self.targets[id] = self.tree.push(node);
    }

    /// Adds a node, and all below it, to its parent's `other`.
    pub(super) fn fold(&mut self, parent: u32, total: [i64; SIDES]) {
        let Self { tree, others, other_name, .. } = self;
        let other = *others.entry(parent).or_insert_with(|| {
            let name = *other_name.get_or_insert_with(|| tree.name(OTHER));
            tree.push(Node { parent, name, own: [0; SIDES], total: [0; SIDES] })
        });
        let rest = &mut tree.nodes[other as usize];
        for (sum, total) in rest.total.iter_mut().zip(total) {
            *sum = sum.saturating_add(total);
        }
        rest.own = rest.total;
    }

    pub(super) fn into_tree(self) -> FlameTree<SIDES> {
        self.tree
    }
}
