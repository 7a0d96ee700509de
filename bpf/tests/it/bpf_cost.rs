//! What a walk costs beside a program that only takes the kernel's stack. Both see the same workload in turns, and the
//! medians of five turns are compared.
//!
//! `PYRITE_COST_OBJECTS` names more objects of the programs, such as one of a change that is being tried: they take turns
//! with the rest, and what they cost is printed. `PYRITE_COST_TURN_MS` is the length of a turn.

use std::time::Duration;

use aya::Ebpf;
use aya::programs::PerfEvent;
use aya::sys::{Stats, enable_stats};

use crate::kernel::{Walker, attach, config, detach, privileged};
use crate::tables::Published;
use crate::workload::{Running, Workloads};

const TURNS: usize = 5;
const HZ: u64 = 97;
/// How many times as long as the kernel's own stack and a record of it a walk of 28 functions may take.
const MOST_TIMES: f64 = 1.6;
/// How long a walk of 28 frames of recursion may take.
const MOST_NS: f64 = 8000.0;

/// One object with the walker, and what its turns gave.
struct Contender {
    name: String,
    walker: Walker,
    ns: Vec<f64>,
    frames: usize,
    records: usize,
}

/// Of the object that is built.
struct Figures {
    walk_ns: f64,
    stack_only_ns: f64,
    frames: f64,
}

impl Contender {
    fn load(name: String, bytes: &[u8], published: &Published, processes: &[(u32, [u8; 24])]) -> Self {
        let mut walker = Walker::load_bytes(&config(), bytes);
        walker.publish(published);
        for (tgid, process) in processes {
            walker.set_process(*tgid, *process);
        }
        Self { name, walker, ns: Vec::new(), frames: 0, records: 0 }
    }

    fn take_turn(&mut self, running: &[Running]) {
        self.ns.push(ns_per_run(self.walker.program()));
        for record in running.iter().flat_map(|running| self.walker.records(running.tgid())) {
            self.frames += record.user.len();
            self.records += 1;
        }
    }

    fn frames(&self) -> f64 {
        self.frames as f64 / self.records as f64
    }
}

fn measure(label: &str, workloads: &Workloads, name: &str, arguments: &[&str]) -> Figures {
    let _statistics = enable_stats(Stats::RunTime).unwrap();
    let cpus = aya::util::online_cpus().unwrap().len();
    let running: Vec<Running> = (0..cpus).map(|_| workloads.run_before_others(name, arguments)).collect();
    let mut published = Published::new();
    let processes: Vec<_> =
        running.iter().map(|running| (running.tgid(), published.add_process(running.tgid()))).collect();
    let load = |(name, bytes): (String, Vec<u8>)| Contender::load(name, &bytes, &published, &processes);
    let mut contenders: Vec<Contender> = objects().into_iter().map(load).collect();
    let mut object = Ebpf::load_file(workloads.path("get_stack.o")).unwrap();
    let stack_only: &mut PerfEvent = object.program_mut("stack_only").unwrap().try_into().unwrap();
    stack_only.load().unwrap();
    let mut stack_only_ns = Vec::new();
    for _ in 0..TURNS {
        stack_only_ns.push(ns_per_run(stack_only));
        for contender in &mut contenders {
            contender.take_turn(&running);
        }
    }
    println!("{label}: stack only {stack_only_ns:.0?} ns");
    let stack_only_ns = median(&stack_only_ns);
    for contender in &contenders {
        let (ns, frames) = (median(&contender.ns), contender.frames());
        println!(
            "  {}: {:.0?} ns; {ns:.0} against {stack_only_ns:.0} ns, {:.2} times, {frames:.1} frames",
            contender.name,
            contender.ns,
            ns / stack_only_ns
        );
    }
    let built = &contenders[0];
    Figures { walk_ns: median(&built.ns), stack_only_ns, frames: built.frames() }
}

/// The object that is built, and those that are to be compared with it.
fn objects() -> Vec<(String, Vec<u8>)> {
    let others = std::env::var("PYRITE_COST_OBJECTS").unwrap_or_default();
    let others = others.split_whitespace().map(|path| (path.to_owned(), std::fs::read(path).unwrap()));
    std::iter::once(("walk".to_owned(), pyrite_bpf::object().to_vec())).chain(others).collect()
}

fn ns_per_run(program: &mut PerfEvent) -> f64 {
    let links = attach(program, HZ);
    // The first ticks fill the caches of the program that had no turn.
    std::thread::sleep(Duration::from_millis(200));
    let before = program.info().unwrap();
    std::thread::sleep(turn());
    let after = program.info().unwrap();
    detach(program, links);
    let time = after.run_time().saturating_sub(before.run_time());
    time.as_nanos() as f64 / (after.run_count() - before.run_count()) as f64
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
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
    workloads.clang_bpf("get_stack.bpf.c", "get_stack.o");
    for working_set_kb in ["0", "256", "4096"] {
        let label = format!("28 functions, working set of {working_set_kb} KB");
        let figures = measure(&label, &workloads, "layers", &[working_set_kb]);
        assert!(figures.frames > 31.0, "the walks are cut short");
        let times = figures.walk_ns / figures.stack_only_ns;
        assert!(times <= MOST_TIMES, "{label}: {times:.2} times");
    }
}

#[test]
fn bpf_cost_of_28_frames_of_recursion() {
    let Some(_guard) = privileged("bpf_cost_recursion") else { return };
    let workloads = Workloads::new();
    workloads.build_busy();
    workloads.clang_bpf("get_stack.bpf.c", "get_stack.o");
    let figures = measure("recursion", &workloads, "busy", &["1", "100", "34"]);
    assert!(figures.frames > 28.0, "the walks are cut short");
    assert!(figures.walk_ns <= MOST_NS, "{:.0} ns", figures.walk_ns);
}
