//! Time off the CPU: from the switch to the query and to the file, beside what the kernel says of the same threads.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::privileged;
use crate::pyrite::{Pyrite, command, eventually};
use crate::support::{Workload, metric, stdout};
use crate::waits::{Truth, truths};

const OFF_CPU: &str = "off_cpu:off_cpu:nanoseconds:off_cpu:nanoseconds";
const WALL: &str = "wall:wall:nanoseconds:wall:nanoseconds";
/// An estimate may be off by chance. One that is biased is off in all of these rounds.
const ROUNDS: usize = 4;

fn seconds(pyrite: &Pyrite, profile_type: &str, selector: &str) -> f64 {
    let values = pyrite.self_values_of(profile_type, selector);
    values.iter().map(|(_, ns)| *ns as f64).sum::<f64>() / 1e9
}

/// Whether what is told of the threads comes near to what they waited for. The budget is the node's, so it is an estimate,
/// and the busier the node the fewer captures it rests on.
fn agrees(pyrite: &Pyrite, exe: &str, truths: &BTreeMap<String, Truth>) -> Result<(), String> {
    let near = |what: &str, found: f64, expect: f64, tolerance: f64| {
        let said = format!("{what}: {expect:.2} s, found {found:.2} s");
        println!("{said}");
        if (found / expect - 1.0).abs() < tolerance { Ok(()) } else { Err(said) }
    };
    let selector = |comm: &str, state: &str| format!("{{exe={exe:?}, comm={comm:?}, state={state:?}}}");
    for (comm, state, expect) in [
        ("sleeper", "blocked", truths["sleeper"].blocked()),
        ("starved", "runnable", truths["starved"].queued),
    ] {
        let selector = selector(comm, state);
        near(&format!("{comm} {state}"), seconds(pyrite, OFF_CPU, &selector), expect, 0.5)?;
        let frame = format!("[{state}]");
        let values = pyrite.self_values_of(OFF_CPU, &selector);
        assert!(values.iter().any(|(name, ns)| *name == frame && *ns > 0), "{values:?}");
    }
    // Wall time is both together, of each thread as long as it lived.
    let starved = truths["starved"];
    near("starved running", seconds(pyrite, WALL, &selector("starved", "running")), starved.cpu, 0.2)?;
    let of_starved = format!("{{exe={exe:?}, comm=\"starved\"}}");
    near("starved wall", seconds(pyrite, WALL, &of_starved), starved.wall, 0.4)
}

#[test]
fn bpf_the_daemon_tells_by_default_what_threads_wait_for() {
    let Some(_turn) = privileged("bpf_daemon_off_cpu") else { return };
    let (waits, data) = (Workload::build("waits"), TempDir::new().expect("a directory"));
    let pyrite = Pyrite::run(data.path(), &[]);
    let mut printed = String::new();
    for round in 1.. {
        printed += &stdout(waits.command().arg("20000"));
        // What is over is told within two seconds.
        std::thread::sleep(Duration::from_secs(3));
        match agrees(&pyrite, waits.path().to_str().expect("UTF-8"), &truths(&printed)) {
            Ok(()) => break,
            Err(why) if round == ROUNDS => panic!("{why}"),
            Err(why) => println!("once more: {why}"),
        }
    }
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
    eventually("two seconds of samples", || (pyrite.cpu_ns(&busy.selector()) > 2_000_000_000).then_some(()));
    assert!(!pyrite.get("/metrics").text().contains("pyrite_off_cpu_"));
    let types = pyrite.call("ProfileTypes", &serde_json::json!({"start": 1, "end": crate::pyrite::now_ms()}));
    assert!(!types.to_string().contains("off_cpu") && !types.to_string().contains("wall"), "{types}");
}

#[test]
fn bpf_record_off_cpu_writes_what_a_command_waits_for() {
    let Some(_turn) = privileged("bpf_record_off_cpu") else { return };
    let waits = Workload::build("waits");
    let file = waits.directory().join("out.folded");
    for round in 1.. {
        let mut record = command(&["record", "--off-cpu", "-o"]);
        let truths = truths(&stdout(record.arg(&file).arg("--").arg(waits.path()).arg("6000")));
        match agrees_with_file(&fs::read_to_string(&file).expect("it was written"), &truths) {
            Ok(()) => break,
            Err(why) if round == ROUNDS => panic!("{why}"),
            Err(why) => println!("once more: {why}"),
        }
    }
}

/// Whether the folded stacks of a recording come near to what the threads waited for.
fn agrees_with_file(folded: &str, truths: &BTreeMap<String, Truth>) -> Result<(), String> {
    let seconds = |function: &str, state: &str| {
        let lines = folded.lines().filter_map(|line| line.rsplit_once(' '));
        let of_both = lines.filter(|(stack, _)| {
            stack.split(';').any(|name| name == function) && stack.ends_with(&format!(";[{state}]"))
        });
        of_both.map(|(_, us)| us.parse::<f64>().expect("microseconds")).sum::<f64>() / 1e6
    };
    for (name, state, expect) in [
        ("sleeper", "blocked", truths["sleeper"].blocked()),
        ("wanter", "blocked", truths["wanter"].blocked()),
        ("starved", "runnable", truths["starved"].queued),
    ] {
        let found = seconds(name, state);
        println!("{name} {state}: {expect:.2} s, found {found:.2} s");
        if (found / expect - 1.0).abs() >= 0.25 {
            return Err(format!("{name} {state}: {found} s of {expect} s\n{folded}"));
        }
    }
    Ok(())
}
