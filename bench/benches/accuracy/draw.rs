//! A random sample of the captured stacks, each as likely as the next.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use pyrite_bench::accuracy::{CapturedStack, MappingSet, Message, open_cases};

/// What was drawn.
pub(crate) struct Draw {
    sets: HashMap<u64, MappingSet>,
    stacks: Vec<CapturedStack>,
    /// Of how many.
    read: usize,
    /// Records that met a full ring.
    lost: u64,
}

impl Draw {
    /// Reads a file of cases once and keeps `count` of its stacks at most (reservoir sampling).
    pub(crate) fn from_file(path: &Path, count: usize, seed: u64) -> Result<Self> {
        let mut draw = Self { sets: HashMap::new(), stacks: Vec::new(), read: 0, lost: 0 };
        let mut random = Random(seed.max(1));
        for message in open_cases(path)? {
            match message.with_context(|| format!("reading {}", path.display()))? {
                Message::Mappings(set) => drop(draw.sets.insert(set.id, set)),
                Message::Stack(stack) => {
                    draw.read += 1;
                    if draw.stacks.len() < count {
                        draw.stacks.push(*stack);
                    } else if let Some(slot) = draw.stacks.get_mut(random.below(draw.read)) {
                        *slot = *stack;
                    }
                }
                Message::Lost(records) => draw.lost += records,
            }
        }
        draw.stacks.sort_by_key(|stack| stack.id);
        Ok(draw)
    }

    /// How many stacks would have been drawn of those that were lost, as if each lost record was one.
    pub(crate) fn lost(&self) -> u64 {
        (self.lost * self.stacks.len() as u64).div_ceil(self.read.max(1) as u64)
    }

    /// The stacks in order of time, each with its mappings.
    pub(crate) fn cases(&self) -> impl Iterator<Item = (&MappingSet, &CapturedStack)> {
        self.stacks.iter().filter_map(|stack| Some((self.sets.get(&stack.mapping_set)?, stack)))
    }
}

/// Marsaglia's xorshift64: the same draw again for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
