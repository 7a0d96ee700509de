//! Flame trees: profiles by function name, one or two side by side, and the forms they travel in.
//!
//! ```text
//! values by stack ──CallTree──▶ FlameTree<1> ──▶ truncated ──▶ Flamebearer<1>   4 numbers per node: xΔ total self name
//!                           │                         └───▶ wire bytes
//!                           └─▶ FlameTree<2> ──▶ truncated ──▶ Flamebearer<2>   7: xΔ total self, per side, then name
//! ```
//!
//! A node is a path of function names from the root; file and line play no part. A side is one profile of a
//! comparison. Truncation always works on the whole tree, so that a frame of a comparison is missing from a side
//! only if that side never had it (I6).

mod bearer;
mod union;

use hashbrown::HashMap;

pub use self::bearer::Flamebearer;
pub use self::union::CallValues;
use crate::{CallTree, StackProfile};

/// The node that stands for all that truncation folded away under one parent.
const OTHER: &str = "other";

/// A tree of function names with one value per side.
#[derive(Clone, Debug)]
pub struct FlameTree<const SIDES: usize = 1> {
    /// Each once; the first is empty.
    names: Vec<Box<str>>,
    /// The nameless root first; every parent before its children.
    nodes: Vec<Node<SIDES>>,
}

#[derive(Clone, Copy, Debug)]
struct Node<const SIDES: usize> {
    parent: u32,
    name: u32,
    own: [i64; SIDES],
    total: [i64; SIDES],
}

const ROOT: u32 = 0;

impl<const SIDES: usize> Default for FlameTree<SIDES> {
    fn default() -> Self {
        Self::rooted(Node { parent: ROOT, name: 0, own: [0; SIDES], total: [0; SIDES] })
    }
}

impl<const SIDES: usize> FlameTree<SIDES> {
    /// The tree of whole profiles, each of which is a side.
    pub fn of_profiles(profiles: [&StackProfile; SIDES]) -> Self {
        let trees = profiles.map(|profile| CallTree::of(&profile.symbols));
        let parts = profiles.iter().zip(&trees).enumerate().map(|(side, (profile, tree))| {
            let mut own = vec![[0; SIDES]; tree.node_count()];
            tree.add(side, profile.values.iter().copied(), &mut own);
            CallValues { tree, own }
        });
        Self::of(parts.collect())
    }

    /// The sum of all values, by side.
    pub fn totals(&self) -> [i64; SIDES] {
        self.nodes[0].total
    }

    /// How many nodes there are, the root not counted.
    pub fn node_count(&self) -> usize {
        self.nodes.len() - 1
    }

    /// The tree of at most about `max_nodes` nodes: those with the largest totals. The rest becomes, under each
    /// parent, one leaf `other`, into which a function of that very name is folded too. Nodes that tie with the
    /// smallest kept one stay. A comparison counts its root as a node; both rules are Pyroscope's.
    #[must_use]
    pub fn truncated(&self, max_nodes: usize) -> Self {
        let threshold = self.threshold(max_nodes);
        let mut kept = Kept { tree: Self::rooted(self.nodes[0]), others: HashMap::new(), other_name: None };
        let mut names: Vec<Option<u32>> = vec![None; self.names.len()];
        let mut targets: Vec<Option<u32>> = vec![Some(ROOT)];
        for node in &self.nodes[1..] {
            let Some(parent) = targets[node.parent as usize] else {
                targets.push(None);
                continue;
            };
            let text = &self.names[node.name as usize];
            if node.largest() >= threshold && &**text != OTHER {
                let name = *names[node.name as usize].get_or_insert_with(|| kept.tree.name(text));
                targets.push(Some(kept.tree.push(Node { parent, name, ..*node })));
            } else {
                kept.fold(parent, node);
                targets.push(None);
            }
        }
        kept.tree
    }

    /// The `max_nodes`-th largest total, or 0 where there is room for all.
    fn threshold(&self, max_nodes: usize) -> i64 {
        let counted = if SIDES == 1 { &self.nodes[1..] } else { &self.nodes[..] };
        if max_nodes == 0 || counted.len() <= max_nodes {
            return 0;
        }
        let mut totals: Vec<i64> = counted.iter().map(Node::largest).collect();
        let (_, nth, _) = totals.select_nth_unstable_by(max_nodes - 1, |a, b| b.cmp(a));
        *nth
    }

    fn rooted(root: Node<SIDES>) -> Self {
        Self { names: vec![Box::from("")], nodes: vec![Node { parent: ROOT, name: 0, ..root }] }
    }

    /// Adds a name that is not there yet.
    fn name(&mut self, text: &str) -> u32 {
        self.names.push(Box::from(text));
        self.names.len() as u32 - 1
    }

    fn push(&mut self, node: Node<SIDES>) -> u32 {
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }
}

impl FlameTree {
    /// The tree of a whole profile.
    pub fn from_profile(profile: &StackProfile) -> Self {
        Self::of_profiles([profile])
    }
}

impl<const SIDES: usize> Node<SIDES> {
    fn largest(&self) -> i64 {
        self.total.into_iter().max().unwrap_or(0)
    }
}

/// A truncated tree on its way.
struct Kept<const SIDES: usize> {
    tree: FlameTree<SIDES>,
    /// By parent, the node that its small children were folded into.
    others: HashMap<u32, u32>,
    other_name: Option<u32>,
}

impl<const SIDES: usize> Kept<SIDES> {
    /// Adds a node, and all below it, to its parent's `other`.
    fn fold(&mut self, parent: u32, node: &Node<SIDES>) {
        let Self { tree, others, other_name } = self;
        let other = *others.entry(parent).or_insert_with(|| {
            let name = *other_name.get_or_insert_with(|| tree.name(OTHER));
            tree.push(Node { parent, name, own: [0; SIDES], total: [0; SIDES] })
        });
        let rest = &mut tree.nodes[other as usize];
        for (sum, total) in rest.total.iter_mut().zip(node.total) {
            *sum = sum.saturating_add(total);
        }
        rest.own = rest.total;
    }
}

#[cfg(test)]
mod tests;
