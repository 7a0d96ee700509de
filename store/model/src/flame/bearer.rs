//! A flame tree as flame graph widgets take it, and as Pyroscope's binary tree.

use super::{FlameTree, OTHER, ROOT};

impl<const SIDES: usize> FlameTree<SIDES> {
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
}

impl FlameTree {
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
