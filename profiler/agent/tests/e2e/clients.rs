//! Programs we did not write, talking to Pyrite as they talk to any Pyroscope.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::pyrite::{CPU, Pyrite, eventually, now_ms};

/// The version of the SDK that the test speaks for.
const SDK: &str = "pyroscope-io==1.4.0";

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A Python with the SDK in it, made once and kept with the other build products.
fn python_with_sdk() -> PathBuf {
    let venv = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(SDK.replace("==", "-"));
    let python = venv.join("bin/python");
    let complete = venv.join("complete");
    if !complete.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
        run(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            SDK,
        ]));
        std::fs::write(complete, "").expect("the directory is ours");
    }
    python
}

#[test]
fn the_python_sdk_pushes_and_its_profile_can_be_queried() {
    let python = python_with_sdk();
    let data = tempfile::tempdir().expect("a directory");
    let pyrite = Pyrite::server(data.path());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/clients/pyroscope_sdk.py");
    run(Command::new(python).arg(script).arg(pyrite.url()).args(["sdk.service", "12"]));

    let selector = r#"{service_name="sdk.service"}"#;
    let values = eventually("the SDK's profile", Duration::from_secs(2), || {
        let values = pyrite.self_values(selector, Duration::from_mins(5));
        values.iter().any(|(name, _)| name.contains("burn_in_python")).then_some(values)
    });
    let total: i64 = values.iter().map(|(_, value)| value).sum();
    let burnt: i64 = values.iter().filter(|(name, _)| name.contains("burn_in_python")).map(|(_, v)| v).sum();
    // One thread that did nothing else for twelve seconds.
    assert!(burnt > total * 9 / 10, "{values:?}");
    assert!((6_000_000_000..15_000_000_000).contains(&burnt), "{values:?}");

    let window = json!({"start": now_ms() - 300_000, "end": now_ms() + 1000});
    let types = pyrite.call("ProfileTypes", &window).to_string();
    assert!(types.contains(CPU), "{types}");
    let request = json!({"name": "region", "start": window["start"], "end": window["end"]});
    assert_eq!(pyrite.call("LabelValues", &request)["names"], json!(["here"]));
}
