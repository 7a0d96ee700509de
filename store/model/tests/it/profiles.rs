//! Made-up profiles: nearly always valid, of few and often equal things, with at most one fault.

use proptest::prelude::*;
use proptest::sample::Index;
use pyrite_model::UnixMs;
use pyrite_model::pprof::proto;

/// The time that profiles are pushed at.
pub(crate) const NOW: UnixMs = UnixMs(1_700_000_000_000);

/// The strings that every profile begins with.
const TEXTS: [&str; 9] =
    ["", "samples", "count", "cpu", "nanoseconds", "zone", "span_id", "service_name", "a_long_name"];

/// How a writer numbers things.
#[derive(Clone, Copy, Debug)]
enum Ids {
    FromOne,
    Backwards,
    Gaps,
    Huge,
}

impl Ids {
    fn of(self, index: usize, count: usize) -> u64 {
        match self {
            Self::FromOne => index as u64 + 1,
            Self::Backwards => (count - index) as u64,
            Self::Gaps => 3 * index as u64 + 2,
            Self::Huge => u64::MAX - 7 * index as u64,
        }
    }
}

fn ids() -> impl Strategy<Value = Ids> {
    prop_oneof![3 => Just(Ids::FromOne), 1 => Just(Ids::Backwards), 1 => Just(Ids::Gaps), 1 => Just(Ids::Huge)]
}

fn some<T: std::fmt::Debug>(item: impl Strategy<Value = T>, most: usize) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(item, 0..=most)
}

/// A value: few, so that sums of equal stacks occur; large; negative.
fn value() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0..3_i64, 2 => 0..i64::MAX / 10_000, 1 => Just(-1)]
}

fn time_ns() -> impl Strategy<Value = i64> {
    let ms = NOW.0;
    prop_oneof![2 => Just(0), 4 => (ms - 1000..ms).prop_map(|ms| ms * 1_000_000 + 999_999), 1 => any::<i64>()]
}

/// Function and number of each.
type Lines = Vec<(Index, i64)>;

/// Name, text, and whether it is numeric, of each.
type Labels = Vec<(Index, Index, bool)>;

/// Everything that a profile is made of; indexes are reduced to what there is.
#[derive(Clone, Debug)]
struct Parts {
    texts: Vec<String>,
    mappings: Vec<(Index, Index, [u64; 3])>,
    functions: Vec<([Index; 3], i64)>,
    /// Mapping, address, lines.
    locations: Vec<(Index, u64, Lines)>,
    /// Stack, how much of the one before, values, labels.
    samples: Vec<(Vec<Index>, Index, [i64; 2], Labels)>,
    ids: [Ids; 3],
    time_nanos: i64,
    types: usize,
}

fn parts() -> impl Strategy<Value = Parts> {
    let index = any::<Index>;
    let mapping = (index(), index(), [0..50_u64, 0..100, 0..50]);
    let function = ([index(), index(), index()], -1..3_i64);
    let location = (index(), 0..100_u64, some((index(), -1..3_i64), 2));
    let sample = (some(index(), 8), index(), [value(), value()], some((index(), index(), any::<bool>()), 4));
    let things = (some("[ab:é-]{0,6}", 6), some(mapping, 3), some(function, 6), some(location, 8));
    let rest = (some(sample, 12), [ids(), ids(), ids()], time_ns(), 1..=2_usize);
    (things, rest).prop_map(|((texts, mappings, functions, locations), (samples, ids, time_nanos, types))| {
        Parts { texts, mappings, functions, locations, samples, ids, time_nanos, types }
    })
}

impl Parts {
    fn text(&self, index: Index) -> i64 {
        index.index(TEXTS.len() + self.texts.len()) as i64
    }

    /// The id of a thing, or 0 where there is none, and now and then where there are some.
    fn pick(ids: Ids, index: Index, count: usize, may_be_none: bool) -> u64 {
        match index.index(count + usize::from(may_be_none || count == 0)) {
            none if none == count => 0,
            index => ids.of(index, count),
        }
    }

    fn profile(&self) -> proto::Profile {
        proto::Profile {
            sample_type: [(1, 2), (3, 4)][..self.types].iter().map(value_type).collect(),
            sample: self.samples(),
            mapping: self.mappings(),
            location: self.locations(),
            function: self.functions(),
            string_table: TEXTS.iter().map(ToString::to_string).chain(self.texts.iter().cloned()).collect(),
            time_nanos: self.time_nanos,
            period_type: (self.types == 2).then(|| value_type(&(3, 4))),
            ..proto::Profile::default()
        }
    }

    fn mappings(&self) -> Vec<proto::Mapping> {
        let mapping = |(i, (build_id, path, [memory_start, memory_limit, file_offset])): (
            usize,
            &(Index, Index, [u64; 3]),
        )| {
            proto::Mapping {
                id: self.ids[0].of(i, self.mappings.len()),
                memory_start: *memory_start,
                memory_limit: *memory_limit,
                file_offset: *file_offset,
                build_id: self.text(*build_id),
                filename: self.text(*path),
                ..proto::Mapping::default()
            }
        };
        self.mappings.iter().enumerate().map(mapping).collect()
    }

    fn functions(&self) -> Vec<proto::Function> {
        let function =
            |(i, ([name, system_name, filename], start_line)): (usize, &([Index; 3], i64))| proto::Function {
                id: self.ids[1].of(i, self.functions.len()),
                name: self.text(*name),
                system_name: self.text(*system_name),
                filename: self.text(*filename),
                start_line: *start_line,
            };
        self.functions.iter().enumerate().map(function).collect()
    }

    fn locations(&self) -> Vec<proto::Location> {
        let mut found = Vec::new();
        for (i, (mapping, address, lines)) in self.locations.iter().enumerate() {
            let mut line = Vec::new();
            for (function, number) in lines.iter().filter(|_| !self.functions.is_empty()) {
                let function_id = Self::pick(self.ids[1], *function, self.functions.len(), false);
                line.push(proto::Line { function_id, line: *number });
            }
            found.push(proto::Location {
                id: self.ids[2].of(i, self.locations.len()),
                mapping_id: Self::pick(self.ids[0], *mapping, self.mappings.len(), true),
                address: *address,
                line,
                is_folded: false,
            });
        }
        found
    }

    /// Samples, some of which have the stack of the one before with another leaf.
    fn samples(&self) -> Vec<proto::Sample> {
        let mut found: Vec<proto::Sample> = Vec::new();
        for (stack, shared, values, labels) in &self.samples {
            let mut location_id = Vec::new();
            for location in stack.iter().filter(|_| !self.locations.is_empty()) {
                location_id.push(Self::pick(self.ids[2], *location, self.locations.len(), false));
            }
            if let Some(before) = found.last() {
                let before = &before.location_id;
                location_id.extend(&before[shared.index(before.len() + 1)..]);
            }
            let label = |(key, value, numeric): &(Index, Index, bool)| {
                let (number, text) = if *numeric { (7, 0) } else { (0, self.text(*value)) };
                // Mostly names that may be a label's.
                let key = if text % 5 == 0 { self.text(*key) } else { 5 + text % 4 };
                proto::Label { key, str: text, num: number, ..proto::Label::default() }
            };
            found.push(proto::Sample {
                location_id,
                value: values[..self.types].to_vec(),
                label: labels.iter().map(label).collect(),
            });
        }
        found
    }
}

fn value_type(&(kind, unit): &(i64, i64)) -> proto::ValueType {
    proto::ValueType { r#type: kind, unit }
}

/// How many faults [`break_it`] knows.
const FAULTS: u8 = 18;

/// Breaks a rule in one place, unless the profile lacks what to break.
fn break_it(p: &mut proto::Profile, fault: u8, at: Index) {
    fn one<T>(things: &mut [T], at: Index) -> Option<&mut T> {
        let last = things.len().checked_sub(1)?;
        things.get_mut(at.index(last + 1))
    }
    let again = one(&mut p.location, at).map_or(0, |location| location.id);
    let (sample, location) = (one(&mut p.sample, at), one(&mut p.location, at));
    let (function, mapping) = (one(&mut p.function, at), one(&mut p.mapping, at));
    let nowhere = p.string_table.len() as i64;
    match (fault, sample, location, function, mapping) {
        (0, Some(sample), ..) => sample.location_id.push(0),
        (1, Some(sample), ..) => sample.location_id.insert(0, 77_777),
        (2, Some(sample), ..) => drop(sample.value.pop()),
        (3, Some(sample), ..) => sample.value.push(1),
        (4, Some(sample), ..) => {
            sample.label.push(proto::Label { key: 5, str: nowhere, ..Default::default() });
        }
        (5, Some(sample), ..) => sample.label.push(proto::Label { key: -1, str: 1, ..Default::default() }),
        (6, Some(sample), ..) => {
            sample.label = vec![proto::Label { key: 5, str: 1, ..Default::default() }; 200];
        }
        (7, Some(sample), ..) => sample.label.push(proto::Label { key: 0, str: 1, ..Default::default() }),
        (8, _, Some(location), ..) => location.mapping_id = 99,
        (9, _, Some(location), ..) => location.line.push(proto::Line::default()),
        (10, _, Some(location), ..) => location.id = 0,
        (11, ..) if again != 0 => p.location.push(proto::Location { id: again, ..Default::default() }),
        (12, _, _, Some(function), _) => function.name = nowhere,
        (13, _, _, Some(function), _) => function.id = 0,
        (14, .., Some(mapping)) => mapping.filename = i64::MIN,
        (15, ..) => p.sample_type.clear(),
        (16, ..) => p.string_table[0].push('x'),
        (17, ..) => p.sample_type[0].r#type = at.index(nowhere as usize + 2) as i64,
        _ => {}
    }
}

/// A profile that every second time is broken in one place.
pub(crate) fn profile() -> impl Strategy<Value = proto::Profile> {
    (parts(), prop::option::of((0..FAULTS, any::<Index>()))).prop_map(|(parts, fault)| {
        let mut profile = parts.profile();
        if let Some((fault, at)) = fault {
            break_it(&mut profile, fault, at);
        }
        profile
    })
}
