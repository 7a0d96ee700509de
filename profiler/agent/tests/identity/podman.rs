//! Real containers by podman and runc, found through conmon and through podman's own socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pyrite::identity::runtime::RuntimeConfig;
use pyrite_model::names;

use super::{final_labels, identity, no_runtimes, privileged, subject};

const IMAGE: &str = "localhost/pyrite-fixture:1";

/// Podman with storage of its own, removed with all its containers at the end.
struct Podman {
    dir: PathBuf,
    _parent: tempfile::TempDir,
}

impl Podman {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let podman = Self { dir: parent.path().join("podman"), _parent: parent };
        podman.call(&["up"]);
        podman
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/containers/podman.sh");
        let mut command = Command::new(script);
        command.arg(&self.dir).args(arguments);
        command
    }

    fn call(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman.sh {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts a container that spins; returns its id and its first process.
    fn spin(&self, name: &str) -> (String, u32) {
        let id = self.call(&["run", name, "/bin/sh", "-c", "while :; do :; done"]);
        (id, self.call(&["pid", name]).parse().unwrap())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _cleaned = self.command(&["down"]).status();
    }
}

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _stopped = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn root_two_containers_have_their_own_names_and_image() {
    if !privileged("root_two_containers_have_their_own_names_and_image") {
        return;
    }
    let podman = Podman::new();
    let containers = ["pyrite-red", "pyrite-blue"].map(|name| (name, podman.spin(name)));
    let mut identity = identity(no_runtimes());
    for (name, (id, pid)) in &containers {
        let labels = final_labels(&mut identity, &subject(*pid)).set;
        let get = |label| labels.get(label).unwrap_or_default();
        assert_eq!((get(names::SERVICE_NAME), get(names::CONTAINER_NAME)), (*name, *name));
        assert_eq!((get(names::CONTAINER_ID), get(names::IMAGE)), (id.as_str(), IMAGE));
        assert_eq!(
            (get(names::NODE), get(names::COMM), get(names::EXE)),
            ("node-1", "worker", "/bin/busybox")
        );
    }
    let started = Instant::now();
    let inventory = identity.inventory();
    println!("{} units scanned in {} µs", inventory.len(), started.elapsed().as_micros());
    for (name, (id, _)) in &containers {
        let listed = inventory.iter().find(|s| s.labels.get(names::CONTAINER_ID) == Some(id)).expect(name);
        assert_eq!(listed.labels.get(names::SERVICE_NAME), Some(*name));
        assert!(listed.cpu_ns > 0, "it spins");
    }
}

#[test]
fn root_an_inventory_names_containers_that_were_never_sampled() {
    if !privileged("root_an_inventory_names_containers_that_were_never_sampled") {
        return;
    }
    let podman = Podman::new();
    let id = podman.call(&["run", "pyrite-idle", "/bin/sleep", "1000"]);
    let mut identity = identity(no_runtimes());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let inventory = identity.inventory();
        let listed = inventory.iter().find(|s| s.labels.get(names::CONTAINER_ID) == Some(&id)).unwrap();
        if listed.labels.get(names::SERVICE_NAME) == Some("pyrite-idle") {
            assert_eq!(listed.labels.get(names::IMAGE), Some(IMAGE));
            break;
        }
        assert!(Instant::now() < deadline, "{}", listed.labels);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn root_podmans_socket_answers_like_dockers() {
    if !privileged("root_podmans_socket_answers_like_dockers") {
        return;
    }
    let podman = Podman::new();
    let (id, _) = podman.spin("pyrite-green");
    let socket = podman.dir.join("api.sock");
    let address = format!("unix://{}", socket.display());
    let mut command = podman.command(&["podman", "system", "service", "--time=0", &address]);
    let _service = Service(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(5);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "podman's service does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let config = RuntimeConfig { docker: vec![socket], ..no_runtimes() };
    let metadata = super::runtimes::ask(config, super::runtimes::docker(&id)).unwrap();
    assert_eq!((metadata.name.as_str(), metadata.image.as_str()), ("pyrite-green", IMAGE));
}
