//! The host-wide rule table: each distinct rule once, with an id that rows of every executable use.

use hashbrown::HashMap;
use pyrite_bpf::abi;

use crate::rule::{Rule, RuleId};

/// Interns rules. Ids are given in order and never taken back, so what was uploaded once stays right.
///
/// Holds at most `PYRITE_MAX_RULES`. A node's executables have some thousand distinct ones, and what no longer fits is
/// [`Rule::UNSUPPORTED`] to the rows that need it, counted by `TableImage::rules_refused`.
#[derive(Debug)]
pub struct RuleBook {
    rules: Vec<Rule>,
    ids: HashMap<Rule, RuleId>,
}

impl Default for RuleBook {
    fn default() -> Self {
        Self::new()
    }
}

impl RuleBook {
    /// How many rules a book can hold.
    pub const CAPACITY: usize = abi::PYRITE_MAX_RULES as usize;

    /// A book of the two rules that every book starts with.
    pub fn new() -> Self {
        let rules = vec![Rule::NONE, Rule::UNSUPPORTED];
        let ids =
            [(Rule::NONE, RuleId::NONE), (Rule::UNSUPPORTED, RuleId::UNSUPPORTED)].into_iter().collect();
        Self { rules, ids }
    }

    /// The id of `rule`, a new one where it has none yet; `None` where the book is full.
    pub fn intern(&mut self, rule: Rule) -> Option<RuleId> {
        if let Some(id) = self.ids.get(&rule) {
            return Some(*id);
        }
        if self.rules.len() >= Self::CAPACITY {
            return None;
        }
        let id = RuleId(self.rules.len() as u16);
        self.rules.push(rule);
        self.ids.insert(rule, id);
        Some(id)
    }

    /// The rule of this id.
    pub fn get(&self, id: RuleId) -> Option<Rule> {
        self.rules.get(usize::from(id.0)).copied()
    }

    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.rules.len()
    }

    /// The rules from the `known`th on, which is what a reader that has seen `known` of them still lacks.
    pub fn new_since(&self, known: usize) -> &[Rule] {
        self.rules.get(known..).unwrap_or_default()
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
        let first = book.intern(rule(8)).unwrap();
        let second = book.intern(rule(16)).unwrap();
        assert_eq!((first, second), (RuleId(2), RuleId(3)));
        assert_eq!(book.intern(rule(8)), Some(first));
        assert_eq!(book.get(second), Some(rule(16)));
        assert_eq!(book.get(RuleId(4)), None);
        assert_eq!(book.new_since(3), [rule(16)]);
        assert!(book.new_since(4).is_empty() && book.new_since(usize::MAX).is_empty());
    }

    #[test]
    fn the_first_ids_are_fixed() {
        let mut book = RuleBook::new();
        assert_eq!(book.intern(Rule::NONE), Some(RuleId::NONE));
        assert_eq!(book.intern(Rule::UNSUPPORTED), Some(RuleId::UNSUPPORTED));
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
    }
}
