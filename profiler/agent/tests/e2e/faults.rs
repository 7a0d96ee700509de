//! What goes wrong on real nodes: each gives a clear message or a counted reason, and nothing stored is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{fixture, privileged};
use crate::pushes::{self, PATH, PROTOBUF, VALUE};
use crate::pyrite::{Pyrite, Response, command, eventually};
use crate::support::{Load, Workload, check_ledger, metric, stdout};

const SERVICE: &str = r#"{service_name="faulty"}"#;

fn push(pyrite: &Pyrite, labels: &[(&str, &str)]) -> Response {
    pyrite.post(PATH, PROTOBUF, &pushes::push(labels))
}

/// A push whose labels are so long that a few hundred of them fill a small disk.
fn push_long(pyrite: &Pyrite, n: usize) -> Response {
    push(pyrite, &[("service_name", "faulty"), ("long", &format!("{n}-{}", "x".repeat(2000)))])
}

/// How many of its pushes are there.
fn stored_pushes(pyrite: &Pyrite) -> i64 {
    pyrite.cpu_ns(SERVICE) / VALUE
}

/// A file system of its own, in memory.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    fn new(megabytes: usize) -> Self {
        let directory = TempDir::new().expect("a directory");
        let size = format!("size={megabytes}m");
        stdout(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()));
        Self { directory }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.directory.path().join("ballast")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let filled = fs::write(self.ballast(), vec![0; 64 << 20]);
        assert!(filled.is_err(), "the file system is larger than this test thinks");
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A lazy unmount goes through even where the test failed and something is still open.
        let _ = Command::new("umount").arg("--lazy").arg(self.directory.path()).status();
    }
}

#[test]
fn root_a_full_disk_refuses_pushes_and_takes_them_again_when_there_is_room() {
    let Some(_turn) = privileged("root_a_full_disk_refuses_pushes") else { return };
    let disk = SmallDisk::new(16);
    let pyrite = Pyrite::server(&disk.data());
    let mut acknowledged = 0;
    for n in 0..20 {
        let answer = push_long(&pyrite, n);
        assert_eq!(answer.status, 200, "{}", answer.text());
        acknowledged += 1;
    }
    disk.fill();
    let refusal = (20..400).find_map(|n| {
        let answer = push_long(&pyrite, n);
        acknowledged += i64::from(answer.status == 200);
        (answer.status != 200).then_some(answer)
    });
    let refusal = refusal.expect("the disk is full");
    // 503, so that a client keeps the profile and tries again.
    assert_eq!(refusal.status, 503, "{}", refusal.text());
    assert!(refusal.text().contains("disk is full"), "{}", refusal.text());
    assert_eq!(stored_pushes(&pyrite), acknowledged, "what was there before is there still");
    let metrics = pyrite.get("/metrics").text();
    assert!(metric(&metrics, r#"pyrite_store_rejected_rows_total{reason="disk_full"}"#) > 0.0, "{metrics}");
    disk.make_room();
    let again = push_long(&pyrite, 400);
    assert_eq!(again.status, 200, "{}", again.text());
    acknowledged += 1;
    assert_eq!(stored_pushes(&pyrite), acknowledged);
    pyrite.kill();
    assert_eq!(stored_pushes(&Pyrite::server(&disk.data())), acknowledged);
}

#[test]
fn bpf_a_full_disk_costs_the_agent_counted_ticks_only() {
    let Some(_turn) = privileged("bpf_a_full_disk_costs_counted_ticks") else { return };
    let disk = SmallDisk::new(16);
    let busy = Workload::build("busy");
    let _load = busy.start(&["1", "100", "40"]);
    let pyrite = Pyrite::run(&disk.data(), &["--frequency", "997"]);
    let wait = |what: &str, is_so: &dyn Fn(&str) -> bool| {
        eventually(what, || is_so(&pyrite.get("/metrics").text()).then_some(()));
    };
    let ticks =
        |metrics: &str, fate: &str| metric(metrics, &format!("pyrite_sampler_ticks_total{{fate={fate:?}}}"));
    wait("rows are stored", &|metrics| ticks(metrics, "stored") > 1000.0);
    let before = pyrite.cpu_ns(&busy.selector());
    disk.fill();
    wait("rows are refused", &|metrics| ticks(metrics, "store_refused") > 1000.0);
    let lost_waits = r#"pyrite_sampler_notes_total{note="off_cpu_stack_lost"}"#;
    wait("so are those of time off the CPU", &|metrics| metric(metrics, lost_waits) > 0.0);
    check_ledger(&pyrite);
    let still_there = pyrite.cpu_ns(&busy.selector());
    assert!(before > 0 && still_there >= before, "of {before} ns {still_there} ns are left");
    disk.make_room();
    let stored = ticks(&pyrite.get("/metrics").text(), "stored");
    wait("rows are stored again", &|metrics| ticks(metrics, "stored") > stored + 1000.0);
    check_ledger(&pyrite);
    assert!(pyrite.terminate().success());
}

/// How a Pyrite that cannot use this data directory says so: in one line.
fn refusal(data: &Path) -> String {
    let output = command(&["server", "--listen", "127.0.0.1:0", "--data"]).arg(data).output();
    let output = output.expect("the binary starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{stderr}");
    assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
    stderr
}

#[test]
fn a_data_directory_of_a_newer_version_is_left_alone() {
    let data = TempDir::new().expect("a directory");
    let pyrite = Pyrite::server(data.path());
    assert_eq!(push_long(&pyrite, 0).status, 200);
    assert!(pyrite.terminate().success());
    let format = data.path().join("format");
    let ours = fs::read(&format).expect("the directory says its version");
    fs::write(&format, "999\n").expect("ours to write");
    let stderr = refusal(data.path());
    assert!(stderr.contains("version 999") && stderr.contains("newer release"), "{stderr}");
    fs::write(&format, ours).expect("ours to write");
    assert_eq!(stored_pushes(&Pyrite::server(data.path())), 1);
}

#[test]
fn a_second_pyrite_on_the_same_data_names_the_first() {
    let data = TempDir::new().expect("a directory");
    let pyrite = Pyrite::server(data.path());
    let stderr = refusal(data.path());
    assert!(stderr.contains(&format!("pid {}", pyrite.pid())), "{stderr}");
    assert!(stderr.contains(data.path().to_str().expect("UTF-8")), "{stderr}");
    assert_eq!(push_long(&pyrite, 0).status, 200, "the first one works on");
}

#[test]
fn malformed_pushes_are_refused_with_their_reason_and_nothing_is_lost() {
    let data = TempDir::new().expect("a directory");
    let pyrite = Pyrite::server(data.path());
    assert_eq!(push_long(&pyrite, 0).status, 200);
    let labels = [("service_name", "faulty")];
    let series = |profile: &[u8]| pushes::series(&labels, profile);
    let good = pushes::profile("work");
    let request = |series: &[Vec<u8>]| -> Vec<u8> {
        series.iter().flat_map(|series| crate::support::message(1, series)).collect()
    };
    let cases = [
        ("not Protobuf", b"\xff\xff\xff garbage".to_vec()),
        ("no profile at all", Vec::new()),
        ("a profile that is no gzip and no pprof", request(&[series(b"\xff\xff garbage")])),
        ("gzip cut short", request(&[series(&good[..good.len() / 2])])),
        // Stored as a whole or not at all: the first series is sound.
        ("the second of two series is cut short", request(&[series(&good), series(&good[..good.len() / 2])])),
    ];
    for (what, body) in &cases {
        let answer = pyrite.post(PATH, PROTOBUF, body);
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        let reason = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        assert!(reason.len() > 10, "{what}: {}", answer.text());
        println!("{what}: {reason}");
    }
    let metrics = pyrite.get("/metrics").text();
    assert_eq!(metric(&metrics, "pyrite_push_rejected_total") as usize, cases.len(), "{metrics}");
    assert_eq!(stored_pushes(&pyrite), 1);
    pyrite.kill();
    assert_eq!(stored_pushes(&Pyrite::server(data.path())), 1);
}

/// A program all of whose code is in a shared library beside it, so that the library can be damaged while it runs.
fn build_in_library(folder: &Path) -> (PathBuf, PathBuf) {
    let (program, library) = (folder.join("main"), folder.join("libbusy.so"));
    let cc = |args: &[&str]| {
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-g", "-fno-omit-frame-pointer", "-pthread"]).args(args);
        cc
    };
    let source = fixture("workloads/busy.c");
    stdout(cc(&["-shared", "-fPIC", "-o"]).arg(&library).arg(source));
    stdout(cc(&["-Wl,-rpath,$ORIGIN", "-o"]).arg(&program).arg(&library));
    (program, library)
}

#[test]
fn bpf_a_library_replaced_or_truncated_while_mapped_is_survived() {
    let Some(_turn) = privileged("bpf_a_library_replaced_or_truncated") else { return };
    let folder = TempDir::new().expect("a directory");
    let (program, library) = build_in_library(folder.path());
    let pyrite = Pyrite::run(&folder.path().join("data"), &["--frequency", "997"]);
    let selector = format!("{{exe={:?}}}", program.to_str().expect("UTF-8"));
    let named = |function: &str| {
        let values = pyrite.self_values(&selector);
        values.into_iter().find(|(name, _)| name == function).map_or(0, |(_, ns)| ns)
    };
    let start = || Load::start(Command::new(&program).args(["1", "100", "3"]));
    let grows = |what: &str| {
        let before = named("mix");
        eventually(what, || (named("mix") > before + 300_000_000).then_some(()));
    };
    let (mut load, mut burnt) = (start(), 0.0);
    grows("functions of the library have names");
    // Replaced as an upgrade does it: the running process keeps the old file, which has no name any more.
    let upgrade = folder.path().join("upgrade.so");
    fs::write(&upgrade, b"not even an ELF file").expect("written");
    fs::copy(&library, folder.path().join("saved.so")).expect("copied");
    fs::rename(&upgrade, &library).expect("replaced");
    grows("the old code keeps its names");
    assert!(!load.has_ended());
    burnt += load.cpu_ns();
    drop(load);
    // Cut off under a process that runs it: the kernel kills that process, and Pyrite must read what is left.
    fs::rename(folder.path().join("saved.so"), &library).expect("put back");
    let mut load = start();
    eventually("a second of CPU time", || (load.cpu_ns() > 1e9).then_some(()));
    burnt += load.cpu_ns();
    let cut = fs::OpenOptions::new().write(true).truncate(true).open(&library);
    assert!(cut.is_ok(), "{cut:?}");
    eventually("the process dies of its missing code", || load.has_ended().then_some(()));
    // Whatever has no name is stored all the same. What others make the clock lose is not.
    eventually("all that was burnt", || (pyrite.cpu_ns(&selector) as f64 > burnt * 0.9).then_some(()));
    check_ledger(&pyrite);
    assert!(pyrite.terminate().success());
}
