//! What recording time off the CPU costs a program that does nothing but switch: nanoseconds per switch, and the slowdown
//! beside that of a program on the same tracepoint that does nothing. The three are measured in turn, so that whatever
//! else the machine does hits all of them.

use std::path::Path;
use std::process::Command;

use aya::Btf;
use aya::Ebpf;
use aya::programs::BtfTracePoint;
use pyrite::sampler::{OffCpuBudget, SamplerConfig};
use pyrite_bpf::OffFate;

use crate::support::{Recording, Workload, privileged, source};

const ROUNDS: usize = 9;
const MS: &str = "1000";
/// Two threads on each CPU.
const PAIRS: &str = "2";

/// CPU time per switch, and switches per second of it.
#[derive(Clone, Copy, Debug)]
struct Run {
    ns: f64,
    per_second: f64,
}

#[test]
fn bpf_switch_cost_beside_an_empty_program() {
    let Some(_guard) = privileged("bpf_switch_cost") else { return };
    let switches = Workload::build("switches");
    let directory = tempfile::TempDir::new().unwrap();
    let empty = directory.path().join("empty.o");
    build_empty(&empty);
    let [mut alone, mut beside_empty, mut beside_ours] = [vec![], vec![], vec![]];
    let (mut shed, mut sent) = (0, 0);
    for _ in 0..ROUNDS {
        // The sampler runs beside all three: what is measured is the program at the switch.
        let recording = Recording::start(SamplerConfig::default());
        alone.push(run(&switches));
        let attached = attach_empty(&empty);
        beside_empty.push(run(&switches));
        drop(attached);
        drop(recording);
        let recording =
            Recording::start(SamplerConfig { off_cpu: OffCpuBudget::Node, ..SamplerConfig::default() });
        beside_ours.push(run(&switches));
        let (_, stats) = recording.stop();
        let fates = stats.off_cpu.unwrap().fates;
        shed += fates.get(OffFate::Shed);
        sent += fates.get(OffFate::Sent);
    }
    let [base, empty, ours] = [&alone, &beside_empty, &beside_ours].map(|runs| median(runs));
    let slowdown = |with: Run| with.ns / base.ns - 1.0;
    println!(
        "CPU time per switch, median of {ROUNDS} rounds in turn, {:.0} switches per CPU second",
        base.per_second
    );
    println!("  nothing   {:7.1} ns", base.ns);
    println!(
        "  empty     {:7.1} ns  +{:.1} ns  slowdown {:.2} %",
        empty.ns,
        empty.ns - base.ns,
        100.0 * slowdown(empty)
    );
    println!(
        "  off-CPU   {:7.1} ns  +{:.1} ns  slowdown {:.2} %",
        ours.ns,
        ours.ns - base.ns,
        100.0 * slowdown(ours)
    );
    println!("  ratio {:.2}; {sent} captured, {shed} shed", slowdown(ours) / slowdown(empty));
    assert!(base.per_second > 250_000.0, "half a million a second on two CPUs: {base:?}");
    assert!(shed > 1_000_000 && sent > 0, "{shed} shed, {sent} sent");
    assert!(slowdown(ours) <= 2.0 * slowdown(empty), "{alone:?} {beside_empty:?} {beside_ours:?}");
}

fn run(switches: &Workload) -> Run {
    let output = switches.command().args([MS, PAIRS]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    let [count, cpu_ns] = [1, 5].map(|at| words[at].parse::<f64>().unwrap());
    Run { ns: cpu_ns / count, per_second: count / cpu_ns * 1e9 }
}

fn median(runs: &[Run]) -> Run {
    let mut runs = runs.to_vec();
    runs.sort_by(|a, b| a.ns.total_cmp(&b.ns));
    runs[runs.len() / 2]
}

fn build_empty(object: &Path) {
    let mut clang = Command::new("clang");
    clang.args(["-target", "bpf", "-O2", "-g", "-isystem", "/usr/include/x86_64-linux-gnu"]);
    clang.args(["-isystem", "/usr/include/aarch64-linux-gnu", "-c"]);
    assert!(clang.arg(source("empty_switch.bpf.c")).arg("-o").arg(object).status().unwrap().success());
}

/// Attached until dropped.
fn attach_empty(object: &Path) -> Ebpf {
    let btf = Btf::from_sys_fs().unwrap();
    let mut loaded = Ebpf::load_file(object).unwrap();
    let program: &mut BtfTracePoint = loaded.program_mut("empty").unwrap().try_into().unwrap();
    program.load("sched_switch", &btf).unwrap();
    program.attach().unwrap();
    loaded
}
