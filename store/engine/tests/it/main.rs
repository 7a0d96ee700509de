//! The store through its public interface: against a naive model, across `kill -9`, on a full disk, with damage, and
//! read by other programs.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod directory;
mod full_disk;
mod kill;
mod model;
mod open_formats;
#[path = "../../../../fixtures/clients/python.rs"]
mod python;

use std::path::Path;

use pyrite_model::{
    Batch, LabelSet, ProfileType, Row, Selector, SeriesRows, StackId, StackProfile, SymbolTable, Tenants,
    TimeRange, UnixMs,
};
use pyrite_store::{OpenReport, StackQuery, Store, StoreConfig};

const EVERYTHING: TimeRange = TimeRange { start: UnixMs(i64::MIN), end: UnixMs(i64::MAX) };

fn open(dir: &Path) -> (Store, OpenReport) {
    Store::open(config(dir)).expect("the directory opens")
}

/// Keeps what is old, since tests count from the year 1970.
fn config(dir: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(dir);
    config.retention.max_age = std::time::Duration::MAX;
    config
}

/// A stack given root first, such as `main;work;leaf`.
fn stack(symbols: &mut SymbolTable, path: &str) -> StackId {
    let locations: Vec<_> = path.split(';').rev().map(|name| symbols.intern_named_location(name)).collect();
    symbols.intern_stack(&locations).expect("a path has a frame")
}

fn batch(service: &str, rows: &[(i64, &str, i64)]) -> Batch {
    let mut symbols = SymbolTable::new();
    let rows = rows.iter().map(|&(time, path, value)| {
        let stack = stack(&mut symbols, path);
        Row { time: UnixMs(time), stack, value }
    });
    let rows = rows.collect();
    let labels = LabelSet::from_pairs([("service_name", service)]);
    let series = vec![SeriesRows { labels, profile_type: ProfileType::cpu_time(), rows }];
    Batch { series, symbols, ..Batch::default() }
}

fn query(selector: &str, range: TimeRange) -> StackQuery {
    let selector: Selector = selector.parse().expect("a selector");
    StackQuery::new(Tenants::default(), ProfileType::cpu_time(), selector, range)
}

/// Path and value, sorted.
fn by_path(profile: &StackProfile) -> Vec<(String, i64)> {
    let symbols = &profile.symbols;
    let name = |location| symbols.str(symbols.function(symbols.location(location).lines[0].function).name);
    let path = |stack| {
        let mut names: Vec<&str> = symbols.stack_locations(stack).map(name).collect();
        names.reverse();
        names.join(";")
    };
    let mut values: Vec<_> = profile.values.iter().map(|&(stack, value)| (path(stack), value)).collect();
    values.sort_unstable();
    values
}
