//! Sums by minute, hour and day answer what the rows themselves do, in any window and for any step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use pyrite_model::{
    Batch, LabelSet, Matcher, ProfileType, Row, Selector, SeriesRows, SymbolTable, Tenants, TimeRange,
    UnixMs, frame_names,
};

use super::{config, memory_dir};
use crate::files::RealFiles;
use crate::{Limits, SeriesQuery, StackQuery, Store, StoreConfig};

const SERVICES: [&str; 2] = ["api", "db"];
const LEAVES: [&str; 4] = ["a", "b", "c", "d"];
const HOUR_MS: i64 = 3_600_000;
/// After all rows, so that every segment may be merged.
const NOW: UnixMs = UnixMs(100 * HOUR_MS);

/// Service, time, leaf, value.
type Stored = (usize, i64, usize, i64);

fn open(dir: &Path) -> Store {
    let limits = Limits { sums_from_rows: 1, ..Limits::default() };
    let config = StoreConfig { limits, ..config(dir) };
    Store::open_on(config, Arc::new(RealFiles), Arc::new(|| NOW)).unwrap().0
}

fn append(store: &Store, rows: &[Stored]) {
    let mut symbols = SymbolTable::new();
    let stacks = LEAVES.map(|leaf| {
        let leaf_first = [leaf, "main"].map(|name| symbols.intern_named_location(name));
        symbols.intern_stack(&leaf_first).unwrap()
    });
    let series = SERVICES.iter().enumerate().map(|(service, name)| {
        let of_service = rows.iter().filter(|row| row.0 == service);
        let row = |&(_, time, leaf, value): &Stored| Row { time: UnixMs(time), stack: stacks[leaf], value };
        SeriesRows {
            labels: LabelSet::from_pairs([("service_name", *name)]),
            profile_type: ProfileType::cpu_time(),
            rows: of_service.map(row).collect(),
        }
    });
    let series = series.collect();
    store.append_blocking(Batch { symbols, series, ..Batch::default() }).unwrap();
}

fn stacks(service: Option<usize>, range: TimeRange, call_site: &[&str]) -> StackQuery {
    let matcher = service.map(|service| Matcher::equal("service_name", SERVICES[service]));
    let selector = matcher.into_iter().fold(Selector::all(), Selector::with);
    let call_site = call_site.iter().map(ToString::to_string).collect();
    StackQuery { call_site, ..StackQuery::new(Tenants::default(), ProfileType::cpu_time(), selector, range) }
}

/// Values by leaf.
fn merged(store: &Store, query: &StackQuery) -> BTreeMap<String, i64> {
    let profile = store.merge_stacks(query).unwrap();
    let leaf = |stack| frame_names(&profile.symbols, stack).last().unwrap().to_string();
    let tree = store.flame_tree([Some(query)], 0).unwrap();
    assert_eq!(tree.totals(), [profile.total()]);
    profile.values.iter().map(|(stack, value)| (leaf(*stack), *value)).collect()
}

/// Sums by service and stamp.
fn timeline(store: &Store, stacks: StackQuery, step_ms: i64) -> BTreeMap<(String, i64), i64> {
    let query = SeriesQuery { stacks, step_ms, group_by: vec!["service_name".to_owned()] };
    let groups = store.select_series(&query).unwrap();
    let points = groups.iter().flat_map(|group| {
        let name = group.labels.get("service_name").unwrap();
        group.points.iter().map(move |(stamp, value)| ((name.to_owned(), stamp.0), *value))
    });
    points.collect()
}

fn expected_timeline(rows: &[Stored], query: &StackQuery, step_ms: i64) -> BTreeMap<(String, i64), i64> {
    let TimeRange { start, end } = query.range;
    let mut sums = BTreeMap::new();
    for (service, time, leaf, value) in rows {
        let step = (time - start.0 + step_ms - 1).div_euclid(step_ms);
        let stamp = start.0 + step * step_ms;
        let is_below = query.call_site.get(1).is_none_or(|name| name == LEAVES[*leaf]);
        if step >= 0 && stamp <= end.0 && is_below {
            *sums.entry((SERVICES[*service].to_owned(), stamp)).or_insert(0) += value;
        }
    }
    sums
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Stored>),
    Flush,
    Merge,
}

fn step() -> impl Strategy<Value = Step> {
    // Neighbours in time, so that there is something to add up.
    let burst = (0..2_usize, 0..26 * 60_i64, 0..4_usize, 1..50_i64, 1..30_i64).prop_map(
        |(service, minute, leaf, value, count)| {
            let time = |n| minute * 60_000 + n * 2500 + value;
            (0..count).map(|n| (service, time(n), leaf, value + n)).collect::<Vec<Stored>>()
        },
    );
    prop_oneof![
        4 => prop::collection::vec(burst, 1..12).prop_map(|bursts| Step::Append(bursts.concat())),
        2 => Just(Step::Flush),
        1 => Just(Step::Merge),
    ]
}

fn window() -> impl Strategy<Value = (i64, i64)> {
    let edge = prop_oneof![
        -HOUR_MS..27 * HOUR_MS,
        (0..27 * 60_i64).prop_map(|minute| minute * 60_000),
        (0..27_i64).prop_map(|hour| hour * HOUR_MS),
    ];
    (edge.clone(), edge).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_window_is_answered_exactly(
        steps in prop::collection::vec(step(), 1..14),
        windows in prop::collection::vec((window(), 0..5_usize), 6),
    ) {
        let dir = memory_dir();
        let store = open(dir.path());
        let mut rows: Vec<Stored> = Vec::new();
        for step in steps {
            match step {
                Step::Append(new) => {
                    append(&store, &new);
                    rows.extend(new);
                }
                Step::Flush => store.flush().unwrap(),
                Step::Merge => store.maintenance().merge().unwrap(),
            }
        }
        for ((start, end), step) in windows {
            let range = TimeRange::new(UnixMs(start), UnixMs(end));
            for (service, call_site) in [(None, &[][..]), (Some(1), &[]), (None, &["main", "b"])] {
                let query = stacks(service, range, call_site);
                let mut expect = BTreeMap::new();
                let wanted = |row: &&Stored| {
                    service.is_none_or(|service| service == row.0)
                        && range.contains(UnixMs(row.1))
                        && call_site.get(1).is_none_or(|name| *name == LEAVES[row.2])
                };
                for (_, _, leaf, value) in rows.iter().filter(wanted) {
                    *expect.entry(LEAVES[*leaf].to_owned()).or_insert(0) += value;
                }
                prop_assert_eq!(merged(&store, &query), expect);
            }
            let step_ms = [60_000, 600_000, HOUR_MS, 1700, 24 * HOUR_MS][step];
            for call_site in [&[][..], &["main", "c"]] {
                let query = stacks(None, range, call_site);
                let expect = expected_timeline(&rows, &query, step_ms);
                prop_assert_eq!(timeline(&store, query, step_ms), expect);
            }
        }
    }
}

#[test]
fn a_day_is_read_from_few_rows_and_is_no_smaller_for_it() {
    let dir = memory_dir();
    let store = open(dir.path());
    let mut total = 0;
    for hour in 0..24 {
        let row = |second: i64| (0, hour * HOUR_MS + second * 1000, (second % 3) as usize, 1);
        let rows: Vec<Stored> = (1..=3600).map(row).collect();
        append(&store, &rows);
        total += rows.len() as i64;
        store.flush().unwrap();
    }
    store.maintenance().merge().unwrap();
    let files = |name: &str| {
        let segments = std::fs::read_dir(dir.path().join("segments")).unwrap();
        segments.filter(|entry| entry.as_ref().unwrap().path().join(name).exists()).count()
    };
    assert_eq!(store.stats().segments, 1, "merged into one");
    // The directories of those that it replaces go when nobody reads them any more.
    while files("samples.parquet") > 1 {
        store.maintenance().shared().remove_doomed().unwrap();
    }
    for name in ["rollup-60s.parquet", "rollup-86400s.parquet", "totals.parquet", "totals-3600s.parquet"] {
        assert_eq!(files(name), 1, "{name}");
    }
    let day = TimeRange::new(UnixMs(1), UnixMs(24 * HOUR_MS));
    assert_eq!(merged(&store, &stacks(None, day, &[])).values().sum::<i64>(), total);
}

#[test]
fn rows_at_the_ends_of_time_are_among_the_others() {
    let dir = memory_dir();
    let store = open(dir.path());
    // For the last instants of time there is no day, hour or minute that ends behind them.
    let rows =
        [(0, i64::MIN, 0, 1), (0, 70_000, 1, 10), (0, i64::MAX - 90_000, 2, 100), (0, i64::MAX, 3, 1000)];
    append(&store, &rows);
    let all = TimeRange::new(UnixMs(i64::MIN), UnixMs(i64::MAX));
    for _ in 0..2 {
        assert_eq!(merged(&store, &stacks(None, all, &[])).values().sum::<i64>(), 1111);
        store.flush().unwrap();
    }
}
