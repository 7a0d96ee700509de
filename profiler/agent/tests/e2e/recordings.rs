//! `pyrite record`: what lands in the file, what the exit code says, and how it ends early.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::common::privileged;
use crate::pyrite::{command, eventually};
use crate::support::{Workload, folded_samples, read_with_pprof};

const FUNCTIONS: [&str; 3] = ["seventy", "twenty", "ten"];

fn record(file: &Path, args: &[&str]) -> Command {
    let mut record = command(&["record", "--frequency", "997", "-o"]);
    record.arg(file).args(args);
    record
}

fn output(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().expect("the binary starts");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn bpf_record_returns_the_exit_code_of_its_command() {
    let Some(_turn) = privileged("bpf_record_exit_code") else { return };
    let folder = TempDir::new().expect("a directory");
    let file = folder.path().join("out.pb.gz");
    let cases: [(&[&str], i32); 6] = [
        (&["true"], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["/no/such/command"], 127),
        (&[env!("CARGO_MANIFEST_DIR")], 126),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
    ];
    for (run, expect) in cases {
        let (code, stderr) = output(record(&file, &[&["--"], run].concat()));
        assert_eq!(code, Some(expect), "{run:?}: {stderr}");
        assert!(fs::metadata(&file).is_ok_and(|meta| meta.len() > 0), "{run:?}: {stderr}");
        fs::remove_file(&file).expect("it was written");
    }
}

#[test]
fn bpf_record_follows_children_into_every_format() {
    let Some(_turn) = privileged("bpf_record_formats") else { return };
    let shares = Workload::build("shares");
    // The command that records is a shell; what burns is its child's child.
    let script = format!("(sh -c '{} 700; true'); exit 3", shares.path().display());
    for ending in ["pb.gz", "folded", "svg", "html"] {
        let file = shares.directory().join(format!("out.{ending}"));
        let (code, stderr) = output(record(&file, &["--", "sh", "-c", &script]));
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains("samples") && stderr.contains("written to"), "{stderr}");
        if ending == "pb.gz" {
            let times = read_with_pprof(&file);
            let [seventy, twenty, ten] = FUNCTIONS.map(|name| times.get(name).copied().unwrap_or(0.0));
            assert!(seventy > twenty && twenty > ten && ten > 0.0, "{times:?}");
            assert!((0.6e9..0.8e9).contains(&(seventy + twenty + ten)), "{times:?}");
            continue;
        }
        let text = fs::read_to_string(&file).expect("it is text");
        assert!(FUNCTIONS.iter().all(|name| text.contains(name)), "{ending}: {text}");
        match ending {
            "folded" => {
                let (seventy, all) = folded_samples(&text, "seventy");
                assert!((0.55..0.75).contains(&(seventy / all)), "{text}");
                assert!(text.lines().any(|line| line.contains(";main;")), "{text}");
            }
            "svg" => assert!(text.starts_with("<?xml") && text.trim_end().ends_with("</svg>")),
            _ => assert!(text.starts_with("<!doctype html>") && !text.contains("src=\"http")),
        }
    }
}

#[test]
fn bpf_record_of_a_process_ends_with_its_time_or_with_a_signal() {
    let Some(_turn) = privileged("bpf_record_signals") else { return };
    let busy = Workload::build("busy");
    let (load, _other) = (busy.start(&["1", "100", "3"]), busy.start(&["1", "100", "3"]));
    let file = busy.directory().join("out.folded");
    let pid = load.pid().to_string();
    for signal in [None, Some("INT"), Some("TERM")] {
        let duration = if signal.is_some() { "60s" } else { "2s" };
        let before = load.cpu_ns();
        let mut child = record(&file, &["--pid", &pid, "--duration", duration]).spawn().expect("it starts");
        if let Some(signal) = signal {
            eventually("two seconds of CPU time", || (load.cpu_ns() - before > 2e9).then_some(()));
            let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
            assert!(sent.is_ok_and(|status| status.success()), "{signal}");
        }
        let status = eventually("the recording ends", || child.try_wait().expect("our child"));
        assert!(status.success(), "{signal:?}: {status}");
        let folded = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{signal:?}: {error}"));
        // Of the two processes that spin only the one: no more than its own time, and a good part of that, for sampling
        // begins a little after the command.
        let most = (load.cpu_ns() - before) / 1e9 * 997.0 * 1.05;
        let (_, all) = folded_samples(&folded, "");
        assert!(most / 4.0 < all && all <= most, "{signal:?}: {all} samples of {most:.0}:\n{folded}");
        assert!(folded.contains("mix"), "{folded}");
        fs::remove_file(&file).expect("it is there");
    }
}

#[test]
fn bpf_record_of_what_is_not_there_is_one_sentence() {
    let Some(_turn) = privileged("bpf_record_refusals") else { return };
    let folder = TempDir::new().expect("a directory");
    let file = folder.path().join("out.svg");
    let text_file = folder.path().join("out.txt");
    let cases: [(&Path, &[&str], &str); 4] = [
        (&file, &["--pid", "4194304"], "there is no process 4194304"),
        (&file, &["--container", "no-such-container"], "there is no container \"no-such-container\""),
        (&text_file, &["--duration", "1s"], "names no format"),
        (Path::new("/no/such/directory/out.svg"), &["--", "true"], "/no/such/directory/out.svg"),
    ];
    for (file, args, expect) in cases {
        let (code, stderr) = output(record(file, args));
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(expect), "{stderr}");
        assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
    }
}
