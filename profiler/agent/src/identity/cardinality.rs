//! A bound on distinct label values: beyond it the value is `other`, counted. Pure.
//!
//! Values that have not occurred for a while make room, or the containers of last month would turn today's into `other`.

use hashbrown::HashMap;
use pyrite_model::names;

/// What stands for all values beyond the bound.
pub const OTHER: &str = "other";
/// Longer values are cut: comms are 15 bytes, paths and image names may be hostile.
const MAX_VALUE_BYTES: usize = 512;

/// How many distinct values each label may have.
#[derive(Clone, Copy, Debug)]
pub struct CardinalityLimits {
    /// Of `comm` and of `exe`, which programs choose freely.
    pub per_program_label: usize,
    /// Of each other label.
    pub per_label: usize,
}

impl Default for CardinalityLimits {
    fn default() -> Self {
        Self { per_program_label: 1_000, per_label: 10_000 }
    }
}

/// Remembers the values it has let through.
#[derive(Debug, Default)]
pub struct Cardinality {
    limits: CardinalityLimits,
    /// For each label its values and the period each last occurred in.
    seen: HashMap<&'static str, HashMap<Box<str>, u64>>,
    period: u64,
    replaced: u64,
}

impl Cardinality {
    /// Nothing seen yet.
    pub fn new(limits: CardinalityLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// `value` itself, or `other` once label `name` has as many values as it may have.
    pub fn admit<'a>(&mut self, name: &'static str, value: &'a str) -> &'a str {
        let value = &value[..value.floor_char_boundary(MAX_VALUE_BYTES)];
        let limit = match name {
            names::COMM | names::EXE => self.limits.per_program_label,
            _ => self.limits.per_label,
        };
        let seen = self.seen.entry(name).or_default();
        if let Some(period) = seen.get_mut(value) {
            *period = self.period;
            return value;
        }
        if seen.len() >= limit {
            self.replaced += 1;
            return OTHER;
        }
        seen.insert(value.into(), self.period);
        value
    }

    /// Begins a new period: values that did not occur in the one that ends are forgotten.
    pub fn next_period(&mut self) {
        for seen in self.seen.values_mut() {
            seen.retain(|_, period| *period == self.period);
        }
        self.period += 1;
    }

    /// How often a value was replaced.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_bound_are_other_and_known_ones_stay() {
        let mut cardinality = Cardinality::new(CardinalityLimits { per_program_label: 2, per_label: 1 });
        assert_eq!(cardinality.admit(names::COMM, "a"), "a");
        assert_eq!(cardinality.admit(names::COMM, "b"), "b");
        assert_eq!(cardinality.admit(names::COMM, "c"), OTHER);
        assert_eq!(cardinality.admit(names::COMM, "a"), "a");
        assert_eq!(cardinality.admit(names::EXE, "c"), "c");
        assert_eq!(cardinality.admit(names::IMAGE, "x"), "x");
        assert_eq!(cardinality.admit(names::IMAGE, "y"), OTHER);
        assert_eq!(cardinality.replaced(), 2);
    }

    #[test]
    fn values_that_no_longer_occur_make_room() {
        let mut cardinality = Cardinality::new(CardinalityLimits { per_program_label: 2, per_label: 1 });
        cardinality.admit(names::COMM, "old");
        cardinality.next_period();
        cardinality.admit(names::COMM, "kept");
        assert_eq!(
            cardinality.admit(names::COMM, "new"),
            OTHER,
            "what occurred in the last period still counts"
        );
        cardinality.next_period();
        assert_eq!(cardinality.admit(names::COMM, "new"), "new");
        assert_eq!(cardinality.admit(names::COMM, "kept"), "kept");
        assert_eq!(cardinality.admit(names::COMM, "old"), OTHER);
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = "é".repeat(600);
        let mut cardinality = Cardinality::default();
        assert_eq!(cardinality.admit(names::EXE, &long).len(), MAX_VALUE_BYTES);
    }
}
