//! Values by path of function names, of one call tree after the other: what stays of trees that are let go of.

use super::{CallValues, ROOT};
use crate::CallTree;

/// The sums of the values of several call trees; paths that they share are one.
#[derive(Clone, Debug)]
pub struct PathValues<const SIDES: usize> {
    tree: CallTree,
    /// By node of the tree.
    own: Vec<[i64; SIDES]>,
}

impl<const SIDES: usize> Default for PathValues<SIDES> {
    fn default() -> Self {
        Self { tree: CallTree::default(), own: vec![[0; SIDES]] }
    }
}

impl<const SIDES: usize> PathValues<SIDES> {
    /// Adds what a call tree has.
    pub fn add(&mut self, values: &CallValues<'_, SIDES>) {
        let texts = values.tree.names();
        let mut names: Vec<Option<u32>> = vec![None; texts.len()];
        let mut targets = vec![ROOT; values.nodes.len()];
        for (place, own) in values.own.iter().enumerate() {
            // The root comes first and is there.
            if place > 0 {
                let name = values.name_id(place) as usize;
                let name = *names[name].get_or_insert_with(|| self.tree.intern_name(&texts[name]));
                targets[place] = self.tree.child(targets[values.parents[place] as usize], name);
                self.own.resize(self.tree.node_count(), [0; SIDES]);
            }
            let sums = &mut self.own[targets[place] as usize];
            sums.iter_mut().zip(own).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
        }
    }

    /// The sums.
    pub fn values(&self) -> CallValues<'_, SIDES> {
        CallValues::of_nodes(&self.tree, |side| (0..).zip(self.own.iter().map(move |own| own[side])))
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.tree.node_count() == 1
    }

    /// Estimated memory.
    pub fn bytes(&self) -> usize {
        self.tree.bytes() + size_of_val(&*self.own)
    }
}
