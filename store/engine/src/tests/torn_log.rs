//! A log that ends in anything but a whole record: everything before it is there, and the report says what was cut.

use std::fs;
use std::sync::Arc;

use super::{batch, memory_dir, open_on, total};
use crate::files::RealFiles;
use crate::{Finding, wal};

/// A log of three records, and where the last one begins.
fn three_records() -> (Vec<u8>, usize) {
    let dir = memory_dir();
    let (store, _) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    let path = wal::path(&dir.path().join("wal"), 1);
    store.append_blocking(batch("a", 1, "f", 1)).unwrap();
    store.append_blocking(batch("b", 2, "g", 10)).unwrap();
    let last = fs::metadata(&path).unwrap().len();
    store.append_blocking(batch("c", 3, "h", 100)).unwrap();
    drop(store);
    (fs::read(path).unwrap(), usize::try_from(last).unwrap())
}

/// Opens a store on these log bytes; checks that `expected` is there and that appending and reopening work.
fn check(bytes: &[u8], expected: i64) -> Vec<Finding> {
    let dir = memory_dir();
    fs::create_dir_all(dir.path().join("wal")).unwrap();
    fs::write(wal::path(&dir.path().join("wal"), 1), bytes).unwrap();
    let (store, report) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!(total(&store), expected);
    for finding in &report.findings {
        let Finding::LogCut { offset, bytes: cut, kept_as, .. } = finding else { panic!("{finding}") };
        let offset = usize::try_from(*offset).unwrap();
        assert_eq!(*cut as usize, bytes.len() - offset, "{report}");
        assert_eq!(fs::read(kept_as).unwrap(), &bytes[offset..], "{report}");
    }
    store.append_blocking(batch("d", 4, "i", 1000)).unwrap();
    drop(store);
    let (store, second) = open_on(dir.path(), Arc::new(RealFiles)).unwrap();
    assert_eq!(second.findings, [], "the cut is reported once");
    assert_eq!(total(&store), expected + 1000);
    report.findings
}

#[test]
fn cut_at_every_byte_of_the_last_record() {
    let (bytes, last) = three_records();
    assert_eq!(check(&bytes, 111), []);
    assert_eq!(check(&bytes[..last], 11), []);
    for end in last + 1..bytes.len() {
        let findings = check(&bytes[..end], 11);
        assert_eq!(findings.len(), 1, "cut at {end}");
        let text = findings[0].to_string();
        assert!(text.contains(&format!("cut at byte {last}")), "{text}");
        assert!(text.contains(&format!("{} bytes", end - last)), "{text}");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_last_record() {
    let (bytes, last) = three_records();
    for at in last..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        assert_eq!(check(&bytes, 11).len(), 1, "flipped at {at}");
    }
}

#[test]
fn a_damaged_or_unfinished_header_and_trailing_zeros() {
    let (bytes, _) = three_records();
    for at in 0..24 {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        assert_eq!(check(&bytes, 0).len(), 1, "flipped at {at}");
    }
    assert_eq!(check(&bytes[..10], 0).len(), 1);
    assert_eq!(check(&[], 0), []);
    let zeros = [bytes.as_slice(), &[0; 100]].concat();
    assert_eq!(check(&zeros, 111).len(), 1);
}

#[test]
fn a_log_of_a_newer_release_is_left_alone() {
    let (mut bytes, _) = three_records();
    bytes[8] = 3;
    let crc = crc32c::crc32c(&bytes[..24]).to_le_bytes();
    bytes[24..28].copy_from_slice(&crc);
    let dir = memory_dir();
    let path = wal::path(&dir.path().join("wal"), 1);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &bytes).unwrap();
    let error = open_on(dir.path(), Arc::new(RealFiles)).err().unwrap();
    assert!(error.to_string().contains("format version 3, this release reads up to 2"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
