//! Dying between any two file operations neither loses nor doubles a row.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::faults::{FaultyFiles, Op};
use super::{batch, memory_dir, open_on, total};
use crate::files::RealFiles;
use crate::{Finding, StoreError, wal};

/// Appends and flushes until the layer stops; returns the sum of what was acknowledged and of what was not.
fn work(dir: &Path, files: &FaultyFiles) -> (i64, i64) {
    let (mut acknowledged, mut refused) = (0, 0);
    let Ok((store, _)) = open_on(dir, Arc::new(files.clone())) else { return (0, 0) };
    for (i, leaf) in ["f", "g", "h", "i"].into_iter().enumerate() {
        let value = 10_i64.pow(i as u32);
        match store.append_blocking(batch(leaf, i as i64, leaf, value)) {
            Ok(()) => acknowledged += value,
            Err(_) => refused += value,
        }
        if i % 2 == 1 {
            // A failure here is what the test is about.
            let _ = store.flush();
        }
    }
    (acknowledged, refused)
}

fn check(operations: usize, power_fails: bool) -> bool {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    files.crash_after(operations);
    let (acknowledged, refused) = work(dir.path(), &files);
    let crashed = files.crashed();
    if power_fails {
        files.lose_power();
    }
    let (store, _) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    let found = total(&store);
    // One batch may be on the disk without its acknowledgement having got out.
    assert!(
        found >= acknowledged && found <= acknowledged + refused,
        "{operations} operations: acknowledged {acknowledged}, found {found}"
    );
    store.append_blocking(batch("z", 9, "z", 1_000_000)).unwrap();
    store.flush().unwrap();
    drop(store);
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!(total(&store), found + 1_000_000, "{operations} operations: {report}");
    assert_eq!(report.replayed_rows, 0, "everything was flushed");
    crashed
}

#[test]
fn a_crash_between_any_two_operations() {
    for power_fails in [false, true] {
        let mut operations = 0;
        while check(operations, power_fails) {
            operations += 1;
        }
        assert!(operations > 60, "the schedule covers {operations} operations only");
    }
}

#[test]
fn a_log_file_that_outlives_its_flush_is_not_read_twice() {
    let dir = memory_dir();
    let log = wal::path(&dir.path().join("wal"), 1);
    let (store, _) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    store.append_blocking(batch("a", 1, "f", 5)).unwrap();
    let bytes = fs::read(&log).unwrap();
    store.flush().unwrap();
    drop(store);
    assert!(!log.exists());
    fs::write(&log, &bytes).unwrap();
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!((total(&store), report.replayed_rows), (5, 0));
    assert!(!log.exists());
    drop(store);

    // The same without the catalogue: the segment itself says what it covers.
    fs::write(&log, &bytes).unwrap();
    fs::remove_file(dir.path().join("catalogue.sqlite")).unwrap();
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!((total(&store), report.replayed_rows), (5, 0));
    assert!(matches!(report.findings[..], [Finding::SegmentAdopted { .. }]), "{report}");
}

#[test]
fn every_file_and_name_of_a_segment_is_synced_before_its_log_goes() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let (store, _) = open_on(dir.path(), Arc::new(files.clone())).unwrap();
    store.append_blocking(batch("a", 1, "f", 5)).unwrap();
    store.flush().unwrap();
    let log = files.log();
    let position = |what: &dyn Fn(&Op, &Path) -> bool| log.iter().position(|(op, path)| what(op, path));
    let log_gone =
        position(&|op, path| *op == Op::Remove && path.extension().is_some_and(|e| e == "wal")).unwrap();
    let renames = log.iter().enumerate().filter(|(_, (op, _))| *op == Op::Rename);
    let renames: Vec<(usize, &Path)> = renames.map(|(at, (_, from))| (at, from.as_path())).collect();
    // First the new part of the dictionary, which the segment refers to.
    let [(part, _), (segment, _)] = renames[..] else { panic!("{renames:?}") };
    for ((rename, temporary), files) in renames.into_iter().zip([5, 4]) {
        let is_of = |path: &Path| path.parent() == Some(temporary);
        let created: Vec<_> = log[..rename].iter().filter(|(op, p)| *op == Op::Create && is_of(p)).collect();
        assert_eq!(created.len(), files);
        for (_, path) in created {
            let synced = position(&|op, p| *op == Op::Sync && p == path).unwrap();
            assert!(synced < rename, "{} synced late", path.display());
            let written = log.iter().rposition(|(op, p)| *op == Op::Append && p == path).unwrap();
            assert!(written < synced, "{} written after its sync", path.display());
        }
    }
    let names = |dir| position(&|op, path| *op == Op::SyncDir && path.ends_with(dir)).unwrap();
    assert!(part < names("00000001") && names("dictionaries") < segment);
    assert!(segment < names("segments") && names("segments") < log_gone);
}

#[test]
fn a_broken_catalogue_is_made_anew() {
    let dir = memory_dir();
    let (store, _) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    for i in 0..3 {
        store.append_blocking(batch(&format!("service {i}"), i, "f", 1)).unwrap();
        store.flush().unwrap();
    }
    store.close().unwrap();
    drop(store);
    fs::write(dir.path().join("catalogue.sqlite"), "this is no database, and long enough to be read")
        .unwrap();
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert!(report.findings.iter().any(|f| matches!(f, Finding::CatalogueRebuilt { .. })), "{report}");
    assert_eq!((total(&store), store.stats().series, store.stats().segments), (3, 3, 3));
}

#[test]
fn a_full_disk_at_open_is_a_clear_error() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    files.set_rule(|op, _| (op == Op::Append).then(|| std::io::Error::from(std::io::ErrorKind::StorageFull)));
    let error = open_on(dir.path(), Arc::new(files)).err().unwrap();
    assert!(error.is_disk_full(), "{error}");
    assert!(matches!(error, StoreError::Io { .. }));
}
