//! Processes in cgroups made for the test, a process that is gone, and a runtime that hangs meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use pyrite::identity::inventory::{CgroupMounts, Inventory};
use pyrite::identity::runtime::RuntimeConfig;
use pyrite::identity::{Certainty, Subject};
use pyrite_model::names;
use pyrite_sampling::{BootNs, ProcessKey};

use super::common::privileged;
use super::{final_labels, identity, no_runtimes, subject};

/// A cgroup v2 directory with a sleeping process in it.
struct Group {
    dir: PathBuf,
    child: Child,
}

impl Group {
    fn new(path: &str) -> Self {
        let dir = CgroupMounts::find().unified.expect("cgroup v2 is mounted").join(path);
        fs::create_dir_all(&dir).unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        Self { dir, child }
    }

    fn id(&self) -> u64 {
        fs::metadata(&self.dir).unwrap().ino()
    }

    fn kill(&mut self) {
        let _dead = self.child.kill().and_then(|()| self.child.wait());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        let _removed = fs::remove_dir(&self.dir);
    }
}

#[test]
fn this_process_is_named_after_its_unit_or_executable() {
    let labels = final_labels(&mut identity(no_runtimes()), &subject(std::process::id())).set;
    let exe = std::env::current_exe().unwrap();
    assert_eq!(labels.get(names::EXE), exe.to_str());
    assert_eq!(labels.get(names::COMM), Some("worker"));
    assert!(labels.get(names::SERVICE_NAME).is_some());
}

#[test]
fn kernel_threads_are_the_kernel() {
    let mut identity = identity(no_runtimes());
    for tgid in [0, 2] {
        let labels = identity.labels_for(&subject(tgid));
        assert_eq!(labels.set.get(names::SERVICE_NAME), Some("kernel"), "{tgid}");
        assert_eq!((labels.set.get(names::EXE), labels.certainty), (None, Certainty::Final));
    }
    let gone = Subject { is_kernel_thread: true, ..subject(u32::MAX) };
    assert_eq!(identity.labels_for(&gone).set.get(names::SERVICE_NAME), Some("kernel"));
    assert_eq!(identity.stats().process_misses, [0, 0, 0]);
}

#[test]
fn a_process_that_nothing_is_known_of_is_named_after_its_thread() {
    let mut identity = identity(no_runtimes());
    let labels = identity.labels_for(&subject(u32::MAX)).set;
    assert_eq!(labels.get(names::SERVICE_NAME), Some("worker"));
    assert_eq!(identity.stats().process_misses, [1, 0, 0]);
    let pid = std::process::id();
    let reused = Subject { process: ProcessKey { tgid: pid, start: BootNs(1) }, ..subject(pid) };
    assert_eq!(identity.labels_for(&reused).set.get(names::EXE), None);
    assert_eq!(identity.stats().process_misses, [1, 1, 0]);
}

#[test]
fn root_a_process_that_is_gone_is_placed_by_its_cgroup_or_its_parent() {
    let Some(_turn) = privileged("root_a_process_that_is_gone_is_placed_by_its_cgroup_or_its_parent") else {
        return;
    };
    let mut group = Group::new("pyrite-test-gone.service");
    let mut identity = identity(no_runtimes());
    let (pid, cgroup_id) = (group.child.id(), group.id());
    let alive = group.child.id();
    let orphan = Subject { parent: Some(subject(alive).process), ..subject(u32::MAX - 1) };
    assert_eq!(identity.labels_for(&orphan).set.get(names::SERVICE_NAME), Some("pyrite-test-gone"));
    assert_eq!(identity.stats().placed_by_parent, 1);
    group.kill();
    let gone = Subject { cgroup_id, ..subject(pid) };
    assert_eq!(identity.labels_for(&gone).set.get(names::SERVICE_NAME), Some("pyrite-test-gone"));
    assert_eq!(identity.stats().placed_by_cgroup, 1);
    // Nothing but its parent is known when it is seen; its sample knows better.
    let own = Group::new("pyrite-test-own.service");
    let child = Subject { parent: Some(subject(own.child.id()).process), ..subject(u32::MAX - 2) };
    assert_eq!(identity.labels_for(&child).set.get(names::SERVICE_NAME), Some("pyrite-test-own"));
    identity.mapped(child.process, "/opt/brief");
    let sampled = identity.labels_for(&Subject { cgroup_id, parent: None, ..child }).set;
    assert_eq!(sampled.get(names::SERVICE_NAME), Some("pyrite-test-gone"));
    assert_eq!(sampled.get(names::EXE), Some("/opt/brief"));
    let stats = identity.stats();
    assert_eq!((stats.process_misses, stats.placed_by_parent, stats.placed_by_cgroup), ([3, 0, 0], 2, 2));
}

#[test]
fn root_a_process_that_changes_its_cgroup_changes_its_service() {
    let Some(_turn) = privileged("root_a_process_that_changes_its_cgroup_changes_its_service") else {
        return;
    };
    // Dropped last, for the process that the other starts ends up in it.
    let second = Group::new("pyrite-test-second.service");
    let first = Group::new("pyrite-test-first.service");
    let mut identity = identity(no_runtimes());
    let of = |cgroup_id| Subject { cgroup_id, ..subject(first.child.id()) };
    let service = |labels: &pyrite_model::LabelSet| labels.get(names::SERVICE_NAME).map(str::to_owned);
    assert_eq!(service(&identity.labels_for(&of(first.id())).set).as_deref(), Some("pyrite-test-first"));
    fs::write(second.dir.join("cgroup.procs"), first.child.id().to_string()).unwrap();
    assert_eq!(service(&identity.labels_for(&of(second.id())).set).as_deref(), Some("pyrite-test-second"));
}

#[test]
fn root_a_runtime_that_hangs_never_blocks_and_the_short_id_stands_in() {
    let Some(_turn) = privileged("root_a_runtime_that_hangs_never_blocks_and_the_short_id_stands_in") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let _never_accepts = UnixListener::bind(&socket).unwrap();
    let group = Group::new(&format!("docker-{}.scope", "5a".repeat(32)));
    let config = RuntimeConfig { docker: vec![socket], ..no_runtimes() };
    let timeout = config.timeout;
    let mut identity = identity(config);
    let subject = subject(group.child.id());
    let mut slowest = Duration::ZERO;
    let mut pending = 0;
    let started = Instant::now();
    let labels = loop {
        let asked = Instant::now();
        let labels = identity.labels_for(&subject);
        slowest = slowest.max(asked.elapsed());
        if labels.certainty == Certainty::Final {
            break labels.set;
        }
        pending += 1;
        std::thread::sleep(Duration::from_millis(5));
    };
    // Whoever waited for the runtime would wait for as long as it is given.
    assert!(pending > 1 && slowest < timeout, "{pending} pending, slowest {slowest:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "rows are not held longer: {:?}", started.elapsed());
    assert_eq!(labels.get(names::SERVICE_NAME), Some("5a5a5a5a5a5a"));
    assert_eq!(labels.get(names::CONTAINER_ID), Some("5a".repeat(32).as_str()));
}

#[test]
fn root_scanning_many_groups_is_cheap() {
    let Some(_turn) = privileged("root_scanning_many_groups_is_cheap") else { return };
    let mount = CgroupMounts::find().unified.expect("cgroup v2 is mounted");
    let dirs: Vec<PathBuf> = (0..200).map(|i| mount.join(format!("pyrite-test-scan-{i}.service"))).collect();
    for dir in &dirs {
        fs::create_dir_all(dir).unwrap();
    }
    let mut inventory = Inventory::new(CgroupMounts::find());
    let first = inventory.scan();
    // The quickest of some: others want the CPUs too.
    let scans = (0..10).map(|_| {
        let started = Instant::now();
        (inventory.scan(), started.elapsed())
    });
    let (second, took) = scans.min_by_key(|(_, took)| *took).unwrap();
    for dir in &dirs {
        fs::remove_dir(dir).unwrap();
    }
    println!("{} units scanned in {} µs", second.len(), took.as_micros());
    assert!(first.len() >= 200 && second.len() >= 200);
    assert!(took < Duration::from_millis(200), "{took:?}");
}
