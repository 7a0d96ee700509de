//! Invariant I1 where an operator sees it: the books on `/metrics` balance, whatever else runs on the node.

use std::process::Command;
use std::time::Duration;

use crate::common::privileged;
use crate::pyrite::Pyrite;
use crate::slow_tracepoint;
use crate::support::{Workload, check_ledger, metric, stdout};

#[test]
fn bpf_metrics_balance_under_load_and_beside_another_tracepoint_program() {
    let Some(_turn) = privileged("bpf_metrics_balance") else { return };
    let syscalls = Workload::build("syscalls");
    let pyrite = Pyrite::run(&syscalls.directory().join("data"), &["--frequency", "997"]);
    let skipped_during = |load: &mut Command| {
        let skipped = || {
            let metrics = pyrite.get("/metrics").text();
            metric(&metrics, r#"pyrite_sampler_ticks_total{fate="missed_skipped"}"#)
        };
        let before = skipped();
        stdout(load);
        check_ledger(&pyrite);
        skipped() - before
    };
    let alone = skipped_during(&mut slow_tracepoint::calls(&syscalls.path(), "3000"));
    let other_tool = slow_tracepoint::attach();
    let beside = skipped_during(&mut slow_tracepoint::calls(&syscalls.path(), "3000"));
    drop(other_tool);
    println!("skipped alone {alone}, beside the tracepoint program {beside}");
    // Two CPUs owe about 6,000 ticks in that time.
    assert!(beside > 300.0 && beside > 4.0 * alone, "skipped alone {alone}, beside it {beside}");
    std::thread::sleep(Duration::from_secs(2));
    check_ledger(&pyrite);
    let metrics = pyrite.get("/metrics").text();
    assert!(metric(&metrics, r#"pyrite_sampler_ticks_total{fate="stored"}"#) > 1000.0, "{metrics}");
    assert!(pyrite.terminate().success());
}
