//! `kill -9` in the middle of everything: what was acknowledged is there, and of the agent's own rows almost all.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use serde_json::json;

use crate::common::privileged;
use crate::pushes::{self, VALUE};
use crate::pyrite::{Pyrite, eventually, now_ms, send};
use crate::support::Workload;

const PUSHERS: usize = 4;

/// Pushes from several clients at once until the server is killed; returns the names of all that were tried and of all
/// that were acknowledged.
fn push_until_killed(data: &Path, round: usize, kill_after: usize) -> (BTreeSet<String>, BTreeSet<String>) {
    let pyrite = Pyrite::server(data);
    let address = pyrite.address().to_owned();
    let acknowledged_so_far = AtomicUsize::new(0);
    let push_all = |pusher: usize| {
        let (mut tried, mut acknowledged) = (BTreeSet::new(), BTreeSet::new());
        for n in 0.. {
            let name = format!("{round}-{pusher}-{n}");
            let push = pushes::push(&[("service_name", "durable"), ("push", &name)]);
            tried.insert(name.clone());
            match send(&address, "POST", pushes::PATH, (pushes::PROTOBUF, &push)) {
                Ok(answer) if answer.status == 200 => acknowledged.insert(name),
                Ok(answer) => panic!("{name}: {} {}", answer.status, answer.text()),
                Err(_) => return (tried, acknowledged),
            };
            acknowledged_so_far.fetch_add(1, Ordering::Relaxed);
        }
        unreachable!("pushing ends with the server")
    };
    std::thread::scope(|scope| {
        let push_all = &push_all;
        let pushers: Vec<_> = (0..PUSHERS).map(|pusher| scope.spawn(move || push_all(pusher))).collect();
        // A pusher that gave up has failed; joining it says why.
        while acknowledged_so_far.load(Ordering::Relaxed) < kill_after
            && !pushers.iter().any(ScopedJoinHandle::is_finished)
        {
            std::thread::yield_now();
        }
        pyrite.kill();
        let (mut tried, mut acknowledged) = (BTreeSet::new(), BTreeSet::new());
        for pusher in pushers {
            let (mine, mine_acknowledged) = pusher.join().expect("it ends with the server");
            tried.extend(mine);
            acknowledged.extend(mine_acknowledged);
        }
        (tried, acknowledged)
    })
}

#[test]
fn every_acknowledged_push_survives_kill_9() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut tried, mut acknowledged) = (BTreeSet::new(), BTreeSet::new());
    for (round, kill_after) in [50, 211, 400].into_iter().enumerate() {
        let (mine, mine_acknowledged) = push_until_killed(data.path(), round, kill_after);
        tried.extend(mine);
        acknowledged.extend(mine_acknowledged);
    }
    assert!(acknowledged.len() >= 661, "{}", acknowledged.len());
    let pyrite = Pyrite::server(data.path());
    let stored = pyrite.cpu_series(r#"{service_name="durable"}"#, "push");
    let names: BTreeSet<String> = stored.keys().cloned().collect();
    let lost: Vec<_> = acknowledged.difference(&names).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    assert!(names.is_subset(&tried), "never pushed: {:?}", names.difference(&tried).collect::<Vec<_>>());
    for (name, points) in &stored {
        let value: f64 = points.iter().map(|(_, value)| value).sum();
        assert!((value - VALUE as f64).abs() < 0.5, "{name} is there {} times", value / VALUE as f64);
    }
    let window = json!({"start": now_ms() - 60_000, "end": now_ms() + 1000, "name": "push"});
    let listed = pyrite.call("LabelValues", &window)["names"].as_array().map_or(0, Vec::len);
    assert_eq!(listed, stored.len());
}

#[test]
fn bpf_kill_9_costs_at_most_two_seconds_of_the_agents_rows() {
    let Some(_turn) = privileged("bpf_kill_9_costs_at_most_two_seconds") else { return };
    let busy = Workload::build("busy");
    let data = busy.directory().join("data");
    let _load = busy.start(&["1", "100", "3"]);
    let pyrite = Pyrite::run(&data, &[]);
    // The times of its rows, each the end of a second.
    let seconds = |pyrite: &Pyrite| -> BTreeSet<i64> {
        let points = pyrite.cpu_series(&busy.selector(), "service_name").into_values().flatten();
        points.filter(|(_, value)| *value > 0.0).map(|(time, _)| time).collect()
    };
    // Where others want the CPUs there may be none as young at a moment, but there is at another.
    let seen = eventually("six seconds, and the last of them ended less than two seconds ago", || {
        Some(seconds(&pyrite))
            .filter(|seen| seen.len() >= 6 && seen.last().is_some_and(|last| now_ms() - last < 2000))
    });
    pyrite.kill();
    let after = seconds(&Pyrite::server(&data));
    assert!(seen.is_subset(&after), "{seen:?} were there, {after:?} are left");
    let (first, last) = (after.first().expect("seconds"), after.last().expect("seconds"));
    assert_eq!((last - first) / 1000 + 1, after.len() as i64, "a second is missing: {after:?}");
}
