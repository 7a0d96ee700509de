//! A disk that fills up, on a real one: a file system in memory of four megabytes. Needs root to mount it.

use std::path::Path;
use std::process::Command;

use pyrite_store::AppendError;

use super::{EVERYTHING, batch, open, query};

struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(self.0).status().unwrap().success());
    }
}

fn mount(dir: &Path) -> Option<Mount<'_>> {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir).output();
    if mounted.is_ok_and(|output| output.status.success()) {
        return Some(Mount(dir));
    }
    assert!(std::env::var_os("CI").is_none(), "cannot mount a file system, and under CI this test must run");
    eprintln!("SKIPPED: root_full_disk needs root to mount a file system");
    None
}

#[test]
fn root_full_disk_refuses_keeps_everything_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mount) = mount(dir.path()) else { return };
    let data = dir.path().join("data");
    let (store, _) = open(&data);
    let ballast = dir.path().join("ballast");
    let mut acknowledged = 0;
    let mut append = |value: i64| {
        // A new long name each time, so that the log grows.
        let path = format!("main;{}-{value}", "f".repeat(2000));
        let result = store.append_blocking(batch("a", &[(value, &path, 1)]));
        acknowledged += i64::from(result.is_ok());
        result
    };
    for value in 0..100 {
        append(value).unwrap();
    }
    // Filled in small steps, so that no gap is left that a record would fit into.
    let filled = std::fs::write(&ballast, vec![0; 8 << 20]);
    assert!(filled.is_err(), "the file system is larger than this test thinks");
    let refused = (100..200).find_map(|value| append(value).err()).expect("the disk is full");
    assert!(matches!(refused, AppendError::DiskFull { .. }), "{refused}");
    assert_eq!(refused.reason(), "disk_full");
    assert!(store.flush().is_err(), "no room for a segment either");
    std::fs::remove_file(&ballast).unwrap();
    for value in 200..300 {
        append(value).unwrap();
    }
    assert_eq!(store.merge_stacks(&query("{}", EVERYTHING)).unwrap().total(), acknowledged);
    store.flush().unwrap();
    drop(store);
    let (store, report) = open(&data);
    assert_eq!(store.merge_stacks(&query("{}", EVERYTHING)).unwrap().total(), acknowledged, "{report}");
}
