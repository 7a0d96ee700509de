//! Programs we did not write, talking to Pyrite as they talk to any Pyroscope.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::fixture;
use crate::pyrite::{CPU, Pyrite, eventually, now_ms};
use crate::python::python_with;
use crate::support::stdout;

/// The version of the SDK that the test speaks for.
const SDK: &str = "pyroscope-io==1.4.0";
/// How soon what a client has pushed is in the answers.
const QUERYABLE_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn the_python_sdk_pushes_and_its_profile_can_be_queried() {
    let python = python_with(Path::new(env!("CARGO_TARGET_TMPDIR")), &[SDK]);
    let data = tempfile::tempdir().expect("a directory");
    let pyrite = Pyrite::server(data.path());
    let script = fixture("clients/pyroscope_sdk.py");
    let cpu_ns = stdout(Command::new(python).arg(script).arg(pyrite.url()).args(["sdk.service", "12"]));
    let cpu_ns: i64 = cpu_ns.trim().parse().expect("nanoseconds");

    // The SDK pushes the last of it before it ends.
    let pushed = Instant::now();
    let selector = r#"{service_name="sdk.service"}"#;
    let values = eventually("the SDK's profile", || {
        let values = pyrite.self_values(selector);
        values.iter().any(|(name, _)| name.contains("burn_in_python")).then_some(values)
    });
    let took = pushed.elapsed();
    assert!(took <= QUERYABLE_WITHIN, "queryable {took:?} after the last push");
    let total: i64 = values.iter().map(|(_, value)| value).sum();
    let burnt: i64 = values.iter().filter(|(name, _)| name.contains("burn_in_python")).map(|(_, v)| v).sum();
    // One thread that did nothing else for twelve seconds. The SDK also counts the time that it waits for a CPU.
    assert!(burnt > total * 9 / 10, "{values:?}");
    assert!((cpu_ns / 2..15_000_000_000).contains(&burnt), "{cpu_ns} ns of CPU time: {values:?}");

    let window = json!({"start": now_ms() - 300_000, "end": now_ms() + 1000});
    let types = pyrite.call("ProfileTypes", &window).to_string();
    assert!(types.contains(CPU), "{types}");
    let request = json!({"name": "region", "start": window["start"], "end": window["end"]});
    assert_eq!(pyrite.call("LabelValues", &request)["names"], json!(["here"]));
}
