//! Real containers by podman and runc, found through conmon and through podman's own socket.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use pyrite::identity::runtime::RuntimeConfig;
use pyrite_model::names;

use super::common::privileged;
use super::podman::{IMAGE, Podman};
use super::{final_labels, identity, no_runtimes, subject};

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _stopped = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn root_two_containers_have_their_own_names_and_image() {
    let Some(_turn) = privileged("root_two_containers_have_their_own_names_and_image") else { return };
    let podman = Podman::new();
    let containers = ["pyrite-red", "pyrite-blue"].map(|name| (name, podman.spin(name)));
    let mut identity = identity(no_runtimes());
    for (name, id) in &containers {
        let pid: u32 = podman.call(&["pid", name]).parse().unwrap();
        let labels = final_labels(&mut identity, &subject(pid)).set;
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
    for (name, id) in &containers {
        let listed = inventory.iter().find(|s| s.labels.get(names::CONTAINER_ID) == Some(id)).expect(name);
        assert_eq!(listed.labels.get(names::SERVICE_NAME), Some(*name));
        assert!(listed.cpu_ns > 0, "it spins");
    }
}

#[test]
fn root_an_inventory_names_containers_that_were_never_sampled() {
    let Some(_turn) = privileged("root_an_inventory_names_containers_that_were_never_sampled") else {
        return;
    };
    let podman = Podman::new();
    let id = podman.start("pyrite-idle", &["/bin/sleep", "1000"]);
    let mut identity = identity(no_runtimes());
    let deadline = Instant::now() + Duration::from_mins(1);
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
    let Some(_turn) = privileged("root_podmans_socket_answers_like_dockers") else { return };
    let podman = Podman::new();
    let id = podman.spin("pyrite-green");
    let socket = podman.dir.join("api.sock");
    let address = format!("unix://{}", socket.display());
    let mut command = podman.command(&["podman", "system", "service", "--time=0", &address]);
    let _service = Service(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_mins(1);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "podman's service does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let config = RuntimeConfig { docker: vec![socket], ..no_runtimes() };
    let metadata = super::runtimes::ask(config, super::runtimes::docker(&id)).unwrap();
    assert_eq!((metadata.name.as_str(), metadata.image.as_str()), ("pyrite-green", IMAGE));
}
