//! A damaged segment is named and set aside, at the second try where the first fails, and goes in the end.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pyrite_model::{Exposition, UnixMs};

use super::faults::FaultyFiles;
use super::{batch, config, memory_dir, open_on, total};
use crate::files::RealFiles;
use crate::{Finding, QuarantineLimits, Store, StoreConfig};

const HOUR_MS: i64 = 3_600_000;
const APART_MS: i64 = 48 * HOUR_MS;
/// The second of the segments below.
const SECOND: &str = "0000000000000002-0000000000000002-l0";

/// Segments worth 1, 10, 100, … on days of their own, so that none is merged.
fn segments(dir: &Path, count: u32) {
    let (store, _) = open_on(dir, Arc::new(RealFiles)).unwrap();
    for i in 0..count {
        store.append_blocking(batch("a", i64::from(i) * APART_MS, "f", 10_i64.pow(i))).unwrap();
        store.flush().unwrap();
    }
    store.close().unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn segment_name(i: u32) -> String {
    format!("{0:016}-{0:016}-l0", i + 1)
}

fn damage(dir: &Path, segment: &str) {
    // Its samples, which are read anew for every query.
    let path = dir.join("segments").join(segment).join("samples.parquet");
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
}

fn metrics(store: &Store) -> String {
    let mut out = Exposition::new();
    store.metrics(&mut out);
    out.to_string()
}

fn check_metric(store: &Store, line: &str) {
    let text = metrics(store);
    assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
}

/// The line on [`SECOND`].
fn check_named(store: &Store) {
    let window = "from=\"1970-01-03T00:00:00.000Z\",until=\"1970-01-03T00:00:00.000Z\"";
    check_metric(store, &format!("pyrite_store_quarantine_rows{{segment=\"{SECOND}\",{window}}} 1"));
    check_metric(store, "pyrite_store_quarantine_segments 1");
}

fn tend(store: &Store) {
    store.maintenance().shared().tend_quarantine().unwrap();
}

#[test]
fn the_rows_that_are_lost_are_named_for_as_long_as_their_segment_is_kept() {
    let dir = memory_dir();
    segments(dir.path(), 3);
    damage(dir.path(), SECOND);
    let (store, _) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    check_metric(&store, "pyrite_store_quarantine_segments 0");
    assert_eq!(total(&store), 101);
    check_metric(&store, "pyrite_store_segments_quarantined_total 1");
    check_named(&store);
    let held = dir.path().join("quarantine");
    assert_eq!(names(&held), [SECOND.to_owned(), format!("{SECOND}.json")]);
    let sizes = names(&held.join(SECOND)).into_iter().map(|name| held.join(SECOND).join(name));
    let bytes: u64 = sizes.map(|file| fs::metadata(file).unwrap().len()).sum();
    check_metric(&store, &format!("pyrite_store_quarantine_bytes {bytes}"));
    let note: serde_json::Value =
        serde_json::from_slice(&fs::read(held.join(format!("{SECOND}.json"))).unwrap()).unwrap();
    assert_eq!((&note["segment"], &note["rows"]), (&SECOND.into(), &1.into()), "{note}");
    assert!(note["why"].as_str().unwrap().contains("samples.parquet"), "{note}");
    drop(store);
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!((total(&store), report.findings.len()), (101, 0), "{report}");
    check_named(&store);
    // By hand, as whoever has looked at it may.
    fs::remove_dir_all(held.join(SECOND)).unwrap();
    tend(&store);
    check_metric(&store, "pyrite_store_quarantine_segments 0");
    drop(store);
    open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!(names(&held), [""; 0], "its note says nothing any more");
}

#[test]
fn the_first_go_when_there_are_too_many_or_they_are_too_old() {
    let dir = memory_dir();
    segments(dir.path(), 4);
    let held = dir.path().join("quarantine");
    let size = |i: u32| -> u64 {
        let segment = dir.path().join("segments").join(segment_name(i));
        names(&segment).iter().map(|name| fs::metadata(segment.join(name)).unwrap().len()).sum()
    };
    let limits =
        QuarantineLimits { max_age: Duration::from_hours(10), max_bytes: size(0) + size(1) + size(2) - 1 };
    let now = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&now);
    let mut config = StoreConfig { quarantine: limits, ..config(dir.path()) };
    config.retention.max_age = Duration::MAX;
    let clock = Arc::new(move || UnixMs(clock.load(Ordering::SeqCst)));
    let store = Store::open_on(config, Arc::new(RealFiles), clock).unwrap().0;
    let set_aside = |i: u32, hour: i64| {
        now.store(hour * HOUR_MS, Ordering::SeqCst);
        damage(dir.path(), &segment_name(i));
        total(&store)
    };
    let are_held = |expected: &[u32]| {
        let note = |name: String| [name.clone(), format!("{name}.json")];
        let expected: Vec<String> = expected.iter().flat_map(|&i| note(segment_name(i))).collect();
        assert_eq!(names(&held), expected);
    };
    // The last first: what counts is when they were set aside.
    assert_eq!(set_aside(2, 1), 1011);
    assert_eq!(set_aside(0, 2), 1010);
    tend(&store);
    are_held(&[0, 2]);
    assert_eq!(set_aside(1, 3), 1000);
    tend(&store);
    are_held(&[0, 1]);
    check_metric(&store, "pyrite_store_quarantine_removed_total{reason=\"size\"} 1");
    now.store(12 * HOUR_MS, Ordering::SeqCst);
    tend(&store);
    are_held(&[0, 1]);
    now.store(12 * HOUR_MS + 1, Ordering::SeqCst);
    tend(&store);
    are_held(&[1]);
    check_metric(&store, "pyrite_store_quarantine_removed_total{reason=\"age\"} 1");
    assert_eq!(total(&store), 1000, "nobody asked quarantine for its rows");
}

#[test]
fn a_disk_that_refuses_does_not_keep_the_rest_from_answering() {
    for reopened in [false, true] {
        let dir = memory_dir();
        segments(dir.path(), 3);
        damage(dir.path(), SECOND);
        let files = FaultyFiles::default();
        let (store, _) = open_on(dir.path(), Arc::new(files.clone())).unwrap();
        files.set_rule(|_, path| {
            let refused = path.to_string_lossy().contains("quarantine");
            refused.then(|| io::Error::from(io::ErrorKind::StorageFull))
        });
        assert_eq!((total(&store), total(&store)), (101, 101));
        let failed = |line: &str| {
            line.starts_with("pyrite_store_maintenance_failures_total ") && !line.ends_with(" 0")
        };
        assert!(metrics(&store).lines().any(failed));
        assert!(store.maintenance().shared().tend_quarantine().unwrap_err().is_disk_full());
        assert!(dir.path().join("segments").join(SECOND).is_dir());
        let store = if reopened {
            // First, so that its own thread does not set the segment aside.
            drop(store);
            files.clear_rule();
            let (store, report) = open_on(dir.path(), Arc::new(files)).unwrap();
            let [Finding::SegmentQuarantined { name, range: Some(range), .. }] = &report.findings[..] else {
                panic!("{report}");
            };
            assert_eq!((name.as_str(), range.start.0, range.end.0), (SECOND, APART_MS, APART_MS));
            store
        } else {
            files.clear_rule();
            tend(&store);
            store
        };
        assert_eq!(total(&store), 101);
        check_named(&store);
    }
}

/// Whether the operations were fewer than setting a segment aside takes.
fn check_crash(template: &Path, operations: usize, power_fails: bool) -> bool {
    let dir = memory_dir();
    copy_dir(template, dir.path());
    let files = FaultyFiles::default();
    let (store, _) = open_on(dir.path(), Arc::new(files.clone())).unwrap();
    files.crash_after(operations);
    assert_eq!(total(&store), 101, "{operations} operations");
    drop(store);
    let crashed = files.crashed();
    if power_fails {
        files.lose_power();
    }
    for _ in 0..2 {
        let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
        assert_eq!(total(&store), 101, "{operations} operations: {report}");
        check_named(&store);
        let held = names(&dir.path().join("quarantine"));
        assert_eq!(held, [SECOND.to_owned(), format!("{SECOND}.json")], "{operations} operations");
        assert_eq!(names(&dir.path().join("segments")).len(), 2, "{operations} operations");
    }
    crashed
}

#[test]
fn a_crash_while_a_segment_is_set_aside_loses_neither_it_nor_its_note() {
    let template = memory_dir();
    segments(template.path(), 3);
    damage(template.path(), SECOND);
    for power_fails in [false, true] {
        let mut operations = 0;
        while check_crash(template.path(), operations, power_fails) {
            operations += 1;
        }
        assert!(operations >= 8, "setting aside takes {operations} operations only");
    }
}

#[test]
fn a_segment_that_lacks_a_file_is_kept_and_one_that_is_gone_is_missing() {
    let dir = memory_dir();
    segments(dir.path(), 3);
    let (store, _) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    let in_use = dir.path().join("segments");
    let had = names(&in_use.join(SECOND)).len();
    fs::remove_file(in_use.join(SECOND).join("stacks.parquet")).unwrap();
    fs::remove_dir_all(in_use.join(segment_name(0))).unwrap();
    assert_eq!(total(&store), 100);
    let has = names(&dir.path().join("quarantine").join(SECOND)).len();
    assert_eq!(has, had - 1, "the files that it still has");
    check_named(&store);
    check_metric(&store, "pyrite_store_segments_missing_total 1");
    check_metric(&store, "pyrite_store_segments_quarantined_total 1");
}

#[test]
fn a_segment_that_was_mended_and_put_back_is_in_use_again() {
    let dir = memory_dir();
    segments(dir.path(), 3);
    damage(dir.path(), SECOND);
    let (store, _) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!(total(&store), 101);
    drop(store);
    fs::rename(dir.path().join("quarantine").join(SECOND), dir.path().join("segments").join(SECOND)).unwrap();
    // Flips back what it flipped.
    damage(dir.path(), SECOND);
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!(total(&store), 111);
    assert_eq!(report.findings, [Finding::SegmentAdopted { name: SECOND.to_owned() }]);
    check_metric(&store, "pyrite_store_quarantine_segments 0");
    assert_eq!(names(&dir.path().join("quarantine")), [""; 0], "its note went, too");
}

#[test]
fn what_has_the_name_already_stays_and_what_is_no_segment_is_left_alone() {
    let dir = memory_dir();
    segments(dir.path(), 3);
    damage(dir.path(), SECOND);
    let held = dir.path().join("quarantine");
    for copied in [SECOND, "looked-at-by-hand"] {
        fs::create_dir_all(held.join(copied)).unwrap();
        fs::write(held.join(copied).join("file"), "of an earlier time").unwrap();
    }
    fs::write(held.join("remarks.json"), "no note of ours").unwrap();
    let (store, _) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    let unknown = "from=\"unknown\",until=\"unknown\"";
    check_metric(&store, &format!("pyrite_store_quarantine_rows{{segment=\"{SECOND}\",{unknown}}} NaN"));
    assert_eq!(total(&store), 101);
    check_metric(&store, "pyrite_store_quarantine_segments 2");
    assert!(held.join(format!("{SECOND}.2")).join("segment.json").is_file());
    drop(store);
    let quarantine = QuarantineLimits { max_bytes: 0, ..QuarantineLimits::default() };
    let config = StoreConfig { quarantine, ..config(dir.path()) };
    let (store, _) = Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap();
    tend(&store);
    assert_eq!(names(&held), ["looked-at-by-hand", "remarks.json"]);
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}
