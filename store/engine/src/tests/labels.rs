//! The series index in the life of a store: filled at open, kept up by appends, flushes, merges and removals, bounded.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use pyrite_model::{Exposition, Selector, Tenants, TimeRange, UnixMs};

use super::{EVERYTHING, ask_while_segments_come_and_go, batch, config, memory_dir, total};
use crate::files::RealFiles;
use crate::series_index::Filling;
use crate::{AppendError, Limits, Retention, Stop, Store, StoreConfig};

const HOUR_MS: i64 = 3_600_000;

fn open_at(dir: &Path, now: &Arc<AtomicI64>, changed: impl FnOnce(&mut StoreConfig)) -> Store {
    let now = Arc::clone(now);
    let mut config = config(dir);
    changed(&mut config);
    let clock = Arc::new(move || UnixMs(now.load(Ordering::SeqCst)));
    Store::open_on(config, Arc::new(RealFiles), clock).unwrap().0
}

fn services(store: &Store, selectors: &[Selector], window: TimeRange) -> Vec<String> {
    store.label_values(&Tenants::default(), "service_name", selectors, window).unwrap()
}

/// The same from an index made anew of what is on disk and in the heads.
fn services_anew(store: &Store, selectors: &[Selector], window: TimeRange) -> Vec<String> {
    let shared = store.maintenance().shared();
    let mut filling = Filling::default();
    shared.catalogue.fill(&mut filling).unwrap();
    let anew = filling.finish(&shared.view(), &shared.config.limits);
    let job = shared.jobs.begin(Stop::default());
    let found = anew.find(|| shared.view(), &Tenants::default(), selectors, window);
    found.label_values("service_name", &job).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Append { service: u8, hour: i64 },
    Flush,
    Merge,
    Retain,
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_u8, 0..30_i64).prop_map(|(service, hour)| Step::Append { service, hour }),
        4 => Just(Step::Flush),
        1 => Just(Step::Merge),
        1 => Just(Step::Retain),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn what_steps_make_is_what_a_start_makes(
        steps in prop::collection::vec(any_step(), 1..30),
        windows in prop::collection::vec((-1..31_i64, 0..20_i64), 3),
    ) {
        let dir = memory_dir();
        let now = Arc::new(AtomicI64::new(30 * HOUR_MS));
        let kept = |config: &mut StoreConfig| config.retention.max_age = Duration::from_hours(26);
        let mut store = open_at(dir.path(), &now, kept);
        for step in steps {
            match step {
                Step::Append { service, hour } => {
                    let service = format!("service {service}");
                    store.append_blocking(batch(&service, hour * HOUR_MS, "f", 1)).unwrap();
                }
                Step::Flush => store.flush().unwrap(),
                Step::Merge => store.maintenance().merge().unwrap(),
                Step::Retain => store.maintenance().retain().unwrap(),
                Step::Reopen => {
                    drop(store);
                    store = open_at(dir.path(), &now, kept);
                }
            }
            // What the store's own thread is about to do is done first: it changes what windows cut through.
            store.maintenance().flush_frozen().unwrap();
            store.maintenance().merge().unwrap();
            store.maintenance().retain().unwrap();
            for (start, hours) in &windows {
                let window = TimeRange::new(UnixMs(start * HOUR_MS), UnixMs((start + hours) * HOUR_MS));
                let some: Selector = r#"{service_name=~".*[024]"}"#.parse().unwrap();
                for selectors in [&[][..], &[some]] {
                    prop_assert_eq!(services(&store, selectors, window), services_anew(&store, selectors, window));
                }
            }
        }
        store.flush().unwrap();
        let found = services(&store, &[], EVERYTHING);
        prop_assert_eq!(found.is_empty(), total(&store) == 0);
        now.store(1000 * HOUR_MS, Ordering::SeqCst);
        store.maintenance().retain().unwrap();
        prop_assert_eq!(services(&store, &[], EVERYTHING), Vec::<String>::new());
        wait_for_series(&store, 0);
    }
}

/// The store's own maintenance may be looking at a segment at this very moment.
fn wait_for_series(store: &Store, expected: u64) {
    for _ in 0..100 {
        store.maintenance().shared().remove_doomed().unwrap();
        if store.stats().series == expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{} series, not {expected}", store.stats().series);
}

#[test]
fn new_series_above_the_limit_are_refused_until_old_ones_have_gone() {
    let dir = memory_dir();
    let now = Arc::new(AtomicI64::new(10 * HOUR_MS));
    let limited = |config: &mut StoreConfig| {
        config.limits = Limits { series: 2, ..Limits::default() };
        config.retention = Retention { max_age: Duration::from_hours(5), ..Retention::default() };
    };
    let store = open_at(dir.path(), &now, limited);
    store.append_blocking(batch("a", 6 * HOUR_MS, "f", 1)).unwrap();
    store.flush().unwrap();
    store.append_blocking(batch("b", 9 * HOUR_MS, "f", 10)).unwrap();
    let mut mixed = batch("b", 9 * HOUR_MS, "f", 100);
    mixed.series.extend(batch("c", 9 * HOUR_MS, "f", 1000).series);
    for refused in [mixed, batch("c", 9 * HOUR_MS, "f", 1000)] {
        let error = store.append_blocking(refused).unwrap_err();
        assert!(matches!(error, AppendError::TooManySeries { limit: 2 }), "{error}");
        assert_eq!(error.reason(), "too_many_series");
    }
    store.append_blocking(batch("a", 9 * HOUR_MS, "f", 10_000)).unwrap();
    assert_eq!((total(&store), store.stats().series), (10_011, 2));
    assert_eq!(services(&store, &[], EVERYTHING), ["a", "b"]);
    let mut out = Exposition::new();
    store.metrics(&mut out);
    let text = out.to_string();
    assert!(text.contains("pyrite_store_rejected_rows_total{reason=\"too_many_series\"} 3\n"), "{text}");
    assert!(text.contains("pyrite_store_series 2\n"), "{text}");

    drop(store);
    let store = open_at(dir.path(), &now, limited);
    assert!(store.append_blocking(batch("c", 9 * HOUR_MS, "f", 1)).is_err(), "it holds after a start");
    store.flush().unwrap();
    now.store(14 * HOUR_MS + 1, Ordering::SeqCst);
    store.maintenance().retain().unwrap();
    wait_for_series(&store, 0);
    store.append_blocking(batch("c", 14 * HOUR_MS, "f", 1)).unwrap();
    assert_eq!(services(&store, &[], EVERYTHING), ["c"]);
}

#[test]
fn a_catalogue_whose_series_are_not_legible_is_made_anew() {
    let dir = memory_dir();
    let now = Arc::new(AtomicI64::new(0));
    let store = open_at(dir.path(), &now, |_| {});
    store.append_blocking(batch("a", 1, "f", 1)).unwrap();
    store.close().unwrap();
    drop(store);
    let damages = [
        "UPDATE series SET labels = '{'",
        "UPDATE series SET profile_type = 'cpu'",
        "UPDATE series SET labels = x'ff'",
        "UPDATE segment_series SET series = 7",
        "UPDATE segment_series SET local = -1",
        "UPDATE segment_series SET min_time_ms = 'noon'",
    ];
    for damage in damages {
        let db = rusqlite::Connection::open(dir.path().join("catalogue.sqlite")).unwrap();
        db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        assert_eq!(db.execute(damage, []).unwrap(), 1, "{damage}");
        drop(db);
        let store = open_at(dir.path(), &now, |_| {});
        assert_eq!((services(&store, &[], EVERYTHING), total(&store)), (vec!["a".to_owned()], 1), "{damage}");
        drop(store);
        assert!(dir.path().join("catalogue.sqlite.broken-0").exists(), "{damage}");
        std::fs::remove_file(dir.path().join("catalogue.sqlite.broken-0")).unwrap();
    }
}

#[test]
fn label_queries_see_every_service_while_segments_are_flushed_merged_and_removed() {
    let dir = memory_dir();
    let now = Arc::new(AtomicI64::new(1000 * HOUR_MS));
    let store = open_at(dir.path(), &now, |config| config.retention.max_age = Duration::MAX);
    let name = |i: i64| format!("service {i:03}");
    let ask = move |store: &Store, acknowledged: &dyn Fn() -> i64| {
        let before = acknowledged();
        let found: BTreeSet<String> = services(store, &[], EVERYTHING).into_iter().collect();
        let after = acknowledged();
        assert!((0..before).all(|i| found.contains(&name(i))), "{before} services are there: {found:?}");
        let possible: BTreeSet<String> = (0..=after).map(name).collect();
        assert!(found.is_subset(&possible), "{after} services are there: {found:?}");
    };
    ask_while_segments_come_and_go(&store, |i| batch(&name(i), i, "f", 1), ask);
}
