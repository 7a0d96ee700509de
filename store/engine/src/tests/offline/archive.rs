//! Archives: what goes out comes in for every tenant, and what is torn or damaged does neither.

use std::fs;
use std::path::Path;

use super::{EVERYTHING, checked, copy, fill_all, open, told};
use crate::offline::{ArchiveError, Imported};
use crate::tests::memory_dir;

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
