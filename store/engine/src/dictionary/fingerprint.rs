//! What functions and stacks are made of, in sixteen bytes: the same for the same names, lines and addresses, whatever their
//! ids, and so good as never the same for others.
//!
//! ```text
//! text     := its bytes, seven at a time; the rest with its length
//! mapping  := build id, path
//! function := name, system name, file, first line
//! location := mapping or 0, address in halves, { function, line } …
//! stack    := locations, root first
//! ```
//!
//! Each is a polynomial modulo 2⁶¹ − 1, whose first coefficient is 1 and whose others are the terms above, evaluated at a
//! point of its kind that was drawn at random and that nobody is told. Things that differ have polynomials that differ, and those
//! agree at d in 2⁶¹ points at most, where d is how many terms there are from the texts to the stack (J. T. Schwartz,
//! "Fast Probabilistic Algorithms for Verification of Polynomial Identities", 1980; as a family of hash functions, J. L.
//! Carter and M. N. Wegman, "Universal Classes of Hash Functions", 1979). Two points each make that (d / 2⁶¹)²: 10⁻³² for a
//! hundred frames with names of a hundred bytes, 10⁻²² for the largest thing that fits into a push. Who makes up pushes
//! cannot better that: it holds for any two things, while the points are unknown.

use std::hash::{BuildHasher, RandomState};

use pyrite_model::{Function, Line, Location, Mapping, StackNode, SymbolTable};

/// 2⁶¹ − 1, a prime.
const MODULUS: u64 = (1 << 61) - 1;
/// So many bytes of a text are always below the modulus.
const TERM_BYTES: usize = 7;
/// The polynomial that is 1.
const START: Fingerprint = Fingerprint([1, 1]);

/// The values of a polynomial at two points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u64; 2]);

impl Fingerprint {
    /// For hash tables, which also go by the highest bits: those of the values are 0.
    pub(super) fn hash(self) -> u64 {
        let Self([one, other]) = self;
        one ^ other << 3
    }
}

/// Of the entries of one symbol table, by id.
pub(super) struct Fingerprints {
    pub(super) functions: Vec<Fingerprint>,
    pub(super) stacks: Vec<Fingerprint>,
}

/// Where polynomials are evaluated. Fingerprints of other points have nothing to do with each other.
pub(super) struct Points {
    text: Point,
    /// Of mappings and functions.
    part: Point,
    location: Point,
    stack: Point,
}

impl Points {
    /// New ones.
    pub(super) fn draw() -> Self {
        // Of 128 secret bits, by a function that does not give them away.
        let random = RandomState::new();
        let point = |kind: u64| Point([0_u64, 1].map(|lane| random.hash_one((kind, lane)) % MODULUS));
        Self { text: point(0), part: point(1), location: point(2), stack: point(3) }
    }

    /// What all functions and stacks of a table are made of.
    pub(super) fn of(&self, symbols: &SymbolTable) -> Fingerprints {
        let texts: Vec<Fingerprint> = symbols.strings().map(|text| self.text(text)).collect();
        let mapping = |Mapping { build_id, path }: &Mapping| {
            self.part.all([texts[build_id.index()], texts[path.index()]])
        };
        let mappings: Vec<Fingerprint> = symbols.mappings().iter().map(mapping).collect();
        let function = |Function { name, system_name, filename, start_line }: &Function| {
            let [name, system_name, filename] = [name, system_name, filename].map(|text| texts[text.index()]);
            self.part.all([name, system_name, filename, number((*start_line).into())])
        };
        let functions: Vec<Fingerprint> = symbols.functions().iter().map(function).collect();
        let location = |location: &Location| self.location(location, &mappings, &functions);
        let locations: Vec<Fingerprint> = symbols.locations().iter().map(location).collect();
        let mut stacks: Vec<Fingerprint> = Vec::with_capacity(symbols.stack_nodes().len());
        for StackNode { parent, location } in symbols.stack_nodes() {
            let callers = parent.map_or(START, |id| stacks[id.index()]);
            stacks.push(self.stack.then(callers, locations[location.index()]));
        }
        Fingerprints { functions, stacks }
    }

    fn text(&self, text: &str) -> Fingerprint {
        let (whole, rest) = text.as_bytes().as_chunks::<TERM_BYTES>();
        let sum = whole.iter().fold(START, |sum, bytes| self.text.then(sum, number(word(bytes))));
        self.text.then(sum, number(word(rest) << 3 | rest.len() as u64))
    }

    fn location(
        &self,
        Location { mapping, address, lines }: &Location,
        mappings: &[Fingerprint],
        functions: &[Fingerprint],
    ) -> Fingerprint {
        let point = self.location;
        // No mapping is the polynomial 0: each has terms.
        let mapping = mapping.map_or(number(0), |id| mappings[id.index()]);
        let [low, high] = [address & u64::from(u32::MAX), address >> u32::BITS].map(number);
        let sum = point.all([mapping, low, high]);
        lines.iter().fold(sum, |sum, Line { function, line }| {
            point.then(point.then(sum, functions[function.index()]), number((*line).into()))
        })
    }
}

/// A point for each of the two values.
#[derive(Clone, Copy)]
struct Point([u64; 2]);

impl Point {
    /// The polynomial with one more term.
    fn then(self, Fingerprint(sum): Fingerprint, Fingerprint(term): Fingerprint) -> Fingerprint {
        Fingerprint([step(sum[0], self.0[0], term[0]), step(sum[1], self.0[1], term[1])])
    }

    fn all<const TERMS: usize>(self, terms: [Fingerprint; TERMS]) -> Fingerprint {
        terms.into_iter().fold(START, |sum, term| self.then(sum, term))
    }
}

/// A term that is the same at every point.
fn number(below_modulus: u64) -> Fingerprint {
    Fingerprint([below_modulus; 2])
}

/// Up to seven bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; size_of::<u64>()];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// `sum × point + term`, all of which are below the modulus, as the result is.
fn step(sum: u64, point: u64, term: u64) -> u64 {
    let product = u128::from(sum) * u128::from(point);
    // 2⁶¹ is 1 here: what is above the lowest 61 bits counts by itself.
    let low = product as u64 & MODULUS;
    let high = (product >> 61) as u64;
    let sum = low + high + term;
    let sum = (sum & MODULUS) + (sum >> 61);
    if sum < MODULUS { sum } else { sum - MODULUS }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_step_is_what_division_makes_of_it(numbers in prop::array::uniform3(any::<u64>()), edge in 0..8_u64) {
            // Some of them at the upper end.
            let at = |i: u32| if edge >> i & 1 == 1 { MODULUS - 1 } else { numbers[i as usize] % MODULUS };
            let [sum, point, term] = [at(0), at(1), at(2)];
            let expected = (u128::from(sum) * u128::from(point) + u128::from(term)) % u128::from(MODULUS);
            prop_assert_eq!(u128::from(step(sum, point, term)), expected);
        }

        #[test]
        fn texts_have_one_fingerprint_each(one in "[\u{0}a]{0,16}", other in "[\u{0}a]{0,16}") {
            let points = Points::draw();
            prop_assert_eq!(points.text(&one) == points.text(&other), one == other);
        }
    }

    #[test]
    fn each_kind_has_points_of_its_own_and_each_draw_has_others() {
        let [one, other] = [Points::draw(), Points::draw()];
        let mut drawn: Vec<u64> = [one, other]
            .iter()
            .flat_map(|p| [p.text, p.part, p.location, p.stack])
            .flat_map(|p| p.0)
            .collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 16);
        assert!(drawn.iter().all(|point| *point < MODULUS));
    }
}
