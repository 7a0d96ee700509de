//! Invariant I1 where an operator sees it: the books on `/metrics` balance, whatever else runs on the node.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::TracePoint;

use crate::privileged;
use crate::pyrite::Pyrite;
use crate::support::{Workload, check_ledger, fixture, metric, stdout};

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
    let alone = skipped_during(syscalls.command().args(["3000", "2"]));
    let other_tool = attach_slow_tracepoint(syscalls.directory());
    let beside = skipped_during(syscalls.command().args(["3000", "2"]));
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

/// Attached until dropped.
fn attach_slow_tracepoint(folder: &Path) -> Ebpf {
    if !Path::new("/sys/kernel/tracing/events").exists() {
        stdout(Command::new("mount").args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"]));
    }
    let object = folder.join("slow_tracepoint.o");
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-isystem", "/usr/include/x86_64-linux-gnu"]);
    clang.args(["-isystem", "/usr/include/aarch64-linux-gnu", "-c", "-o"]).arg(&object);
    stdout(clang.arg(fixture("workloads/slow_tracepoint.bpf.c")));
    let mut loaded = Ebpf::load_file(object).expect("it loads");
    let program = loaded.program_mut("slow").expect("its name");
    let program: &mut TracePoint = program.try_into().expect("its type");
    program.load().expect("the verifier takes it");
    program.attach("syscalls", "sys_enter_getppid").expect("the tracepoint is there");
    loaded
}
