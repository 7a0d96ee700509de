//! A flame tree as a table of functions: what each took by itself, and with all that it called.
//!
//! The table is made of the whole tree, never of a truncated one. A function that calls itself, directly or by way of
//! others, has one stack's value once in its total, however often it is in the stack.

use std::cmp::Reverse;

use super::{FlameTree, ROOT};

/// By which value functions are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RankBy {
    /// What they took by themselves.
    #[default]
    Own,
    /// What they took with all that they called.
    Total,
}

/// What a function took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionValues<const SIDES: usize = 1> {
    /// Its name.
    pub name: String,
    /// By itself: stacks that end in it.
    pub own: [i64; SIDES],
    /// With all that it called: stacks that go through it.
    pub total: [i64; SIDES],
}

/// The functions of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopFunctions<const SIDES: usize = 1> {
    /// The sum of all values.
    pub totals: [i64; SIDES],
    /// The largest first; where they are equal, by the other value and then by name.
    pub functions: Vec<FunctionValues<SIDES>>,
    /// All others; `None` where there are none.
    pub rest: Option<OtherFunctions<SIDES>>,
}

/// Several functions, taken as one: a stack that goes through any of them counts once in their total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherFunctions<const SIDES: usize = 1> {
    /// How many they are.
    pub count: usize,
    /// What they took by themselves.
    pub own: [i64; SIDES],
    /// What they took with all that they called.
    pub total: [i64; SIDES],
}

/// What nodes of one kind add up to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums<const SIDES: usize> {
    pub(super) own: [i64; SIDES],
    pub(super) total: [i64; SIDES],
}

impl<const SIDES: usize> Default for Sums<SIDES> {
    fn default() -> Self {
        Self { own: [0; SIDES], total: [0; SIDES] }
    }
}

impl<const SIDES: usize> Sums<SIDES> {
    /// What a function is ranked by: the value asked for, then the other one, each of the side that has more.
    fn rank(&self, by: RankBy) -> [i64; 2] {
        let [own, total] = [self.own, self.total].map(|values| values.into_iter().max().unwrap_or(0));
        if by == RankBy::Own { [own, total] } else { [total, own] }
    }
}

impl<const SIDES: usize> FlameTree<SIDES> {
    /// The `count` largest functions, and what the others are together.
    pub fn top_functions(&self, count: usize, by: RankBy) -> TopFunctions<SIDES> {
        let sums = self.by_name();
        let chosen = self.largest_names(&sums, count, |sums| Reverse(sums.rank(by)));
        let others = self.names.len() - 1 - chosen.len();
        let rest = (others > 0).then(|| {
            let mut kinds = vec![Some(0); self.names.len()];
            for name in std::iter::once(ROOT).chain(chosen.iter().copied()) {
                kinds[name as usize] = None;
            }
            let Sums { own, total } = self.by_kind(&kinds, 1)[0];
            OtherFunctions { count: others, own, total }
        });
        let functions = chosen.iter().map(|name| self.values_of(*name, &sums)).collect();
        TopFunctions { totals: self.totals(), functions, rest }
    }

    /// What each function took, by name; the nameless root has nothing.
    pub(super) fn by_name(&self) -> Vec<Sums<SIDES>> {
        let kinds: Vec<Option<u32>> =
            (0..self.names.len() as u32).map(|name| (name != ROOT).then_some(name)).collect();
        self.by_kind(&kinds, kinds.len())
    }

    /// The names that come first by `rank`, and of equals by their text; the nameless root is none of them.
    pub(super) fn largest_names<K: Ord>(
        &self,
        sums: &[Sums<SIDES>],
        count: usize,
        rank: impl Fn(&Sums<SIDES>) -> K,
    ) -> Vec<u32> {
        let key = |name: &u32| (rank(&sums[*name as usize]), &self.names[*name as usize]);
        let mut names: Vec<u32> = (1..self.names.len() as u32).collect();
        if (1..names.len()).contains(&count) {
            names.select_nth_unstable_by(count - 1, |a, b| key(a).cmp(&key(b)));
        }
        names.truncate(count);
        names.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        names
    }

    pub(super) fn values_of(&self, name: u32, sums: &[Sums<SIDES>]) -> FunctionValues<SIDES> {
        let Sums { own, total } = sums[name as usize];
        FunctionValues { name: self.names[name as usize].to_string(), own, total }
    }

    /// Adds up nodes by the kind of their names. A node below another of its kind adds to what they took by themselves
    /// alone: its total is in that one's.
    fn by_kind(&self, kinds: &[Option<u32>], count: usize) -> Vec<Sums<SIDES>> {
        let mut sums = vec![Sums::default(); count];
        // How many of a kind there are on the path to a node.
        let mut above = vec![0_u32; count];
        let children = self.linked_children();
        let mut open = vec![(ROOT, false)];
        while let Some((id, is_done)) = open.pop() {
            let node = &self.nodes[id as usize];
            let kind = kinds[node.name as usize].map(|kind| kind as usize);
            if is_done {
                above[kind.expect("only nodes with a kind are met again")] -= 1;
                continue;
            }
            if let Some(kind) = kind {
                add(&mut sums[kind].own, node.own);
                if above[kind] == 0 {
                    add(&mut sums[kind].total, node.total);
                }
                above[kind] += 1;
                open.push((id, true));
            }
            open.extend(children.of(id).map(|child| (child, false)));
        }
        sums
    }

    fn linked_children(&self) -> LinkedChildren {
        let mut links =
            LinkedChildren { first: vec![ROOT; self.nodes.len()], next: vec![ROOT; self.nodes.len()] };
        for (id, node) in (0..).zip(&self.nodes).skip(1) {
            let first = &mut links.first[node.parent as usize];
            links.next[id as usize] = std::mem::replace(first, id);
        }
        links
    }
}

/// Children of every node, in no order that matters. The root is nobody's child and so ends each list.
struct LinkedChildren {
    first: Vec<u32>,
    next: Vec<u32>,
}

impl LinkedChildren {
    fn of(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let is_one = |id: u32| (id != ROOT).then_some(id);
        std::iter::successors(is_one(self.first[node as usize]), move |id| is_one(self.next[*id as usize]))
    }
}

fn add<const SIDES: usize>(sum: &mut [i64; SIDES], values: [i64; SIDES]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum = sum.saturating_add(value);
    }
}
