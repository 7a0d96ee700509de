//! Label names and values, each text once, and for each value the series that have it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_model::Candidates;

use super::set::{Postings, SeriesId};
use super::slab::Slab;

/// A label's value, whatever the label: a place in [`Labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PairId(u32);

/// A label's name: a place in [`Labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameId(u32);

/// A value of a label and the series that have it.
#[derive(Debug)]
pub(super) struct Pair {
    name: NameId,
    value: Arc<str>,
    series: Postings,
}

impl Pair {
    pub(super) fn value(&self) -> &str {
        &self.value
    }

    pub(super) fn series(&self) -> &Postings {
        &self.series
    }
}

/// A label, its values in order, and the series that have one of them.
#[derive(Debug)]
pub(super) struct Label {
    name: Arc<str>,
    values: BTreeMap<Arc<str>, PairId>,
    series: Postings,
}

impl Label {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// In order of the values.
    pub(super) fn values(&self) -> impl ExactSizeIterator<Item = (&str, PairId)> {
        self.values.iter().map(|(value, pair)| (&**value, *pair))
    }

    pub(super) fn series(&self) -> &Postings {
        &self.series
    }

    /// Calls `each` with the values that are among the candidates; with one that is so twice over, maybe twice.
    pub(super) fn for_each_among(&self, candidates: &Candidates, mut each: impl FnMut(&str, PairId)) {
        match candidates {
            Candidates::Every | Candidates::Any => self.values().for_each(|(value, pair)| each(value, pair)),
            Candidates::Exactly(values) => {
                let found = values.iter().filter_map(|value| self.values.get_key_value(value.as_str()));
                found.for_each(|(value, pair)| each(value, *pair));
            }
            Candidates::Prefixed(prefixes) => {
                for prefix in prefixes {
                    let from: (Bound<&str>, Bound<&str>) = (Bound::Included(prefix), Bound::Unbounded);
                    let begins = self.values.range::<str, _>(from);
                    let begins = begins.take_while(|(value, _)| value.starts_with(prefix.as_str()));
                    begins.for_each(|(value, pair)| each(value, *pair));
                }
            }
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Labels {
    pairs: Slab<Pair>,
    names: Slab<Label>,
    by_name: HashMap<Arc<str>, NameId>,
    text_bytes: usize,
    /// How often a series has a value.
    uses: usize,
}

/// An `Arc<str>` has two counters before its text, and the allocator rounds up.
const TEXT_OVERHEAD_BYTES: usize = 24;
/// A value in its label's tree: text, pair, and the part of a node that is its share.
const TREE_ENTRY_BYTES: usize = 32;

impl Labels {
    /// The pair, made if it is not there; then it must be given to a series, or it stays for ever.
    pub(super) fn intern(&mut self, name: &str, value: &str) -> PairId {
        let name = self.intern_name(name);
        let label = &mut self.names[name.0];
        if let Some(pair) = label.values.get(value) {
            return *pair;
        }
        let value: Arc<str> = value.into();
        self.text_bytes += value.len() + TEXT_OVERHEAD_BYTES;
        let pair = Pair { name, value: Arc::clone(&value), series: Postings::default() };
        let pair = PairId(self.pairs.insert(pair));
        label.values.insert(value, pair);
        pair
    }

    fn intern_name(&mut self, name: &str) -> NameId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let name: Arc<str> = name.into();
        self.text_bytes += name.len() + TEXT_OVERHEAD_BYTES;
        let (values, series) = (BTreeMap::new(), Postings::default());
        let id = NameId(self.names.insert(Label { name: Arc::clone(&name), values, series }));
        self.by_name.insert(name, id);
        id
    }

    /// Gives a pair to a series that has none of this name.
    pub(super) fn add(&mut self, pair: PairId, series: SeriesId) {
        let pair = &mut self.pairs[pair.0];
        pair.series.insert(series);
        self.names[pair.name.0].series.insert(series);
        self.uses += 1;
    }

    /// Takes a pair from a series; a value and a name that nothing has any more go.
    pub(super) fn remove(&mut self, id: PairId, series: SeriesId) {
        self.uses -= 1;
        let pair = &mut self.pairs[id.0];
        pair.series.remove(series);
        let (name, unused) = (pair.name, pair.series.is_empty());
        let label = &mut self.names[name.0];
        label.series.remove(series);
        if let Some(pair) = unused.then(|| self.pairs.remove(id.0)).flatten() {
            self.text_bytes -= pair.value.len() + TEXT_OVERHEAD_BYTES;
            label.values.remove(&pair.value);
        }
        if label.values.is_empty()
            && let Some(label) = self.names.remove(name.0)
        {
            self.text_bytes -= label.name.len() + TEXT_OVERHEAD_BYTES;
            self.by_name.remove(&label.name);
        }
    }

    /// The label of this name, where a series has it.
    pub(super) fn find(&self, name: &str) -> Option<NameId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn label(&self, id: NameId) -> &Label {
        &self.names[id.0]
    }

    pub(super) fn pair(&self, id: PairId) -> &Pair {
        &self.pairs[id.0]
    }

    /// Name and value.
    pub(super) fn text(&self, id: PairId) -> (&str, &str) {
        let pair = &self.pairs[id.0];
        (&self.names[pair.name.0].name, &pair.value)
    }

    /// The one of the pairs that is of this label.
    pub(super) fn of_name(&self, pairs: &[PairId], name: NameId) -> Option<PairId> {
        pairs.iter().copied().find(|pair| self.pairs[pair.0].name == name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Label> {
        self.names.iter()
    }

    /// Estimated memory.
    pub(super) fn bytes(&self) -> usize {
        // Once in the series, once in the list of the value, and as much again for what lists have in reserve.
        let listed = self.uses * 3 * size_of::<SeriesId>();
        self.pairs.bytes()
            + self.names.bytes()
            + self.text_bytes
            + self.pairs.len() * TREE_ENTRY_BYTES
            + listed
    }
}
