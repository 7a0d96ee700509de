//! Who a process is, against real containers, real cgroups and runtimes that behave and misbehave.
//!
//! Tests named `root_*` need root; without it they say so and stop, and under CI that is a failure.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "skips and measured figures are shown")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/podman.rs"]
mod podman;

mod containers;
mod groups;
mod runtimes;

use std::time::{Duration, Instant};

use pyrite::identity::runtime::RuntimeConfig;
use pyrite::identity::{Certainty, Identity, IdentityConfig, Labels, Subject};
use pyrite_sampling::{BootNs, ProcessKey};

fn no_runtimes() -> RuntimeConfig {
    RuntimeConfig { docker: Vec::new(), cri: Vec::new(), ..RuntimeConfig::default() }
}

fn identity(runtimes: RuntimeConfig) -> Identity {
    Identity::new(IdentityConfig { node: "node-1".into(), runtimes, ..IdentityConfig::default() }).unwrap()
}

fn subject(tgid: u32) -> Subject<'static> {
    let process = ProcessKey { tgid, start: BootNs(0) };
    Subject { process, comm: "worker", cgroup_id: 0, parent: None, is_kernel_thread: false }
}

/// Asks until the answer is final.
fn final_labels(identity: &mut Identity, subject: &Subject<'_>) -> Labels {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let labels = identity.labels_for(subject);
        if labels.certainty == Certainty::Final {
            return labels;
        }
        assert!(Instant::now() < deadline, "labels stay pending: {}", labels.set);
        std::thread::sleep(Duration::from_millis(10));
    }
}
