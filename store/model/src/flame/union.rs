//! Flame trees of values that come from several call trees: one is taken as it is, the others find their way into it.

use hashbrown::HashMap;

use super::{FlameTree, Node, ROOT};
use crate::CallTree;

/// What one source contributes to a flame tree: values by node of its call tree, by side.
#[derive(Clone, Debug)]
pub struct CallValues<'a, const SIDES: usize> {
    /// The paths.
    pub tree: &'a CallTree,
    /// Own values by node, none negative.
    pub own: Vec<[i64; SIDES]>,
}

impl<const SIDES: usize> FlameTree<SIDES> {
    /// The tree of all that the parts hold; paths that parts share become one.
    pub fn of(mut parts: Vec<CallValues<'_, SIDES>>) -> Self {
        // The largest as it is, for the others cost a look for every node.
        let largest = parts.iter().enumerate().max_by_key(|(_, part)| part.tree.node_count());
        let Some((largest, _)) = largest else { return Self::default() };
        let CallValues { tree, own } = parts.swap_remove(largest);
        let mut union = Union { base: tree, own, extra: Extra::default() };
        for part in &parts {
            union.add(part);
        }
        union.into_tree()
    }
}

/// Own values by node: those of the base, then the extra ones.
struct Union<'a, const SIDES: usize> {
    base: &'a CallTree,
    own: Vec<[i64; SIDES]>,
    extra: Extra,
}

/// Nodes and names that the base lacks; their ids follow those of the base.
#[derive(Default)]
struct Extra {
    nodes: Vec<(u32, u32)>,
    children: HashMap<(u32, u32), u32>,
    names: Vec<Box<str>>,
    name_ids: HashMap<Box<str>, u32>,
}

impl<const SIDES: usize> Union<'_, SIDES> {
    fn add(&mut self, part: &CallValues<'_, SIDES>) {
        let CallValues { tree, own } = part;
        let totals = totals(own.clone(), |node| tree.parent(node));
        let mut names: Vec<Option<u32>> = vec![None; tree.names().len()];
        let mut targets = vec![ROOT; own.len()];
        for node in 0..own.len() {
            if is_nothing(totals[node]) {
                continue;
            }
            if node != ROOT as usize {
                let name = tree.name_id(node) as usize;
                let name = *names[name].get_or_insert_with(|| self.name(&tree.names()[name]));
                targets[node] = self.child(targets[tree.parent(node) as usize], name);
            }
            add_to(&mut self.own[targets[node] as usize], own[node]);
        }
    }

    fn name(&mut self, text: &str) -> u32 {
        if let Some(id) = self.base.find_name(text) {
            return id;
        }
        let Extra { names, name_ids, .. } = &mut self.extra;
        if let Some(id) = name_ids.get(text) {
            return *id;
        }
        let id = (self.base.names().len() + names.len()) as u32;
        names.push(Box::from(text));
        name_ids.insert(Box::from(text), id);
        id
    }

    fn child(&mut self, parent: u32, name: u32) -> u32 {
        if (parent as usize) < self.base.node_count()
            && let Some(node) = self.base.find(parent, name)
        {
            return node;
        }
        let Self { own, extra: Extra { nodes, children, .. }, .. } = self;
        *children.entry((parent, name)).or_insert_with(|| {
            nodes.push((parent, name));
            own.push([0; SIDES]);
            own.len() as u32 - 1
        })
    }

    /// The nodes that have a value, own or of their children, under names that some of them has.
    fn into_tree(self) -> FlameTree<SIDES> {
        let Self { base, own, extra } = self;
        let known = base.node_count();
        let parent = |node: usize| if node < known { base.parent(node) } else { extra.nodes[node - known].0 };
        let name = |node: usize| if node < known { base.name_id(node) } else { extra.nodes[node - known].1 };
        let totals = totals(own.clone(), parent);
        let root = Node { parent: ROOT, name: 0, own: own[0], total: totals[0] };
        let mut tree = FlameTree::rooted(root);
        tree.nodes.reserve_exact(totals.iter().filter(|total| !is_nothing(**total)).count());
        let mut names: Vec<Option<u32>> = vec![None; base.names().len() + extra.names.len()];
        let mut placed = vec![ROOT; own.len()];
        for node in 1..own.len() {
            if is_nothing(totals[node]) {
                continue;
            }
            let id = name(node) as usize;
            let text = || base.names().get(id).unwrap_or_else(|| &extra.names[id - base.names().len()]);
            let name = *names[id].get_or_insert_with(|| tree.name(text()));
            let parent = placed[parent(node) as usize];
            placed[node] = tree.push(Node { parent, name, own: own[node], total: totals[node] });
        }
        tree
    }
}

/// The total of every node: its own value and those of all below it. Parents come before their children.
fn totals<const SIDES: usize>(
    mut own: Vec<[i64; SIDES]>,
    parent: impl Fn(usize) -> u32,
) -> Vec<[i64; SIDES]> {
    for node in (1..own.len()).rev() {
        let total = own[node];
        if !is_nothing(total) {
            add_to(&mut own[parent(node) as usize], total);
        }
    }
    own
}

/// Faster than a comparison with an array of zeros, which calls a function.
fn is_nothing<const SIDES: usize>(values: [i64; SIDES]) -> bool {
    values.iter().all(|value| *value == 0)
}

fn add_to<const SIDES: usize>(sum: &mut [i64; SIDES], values: [i64; SIDES]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum = sum.saturating_add(value);
    }
}
