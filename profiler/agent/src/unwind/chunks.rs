//! The chunks that unwind tables and mapping sets are made of: which are in use, which may be written.
//!
//! A program that looked a chunk up may go on reading it after nothing points to it any more, so a chunk is used again only
//! when every program that ran at its retirement has ended (see `unwind.h` and [`Retired`]). Chunks of low numbers are used
//! first, so that the last slabs become empty again.

use std::ops::DerefMut;

use pyrite_bpf::abi::{PYRITE_MAX_SLABS, PYRITE_SLAB_CHUNKS};

use crate::sys::Chunk;
use crate::unwind::grace::Retired;

/// Chunks in one slab.
pub(crate) const SLAB_CHUNKS: usize = PYRITE_SLAB_CHUNKS as usize;
/// Slabs that the programs can tell apart.
pub(crate) const MAX_SLABS: usize = PYRITE_MAX_SLABS as usize;
const WORDS: usize = SLAB_CHUNKS / 64;

/// A chunk by its number among all slabs, as the BPF programs know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkId(pub(crate) u32);

impl ChunkId {
    fn slab(self) -> usize {
        self.0 as usize / SLAB_CHUNKS
    }

    fn within(self) -> usize {
        self.0 as usize % SLAB_CHUNKS
    }
}

/// The memory of one slab: [`SLAB_CHUNKS`] chunks.
pub(crate) trait SlabMemory: DerefMut<Target = [Chunk]> {}

impl<M: DerefMut<Target = [Chunk]>> SlabMemory for M {}

/// How many chunks there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChunkCounts {
    pub(crate) free: usize,
    pub(crate) used: usize,
    /// Retired, and not free yet.
    pub(crate) retired: usize,
}

/// All slabs.
#[derive(Debug)]
pub(crate) struct Chunks<M> {
    slabs: Vec<Option<Slab<M>>>,
    free: usize,
    used: usize,
    retired: Retired<ChunkId>,
}

#[derive(Debug)]
struct Slab<M> {
    memory: M,
    /// Bit i of word w is set where chunk 64 w + i is free.
    free: [u64; WORDS],
    free_count: usize,
}

impl<M: SlabMemory> Chunks<M> {
    pub(crate) fn new() -> Self {
        Self { slabs: Vec::new(), free: 0, used: 0, retired: Retired::new() }
    }

    pub(crate) fn counts(&self) -> ChunkCounts {
        ChunkCounts { free: self.free, used: self.used, retired: self.retired.len() }
    }

    /// How many slabs there are.
    pub(crate) fn slab_count(&self) -> usize {
        self.slabs.iter().flatten().count()
    }

    /// The lowest number that no slab has and that is not `promised`.
    pub(crate) fn vacant_slab(&self, promised: &[u32]) -> Option<u32> {
        let is_taken = |number: &u32| self.slabs.get(*number as usize).is_some_and(Option::is_some);
        (0..MAX_SLABS as u32).find(|number| !is_taken(number) && !promised.contains(number))
    }

    /// Takes a slab in, all of it free.
    pub(crate) fn add_slab(&mut self, number: u32, memory: M) {
        let at = number as usize;
        assert!(
            at < MAX_SLABS && memory.len() == SLAB_CHUNKS,
            "a slab has the size that the programs expect"
        );
        if self.slabs.len() <= at {
            self.slabs.resize_with(at + 1, || None);
        }
        assert!(self.slabs[at].is_none(), "a number is given to one slab at a time");
        self.slabs[at] = Some(Slab { memory, free: [u64::MAX; WORDS], free_count: SLAB_CHUNKS });
        self.free += SLAB_CHUNKS;
    }

    /// Takes a slab out of which nothing is used, if at least `keep_free` chunks stay free without it. The first slab
    /// always stays.
    pub(crate) fn take_empty_slab(&mut self, keep_free: usize) -> Option<u32> {
        if self.free < keep_free + SLAB_CHUNKS {
            return None;
        }
        let is_empty = |slab: &Option<Slab<M>>| slab.as_ref().is_some_and(|s| s.free_count == SLAB_CHUNKS);
        let at = self.slabs.iter().rposition(is_empty).filter(|at| *at > 0)?;
        self.slabs[at] = None;
        self.free -= SLAB_CHUNKS;
        Some(at as u32)
    }

    /// `count` chunks that nobody uses, or none where there are fewer.
    pub(crate) fn allocate(&mut self, count: usize) -> Option<Vec<ChunkId>> {
        if count > self.free {
            return None;
        }
        let mut ids = Vec::with_capacity(count);
        for (number, slab) in self.slabs.iter_mut().enumerate() {
            let Some(slab) = slab else { continue };
            while ids.len() < count
                && let Some(within) = slab.take_first()
            {
                ids.push(ChunkId((number * SLAB_CHUNKS + within) as u32));
            }
        }
        self.free -= count;
        self.used += count;
        Some(ids)
    }

    /// Writes a chunk that was allocated and that nothing points to yet.
    pub(crate) fn write(&mut self, id: ChunkId, content: &Chunk) {
        if let Some(slab) = self.slabs.get_mut(id.slab()).and_then(Option::as_mut) {
            slab.memory[id.within()] = *content;
        }
    }

    /// The chunk with this number, if there is one.
    pub(crate) fn get(&self, id: ChunkId) -> Option<&Chunk> {
        self.slabs.get(id.slab())?.as_ref()?.memory.get(id.within())
    }

    /// Nothing points to these chunks any more.
    pub(crate) fn retire(&mut self, ids: impl IntoIterator<Item = ChunkId>) {
        let before = self.retired.len();
        self.retired.retire(ids);
        self.used -= self.retired.len() - before;
    }

    /// See [`Retired::begin_grace`].
    pub(crate) fn begin_grace(&mut self) -> bool {
        self.retired.begin_grace()
    }

    /// See [`Retired::extend_grace`].
    pub(crate) fn extend_grace(&mut self) {
        self.retired.extend_grace();
    }

    /// See [`Retired::end_grace`].
    pub(crate) fn end_grace(&mut self) {
        for id in self.retired.end_grace() {
            if let Some(slab) = self.slabs.get_mut(id.slab()).and_then(Option::as_mut) {
                slab.give_back(id.within());
                self.free += 1;
            }
        }
    }
}

impl<M> Slab<M> {
    fn take_first(&mut self) -> Option<usize> {
        let word = self.free.iter().position(|word| *word != 0)?;
        let bit = self.free[word].trailing_zeros() as usize;
        self.free[word] &= self.free[word] - 1;
        self.free_count -= 1;
        Some(64 * word + bit)
    }

    fn give_back(&mut self, within: usize) {
        let (word, bit) = (within / 64, 1 << (within % 64));
        assert!(self.free[word] & bit == 0, "a chunk is given back once");
        self.free[word] |= bit;
        self.free_count += 1;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    /// The memory of a slab without a kernel.
    pub(crate) fn slab_memory() -> Vec<Chunk> {
        vec![[0; size_of::<Chunk>()]; SLAB_CHUNKS]
    }

    fn chunks(slabs: u32) -> Chunks<Vec<Chunk>> {
        let mut chunks = Chunks::new();
        for number in 0..slabs {
            chunks.add_slab(number, slab_memory());
        }
        chunks
    }

    #[test]
    fn a_retired_chunk_comes_back_only_after_a_grace_period_that_began_later() {
        let mut chunks = chunks(1);
        let all = chunks.allocate(SLAB_CHUNKS).unwrap();
        chunks.retire([all[7]]);
        assert!(chunks.begin_grace());
        chunks.retire([all[9]]);
        assert_eq!(chunks.allocate(1), None);
        chunks.end_grace();
        assert_eq!(chunks.allocate(2), None, "one was retired while the grace period ran");
        assert_eq!(chunks.allocate(1), Some(vec![all[7]]));
        assert!(chunks.begin_grace());
        chunks.end_grace();
        assert_eq!(chunks.allocate(1), Some(vec![all[9]]));
        assert!(!chunks.begin_grace(), "nothing waits");
    }

    #[test]
    fn a_slab_goes_when_it_is_empty_and_enough_is_left_without_it() {
        let mut chunks = chunks(2);
        let all = chunks.allocate(2 * SLAB_CHUNKS).unwrap();
        chunks.retire(all[SLAB_CHUNKS..].iter().copied());
        assert!(chunks.begin_grace());
        assert_eq!(chunks.take_empty_slab(0), None, "a program may still read it");
        chunks.end_grace();
        assert_eq!(chunks.take_empty_slab(1), None);
        assert_eq!(chunks.take_empty_slab(0), Some(1));
        assert_eq!((chunks.slab_count(), chunks.vacant_slab(&[])), (1, Some(1)));
        assert_eq!(chunks.get(all[SLAB_CHUNKS]), None);
        chunks.retire(all[..SLAB_CHUNKS].iter().copied());
        chunks.begin_grace();
        chunks.end_grace();
        assert_eq!(chunks.take_empty_slab(0), None, "the first slab stays");
    }

    #[test]
    fn slabs_are_as_many_as_the_programs_know() {
        let all_but_one = chunks(PYRITE_MAX_SLABS - 1);
        assert_eq!(all_but_one.vacant_slab(&[]), Some(PYRITE_MAX_SLABS - 1));
        assert_eq!(all_but_one.vacant_slab(&[PYRITE_MAX_SLABS - 1]), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(usize),
        Retire(usize),
        Begin,
        End,
        AddSlab,
        TakeSlab(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_usize..900).prop_map(Step::Allocate),
            4 => (0_usize..100).prop_map(Step::Retire),
            2 => proptest::strategy::Just(Step::Begin),
            2 => proptest::strategy::Just(Step::End),
            1 => proptest::strategy::Just(Step::AddSlab),
            1 => (0_usize..3000).prop_map(Step::TakeSlab),
        ]
    }

    proptest! {
        /// Whatever happens, no chunk has two owners, what is written stays until it is retired and a grace period that
        /// began afterwards has ended, and every chunk is counted once.
        #[test]
        fn chunks_have_one_owner(steps in proptest::collection::vec(step(), 1..80)) {
            let mut chunks = chunks(1);
            let mut owned: Vec<(Vec<ChunkId>, u8)> = Vec::new();
            let mut retired: Vec<(ChunkId, u8)> = Vec::new();
            let mut leaving: Vec<(ChunkId, u8)> = Vec::new();
            let mut in_grace = false;
            for (mark, step) in steps.into_iter().enumerate() {
                let mark = mark as u8 + 1;
                match step {
                    Step::Allocate(count) => {
                        let free = chunks.counts().free;
                        let ids = chunks.allocate(count);
                        prop_assert_eq!(ids.is_some(), count <= free);
                        for id in ids.iter().flatten() {
                            chunks.write(*id, &[mark; size_of::<Chunk>()]);
                        }
                        owned.extend(ids.map(|ids| (ids, mark)));
                    }
                    Step::Retire(which) if !owned.is_empty() => {
                        let (ids, mark) = owned.swap_remove(which % owned.len());
                        chunks.retire(ids.iter().copied());
                        retired.extend(ids.into_iter().map(|id| (id, mark)));
                    }
                    Step::Begin if !in_grace => {
                        in_grace = chunks.begin_grace();
                        leaving.append(&mut retired);
                    }
                    Step::End if in_grace => {
                        in_grace = false;
                        chunks.end_grace();
                        leaving.clear();
                    }
                    Step::AddSlab => {
                        if let Some(number) = chunks.vacant_slab(&[]).filter(|number| *number < 6) {
                            chunks.add_slab(number, slab_memory());
                        }
                    }
                    Step::TakeSlab(keep) => {
                        let free = chunks.counts().free;
                        let taken = chunks.take_empty_slab(keep);
                        prop_assert!(taken.is_none() || free - SLAB_CHUNKS >= keep);
                    }
                    _ => {}
                }
                let held = owned.iter().flat_map(|(ids, mark)| ids.iter().map(move |id| (*id, *mark)));
                let visible: Vec<_> = held.chain(retired.iter().copied()).chain(leaving.iter().copied()).collect();
                for (id, mark) in &visible {
                    prop_assert_eq!(chunks.get(*id), Some(&[*mark; size_of::<Chunk>()]));
                }
                let counts = chunks.counts();
                prop_assert_eq!(counts.used, owned.iter().map(|(ids, _)| ids.len()).sum::<usize>());
                prop_assert_eq!(counts.retired, retired.len() + leaving.len());
                prop_assert_eq!(counts.free + visible.len(), chunks.slab_count() * SLAB_CHUNKS);
            }
        }
    }
}
