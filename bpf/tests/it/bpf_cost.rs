//! What a walk costs beside a program that only takes the kernel's stack. Both see the same workload in turns, and the
//! medians of five turns are compared.

use std::time::Duration;

use aya::Ebpf;
use aya::programs::PerfEvent;
use aya::sys::{Stats, enable_stats};

use crate::kernel::{Walker, attach, config, detach, privileged};
use crate::tables::Published;
use crate::workload::{Running, Workloads};

const TURNS: usize = 5;
const HZ: u64 = 97;

struct Figures {
    walk_ns: f64,
    stack_only_ns: f64,
    frames: f64,
}

fn measure(workloads: &Workloads, start: impl Fn() -> Running, turn: Duration) -> Figures {
    let _statistics = enable_stats(Stats::RunTime).unwrap();
    let running: Vec<Running> = (0..aya::util::online_cpus().unwrap().len()).map(|_| start()).collect();
    let mut published = Published::new();
    let processes: Vec<_> =
        running.iter().map(|running| (running.tgid(), published.add_process(running.tgid()))).collect();
    let mut walker = Walker::load(&config());
    walker.publish(&published);
    for (tgid, process) in processes {
        walker.processes().insert(tgid, process, 0).unwrap();
    }
    workloads.clang_bpf("get_stack.bpf.c", "get_stack.o");
    let mut stack_only = Ebpf::load_file(workloads.path("get_stack.o")).unwrap();
    let stack_only: &mut PerfEvent = stack_only.program_mut("stack_only").unwrap().try_into().unwrap();
    stack_only.load().unwrap();
    let (mut walk_ns, mut stack_only_ns, mut frames) = (Vec::new(), Vec::new(), (0, 0));
    for _ in 0..TURNS {
        walk_ns.push(ns_per_run(walker.program(), turn));
        stack_only_ns.push(ns_per_run(stack_only, turn));
        for record in running.iter().flat_map(|running| walker.records(running.tgid())) {
            frames = (frames.0 + record.user.len(), frames.1 + 1);
        }
    }
    println!("  walk {walk_ns:.0?} stack only {stack_only_ns:.0?}");
    Figures {
        walk_ns: median(walk_ns),
        stack_only_ns: median(stack_only_ns),
        frames: frames.0 as f64 / f64::from(frames.1),
    }
}

fn ns_per_run(program: &mut PerfEvent, turn: Duration) -> f64 {
    let links = attach(program, HZ);
    // The first ticks fill the caches of the program that had no turn.
    std::thread::sleep(Duration::from_millis(200));
    let before = program.info().unwrap();
    std::thread::sleep(turn);
    let after = program.info().unwrap();
    detach(program, links);
    let time = after.run_time().saturating_sub(before.run_time());
    time.as_nanos() as f64 / (after.run_count() - before.run_count()) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn turn() -> Duration {
    Duration::from_millis(std::env::var("PYRITE_COST_TURN_MS").map_or(1500, |ms| ms.parse().unwrap()))
}

#[test]
fn bpf_cost_of_28_functions_in_seven_libraries() {
    let Some(_guard) = privileged("bpf_cost_layers") else { return };
    let workloads = Workloads::new();
    workloads.build_layers();
    for working_set in ["0", "256", "4096"] {
        let figures = measure(&workloads, || workloads.run("layers", &[working_set]), turn());
        println!(
            "layers, {working_set} KB: walk {:.0} ns of {:.1} frames, stack only {:.0} ns, ratio {:.2}",
            figures.walk_ns,
            figures.frames,
            figures.stack_only_ns,
            figures.walk_ns / figures.stack_only_ns
        );
        assert!(figures.frames > 31.0, "the walks are cut short");
    }
}

#[test]
fn bpf_cost_of_28_frames_of_recursion() {
    let Some(_guard) = privileged("bpf_cost_recursion") else { return };
    let workloads = Workloads::new();
    workloads.build_busy();
    let figures = measure(&workloads, || workloads.run("busy", &["1", "100", "34"]), turn());
    println!(
        "recursion: walk {:.0} ns of {:.1} frames, stack only {:.0} ns, ratio {:.2}",
        figures.walk_ns,
        figures.frames,
        figures.stack_only_ns,
        figures.walk_ns / figures.stack_only_ns
    );
    assert!(figures.frames > 28.0, "the walks are cut short");
    assert!(figures.walk_ns < 8000.0, "{} ns", figures.walk_ns);
}
