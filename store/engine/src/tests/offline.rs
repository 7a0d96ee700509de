//! Checking and mending of what small stores do not have, or no tool can make from outside: sums that differ from their
//! rows, rows out of order, leftovers of a crash.
//!
//! `faults` damages every byte and stops at every operation, `archive` moves data elsewhere.

mod archive;
mod faults;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pyrite_model::{ProfileType, Row, Selector, Tenants, TimeRange, UnixMs};

use super::{EVERYTHING, batch, config, memory_dir, profile, total};
use crate::files::RealFiles;
use crate::offline::{CheckReport, Remedy, check, compact, keeping_all, repair, stats};
use crate::segment::manifest::Manifest;
use crate::segment::schema::{self, Packing, SAMPLES, TOTALS_SCHEMA};
use crate::table::{Column, TableWriter};
use crate::{Limits, SeriesQuery, StackQuery, Store, StoreConfig};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;
const TENANTS: [&str; 3] = ["anonymous", "acme", "rival"];

/// A store in whose time nothing is old enough to be merged.
fn open(dir: &Path) -> Store {
    let limits = Limits { sums_from_rows: 1, ..Limits::default() };
    let config = StoreConfig { limits, ..keeping_all(dir) };
    Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap().0
}

/// Two segments with sums and a log with rows that are in none: thirty rows of each of three tenants in each.
fn fill_all(dir: &Path) {
    let store = open(dir);
    for part in 0..3 {
        for (more, tenant) in (0..).zip(TENANTS) {
            let mut batch = batch(&format!("service of {tenant}"), 0, &format!("leaf {part} of {tenant}"), 1);
            batch.tenant = tenant.parse().unwrap();
            let stack = batch.series[0].rows[0].stack;
            let row = |i: i64| Row { time: UnixMs(part * HOUR_MS + i * 10_000), stack, value: i + more };
            batch.series[0].rows = (1..=30).map(row).collect();
            store.append_blocking(batch).unwrap();
        }
        if part < 2 {
            store.flush().unwrap();
        }
    }
}

/// What each tenant is told: stacks, a flame graph, values over time, series and labels.
fn told(dir: &Path) -> Vec<String> {
    let store = open(dir);
    TENANTS.iter().map(|tenant| told_to(&store, &tenant.parse().unwrap())).collect()
}

fn told_to(store: &Store, tenants: &Tenants) -> String {
    let query = StackQuery::new(tenants.clone(), ProfileType::cpu_time(), Selector::all(), EVERYTHING);
    let profile = store.merge_stacks(&query).unwrap();
    let name = |stack| pyrite_model::frame_names(&profile.symbols, stack).join(";");
    let mut stacks: Vec<_> = profile.values.iter().map(|(stack, value)| (name(*stack), *value)).collect();
    stacks.sort();
    let tree = store.flame_tree([Some(&query)], 0).unwrap().flamebearer();
    let range = TimeRange::new(UnixMs(0), UnixMs(4 * HOUR_MS));
    let stacks_of_window = StackQuery { range, ..query };
    let over_time = SeriesQuery {
        stacks: stacks_of_window,
        step_ms: MINUTE_MS,
        group_by: vec!["service_name".to_owned()],
    };
    let groups = store.select_series(&over_time).unwrap();
    let points: Vec<_> = groups.iter().map(|group| (&group.labels, &group.points)).collect();
    let series = store.series(tenants, &[], EVERYTHING).unwrap();
    let labels = store.label_names(tenants, &[], EVERYTHING).unwrap();
    let services = store.label_values(tenants, "service_name", &[], EVERYTHING).unwrap();
    format!("{stacks:?} {tree:?} {points:?} {series:?} {labels:?} {services:?}")
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = memory_dir();
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status();
    assert!(copied.unwrap().success());
    to
}

/// A segment with sums over two hours: rows each ten seconds of two stacks and two services.
fn fill(dir: &Path) {
    let limits = Limits { sums_from_rows: 1, ..Limits::default() };
    let config = StoreConfig { limits, ..config(dir) };
    // A clock that retention takes no offence at: the rows are of 1970.
    let (store, _) = Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap();
    for (service, leaf) in [("a", "f"), ("a", "g"), ("b", "f")] {
        let mut batch = batch(service, 0, leaf, 1);
        let stack = batch.series[0].rows[0].stack;
        let row = |i: i64| Row { time: UnixMs(i * 10_000), stack, value: i % 7 - 2 };
        batch.series[0].rows = (0..720).map(row).collect();
        store.append_blocking(batch).unwrap();
    }
    store.flush().unwrap();
    store.close().unwrap();
}

fn segment(dir: &Path) -> PathBuf {
    let mut names = fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    let segment = names.next().unwrap();
    assert_eq!(names.next(), None);
    segment
}

fn checked(dir: &Path) -> CheckReport {
    check(dir, &mut |_| {}).unwrap()
}

/// Checks that one remedy is called for, applies it, and checks that all rows and names are there as before.
#[track_caller]
fn check_mended(dir: &Path, file: &str, what: &str, before: &[(String, i64)]) {
    let report = checked(dir);
    let damage = report.findings.iter().find(|damage| damage.file.ends_with(file));
    let damage = damage.unwrap_or_else(|| panic!("{file}: {report:?}"));
    assert!(damage.what.contains(what), "{damage}");
    assert!(matches!(damage.remedy, Remedy::RewriteSegment(_)), "{damage:?}");
    assert_eq!(damage.rows, Some(2160), "{damage}");
    let repaired = repair(dir, &mut |_| {}).unwrap();
    assert!(repaired.after.findings.is_empty(), "{repaired:?}");
    let manifest = Manifest::read(&RealFiles, &segment(dir)).unwrap();
    assert!(manifest.rollups.len() > 1 && manifest.totals.len() > 2, "{manifest:?}");
    assert_eq!(answers(dir), before);
}

/// Sums by stack.
fn answers(dir: &Path) -> Vec<(String, i64)> {
    let (store, report) = Store::open(keeping_all(dir)).unwrap();
    assert_eq!(report.findings, []);
    let profile = profile(&store);
    let name = |stack| pyrite_model::frame_names(&profile.symbols, stack).join(";");
    let mut answers: Vec<_> = profile.values.iter().map(|(stack, value)| (name(*stack), *value)).collect();
    answers.sort();
    store.close().unwrap();
    answers
}

#[test]
fn damaged_sums_are_made_anew_from_their_rows() {
    let dir = memory_dir();
    fill(dir.path());
    let before = answers(dir.path());
    assert_eq!(checked(dir.path()).findings, []);
    for file in ["rollup-60s.parquet", "rollup-3600s.parquet", "totals.parquet", "totals-60s.parquet"] {
        let path = segment(dir.path()).join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        check_mended(dir.path(), file, "checksum", &before);
        fs::remove_file(segment(dir.path()).join(file)).unwrap();
        check_mended(dir.path(), file, "No such file", &before);
    }
}

/// Writes a file of the segment anew, with a checksum that is right, and has the manifest list it.
fn forge(segment: &Path, file: &str, schema: &str, columns: &[Column]) {
    let mut manifest = Manifest::read(&RealFiles, segment).unwrap();
    let mut writer =
        TableWriter::create(&RealFiles, segment.join(file), schema, schema::properties(Packing::Zstd))
            .unwrap();
    writer.write(columns).unwrap();
    manifest.tables.insert(file.to_owned(), writer.finish().unwrap());
    manifest.write(&RealFiles, segment).unwrap();
}

#[test]
fn sums_that_are_not_those_of_the_rows_are_found() {
    let dir = memory_dir();
    fill(dir.path());
    let before = answers(dir.path());
    let file = "totals-60s.parquet";
    let manifest = Manifest::read(&RealFiles, &segment(dir.path())).unwrap();
    let table = manifest.open_table(&RealFiles, &segment(dir.path()), file).unwrap();
    let group = table.row_group(0).unwrap();
    let (series, times) = (group.u32s(0).unwrap(), group.i64s(1).unwrap());
    let mut values = group.i64s(2).unwrap();
    values[5] += 1;
    let columns = |values| [Column::U32(series.clone()), Column::I64(times.clone()), Column::I64(values)];
    forge(&segment(dir.path()), file, TOTALS_SCHEMA, &columns(values.clone()));
    check_mended(dir.path(), file, "not those of the rows", &before);
    // One too much here and one too little there.
    values[7] -= 1;
    forge(&segment(dir.path()), file, TOTALS_SCHEMA, &columns(values.clone()));
    check_mended(dir.path(), file, "not those of the rows", &before);
    assert!(times.iter().all(|time| time % MINUTE_MS == 0));
    let late = times.iter().map(|time| if *time == times[3] { time + 1 } else { *time }).collect();
    let columns = [Column::U32(series), Column::I64(late), Column::I64(values)];
    forge(&segment(dir.path()), file, TOTALS_SCHEMA, &columns);
    check_mended(dir.path(), file, "a bucket ends where none does", &before);
}

#[test]
fn rows_that_are_not_as_they_must_be_go_to_quarantine() {
    for (what, change) in [
        ("not in order", (|rows: &mut Vec<[i64; 4]>| rows.swap(0, 1)) as fn(&mut Vec<[i64; 4]>)),
        ("past the end", |rows| rows[2159][2] = 99),
        ("another window", |rows| rows[2159][1] += 1),
    ] {
        let dir = memory_dir();
        fill(dir.path());
        let manifest = Manifest::read(&RealFiles, &segment(dir.path())).unwrap();
        let table = manifest.open_table(&RealFiles, &segment(dir.path()), SAMPLES.file).unwrap();
        let group = table.row_group(0).unwrap();
        let (series, times) = (group.u32s(0).unwrap(), group.i64s(1).unwrap());
        let (stacks, values) = (group.u32s(2).unwrap(), group.i64s(3).unwrap());
        let row = |i: usize| [i64::from(series[i]), times[i], i64::from(stacks[i]), values[i]];
        let mut rows: Vec<[i64; 4]> = (0..series.len()).map(row).collect();
        change(&mut rows);
        let ids = |column: usize| Column::U32(rows.iter().map(|row| row[column] as u32).collect());
        let numbers = |column: usize| Column::I64(rows.iter().map(|row| row[column]).collect());
        let columns = [ids(0), numbers(1), ids(2), numbers(3)];
        forge(&segment(dir.path()), SAMPLES.file, SAMPLES.schema, &columns);
        let report = checked(dir.path());
        let damage = &report.findings[0];
        assert!(damage.what.contains(what) && damage.file.ends_with(SAMPLES.file), "{what}: {report:?}");
        let repaired = repair(dir.path(), &mut |_| {}).unwrap();
        assert!(repaired.after.findings.is_empty(), "{what}: {repaired:?}");
        assert_eq!(fs::read_dir(dir.path().join("segments")).unwrap().count(), 0);
        let mut notes =
            fs::read_dir(dir.path().join("quarantine")).unwrap().map(|entry| entry.unwrap().path());
        let note = notes.find(|path| path.extension().is_some_and(|extension| extension == "json")).unwrap();
        let note = fs::read_to_string(note).unwrap();
        assert!(note.contains(what) && note.contains("\"rows\":2160"), "{note}");
    }
}

#[test]
fn what_a_crash_leaves_is_told_and_goes() {
    let dir = memory_dir();
    fill(dir.path());
    let before = answers(dir.path());
    let part =
        fs::read_dir(dir.path().join("dictionaries/00000001")).unwrap().next().unwrap().unwrap().path();
    let left = [dir.path().join("segments/tmp-x"), part.with_file_name("tmp-y")];
    for left in &left {
        fs::create_dir(left).unwrap();
    }
    let report = checked(dir.path());
    let mut found: Vec<_> = report.findings.iter().map(|damage| damage.file.clone()).collect();
    found.sort();
    let mut expected = left.to_vec();
    expected.sort();
    assert_eq!(found, expected);
    assert!(report.findings.iter().all(|damage| matches!(damage.remedy, Remedy::Start(_))));
    assert!(repair(dir.path(), &mut |_| {}).unwrap().after.findings.is_empty());
    assert_eq!(answers(dir.path()), before);
}

#[test]
fn segments_of_format_1_are_checked_as_well() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/segments/v1");
    for entry in fs::read_dir(fixtures).unwrap() {
        let path = entry.unwrap().path();
        if path.join("segments").is_dir() {
            let report = checked(&path);
            assert!(report.segments > 0 && report.findings.is_empty(), "{}: {report:?}", path.display());
        }
    }
}

#[test]
fn compaction_merges_what_may_be_merged_and_removes_nothing() {
    let dir = memory_dir();
    let open = || Store::open_on(config(dir.path()), Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap().0;
    let store = open();
    for minute in 0..5 {
        store.append_blocking(batch("a", minute * MINUTE_MS, &format!("leaf{minute}"), minute)).unwrap();
        store.flush().unwrap();
    }
    store.append_blocking(batch("a", 6 * MINUTE_MS, "in the log", 6)).unwrap();
    // As a crash leaves it: the last row is in the log alone.
    let copy = memory_dir();
    for sub in ["wal", "segments", "dictionaries"] {
        let to = copy.path().join(sub);
        assert!(Command::new("cp").arg("-a").arg(dir.path().join(sub)).arg(to).status().unwrap().success());
    }
    fs::write(copy.path().join("format"), "2\n").unwrap();
    drop(store);
    let before =
        total(&Store::open_on(config(copy.path()), Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap().0);
    let (compacted, report) = compact(copy.path(), &mut |_| {}).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((compacted.segments_before, compacted.segments_after), (5, 1));
    segment(copy.path());
    assert_eq!(checked(copy.path()).findings, []);
    assert_eq!(answers(copy.path()).iter().map(|(_, value)| value).sum::<i64>(), before);
}

#[test]
fn values_at_the_ends_of_64_bits_are_no_damage() {
    let dir = memory_dir();
    let limits = Limits { sums_from_rows: 1, ..Limits::default() };
    let config = StoreConfig { limits, ..config(dir.path()) };
    let (store, _) = Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap();
    for value in [i64::MAX, i64::MAX, i64::MIN, 5] {
        store.append_blocking(batch("a", 7 * MINUTE_MS, "f", value)).unwrap();
    }
    assert_ne!(total(&store), 0);
    store.close().unwrap();
    let report = checked(dir.path());
    assert_eq!(report.findings, []);
    assert!(report.not_covered.iter().any(|line| line.contains("too large")), "{report:?}");
}

#[test]
fn stats_name_tenants_dictionaries_logs_and_sums() {
    let dir = memory_dir();
    fill_all(dir.path());
    let stats = stats(dir.path()).unwrap();
    let tenants: Vec<_> = stats.tenants.iter().map(|it| (it.tenant.as_str(), it.series, it.rows)).collect();
    assert_eq!(tenants, [("acme", 1, 90), ("anonymous", 1, 90), ("rival", 1, 90)]);
    assert!(stats.tenants.iter().all(|it| it.oldest_ms == Some(10_000)), "{stats:?}");
    assert!(stats.tenants.iter().all(|it| it.newest_ms == Some(2 * HOUR_MS + 300_000)), "{stats:?}");
    let [epoch] = stats.dictionaries[..] else { panic!("{stats:?}") };
    // The third flush never came: its stacks are in the log.
    assert_eq!((epoch.epoch, epoch.segments, epoch.stacks), (1, 2, 1 + 6));
    let [log] = stats.logs[..] else { panic!("{stats:?}") };
    assert_eq!((log.generation, log.version, log.epoch), (3, Some(2), Some(1)));
    assert_eq!((log.records, log.rows, log.unusable_bytes), (3, 90, 0));
    let sums: Vec<_> = stats.sums.iter().map(|it| (it.level, it.of, it.bucket_ms, it.segments)).collect();
    assert!(sums.contains(&(0, "stacks", MINUTE_MS, 2)) && sums.contains(&(0, "totals", 1, 2)), "{sums:?}");
    assert_eq!((stats.series, stats.rows, stats.format), (3, 270, 2));
    let per_sample = stats.bytes as f64 / 270.0;
    assert_eq!(stats.bytes_per_sample, Some(per_sample));
}

#[test]
fn a_log_that_is_gone_is_named_until_repair_has_passed_it() {
    let dir = memory_dir();
    fill_all(dir.path());
    let before = checked(dir.path());
    assert_eq!((before.findings, before.rows), (vec![], 270));
    let log = dir.path().join("wal/0000000000000003.wal");
    fs::remove_file(&log).unwrap();
    let report = checked(dir.path());
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].file, log);
    assert!(repair(dir.path(), &mut |_| {}).unwrap().after.findings.is_empty());
    assert_eq!(checked(dir.path()).rows, 180);

    // One before another one, which is still there: its rows were in a segment, and nothing else says so.
    let dir = memory_dir();
    fill_all(dir.path());
    fs::remove_dir_all(dir.path().join("segments/0000000000000002-0000000000000002-l0")).unwrap();
    fs::remove_file(dir.path().join("catalogue.sqlite")).unwrap();
    let report = checked(dir.path());
    let gone = dir.path().join("wal/0000000000000002.wal");
    assert!(report.findings.iter().any(|damage| damage.file == gone), "{report:?}");
    let repaired = repair(dir.path(), &mut |_| {}).unwrap();
    assert!(repaired.after.findings.is_empty(), "{repaired:?}");
    assert_eq!(checked(dir.path()).rows, 180);
}

#[test]
fn what_a_merge_has_replaced_is_not_gone() {
    let dir = memory_dir();
    fill_all(dir.path());
    let before = told(dir.path());
    // As a crash leaves it between the new segment's name and the catalogue: the old ones are listed, and half removed.
    let merged = copy(dir.path());
    compact(merged.path(), &mut |_| {}).unwrap();
    fs::remove_dir_all(dir.path().join("segments")).unwrap();
    let from = merged.path().join("segments");
    assert!(Command::new("cp").arg("-a").arg(from).arg(dir.path()).status().unwrap().success());
    let report = checked(dir.path());
    assert!(report.findings.iter().all(|it| matches!(it.remedy, Remedy::Start(_))), "{report:?}");
    assert!(report.findings.iter().all(|it| !it.what.contains("is gone")), "{report:?}");
    assert!(repair(dir.path(), &mut |_| {}).unwrap().after.findings.is_empty());
    assert_eq!(told(dir.path()), before);
}

#[test]
fn what_was_taken_out_of_use_is_not_brought_back() {
    let dir = memory_dir();
    fill_all(dir.path());
    let store = open(dir.path());
    let shared = store.maintenance().shared();
    let name = shared.view().segments[0].name.clone();
    shared.catalogue.retire(&name, crate::catalogue::Retired::Removed).unwrap();
    drop(store);
    let segment = dir.path().join("segments").join(name);
    let rollup = segment.join("rollup-60s.parquet");
    let mut bytes = fs::read(&rollup).unwrap();
    bytes[20] ^= 1;
    fs::write(&rollup, bytes).unwrap();
    let report = checked(dir.path());
    assert_eq!((report.findings.len(), report.rows), (1, 180), "{report:?}");
    assert_eq!((&report.findings[0].file, &report.segments), (&segment, &1));
    let repaired = repair(dir.path(), &mut |_| {}).unwrap();
    assert!(repaired.after.findings.is_empty() && !segment.exists(), "{repaired:?}");
    assert_eq!(checked(dir.path()).rows, 180);
}

#[test]
fn a_version_that_there_never_was_is_none() {
    let dir = memory_dir();
    fill_all(dir.path());
    fs::write(dir.path().join("format"), "0\n").unwrap();
    assert_eq!(checked(dir.path()).findings[0].remedy, Remedy::StateFormat);
    assert!(repair(dir.path(), &mut |_| {}).unwrap().after.findings.is_empty());
    assert_eq!(fs::read(dir.path().join("format")).unwrap(), b"2\n");
}
