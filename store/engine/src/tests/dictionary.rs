//! Dictionaries that segments share: stored once, turned when they are full, gone with their last segment, and what is
//! left when a part of one is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyrite_model::{UnixMs, frame_names};

use super::{batch, config, memory_dir, profile, total};
use crate::files::RealFiles;
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
