//! What it costs to take in a pushed profile and to draw a merged one: `cargo bench -p pyrite-model`.
//!
//! The profile is of the shape that SDKs send once a minute: two sample types, some hundred stacks of thirty frames
//! that share their callers.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use prost::Message;
use pyrite_model::pprof::{PushContext, PushLimits, append, gzip, proto};
use pyrite_model::{Batch, FlameTree, LabelSet, StackProfile, UnixMs};

const STACKS: u64 = 660;
const FRAMES: u64 = 30;
const FUNCTIONS: u64 = 2_000;

fn profile() -> proto::Profile {
    let mut profile = proto::Profile {
        string_table: ["", "samples", "count", "cpu", "nanoseconds"].map(str::to_owned).to_vec(),
        sample_type: vec![proto::ValueType { r#type: 1, unit: 2 }, proto::ValueType { r#type: 3, unit: 4 }],
        period_type: Some(proto::ValueType { r#type: 3, unit: 4 }),
        ..Default::default()
    };
    for id in 1..=FUNCTIONS {
        let name = profile.string_table.len() as i64;
        profile
            .string_table
            .push(format!("github.com/example/project/package{}.(*Type).Method{id}", id % 40));
        profile.function.push(proto::Function { id, name, system_name: name, ..Default::default() });
        let line = vec![proto::Line { function_id: id, line: id as i64 % 500 }];
        profile.location.push(proto::Location {
            id,
            address: 0x40_0000 + id * 64,
            line,
            ..Default::default()
        });
    }
    for stack in 0..STACKS {
        // Half of the frames are those of every stack, the deeper ones differ more and more.
        let location_id = (0..FRAMES).rev().map(|depth| match depth {
            0..15 => depth + 1,
            _ => 16 + (depth * 131 + (stack >> (FRAMES - 1 - depth).min(9)) * 7919) % (FUNCTIONS - 16),
        });
        let value = vec![stack as i64 % 50 + 1, (stack as i64 % 50 + 1) * 10_000_000];
        profile.sample.push(proto::Sample { location_id: location_id.collect(), value, label: vec![] });
    }
    profile
}

fn measure(what: &str, rows: usize, mut run: impl FnMut()) {
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < Duration::from_secs(2) {
        run();
        rounds += 1;
    }
    let each = start.elapsed() / rounds;
    println!("{what}: {each:?}, {:.0} rows per second", rows as f64 / each.as_secs_f64());
}

fn main() {
    let profile = profile();
    let plain = profile.encode_to_vec();
    let packed = gzip(&plain);
    let labels = LabelSet::from_pairs([("__name__", "process_cpu"), ("service_name", "api")]);
    let limits = PushLimits::default();
    let context =
        PushContext { labels: &labels, display_names: None, now: UnixMs(1_700_000_000_000), limits: &limits };
    let decode = |bytes: &[u8]| {
        let mut batch = Batch::default();
        append(&mut batch, bytes, &context).expect("a valid profile");
        batch
    };
    let batch = decode(&packed);
    let rows = batch.row_count();
    assert_eq!(rows, STACKS as usize * 2);
    println!(
        "{} bytes, {} packed, {} stack nodes",
        plain.len(),
        packed.len(),
        batch.symbols.stack_nodes().len()
    );
    measure("decode plain", rows, || drop(black_box(decode(&plain))));
    measure("decode gzip", rows, || drop(black_box(decode(&packed))));

    let values = batch.series[0].rows.iter().map(|row| (row.stack, row.value)).collect();
    let merged = StackProfile { symbols: batch.symbols, values };
    let total = merged.total();
    measure("flame graph", rows / 2, || {
        let bearer = FlameTree::from_profile(&merged).truncated(8192).flamebearer();
        assert_eq!(black_box(bearer).total(), total);
    });
}
