//! Another BPF tool, beside which the kernel skips ticks: `fixtures/workloads/slow_tracepoint.bpf.c`.

use std::path::Path;
use std::process::Command;

use aya::Ebpf;
use aya::programs::TracePoint;
use tempfile::TempDir;

use crate::common::fixture;

/// So many milliseconds of the system call that the tool watches, on two threads, ahead of most that wants the CPUs.
pub(crate) fn calls(syscalls: &Path, milliseconds: &str) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "-10"]).arg(syscalls).args([milliseconds, "2"]);
    command
}

/// Attached until dropped.
pub(crate) fn attach() -> Ebpf {
    if !Path::new("/sys/kernel/tracing/events").exists() {
        run(Command::new("mount").args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"]));
    }
    let directory = TempDir::new().expect("a directory");
    let object = directory.path().join("slow_tracepoint.o");
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-isystem", "/usr/include/x86_64-linux-gnu"]);
    clang.args(["-isystem", "/usr/include/aarch64-linux-gnu", "-c", "-o"]).arg(&object);
    run(clang.arg(fixture("workloads/slow_tracepoint.bpf.c")));
    let mut loaded = Ebpf::load_file(object).expect("it loads");
    let program = loaded.program_mut("slow").expect("its name");
    let program: &mut TracePoint = program.try_into().expect("its type");
    program.load().expect("the verifier takes it");
    program.attach("syscalls", "sys_enter_getppid").expect("the tracepoint is there");
    loaded
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
