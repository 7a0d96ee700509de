//! What recording time off the CPU costs a program that does nothing but switch: nanoseconds per switch, and the slowdown
//! beside that of a program on the same tracepoint that does nothing.
//!
//! One workload runs all the time. Turns of a tenth of a second with nothing, the empty program and ours follow each other,
//! and each round of three is compared within itself: what else the machine does changes more slowly than that.

use std::fs;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::BtfTracePoint;
use pyrite_bpf::OffFate;
use pyrite_bpf::abi::pyrite_config;

use crate::kernel::{Walker, config, privileged};
use crate::workload::{Running, Workloads};

const ROUNDS: usize = 100;
const TURN: Duration = Duration::from_millis(100);
/// What the sampler allows on a node of few CPUs.
const CAPTURES_PER_SECOND: u32 = 30;

/// What the workload's threads did in a turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// CPU time per switch.
    ns: f64,
    per_second: f64,
}

/// CPU time and switches of all threads so far.
fn so_far(running: &Running) -> (f64, f64) {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.tgid())).unwrap();
    let schedstats = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap());
    // Nanoseconds on a CPU, nanoseconds in a run queue, how often it came to a CPU.
    schedstats.fold((0.0, 0.0), |(ns, switches), text| {
        let numbers: Vec<f64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        (ns + numbers[0], switches + numbers[2])
    })
}

fn turn(running: &Running) -> Turn {
    // The first switches fill the caches of the program that had no turn.
    std::thread::sleep(TURN / 5);
    let (before, start) = (so_far(running), Instant::now());
    std::thread::sleep(TURN);
    let (after, seconds) = (so_far(running), start.elapsed().as_secs_f64());
    let switches = after.1 - before.1;
    Turn { ns: (after.0 - before.0) / switches, per_second: switches / seconds }
}

fn turn_with(program: &mut BtfTracePoint, running: &Running) -> Turn {
    let link = program.attach().unwrap();
    let turn = turn(running);
    program.detach(link).unwrap();
    turn
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn bpf_switch_cost_beside_an_empty_program() {
    let Some(_guard) = privileged("bpf_switch_cost") else { return };
    let workloads = Workloads::new();
    workloads.cc("switches.c", "switches", &["-pthread"]);
    workloads.clang_bpf("empty_switch.bpf.c", "empty.o");
    let mut ours = Walker::load(&pyrite_config { off_cpu_per_second: CAPTURES_PER_SECOND, ..config() });
    let mut empty = Ebpf::load_file(workloads.path("empty.o")).unwrap();
    let empty: &mut BtfTracePoint = empty.program_mut("empty").unwrap().try_into().unwrap();
    empty.load("sched_switch", &ours.btf).unwrap();
    // A pair of threads on each CPU.
    let pairs = aya::util::online_cpus().unwrap().len().to_string();
    let running = workloads.run("switches", &["600000", &pairs]);

    let (mut bases, mut with_empty, mut with_ours) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let base = turn(&running);
        with_empty.push(turn_with(empty, &running).ns - base.ns);
        with_ours.push(turn_with(ours.switches(), &running).ns - base.ns);
        // Nobody else empties the ring.
        ours.discard();
        bases.push(base);
    }
    let base_ns = median(bases.iter().map(|base| base.ns).collect());
    let per_second = median(bases.iter().map(|base| base.per_second).collect());
    let (empty_ns, ours_ns) = (median(with_empty), median(with_ours));
    let [sent, shed] = [OffFate::Sent, OffFate::Shed].map(|fate| ours.departures(fate));
    println!("{per_second:.0} switches a second on {pairs} CPUs, {base_ns:.1} ns of CPU time each");
    for (name, ns) in [("empty", empty_ns), ("off-CPU", ours_ns)] {
        println!("  {name:8} +{ns:5.1} ns a switch, slowdown {:.2} %", 100.0 * ns / base_ns);
    }
    println!("  ratio {:.2}, medians of {ROUNDS} rounds; {sent} captured, {shed} shed", ours_ns / empty_ns);
    let per_cpu_second = 1e9 / base_ns;
    assert!(per_cpu_second > 250_000.0, "half a million a second on two CPUs: {per_cpu_second}");
    assert!(shed > 100_000 && sent > 0, "{shed} shed, {sent} sent");
    assert!(ours_ns <= 2.0 * empty_ns, "{ours_ns} ns beside {empty_ns} ns");
}
