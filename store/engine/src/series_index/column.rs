//! A column of integers in few bits each, any of which can be had at once.
//!
//! ```text
//! block  := least of 128 values, bits for the difference of each from it, place of those bits
//! ```
//!
//! The first rows of an hour's series lie within seconds of each other, and 14 bits tell the milliseconds of 16 s apart.

/// Values that share a least one and a width.
pub(super) const BLOCK: usize = 128;

#[derive(Debug)]
struct Block {
    least: i64,
    /// Where its words begin.
    at: u32,
    /// Bits per value, at most 64.
    width: u32,
}

#[derive(Debug)]
pub(super) struct Column {
    blocks: Box<[Block]>,
    words: Box<[u64]>,
}

impl Column {
    pub(super) fn new(values: impl Iterator<Item = i64>) -> Self {
        let values: Vec<i64> = values.collect();
        let mut blocks = Vec::with_capacity(values.len().div_ceil(BLOCK));
        let mut words: Vec<u64> = Vec::new();
        for values in values.chunks(BLOCK) {
            let least = values.iter().copied().min().unwrap_or_default();
            let greatest = values.iter().copied().max().unwrap_or_default();
            // The difference of any two 64-bit integers fits 64 bits without a sign.
            let width = u64::BITS - (greatest.wrapping_sub(least) as u64).leading_zeros();
            let at = words.len();
            words.resize(at + (values.len() * width as usize).div_ceil(u64::BITS as usize), 0);
            for (i, value) in values.iter().enumerate() {
                put(&mut words[at..], i, width, value.wrapping_sub(least) as u64);
            }
            blocks.push(Block { least, at: at as u32, width });
        }
        Self { blocks: blocks.into(), words: words.into() }
    }

    /// The value at a place, which must exist.
    pub(super) fn get(&self, i: usize) -> i64 {
        let Block { least, at, width } = self.blocks[i / BLOCK];
        least.wrapping_add(take(&self.words[at as usize..], i % BLOCK, width) as i64)
    }

    /// What no value of a block is below, and none above.
    pub(super) fn bounds(&self, block: usize) -> (i64, i64) {
        let Block { least, width, .. } = self.blocks[block];
        (least, least.saturating_add_unsigned(mask(width)))
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.blocks) + size_of_val(&*self.words)
    }
}

/// The word in which a value begins, and at which bit.
fn place(i: usize, width: u32) -> (usize, u32) {
    let bit = i * width as usize;
    (bit / u64::BITS as usize, (bit % u64::BITS as usize) as u32)
}

fn put(words: &mut [u64], i: usize, width: u32, value: u64) {
    if width == 0 {
        return;
    }
    let (word, shift) = place(i, width);
    words[word] |= value << shift;
    if shift + width > u64::BITS {
        words[word + 1] |= value >> (u64::BITS - shift);
    }
}

fn take(words: &[u64], i: usize, width: u32) -> u64 {
    if width == 0 {
        return 0;
    }
    let (word, shift) = place(i, width);
    let mut value = words[word] >> shift;
    if shift + width > u64::BITS {
        value |= words[word + 1] << (u64::BITS - shift);
    }
    value & mask(width)
}

/// The greatest number of so many bits.
fn mask(width: u32) -> u64 {
    u64::MAX.checked_shr(u64::BITS - width).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_come_back(values in prop::collection::vec(any::<i64>(), 0..300), width in 0..64_u32) {
            for values in [values.clone(), values.iter().map(|value| value >> width).collect()] {
                let column = Column::new(values.iter().copied());
                let found: Vec<i64> = (0..values.len()).map(|i| column.get(i)).collect();
                for (i, value) in values.iter().enumerate() {
                    let (least, most) = column.bounds(i / BLOCK);
                    prop_assert!(least <= *value && *value <= most);
                }
                prop_assert_eq!(found, values);
            }
        }
    }

    #[test]
    fn equal_values_take_no_bits_and_near_ones_few() {
        let bytes = |value: fn(i64) -> i64| Column::new((0..100_000).map(value)).bytes();
        assert_eq!(bytes(|_| 1_730_000_000_000), 100_000_usize.div_ceil(BLOCK) * 16);
        assert!(bytes(|i| 1_730_000_000_000 + i % 10_000) < 100_000 * 15 / 8);
    }
}
