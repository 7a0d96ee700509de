//! End to end: the real binary, real processes and containers, real clients. Tests named `bpf_*` and `root_*` need
//! root; without it they say so and stop, and under CI that is a failure.

mod clients;
mod command_line;
mod pyrite;

/// Whether a privileged test can run here. Prints why not; under CI it panics instead.
pub fn privileged(test: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let root = std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    if !root {
        assert!(std::env::var_os("CI").is_none(), "{test} must run under CI, and needs root");
        eprintln!("SKIPPED {test}: needs root");
    }
    root
}
