//! What retention and merging do over time, with a clock of the test's own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pyrite_model::UnixMs;

use super::{ask_while_segments_come_and_go, batch, config, memory_dir, profile, total};
use crate::files::RealFiles;
use crate::{Retention, Store};

const HOUR_MS: i64 = 3_600_000;

fn open_at(dir: &Path, now: &Arc<AtomicI64>, retention: Retention) -> Store {
    let now = Arc::clone(now);
    let config = crate::StoreConfig { retention, ..config(dir) };
    let clock = Arc::new(move || UnixMs(now.load(Ordering::SeqCst)));
    Store::open_on(config, Arc::new(RealFiles), clock).unwrap().0
}

/// The store's own maintenance may be looking at a segment at this very moment.
fn wait_for_dirs(store: &Store, dir: &Path, expected: usize) {
    for _ in 0..100 {
        store.maintenance().shared().remove_doomed().unwrap();
        if segment_dirs(dir) == expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{} segment directories, not {expected}", segment_dirs(dir));
}

fn segment_dirs(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("segments")).unwrap().count()
}

#[test]
fn old_segments_go_and_younger_ones_stay() {
    let dir = memory_dir();
    let now = Arc::new(AtomicI64::new(10 * HOUR_MS));
    let retention = Retention { max_age: Duration::from_hours(5), ..Retention::default() };
    let store = open_at(dir.path(), &now, retention);
    for (hour, value) in [(1, 1), (5, 10), (9, 100)] {
        store.append_blocking(batch("a", hour * HOUR_MS, "f", value)).unwrap();
        store.flush().unwrap();
    }
    store.maintenance().retain().unwrap();
    assert_eq!(total(&store), 110, "a row exactly as old as allowed stays");
    now.store(10 * HOUR_MS + 1, Ordering::SeqCst);
    store.maintenance().retain().unwrap();
    assert_eq!(total(&store), 100);
    wait_for_dirs(&store, dir.path(), 1);
    drop(store);
    assert_eq!(total(&open_at(dir.path(), &now, retention)), 100);
}

#[test]
fn the_oldest_go_when_the_disk_budget_is_met() {
    let dir = memory_dir();
    let now = Arc::new(AtomicI64::new(0));
    let store = open_at(dir.path(), &now, Retention::default());
    for i in 0..4 {
        store.append_blocking(batch("a", i, "f", 10_i64.pow(i as u32))).unwrap();
        store.flush().unwrap();
    }
    let size = store.stats().segment_bytes / 4;
    let dictionary = store.maintenance().shared().epochs.disk_bytes().unwrap();
    drop(store);
    // Room for two and a bit; the log takes some of it.
    let retention = Retention { max_bytes: dictionary + size * 5 / 2, ..Retention::default() };
    let store = open_at(dir.path(), &now, retention);
    store.maintenance().retain().unwrap();
    assert_eq!(total(&store), 1100);
    assert!(store.stats().segment_bytes + dictionary <= retention.max_bytes);
}

#[test]
fn the_segments_of_an_hour_and_then_of_a_day_become_one() {
    let dir = memory_dir();
    let now = Arc::new(AtomicI64::new(0));
    let store = open_at(dir.path(), &now, Retention::default());
    for i in 0..12 {
        let service = ["a", "b", "c"][i as usize % 3];
        store.append_blocking(batch(service, i * HOUR_MS / 4, &format!("f{i}"), i + 1)).unwrap();
        store.append_blocking(batch(service, i * HOUR_MS / 4 + 1, "everywhere", 1000)).unwrap();
        store.flush().unwrap();
    }
    let before = by_name(&store);
    store.maintenance().merge().unwrap();
    assert_eq!(store.stats().segments, 12, "nothing is over yet");
    now.store(2 * HOUR_MS, Ordering::SeqCst);
    store.maintenance().merge().unwrap();
    assert_eq!(store.stats().segments, 1 + 8, "the second hour has just ended");
    now.store(4 * HOUR_MS, Ordering::SeqCst);
    store.maintenance().merge().unwrap();
    assert_eq!(store.stats().segments, 3);
    assert_eq!(by_name(&store), before);
    now.store(25 * HOUR_MS, Ordering::SeqCst);
    store.maintenance().merge().unwrap();
    assert_eq!((store.stats().segments, store.stats().rows, store.stats().series), (1, 24, 3));
    assert_eq!(by_name(&store), before);
    wait_for_dirs(&store, dir.path(), 1);
    drop(store);
    let store = open_at(dir.path(), &now, Retention::default());
    assert_eq!(by_name(&store), before);
}

#[test]
fn files_stay_while_a_query_may_read_them() {
    let dir = memory_dir();
    let now = Arc::new(AtomicI64::new(0));
    let store = open_at(dir.path(), &now, Retention::default());
    store.append_blocking(batch("a", 0, "f", 1)).unwrap();
    store.flush().unwrap();
    let query = store.maintenance().shared().view();
    now.store(1000 * HOUR_MS, Ordering::SeqCst);
    store.maintenance().retain().unwrap();
    store.maintenance().shared().remove_doomed().unwrap();
    assert_eq!(segment_dirs(dir.path()), 1);
    drop(query);
    wait_for_dirs(&store, dir.path(), 0);
}

#[test]
fn queries_see_every_row_once_while_segments_are_flushed_merged_and_removed() {
    let dir = memory_dir();
    let now = Arc::new(AtomicI64::new(1000 * HOUR_MS));
    let store = open_at(dir.path(), &now, Retention { max_age: Duration::MAX, ..Retention::default() });
    let ask = |store: &Store, acknowledged: &dyn Fn() -> i64| {
        let before = acknowledged();
        let found = total(store);
        let after = acknowledged();
        assert!(found >= before && found <= after + 1, "{before} to {after} are there, {found} found");
    };
    ask_while_segments_come_and_go(&store, |i| batch("a", i, &format!("f{i}"), 1), ask);
}

fn by_name(store: &Store) -> Vec<(String, i64)> {
    let profile = profile(store);
    let symbols = &profile.symbols;
    let name = |location| symbols.str(symbols.function(symbols.location(location).lines[0].function).name);
    let mut values: Vec<(String, i64)> = profile
        .values
        .iter()
        .map(|(stack, value)| {
            (symbols.stack_locations(*stack).map(name).collect::<Vec<_>>().join(";"), *value)
        })
        .collect();
    values.sort_unstable();
    values
}
