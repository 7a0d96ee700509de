//! Time off the CPU: from the switch to the query and to the file, beside what the kernel says of the same threads.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use crate::privileged;
use crate::pyrite::{Pyrite, command};
use crate::support::{Workload, metric, stdout};

const OFF_CPU: &str = "off_cpu:off_cpu:nanoseconds:off_cpu:nanoseconds";
const WALL: &str = "wall:wall:nanoseconds:wall:nanoseconds";
const WINDOW: Duration = Duration::from_mins(2);

/// Seconds that the threads of one name lived, ran, and waited for a CPU.
#[derive(Clone, Copy, Debug, Default)]
struct Truth {
    wall: f64,
    cpu: f64,
    queued: f64,
}

/// What `waits` prints: `NAME wall NS cpu NS queued NS` for each thread.
fn truths(said: &str) -> BTreeMap<String, Truth> {
    let mut truths = BTreeMap::<String, Truth>::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let seconds = |at: usize| words[at].parse::<f64>().expect("nanoseconds") / 1e9;
        let truth = truths.entry(words[0].to_owned()).or_default();
        truth.wall += seconds(2);
        truth.cpu += seconds(4);
        truth.queued += seconds(6);
    }
    truths
}

fn seconds(pyrite: &Pyrite, profile_type: &str, selector: &str) -> f64 {
    let values = pyrite.self_values_of(profile_type, selector, WINDOW);
    values.iter().map(|(_, ns)| *ns as f64).sum::<f64>() / 1e9
}

#[test]
fn bpf_the_daemon_tells_by_default_what_threads_wait_for() {
    let Some(_turn) = privileged("bpf_daemon_off_cpu") else { return };
    let (waits, data) = (Workload::build("waits"), TempDir::new().expect("a directory"));
    let pyrite = Pyrite::run(data.path(), &[]);
    let truths = truths(&stdout(waits.command().arg("20000")));
    // What is over is told within two seconds.
    std::thread::sleep(Duration::from_secs(3));
    let exe = waits.path();
    let selector = |comm: &str, state: &str| format!("{{exe={exe:?}, comm={comm:?}, state={state:?}}}");
    // The budget is the node's, so what is told of one thread is an estimate.
    for (comm, state, expect) in [
        ("sleeper", "blocked", truths["sleeper"].wall - truths["sleeper"].cpu - truths["sleeper"].queued),
        ("starved", "runnable", truths["starved"].queued),
    ] {
        let found = seconds(&pyrite, OFF_CPU, &selector(comm, state));
        println!("{comm} {state}: {expect:.2} s, found {found:.2} s");
        assert!((found / expect - 1.0).abs() < 0.5, "{comm} {state}: {found} s of {expect} s");
        let frame = format!("[{state}]");
        let values = pyrite.self_values_of(OFF_CPU, &selector(comm, state), WINDOW);
        assert!(values.iter().any(|(name, ns)| *name == frame && *ns > 0), "{values:?}");
    }
    // Wall time is both together, of each thread as long as it lived.
    let of_starved = format!("{{exe={exe:?}, comm=\"starved\"}}");
    let (wall, running) =
        (seconds(&pyrite, WALL, &of_starved), seconds(&pyrite, WALL, &selector("starved", "running")));
    println!("starved: {:.2} s, wall {wall:.2} s, of which running {running:.2} s", truths["starved"].wall);
    assert!((running / truths["starved"].cpu - 1.0).abs() < 0.2, "{running} s of {:?}", truths["starved"]);
    assert!((wall / truths["starved"].wall - 1.0).abs() < 0.4, "{wall} s of {:?}", truths["starved"]);

    let metrics = pyrite.get("/metrics").text();
    let fate = |fate: &str| metric(&metrics, &format!("pyrite_off_cpu_switches_total{{fate={fate:?}}}"));
    assert!(fate("sent") > 100.0 && fate("shed") > 0.0, "{metrics}");
    assert!(fate("end_lost") < fate("sent") * 0.001, "{metrics}");
    let score: serde_json::Value =
        serde_json::from_str(&pyrite.get("/api/v1/unwind").text()).expect("an answer in JSON");
    let told = |what: &str| score["unwind"]["off_cpu"][what].as_f64().expect("a number");
    assert!(told("captured") >= fate("sent") && told("shed") >= fate("shed"), "{score} {metrics}");
}

#[test]
fn bpf_a_daemon_told_to_does_not_record_time_off_the_cpu() {
    let Some(_turn) = privileged("bpf_daemon_without_off_cpu") else { return };
    let (busy, data) = (Workload::build("busy"), TempDir::new().expect("a directory"));
    let pyrite = Pyrite::run(data.path(), &["--off-cpu", "off"]);
    let _load = busy.start(&["1", "50", "3"]);
    std::thread::sleep(Duration::from_secs(5));
    assert!(pyrite.cpu_ns(&busy.selector()) > 0, "it does sample");
    assert!(!pyrite.get("/metrics").text().contains("pyrite_off_cpu_"));
    let types = pyrite.call("ProfileTypes", &serde_json::json!({"start": 1, "end": crate::pyrite::now_ms()}));
    assert!(!types.to_string().contains("off_cpu") && !types.to_string().contains("wall"), "{types}");
}

#[test]
fn bpf_record_off_cpu_writes_what_a_command_waits_for() {
    let Some(_turn) = privileged("bpf_record_off_cpu") else { return };
    let waits = Workload::build("waits");
    let file = waits.directory().join("out.folded");
    let mut record = command(&["record", "--off-cpu", "-o"]);
    let truths = truths(&stdout(record.arg(&file).arg("--").arg(waits.path()).arg("6000")));
    let folded = fs::read_to_string(&file).expect("it was written");
    let seconds = |function: &str, state: &str| {
        let lines = folded.lines().filter_map(|line| line.rsplit_once(' '));
        let of_both = lines.filter(|(stack, _)| {
            stack.split(';').any(|name| name == function) && stack.ends_with(&format!(";[{state}]"))
        });
        of_both.map(|(_, us)| us.parse::<f64>().expect("microseconds")).sum::<f64>() / 1e6
    };
    for (name, state, expect) in [
        ("sleeper", "blocked", truths["sleeper"].wall - truths["sleeper"].cpu - truths["sleeper"].queued),
        ("wanter", "blocked", truths["wanter"].wall - truths["wanter"].cpu - truths["wanter"].queued),
        ("starved", "runnable", truths["starved"].queued),
    ] {
        let found = seconds(name, state);
        println!("{name} {state}: {expect:.2} s, found {found:.2} s");
        assert!((found / expect - 1.0).abs() < 0.25, "{name} {state}: {found} s of {expect} s\n{folded}");
    }
}
