//! Flame trees: profiles by function name, one or two side by side, and the forms they travel in.
//!
//! ```text
//! StackProfile ──▶ FlameTree<1> ──▶ truncated ──▶ Flamebearer<1>   4 numbers per node: xΔ total self name
//!                       │                   └───▶ wire bytes
//!                       └─▶ FlameTree<2> ──▶ truncated ──▶ Flamebearer<2>   7: xΔ total self, per side, then name
//! ```
//!
//! A node is a path of function names from the root; file and line play no part. A side is one profile of a
//! comparison. Truncation always works on the whole tree, so that a frame of a comparison is missing from a side
//! only if that side never had it (I6).

use hashbrown::HashMap;

use crate::frames::{function_name, unresolved_name};
use crate::{LocationId, StackProfile};

/// The node that stands for all that truncation folded away under one parent.
const OTHER: &str = "other";

/// A tree of function names with one value per side.
#[derive(Clone, Debug)]
pub struct FlameTree<const SIDES: usize = 1> {
    names: Vec<Box<str>>,
    name_ids: HashMap<Box<str>, u32>,
    /// The nameless root first; every parent before its children.
    nodes: Vec<Node<SIDES>>,
    /// Which node is the child of this name under this parent.
    children: HashMap<(u32, u32), u32>,
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
        let root = Node { parent: ROOT, name: 0, own: [0; SIDES], total: [0; SIDES] };
        let mut tree =
            Self { names: Vec::new(), name_ids: HashMap::new(), nodes: vec![root], children: HashMap::new() };
        tree.intern("");
        tree
    }
}

impl<const SIDES: usize> FlameTree<SIDES> {
    /// The sum of all values, by side.
    pub fn totals(&self) -> [i64; SIDES] {
        self.nodes[0].total
    }

    /// How many nodes there are, the root not counted.
    pub fn node_count(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Adds a stack given root first. Values of 0 and below are left out: a flame graph cannot draw them.
    pub fn add_stack<'a>(&mut self, side: usize, root_first: impl IntoIterator<Item = &'a str>, value: i64) {
        if value <= 0 {
            return;
        }
        let mut node = ROOT;
        for name in root_first {
            let name = self.intern(name);
            self.add_total(node, side, value);
            node = self.child(node, name);
        }
        self.add_total(node, side, value);
        let own = &mut self.nodes[node as usize].own[side];
        *own = own.saturating_add(value);
    }

    /// Adds all of `other`, whose one side becomes `side` here.
    pub fn add_tree(&mut self, side: usize, other: &FlameTree) {
        let names: Vec<u32> = other.names.iter().map(|name| self.intern(name)).collect();
        let mut targets = Vec::with_capacity(other.nodes.len());
        for (i, node) in other.nodes.iter().enumerate() {
            let target = match i {
                0 => ROOT,
                _ => self.child(targets[node.parent as usize], names[node.name as usize]),
            };
            targets.push(target);
            let Node { own, total, .. } = &mut self.nodes[target as usize];
            own[side] = own[side].saturating_add(node.own[0]);
            total[side] = total[side].saturating_add(node.total[0]);
        }
    }

    /// The tree of at most about `max_nodes` nodes: those with the largest totals. The rest becomes, under each
    /// parent, one leaf `other`, into which a function of that very name is folded too. Nodes that tie with the
    /// smallest kept one stay. A comparison counts its root as a node; both rules are Pyroscope's.
    #[must_use]
    pub fn truncated(&self, max_nodes: usize) -> Self {
        let threshold = self.threshold(max_nodes);
        let mut kept = Self::default();
        kept.nodes[0] = self.nodes[0];
        let other = kept.intern(OTHER);
        let names: Vec<u32> = self.names.iter().map(|name| kept.intern(name)).collect();
        let mut targets: Vec<Option<u32>> = vec![Some(ROOT)];
        for node in &self.nodes[1..] {
            let name = names[node.name as usize];
            let Some(parent) = targets[node.parent as usize] else {
                targets.push(None);
                continue;
            };
            if name != other && node.largest() >= threshold {
                let target = kept.child(parent, name);
                (kept.nodes[target as usize].own, kept.nodes[target as usize].total) = (node.own, node.total);
                targets.push(Some(target));
            } else {
                let target = kept.child(parent, other);
                let rest = &mut kept.nodes[target as usize];
                for side in 0..SIDES {
                    rest.total[side] = rest.total[side].saturating_add(node.total[side]);
                }
                rest.own = rest.total;
                targets.push(None);
            }
        }
        kept
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

    /// The nodes by level, each level from left to right.
    pub fn flamebearer(&self) -> Flamebearer<SIDES> {
        let mut levels: Vec<Vec<i64>> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        let mut name_indexes: Vec<Option<i64>> = vec![None; self.names.len()];
        let mut max_self = 0;
        let children = self.children_in_order();
        let mut open = vec![(ROOT, 0, [0; SIDES])];
        // The right-most node comes first, so levels grow from their right end.
        while let Some((id, depth, mut x)) = open.pop() {
            let node = &self.nodes[id as usize];
            let name = *name_indexes[node.name as usize].get_or_insert_with(|| {
                let name = if id == ROOT { "total" } else { &self.names[node.name as usize] };
                names.push(name.to_owned());
                names.len() as i64 - 1
            });
            if levels.len() == depth {
                levels.push(Vec::new());
            }
            levels[depth].push(name);
            for side in (0..SIDES).rev() {
                levels[depth].extend([node.own[side], node.total[side], x[side]]);
                max_self = max_self.max(node.own[side]);
                x[side] = x[side].saturating_add(node.own[side]);
            }
            for &child in children.of(id) {
                open.push((child, depth + 1, x));
                for (x, total) in x.iter_mut().zip(self.nodes[child as usize].total) {
                    *x = x.saturating_add(total);
                }
            }
        }
        for level in &mut levels {
            level.reverse();
            (0..SIDES).for_each(|side| delta_encode(level, side * 3, SIDES * 3 + 1));
        }
        Flamebearer { names, levels, ticks: self.totals(), max_self }
    }

    /// All children by name, `other` behind them.
    fn children_in_order(&self) -> Children {
        let mut by_name: Vec<u32> = (0..self.names.len() as u32).collect();
        by_name.sort_unstable_by_key(|&id| {
            let name: &str = &self.names[id as usize];
            (name == OTHER, name)
        });
        let mut rank = vec![0_u32; by_name.len()];
        for (position, &id) in by_name.iter().enumerate() {
            rank[id as usize] = position as u32;
        }
        let mut ids: Vec<u32> = (1..self.nodes.len() as u32).collect();
        ids.sort_unstable_by_key(|&id| {
            let node = &self.nodes[id as usize];
            (node.parent, rank[node.name as usize])
        });
        let mut starts = vec![0; self.nodes.len() + 1];
        for node in &self.nodes[1..] {
            starts[node.parent as usize + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        Children { ids, starts }
    }

    fn intern(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.name_ids.get(name) {
            return id;
        }
        let id = self.names.len() as u32;
        self.names.push(Box::from(name));
        self.name_ids.insert(Box::from(name), id);
        id
    }

    fn child(&mut self, parent: u32, name: u32) -> u32 {
        *self.children.entry((parent, name)).or_insert_with(|| {
            self.nodes.push(Node { parent, name, own: [0; SIDES], total: [0; SIDES] });
            self.nodes.len() as u32 - 1
        })
    }

    fn add_total(&mut self, node: u32, side: usize, value: i64) {
        let total = &mut self.nodes[node as usize].total[side];
        *total = total.saturating_add(value);
    }
}

impl FlameTree {
    /// The tree of a whole profile.
    pub fn from_profile(profile: &StackProfile) -> Self {
        let mut tree = Self::default();
        let symbols = &profile.symbols;
        let mut own: Vec<i64> = vec![0; symbols.stack_nodes().len()];
        for &(stack, value) in &profile.values {
            own[stack.index()] = own[stack.index()].saturating_add(value.max(0));
        }
        // Callers have smaller ids: one pass down gives every stack node's total, one pass up places those used.
        let mut total = own.clone();
        for (i, node) in symbols.stack_nodes().iter().enumerate().rev() {
            if let Some(parent) = node.parent {
                total[parent.index()] = total[parent.index()].saturating_add(total[i]);
            }
        }
        let mut frames = FrameNames { profile, names: HashMap::new() };
        let mut placed = vec![ROOT; total.len()];
        for (i, stack) in symbols.stack_nodes().iter().enumerate().filter(|&(i, _)| total[i] > 0) {
            let parent = stack.parent.map_or(ROOT, |parent| placed[parent.index()]);
            if parent == ROOT && stack.parent.is_none() {
                tree.add_total(ROOT, 0, total[i]);
            }
            placed[i] = frames.of(stack.location, &mut tree).iter().fold(parent, |parent, &name| {
                let child = tree.child(parent, name);
                tree.add_total(child, 0, total[i]);
                child
            });
            let leaf = &mut tree.nodes[placed[i] as usize].own[0];
            *leaf = leaf.saturating_add(own[i]);
        }
        tree
    }

    /// Pyroscope's binary tree: nodes in pre-order, the last child first, each as the length of its name, the name,
    /// its self value and its number of children, numbers as unsigned varints. Nothing at all for an empty tree.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.node_count() == 0 {
            return out;
        }
        let children = self.children_in_order();
        let mut open = vec![ROOT];
        while let Some(id) = open.pop() {
            let node = &self.nodes[id as usize];
            let name = &self.names[node.name as usize];
            put_uvarint(&mut out, name.len() as u64);
            out.extend_from_slice(name.as_bytes());
            put_uvarint(&mut out, node.own[0] as u64);
            put_uvarint(&mut out, children.of(id).len() as u64);
            open.extend_from_slice(children.of(id));
        }
        out
    }
}

impl FlameTree<2> {
    /// Two profiles side by side, the baseline left.
    pub fn diff(left: &FlameTree, right: &FlameTree) -> Self {
        let mut both = Self::default();
        both.add_tree(0, left);
        both.add_tree(1, right);
        both
    }
}

impl<const SIDES: usize> Node<SIDES> {
    fn largest(&self) -> i64 {
        self.total.into_iter().max().unwrap_or(0)
    }
}

/// The name ids of each location's frames, caller first, resolved once per location.
struct FrameNames<'a> {
    profile: &'a StackProfile,
    names: HashMap<LocationId, Vec<u32>>,
}

impl FrameNames<'_> {
    fn of(&mut self, id: LocationId, tree: &mut FlameTree) -> &[u32] {
        let symbols = &self.profile.symbols;
        self.names.entry(id).or_insert_with(|| {
            let location = symbols.location(id);
            if location.lines.is_empty() {
                return vec![tree.intern(&unresolved_name(symbols, location))];
            }
            let lines = location.lines.iter().rev();
            lines.map(|line| tree.intern(function_name(symbols, line.function))).collect()
        })
    }
}

/// Children of every node, in drawing order.
struct Children {
    ids: Vec<u32>,
    /// Where each node's children begin in `ids`; they end where the next node's begin.
    starts: Vec<usize>,
}

impl Children {
    fn of(&self, node: u32) -> &[u32] {
        &self.ids[self.starts[node as usize]..self.starts[node as usize + 1]]
    }
}

/// A tree as flame graph widgets take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flamebearer<const SIDES: usize = 1> {
    /// Function names; the first is `total`.
    pub names: Vec<String>,
    /// Per level, per node: for each side the gap since the node before it, total and self; then the name's index.
    pub levels: Vec<Vec<i64>>,
    /// The sum of all values, by side.
    pub ticks: [i64; SIDES],
    /// The largest self value of any node on any side.
    pub max_self: i64,
}

impl<const SIDES: usize> Flamebearer<SIDES> {
    /// The sum over both sides.
    pub fn total(&self) -> i64 {
        self.ticks.iter().fold(0, |sum, ticks| sum.saturating_add(*ticks))
    }
}

/// Turns positions into gaps: each becomes the distance from the end of the node before it.
fn delta_encode(level: &mut [i64], first: usize, step: usize) {
    let mut end = 0_i64;
    for at in (first..level.len()).step_by(step) {
        level[at] = level[at].saturating_sub(end);
        end = end.saturating_add(level[at]).saturating_add(level[at + 1]);
    }
}

fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Folded = Vec<(Vec<&'static str>, i64)>;

    fn tree(stacks: &[(&str, i64)]) -> FlameTree {
        let mut tree = FlameTree::default();
        for (stack, value) in stacks {
            tree.add_stack(0, stack.split(';'), *value);
        }
        tree
    }

    fn from_folded(stacks: &Folded) -> FlameTree {
        let mut tree = FlameTree::default();
        for (stack, value) in stacks {
            tree.add_stack(0, stack.iter().copied(), *value);
        }
        tree
    }

    fn profile(stacks: &Folded) -> StackProfile {
        let mut profile = StackProfile::default();
        let mut sums: BTreeMap<crate::StackId, i64> = BTreeMap::new();
        for (stack, value) in stacks {
            let locations: Vec<_> =
                stack.iter().rev().map(|name| profile.symbols.intern_named_location(name)).collect();
            let id = profile.symbols.intern_stack(&locations).expect("stacks are not empty");
            *sums.entry(id).or_default() += value;
        }
        profile.values = sums.into_iter().collect();
        profile
    }

    #[test]
    fn one_profile_as_pyroscope_draws_it() {
        let bearer = tree(&[("a;b", 3), ("a", 1), ("a;c", 2), ("d", 4), ("x", 0), ("y", -1)]).flamebearer();
        assert_eq!(bearer.names, ["total", "d", "a", "c", "b"]);
        assert_eq!(
            bearer.levels,
            [vec![0, 10, 0, 0], vec![0, 6, 1, 2, 0, 4, 4, 1], vec![1, 3, 3, 4, 0, 2, 2, 3]]
        );
        assert_eq!((bearer.total(), bearer.max_self), (10, 4));
    }

    #[test]
    fn two_profiles_as_pyroscope_draws_them() {
        let left = tree(&[("a;b", 3), ("a", 1)]);
        let right = tree(&[("a;b", 1), ("a;c", 2)]);
        let bearer = FlameTree::diff(&left, &right).truncated(8192).flamebearer();
        assert_eq!(bearer.names, ["total", "a", "c", "b"]);
        let levels = [
            vec![0, 4, 0, 0, 3, 0, 0],
            vec![0, 4, 1, 0, 3, 0, 1],
            vec![1, 3, 3, 0, 1, 1, 3, 0, 0, 0, 0, 2, 2, 2],
        ];
        assert_eq!(bearer.levels, levels);
        assert_eq!((bearer.total(), bearer.ticks, bearer.max_self), (7, [4, 3], 3));
    }

    #[test]
    fn nothing_is_a_root_without_children() {
        let bearer = FlameTree::<1>::default().truncated(10).flamebearer();
        assert_eq!(bearer.names, ["total"]);
        assert_eq!(bearer.levels, [[0, 0, 0, 0]]);
        let bearer = FlameTree::diff(&FlameTree::default(), &FlameTree::default()).flamebearer();
        assert_eq!(bearer.levels, [[0; 7]]);
        assert!(FlameTree::default().to_wire().is_empty());
    }

    #[test]
    fn small_nodes_fold_into_other() {
        let whole = tree(&[("a;b", 3), ("a;c;d", 2), ("a;e", 1), ("a;other;x", 1), ("f", 4)]);
        // Largest first: a 7, f 4, b 3, then c, d and the rest.
        let bearer = whole.truncated(3).flamebearer();
        assert_eq!(bearer.names, ["total", "f", "a", "other", "b"]);
        assert_eq!(
            bearer.levels,
            [vec![0, 11, 0, 0], vec![0, 7, 0, 2, 0, 4, 4, 1], vec![0, 3, 3, 4, 0, 4, 4, 3]]
        );
        // A tie at the border stays: c and d have 2 each.
        assert_eq!(whole.truncated(4).node_count(), 6);
        // With room for all only the function called `other` loses its children.
        assert_eq!(whole.truncated(100).node_count(), whole.node_count() - 1);
        assert_eq!(whole.truncated(0).node_count(), whole.node_count() - 1);
    }

    #[test]
    fn wire_bytes_are_preorder_with_the_last_child_first() {
        let wire = tree(&[("a;b", 300), ("c", 1)]).to_wire();
        let expected =
            [&[0, 0, 2][..], &[1, b'c', 1, 0], &[1, b'a', 0, 1], &[1, b'b', 0xac, 0x02, 0]].concat();
        assert_eq!(wire, expected);
    }

    #[test]
    fn huge_values_saturate() {
        let whole = tree(&[("a", i64::MAX), ("a;b", i64::MAX), ("c", i64::MAX)]);
        assert_eq!(whole.totals(), [i64::MAX]);
        let both = FlameTree::diff(&whole, &whole).truncated(2);
        assert_eq!(both.flamebearer().total(), i64::MAX);
    }

    #[test]
    fn a_profile_keeps_inlined_and_unresolved_frames() {
        let mut profile = profile(&vec![(vec!["main", "work"], 2)]);
        let unresolved =
            profile.symbols.intern_location(crate::Location { address: 0x40, ..Default::default() });
        let stack = profile.symbols.intern_stack(&[unresolved]).unwrap();
        profile.values.push((stack, 1));
        let bearer = FlameTree::from_profile(&profile).flamebearer();
        assert_eq!(bearer.names, ["total", "main", "work", "0x40"]);
        assert_eq!(bearer.levels[1], [0, 1, 1, 3, 0, 2, 0, 1]);
    }

    /// What a tree says, path by path: own and total values on each side.
    fn paths<const SIDES: usize>(tree: &FlameTree<SIDES>) -> BTreeMap<Vec<String>, [[i64; 2]; SIDES]> {
        let bearer = tree.flamebearer();
        let step = SIDES * 3 + 1;
        let mut found = BTreeMap::new();
        // Nodes of the level above with their left end, to find parents by position as a viewer does.
        let mut above: Vec<(Vec<String>, [i64; SIDES], [i64; SIDES])> = vec![];
        for level in &bearer.levels {
            let mut nodes = vec![];
            let mut end = [0; SIDES];
            for node in level.chunks(step) {
                let name = bearer.names[node[step - 1] as usize].clone();
                let start: [i64; SIDES] = std::array::from_fn(|side| end[side] + node[side * 3]);
                let total: [i64; SIDES] = std::array::from_fn(|side| node[side * 3 + 1]);
                end = std::array::from_fn(|side| start[side] + total[side]);
                let side = (0..SIDES).find(|&side| total[side] > 0).unwrap_or(0);
                let holds = |(_, from, size): &&(Vec<String>, [i64; SIDES], [i64; SIDES])| {
                    from[side] <= start[side] && end[side] <= from[side] + size[side]
                };
                let mut path = above.iter().find(holds).map_or(vec![], |(path, ..)| path.clone());
                path.push(name);
                found.insert(path.clone(), std::array::from_fn(|side| [node[side * 3 + 2], total[side]]));
                nodes.push((path, start, total));
            }
            above = nodes;
        }
        found
    }

    /// Truncation and comparison done the slow way, from folded stacks to paths.
    fn brute_force<const SIDES: usize>(
        sides: [&Folded; SIDES],
        max_nodes: usize,
    ) -> BTreeMap<Vec<String>, [[i64; 2]; SIDES]> {
        let mut whole: BTreeMap<Vec<String>, [[i64; 2]; SIDES]> = BTreeMap::new();
        whole.insert(vec!["total".into()], [[0; 2]; SIDES]);
        for (side, stacks) in sides.iter().enumerate() {
            for (stack, value) in *stacks {
                let path: Vec<String> =
                    std::iter::once(&"total").chain(stack).map(ToString::to_string).collect();
                for depth in 1..=path.len() {
                    let node = &mut whole.entry(path[..depth].to_vec()).or_insert([[0; 2]; SIDES])[side];
                    node[1] += value;
                    node[0] += if depth == path.len() { *value } else { 0 };
                }
            }
        }
        let largest = |node: &[[i64; 2]; SIDES]| node.iter().map(|[_, total]| *total).max().unwrap();
        let mut totals: Vec<i64> = whole
            .iter()
            .filter(|(path, _)| SIDES > 1 || path.len() > 1)
            .map(|(_, node)| largest(node))
            .collect();
        totals.sort_unstable_by(|a, b| b.cmp(a));
        let threshold = if totals.len() <= max_nodes { 0 } else { totals[max_nodes - 1] };
        let folded = |path: &[String]| {
            path.len() > 1 && (largest(&whole[path]) < threshold || path.ends_with(&["other".into()]))
        };
        let mut kept: BTreeMap<Vec<String>, [[i64; 2]; SIDES]> = BTreeMap::new();
        for (path, node) in &whole {
            let cut = (1..=path.len()).find(|&depth| folded(&path[..depth]));
            match cut {
                None => drop(kept.insert(path.clone(), *node)),
                Some(depth) if depth == path.len() => {
                    let mut other = path[..depth - 1].to_vec();
                    other.push("other".into());
                    let rest = kept.entry(other).or_insert([[0; 2]; SIDES]);
                    (0..SIDES).for_each(|side| rest[side] = [rest[side][0] + node[side][1]; 2]);
                }
                Some(_) => {}
            }
        }
        kept
    }

    fn folded() -> impl Strategy<Value = Folded> {
        let name = prop::sample::select(vec!["a", "b", "c", "d", "other"]);
        prop::collection::vec((prop::collection::vec(name, 1..6), 1..50_i64), 0..30)
    }

    proptest! {
        #[test]
        fn a_profile_and_its_folded_stacks_are_the_same_tree(stacks in folded()) {
            let (by_profile, by_name) = (FlameTree::from_profile(&profile(&stacks)), from_folded(&stacks));
            prop_assert_eq!(by_profile.flamebearer(), by_name.flamebearer());
            prop_assert_eq!(by_profile.to_wire(), by_name.to_wire());
        }

        #[test]
        fn truncation_equals_brute_force(stacks in folded(), max_nodes in 1..40_usize) {
            let truncated = from_folded(&stacks).truncated(max_nodes);
            prop_assert_eq!(truncated.totals()[0], stacks.iter().map(|(_, value)| value).sum::<i64>());
            prop_assert_eq!(paths(&truncated), brute_force([&stacks], max_nodes));
        }

        #[test]
        fn diff_equals_brute_force(left in folded(), right in folded(), max_nodes in 1..40_usize) {
            let truncated = FlameTree::diff(&from_folded(&left), &from_folded(&right)).truncated(max_nodes);
            prop_assert_eq!(paths(&truncated), brute_force([&left, &right], max_nodes));
        }

        #[test]
        fn own_values_add_up_to_the_total(stacks in folded(), max_nodes in 1..40_usize) {
            let truncated = from_folded(&stacks).truncated(max_nodes);
            let own: i64 = truncated.nodes.iter().map(|node| node.own[0]).sum();
            prop_assert_eq!(own, truncated.totals()[0]);
        }
    }
}
