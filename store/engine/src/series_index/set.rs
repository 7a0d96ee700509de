//! Sets of series: [`SeriesSet`], which a query works on, and [`Postings`], which is kept for each label value.
//!
//! Ids are dense, for those of series that are gone are used again; so a bit for each costs 12.5 KB at 100,000 series,
//! and a union of thousands of short lists is thousands of single stores.

/// A series of the store, for as long as something holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SeriesId(pub(crate) u32);

impl SeriesId {
    fn word(self) -> usize {
        (self.0 / u64::BITS) as usize
    }

    fn bit(self) -> u64 {
        1 << (self.0 % u64::BITS)
    }
}

/// A bit for each id up to the largest.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeriesSet {
    words: Vec<u64>,
}

impl SeriesSet {
    pub(super) fn insert(&mut self, id: SeriesId) {
        self.grow(id.word() + 1);
        self.words[id.word()] |= id.bit();
    }

    fn remove(&mut self, id: SeriesId) {
        if let Some(word) = self.words.get_mut(id.word()) {
            *word &= !id.bit();
        }
    }

    pub(super) fn contains(&self, id: SeriesId) -> bool {
        self.words.get(id.word()).is_some_and(|word| word & id.bit() != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub(super) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
    }

    /// In ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = SeriesId> + '_ {
        self.words.iter().zip(0_u32..).flat_map(|(&word, at)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(SeriesId(at * u64::BITS + bit))
            })
        })
    }

    /// Adds what the other has.
    pub(super) fn add(&mut self, other: &Self) {
        self.grow(other.words.len());
        self.words.iter_mut().zip(&other.words).for_each(|(word, with)| *word |= with);
    }

    /// Adds what both others have.
    fn add_common(&mut self, a: &Self, b: &Self) {
        self.grow(a.words.len().min(b.words.len()));
        let common = a.words.iter().zip(&b.words).map(|(a, b)| a & b);
        self.words.iter_mut().zip(common).for_each(|(word, with)| *word |= with);
    }

    /// Takes out what the other lacks.
    pub(super) fn keep(&mut self, other: &Self) {
        self.words.truncate(other.words.len());
        self.words.iter_mut().zip(&other.words).for_each(|(word, with)| *word &= with);
    }

    /// Takes out what the other has.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, without)| *word &= !without);
    }

    fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    fn is_within(&self, other: &Self) -> bool {
        let with = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().zip(with).all(|(word, with)| word & !with == 0)
    }

    fn grow(&mut self, words: usize) {
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
    }
}

/// Shorter lists are not worth a bit for each id.
const ALWAYS_LISTED: usize = 64;

/// A set that is kept: a list while that takes less than a bit for each id, so never more than four bytes a member.
#[derive(Clone, Debug)]
pub(super) enum Postings {
    /// In ascending order.
    Few(Vec<SeriesId>),
    Many {
        bits: SeriesSet,
        len: usize,
    },
}

impl Default for Postings {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Postings {
    /// Ids in ascending order, each once.
    pub(super) fn from_sorted(ids: Vec<SeriesId>) -> Self {
        let mut postings = Self::Few(ids);
        postings.settle();
        postings
    }

    pub(super) fn insert(&mut self, id: SeriesId) {
        match self {
            Self::Few(ids) => {
                if let Err(at) = ids.binary_search(&id) {
                    ids.insert(at, id);
                }
            }
            Self::Many { bits, len } => {
                *len += usize::from(!bits.contains(id));
                bits.insert(id);
            }
        }
        self.settle();
    }

    pub(super) fn remove(&mut self, id: SeriesId) {
        match self {
            Self::Few(ids) => {
                if let Ok(at) = ids.binary_search(&id) {
                    ids.remove(at);
                }
            }
            Self::Many { bits, len } => {
                *len -= usize::from(bits.contains(id));
                bits.remove(id);
            }
        }
        self.settle();
    }

    /// Takes the form that needs less, with a margin so that a member more or less does not change it to and fro.
    fn settle(&mut self) {
        match self {
            Self::Few(ids) => {
                let words = ids.last().map_or(0, |last| last.word() + 1);
                if ids.len() > ALWAYS_LISTED && ids.len() > 2 * words {
                    let (mut bits, len) = (SeriesSet::default(), ids.len());
                    bits.grow(words);
                    for id in ids.iter() {
                        bits.insert(*id);
                    }
                    *self = Self::Many { bits, len };
                }
            }
            Self::Many { bits, len } => {
                if *len < ALWAYS_LISTED / 2 || *len < bits.words.len() {
                    *self = Self::Few(bits.iter().collect());
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(ids) => ids.len(),
            Self::Many { len, .. } => *len,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In ascending order.
    pub(super) fn for_each(&self, each: impl FnMut(SeriesId)) {
        match self {
            Self::Few(ids) => ids.iter().copied().for_each(each),
            Self::Many { bits, .. } => bits.iter().for_each(each),
        }
    }

    /// Adds all of them to a set.
    pub(super) fn add_to(&self, set: &mut SeriesSet) {
        match self {
            Self::Few(ids) => ids.iter().for_each(|id| set.insert(*id)),
            Self::Many { bits, .. } => set.add(bits),
        }
    }

    /// Adds those that are wanted to a set.
    pub(super) fn add_wanted_to(&self, wanted: &SeriesSet, set: &mut SeriesSet) {
        match self {
            Self::Few(ids) => ids.iter().filter(|id| wanted.contains(**id)).for_each(|id| set.insert(*id)),
            Self::Many { bits, .. } => set.add_common(bits, wanted),
        }
    }

    pub(super) fn intersects(&self, set: &SeriesSet) -> bool {
        match self {
            Self::Few(ids) => ids.iter().any(|id| set.contains(*id)),
            Self::Many { bits, .. } => bits.intersects(set),
        }
    }

    pub(super) fn is_within(&self, set: &SeriesSet) -> bool {
        match self {
            Self::Few(ids) => ids.iter().all(|id| set.contains(*id)),
            Self::Many { bits, .. } => bits.is_within(set),
        }
    }

    /// Memory beside the struct itself.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Few(ids) => ids.capacity() * size_of::<SeriesId>(),
            Self::Many { bits, .. } => bits.words.capacity() * size_of::<u64>(),
        }
    }
}

/// Finds the place of an id among postings that no longer change.
#[derive(Debug)]
pub(super) struct Places {
    /// How many ids come before each word of bits; empty for a list.
    before: Vec<u32>,
}

impl Places {
    pub(super) fn new(postings: &Postings) -> Self {
        let Postings::Many { bits, .. } = postings else { return Self { before: Vec::new() } };
        let mut ids = 0;
        let before = bits.words.iter().map(|word| {
            ids += word.count_ones();
            ids - word.count_ones()
        });
        Self { before: before.collect() }
    }

    /// How many of the postings come before this one, if it is among them.
    pub(super) fn of(&self, id: SeriesId, postings: &Postings) -> Option<usize> {
        match postings {
            Postings::Few(ids) => ids.binary_search(&id).ok(),
            Postings::Many { bits, .. } => {
                let word = bits.words.get(id.word()).filter(|word| **word & id.bit() != 0)?;
                let within = (word & (id.bit() - 1)).count_ones();
                Some((self.before[id.word()] + within) as usize)
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.before.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(ids: &BTreeSet<u32>) -> SeriesSet {
        let mut set = SeriesSet::default();
        for id in ids {
            set.insert(SeriesId(*id));
        }
        set
    }

    fn ids(set: &SeriesSet) -> BTreeSet<u32> {
        set.iter().map(|id| id.0).collect()
    }

    fn any_ids() -> impl Strategy<Value = BTreeSet<u32>> {
        prop_oneof![
            prop::collection::btree_set(0..300_u32, 0..200),
            prop::collection::btree_set(0..20_000_u32, 0..40)
        ]
    }

    proptest! {
        #[test]
        fn sets_do_what_sets_do(a in any_ids(), b in any_ids(), c in any_ids()) {
            let check = |change: fn(&mut SeriesSet, &SeriesSet), expected: BTreeSet<u32>| {
                let mut changed = set(&a);
                change(&mut changed, &set(&b));
                (ids(&changed), changed.len(), changed.is_empty()) == (expected.clone(), expected.len(), expected.is_empty())
            };
            prop_assert!(check(SeriesSet::add, &a | &b));
            prop_assert!(check(SeriesSet::keep, &a & &b));
            prop_assert!(check(SeriesSet::subtract, &a - &b));
            let mut common = set(&c);
            common.add_common(&set(&a), &set(&b));
            prop_assert_eq!(ids(&common), &c | &(&a & &b));
            prop_assert_eq!(set(&a).intersects(&set(&b)), !a.is_disjoint(&b));
            prop_assert_eq!(set(&a).is_within(&set(&b)), a.is_subset(&b));
        }

        #[test]
        fn postings_are_sets_in_either_form(
            steps in prop::collection::vec((0..700_u32, prop::bool::weighted(0.7)), 0..600),
            far in prop::option::of(10_000..200_000_u32),
            other in any_ids(),
        ) {
            let (mut postings, mut expected) = (Postings::default(), BTreeSet::new());
            let far = far.map(|id| (id, true));
            for (id, stays) in steps.into_iter().chain(far) {
                if stays {
                    postings.insert(SeriesId(id));
                    expected.insert(id);
                } else {
                    postings.remove(SeriesId(id));
                    expected.remove(&id);
                }
            }
            let mut found = Vec::new();
            postings.for_each(|id| found.push(id.0));
            prop_assert_eq!(&found, &expected.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(postings.len(), expected.len());
            let sorted = Postings::from_sorted(found.iter().map(|id| SeriesId(*id)).collect());
            for postings in [postings, sorted] {
                let places = Places::new(&postings);
                for id in 0..710 {
                    let place = expected.contains(&id).then(|| expected.range(..id).count());
                    prop_assert_eq!(places.of(SeriesId(id), &postings), place);
                }
                let other_set = set(&other);
                prop_assert_eq!(postings.intersects(&other_set), !expected.is_disjoint(&other));
                prop_assert_eq!(postings.is_within(&other_set), expected.is_subset(&other));
                let (mut all, mut wanted) = (SeriesSet::default(), SeriesSet::default());
                postings.add_to(&mut all);
                postings.add_wanted_to(&other_set, &mut wanted);
                prop_assert_eq!(ids(&all), expected.clone());
                prop_assert_eq!(ids(&wanted), &expected & &other);
            }
        }
    }

    #[test]
    fn the_form_follows_the_density() {
        let dense = Postings::from_sorted((0..100_000).map(SeriesId).collect());
        assert!(matches!(dense, Postings::Many { .. }) && dense.bytes() < 13_000, "{}", dense.bytes());
        let sparse = Postings::from_sorted((0..1000).map(|i| SeriesId(i * 100)).collect());
        assert!(matches!(sparse, Postings::Few(_)));
        let mut shrinking = dense;
        (0..99_990).for_each(|id| shrinking.remove(SeriesId(id)));
        assert!(matches!(&shrinking, Postings::Few(ids) if ids.len() == 10));
    }
}
