//! Reproducible randomness: `SplitMix64`, as its author published it, and a hash made of its last step.
//!
//! A generator of our own, for what a crate's generator draws may change with the crate's version, and figures of
//! different days are compared.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A small generator of reproducible numbers.
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0) % bound
    }
}

/// A number that looks random and depends on every part and on their order.
pub(super) fn hash(parts: &[u64]) -> u64 {
    parts.iter().fold(GOLDEN, |hash, part| mix(hash ^ mix(part.wrapping_add(GOLDEN))))
}

fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of the published generator for the seed 1234567.
    #[test]
    fn draws_what_its_author_published() {
        let mut random = Random(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| random.below(u64::MAX)).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn order_and_number_of_parts_count() {
        let hashes = [hash(&[1, 2]), hash(&[2, 1]), hash(&[1]), hash(&[1, 2, 0]), hash(&[])];
        for (n, one) in hashes.iter().enumerate() {
            assert!(!hashes[..n].contains(one), "{hashes:?}");
        }
    }
}
