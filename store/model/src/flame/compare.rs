//! Two profiles by a measure that makes them comparable: windows of different length, loads of different size.
//!
//! ```text
//! total    value                        what was counted
//! rate     value / seconds of the window     uniform growth shows
//! share    value / total of its side         uniform growth vanishes: what is left is what grew more than the rest
//! request  value / requests of its side      what one request costs
//! ```
//!
//! Values stay whole numbers until they are shown, so that sides that differ by a factor alone differ by nothing at all in
//! their shares.

use std::cmp::Reverse;
use std::num::NonZeroU32;

use super::cut::{Kept, nth_largest};
use super::functions::Sums;
use super::{FlameTree, FunctionValues, Node, OTHER, RankBy};
use crate::TimeRange;

/// What the values of each side are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// By nothing.
    Total,
    /// By the length of the side's window, in seconds.
    Rate([TimeRange; 2]),
    /// By the sum of all of the side's values.
    Share,
    /// By the number of requests that the side served.
    Request([NonZeroU32; 2]),
}

impl Measure {
    /// Its stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Rate(_) => "rate",
            Self::Share => "share",
            Self::Request(_) => "request",
        }
    }
}

/// Two whole profiles side by side, the baseline first, and the measure by which they are compared.
#[derive(Clone, Debug)]
pub struct Comparison {
    tree: FlameTree<2>,
    measure: Measure,
    /// By side, at least 1 each.
    divisors: [i64; 2],
    /// So many parts of a divisor are one of the measure's units.
    parts: i64,
}

/// A function on both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionChange {
    /// What it took, as it was counted.
    pub values: FunctionValues<2>,
    /// By how much more it took by itself, by the measure; negative where it took less.
    pub own: f64,
    /// The same with all that it called.
    pub total: f64,
}

impl Comparison {
    /// Compares the sides of a whole tree.
    pub fn new(tree: FlameTree<2>, measure: Measure) -> Self {
        let (divisors, parts) = match measure {
            Measure::Total => ([1, 1], 1),
            Measure::Rate(windows) => (windows.map(duration_ms), 1000),
            // Where all is nothing, any divisor leaves it nothing.
            Measure::Share => (tree.totals(), 1),
            Measure::Request(requests) => (requests.map(|requests| i64::from(requests.get())), 1),
        };
        Self { tree, measure, divisors: divisors.map(|divisor| divisor.max(1)), parts }
    }

    /// The measure that is used.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// What a value of each side is divided by to be one by the measure.
    pub fn divisors(&self) -> [f64; 2] {
        self.divisors.map(|divisor| divisor as f64 / self.parts as f64)
    }

    /// The sum of all values as they were counted, by side.
    pub fn totals(&self) -> [i64; 2] {
        self.tree.totals()
    }

    /// By how much more the second of two values is than the first, by the measure.
    pub fn change(&self, values: [i64; 2]) -> f64 {
        let [left, right] = self.over_one_divisor(values);
        let divisor = i128::from(self.divisors[0]) * i128::from(self.divisors[1]);
        (right - left) as f64 * self.parts as f64 / divisor as f64
    }

    /// The tree cut as [`FlameTree`] says, with nodes ranked by the measure. Its values are as they were counted.
    pub fn cut(&self, max_nodes: usize) -> FlameTree<2> {
        let FlameTree { names: texts, nodes } = &self.tree;
        let rank = |node: &Node<2>| self.over_one_divisor(node.total).into_iter().max();
        let threshold = nth_largest(nodes.iter().map(rank), max_nodes);
        let mut kept = Kept::new(nodes[0].own, nodes[0].total, nodes.len());
        let mut names: Vec<Option<u32>> = vec![None; texts.len()];
        for (id, node) in nodes.iter().enumerate().skip(1) {
            let Some(parent) = kept.target(node.parent) else { continue };
            let text = &texts[node.name as usize];
            if &**text == OTHER || threshold.is_some_and(|threshold| rank(node) < threshold) {
                kept.fold(parent, node.total);
            } else {
                let name = *names[node.name as usize].get_or_insert_with(|| kept.name(text));
                kept.keep(id, Node { parent, name, ..*node });
            }
        }
        kept.into_tree()
    }

    /// The `count` functions that changed most by the measure, most first; where they are equal, by name.
    pub fn most_changed(&self, count: usize, by: RankBy) -> Vec<FunctionChange> {
        let sums = self.tree.by_name();
        let size = |values: [i64; 2]| {
            let [left, right] = self.over_one_divisor(values);
            (right - left).unsigned_abs()
        };
        let chosen = self.tree.largest_names(&sums, count, |Sums { own, total }| {
            let [own, total] = [*own, *total].map(size);
            Reverse(if by == RankBy::Own { [own, total] } else { [total, own] })
        });
        let change = |name: &u32| {
            let values = self.tree.values_of(*name, &sums);
            FunctionChange { own: self.change(values.own), total: self.change(values.total), values }
        };
        chosen.iter().map(change).collect()
    }

    /// The values over the product of both divisors, which makes them comparable without rounding. No product of two values
    /// of 63 bits is too large, nor is a difference of such.
    fn over_one_divisor(&self, [left, right]: [i64; 2]) -> [i128; 2] {
        [i128::from(left) * i128::from(self.divisors[1]), i128::from(right) * i128::from(self.divisors[0])]
    }
}

/// Both ends of a window are inside it.
fn duration_ms(window: TimeRange) -> i64 {
    window.end.0.saturating_sub(window.start.0).saturating_add(1)
}
