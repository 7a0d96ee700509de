//! What the suites of this crate share.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One privileged test at a time: two samplers disturb each other's ticks, and two loads each other's shares.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The right to run a privileged test, or `None` where it cannot run, which fails under CI.
pub(crate) fn privileged(test: &str) -> Option<MutexGuard<'static, ()>> {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0) {
        return Some(turn);
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root and must not be skipped under CI");
    eprintln!("\n*** SKIPPED {test}: it needs root ***\n");
    None
}

/// Where a fixture is.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}
