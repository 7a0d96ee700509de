//! Pushed profiles become rows: checked, named, split by sample type and by the labels on their samples.
//!
//! What Pyroscope does on ingest holds here too: samples with a negative value are left out (and counted), numeric
//! labels and the addresses of named functions are dropped, stacks that are then alike add up, very deep stacks
//! lose their leaf side.

use std::borrow::Cow;

use hashbrown::HashMap;

use crate::pprof::PprofError;
use crate::pprof::inflate::inflate;
use crate::pprof::names::{DisplayNames, name_of_types, series_identity};
use crate::pprof::parse::{Label, Profile, Sample, ValueType};
use crate::pprof::symbols::Symbols;
use crate::{
    Batch, LabelSet, Location, LocationId, ProfileType, Row, SeriesRows, StackId, StackNode, UnixMs, names,
};

/// Labels on samples that point at a span or a single profile; series of their own would be one per request.
const EXEMPLAR_LABELS: [&str; 3] = ["profile_id", "span_id", "trace_id"];

/// What names and labels of a profile's groups and series may take in memory: they are as long as clients like, and
/// every group of samples and every series has its own copy.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// How large and how far from now a profile may be.
#[derive(Clone, Debug)]
pub struct PushLimits {
    /// Size of one profile after unpacking, in bytes.
    pub max_profile_bytes: usize,
    /// Labels of a series, the labels of its samples included.
    pub max_labels: usize,
    /// Labels with text on one sample.
    pub max_sample_labels: usize,
    /// Length of a label name in bytes.
    pub max_label_name_bytes: usize,
    /// Length of a label value in bytes.
    pub max_label_value_bytes: usize,
    /// Frames of a stack trace; deeper ones lose their leaf side.
    pub max_frames: usize,
    /// Length of a symbol in bytes; longer ones lose their beginning.
    pub max_symbol_bytes: usize,
    /// How long ago a profile may have been taken, in milliseconds.
    pub max_age_ms: i64,
    /// How far in the future it may seem to be, in milliseconds.
    pub max_ahead_ms: i64,
}

impl Default for PushLimits {
    fn default() -> Self {
        Self {
            max_profile_bytes: 16 << 20,
            max_labels: 30,
            max_sample_labels: 100,
            max_label_name_bytes: 1024,
            max_label_value_bytes: 2048,
            max_frames: 1000,
            max_symbol_bytes: 65_535,
            max_age_ms: 30 * 24 * 3_600_000,
            max_ahead_ms: 10 * 60_000,
        }
    }
}

impl PushLimits {
    /// Refuses a profile that was taken too long ago, or has not been taken yet.
    pub fn check_time(&self, time: UnixMs, now: UnixMs) -> Result<(), PprofError> {
        let (from_ms, until_ms) =
            (now.0.saturating_sub(self.max_age_ms), now.0.saturating_add(self.max_ahead_ms));
        if (from_ms..=until_ms).contains(&time.0) {
            Ok(())
        } else {
            Err(PprofError::Time { time_ms: time.0, from_ms, until_ms })
        }
    }
}

/// All that a profile's rows depend on besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct PushContext<'a> {
    /// The labels it was pushed with; `__name__` is the first part of its profile type id.
    pub labels: &'a LabelSet,
    /// Where given, a profile without `__name__` is named by its sample types as they are called here, not rejected.
    pub display_names: Option<&'a DisplayNames>,
    /// The time of a profile that states none.
    pub now: UnixMs,
    /// The bounds it must keep.
    pub limits: &'a PushLimits,
}

/// What became of a profile's samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Rows added to the batch.
    pub rows: usize,
    /// Samples left out because a value was negative.
    pub negative_samples: usize,
    /// Stack traces that lost their leaf side.
    pub truncated_stacks: usize,
}

/// Adds a pprof profile, plain or gzip, to a batch.
///
/// # Errors
/// A profile that is malformed or beyond a limit; the batch may then hold parts of it and must not be stored.
pub fn append(batch: &mut Batch, profile: &[u8], context: &PushContext<'_>) -> Result<Appended, PprofError> {
    let bytes = inflate(profile, context.limits.max_profile_bytes)?;
    let profile = Profile::parse(&bytes)?;
    let types = sample_types(&profile)?;
    let labels = named(context, &types);
    let context = &PushContext { labels: &labels, ..*context };
    check_labels(&labels, context.limits)?;
    let mut push = Push {
        profile: &profile,
        time: row_time(&profile, context)?,
        symbols: Symbols::intern(&profile, &mut batch.symbols, context.limits.max_symbol_bytes)?,
        groups: Vec::new(),
        group_ids: HashMap::new(),
        text_bytes: 0,
        before: Before::default(),
        path: Vec::new(),
        callees: Vec::new(),
        appended: Appended::default(),
    };
    for (i, sample) in profile.samples.iter().enumerate() {
        if sample.values.len() != types.len() {
            let (found, expected) = (sample.values.len(), types.len());
            return Err(PprofError::ValueCount { sample: i, found, expected });
        }
        push.sample(sample, batch, context)?;
    }
    push.finish(&types, batch)
}

/// A sample or period type with its unit.
type NamedType<'a> = (&'a str, &'a str);

/// The types of a profile's values and, last, of its period.
struct Types<'a> {
    values: Vec<NamedType<'a>>,
    period: NamedType<'a>,
}

impl Types<'_> {
    fn len(&self) -> usize {
        self.values.len()
    }
}

fn sample_types<'a>(profile: &Profile<'a>) -> Result<Types<'a>, PprofError> {
    if profile.sample_types.is_empty() {
        return Err(PprofError::Empty);
    }
    if profile.strings.first() != Some(&"") {
        return Err(PprofError::StringTable);
    }
    let named = |t: &ValueType| Ok((profile.text(t.kind, "a type")?, profile.text(t.unit, "a unit")?));
    let values: Vec<NamedType<'a>> =
        profile.sample_types.iter().map(named).collect::<Result<_, PprofError>>()?;
    let period = profile.period_type.as_ref().map_or(Ok(("", "")), named)?;
    let bad_kind =
        values.iter().map(|(kind, _)| *kind).find(|kind| kind.is_empty() || kind.contains(['-', ':']));
    let mut others = values.iter().map(|(_, unit)| *unit).chain([period.0, period.1]);
    match bad_kind.or_else(|| others.find(|text| text.contains(':'))) {
        Some(name) => Err(PprofError::SampleType { name: name.chars().take(100).collect() }),
        None => Ok(Types { values, period }),
    }
}

fn named<'a>(context: &PushContext<'a>, types: &Types<'_>) -> Cow<'a, LabelSet> {
    match context.display_names {
        Some(shown_as) if context.labels.get(names::PROFILE_NAME).is_none() => {
            let kinds: Vec<&str> = types.values.iter().map(|(kind, _)| *kind).collect();
            let mut labels = context.labels.clone();
            labels.set(names::PROFILE_NAME, name_of_types(&kinds, shown_as));
            Cow::Owned(labels)
        }
        _ => Cow::Borrowed(context.labels),
    }
}

fn check_labels(labels: &LabelSet, limits: &PushLimits) -> Result<(), PprofError> {
    let name = labels.get(names::PROFILE_NAME).unwrap_or_default();
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err(PprofError::ProfileName { name: name.chars().take(100).collect() });
    }
    if labels.len() > limits.max_labels {
        return Err(PprofError::TooManyLabels { found: labels.len(), limit: limits.max_labels });
    }
    for label in labels {
        let short_name = || label.name.chars().take(100).collect();
        if label.name.is_empty() || label.name.len() > limits.max_label_name_bytes {
            return Err(PprofError::LabelName { name: short_name(), limit: limits.max_label_name_bytes });
        }
        if label.value.len() > limits.max_label_value_bytes {
            return Err(PprofError::LabelValue { name: short_name(), limit: limits.max_label_value_bytes });
        }
    }
    Ok(())
}

fn row_time(profile: &Profile<'_>, context: &PushContext<'_>) -> Result<UnixMs, PprofError> {
    if profile.time_nanos == 0 {
        return Ok(context.now);
    }
    let time = UnixMs::from_unix_ns(profile.time_nanos);
    context.limits.check_time(time, context.now)?;
    Ok(time)
}

/// A profile on its way into a batch.
struct Push<'a> {
    profile: &'a Profile<'a>,
    time: UnixMs,
    symbols: Symbols,
    groups: Vec<Group>,
    group_ids: HashMap<Vec<Label>, usize>,
    /// What names and labels of groups and series take so far.
    text_bytes: usize,
    before: Before<'a>,
    /// The stack of the sample before, root first.
    path: Vec<StackId>,
    /// What a stack does not share with the one before, root first.
    callees: Vec<LocationId>,
    appended: Appended,
}

/// The sample before: neighbours share most of their callers, and nearly always their labels.
#[derive(Default)]
struct Before<'a> {
    /// Leaf first.
    locations: &'a [u64],
    group: Option<(&'a [Label], usize)>,
}

/// Samples with the same labels.
struct Group {
    labels: LabelSet,
    /// Stack and where the sample's values begin.
    samples: Vec<(StackId, usize)>,
}

impl<'a> Push<'a> {
    fn sample(
        &mut self,
        sample: &Sample,
        batch: &mut Batch,
        context: &PushContext<'_>,
    ) -> Result<(), PprofError> {
        let ids = &self.profile.location_ids[sample.locations.clone()];
        let kept = &ids[ids.len().saturating_sub(context.limits.max_frames)..];
        let stack = self.stack(kept, batch)?;
        let group = self.group(&self.profile.labels[sample.labels.clone()], context)?;
        let values = &self.profile.values[sample.values.clone()];
        if values.iter().any(|value| *value < 0) {
            self.appended.negative_samples += 1;
        } else if values.iter().any(|value| *value > 0) {
            self.appended.truncated_stacks += usize::from(kept.len() < ids.len());
            self.groups[group].samples.push((stack, sample.values.start));
        }
        Ok(())
    }

    fn stack(&mut self, leaf_first: &'a [u64], batch: &mut Batch) -> Result<StackId, PprofError> {
        let callers = leaf_first.iter().rev().zip(self.before.locations.iter().rev());
        let shared = callers.take_while(|(id, before)| id == before).count();
        self.before.locations = leaf_first;
        self.path.truncate(shared);
        self.callees.clear();
        for &id in leaf_first[..leaf_first.len() - shared].iter().rev() {
            self.callees.push(self.symbols.location(id)?);
        }
        batch.symbols.intern_callees(&mut self.path, &self.callees);
        if let Some(stack) = self.path.last() {
            return Ok(*stack);
        }
        // A value without a stack still counts towards the total.
        let location = batch.symbols.intern_location(Location::default());
        Ok(batch.symbols.intern_stack_node(StackNode { parent: None, location }))
    }

    fn group(&mut self, found: &'a [Label], context: &PushContext<'_>) -> Result<usize, PprofError> {
        if let Some((labels, group)) = self.before.group
            && labels == found
        {
            return Ok(group);
        }
        let limit = context.limits.max_sample_labels;
        if found.len() > limit {
            return Err(PprofError::TooManyLabels { found: found.len(), limit });
        }
        let mut key = found.to_vec();
        key.sort_unstable();
        let group = match self.group_ids.get(&key) {
            Some(&group) => group,
            None => self.new_group(key, context)?,
        };
        self.before.group = Some((found, group));
        Ok(group)
    }

    fn new_group(&mut self, key: Vec<Label>, context: &PushContext<'_>) -> Result<usize, PprofError> {
        let mut labels = LabelSet::default();
        for Label { key, text } in &key {
            let name = self.profile.text(*key, "a sample label")?;
            let value = self.profile.text(*text, "a sample label")?;
            if !EXEMPLAR_LABELS.contains(&name) {
                labels.set(name, value);
            }
        }
        context.labels.iter().for_each(|label| labels.set(&label.name, &label.value));
        check_labels(&labels, context.limits)?;
        self.hold(labels.bytes())?;
        self.groups.push(Group { labels, samples: Vec::new() });
        self.group_ids.insert(key, self.groups.len() - 1);
        Ok(self.groups.len() - 1)
    }

    /// Counts bytes of names and labels that are about to be kept.
    fn hold(&mut self, bytes: usize) -> Result<(), PprofError> {
        self.text_bytes += bytes;
        let limit = MAX_TEXT_BYTES;
        if self.text_bytes > limit { Err(PprofError::TooLarge { limit }) } else { Ok(()) }
    }

    fn finish(mut self, types: &Types<'_>, batch: &mut Batch) -> Result<Appended, PprofError> {
        for mut group in std::mem::take(&mut self.groups) {
            group.samples.sort_unstable();
            for (i, (sample_type, sample_unit)) in types.values.iter().enumerate() {
                let rows = self.rows(&group.samples, i);
                if rows.is_empty() {
                    continue;
                }
                let type_parts = [sample_type, sample_unit, &types.period.0, &types.period.1];
                let type_bytes: usize = type_parts.iter().map(|part| part.len()).sum();
                self.hold(group.labels.bytes() + type_bytes)?;
                self.appended.rows += rows.len();
                let (name, labels) = series_identity(&group.labels, sample_type);
                let profile_type = ProfileType {
                    name,
                    sample_type: (*sample_type).to_owned(),
                    sample_unit: (*sample_unit).to_owned(),
                    period_type: types.period.0.to_owned(),
                    period_unit: types.period.1.to_owned(),
                };
                batch.series.push(SeriesRows { labels, profile_type, rows });
            }
        }
        Ok(self.appended)
    }

    /// The rows of sorted samples for one of their values.
    fn rows(&self, samples: &[(StackId, usize)], value: usize) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for &(stack, first) in samples {
            let value = self.profile.values[first + value];
            match rows.last_mut() {
                _ if value == 0 => {}
                Some(row) if row.stack == stack => row.value = row.value.saturating_add(value),
                _ => rows.push(Row { time: self.time, stack, value }),
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::pprof::{ExportMeta, encode, gzip, proto};
    use crate::{StackProfile, frame_names};

    const NOW: UnixMs = UnixMs(1_700_000_000_000);

    fn pushed(labels: &[(&str, &str)], profile: &proto::Profile) -> Result<(Batch, Appended), PprofError> {
        let labels = LabelSet::from_pairs(labels.iter().copied());
        let mut batch = Batch::default();
        let context =
            PushContext { labels: &labels, display_names: None, now: NOW, limits: &PushLimits::default() };
        append(&mut batch, &profile.encode_to_vec(), &context).map(|appended| (batch, appended))
    }

    fn push_cpu(profile: &proto::Profile) -> Result<(Batch, Appended), PprofError> {
        pushed(&[("__name__", "process_cpu"), ("service_name", "api")], profile)
    }

    /// Two sample types, two functions, three samples of which two differ only in a numeric label.
    fn example() -> proto::Profile {
        let texts =
            ["", "samples", "count", "cpu", "nanoseconds", "main", "work", "/bin/x", "zone", "a", "bytes"];
        let function = |id, name| proto::Function { id, name, system_name: name, ..Default::default() };
        let location = |id| proto::Location {
            id,
            mapping_id: 1,
            address: 0x1000 + id,
            line: vec![proto::Line { function_id: id, line: 7 }],
            ..Default::default()
        };
        let sample = |location_id: &[u64], value: &[i64], label| proto::Sample {
            location_id: location_id.to_vec(),
            value: value.to_vec(),
            label,
        };
        let bytes = |num| vec![proto::Label { key: 10, num, ..Default::default() }];
        proto::Profile {
            sample_type: vec![
                proto::ValueType { r#type: 1, unit: 2 },
                proto::ValueType { r#type: 3, unit: 4 },
            ],
            period_type: Some(proto::ValueType { r#type: 3, unit: 4 }),
            sample: vec![
                sample(&[2, 1], &[1, 10], bytes(1)),
                sample(&[2, 1], &[2, 20], bytes(2)),
                sample(&[1], &[0, 5], vec![proto::Label { key: 8, str: 9, ..Default::default() }]),
            ],
            mapping: vec![proto::Mapping { id: 1, filename: 7, ..Default::default() }],
            location: vec![location(1), location(2)],
            function: vec![function(1, 5), function(2, 6)],
            string_table: texts.map(str::to_owned).to_vec(),
            ..Default::default()
        }
    }

    fn rows(batch: &Batch) -> Vec<String> {
        let mut lines: Vec<String> = batch
            .series
            .iter()
            .flat_map(|series| {
                series.rows.iter().map(|row| {
                    let stack = frame_names(&batch.symbols, row.stack).join(";");
                    format!("{} {} {stack} {} @{}", series.profile_type, series.labels, row.value, row.time.0)
                })
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn one_series_per_type_and_label_group() {
        let (batch, appended) = push_cpu(&example()).unwrap();
        let now = NOW.0;
        let cpu = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
        let samples = "process_cpu:samples:count:cpu:nanoseconds";
        let expected = [
            format!(r#"{cpu} {{service_name="api", zone="a"}} main 5 @{now}"#),
            format!(r#"{cpu} {{service_name="api"}} main;work 30 @{now}"#),
            format!(r#"{samples} {{service_name="api"}} main;work 3 @{now}"#),
        ];
        assert_eq!(rows(&batch), expected);
        assert_eq!(appended, Appended { rows: 3, ..Appended::default() });
        assert_eq!(batch.symbols.locations().iter().map(|l| l.address).max(), Some(0));
    }

    #[test]
    fn a_wall_profile_splits_in_two_names() {
        let (batch, _) = pushed(&[("__name__", "wall"), ("zone", "b")], &example()).unwrap();
        let mut names: Vec<String> =
            batch.series.iter().map(|s| format!("{} {}", s.profile_type.name, s.labels)).collect();
        names.sort();
        names.dedup();
        let cpu = r#"process_cpu {__name_replaced__="wall", zone="b"}"#;
        assert_eq!(names, [cpu, r#"wall {zone="b"}"#], "and the series' own label wins over the sample's");
    }

    #[test]
    fn negative_samples_are_counted_and_left_out() {
        let mut profile = example();
        profile.sample[0].value[0] = -1;
        profile.sample[2].value[1] = 0;
        let (batch, appended) = push_cpu(&profile).unwrap();
        assert_eq!(appended, Appended { rows: 2, negative_samples: 1, truncated_stacks: 0 });
        assert_eq!(batch.row_count(), 2);
    }

    #[test]
    fn deep_stacks_lose_their_leaf_side() {
        let mut profile = example();
        profile.sample.truncate(1);
        profile.sample[0].location_id = [vec![2; 1500], vec![1]].concat();
        let (batch, appended) = push_cpu(&profile).unwrap();
        assert_eq!(appended.truncated_stacks, 1);
        let names = frame_names(&batch.symbols, batch.series[0].rows[0].stack);
        assert_eq!((names.len(), &*names[0], &*names[1]), (1000, "main", "work"));
    }

    #[test]
    fn unresolved_addresses_become_file_offsets() {
        let mut profile = example();
        profile.mapping[0] = proto::Mapping {
            memory_start: 0x1000,
            memory_limit: 0x2000,
            file_offset: 0x500,
            ..profile.mapping[0]
        };
        profile.location[1].line.clear();
        let (batch, _) = push_cpu(&profile).unwrap();
        let names = frame_names(&batch.symbols, batch.series[0].rows[0].stack);
        assert_eq!(names, ["main", "x!0x502"]);
    }

    #[track_caller]
    fn check_rejected(message: &str, edit: impl FnOnce(&mut proto::Profile)) {
        let mut profile = example();
        edit(&mut profile);
        let error = push_cpu(&profile).expect_err(message);
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn malformed_profiles_are_named_errors() {
        check_rejected("empty profile: it has no sample types", |p| *p = proto::Profile::default());
        check_rejected("string table does not begin with the empty string", |p| {
            p.string_table[0] = "x".into();
        });
        check_rejected("location has id 0", |p| p.location[0].id = 0);
        check_rejected("location has id 0", |p| p.sample[0].location_id[0] = 0);
        check_rejected("function has id 0", |p| p.function[0].id = 0);
        check_rejected("function has id 0", |p| p.location[0].line[0].function_id = 0);
        check_rejected("function id 9 is used but not defined", |p| p.location[0].line[0].function_id = 9);
        check_rejected("mapping id 9 is used but not defined", |p| p.location[0].mapping_id = 9);
        check_rejected("location id 9 is used but not defined", |p| p.sample[0].location_id[1] = 9);
        check_rejected("location id 1 is defined twice", |p| p.location[1].id = 1);
        check_rejected("sample 1 has 1 values, the profile has 2 sample types", |p| {
            p.sample[1].value.pop();
        });
        check_rejected("a function's name has string index 99, which is not in the string table", |p| {
            p.function[1].name = 99;
        });
        check_rejected("a mapping's file name has string index -1, which is not in the string table", |p| {
            p.mapping[0].filename = -1;
        });
        check_rejected("a sample label has string index 11, which is not in the string table", |p| {
            p.sample[2].label[0].str = 11;
        });
        check_rejected("a type has string index 12, which is not in the string table", |p| {
            p.sample_type[0].r#type = 12;
        });
        let types = "sample type \"a-b\" must not be empty or contain \"-\" or \":\"";
        check_rejected(types, |p| {
            p.string_table[1] = "a-b".into();
        });
        let old = "profile time 1000 ms is outside the accepted range 1697408000000 to 1700000600000 ms";
        check_rejected(old, |p| p.time_nanos = 1_000_000_000);
        check_rejected("101 labels, at most 100 are allowed", |p| {
            p.sample[0].label = vec![proto::Label { key: 8, str: 9, ..Default::default() }; 101];
        });
    }

    #[test]
    fn bytes_that_are_no_profile_are_named_errors() {
        for (bytes, message) in [
            (&b"\x0a"[..], "profile is not valid protobuf: message ends within a field"),
            (b"\x0a\x05ab", "profile is not valid protobuf: message ends within a field"),
            (b"\x00", "profile is not valid protobuf: field with an invalid header or number"),
            (b"\x08\x01", "profile is not valid protobuf: field 1 has wire type 0"),
            (b"\x0b", "profile is not valid protobuf: field with an invalid header or number"),
            (b"\x32\x01\xff", "string 0 is not valid UTF-8"),
            (b"hello, world", "profile is not valid protobuf: field with an invalid header or number"),
        ] {
            let labels = LabelSet::from_pairs([("__name__", "x")]);
            let context = PushContext {
                labels: &labels,
                display_names: None,
                now: NOW,
                limits: &PushLimits::default(),
            };
            let error = append(&mut Batch::default(), bytes, &context).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn labels_have_bounds() {
        let many: Vec<(String, &str)> = (0..30).map(|i| (format!("l{i}"), "x")).collect();
        let mut many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        many.push(("__name__", "process_cpu"));
        let long_name = "n".repeat(1025);
        let long_value = "v".repeat(2049);
        for (labels, reason) in [
            (&many[..], "labels"),
            (&[("__name__", "x"), (&long_name, "v")], "labels"),
            (&[("__name__", "x"), ("n", &long_value)], "labels"),
            (&[("service_name", "x")], "profile_type"),
            (&[("__name__", "a:b")], "profile_type"),
            (&[("__name__", "1a")], "profile_type"),
        ] {
            assert_eq!(pushed(labels, &example()).expect_err(reason).reason(), reason);
        }
    }

    #[test]
    fn a_small_body_cannot_fill_memory() {
        // A sample without content takes two bytes on the wire and twenty times that in memory.
        let bytes = [0x12, 0x00].repeat(4 << 20);
        let labels = LabelSet::from_pairs([("__name__", "x")]);
        let context =
            PushContext { labels: &labels, display_names: None, now: NOW, limits: &PushLimits::default() };
        let error = append(&mut Batch::default(), &bytes, &context).expect_err("too large");
        assert_eq!(error.reason(), "too_large");
    }

    #[track_caller]
    fn check_too_large(labels: &[(&str, &str)], profile: &proto::Profile) {
        assert_eq!(pushed(labels, profile).expect_err("too large").reason(), "too_large");
    }

    #[test]
    fn one_field_cannot_fill_memory() {
        let mut profile = example();
        // A byte each on the wire and eight times that in memory.
        profile.sample[0].location_id = vec![1; 9 << 20];
        check_too_large(&[("__name__", "x")], &profile);
    }

    #[test]
    fn copies_of_names_and_labels_cannot_fill_memory() {
        let value = "v".repeat(2000);
        let names: Vec<String> = (0..28).map(|i| format!("l{i}")).collect();
        let mut labels: Vec<(&str, &str)> = names.iter().map(|name| (&**name, &*value)).collect();
        labels.push(("__name__", "x"));
        let mut profile = example();
        let texts = profile.string_table.len();
        profile.string_table.extend((0..2000).map(|i| i.to_string()));
        profile.sample = (0..2000)
            .map(|i| {
                let str = (texts + i) as i64;
                let label = vec![proto::Label { key: 8, str, ..Default::default() }];
                proto::Sample { location_id: vec![1], value: vec![1, 1], label }
            })
            .collect();
        check_too_large(&labels, &profile);
        profile.sample.truncate(100);
        assert_eq!(pushed(&labels, &profile).unwrap().1.rows, 200);

        let mut profile = example();
        profile.string_table[1] = "t".repeat(1 << 20);
        profile.sample_type = vec![proto::ValueType { r#type: 1, unit: 2 }; 100];
        profile.sample.truncate(1);
        profile.sample[0].value = vec![1; 100];
        check_too_large(&[("__name__", "x")], &profile);
    }

    fn stacks() -> impl Strategy<Value = BTreeMap<Vec<String>, i64>> {
        prop::collection::btree_map(prop::collection::vec("[a-c]", 1..6), 1..i64::MAX / 100, 0..20)
    }

    proptest! {
        #[test]
        fn what_is_exported_can_be_pushed_again(stacks in stacks(), packed: bool) {
            let mut profile = StackProfile::default();
            for (stack, value) in &stacks {
                let locations: Vec<_> =
                    stack.iter().rev().map(|name| profile.symbols.intern_named_location(name)).collect();
                profile.values.push((profile.symbols.intern_stack(&locations).expect("not empty"), *value));
            }
            let meta = ExportMeta {
                profile_type: ProfileType::cpu_time(),
                time_ns: NOW.0 * 1_000_000,
                duration_ns: 1,
                period: 1,
            };
            let bytes = encode(&profile, &meta).encode_to_vec();
            let bytes = if packed { gzip(&bytes) } else { bytes };
            let labels = LabelSet::from_pairs([("__name__", "process_cpu")]);
            let context = PushContext { labels: &labels, display_names: None, now: UnixMs(NOW.0 + 1), limits: &PushLimits::default() };
            let mut batch = Batch::default();
            append(&mut batch, &bytes, &context).expect("our own export");
            let mut found = BTreeMap::new();
            for series in &batch.series {
                prop_assert_eq!(&series.profile_type, &meta.profile_type);
                for row in &series.rows {
                    prop_assert_eq!(row.time, NOW);
                    let names = frame_names(&batch.symbols, row.stack);
                    found.insert(names.into_iter().map(String::from).collect::<Vec<_>>(), row.value);
                }
            }
            prop_assert_eq!(found, stacks);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let labels = LabelSet::from_pairs([("__name__", "x")]);
            let context = PushContext { labels: &labels, display_names: None, now: NOW, limits: &PushLimits::default() };
            let _outcome = append(&mut Batch::default(), &bytes, &context);
        }

        #[test]
        fn no_damage_makes_it_panic(hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut bytes = example().encode_to_vec();
            for (at, byte) in hits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let labels = LabelSet::from_pairs([("__name__", "x")]);
            let context = PushContext { labels: &labels, display_names: None, now: NOW, limits: &PushLimits::default() };
            let mut batch = Batch::default();
            if append(&mut batch, &bytes, &context).is_ok() {
                crate::SymbolTable::new().merge(&batch.symbols);
            }
        }
    }
}
