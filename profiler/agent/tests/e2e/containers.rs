//! Real containers, by podman and runc, seen as a user sees them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::privileged;
use crate::podman::{IMAGE, Podman};
use crate::pyrite::{Pyrite, command, eventually};
use crate::support::{folded_samples, stdout};

const RED: &str = "pyrite-e2e-red";
const BLUE: &str = "pyrite-e2e-blue";
const IDLE: &str = "pyrite-e2e-idle";
/// How soon after the start what used some CPU has its flame graph.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn bpf_two_containers_side_by_side_and_one_that_idles() {
    let Some(_turn) = privileged("bpf_two_containers_side_by_side") else { return };
    let data = TempDir::new().expect("a directory");
    let podman = Podman::new();
    let idle = podman.start(IDLE, &["/bin/sleep", "1000"]);
    let red = podman.spin(RED);
    let started = Instant::now();
    let pyrite = Pyrite::run(data.path(), &[]);
    let burns = eventually("a container that was there before", || {
        let services = pyrite.services();
        let cpu_seconds = services.get(RED)?["cpu_seconds"].as_f64().filter(|used| *used >= 0.2)?;
        (pyrite.cpu_ns(&format!("{{service_name={RED:?}}}")) > 0).then_some(cpu_seconds)
    });
    let took = started.elapsed();
    println!("{burns:.2} s of CPU of a container shown {took:.1?} after the start");
    assert!(took <= SHOWN_WITHIN, "shown {took:?} after the start");
    // One that was there before Pyrite, one that comes after it.
    let blue = podman.spin(BLUE);

    let services = eventually("both containers burn, the third idles", || {
        let services = pyrite.services();
        let used = |name| services.get(name).and_then(|service| service["cpu_seconds"].as_f64());
        let is_listed = used(RED) > Some(1.0) && used(BLUE) > Some(1.0) && used(IDLE).is_some();
        is_listed.then_some(services)
    });
    for (name, id) in [(RED, &red), (BLUE, &blue), (IDLE, &idle)] {
        let service = &services[name];
        let label = |name: &str| service["labels"][name].as_str().unwrap_or_default().to_owned();
        assert_eq!(service["kind"], "container", "{service}");
        assert_eq!(service["idle"], Value::Bool(name == IDLE), "{service}");
        assert_eq!(label("container_name"), name);
        assert_eq!((label("container_id").as_str(), label("image").as_str()), (id.as_str(), IMAGE));
    }
    for (name, id) in [(RED, &red), (BLUE, &blue)] {
        let by_name = pyrite.cpu_series(&format!("{{container_id={id:?}}}"), "service_name");
        let names: BTreeSet<&str> = by_name.keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from([name]), "{by_name:?}");
        let cpu_s = by_name[name].iter().map(|(_, value)| value).sum::<f64>() / 1e9;
        assert!(cpu_s > 1.0, "{name} used {cpu_s} s");
        assert!(pyrite.cpu_ns(&format!("{{service_name={name:?}}}")) > 1_000_000_000, "it has a flame graph");
    }
    assert!(pyrite.terminate().success());
    record_one(data.path());
}

/// `record --container` while two containers burn: only the one that was asked for is in the file.
fn record_one(directory: &Path) {
    let file = directory.join("red.folded");
    let record = |name: &str| {
        let mut record = command(&["record", "--frequency", "997", "--duration", "2s", "--container", name]);
        record.arg("-o").arg(&file);
        record
    };
    stdout(&mut record(RED));
    let folded = std::fs::read_to_string(&file).expect("it was written");
    let (_, samples) = folded_samples(&folded, "");
    // One thread that spins for two seconds beside another, and beside whatever else keeps the CPUs busy.
    assert!((100.0..2200.0).contains(&samples), "{samples} samples:\n{folded}");
    assert!(folded.lines().all(|line| line.contains("busybox")), "something else is in it:\n{folded}");

    let refused = record("no-such-container").output().expect("the binary starts");
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
    assert!(stderr.contains("no container \"no-such-container\"") && stderr.contains(BLUE), "{stderr}");
}
