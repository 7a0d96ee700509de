//! Pushed profiles: what becomes of them, and of those that are not what they should be.

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
        sample_type: vec![proto::ValueType { r#type: 1, unit: 2 }, proto::ValueType { r#type: 3, unit: 4 }],
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
        let context =
            PushContext { labels: &labels, display_names: None, now: NOW, limits: &PushLimits::default() };
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
