//! Sums by number, where a query for one container must not pay for the stacks of all: room is made a block at a time, when
//! something falls into it.

use pyrite_model::StackId;

/// Sums in a block: 8 KiB, some of the stacks of a series, which mostly follow each other.
const BLOCK: usize = 1024;

/// A sum for each stack that has been added to. Sums that overflow stay at the end of what there is.
#[derive(Debug, Default)]
pub(crate) struct BlockSums {
    blocks: Vec<Option<Box<[i64; BLOCK]>>>,
    /// How many there are.
    made: usize,
}

impl BlockSums {
    pub(crate) fn add(&mut self, stack: StackId, value: i64) {
        let sum = &mut self.block(stack.0)[stack.index() % BLOCK];
        *sum = sum.saturating_add(value);
    }

    /// Adds a value to each of these stacks.
    pub(crate) fn add_all(&mut self, stacks: &[u32], mut values: &[i64]) {
        for in_block in stacks.chunk_by(|a, b| *a as usize / BLOCK == *b as usize / BLOCK) {
            let block = self.block(in_block[0]);
            let of_block;
            (of_block, values) = values.split_at(in_block.len());
            for (stack, value) in in_block.iter().zip(of_block) {
                let sum = &mut block[*stack as usize % BLOCK];
                *sum = sum.saturating_add(*value);
            }
        }
    }

    /// The sums that are not 0, in order of their stacks.
    pub(crate) fn present(&self) -> impl Iterator<Item = (StackId, i64)> + '_ {
        let blocks = self.blocks.iter().zip((0_u32..).step_by(BLOCK));
        let made = blocks.filter_map(|(block, first)| Some((block.as_deref()?, first)));
        let sums = made.flat_map(|(sums, first)| sums.iter().zip(first..));
        sums.filter(|(sum, _)| **sum != 0).map(|(sum, stack)| (StackId(stack), *sum))
    }

    /// Makes the sums of others 0.
    pub(crate) fn retain(&mut self, keep: impl Fn(StackId) -> bool) {
        for (block, first) in self.blocks.iter_mut().zip((0_u32..).step_by(BLOCK)) {
            let sums = block.iter_mut().flat_map(|sums| sums.iter_mut());
            for (sum, stack) in sums.zip(first..).filter(|(sum, _)| **sum != 0) {
                if !keep(StackId(stack)) {
                    *sum = 0;
                }
            }
        }
    }

    /// All stacks with a sum are below this one.
    pub(crate) fn end(&self) -> usize {
        let last = self.blocks.iter().rposition(Option::is_some).unwrap_or(0);
        let of_last = self.blocks.get(last).and_then(Option::as_deref);
        let used = of_last.and_then(|sums| sums.iter().rposition(|sum| *sum != 0));
        used.map_or(last * BLOCK, |at| last * BLOCK + at + 1)
    }

    /// Memory that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.made * size_of::<[i64; BLOCK]>() + self.blocks.capacity() * size_of::<usize>()
    }

    fn block(&mut self, stack: u32) -> &mut [i64; BLOCK] {
        let at = stack as usize / BLOCK;
        if at >= self.blocks.len() {
            self.blocks.resize_with(at + 1, || None);
        }
        self.blocks[at].get_or_insert_with(|| {
            self.made += 1;
            Box::new([0; BLOCK])
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_are_those_of_a_map(
            runs in prop::collection::vec(
                prop::collection::vec((0..5_000_u32, -3..4_i64), 1..40),
                0..12,
            ),
            one in (0..9_000_u32, 1..9_i64),
        ) {
            let (mut sums, mut expected) = (BlockSums::default(), BTreeMap::<u32, i64>::new());
            for run in &runs {
                let (stacks, values): (Vec<u32>, Vec<i64>) = run.iter().copied().unzip();
                sums.add_all(&stacks, &values);
                for (stack, value) in run {
                    *expected.entry(*stack).or_default() += value;
                }
            }
            sums.add(StackId(one.0), one.1);
            *expected.entry(one.0).or_default() += one.1;
            expected.retain(|_, sum| *sum != 0);
            let found = |sums: &BlockSums| sums.present().map(|(stack, sum)| (stack.0, sum)).collect::<BTreeMap<_, _>>();
            prop_assert_eq!(&found(&sums), &expected);
            prop_assert!(expected.keys().all(|stack| (*stack as usize) < sums.end()));
            sums.retain(|stack| stack.0 % 3 == 0);
            expected.retain(|stack, _| stack % 3 == 0);
            prop_assert_eq!(&found(&sums), &expected);
            prop_assert!(sums.end() <= 9_000, "no stack that nobody named");
        }
    }

    #[test]
    fn memory_follows_what_is_touched() {
        let mut sums = BlockSums::default();
        assert_eq!((sums.bytes(), sums.end()), (0, 0));
        sums.add_all(&[1_000_000, 1_000_001], &[i64::MAX, 2]);
        sums.add(StackId(1_000_000), 1);
        assert_eq!(
            sums.present().collect::<Vec<_>>(),
            [(StackId(1_000_000), i64::MAX), (StackId(1_000_001), 2)]
        );
        assert_eq!(sums.end(), 1_000_002);
        assert!(sums.bytes() < 32 << 10, "{}", sums.bytes());
    }
}
