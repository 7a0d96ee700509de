//! Numbers for the rules of one table, in the order in which they are met.

use hashbrown::HashMap;

use crate::rule::{Cfa, Rule, Saved};

/// Nearly every row has one of a few hundred rules, so a small table of what was asked last spares most of the hashing.
const RECENT: usize = 1024;

/// Gives equal rules equal numbers.
pub(crate) struct Interner {
    rules: Vec<Rule>,
    ids: HashMap<Rule, u32>,
    recent: Vec<(Rule, u32)>,
}

impl Interner {
    /// Knows `Rule::NONE` as 0.
    pub(crate) fn new() -> Self {
        Self {
            rules: vec![Rule::NONE],
            ids: [(Rule::NONE, 0)].into_iter().collect(),
            recent: vec![(Rule::NONE, 0); RECENT],
        }
    }

    /// The number of `rule`.
    pub(crate) fn intern(&mut self, rule: Rule) -> u32 {
        let slot = slot(&rule);
        let (known, id) = self.recent[slot];
        if known == rule {
            return id;
        }
        let id = *self.ids.entry(rule).or_insert_with(|| {
            self.rules.push(rule);
            self.rules.len() as u32 - 1
        });
        self.recent[slot] = (rule, id);
        id
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
                let id = interner.intern(*rule);
                prop_assert_eq!(interner.rules()[id as usize], *rule);
                prop_assert_eq!(interner.intern(*rule), id);
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
        let ids: Vec<u32> = rules.iter().map(|rule| interner.intern(*rule)).collect();
        assert_eq!(ids, (1..=5000).collect::<Vec<u32>>());
        assert_eq!(rules.iter().map(|rule| interner.intern(*rule)).collect::<Vec<u32>>(), ids);
        assert!(interner.knows(rules[17]) && !interner.knows(Rule::SIGNAL));
    }
}
