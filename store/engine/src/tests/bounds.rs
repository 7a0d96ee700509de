//! What a query may take: it ends when nobody wants it, when its time is over and when it holds too much; the rest goes on.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyrite_model::{
    Batch, Exposition, LabelSet, Matcher, ProfileType, Row, Selector, SeriesRows, SymbolTable, Tenants,
    TimeRange, UnixMs,
};

use super::faults::{FaultyFiles, Op};
use super::{EVERYTHING, batch, config, everything, memory_dir, total};
use crate::{Limits, QueryError, QueryStatus, SeriesQuery, StackQuery, Stop, Store, StoreConfig};

const MIB: usize = 1 << 20;

fn open(dir: &Path, files: &FaultyFiles, limits: Limits) -> Store {
    let config = StoreConfig { limits, ..config(dir) };
    Store::open_on(config, Arc::new(files.clone()), Arc::new(|| UnixMs(0))).unwrap().0
}

/// One row of each of so many stacks, or of each of so many series.
fn wide(stacks: usize, series: usize) -> Batch {
    let mut symbols = SymbolTable::new();
    let main = symbols.intern_named_location("main");
    let stacks: Vec<_> = (0..stacks)
        .map(|i| {
            let leaf = symbols.intern_named_location(&format!("f{i}"));
            symbols.intern_stack(&[leaf, main]).unwrap()
        })
        .collect();
    let row = |at: usize| Row { time: UnixMs(at as i64), stack: stacks[at], value: 1 };
    let rows: Vec<_> = (0..stacks.len()).map(row).collect();
    let of_series = |i: usize| SeriesRows {
        labels: LabelSet::from_pairs([("service_name", "wide".to_owned()), ("pod", format!("pod-{i:06}"))]),
        profile_type: ProfileType::cpu_time(),
        rows: if i == 0 { rows.clone() } else { vec![rows[0]] },
    };
    Batch { series: (0..series).map(of_series).collect(), symbols, ..Batch::default() }
}

fn by_second(group_by: &[&str]) -> SeriesQuery {
    let range = TimeRange::new(UnixMs(0), UnixMs(100_000_000));
    let group_by = group_by.iter().map(ToString::to_string).collect();
    SeriesQuery { stacks: StackQuery { range, ..everything() }, step_ms: 1000, group_by }
}

/// Every question that can take long, with what became of it.
fn ask_everything(store: &Store) -> [(&'static str, Result<(), QueryError>); 7] {
    let tenants = Tenants::default();
    [
        ("flame graph", store.flame_tree([Some(&everything())], 0).map(drop)),
        ("comparison", store.flame_tree([Some(&everything()), Some(&everything())], 0).map(drop)),
        ("stacks", store.merge_stacks(&everything()).map(drop)),
        ("values over time", store.select_series(&by_second(&[])).map(drop)),
        ("series", store.series(&tenants, &[], EVERYTHING).map(drop)),
        ("label values", store.label_values(&tenants, "pod", &[], EVERYTHING).map(drop)),
        ("label names", store.label_names(&tenants, &[], EVERYTHING).map(drop)),
    ]
}

fn metrics(store: &Store) -> String {
    let mut out = Exposition::new();
    store.metrics(&mut out);
    out.to_string()
}

#[track_caller]
fn assert_metric(store: &Store, line: &str) {
    let metrics = metrics(store);
    assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
}

/// Nothing is under way and nothing is held.
#[track_caller]
fn assert_at_rest(store: &Store) {
    assert_eq!(store.queries(), []);
    assert_metric(store, "pyrite_store_query_bytes 0");
}

#[test]
fn a_query_stops_within_a_row_group() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let store = open(dir.path(), &files, Limits { sums_from_rows: u64::MAX, ..Limits::default() });
    // Three row groups in the first segment, and two segments behind it.
    for _ in 0..3 {
        store.append_blocking(wide(100_000, 1)).unwrap();
    }
    store.flush().unwrap();
    for time in 1..3 {
        store.append_blocking(batch("late", time * 1_000_000, "f", 1)).unwrap();
        store.flush().unwrap();
    }
    for (stop_at, expected) in [(1, 1), (2, 2), (3, 3), (100, 5)] {
        // As if they had not been read before: what is open needs no footer.
        let warm = store.flame_tree([Some(&everything())], 0).unwrap();
        assert_eq!(warm.totals(), [300_002]);
        let (stop, read) = (Stop::default(), Arc::new(AtomicUsize::new(0)));
        let (by_rule, count) = (stop.clone(), Arc::clone(&read));
        files.set_rule(move |op, path| {
            let is_row_group = op == Op::Read && path.ends_with("samples.parquet");
            if is_row_group && count.fetch_add(1, Ordering::SeqCst) + 1 == stop_at {
                by_rule.cancel();
            }
            None
        });
        let answer = store.on_behalf(stop).flame_tree([Some(&everything())], 0);
        files.clear_rule();
        assert_eq!(read.load(Ordering::SeqCst), expected, "row groups read until the end");
        match answer {
            Ok(tree) => assert_eq!((stop_at, tree.totals()), (100, [300_002])),
            Err(error) => assert!(stop_at < 100 && matches!(error, QueryError::Cancelled), "{error}"),
        }
        assert_at_rest(&store);
    }
    assert_metric(&store, "pyrite_store_queries_cancelled_total{reason=\"client\"} 3");
}

#[test]
fn a_query_ends_when_its_time_is_over() {
    let dir = memory_dir();
    let store = open(dir.path(), &FaultyFiles::default(), Limits::default());
    store.append_blocking(wide(10, 10)).unwrap();
    let late = store.on_behalf(Stop::after(Duration::ZERO));
    for (what, answer) in ask_everything(&late) {
        let error = answer.unwrap_err();
        assert!(matches!(error, QueryError::TimedOut { .. }), "{what}: {error}");
    }
    drop(late);
    for (what, answer) in ask_everything(&store.on_behalf(Stop::after(Duration::from_mins(10)))) {
        assert!(answer.is_ok(), "{what}");
    }
    assert_metric(&store, "pyrite_store_queries_cancelled_total{reason=\"deadline\"} 1");
    assert_at_rest(&store);
}

#[test]
fn a_query_that_holds_too_much_is_refused_and_the_rest_goes_on() {
    for flushed in [false, true] {
        let dir = memory_dir();
        let limits = Limits { query_bytes: 3 * MIB, queries_bytes: 100 * MIB, ..Limits::default() };
        let store = open(dir.path(), &FaultyFiles::default(), limits);
        store.append_blocking(wide(80_000, 1)).unwrap();
        if flushed {
            store.flush().unwrap();
        }
        let refused = ["flame graph", "comparison", "stacks"];
        for (what, answer) in ask_everything(&store) {
            match answer {
                Ok(()) => assert!(!refused.contains(&what), "{what} was answered, flushed: {flushed}"),
                Err(QueryError::TooMuchMemory { bytes, limit }) => {
                    assert!(refused.contains(&what) && bytes > limit && limit == 3 * MIB, "{what}: {bytes}");
                }
                Err(error) => panic!("{what}, flushed: {flushed}: {error}"),
            }
            assert_at_rest(&store);
        }
        assert_metric(&store, "pyrite_store_queries_refused_total{reason=\"query_memory\"} 3");
        store.append_blocking(batch("another", 5, "f", 7)).unwrap();
        let narrow = Selector::all().with(Matcher::equal("service_name", "another"));
        let query = StackQuery { selector: narrow, ..everything() };
        assert_eq!(store.merge_stacks(&query).unwrap().total(), 7);
    }
}

#[test]
fn groups_and_their_points_are_counted_on_the_way() {
    // The names of series in heads are the heads'.
    for (flushed, query_bytes) in [(false, 2 * MIB), (true, 6 * MIB)] {
        let dir = memory_dir();
        let limits = Limits { query_bytes, ..Limits::default() };
        let store = open(dir.path(), &FaultyFiles::default(), limits);
        store.append_blocking(wide(1, 9_000)).unwrap();
        if flushed {
            store.flush().unwrap();
        }
        let error = store.select_series(&by_second(&["pod"])).unwrap_err();
        assert!(matches!(error, QueryError::TooMuchMemory { .. }), "{error}");
        assert_eq!(
            store.select_series(&by_second(&["service_name"])).unwrap()[0].points,
            [(UnixMs(0), 9_000)]
        );
        assert_at_rest(&store);
    }
}

#[test]
fn what_one_handle_asks_is_together_within_the_limit() {
    let dir = memory_dir();
    let store = open(dir.path(), &FaultyFiles::default(), Limits { query_bytes: MIB, ..Limits::default() });
    store.append_blocking(wide(1, 1_500)).unwrap();
    let handle = store.on_behalf(Stop::default());
    let series = |store: &Store| store.series(&Tenants::default(), &[], EVERYTHING);
    assert_eq!(series(&handle).unwrap().len(), 1_500);
    assert!(
        matches!(series(&handle).unwrap_err(), QueryError::TooMuchMemory { .. }),
        "the first is still held"
    );
    assert_eq!(series(&store).unwrap().len(), 1_500, "another query");
    drop(handle);
    assert_at_rest(&store);
}

#[test]
fn a_long_query_tells_how_far_it_is() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let store = open(dir.path(), &files, Limits { query_threads: 1, ..Limits::default() });
    for time in 0..3 {
        store.append_blocking(wide(10 + time, 1)).unwrap();
        store.flush().unwrap();
    }
    store.append_blocking(batch("head", 5, "f", 1)).unwrap();
    let seen: Arc<Mutex<Vec<QueryStatus>>> = Arc::default();
    let (asked, noted) = (store.clone(), Arc::clone(&seen));
    files.set_rule(move |op, path| {
        if op == Op::Read && path.ends_with("samples.parquet") {
            noted.lock().unwrap().extend(asked.queries());
        }
        None
    });
    assert_eq!(total(&store), 10 + 11 + 12 + 1);
    files.clear_rule();
    let seen = seen.lock().unwrap();
    let progress: Vec<_> =
        seen.iter().map(|status| (status.kind, status.rows_read, status.rows_to_read)).collect();
    // The footers of all segments are read, and then the row group of each.
    let expected = [0, 0, 0, 0, 10, 21].map(|rows| ("stacks", rows, 34));
    assert_eq!(progress, expected);
    assert!(seen.iter().all(|status| status.id == seen[0].id));
    assert!(seen.last().unwrap().bytes > 0, "sums of the first segments");
    assert_at_rest(&store);
}
