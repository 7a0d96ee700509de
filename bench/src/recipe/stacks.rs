//! Stack traces of one program: paths in a tree of calls that branches towards the leaf.
//!
//! Each stack leaves an earlier one somewhere in its leaf half and goes on by itself for two to eight frames, so that
//! callers are shared by many and leaves by few. Stacks beyond the lasting ones are those that come with time where a
//! program drifts; they leave lasting ones in the same way.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::recipe::code::{ENTRIES, FunctionNo};
use crate::recipe::random::{Random, hash};

/// Stacks are at most this deep; at least 5, for an entry has 3 functions and a stack goes on from there.
const MAX_FRAMES: usize = 40;
const MIN_FRESH: u64 = 2;
const MAX_FRESH: u64 = 8;
/// Places in a function from which others are called.
const SITES: u64 = 4;

/// What the hashes of this file are for.
const LASTING: u64 = 1;
const LATER: u64 = 2;

/// A stack trace of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackNo(pub u32);

/// A place in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The function.
    pub function: FunctionNo,
    site: u8,
}

impl Frame {
    /// How many frames a program has.
    pub(super) const COUNT: usize = FunctionNo::COUNT * SITES as usize;

    /// The frame as an index below [`Self::COUNT`].
    pub(super) fn index(self) -> usize {
        self.function.index() * SITES as usize + usize::from(self.site)
    }

    /// Its line, counted from the function's first.
    pub fn line_in_function(self) -> u32 {
        2 + 7 * u32::from(self.site)
    }

    fn draw(random: &mut Random, is_leaf: bool) -> Self {
        let own_in_ten = if is_leaf { 3 } else { 6 };
        let is_own = random.below(10) < own_in_ten;
        let count = if is_own { FunctionNo::own_count() } else { FunctionNo::library_count() };
        // Drawn twice, so that low numbers are much more usual: every program has functions that all paths lead through.
        let bound = 1 + random.below(count);
        let n = random.below(bound);
        let function = if is_own { FunctionNo::own(n) } else { FunctionNo::library(n) };
        Self { function, site: random.below(SITES) as u8 }
    }
}

/// The stacks of one program.
pub(super) struct Stacks {
    key: u64,
    /// Root first, each unlike the others.
    lasting: Vec<Box<[Frame]>>,
}

impl Stacks {
    /// `count` stacks of the program that `key` stands for; `count` is not 0.
    pub(super) fn new(key: u64, count: u32) -> Self {
        let mut random = Random(hash(&[key, LASTING]));
        let mut known = HashSet::new();
        let mut lasting: Vec<Box<[Frame]>> = Vec::with_capacity(count as usize);
        while lasting.len() < count as usize {
            let stack = if lasting.len() < usize::from(ENTRIES) {
                let entry =
                    FunctionNo::entry(lasting.len() as u16).map(|function| Frame { function, site: 0 });
                go_on(&mut random, &entry)
            } else {
                let model = &lasting[random.below(lasting.len() as u64) as usize];
                branch(&mut random, model)
            };
            if known.insert(stack.clone()) {
                lasting.push(stack.into());
            }
        }
        Self { key, lasting }
    }

    /// How many there are at any moment.
    pub(super) fn count(&self) -> u32 {
        self.lasting.len() as u32
    }

    /// The frames of a stack, root first.
    pub(super) fn frames(&self, no: StackNo) -> Cow<'_, [Frame]> {
        if let Some(frames) = self.lasting.get(no.0 as usize) {
            return Cow::Borrowed(frames);
        }
        let mut random = Random(hash(&[self.key, LATER, no.0.into()]));
        let model = &self.lasting[random.below(self.lasting.len() as u64) as usize];
        Cow::Owned(branch(&mut random, model))
    }
}

fn branch(random: &mut Random, model: &[Frame]) -> Vec<Frame> {
    let dropped = random.below(model.len() as u64 / 2 + 1) as usize;
    go_on(random, &model[..model.len() - dropped])
}

fn go_on(random: &mut Random, from: &[Frame]) -> Vec<Frame> {
    let fresh = (MIN_FRESH + random.below(MAX_FRESH - MIN_FRESH + 1)) as usize;
    let mut stack = from[..from.len().min(MAX_FRAMES - fresh)].to_vec();
    stack.extend((1..=fresh).map(|n| Frame::draw(random, n == fresh)));
    stack
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_stay_in_bounds_and_vary() {
        let stacks = Stacks::new(7, 3_000);
        let depths: Vec<usize> = (0..20_000).map(|no| stacks.frames(StackNo(no)).len()).collect();
        assert!(depths.iter().all(|depth| (5..=40).contains(depth)));
        assert!(depths.contains(&5) && depths.contains(&40), "from one end to the other");
        let mean = depths.iter().sum::<usize>() as f64 / depths.len() as f64;
        assert!((12.0..25.0).contains(&mean), "{mean}");
    }

    #[test]
    fn lasting_stacks_are_distinct_and_share_their_callers() {
        let stacks = Stacks::new(8, 2_000);
        let all: Vec<_> = (0..2_000).map(|no| stacks.frames(StackNo(no))).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        let frames: usize = all.iter().map(|stack| stack.len()).sum();
        let nodes: HashSet<&[Frame]> =
            all.iter().flat_map(|stack| (1..=stack.len()).map(move |depth| &stack[..depth])).collect();
        let own = nodes.len() as f64 / all.len() as f64;
        assert!((2.0..8.0).contains(&own), "{own} frames of its own each, of {}", frames / all.len());
        let roots: HashSet<Frame> = all.iter().map(|stack| stack[0]).collect();
        assert_eq!(roots.len(), 1);
    }

    #[test]
    fn later_stacks_are_new_and_always_the_same() {
        let stacks = Stacks::new(9, 500);
        let lasting: HashSet<_> = (0..500).map(|no| stacks.frames(StackNo(no))).collect();
        let later: HashSet<_> = (500..1_000).map(|no| stacks.frames(StackNo(no))).collect();
        assert!(lasting.is_disjoint(&later) && later.len() > 490, "{} of 500", later.len());
        let again = Stacks::new(9, 500);
        assert!((0..1_000).all(|no| again.frames(StackNo(no)) == stacks.frames(StackNo(no))));
    }
}
