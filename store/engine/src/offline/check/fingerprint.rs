//! Sums compared without being kept: whether two lists of values by key have the same sum at every key.
//!
//! Each key stands for a number of 128 bits, and a list is the sum of its values, each times the number of its key.
//! Lists with the same sums by key come to the same, in whatever order and pieces the values come; others do so by chance
//! once in 2¹²⁰. So a day of rows is compared with its rollups in the memory of one row group.

/// What the rows of a file, or of a resolution, come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fingerprint {
    sum: u128,
    /// Of the sizes of all values.
    weight: u128,
}

/// What a value is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) series: u32,
    pub(super) stamp: i64,
    pub(super) stack: u32,
}

impl Fingerprint {
    pub(super) fn add(&mut self, key: Key, value: i64) {
        self.sum = self.sum.wrapping_add(key.number().wrapping_mul(i128::from(value) as u128));
        self.weight += u128::from(value.unsigned_abs());
    }

    /// Whether sums of these values may have met the ends of what 64 bits hold, where they stop growing.
    pub(super) fn may_saturate(&self) -> bool {
        self.weight > i64::MAX as u128
    }

    /// Whether the sums by key are the same.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.sum == other.sum
    }
}

impl Key {
    fn number(self) -> u128 {
        let ids = u64::from(self.series) << 32 | u64::from(self.stack);
        let low = mix(mix(ids) ^ self.stamp as u64);
        let high = mix(mix(ids ^ 0x9e37_79b9_7f4a_7c15).wrapping_add(self.stamp as u64));
        u128::from(high) << 64 | u128::from(low)
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn fingerprint(values: &[((u32, i64, u32), i64)]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        for ((series, stamp, stack), value) in values {
            fingerprint.add(Key { series: *series, stamp: *stamp, stack: *stack }, *value);
        }
        fingerprint
    }

    fn values() -> impl Strategy<Value = Vec<((u32, i64, u32), i64)>> {
        prop::collection::vec(((0..3_u32, -2..3_i64, 0..3_u32), -9..9_i64), 0..40)
    }

    proptest! {
        #[test]
        fn lists_agree_where_their_sums_do(one in values(), other in values()) {
            let sums = |values: &[((u32, i64, u32), i64)]| {
                let mut sums: HashMap<(u32, i64, u32), i64> = HashMap::new();
                for (key, value) in values {
                    *sums.entry(*key).or_default() += value;
                }
                sums.retain(|_, sum| *sum != 0);
                sums
            };
            let same = sums(&one) == sums(&other);
            prop_assert_eq!(fingerprint(&one).agrees_with(&fingerprint(&other)), same);
            let by_key: Vec<_> = sums(&one).into_iter().collect();
            prop_assert!(fingerprint(&one).agrees_with(&fingerprint(&by_key)));
        }
    }

    #[test]
    fn sums_that_may_have_stopped_growing_are_known() {
        let key = (0, 0, 0);
        assert!(!fingerprint(&[(key, i64::MAX)]).may_saturate());
        assert!(fingerprint(&[(key, i64::MAX), (key, 1)]).may_saturate());
        assert!(fingerprint(&[(key, i64::MIN)]).may_saturate());
    }
}
