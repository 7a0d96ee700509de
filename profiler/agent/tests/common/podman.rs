//! Podman with storage of its own, removed with all its containers at the end.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::common::fixture;

/// The image that every container runs.
pub(crate) const IMAGE: &str = "localhost/pyrite-fixture:1";

/// See `fixtures/containers/podman.sh`.
pub(crate) struct Podman {
    pub(crate) dir: PathBuf,
    _parent: TempDir,
}

impl Podman {
    pub(crate) fn new() -> Self {
        let parent = TempDir::new().expect("a directory");
        let podman = Self { dir: parent.path().join("podman"), _parent: parent };
        podman.call(&["up"]);
        podman
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(fixture("containers/podman.sh"));
        command.arg(&self.dir).args(args);
        command
    }

    /// What the script prints; it must succeed.
    pub(crate) fn call(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("the script starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman.sh {args:?}: {stderr}");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// Starts a container and returns its id.
    pub(crate) fn start(&self, name: &str, command: &[&str]) -> String {
        self.call(&[&["run", name][..], command].concat())
    }

    /// Starts a container that burns one CPU and returns its id.
    pub(crate) fn spin(&self, name: &str) -> String {
        self.start(name, &["/bin/sh", "-c", "while :; do :; done"])
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What cannot be removed lies in a temporary directory.
        let _ = self.command(&["down"]).status();
    }
}
