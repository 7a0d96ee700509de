//! Lists whose entries are kept once, in order of first appearance: what a symbol table is made of.
//!
//! An index holds ids alone, not the entries again: a table of many entries is a third of the size, and so fewer cache
//! lines are touched when a new one is added.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// The id of the entry that makes a list of `len` entries longer.
pub(crate) fn next_id(len: usize) -> u32 {
    u32::try_from(len).expect("a symbol table is bounded far below 2^32 entries")
}

/// Entries of any type but text.
#[derive(Clone, Debug)]
pub(crate) struct Interner<T> {
    items: Vec<T>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { items: Vec::new(), index: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }
}

impl<T> Interner<T> {
    /// The entries in id order.
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }
}

impl<T: Eq + Hash> Interner<T> {
    /// The id of `item`, added if new.
    pub(crate) fn intern(&mut self, item: T) -> u32 {
        match self.find(&item, |known| *known == item) {
            Ok(id) => id,
            Err(hash) => self.add(hash, item),
        }
    }

    /// The id of the entry that `is` knows, or the hash to add it under. `key` must hash as the entry does.
    pub(crate) fn find(&self, key: &impl Hash, is: impl Fn(&T) -> bool) -> Result<u32, u64> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |&id| is(&self.items[id as usize])).copied().ok_or(hash)
    }

    /// Adds an entry that [`find`](Self::find) did not find.
    pub(crate) fn add(&mut self, hash: u64, item: T) -> u32 {
        let Self { items, index, hasher } = self;
        let id = next_id(items.len());
        items.push(item);
        index.insert_unique(hash, id, |&id| hasher.hash_one(&items[id as usize]));
        id
    }

    /// Makes room for this many entries in all, so that the index is not made anew on the way there.
    pub(crate) fn make_room(&mut self, entries: usize) {
        let Self { items, index, hasher } = self;
        let more = entries.saturating_sub(items.len());
        items.reserve(more);
        index.reserve(more, |&id| hasher.hash_one(&items[id as usize]));
    }
}

/// Texts, one behind the other in one buffer: to make and to free each by itself would cost as much as to look it up.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    buffer: String,
    /// Where each text begins, and where the last one ends.
    bounds: Vec<usize>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Default for Texts {
    fn default() -> Self {
        let (index, hasher) = (HashTable::new(), DefaultHashBuilder::default());
        Self { buffer: String::new(), bounds: vec![0], index, hasher }
    }
}

impl Texts {
    /// The id of `text`, added if new.
    pub(crate) fn intern(&mut self, text: &str) -> u32 {
        let hash = self.hasher.hash_one(text);
        if let Some(&id) = self.index.find(hash, |&id| self.get(id) == text) {
            return id;
        }
        let id = next_id(self.len());
        let Self { buffer, bounds, index, hasher } = self;
        buffer.push_str(text);
        bounds.push(buffer.len());
        index.insert_unique(hash, id, |&id| hasher.hash_one(text_at(buffer, bounds, id)));
        id
    }

    /// The text of an id.
    pub(crate) fn get(&self, id: u32) -> &str {
        text_at(&self.buffer, &self.bounds, id)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The texts in id order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.bounds.windows(2).map(move |bounds| &self.buffer[bounds[0]..bounds[1]])
    }

    /// What all of them take, and where they are.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.len() + size_of_val(&self.bounds[..])
    }

    /// Makes room for this many texts in all.
    pub(crate) fn make_room(&mut self, texts: usize) {
        let more = texts.saturating_sub(self.len());
        let Self { buffer, bounds, index, hasher } = self;
        bounds.reserve(more);
        index.reserve(more, |&id| hasher.hash_one(text_at(buffer, bounds, id)));
    }
}

fn text_at<'a>(buffer: &'a str, bounds: &[usize], id: u32) -> &'a str {
    &buffer[bounds[id as usize]..bounds[id as usize + 1]]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_text_has_one_id_in_order_of_appearance(
            texts in prop::collection::vec("[aé]{0,3}", 0..200),
            room in 0..100_usize,
        ) {
            let mut table = Texts::default();
            let mut expected = HashMap::new();
            for (i, text) in texts.iter().enumerate() {
                if i == texts.len() / 2 {
                    table.make_room(room);
                }
                let next = expected.len() as u32;
                let id = *expected.entry(text).or_insert(next);
                prop_assert_eq!(table.intern(text), id);
                prop_assert_eq!(table.get(id), text);
            }
            prop_assert_eq!(table.len(), expected.len());
            let listed: Vec<&str> = table.iter().collect();
            for (text, id) in expected {
                prop_assert_eq!(listed[id as usize], text);
            }
        }

        #[test]
        fn each_entry_has_one_id_in_order_of_appearance(
            entries in prop::collection::vec(0..50_u64, 0..300),
            room in 0..100_usize,
        ) {
            let mut table = Interner::default();
            let mut expected = HashMap::new();
            for (i, entry) in entries.iter().enumerate() {
                if i == entries.len() / 2 {
                    table.make_room(room);
                }
                let next = expected.len() as u32;
                prop_assert_eq!(table.intern(*entry), *expected.entry(entry).or_insert(next));
            }
            prop_assert_eq!(table.items().len(), expected.len());
        }
    }
}
