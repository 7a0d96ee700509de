//! Every format that was ever written stays readable (I8): data directories of `fixtures/segments/`, as the release of
//! their format left them, give the answers that lie beside them.
//!
//! `recipe` makes such a directory and works the answers out from the rows alone; `answers` is what is compared.

mod answers;
mod recipe;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pyrite_model::UnixMs;

use self::answers::Answers;
use super::{config, memory_dir};
use crate::files::RealFiles;
use crate::segment::manifest::Manifest;
use crate::{Finding, OpenReport, Store};

/// Long after every hour and day of the fixtures, so that all that can be merged is.
const MUCH_LATER_MS: i64 = 4_102_444_800_000;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/segments")
}

/// Opened with a clock of the test's own, and nothing is too old.
fn open(dir: &Path, now: &Arc<AtomicI64>) -> (Store, OpenReport) {
    let now = Arc::clone(now);
    let mut config = config(dir);
    config.retention.max_age = Duration::MAX;
    Store::open_on(config, Arc::new(RealFiles), Arc::new(move || UnixMs(now.load(Ordering::SeqCst)))).unwrap()
}

/// All but the lock, which says who used the directory last.
fn copy_data(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_data(&entry.path(), &target);
        } else if entry.file_name() != "lock" {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Each answer by itself, so that a difference is short enough to read.
fn check(store: &Store, expect: &Answers, when: &str) {
    let found = Answers::of_store(store, expect);
    for (found, expect) in found.stacks.iter().zip(&expect.stacks) {
        assert_eq!(found, expect, "{when}");
    }
    for (found, expect) in found.timelines.iter().zip(&expect.timelines) {
        assert_eq!(found, expect, "{when}");
    }
    assert_eq!(&found, expect, "{when}");
}

/// Those of format 1 have one of their own each, and are not merged any more.
fn segments_with_a_shared_dictionary(dir: &Path) -> usize {
    let segments = fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    segments.filter(|path| Manifest::read(&RealFiles, path).unwrap().dictionary.is_some()).count()
}

fn check_version(version: &Path) {
    let expect: Answers = serde_json::from_slice(&fs::read(version.join("expected.json")).unwrap()).unwrap();
    assert!(expect.rows > 0 && !expect.stacks.is_empty() && !expect.timelines.is_empty());
    for catalogue_is_lost in [false, true] {
        let what = format!("{}, catalogue lost: {catalogue_is_lost}", version.display());
        let dir = memory_dir();
        copy_data(&version.join("data"), dir.path());
        if catalogue_is_lost {
            fs::remove_file(dir.path().join("catalogue.sqlite")).unwrap();
        }
        let now = Arc::new(AtomicI64::new(i64::MIN));
        let (store, report) = open(dir.path(), &now);
        let adopted = |finding: &Finding| matches!(finding, Finding::SegmentAdopted { .. });
        assert!(report.replayed_rows > 0, "{what}: {report}");
        assert_eq!(report.findings.is_empty(), !catalogue_is_lost, "{what}: {report}");
        assert!(report.findings.iter().all(adopted), "{what}: {report}");
        check(&store, &expect, &format!("{what}, as it was written"));
        store.flush().unwrap();
        check(&store, &expect, &format!("{what}, flushed"));
        let before = store.stats().segments;
        let mergeable = segments_with_a_shared_dictionary(dir.path()) > 1;
        now.store(MUCH_LATER_MS, Ordering::SeqCst);
        store.maintenance().merge().unwrap();
        assert_eq!(store.stats().segments < before, mergeable, "{what}: what can be merged is");
        check(&store, &expect, &format!("{what}, merged with what this release writes"));
        drop(store);
        let (store, report) = open(dir.path(), &now);
        assert_eq!(report.findings, [], "{what}: {report}");
        check(&store, &expect, &format!("{what}, opened again"));
    }
}

#[test]
fn every_format_that_was_ever_written_reads_the_same() {
    let mut versions: Vec<PathBuf> = fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap().path()).collect();
    versions.retain(|path| path.is_dir());
    assert!(!versions.is_empty());
    for version in versions {
        check_version(&version);
    }
}

#[test]
fn what_is_written_now_reads_as_the_recipe_says() {
    let dir = memory_dir();
    recipe::write(dir.path());
    check_version(dir.path());
}

/// Never over a version that is there: what counts is what the release of that format wrote.
#[test]
#[ignore = "makes the fixture of a new format; fixtures/segments/README.md says when"]
fn write_the_fixture_of_this_format() {
    let version = fixtures().join(format!("v{}", crate::segment::manifest::FORMAT));
    assert!(!version.exists(), "{} is there already", version.display());
    let dir = memory_dir();
    recipe::write(dir.path());
    check_version(dir.path());
    copy_data(dir.path(), &version);
}
