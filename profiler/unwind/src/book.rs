//! The host-wide rule table: each distinct rule once, with an id that rows of every executable use.

use hashbrown::HashMap;
use pyrite_bpf::abi;

use crate::rule::{Rule, RuleId};

/// Gives rules their ids, and takes them back when no table uses them any more.
///
/// Holds at most `PYRITE_MAX_RULES`. A node's executables have some thousand distinct ones, and what does not fit is
/// [`Rule::UNSUPPORTED`] to the rows that need it, counted by `TableImage::rules_refused`. The first two are there from the
/// start and stay.
#[derive(Debug)]
pub struct RuleBook {
    entries: Vec<Entry>,
    ids: HashMap<Rule, RuleId>,
    /// Ids whose rule nobody uses.
    vacant: Vec<RuleId>,
    /// Ids that were given since [`RuleBook::take_new`].
    new: Vec<RuleId>,
}

#[derive(Debug)]
struct Entry {
    rule: Rule,
    uses: u32,
}

impl Default for RuleBook {
    fn default() -> Self {
        Self::new()
    }
}

impl RuleBook {
    /// How many rules a book can hold.
    pub const CAPACITY: usize = abi::PYRITE_MAX_RULES as usize;

    /// A book of the two rules that every book starts with, both new.
    pub fn new() -> Self {
        let first = [(Rule::NONE, RuleId::NONE), (Rule::UNSUPPORTED, RuleId::UNSUPPORTED)];
        Self {
            entries: first.map(|(rule, _)| Entry { rule, uses: 1 }).into(),
            ids: first.into_iter().collect(),
            vacant: Vec::new(),
            new: first.map(|(_, id)| id).into(),
        }
    }

    /// The id of `rule`, which has one use more; a new id where it has none yet. `None` where the book is full.
    pub fn intern(&mut self, rule: Rule) -> Option<RuleId> {
        if let Some(id) = self.ids.get(&rule) {
            self.entries[usize::from(id.0)].uses += 1;
            return Some(*id);
        }
        let entry = Entry { rule, uses: 1 };
        let id = match self.vacant.pop() {
            Some(id) => {
                self.entries[usize::from(id.0)] = entry;
                id
            }
            None if self.entries.len() < Self::CAPACITY => {
                self.entries.push(entry);
                RuleId((self.entries.len() - 1) as u16)
            }
            None => return None,
        };
        self.ids.insert(rule, id);
        self.new.push(id);
        Some(id)
    }

    /// Takes one use back. With the last one the rule goes, and its id may become another's: by then no reader may hold it.
    pub fn release(&mut self, id: RuleId) {
        let Some(entry) = self.entries.get_mut(usize::from(id.0)) else { return };
        // Of a vacant id there is no use to take back.
        if entry.uses == 0 {
            return;
        }
        entry.uses -= 1;
        if entry.uses == 0 {
            self.ids.remove(&entry.rule);
            self.vacant.push(id);
        }
    }

    /// The rule of this id, if it is in use.
    pub fn get(&self, id: RuleId) -> Option<Rule> {
        let entry = self.entries.get(usize::from(id.0))?;
        (entry.uses > 0).then_some(entry.rule)
    }

    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.ids.len()
    }

    /// The rules that were given an id since the last call, which is what readers lack. Of one that went meanwhile, the one
    /// that has its id now.
    pub fn take_new(&mut self) -> Vec<(RuleId, Rule)> {
        let new = std::mem::take(&mut self.new);
        new.into_iter().filter_map(|id| Some((id, self.get(id)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Cfa, Saved};

    fn rule(offset: i32) -> Rule {
        Rule::new(Cfa::Sp(offset), Saved::Same, Saved::AtCfa(-8))
    }

    #[test]
    fn equal_rules_share_an_id() {
        let mut book = RuleBook::new();
        assert_eq!(book.take_new(), [(RuleId::NONE, Rule::NONE), (RuleId::UNSUPPORTED, Rule::UNSUPPORTED)]);
        let first = book.intern(rule(8)).unwrap();
        let second = book.intern(rule(16)).unwrap();
        assert_eq!((first, second), (RuleId(2), RuleId(3)));
        assert_eq!(book.intern(rule(8)), Some(first));
        assert_eq!(book.get(second), Some(rule(16)));
        assert_eq!(book.get(RuleId(4)), None);
        assert_eq!(book.take_new(), [(first, rule(8)), (second, rule(16))]);
        assert!(book.take_new().is_empty());
    }

    #[test]
    fn the_first_ids_are_fixed() {
        let mut book = RuleBook::new();
        assert_eq!(book.intern(Rule::NONE), Some(RuleId::NONE));
        assert_eq!(book.intern(Rule::UNSUPPORTED), Some(RuleId::UNSUPPORTED));
        book.release(RuleId::NONE);
        assert_eq!(book.get(RuleId::NONE), Some(Rule::NONE));
    }

    #[test]
    fn an_id_is_given_again_when_its_last_use_is_over() {
        let mut book = RuleBook::new();
        let id = book.intern(rule(8)).unwrap();
        book.intern(rule(8));
        book.release(id);
        assert_eq!((book.get(id), book.count()), (Some(rule(8)), 3));
        book.release(id);
        assert_eq!((book.get(id), book.count()), (None, 2));
        book.release(id);
        book.take_new();
        assert_eq!(book.intern(rule(16)), Some(id));
        assert_eq!(
            book.intern(rule(8)),
            Some(RuleId(id.0 + 1)),
            "released once too often, and not vacant twice"
        );
        assert_eq!(book.take_new(), [(id, rule(16)), (RuleId(id.0 + 1), rule(8))]);
    }

    #[test]
    fn a_full_book_refuses_new_rules_and_knows_the_old() {
        let mut book = RuleBook::new();
        for offset in 2..RuleBook::CAPACITY as i32 {
            assert!(book.intern(rule(offset)).is_some());
        }
        assert_eq!(book.count(), RuleBook::CAPACITY);
        assert_eq!(book.intern(rule(-1)), None);
        assert_eq!(book.intern(rule(2)), Some(RuleId(2)));
        book.release(RuleId(7));
        assert_eq!(book.intern(rule(-1)), Some(RuleId(7)));
    }
}
