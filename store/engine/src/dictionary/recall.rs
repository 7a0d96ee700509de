//! What the writer remembers of the dictionary that it adds to: which id a stack has, and which a function, by what they are
//! made of.
//!
//! Most of what a program pushes it has pushed before. To find it again text by text and frame by frame is one look after the
//! other into tables that are much larger than the CPU's caches; by its fingerprint a whole stack is found with one. What is not
//! remembered goes the long way, which alone adds to the dictionary, so what is stored is the same however much is remembered.
//!
//! Nothing here outlives the dictionary whose ids it has. Tenants share that, and so this.

use std::sync::{Arc, Weak};

use hashbrown::HashTable;
use pyrite_model::{Batch, FunctionId, StackId, SymbolTable};

use super::fingerprint::{Fingerprint, Fingerprints, Points};
use super::{Copier, Dictionary};

/// Ids of one dictionary.
pub(crate) struct Recall {
    /// Whose they are.
    dictionary: Weak<Dictionary>,
    points: Points,
    functions: Remembered,
    stacks: Remembered,
}

/// Where the stacks of a batch's rows are in the dictionary.
pub(crate) struct Placed {
    /// By stack of the batch. Those that no row has may be missing.
    stacks: Vec<Option<StackId>>,
    /// How many were remembered.
    pub(crate) recalled: usize,
    /// How many were looked up.
    pub(crate) looked_up: usize,
}

impl Placed {
    /// The id of a stack that a row has.
    pub(crate) fn stack(&self, id: StackId) -> StackId {
        self.stacks[id.index()].expect("the stacks of all rows were placed")
    }
}

impl Recall {
    /// One that remembers nothing yet, and never more than `most` stacks and as many functions.
    pub(crate) fn new(most: usize) -> Self {
        let nothing = || Remembered { most, ids: HashTable::new() };
        Self { dictionary: Weak::new(), points: Points::draw(), functions: nothing(), stacks: nothing() }
    }

    /// Finds the stacks of a batch's rows in the dictionary, and adds those that it lacks.
    pub(crate) fn place(&mut self, batch: &Batch, dictionary: &Arc<Dictionary>) -> Placed {
        if !std::ptr::eq(self.dictionary.as_ptr(), Arc::as_ptr(dictionary)) {
            *self = Self { dictionary: Arc::downgrade(dictionary), ..Self::new(self.stacks.most) };
        }
        let symbols = &batch.symbols;
        let (fingerprints, copier) = (self.points.of(symbols), Copier::new(symbols));
        let mut sought = Sought { symbols, fingerprints, copier };
        let (mut recalled, mut missing) = (0, Vec::new());
        for row in batch.series.iter().flat_map(|series| &series.rows) {
            let place = &mut sought.copier.stacks[row.stack.index()];
            if place.is_none() {
                *place = self.stacks.get(sought.fingerprints.stacks[row.stack.index()]).map(StackId);
                match place {
                    Some(_) => recalled += 1,
                    None => missing.push(row.stack),
                }
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            self.look_up(&missing, &mut sought, dictionary);
        }
        Placed { stacks: sought.copier.stacks, recalled, looked_up: missing.len() }
    }

    /// The same for stacks that are not remembered. Their functions mostly are.
    fn look_up(&mut self, missing: &[StackId], sought: &mut Sought<'_>, dictionary: &Dictionary) {
        let Sought { symbols: source, fingerprints, copier } = sought;
        let mut unknown = Vec::new();
        for (at, fingerprint) in fingerprints.functions.iter().enumerate() {
            copier.functions[at] = self.functions.get(*fingerprint).map(FunctionId);
            if copier.functions[at].is_none() {
                unknown.push(at);
            }
        }
        {
            let mut symbols = dictionary.write();
            for &stack in missing {
                let StackId(id) = copier.stack(source, stack, &mut symbols);
                self.stacks.put(fingerprints.stacks[stack.index()], id);
            }
        }
        for at in unknown {
            // The others are of stacks that were not missing.
            if let Some(FunctionId(id)) = copier.functions[at] {
                self.functions.put(fingerprints.functions[at], id);
            }
        }
    }

    /// What it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.functions.ids.allocation_size() + self.stacks.ids.allocation_size()
    }
}

/// What is looked for: what a batch has, and what became of it.
struct Sought<'a> {
    symbols: &'a SymbolTable,
    fingerprints: Fingerprints,
    copier: Copier,
}

/// Ids by fingerprint.
struct Remembered {
    most: usize,
    ids: HashTable<(Fingerprint, u32)>,
}

impl Remembered {
    fn get(&self, fingerprint: Fingerprint) -> Option<u32> {
        let found = self.ids.find(fingerprint.hash(), |(known, _)| *known == fingerprint);
        found.map(|(_, id)| *id)
    }

    /// Adds what [`get`](Self::get) did not find. Where there is no room all else is forgotten: what is still pushed comes
    /// back with the next push.
    fn put(&mut self, fingerprint: Fingerprint, id: u32) {
        if self.most == 0 {
            return;
        }
        if self.ids.len() >= self.most {
            self.ids.clear();
        }
        self.ids.insert_unique(fingerprint.hash(), (fingerprint, id), |(known, _)| known.hash());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::hash::Hash;

    use proptest::prelude::*;
    use pyrite_model::{
        Function, LabelSet, Line, Location, LocationId, Mapping, ProfileType, Row, SeriesRows, UnixMs,
    };

    use super::*;

    /// Name, system name and file, and the first line.
    type NamedFunction = ([String; 3], u32);

    /// A frame by all that it is made of.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Frame {
        /// Build id and path.
        mapping: Option<[String; 2]>,
        address: u64,
        /// With the line in each function.
        lines: Vec<(NamedFunction, u32)>,
    }

    /// A stack, root first, and whether a row has it.
    type Pushed = (Vec<Frame>, bool);

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![3 => "[a\u{0}]{0,2}", 1 => "(runtime|runtim)[a-b]{0,1}"]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let mapping = prop::option::of([text(), text()]);
        let address = prop_oneof![Just(0), Just(1), Just(1 << 32), Just(u64::MAX)];
        let function = ([text(), text(), text()], 0..2_u32);
        let line = (function, prop_oneof![Just(0), Just(1), Just(u32::MAX)]);
        (mapping, address, prop::collection::vec(line, 0..3)).prop_map(|(mapping, address, lines)| Frame {
            mapping,
            address,
            lines,
        })
    }

    /// Pushes of stacks that are made of few frames, so that many are alike.
    fn pushes() -> impl Strategy<Value = Vec<Vec<Pushed>>> {
        prop::collection::vec(frame(), 1..6).prop_flat_map(|frames| {
            let stack = prop::collection::vec(prop::sample::select(frames), 1..5);
            prop::collection::vec(prop::collection::vec((stack, any::<bool>()), 1..8), 1..8)
        })
    }

    fn add(symbols: &mut SymbolTable, frame: &Frame) -> LocationId {
        let mapping = frame.mapping.as_ref().map(|[build_id, path]| {
            let (build_id, path) = (symbols.intern_str(build_id), symbols.intern_str(path));
            symbols.intern_mapping(Mapping { build_id, path })
        });
        let mut lines = Vec::new();
        for ((texts, start_line), line) in &frame.lines {
            let [name, system_name, filename] = texts.each_ref().map(|text| symbols.intern_str(text));
            let function = Function { name, system_name, filename, start_line: *start_line };
            lines.push(Line { function: symbols.intern_function(function), line: *line });
        }
        symbols.intern_location(Location { mapping, address: frame.address, lines: lines.into() })
    }

    fn named(symbols: &SymbolTable, function: Function) -> NamedFunction {
        let Function { name, system_name, filename, start_line } = function;
        ([name, system_name, filename].map(|id| symbols.str(id).to_owned()), start_line)
    }

    /// The frames of a stack, root first.
    fn frames(symbols: &SymbolTable, stack: StackId) -> Vec<Frame> {
        let frame = |id| {
            let Location { mapping, address, lines } = symbols.location(id);
            let mapping = mapping.map(|id| symbols.mapping(id));
            let mapping = mapping.map(|m| [m.build_id, m.path].map(|id| symbols.str(id).to_owned()));
            let line = |line: &Line| (named(symbols, symbols.function(line.function)), line.line);
            Frame { mapping, address: *address, lines: lines.iter().map(line).collect() }
        };
        let mut frames: Vec<Frame> = symbols.stack_locations(stack).map(frame).collect();
        frames.reverse();
        frames
    }

    fn batch(push: &[Pushed]) -> Batch {
        let mut symbols = SymbolTable::new();
        let mut rows = Vec::new();
        for (stack, has_row) in push {
            let leaf_first: Vec<LocationId> =
                stack.iter().rev().map(|frame| add(&mut symbols, frame)).collect();
            let stack = symbols.intern_stack(&leaf_first).unwrap();
            if *has_row {
                rows.push(Row { time: UnixMs(1), stack, value: 1 });
            }
        }
        // As of samplers, who have two values of each stack.
        let of = |profile_type| SeriesRows { labels: LabelSet::default(), profile_type, rows: rows.clone() };
        let series = vec![of(ProfileType::cpu_time()), of(ProfileType::cpu_samples())];
        Batch { symbols, series, ..Batch::default() }
    }

    fn assert_same(one: &SymbolTable, other: &SymbolTable) {
        assert!(one.strings().eq(other.strings()));
        assert_eq!(one.mappings(), other.mappings());
        assert_eq!(one.functions(), other.functions());
        assert_eq!(one.locations(), other.locations());
        assert_eq!(one.stack_nodes(), other.stack_nodes());
    }

    /// Whether things are alike where their fingerprints are.
    fn assert_told_apart<T: Eq + Hash>(things: impl Iterator<Item = (T, Fingerprint)>) {
        let mut fingerprints: HashMap<T, Fingerprint> = HashMap::new();
        for (thing, fingerprint) in things {
            assert_eq!(*fingerprints.entry(thing).or_insert(fingerprint), fingerprint);
        }
        let distinct: HashSet<u64> = fingerprints.values().map(|fingerprint| fingerprint.hash()).collect();
        assert_eq!(distinct.len(), fingerprints.len());
    }

    proptest! {
        /// A dictionary is followed by another after every `turn` pushes.
        #[test]
        fn ids_and_dictionaries_are_the_same_however_much_is_remembered(
            pushes in pushes(),
            turn in 1..6_usize,
            most in prop_oneof![1..4_usize, Just(1_000)],
        ) {
            let (mut forgetful, mut recall) = (Recall::new(0), Recall::new(most));
            for epoch in pushes.chunks(turn) {
                let (plain, dictionary): (Arc<Dictionary>, Arc<Dictionary>) = Default::default();
                for batch in epoch.iter().map(|push| batch(push)) {
                    let (expected, placed) = (forgetful.place(&batch, &plain), recall.place(&batch, &dictionary));
                    prop_assert_eq!((expected.recalled, expected.looked_up), (0, placed.recalled + placed.looked_up));
                    let again = recall.place(&batch, &dictionary);
                    prop_assert!(most < 1_000 || again.looked_up == 0, "all was remembered");
                    for row in batch.series.iter().flat_map(|series| &series.rows) {
                        let id = placed.stack(row.stack);
                        prop_assert_eq!((id, id), (expected.stack(row.stack), again.stack(row.stack)));
                        prop_assert_eq!(frames(&dictionary.read(), id), frames(&batch.symbols, row.stack));
                    }
                }
                assert_same(&plain.read(), &dictionary.read());
            }
        }

        #[test]
        fn stacks_and_functions_are_told_apart(pushes in pushes()) {
            let points = Points::draw();
            let batches: Vec<Batch> = pushes.iter().map(|push| batch(push)).collect();
            let tables = || batches.iter().map(|batch| (&batch.symbols, points.of(&batch.symbols)));
            assert_told_apart(tables().flat_map(|(symbols, of)| {
                let stacks = of.stacks.into_iter().zip(0..);
                stacks.map(|(fingerprint, id)| (frames(symbols, StackId(id)), fingerprint)).collect::<Vec<_>>()
            }));
            assert_told_apart(tables().flat_map(|(symbols, of)| {
                let functions = symbols.functions().iter().zip(of.functions);
                functions.map(|(function, fingerprint)| (named(symbols, *function), fingerprint)).collect::<Vec<_>>()
            }));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let push = |n: usize| {
            let texts = [format!("f{n}"), String::new(), String::new()];
            vec![(vec![Frame { mapping: None, address: 0, lines: vec![((texts, 0), 0)] }], true)]
        };
        let dictionary = Arc::default();
        let mut recall = Recall::new(100);
        for n in 0..1_000 {
            recall.place(&batch(&push(n)), &dictionary);
            assert!(recall.stacks.ids.len() <= 100 && recall.functions.ids.len() <= 100);
        }
        // Two tables of 128 slots, each of 24 bytes and one more, and some bytes behind them.
        assert!((1..2 * (128 * 25 + 64)).contains(&recall.bytes()), "{}", recall.bytes());
        assert_eq!(recall.place(&batch(&push(999)), &dictionary).recalled, 1);
        assert_eq!(dictionary.read().stack_nodes().len(), 1_000);
    }

    #[test]
    fn ids_of_another_dictionary_are_forgotten() {
        let batch = batch(&[(vec![Frame { mapping: None, address: 7, lines: Vec::new() }], true)]);
        let mut recall = Recall::new(10);
        let (first, second): (Arc<Dictionary>, Arc<Dictionary>) = Default::default();
        assert_eq!(recall.place(&batch, &first).looked_up, 1);
        drop(first);
        for expected in [(0, 1), (1, 0)] {
            let placed = recall.place(&batch, &second);
            assert_eq!((placed.recalled, placed.looked_up), expected);
        }
        assert_eq!(second.read().stack_nodes().len(), 1);
    }
}
