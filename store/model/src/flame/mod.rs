//! Flame trees: profiles by function name, one or two side by side, and the forms they travel in.
//!
//! ```text
//! values by stack ──CallTree──▶ values by node ──cut──▶ FlameTree<1> ──▶ Flamebearer<1>   4 numbers per node: xΔ total self name
//!                                 │         ▲   │            └───▶ wire bytes
//!                                 ▼         │   └─────▶ FlameTree<2> ──▶ Flamebearer<2>   7: xΔ total self, per side, then name
//!                     PathValues, where there are several trees
//! FlameTree ──▶ TopFunctions            FlameTree<2> by a measure ──▶ Comparison
//! ```
//!
//! A node is a path of function names from the root; file and line play no part. A side is one profile of a
//! comparison. What is cut off is chosen by the values of the whole tree, so that a frame of a comparison is missing from a
//! side only if that side never had it (I6).

mod bearer;
mod compare;
mod cut;
mod functions;
mod paths;
mod values;

pub use self::bearer::Flamebearer;
pub use self::compare::{Comparison, FunctionChange, Measure};
pub use self::functions::{FunctionValues, OtherFunctions, RankBy, TopFunctions};
pub use self::paths::PathValues;
pub use self::values::CallValues;
use crate::{CallTree, StackProfile};

/// The node that stands for all that was cut off under one parent.
const OTHER: &str = "other";

/// A tree of function names with one value per side, cut to about as many nodes as somebody wants to see: those with the
/// largest totals. The rest is, under each parent, one leaf `other`, into which a function of that very name is folded
/// too. Nodes that tie with the smallest kept one stay. A comparison counts its root as a node; both rules are Pyroscope's.
/// In a whole tree a function called `other` is one like others.
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
        Self::rooted([0; SIDES], [0; SIDES])
    }
}

impl<const SIDES: usize> FlameTree<SIDES> {
    /// The tree of profiles, each of which is a side. With `max_nodes` 0 it is whole.
    pub fn of_profiles(profiles: [&StackProfile; SIDES], max_nodes: usize) -> Self {
        let mut sums = PathValues::default();
        for (of, profile) in profiles.iter().enumerate() {
            let tree = CallTree::of(&profile.symbols);
            let values = |side| if side == of { profile.values.as_slice() } else { &[] };
            sums.add(&CallValues::new(&tree, |side| values(side).iter().copied()));
        }
        Self::of(&sums.values(), max_nodes)
    }

    /// The sum of all values, by side.
    pub fn totals(&self) -> [i64; SIDES] {
        self.nodes[0].total
    }

    /// How many nodes there are, the root not counted.
    pub fn node_count(&self) -> usize {
        self.nodes.len() - 1
    }

    fn rooted(own: [i64; SIDES], total: [i64; SIDES]) -> Self {
        Self { names: vec![Box::from("")], nodes: vec![Node { parent: ROOT, name: 0, own, total }] }
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
    /// The tree of one profile. With `max_nodes` 0 it is whole.
    pub fn from_profile(profile: &StackProfile, max_nodes: usize) -> Self {
        let tree = CallTree::of(&profile.symbols);
        Self::of(&CallValues::new(&tree, |_side| profile.values.iter().copied()), max_nodes)
    }
}

#[cfg(test)]
mod tests;
