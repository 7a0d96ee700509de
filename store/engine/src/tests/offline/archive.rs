//! Archives: what goes out comes in for every tenant, and what is torn or damaged does neither.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyrite_model::UnixMs;

use super::{EVERYTHING, checked, copy, fill_all, open, told};
use crate::offline::{ArchiveError, Imported, keeping_all};
use crate::tests::faults::{FaultyFiles, Op};
use crate::tests::{batch, memory_dir};
use crate::{FlushPolicy, Store, StoreConfig};

fn export(dir: &Path) -> Result<Vec<u8>, ArchiveError> {
    let store = open(dir);
    let mut archive = Vec::new();
    store.export_archive(EVERYTHING, &mut archive, &mut |_| {}).map(|_written| archive)
}

fn import(dir: &Path, archive: &[u8]) -> Result<Imported, ArchiveError> {
    let store = open(dir);
    let imported = store.import_archive(archive, &mut |_| {});
    store.close().unwrap();
    imported
}

#[test]
fn every_tenant_is_told_the_same_by_a_store_that_an_archive_came_to() {
    let from = memory_dir();
    fill_all(from.path());
    let before = told(from.path());
    let to = memory_dir();
    let imported = import(to.path(), &export(from.path()).unwrap()).unwrap();
    assert_eq!(imported.rows, 270);
    assert_eq!(told(to.path()), before);
    assert_eq!(checked(to.path()).findings, []);
}

#[test]
fn segments_of_format_1_come_in_as_those_of_today() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/segments/v1/data");
    let from = copy(&fixture);
    let before = told(from.path());
    let to = memory_dir();
    assert!(import(to.path(), &export(from.path()).unwrap()).unwrap().rows > 0);
    assert_eq!(told(to.path()), before);
}

#[test]
fn a_torn_archive_brings_nothing() {
    const BLOCK: usize = 512;
    let from = memory_dir();
    fill_all(from.path());
    let archive = export(from.path()).unwrap();
    let to = memory_dir();
    // Two blocks are its end; between any two others it may be cut, and inside one.
    for end in (0..=archive.len() - 2 * BLOCK).step_by(BLOCK / 2) {
        let error = import(to.path(), &archive[..end]).unwrap_err();
        assert!(matches!(error, ArchiveError::Torn(_)), "{end} of {}: {error}", archive.len());
        assert!(error.to_string().contains("torn"), "{error}");
    }
    assert!(!to.path().join("import.tmp").exists());
    assert_eq!(checked(to.path()).rows, 0);
}

#[test]
fn an_archive_with_a_flipped_bit_brings_nothing_or_everything() {
    const STEP: usize = 1009;
    let from = memory_dir();
    fill_all(from.path());
    let before = told(from.path());
    let archive = export(from.path()).unwrap();
    let mut refused = 0;
    for at in (0..archive.len()).step_by(STEP) {
        let to = memory_dir();
        let mut flipped = archive.clone();
        flipped[at] ^= 0x10;
        if import(to.path(), &flipped).is_ok() {
            // In what fills the last block of a file.
            assert_eq!(told(to.path()), before, "{at}");
        } else {
            refused += 1;
            assert_eq!(checked(to.path()).rows, 0, "{at}");
        }
    }
    assert!(refused > 10, "{refused} refused");
}

#[test]
fn what_is_damaged_does_not_go_out() {
    for file in ["segments/0000000000000001-0000000000000001-l0/totals.parquet", "dictionaries/00000001"] {
        let dir = memory_dir();
        fill_all(dir.path());
        let store = open(dir.path());
        store.flush().unwrap();
        let mut path = dir.path().join(file);
        if path.is_dir() {
            let part = fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
            path = part.join("functions.parquet");
        }
        let mut bytes = fs::read(&path).unwrap();
        bytes[30] ^= 1;
        fs::write(&path, bytes).unwrap();
        let refused = store.export_archive(EVERYTHING, Vec::new(), &mut |_| {}).unwrap_err();
        assert!(matches!(&refused, ArchiveError::Unsound { what } if what.contains(file)), "{refused}");
    }
}

/// Files that refuse to add to the log when it has got so many records more.
fn full_after(records: usize) -> FaultyFiles {
    let files = FaultyFiles::default();
    let mut left = records;
    files.set_rule(move |op, path| {
        let is_unpacked = path.components().any(|part| part.as_os_str() == "import.tmp");
        if op != Op::Append || is_unpacked || path.extension().is_none_or(|extension| extension != "wal") {
            return None;
        }
        let is_full = left == 0;
        left = left.saturating_sub(1);
        is_full.then(|| std::io::ErrorKind::StorageFull.into())
    });
    files
}

fn open_on(dir: &Path, files: FaultyFiles) -> Store {
    Store::open_on(keeping_all(dir), Arc::new(files), Arc::new(|| UnixMs(0))).unwrap().0
}

/// The notes on imports that have not come to their end.
fn notes(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("import")).count()
}

#[test]
fn an_import_that_stops_says_how_much_came_and_goes_on_when_it_is_repeated() {
    let from = memory_dir();
    fill_all(from.path());
    let before = told(from.path());
    let archive = export(from.path()).unwrap();
    let other = memory_dir();
    open(other.path()).append_blocking(batch("other", 1, "f", 1)).unwrap();
    let other = export(other.path()).unwrap();
    // Three tenants in three segments are nine batches of thirty rows.
    for batches in 0..9 {
        let to = memory_dir();
        drop(open(to.path()));
        let store = open_on(to.path(), full_after(batches));
        let stopped = store.import_archive(&archive[..], &mut |_| {}).unwrap_err();
        drop(store);
        let came = 30 * batches as u64;
        let ArchiveError::Stopped { stored, done, of, .. } = &stopped else { panic!("{stopped}") };
        assert_eq!((stored.rows, *done, *of), (came, came, 270));
        assert!(stopped.to_string().contains(&format!("{came} of its 270 rows")), "{stopped}");
        assert_eq!((checked(to.path()).rows, notes(to.path())), (came, 1));
        // Another one has nothing to do with it.
        assert_eq!(import(to.path(), &other).unwrap().rows, 1);
        assert_eq!(import(to.path(), &archive).unwrap().rows, 270 - came);
        assert_eq!((checked(to.path()).rows, notes(to.path())), (271, 0));
        // What was imported is imported again when it is asked for.
        if batches == 8 {
            assert_eq!(import(to.path(), &archive).unwrap().rows, 270);
        }
    }
    let to = memory_dir();
    assert_eq!(import(to.path(), &archive).unwrap().rows, 270);
    assert_eq!(told(to.path()), before);
}

#[test]
fn an_import_may_end_at_any_operation_and_no_row_comes_twice() {
    /// Every one would take minutes.
    const STEP: usize = 17;
    let from = memory_dir();
    fill_all(from.path());
    let before = told(from.path());
    let archive = export(from.path()).unwrap();
    let empty = memory_dir();
    drop(open(empty.path()));
    for power_fails in [false, true] {
        let mut operations = 0;
        loop {
            let to = copy(empty.path());
            let faulty = FaultyFiles::default();
            let store = open_on(to.path(), faulty.clone());
            faulty.crash_after(operations);
            // That it fails is what the test is about, until it does not any more.
            let is_whole = store.import_archive(&archive[..], &mut |_| {}).is_ok();
            drop(store);
            if power_fails {
                faulty.lose_power();
            }
            let came = checked(to.path()).rows;
            if !is_whole {
                assert_eq!(import(to.path(), &archive).unwrap().rows, 270 - came, "{operations}");
                assert_eq!(notes(to.path()), 0, "{operations}");
            }
            assert_eq!(told(to.path()), before, "{operations} operations, power fails: {power_fails}");
            assert_eq!(checked(to.path()).rows, 270, "{operations}");
            if is_whole {
                break;
            }
            operations += STEP;
        }
        assert!(operations > 100, "an import is {operations} operations only");
    }
}

#[test]
fn an_import_that_no_flush_makes_room_for_ends() {
    let from = memory_dir();
    fill_all(from.path());
    let archive = export(from.path()).unwrap();
    let to = memory_dir();
    let files = FaultyFiles::default();
    let flush = FlushPolicy { max_rows: 1, ..FlushPolicy::default() };
    let config = StoreConfig { flush, ..keeping_all(to.path()) };
    let store = Store::open_on(config, Arc::new(files.clone()), Arc::new(|| UnixMs(0))).unwrap().0;
    files.set_rule(|op, path| {
        let is_segment = path.parent().is_some_and(|parent| parent.ends_with("segments"));
        (op == Op::Rename && is_segment).then(|| std::io::ErrorKind::StorageFull.into())
    });
    let (ended, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(store.import_archive(&archive[..], &mut |_| {})));
    let outcome = outcome.recv_timeout(Duration::from_mins(1)).expect("it ends");
    let stopped = outcome.unwrap_err();
    assert!(matches!(&stopped, ArchiveError::Stopped { done: 1..=269, .. }), "{stopped}");
}

#[test]
fn what_came_is_said_though_its_copy_stays() {
    let from = memory_dir();
    fill_all(from.path());
    let archive = export(from.path()).unwrap();
    let to = memory_dir();
    let files = FaultyFiles::default();
    let store = open_on(to.path(), files.clone());
    let mut removals = 0;
    files.set_rule(move |op, path| {
        let is_removal = op == Op::Remove && path.ends_with("import.tmp");
        removals += usize::from(is_removal);
        // The first is of what an import before has left.
        (is_removal && removals == 2).then(|| std::io::ErrorKind::PermissionDenied.into())
    });
    assert_eq!(store.import_archive(&archive[..], &mut |_| {}).unwrap().rows, 270);
}
