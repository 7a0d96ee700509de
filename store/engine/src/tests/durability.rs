//! An acknowledgement means: on the disk and visible. A refusal means: neither, and the store goes on.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::time::Duration;

use pyrite_model::{Tenants, UnixMs};

use super::faults::{FaultyFiles, Op};
use super::{EVERYTHING, batch, config, memory_dir, open_on, total};
use crate::{AppendError, CommitPolicy, Store, StoreConfig};

/// Stops the next sync of a log file until released; tells when it got there.
fn hold_next_sync(files: &FaultyFiles) -> (Receiver<()>, std::sync::mpsc::SyncSender<()>) {
    let (reached, at_sync) = channel();
    let (release, released) = sync_channel::<()>(0);
    let mut armed = true;
    files.set_rule(move |op, path| {
        if armed && op == Op::Sync && path.extension().is_some_and(|extension| extension == "wal") {
            armed = false;
            reached.send(()).unwrap();
            released.recv().unwrap();
        }
        None
    });
    (at_sync, release)
}

#[test]
fn nothing_is_acknowledged_or_visible_before_its_sync() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let (store, _) = open_on(dir.path(), Arc::new(files.clone())).unwrap();
    let (at_sync, release) = hold_next_sync(&files);
    let (acknowledged, acknowledgement) = channel();
    let appender = {
        let store = store.clone();
        std::thread::spawn(move || acknowledged.send(store.append_blocking(batch("a", 1, "f", 7))).unwrap())
    };
    at_sync.recv().unwrap();
    assert!(
        acknowledgement.recv_timeout(Duration::from_millis(100)).is_err(),
        "acknowledged before its sync"
    );
    assert_eq!(total(&store), 0, "visible before its sync");
    assert!(
        store.label_names(&Tenants::default(), &[], EVERYTHING).unwrap().is_empty(),
        "its series is visible before its sync"
    );
    assert_eq!(store.stats().rows, 0);
    release.send(()).unwrap();
    acknowledgement.recv().unwrap().unwrap();
    assert_eq!(total(&store), 7);
    appender.join().unwrap();
}

#[test]
fn what_was_acknowledged_survives_a_power_failure() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let (store, _) = open_on(dir.path(), Arc::new(files.clone())).unwrap();
    for i in 1..=3 {
        store.append_blocking(batch("a", i, "f", 1)).unwrap();
    }
    store.flush().unwrap();
    store.append_blocking(batch("b", 4, "g", 10)).unwrap();
    drop(store);
    files.lose_power();
    let (store, report) = open_on(dir.path(), Arc::new(FaultyFiles::default())).unwrap();
    assert_eq!(report.replayed_rows, 1);
    assert_eq!(total(&store), 13);
}

#[test]
fn batches_that_wait_share_one_sync() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let (store, _) = open_on(dir.path(), Arc::new(files.clone())).unwrap();
    let (at_sync, release) = hold_next_sync(&files);
    let spawn = |i: i64| {
        let store = store.clone();
        std::thread::spawn(move || store.append_blocking(batch("a", i, "f", 1)).unwrap())
    };
    let first = spawn(1);
    at_sync.recv().unwrap();
    let rest: Vec<_> = (2..=11).map(spawn).collect();
    std::thread::sleep(Duration::from_millis(200));
    let syncs = || files.log().iter().filter(|(op, _)| *op == Op::Sync).count();
    let before = syncs();
    release.send(()).unwrap();
    first.join().unwrap();
    for thread in rest {
        thread.join().unwrap();
    }
    assert!(syncs() - before <= 2, "ten waiting batches took {} syncs", syncs() - before);
    assert_eq!(total(&store), 11);
}

#[test]
fn a_failed_write_is_refused_and_leaves_no_trace() {
    for (failing, kind) in [
        (Op::Append, io::ErrorKind::StorageFull),
        (Op::Append, io::ErrorKind::Other),
        (Op::Sync, io::ErrorKind::Other),
    ] {
        let dir = memory_dir();
        let files = FaultyFiles::default();
        let (store, _) = open_on(dir.path(), Arc::new(files.clone())).unwrap();
        store.append_blocking(batch("a", 1, "f", 1)).unwrap();
        let mut armed = true;
        files.set_rule(move |op, _| {
            (op == failing && std::mem::take(&mut armed)).then(|| io::Error::from(kind))
        });
        let error = store.append_blocking(batch("new", 2, "new", 100)).unwrap_err();
        assert_eq!(
            matches!(error, AppendError::DiskFull { .. }),
            kind == io::ErrorKind::StorageFull,
            "{error}"
        );
        assert_eq!(total(&store), 1);
        // Its symbols and series were taken into the head; the next record must log them.
        store.append_blocking(batch("new", 3, "new", 10)).unwrap();
        assert_eq!(total(&store), 11);
        drop(store);
        let (store, report) = open_on(dir.path(), Arc::new(FaultyFiles::default())).unwrap();
        assert_eq!(report.findings, []);
        assert_eq!(total(&store), 11);
        assert_eq!(store.stats().series, 2);
    }
}

#[test]
fn a_log_that_cannot_be_repaired_refuses_until_it_can() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let (store, _) = open_on(dir.path(), Arc::new(files.clone())).unwrap();
    store.append_blocking(batch("a", 1, "f", 1)).unwrap();
    files.set_rule(|op, _| {
        matches!(op, Op::Append | Op::Truncate).then(|| io::Error::from(io::ErrorKind::Other))
    });
    assert!(store.append_blocking(batch("a", 2, "f", 10)).is_err());
    assert!(store.append_blocking(batch("a", 3, "f", 10)).is_err());
    files.clear_rule();
    store.append_blocking(batch("a", 4, "f", 100)).unwrap();
    drop(store);
    let (store, report) = open_on(dir.path(), Arc::new(FaultyFiles::default())).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(total(&store), 101);
}

#[test]
fn a_flush_that_fails_loses_nothing_and_is_tried_again() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let (store, _) = open_on(dir.path(), Arc::new(files.clone())).unwrap();
    store.append_blocking(batch("a", 1, "f", 1)).unwrap();
    files.set_rule(|op, path| {
        let segment = path.extension().is_some_and(|extension| extension == "parquet");
        (op == Op::Append && segment).then(|| io::Error::from(io::ErrorKind::StorageFull))
    });
    let error = store.flush().unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    store.append_blocking(batch("a", 2, "f", 10)).unwrap();
    assert_eq!(total(&store), 11);
    files.clear_rule();
    store.flush().unwrap();
    assert_eq!(total(&store), 11);
    assert_eq!(store.stats().segments, 2);
    drop(store);
    let (store, report) = open_on(dir.path(), Arc::new(FaultyFiles::default())).unwrap();
    assert_eq!(report.replayed_rows, 0);
    assert_eq!(total(&store), 11);
}

fn open_committing(dir: &std::path::Path, files: &FaultyFiles, commit: CommitPolicy) -> Store {
    let config = StoreConfig { commit, ..config(dir) };
    Store::open_on(config, Arc::new(files.clone()), Arc::new(|| UnixMs(0))).unwrap().0
}

#[test]
fn a_group_that_waits_for_others_is_acknowledged_after_its_one_sync() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let commit = CommitPolicy { interval: Duration::from_millis(400), ..CommitPolicy::default() };
    let store = open_committing(dir.path(), &files, commit);
    let before = files.log().len();
    let (at_sync, release) = hold_next_sync(&files);
    let (acknowledged, acknowledgement) = channel();
    let appenders: Vec<_> = (1..=10)
        .map(|i| {
            let (store, acknowledged) = (store.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                acknowledged.send(store.append_blocking(batch("a", i, "f", 1))).unwrap();
            })
        })
        .collect();
    at_sync.recv().unwrap();
    assert!(
        acknowledgement.recv_timeout(Duration::from_millis(100)).is_err(),
        "acknowledged before its sync"
    );
    assert_eq!(total(&store), 0, "visible before its sync");
    release.send(()).unwrap();
    for appender in appenders {
        appender.join().unwrap();
    }
    assert_eq!(acknowledgement.iter().take(10).flatten().count(), 10);
    assert_eq!(total(&store), 10);
    let ops: Vec<Op> = files.log()[before..].iter().map(|(op, _)| *op).collect();
    assert_eq!(ops, [Op::Append, Op::Sync], "one write and one sync for all");
}

#[test]
fn a_full_group_waits_for_nobody() {
    let dir = memory_dir();
    let commit = CommitPolicy { interval: Duration::MAX, max_bytes: 1 };
    let store = open_committing(dir.path(), &FaultyFiles::default(), commit);
    let began = std::time::Instant::now();
    store.append_blocking(batch("a", 1, "f", 1)).unwrap();
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(total(&store), 1);
}
