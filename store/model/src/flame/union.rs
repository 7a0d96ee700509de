//! Flame trees of values that come from several call trees: one is taken as it is, the others find their way into it.

use hashbrown::HashMap;

use super::cut::{Kept, largest, threshold};
use super::{CallValues, FlameTree, Node, OTHER, ROOT};

impl<const SIDES: usize> FlameTree<SIDES> {
    /// The tree of all that the parts hold; paths that parts share become one. With `max_nodes` 0 it is whole.
    pub fn of(mut parts: Vec<CallValues<'_, SIDES>>, max_nodes: usize) -> Self {
        // The largest as it is, for the others cost a look for every node.
        let largest = parts.iter().enumerate().max_by_key(|(_, part)| part.nodes.len());
        let Some((largest, _)) = largest else { return Self::default() };
        let mut union = Union::new(parts.swap_remove(largest));
        for part in &parts {
            union.add(part);
        }
        union.into_tree(max_nodes)
    }
}

/// The nodes of the base, then the extra ones.
struct Union<'a, const SIDES: usize> {
    base: CallValues<'a, SIDES>,
    /// By node.
    parents: Vec<u32>,
    own: Vec<[i64; SIDES]>,
    extra: Extra,
}

/// Nodes and names that the base lacks; their ids follow those of the base.
#[derive(Default)]
struct Extra {
    /// By node, its name.
    nodes: Vec<u32>,
    children: HashMap<(u32, u32), u32>,
    names: Vec<Box<str>>,
    name_ids: HashMap<Box<str>, u32>,
}

impl<'a, const SIDES: usize> Union<'a, SIDES> {
    fn new(mut base: CallValues<'a, SIDES>) -> Self {
        let (parents, own) = (std::mem::take(&mut base.parents), std::mem::take(&mut base.own));
        Self { base, parents, own, extra: Extra::default() }
    }

    fn add(&mut self, part: &CallValues<'_, SIDES>) {
        let texts = part.tree.names();
        let mut names: Vec<Option<u32>> = vec![None; texts.len()];
        let mut targets = vec![ROOT; part.nodes.len()];
        for node in 0..part.nodes.len() {
            if node != ROOT as usize {
                let name = part.name_id(node) as usize;
                let name = *names[name].get_or_insert_with(|| self.name(&texts[name]));
                targets[node] = self.child(targets[part.parents[node] as usize], name);
            }
            add_to(&mut self.own[targets[node] as usize], part.own[node]);
        }
    }

    fn name(&mut self, text: &str) -> u32 {
        if let Some(id) = self.base.tree.find_name(text) {
            return id;
        }
        let Extra { names, name_ids, .. } = &mut self.extra;
        if let Some(id) = name_ids.get(text) {
            return *id;
        }
        let id = (self.base.tree.names().len() + names.len()) as u32;
        names.push(Box::from(text));
        name_ids.insert(Box::from(text), id);
        id
    }

    fn child(&mut self, parent: u32, name: u32) -> u32 {
        let Self { base, parents, own, extra: Extra { nodes, children, .. } } = self;
        if let Some(&parent) = base.nodes.get(parent as usize)
            && let Some(node) = base.tree.find(parent, name)
            && let Some(place) = base.place(node)
        {
            return place;
        }
        *children.entry((parent, name)).or_insert_with(|| {
            nodes.push(name);
            parents.push(parent);
            own.push([0; SIDES]);
            own.len() as u32 - 1
        })
    }

    /// The nodes as far as they are among the largest.
    fn into_tree(self, max_nodes: usize) -> FlameTree<SIDES> {
        let Self { base, parents, own, extra } = self;
        let texts = base.tree.names();
        let known = base.nodes.len();
        let totals = totals(own.clone(), &parents);
        let threshold = threshold(&totals, max_nodes);
        let mut kept = Kept::new(own[0], totals[0], own.len());
        let mut names: Vec<Option<u32>> = vec![None; texts.len() + extra.names.len()];
        for (node, &total) in totals.iter().enumerate().skip(1) {
            let Some(parent) = kept.target(parents[node]) else { continue };
            let name = if node < known { base.name_id(node) } else { extra.nodes[node - known] } as usize;
            let text = texts.get(name).unwrap_or_else(|| &extra.names[name - texts.len()]);
            if max_nodes > 0 && (largest(&total) < threshold || &**text == OTHER) {
                kept.fold(parent, total);
            } else {
                let name = *names[name].get_or_insert_with(|| kept.name(text));
                kept.keep(node, Node { parent, name, own: own[node], total });
            }
        }
        kept.into_tree()
    }
}

/// The total of every node: its own value and those of all below it. Parents come before their children.
fn totals<const SIDES: usize>(mut own: Vec<[i64; SIDES]>, parents: &[u32]) -> Vec<[i64; SIDES]> {
    for node in (1..own.len()).rev() {
        let total = own[node];
        add_to(&mut own[parents[node] as usize], total);
    }
    own
}

fn add_to<const SIDES: usize>(sum: &mut [i64; SIDES], values: [i64; SIDES]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum = sum.saturating_add(value);
    }
}
