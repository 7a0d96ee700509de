//! End to end: the real binary, real processes and containers, real clients. Tests named `bpf_*` and `root_*` need
//! root; without it they say so and stop, and under CI that is a failure.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "skips and measured figures are shown")]

mod clients;
mod command_line;
mod containers;
mod durability;
mod faults;
mod ledger;
mod profiles;
mod pushes;
mod pyrite;
mod recordings;
mod support;
mod waits;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One privileged test at a time: two samplers disturb each other's ticks, and two loads each other's deadlines.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The right to run a privileged test, or `None` where it cannot run, which fails under CI.
fn privileged(test: &str) -> Option<MutexGuard<'static, ()>> {
    use std::os::unix::fs::MetadataExt;
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0) {
        return Some(turn);
    }
    assert!(std::env::var_os("CI").is_none(), "{test} must run under CI, and needs root");
    eprintln!("\n*** SKIPPED {test}: it needs root ***\n");
    None
}
