//! Dictionaries that segments share: stored once, turned when they are full, gone with their last segment, and what is
//! left when a part of one is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyrite_model::{UnixMs, frame_names};

use super::faults::{FaultyFiles, Op};
use super::{batch, config, everything, memory_dir, open_on, profile, total};
use crate::dictionary::EpochId;
use crate::files::RealFiles;
use crate::maintain::Work;
use crate::{Finding, Limits, OpenReport, Retention, Store, StoreConfig};

fn open(dir: &Path, dictionary_stacks: usize) -> (Store, OpenReport) {
    let limits = Limits { dictionary_stacks, ..Limits::default() };
    let config = StoreConfig { limits, ..config(dir) };
    Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap()
}

fn store_leaves(store: &Store, leaves: &[&str]) {
    for leaf in leaves {
        store.append_blocking(batch("a", 1, leaf, 1)).unwrap();
    }
    store.flush().unwrap();
}

/// The leaf functions of all stacks with their values, by name.
fn leaves(store: &Store) -> Vec<(String, i64)> {
    let profile = profile(store);
    let leaf = |stack| frame_names(&profile.symbols, stack).last().unwrap().to_string();
    let mut leaves: Vec<_> = profile.values.iter().map(|(stack, value)| (leaf(*stack), *value)).collect();
    leaves.sort();
    leaves
}

fn named(leaves: &[(&str, i64)]) -> Vec<(String, i64)> {
    leaves.iter().map(|(leaf, value)| ((*leaf).to_owned(), *value)).collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// The directories of the parts of one epoch.
fn parts(dir: &Path, epoch: u32) -> Vec<PathBuf> {
    entries(&dir.join(format!("dictionaries/{epoch:08}")))
}

#[test]
fn what_segments_share_is_stored_once_in_few_parts() {
    let dir = memory_dir();
    let (store, _) = open(dir.path(), 1000);
    store_leaves(&store, &["f", "g", "h"]);
    let first = parts(dir.path(), 1);
    store_leaves(&store, &["f"]);
    assert_eq!(parts(dir.path(), 1), first, "nothing is new");
    for n in 0..40 {
        store_leaves(&store, &[&format!("leaf{n}"), "f"]);
    }
    assert!(parts(dir.path(), 1).len() <= 4, "{:?}", parts(dir.path(), 1));
    let expect: Vec<(String, i64)> = leaves(&store);
    assert_eq!((expect.len(), total(&store)), (43, 84));
    store.close().unwrap();
    let (reopened, report) = open(dir.path(), 1000);
    assert_eq!((leaves(&reopened), report.findings.len()), (expect, 0));
    store_leaves(&reopened, &["f", "new"]);
    assert_eq!(leaves(&reopened).len(), 44);
}

#[test]
fn a_full_dictionary_is_followed_by_another_and_both_answer() {
    let dir = memory_dir();
    let (store, _) = open(dir.path(), 3);
    store_leaves(&store, &["a", "b"]);
    store_leaves(&store, &["b", "c"]);
    store_leaves(&store, &["c", "d"]);
    assert_eq!(entries(&dir.path().join("dictionaries")).len(), 3);
    let expect = named(&[("a", 1), ("b", 2), ("c", 2), ("d", 1)]);
    assert_eq!(leaves(&store), expect);
    store.close().unwrap();
    assert_eq!(leaves(&open(dir.path(), 3).0), expect);
}

#[test]
fn a_dictionary_of_long_names_is_followed_by_another() {
    let dir = memory_dir();
    let limits = Limits { dictionary_bytes: 1 << 20, ..Limits::default() };
    let config = StoreConfig { limits, ..config(dir.path()) };
    let (store, _) = Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap();
    let names: Vec<String> = ('a'..='z').map(|name| name.to_string().repeat(60_000)).collect();
    for name in &names {
        store_leaves(&store, &[name]);
    }
    assert_eq!(entries(&dir.path().join("dictionaries")).len(), 2, "some 75 kB each");
    let expect: Vec<_> = names.iter().map(|name| (name.clone(), 1)).collect();
    assert_eq!(leaves(&store), expect);
}

/// The bytes of all files below a directory, by their paths in it.
fn bytes_below(root: &Path, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let of_one = |path: PathBuf| {
        if path.is_dir() {
            return bytes_below(root, &path);
        }
        vec![(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap())]
    };
    entries(dir).into_iter().flat_map(of_one).collect()
}

/// Pushes, most of which were there before, with flushes, starts and new dictionaries between.
#[test]
fn what_is_stored_is_the_same_however_much_is_remembered() {
    let stored = |remembered_stacks| {
        let dir = memory_dir();
        let limits = Limits { dictionary_turn_stacks: 15, remembered_stacks, ..Limits::default() };
        let open = || {
            let config = StoreConfig { limits, ..config(dir.path()) };
            Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap().0
        };
        let mut store = open();
        for n in 0..80 {
            store.append_blocking(batch("a", n, &format!("leaf{}", n * n % 23 + n / 20 * 5), 1)).unwrap();
            match n % 20 {
                7 => store.flush().unwrap(),
                13 => {
                    store.close().unwrap();
                    store = open();
                }
                _ => {}
            }
        }
        store.close().unwrap();
        let kept = ["wal", "segments", "dictionaries"];
        kept.map(|kept| bytes_below(dir.path(), &dir.path().join(kept))).concat()
    };
    let expected = stored(0);
    assert!(expected.iter().any(|(path, _)| path.starts_with("dictionaries/00000003")), "few dictionaries");
    for remembered_stacks in [1, 4, 1_000] {
        let stored = stored(remembered_stacks);
        assert_eq!(stored.len(), expected.len(), "{remembered_stacks} remembered");
        for (file, expected) in stored.iter().zip(&expected) {
            assert!(file == expected, "{:?} or {:?}, {remembered_stacks} remembered", file.0, expected.0);
        }
    }
}

#[test]
fn a_dictionary_goes_with_its_last_segment() {
    let dir = memory_dir();
    let retention = Retention { max_bytes: 0, ..Retention::default() };
    let limits = Limits { dictionary_stacks: 3, ..Limits::default() };
    let config = StoreConfig { retention, limits, ..config(dir.path()) };
    let (store, _) = Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap();
    store_leaves(&store, &["a", "b"]);
    store_leaves(&store, &["c", "d"]);
    store_leaves(&store, &["e"]);
    store.maintenance().retain().unwrap();
    for _ in 0..100 {
        store.maintenance().shared().remove_doomed().unwrap();
        if entries(&dir.path().join("dictionaries")).len() == 1 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(parts(dir.path(), 3).len() == 1, "the one that grows stays");
    assert_eq!(entries(&dir.path().join("dictionaries")).len(), 1);
}

/// Every file of a part in turn, a bit flipped in its middle, cut short, or gone.
#[test]
fn a_damaged_part_costs_names_and_no_rows() {
    for damage in 0..3 {
        let victims = {
            let dir = memory_dir();
            let (store, _) = open(dir.path(), 1000);
            store_leaves(&store, &["a", "b"]);
            entries(&parts(dir.path(), 1)[0]).len()
        };
        for victim in 0..victims {
            let dir = memory_dir();
            let (store, _) = open(dir.path(), 1000);
            store_leaves(&store, &["a", "b"]);
            store.close().unwrap();
            let file = entries(&parts(dir.path(), 1)[0]).swap_remove(victim);
            let mut bytes = fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            match damage {
                0 => bytes[middle] ^= 4,
                _ => bytes.truncate(middle),
            }
            match damage {
                2 => fs::remove_file(&file).unwrap(),
                _ => fs::write(&file, bytes).unwrap(),
            }
            let (store, report) = open(dir.path(), 1000);
            let [Finding::DictionaryDamaged { stacks: 3, .. }] = &report.findings[..] else {
                panic!("{}: {:?}", file.display(), report.findings)
            };
            assert_eq!(total(&store), 2);
            let lost = "[lost: damaged dictionary]";
            assert_eq!(leaves(&store), named(&[(lost, 1), (lost, 1)]));
            store_leaves(&store, &["a", "c"]);
            let expect = named(&[(lost, 1), (lost, 1), ("a", 1), ("c", 1)]);
            assert_eq!(leaves(&store), expect, "new ones go to another dictionary");
            store.close().unwrap();
            assert_eq!(leaves(&open(dir.path(), 1000).0), expect);
        }
    }
}

#[test]
fn a_part_that_is_gone_is_missed() {
    let dir = memory_dir();
    let (store, _) = open(dir.path(), 1000);
    store_leaves(&store, &["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    store_leaves(&store, &["z"]);
    store.close().unwrap();
    let parts = parts(dir.path(), 1);
    assert_eq!(parts.len(), 2);
    fs::remove_dir_all(&parts[1]).unwrap();
    let (store, report) = open(dir.path(), 1000);
    assert!(matches!(report.findings[..], [Finding::DictionaryDamaged { stacks: 1, .. }]), "{report}");
    store_leaves(&store, &["y"]);
    let leaves: Vec<String> = leaves(&store).into_iter().map(|(leaf, _)| leaf).collect();
    assert_eq!(leaves[..3], ["[lost: damaged dictionary]", "a", "b"]);
    assert!(leaves.ends_with(&["i".into(), "y".into()]));
}

/// Writes three generations that cannot be flushed, each with a stack of its own; the last knows that of the first, too.
fn logs_without_segments(dir: &Path) {
    let files = FaultyFiles::default();
    let (store, _) = open_on(dir, Arc::new(files.clone())).unwrap();
    let is_segment = |path: &Path| path.parent().is_some_and(|parent| parent.ends_with("segments"));
    files.set_rule(move |op, path| {
        (op == Op::Rename && is_segment(path)).then(|| std::io::ErrorKind::PermissionDenied.into())
    });
    for leaves in [&["f"][..], &["g"], &["f", "h"]] {
        for leaf in leaves {
            store.append_blocking(batch("a", 1, leaf, 1)).unwrap();
        }
        assert!(store.flush().is_err());
    }
}

#[test]
fn rows_of_a_log_that_builds_on_a_damaged_one_are_kept() {
    let dir = memory_dir();
    logs_without_segments(dir.path());
    // What the first flush wrote before it failed.
    fs::remove_dir_all(dir.path().join("dictionaries")).unwrap();
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    let sound = named(&[("f", 2), ("g", 1), ("h", 1)]);
    assert_eq!((leaves(&store), report.findings.len()), (sound, 0), "nothing is damaged yet");

    let dir = memory_dir();
    logs_without_segments(dir.path());
    let first = crate::wal::path(&dir.path().join("wal"), 1);
    let mut bytes = fs::read(&first).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&first, bytes).unwrap();
    fs::remove_dir_all(dir.path().join("dictionaries")).unwrap();
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    let findings = &report.findings[..];
    assert!(matches!(findings[0], Finding::LogCut { .. }), "{report}");
    assert!(findings[1..].iter().all(|f| matches!(f, Finding::DictionaryDamaged { .. })), "{report}");
    let nameless = "[lost: damaged dictionary]";
    assert_eq!(
        leaves(&store).iter().map(|(_, value)| value).sum::<i64>(),
        3,
        "one row was in the damaged record"
    );
    assert!(leaves(&store).iter().all(|(leaf, _)| leaf == nameless), "{:?}", leaves(&store));
    store_leaves(&store, &["f", "new"]);
    let expect = leaves(&store);
    assert_eq!((total(&store), expect.iter().filter(|(leaf, _)| leaf != nameless).count()), (5, 2));
    store.close().unwrap();
    assert_eq!(leaves(&open_on(dir.path(), Arc::new(RealFiles)).unwrap().0), expect);
}

/// With the dictionary on the disk, the log is needed for rows alone.
#[test]
fn a_log_is_read_over_what_a_failed_flush_left() {
    let dir = memory_dir();
    logs_without_segments(dir.path());
    assert_eq!(parts(dir.path(), 1).len(), 1);
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!(report.findings, []);
    store_leaves(&store, &["g", "i"]);
    let expect = named(&[("f", 2), ("g", 2), ("h", 1), ("i", 1)]);
    assert_eq!(leaves(&store), expect);
    store.close().unwrap();
    assert_eq!(leaves(&open_on(dir.path(), Arc::new(RealFiles)).unwrap().0), expect);
}

/// Has heads stay: no segment gets its name.
fn refuse_segments(files: &FaultyFiles) {
    let is_segment = |path: &Path| path.parent().is_some_and(|parent| parent.ends_with("segments"));
    files.set_rule(move |op, path| {
        (op == Op::Rename && is_segment(path)).then(|| std::io::ErrorKind::PermissionDenied.into())
    });
}

/// One that has room for two leaves, and keeps no dictionary for longer than it must.
fn open_small(dir: &Path, files: &FaultyFiles) -> Store {
    let limits = Limits { dictionary_stacks: 3, old_dictionary_bytes: 0, ..Limits::default() };
    let config = StoreConfig { limits, ..config(dir) };
    Store::open_on(config, Arc::new(files.clone()), Arc::new(|| UnixMs(0))).unwrap().0
}

/// A flush writes parts anew as others: who read them from the disk meanwhile would miss some.
#[test]
fn a_dictionary_that_a_head_still_adds_to_the_disk_is_not_read_from_there() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let store = open_small(dir.path(), &files);
    store_leaves(&store, &["a"]);
    refuse_segments(&files);
    store.append_blocking(batch("a", 1, "b", 1)).unwrap();
    assert!(store.flush().is_err());
    let shared = store.maintenance().shared();
    let frozen = Arc::clone(&shared.view().frozen[0]);
    let id = frozen.epoch().id();
    assert_ne!(id, shared.view().head.epoch().id(), "the next one has begun");
    let dictionary = shared.epochs.get(id, 1).unwrap();
    assert!(Arc::ptr_eq(&dictionary, frozen.dictionary()));
    assert_eq!(leaves(&store), named(&[("a", 1), ("b", 1)]));
    // When the head is gone, so is its dictionary.
    files.clear_rule();
    drop(frozen);
    let left = Arc::downgrade(&dictionary);
    drop(dictionary);
    store.flush().unwrap();
    assert!(left.upgrade().is_none());
    assert_eq!(leaves(&store), named(&[("a", 1), ("b", 1)]));
}

#[test]
fn the_next_dictionary_begins_while_an_old_one_is_read() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let store = open_small(dir.path(), &files);
    store_leaves(&store, &["a", "b"]);
    let (reading, begun) = std::sync::mpsc::channel();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    files.set_read_rule(move |path| {
        if path.ends_with("dictionaries/00000001/0000000000-0000000003/part.json") {
            reading.send(()).unwrap();
            // Until the test is done.
            let _ = wait.lock().unwrap().recv();
        }
        None
    });
    let asking = std::thread::spawn({
        let store = store.clone();
        move || total(&store)
    });
    begun.recv().unwrap();
    let (stored, done) = std::sync::mpsc::channel();
    let storing = std::thread::spawn(move || {
        store_leaves(&store, &["c", "d"]);
        store_leaves(&store, &["e"]);
        stored.send(()).unwrap();
    });
    let in_time = done.recv_timeout(std::time::Duration::from_secs(20)).is_ok();
    drop(go_on);
    storing.join().unwrap();
    asking.join().unwrap();
    assert!(in_time, "appends waited for the query");
}

#[test]
fn a_part_that_could_not_be_written_takes_no_room() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    // Without threads, which would try again while the test looks.
    let idle: [Work; 2] = [|_, _| {}, |_, _| {}];
    let layer = Arc::new(files.clone());
    let (store, _) = Store::open_tended(config(dir.path()), layer, Arc::new(|| UnixMs(0)), idle).unwrap();
    files.set_rule(|op, path| {
        let is_last = op == Op::Sync && path.ends_with("mappings.parquet");
        is_last.then(|| std::io::ErrorKind::StorageFull.into())
    });
    for leaf in ["a", "b"] {
        store.append_blocking(batch("a", 1, leaf, 1)).unwrap();
        assert!(store.flush().is_err());
    }
    assert!(parts(dir.path(), 1).is_empty(), "{:?}", parts(dir.path(), 1));
    files.clear_rule();
    store.flush().unwrap();
    assert_eq!((parts(dir.path(), 1).len(), leaves(&store)), (1, named(&[("a", 1), ("b", 1)])));
}

#[test]
fn what_somebody_puts_among_dictionaries_does_not_end_retention() {
    let dir = memory_dir();
    let (store, _) = open(dir.path(), 1000);
    store_leaves(&store, &["a"]);
    fs::write(dir.path().join("dictionaries/00000001/notes"), "mine").unwrap();
    store.maintenance().retain().unwrap();
}

#[test]
fn a_query_over_many_dictionaries_has_two_at_a_time() {
    let dir = memory_dir();
    let files = FaultyFiles::default();
    let store = open_small(dir.path(), &files);
    let names: Vec<String> = (0..40).map(|n| format!("leaf{n:02}")).collect();
    for pair in names.chunks(2) {
        store_leaves(&store, &[&pair[0], &pair[1]]);
    }
    let (most, seen, watched) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), store.clone());
    let (count, look) = (Arc::clone(&most), Arc::clone(&seen));
    files.set_rule(move |op, path| {
        if op == Op::Read && path.components().any(|part| part.as_os_str() == "dictionaries") {
            look.fetch_add(1, Ordering::SeqCst);
            count.fetch_max(watched.maintenance().shared().epochs.old_in_memory(), Ordering::SeqCst);
        }
        None
    });
    let profile = leaves(&store);
    let tree = store.flame_tree([Some(&everything()), Some(&everything())], 0).unwrap();
    files.clear_rule();
    assert_eq!(profile, names.iter().map(|name| (name.clone(), 1)).collect::<Vec<_>>());
    assert_eq!((tree.totals(), tree.node_count()), ([40, 40], 41));
    assert!(seen.load(Ordering::SeqCst) >= 20 && most.load(Ordering::SeqCst) <= 2, "{most:?} of {seen:?}");
}

#[test]
fn an_old_dictionary_stays_where_queries_ask_for_it() {
    for is_asked_for in [false, true] {
        let dir = memory_dir();
        let (store, _) = open(dir.path(), 3);
        let held = {
            let shared = store.maintenance().shared();
            let head = shared.view().head;
            if is_asked_for {
                shared.epochs.get(head.epoch().id(), 0).unwrap();
            }
            Arc::downgrade(head.dictionary())
        };
        store_leaves(&store, &["a", "b"]);
        assert_eq!(held.upgrade().is_some(), is_asked_for);
        assert_eq!(leaves(&store), named(&[("a", 1), ("b", 1)]));
    }
}

#[test]
fn what_a_query_reads_of_old_dictionaries_is_there_once_and_goes_with_it() {
    let dir = memory_dir();
    let store = open_small(dir.path(), &FaultyFiles::default());
    for leaves in [["a", "b"], ["c", "d"], ["e", "f"]] {
        store_leaves(&store, &leaves);
    }
    let epochs = &store.maintenance().shared().epochs;
    let ids = [1, 2, 3].map(EpochId);
    let read = ids.map(|id| epochs.get(id, 1).unwrap());
    for (id, dictionary) in ids.iter().zip(&read) {
        assert!(Arc::ptr_eq(dictionary, &epochs.get(*id, 1).unwrap()), "{id:?} is read twice");
    }
    let held = read.each_ref().map(Arc::downgrade);
    drop(read);
    assert_eq!(total(&store), 6);
    let left = held.iter().filter(|dictionary| dictionary.upgrade().is_some()).count();
    assert_eq!(left, 0, "there is no room for any");
    assert_eq!(leaves(&store).len(), 6);
}
