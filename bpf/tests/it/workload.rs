//! Builds and runs the workloads of `fixtures/workloads`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Programs and libraries, built into a directory of their own.
pub(crate) struct Workloads(TempDir);

/// A running workload; killed when dropped.
pub(crate) struct Running(Child);

impl Workloads {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn cc(&self, source: &str, output: &str, flags: &[&str]) {
        let mut cc = Command::new("cc");
        cc.arg("-O2").arg(source_path(source)).arg("-o").arg(self.path(output));
        assert!(cc.args(flags).current_dir(self.0.path()).status().expect("cc is installed").success());
    }

    /// `busy` without frame pointers.
    pub(crate) fn build_busy(&self) {
        self.cc("busy.c", "busy", &["-fomit-frame-pointer", "-pthread"]);
    }

    /// `layers` with its seven libraries.
    pub(crate) fn build_layers(&self) {
        let libraries: Vec<String> = (0..7).map(|layer| format!("liblayer{layer}.so")).collect();
        for (layer, library) in libraries.iter().enumerate() {
            let define = format!("-DLAYER={layer}");
            self.cc("layers.c", library, &["-fomit-frame-pointer", "-fPIC", "-shared", &define]);
        }
        let mut flags = vec!["-fomit-frame-pointer", "-Wl,-rpath,$ORIGIN"];
        flags.extend(libraries.iter().map(String::as_str));
        self.cc("layers.c", "layers", &flags);
    }

    /// Compiles a BPF object.
    pub(crate) fn clang_bpf(&self, source: &str, output: &str) {
        let mut clang = Command::new("clang");
        clang.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-isystem", "/usr/include/x86_64-linux-gnu"]);
        clang.args(["-isystem", "/usr/include/aarch64-linux-gnu", "-c"]);
        clang.arg(source_path(source)).arg("-o").arg(self.path(output));
        assert!(clang.status().unwrap().success());
    }

    /// Starts one of the programs.
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> Running {
        start(Command::new(self.path(name)).args(arguments))
    }

    /// The same ahead of whatever else the machine does, so that the ticks of the CPU it runs on meet it.
    pub(crate) fn run_before_others(&self, name: &str, arguments: &[&str]) -> Running {
        let running = start(Command::new("setsid").arg(self.path(name)).args(arguments));
        // The kernel shares the CPUs out among sessions first, where it does so at all, and then within each.
        let _ = std::fs::write(format!("/proc/{}/autogroup", running.tgid()), "-15");
        let renice = Command::new("renice").args(["-n", "-15", "-p", &running.tgid().to_string()]).output();
        assert!(renice.unwrap().status.success());
        running
    }
}

/// Starts a program and gives it time to get to where it stays.
pub(crate) fn start(command: &mut Command) -> Running {
    let child = command.stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    Running(child)
}

impl Running {
    pub(crate) fn tgid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It fails only where the workload has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn source_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/workloads").join(name)
}
