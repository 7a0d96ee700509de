//! What a person at a terminal sees when things go right and wrong.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Output;

use crate::common::privileged;
use crate::pyrite::{Pyrite, command};

fn output(args: &[&str]) -> (Output, String) {
    let output = command(args).output().expect("the binary starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stderr)
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let data = tempfile::tempdir().expect("a directory");
    let data = data.path().to_str().expect("UTF-8");
    let (output, stderr) = output(&["server", "--listen", &address, "--data", data]);
    assert!(!output.status.success());
    assert!(stderr.contains(&address) && stderr.contains("in use"), "{stderr}");
    assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
}

#[test]
fn a_bad_configuration_names_file_and_key() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("pyrite.toml");
    std::fs::write(&file, "frequncy = 97\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    let (output, stderr) = output(&["server", "--config", file]);
    assert!(!output.status.success());
    assert!(stderr.contains(file) && stderr.contains("frequncy"), "{stderr}");
}

#[test]
fn root_without_privilege_one_sentence() {
    let Some(_turn) = privileged("root_without_privilege_one_sentence") else { return };
    let folder = tempfile::tempdir_in("/tmp").expect("a directory");
    // Root may hold the build directory closed to others; what nobody runs is a copy.
    let copy = folder.path().join("pyrite");
    std::fs::copy(env!("CARGO_BIN_EXE_pyrite"), &copy).expect("copied");
    for (path, mode) in [(folder.path(), 0o755), (copy.as_path(), 0o755)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("ours");
    }
    for args in [&["run"][..], &["record", "-o", "/tmp/never.svg"]] {
        let output = std::process::Command::new(&copy)
            .args(args)
            .env("HOME", "/nonexistent")
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output()
            .expect("the binary starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
        assert!(stderr.contains("root") && stderr.contains("sudo"), "{stderr}");
    }
}

#[test]
fn server_answers_and_ends_on_sigterm() {
    let data = tempfile::tempdir().expect("a directory");
    let pyrite = Pyrite::server(data.path());
    assert_eq!(pyrite.get("/ready").status, 200);
    assert!(pyrite.terminate().success());
}

#[test]
fn help_tells_a_newcomer_where_to_start() {
    let (output, _) = output(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    for word in ["doctor", "run", "record", "http://127.0.0.1:4040"] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
}

#[test]
fn bpf_doctor_prints_a_line_per_check_and_is_content_here() {
    let Some(_turn) = privileged("bpf_doctor") else { return };
    let (output, stderr) = output(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{stderr}");
    let checks =
        ["kernel", "BTF", "privilege", "clang", "sampling", "cgroups", "data directory", "port 4040"];
    for check in checks {
        let line = text.lines().find(|line| line.get(9..).is_some_and(|rest| rest.starts_with(check)));
        let line = line.unwrap_or_else(|| panic!("{check} is not in:\n{text}"));
        assert!(line.starts_with("ok ") || line.starts_with("limited"), "{line}");
    }
    assert!(stderr.is_empty(), "{stderr}");
}
