//! Data directories in every state: shared, newer, damaged, incomplete, closed.

use std::fs;
use std::path::{Path, PathBuf};

use pyrite_model::{
    Batch, Exposition, LabelSet, ProfileType, Row, SeriesRows, StackId, Tenants, TimeRange, UnixMs,
};
use pyrite_store::{AppendError, Finding, Store, StoreError};

use super::{EVERYTHING, batch, config, open, query};

fn total(store: &Store) -> i64 {
    store.merge_stacks(&query("{}", EVERYTHING)).unwrap().total()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// Three segments worth 1, 10 and 100, days apart so that they are not merged.
fn three_segments(dir: &Path) -> Vec<PathBuf> {
    let (store, _) = open(dir);
    for (day, value) in [(0, 1), (2, 10), (4, 100)] {
        store.append_blocking(batch("a", &[(day * 24 * 3_600_000, "main", value)])).unwrap();
        store.flush().unwrap();
    }
    store.close().unwrap();
    segments(dir)
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let error = Store::open(config(dir.path())).err().expect("it is locked");
    let pid = std::process::id();
    assert!(matches!(error, StoreError::Locked { pid: Some(found), .. } if found == pid), "{error}");
    assert!(error.to_string().contains(&format!("in use by the process with pid {pid}")));
    store.close().unwrap();
    open(dir.path());
}

#[test]
fn what_somebody_puts_among_segments_is_told_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let strange = ["lost+found", "notes"].map(|name| dir.path().join("segments").join(name));
    fs::create_dir(&strange[0]).unwrap();
    fs::write(&strange[1], "mine").unwrap();
    let (store, report) = open(dir.path());
    let told = strange.each_ref().map(|path| Finding::NotOurs { path: path.clone() });
    assert_eq!(report.findings, told);
    store.close().unwrap();
    assert_eq!(segments(dir.path()).len(), 5);
    assert_eq!(fs::read(&strange[1]).unwrap(), b"mine");
    let checked = pyrite_store::offline::check(dir.path(), &mut |_| {}).unwrap();
    assert_eq!(checked.findings, []);
    assert!(
        strange
            .iter()
            .all(|path| checked.not_covered.iter().any(|line| line.starts_with(&*path.to_string_lossy())))
    );
}

#[test]
fn a_directory_of_a_newer_release_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    fs::write(dir.path().join("format"), "3\n").unwrap();
    let error = Store::open(config(dir.path())).err().unwrap().to_string();
    assert!(error.contains("format version 3, this release reads up to 2"), "{error}");
    assert_eq!(segments(dir.path()).len(), 3);
}

#[test]
fn a_directory_that_cannot_be_made_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(config(&file.join("data"))).err().unwrap();
    assert!(error.to_string().contains("cannot create"), "{error}");
}

#[test]
fn every_flipped_byte_of_a_segment_is_noticed_and_the_rest_answers() {
    let template = tempfile::tempdir().unwrap();
    let names = three_segments(template.path());
    for file in ["samples.parquet", "stacks.parquet", "segment.json"] {
        let len = fs::metadata(names[1].join(file)).unwrap().len() as usize;
        // Not the magic in front, which nothing here reads.
        for at in (4..len).step_by(len / 7) {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(template.path(), dir.path());
            let path = segments(dir.path())[1].join(file);
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 4;
            fs::write(&path, &bytes).unwrap();
            let (store, _) = open(dir.path());
            assert_eq!(total(&store), 101, "{file} at {at}");
            assert_eq!(total(&store), 101, "{file} at {at}, asked again");
            let name = segments(template.path())[1].file_name().unwrap().to_owned();
            assert!(dir.path().join("quarantine").join(name).is_dir(), "{file} at {at}");
            drop(store);
            let (store, report) = open(dir.path());
            assert_eq!((total(&store), report.findings.len()), (101, 0), "{report}");
        }
    }
}

#[test]
fn a_segment_deleted_by_hand_is_reported_with_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let names = three_segments(dir.path());
    fs::remove_dir_all(&names[1]).unwrap();
    let (store, report) = open(dir.path());
    let text = report.to_string();
    let window = "from 1970-01-03T00:00:00.000Z to 1970-01-03T00:00:00.000Z";
    assert!(text.contains(&format!("1 rows {window} are lost")), "{text}");
    // While the store is open, before a query has read it.
    fs::remove_dir_all(&names[0]).unwrap();
    assert_eq!(total(&store), 100);
    assert_eq!(store.stats().segments, 1);
}

#[test]
fn a_lost_catalogue_comes_back_from_the_segments() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    fs::remove_file(dir.path().join("catalogue.sqlite")).unwrap();
    let (store, report) = open(dir.path());
    assert_eq!(total(&store), 111);
    let adopted = report.findings.iter().filter(|f| matches!(f, Finding::SegmentAdopted { .. })).count();
    assert_eq!(adopted, 3);
    assert_eq!(store.label_values(&Tenants::default(), "service_name", &[], EVERYTHING).unwrap(), ["a"]);
}

#[test]
fn an_unfinished_segment_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    fs::create_dir(dir.path().join("segments/tmp-x")).unwrap();
    let (store, report) = open(dir.path());
    assert_eq!((total(&store), report.findings.len()), (111, 1), "{report}");
    assert_eq!(segments(dir.path()).len(), 3);
}

#[test]
fn a_closed_store_refuses_batches_and_still_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append_blocking(batch("a", &[(1, "main", 5)])).unwrap();
    store.close().unwrap();
    store.close().unwrap();
    let error = store.append_blocking(batch("a", &[(1, "main", 5)])).unwrap_err();
    assert!(matches!(error, AppendError::Closed));
    assert_eq!(total(&store), 5);
}

#[test]
fn malformed_batches_are_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let rows = vec![Row { time: UnixMs(0), stack: StackId(7), value: 1 }];
    let series = SeriesRows { labels: LabelSet::default(), profile_type: ProfileType::cpu_time(), rows };
    let error = store.append_blocking(Batch { series: vec![series], ..Batch::default() }).unwrap_err();
    assert_eq!(error.reason(), "invalid");
    let mut out = Exposition::new();
    store.metrics(&mut out);
    let text = out.to_string();
    assert!(text.contains("pyrite_store_rejected_rows_total{reason=\"invalid\"} 1\n"), "{text}");
}

#[test]
fn windows_are_exact_at_both_ends_in_memory_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store
        .append_blocking(batch("a", &[(999, "x", 1), (1000, "x", 2), (2000, "x", 4), (2001, "x", 8)]))
        .unwrap();
    for _ in 0..2 {
        for (start, end, expected) in [(1000, 2000, 6), (1001, 1999, 0), (999, 999, 1), (2001, 9999, 8)] {
            let range = TimeRange::new(UnixMs(start), UnixMs(end));
            assert_eq!(store.merge_stacks(&query("{}", range)).unwrap().total(), expected);
        }
        store.flush().unwrap();
    }
}

#[test]
fn symbols_come_back_whole() {
    use pyrite_model::{Function, Line, Location, Mapping, SymbolTable};
    let mut symbols = SymbolTable::new();
    let [build_id, path, name, system_name, filename] =
        ["abc", "/bin/x", "f<T>", "_Zf", "f.rs"].map(|text| symbols.intern_str(text));
    let mapping = Some(symbols.intern_mapping(Mapping { build_id, path }));
    let function = symbols.intern_function(Function { name, system_name, filename, start_line: 3 });
    let bare = symbols.intern_function(Function { name: path, ..Function::default() });
    let lines = vec![Line { function: bare, line: 0 }, Line { function, line: 9 }].into();
    let resolved = symbols.intern_location(Location { mapping, address: u64::MAX, lines });
    let unresolved = symbols.intern_location(Location { mapping, address: 5, ..Location::default() });
    let stack = symbols.intern_stack(&[unresolved, resolved]).unwrap();
    let rows = vec![Row { time: UnixMs(0), stack, value: i64::MAX }];
    let profile_type = ProfileType::cpu_time();
    let series = vec![SeriesRows { labels: LabelSet::default(), profile_type, rows }];
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append_blocking(Batch { symbols: symbols.clone(), series, ..Batch::default() }).unwrap();
    for _ in 0..2 {
        let found = store.merge_stacks(&query("{}", EVERYTHING)).unwrap();
        let mut again = found.symbols.clone();
        let copied = again.merge(&symbols).stacks[stack.index()];
        assert_eq!(found.values, [(copied, i64::MAX)]);
        assert_eq!(again.lens(), found.symbols.lens(), "the answer holds all of it and nothing else");
        store.flush().unwrap();
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
