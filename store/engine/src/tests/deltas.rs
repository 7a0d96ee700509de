//! What is new in profiles of values that are counted since a program's start, against the same worked out pair by pair.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use pyrite_model::{
    Batch, LabelSet, Matcher, ProfileType, Row, Selector, SeriesRows, SymbolTable, Tenants, TimeRange,
    UnixMs, frame_names,
};

use super::{EVERYTHING, config, memory_dir};
use crate::files::RealFiles;
use crate::{Limits, QueryError, SeriesQuery, StackQuery, Store, StoreConfig};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// After all rows, so that every segment may be merged.
const NOW: UnixMs = UnixMs(100 * HOUR_MS);
/// The last one pushes what is new in each profile by itself, and says so.
const SERVICES: [&str; 3] = ["api", "db", "delta"];
const LEAVES: [&str; 3] = ["a", "b", "c"];

/// Service, time and value by leaf, 0 where the profile does not have it.
type Profile = (usize, i64, [i64; 3]);

fn allocated() -> ProfileType {
    "memory:alloc_space:bytes:space:bytes".parse().unwrap()
}

fn open(dir: &Path, limits: Limits) -> Store {
    let config = StoreConfig { limits, ..config(dir) };
    Store::open_on(config, Arc::new(RealFiles), Arc::new(|| NOW)).unwrap().0
}

fn append(store: &Store, (service, time, values): Profile) {
    let mut symbols = SymbolTable::new();
    let rows = LEAVES.iter().zip(values).filter(|(_, value)| *value > 0).map(|(leaf, value)| {
        let leaf_first = [*leaf, "main"].map(|name| symbols.intern_named_location(name));
        Row { time: UnixMs(time), stack: symbols.intern_stack(&leaf_first).unwrap(), value }
    });
    let rows = rows.collect();
    let delta = if service == 2 { "false" } else { "" };
    let labels = LabelSet::from_pairs([("service_name", SERVICES[service]), ("__delta__", delta)]);
    let series = vec![SeriesRows { labels, profile_type: allocated(), rows }];
    let batch = Batch { symbols, series, ..Batch::default() };
    if store.append_blocking(batch.clone()).is_err() {
        // Where dictionaries are small, the head is soon full of one.
        store.flush().unwrap();
        store.append_blocking(batch).unwrap();
    }
}

fn stacks(service: Option<usize>, range: TimeRange) -> StackQuery {
    let matcher = service.map(|service| Matcher::equal("service_name", SERVICES[service]));
    let selector = matcher.into_iter().fold(Selector::all(), Selector::with);
    StackQuery::new(Tenants::default(), allocated(), selector, range)
}

/// Service, time, leaf and value of all that is new.
fn news(profiles: &[Profile]) -> Vec<(usize, i64, usize, i64)> {
    let mut news = Vec::new();
    for service in 0..2 {
        let mut by_time: BTreeMap<i64, [i64; 3]> = BTreeMap::new();
        for (_, time, values) in profiles.iter().filter(|profile| profile.0 == service) {
            let profile = by_time.entry(*time).or_default();
            *profile = std::array::from_fn(|leaf| profile[leaf].max(values[leaf]));
        }
        let by_time: Vec<(i64, [i64; 3])> = by_time.into_iter().collect();
        for pair in by_time.windows(2) {
            let ((before_at, before), (at, now)) = (pair[0], pair[1]);
            if at - before_at > HOUR_MS {
                continue;
            }
            let fell = |leaf: usize| 0 < now[leaf] && now[leaf] < before[leaf];
            let is_anew = (0..3).any(fell);
            for leaf in (0..3).filter(|leaf| now[*leaf] > 0) {
                let old = if is_anew { 0 } else { before[leaf] };
                news.push((service, at, leaf, now[leaf] - old));
            }
        }
    }
    for (_, time, values) in profiles.iter().filter(|profile| profile.0 == 2) {
        news.extend((0..3).map(|leaf| (2, *time, leaf, values[leaf])));
    }
    news.retain(|row| row.3 > 0);
    news
}

/// Values by leaf.
fn merged(store: &Store, query: &StackQuery) -> BTreeMap<String, i64> {
    let profile = store.merge_stacks(query).unwrap();
    assert_eq!(store.flame_tree([Some(query)], 0).unwrap().totals(), [profile.total()]);
    let leaf = |stack| frame_names(&profile.symbols, stack).last().unwrap().to_string();
    profile.values.iter().map(|(stack, value)| (leaf(*stack), *value)).collect()
}

fn sums<K: Ord>(rows: impl Iterator<Item = (K, i64)>) -> BTreeMap<K, i64> {
    let mut sums = BTreeMap::new();
    rows.for_each(|(key, value)| *sums.entry(key).or_insert(0) += value);
    sums
}

fn check(store: &Store, profiles: &[Profile], range: TimeRange, step_ms: i64) -> Result<(), TestCaseError> {
    let news = news(profiles);
    for service in [None, Some(0), Some(2)] {
        let inside = || {
            news.iter().filter(move |(of, time, ..)| {
                service.is_none_or(|service| service == *of) && range.contains(UnixMs(*time))
            })
        };
        let query = stacks(service, range);
        let expected = sums(inside().map(|(_, _, leaf, value)| (LEAVES[*leaf].to_owned(), *value)));
        prop_assert_eq!(merged(store, &query), expected);
        let of_leaf = StackQuery { function: Some("b".to_owned()), ..query.clone() };
        let expected = sums(inside().filter(|row| row.2 == 1).map(|row| ("b".to_owned(), row.3)));
        prop_assert_eq!(merged(store, &of_leaf), expected);
        let listed = store.profiles(&query).unwrap();
        let listed = listed.iter().flat_map(|series| {
            let service = series.key.labels.get("service_name").unwrap();
            series.profiles.iter().map(move |(time, total)| ((service.to_owned(), time.0), *total))
        });
        let expected = sums(inside().map(|(of, time, _, value)| ((SERVICES[*of].to_owned(), *time), *value)));
        prop_assert_eq!(listed.collect::<BTreeMap<_, _>>(), expected);
    }
    let query =
        SeriesQuery { stacks: stacks(None, range), step_ms, group_by: vec!["service_name".to_owned()] };
    let groups = store.select_series(&query).unwrap();
    let points = groups.iter().flat_map(|group| {
        let service = group.labels.get("service_name").unwrap();
        group.points.iter().map(move |(stamp, value)| ((service.to_owned(), stamp.0), *value))
    });
    let stamped = news.iter().filter_map(|(of, time, _, value)| {
        let step = (time - range.start.0 + step_ms - 1).div_euclid(step_ms);
        let stamp = range.start.0 + step * step_ms;
        (step >= 0 && stamp <= range.end.0).then(|| ((SERVICES[*of].to_owned(), stamp), *value))
    });
    prop_assert_eq!(points.collect::<BTreeMap<_, _>>(), sums(stamped));
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Append(Profile),
    Flush,
    Merge,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    // Few minutes, so that some are met twice, and sometimes a gap of more than an hour.
    let time = prop_oneof![4 => 0..12_i64, 1 => 80..90_i64].prop_map(|count| count * 10 * MINUTE_MS);
    let profile = (0..3_usize, time, [1..9_i64, 0..9_i64, 0..9_i64]);
    prop_oneof![
        8 => profile.prop_map(Step::Append),
        2 => Just(Step::Flush),
        1 => Just(Step::Merge),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_window_holds_what_is_new_in_it(
        steps in prop::collection::vec(step(), 1..30),
        windows in prop::collection::vec((-HOUR_MS..16 * HOUR_MS, 0..16 * HOUR_MS, 1..3 * HOUR_MS), 3),
        has_room in any::<bool>(),
        one_dictionary in any::<bool>(),
    ) {
        let dir = memory_dir();
        let mut limits = Limits::default();
        if !has_room {
            // Too few for all at once, enough for any instant.
            limits.compared_values = 60;
        }
        if !one_dictionary {
            limits.dictionary_stacks = 3;
        }
        let mut store = open(dir.path(), limits);
        let mut profiles = Vec::new();
        for step in steps {
            match step {
                Step::Append(profile) => {
                    append(&store, profile);
                    profiles.push(profile);
                }
                Step::Flush => store.flush().unwrap(),
                Step::Merge => store.maintenance().merge().unwrap(),
                Step::Reopen => {
                    drop(store);
                    store = open(dir.path(), limits);
                }
            }
        }
        check(&store, &profiles, TimeRange::new(UnixMs(0), UnixMs(16 * HOUR_MS)), HOUR_MS)?;
        for (start, length, step_ms) in windows {
            check(&store, &profiles, TimeRange::new(UnixMs(start), UnixMs(start + length)), step_ms)?;
        }
    }
}

fn total(store: &Store, range: TimeRange) -> i64 {
    store.merge_stacks(&stacks(None, range)).unwrap().total()
}

#[test]
fn a_restart_counts_from_zero_and_a_repeated_push_counts_once() {
    let dir = memory_dir();
    let store = open(dir.path(), Limits::default());
    let minute = |minute: i64, values: [i64; 3]| (0, minute * MINUTE_MS, values);
    let pushes = [
        (minute(0, [100, 0, 0]), 0),
        (minute(1, [150, 20, 0]), 70),
        (minute(1, [150, 20, 0]), 70), // pushed again
        (minute(2, [150, 20, 0]), 70), // nothing happened
        (minute(3, [30, 40, 0]), 140), // restarted
        (minute(4, [35, 40, 0]), 145),
        (minute(5, [0, 45, 7]), 157),   // a is not in it, which tells nothing
        (minute(66, [90, 60, 9]), 157), // more than an hour later
        (minute(126, [91, 60, 9]), 158),
    ];
    for (push, expected) in pushes {
        append(&store, push);
        assert_eq!(total(&store, EVERYTHING), expected, "{push:?}");
        if push.1 == 2 * MINUTE_MS {
            store.flush().unwrap();
        }
    }
    store.flush().unwrap();
    store.maintenance().merge().unwrap();
    assert_eq!(total(&store, EVERYTHING), 158);
    let one = |minute: i64| TimeRange::new(UnixMs(minute * MINUTE_MS), UnixMs(minute * MINUTE_MS));
    assert_eq!([0, 1, 2, 3, 4, 5].map(|minute| total(&store, one(minute))), [0, 70, 0, 70, 5, 12]);
    assert_eq!(total(&store, TimeRange::new(UnixMs(1), UnixMs(0))), 0);
}

#[test]
fn what_is_too_much_to_compare_is_refused() {
    let dir = memory_dir();
    let store = open(dir.path(), Limits { compared_values: 4, ..Limits::default() });
    append(&store, (0, 0, [1, 1, 1]));
    append(&store, (0, MINUTE_MS, [2, 2, 2]));
    assert_eq!(total(&store, EVERYTHING), 3);
    // Two series at one instant, which no shorter slice can tell apart.
    append(&store, (1, MINUTE_MS, [1, 1, 1]));
    let error = store.merge_stacks(&stacks(None, EVERYTHING)).unwrap_err();
    assert!(matches!(error, QueryError::TooManyToCompare { limit: 4 }), "{error}");
    assert_eq!(store.merge_stacks(&stacks(Some(0), EVERYTHING)).unwrap().total(), 3);
    append(&store, (2, MINUTE_MS, [5, 5, 5]));
    assert_eq!(store.merge_stacks(&stacks(Some(2), EVERYTHING)).unwrap().total(), 15);
}

#[test]
fn rows_of_two_ages_are_compared_at_once() {
    let dir = memory_dir();
    let store = open(dir.path(), Limits::default());
    for time in [0, MINUTE_MS, i64::MAX - MINUTE_MS, i64::MAX] {
        append(&store, (0, time, [1 + time % 7, 5, 0]));
    }
    store.flush().unwrap();
    let (ended, answer) = std::sync::mpsc::channel();
    let _asking = std::thread::spawn(move || ended.send(total(&store, EVERYTHING)));
    let total = answer.recv_timeout(std::time::Duration::from_mins(1)).expect("an answer within a minute");
    let at = |time: i64| 1 + time % 7;
    let new = |before: i64, after: i64| if after < before { after + 5 } else { after - before };
    assert_eq!(total, new(at(0), at(MINUTE_MS)) + new(at(i64::MAX - MINUTE_MS), at(i64::MAX)));
}
