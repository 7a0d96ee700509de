//! Numbers for the rules of one table, in the order in which they are met.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::book::RuleBook;
use crate::rule::{Cfa, Rule, Saved};

/// Nearly every row has one of a few hundred rules, so a small table of what was asked last spares most of the hashing.
const RECENT: usize = 1024;

/// Gives equal rules equal numbers, up to a bound.
pub(crate) struct Interner {
    rules: Vec<Rule>,
    ids: HashMap<Rule, u32>,
    recent: Vec<(Rule, u32)>,
}

impl Interner {
    /// Four times as many as a node can have; a large program has two thousand.
    pub(crate) const CAPACITY: usize = 4 * RuleBook::CAPACITY;

    /// Knows `Rule::NONE` as 0.
    pub(crate) fn new() -> Self {
        Self {
            rules: vec![Rule::NONE],
            ids: [(Rule::NONE, 0)].into_iter().collect(),
            recent: vec![(Rule::NONE, 0); RECENT],
        }
    }

    /// The number of `rule`; none where it is new and there are too many already.
    pub(crate) fn intern(&mut self, rule: Rule) -> Option<u32> {
        let slot = slot(&rule);
        let (known, id) = self.recent[slot];
        if known == rule {
            return Some(id);
        }
        let id = match self.ids.entry(rule) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if self.rules.len() >= Self::CAPACITY => return None,
            Entry::Vacant(new) => {
                self.rules.push(rule);
                *new.insert(self.rules.len() as u32 - 1)
            }
        };
        self.recent[slot] = (rule, id);
        Some(id)
    }

    /// Whether the rule has a number.
    pub(crate) fn knows(&self, rule: Rule) -> bool {
        self.ids.contains_key(&rule)
    }

    /// The rules by number.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// A place in `recent`, from what most often tells rules apart.
fn slot(rule: &Rule) -> usize {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let (kind, offset) = match rule.cfa {
        Cfa::Sp(offset) => (1, offset),
        Cfa::Fp(offset) => (2, offset),
        _ => (3, 0),
    };
    let fp = match rule.fp {
        Saved::AtCfa(offset) | Saved::AtFp(offset) => offset,
        Saved::Same | Saved::Unknown => 0,
    };
    let fields = u64::from(offset as u32) ^ u64::from(fp as u16) << 32 ^ u64::from(rule.run.pushes) << 48;
    let mixed = (fields ^ kind << 28 ^ u64::from(rule.run.fp_from) << 24).wrapping_mul(MULTIPLIER);
    (mixed >> (u64::BITS - RECENT.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::tests::any_rule;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equal_rules_have_equal_numbers_and_others_have_others(rules in prop::collection::vec(any_rule(), 0..60)) {
            let mut interner = Interner::new();
            for rule in rules.iter().chain(&rules) {
                let id = interner.intern(*rule).unwrap();
                prop_assert_eq!(interner.rules()[id as usize], *rule);
                prop_assert_eq!(interner.intern(*rule), Some(id));
            }
            let mut distinct = interner.rules().to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), interner.rules().len());
        }
    }

    #[test]
    fn rules_that_share_a_place_are_told_apart() {
        let mut interner = Interner::new();
        let rules: Vec<Rule> =
            (0..5000).map(|offset| Rule::new(Cfa::Sp(offset), Saved::Same, Saved::AtCfa(-8))).collect();
        for _ in 0..2 {
            let ids: Vec<_> = rules.iter().map(|rule| interner.intern(*rule)).collect();
            assert_eq!(ids, (1..=5000).map(Some).collect::<Vec<_>>());
        }
        assert!(interner.knows(rules[17]) && !interner.knows(Rule::SIGNAL));
    }

    #[test]
    fn a_full_interner_knows_the_old_rules() {
        let mut interner = Interner::new();
        let rule = |offset| Rule::new(Cfa::Sp(offset), Saved::Same, Saved::AtCfa(-8));
        let last = Interner::CAPACITY as i32 - 1;
        assert!((1..=last).all(|offset| interner.intern(rule(offset)).is_some()));
        assert_eq!((interner.intern(rule(0)), interner.intern(rule(0))), (None, None));
        assert_eq!((interner.intern(rule(1)), interner.rules().len()), (Some(1), Interner::CAPACITY));
    }
}
