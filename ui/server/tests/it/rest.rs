//! The REST endpoints: rendering, services, operations.

use std::sync::Arc;

use pyrite_model::{Exposition, LabelSet};
use pyrite_server::{KnownService, NodeInfo, NodeView, OffCpuScore, ServerLimits, ServiceKind, UnwindScore};
use serde_json::json;

use crate::support::{CPU, Server, now_ms};

#[tokio::test]
async fn render_answers_in_plain_numbers() {
    let server = Server::new();
    let time = (now_ms() - 60_000) / 15_000 * 15_000 + 1;
    server.push(&[("service_name", "api")], time, &[("a;b", 3), ("a", 1), ("a;c", 2), ("d", 4)]).await;
    let window = format!("from={}&until={}", time - 1 - 30_000, time - 1 + 45_000);
    let query = format!("query={CPU}%7Bservice_name%3D%22api%22%7D&{window}");
    let answer = server.get(&format!("/pyroscope/render?{query}&groupBy=service_name")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let first_step = (time - 1) / 1000 - 30;
    let timeline = json!({
        "startTime": first_step, "samples": [0, 0, 0, 10, 0], "durationDelta": 15, "watermarks": null,
    });
    let expected = json!({
        "version": 1,
        "flamebearer": {
            "names": ["total", "d", "a", "c", "b"],
            "levels": [[0, 10, 0, 0], [0, 6, 1, 2, 0, 4, 4, 1], [1, 3, 3, 4, 0, 2, 2, 3]],
            "numTicks": 10, "maxSelf": 4,
        },
        "metadata": {
            "format": "single", "spyName": "", "sampleRate": 1_000_000_000, "units": "samples", "name": "cpu",
        },
        "timeline": timeline,
        "groups": { "api": timeline },
        "heatmap": null,
    });
    assert_eq!(answer.json(), expected);

    let side = |side: &str| {
        let upper = |word: &str| format!("{side}{word}");
        format!(
            "{}={CPU}%7B%7D&{}={}&{}={}",
            upper("Query"),
            upper("From"),
            time - 1000,
            upper("Until"),
            time + 1000
        )
    };
    let answer = server.get(&format!("/pyroscope/render-diff?{}&{}", side("left"), side("right"))).await;
    let diff = answer.json();
    assert_eq!(diff["metadata"]["format"], "double");
    assert_eq!((&diff["leftTicks"], &diff["rightTicks"]), (&json!(10), &json!(10)));
    assert_eq!(diff["flamebearer"]["numTicks"], 20);
    assert_eq!(diff["flamebearer"]["levels"][0], json!([0, 10, 0, 0, 10, 0, 0]));
    assert_eq!(diff["timeline"], json!(null));
}

#[tokio::test]
async fn label_values_of_any_label() {
    let server = Server::new();
    server.push(&[("service_name", "api")], now_ms(), &[("a", 1)]).await;
    assert_eq!(server.get("/pyroscope/label-values?label=__name__").await.json(), json!([CPU]));
    assert_eq!(server.get("/pyroscope/label-values?label=service_name").await.json(), json!(["api"]));
    assert_eq!(server.get("/pyroscope/label-values?label=none").await.json(), json!([]));
    assert_eq!(server.get("/pyroscope/label-values").await.status, 400);
}

pub(crate) struct Node;

impl NodeView for Node {
    fn services(&self) -> Vec<KnownService> {
        let labels = LabelSet::from_pairs([("container_name", "idle"), ("image", "busybox")]);
        let service = |name: &str, kind, labels| KnownService { service_name: name.to_owned(), kind, labels };
        vec![
            service("idle", ServiceKind::Container, labels),
            service("cron.service", ServiceKind::Unit, LabelSet::default()),
        ]
    }

    fn metrics(&self, out: &mut Exposition) {
        out.counter("test_node_total", "Node.", &[], 7.0);
    }

    fn info(&self) -> NodeInfo {
        NodeInfo { name: "n1".into(), frequency_hz: 97, event: "cpu-clock".into() }
    }

    fn unwind(&self) -> UnwindScore {
        let off_cpu = Some(OffCpuScore { captured: 3, shed: 4, lost: 1 });
        UnwindScore { stacks: 10, complete: 9, off_cpu, ..UnwindScore::default() }
    }
}

#[tokio::test]
async fn services_are_what_runs_and_what_was_stored() {
    let server = Server::with(Some(Arc::new(Node)), ServerLimits::default());
    let time = now_ms() - 10_000;
    let second = 1_000_000_000;
    let container = [("service_name", "web"), ("container_id", "c1"), ("container_name", "web")];
    server.push(&[&container[..], &[("comm", "a")]].concat(), time, &[("main", second)]).await;
    server.push(&[&container[..], &[("comm", "b")]].concat(), time + 10_000, &[("main", 2 * second)]).await;
    server
        .push(&[("service_name", "cron.service"), ("exe", "/bin/cron")], time, &[("main", second / 2)])
        .await;
    server.push(&[("service_name", "sdk")], time, &[("main", second / 4)]).await;
    server.push(&[("service_name", "sdk")], time - 1, &[("main", 100 * second)]).await;
    let answer = server.get(&format!("/api/v1/services?from={time}&until={}", time + 10_000)).await;
    let expected = json!({
        "node": { "name": "n1", "frequency_hz": 97, "event": "cpu-clock" },
        "services": [
            {
                "service_name": "web", "kind": "container", "cpu_seconds": 3.0, "cpu_cores": 0.3, "idle": false,
                "labels": { "container_id": "c1", "container_name": "web" }, "profile_types": [CPU],
            },
            {
                "service_name": "cron.service", "kind": "unit", "cpu_seconds": 0.5, "cpu_cores": 0.05, "idle": false,
                "labels": {}, "profile_types": [CPU],
            },
            {
                "service_name": "sdk", "kind": "pushed", "cpu_seconds": 0.25, "cpu_cores": 0.025, "idle": false,
                "labels": {}, "profile_types": [CPU],
            },
            {
                "service_name": "idle", "kind": "container", "cpu_seconds": 0.0, "cpu_cores": 0.0, "idle": true,
                "labels": { "container_name": "idle", "image": "busybox" }, "profile_types": [],
            },
        ],
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(server.get("/api/v1/services").await.status, 400);
    assert_eq!(server.get("/api/v1/services?from=x&until=1").await.status, 400);
    let alone = Server::new().get("/api/v1/services?from=1&until=2").await.json();
    assert_eq!(alone, json!({ "node": null, "services": [] }));
    assert!(server.get("/metrics").await.text().contains("test_node_total 7\n"));
}

#[tokio::test]
async fn completeness_of_stacks_is_the_nodes_to_say() {
    let server = Server::with(Some(Arc::new(Node)), ServerLimits::default());
    let answer = server.get("/api/v1/unwind").await.json();
    let lists = json!({ "reasons": [], "executables": [], "processes": [] });
    let off_cpu = json!({ "captured": 3, "shed": 4, "lost": 1 });
    let mut expected = json!({ "stacks": 10, "complete": 9, "guessed": 0, "off_cpu": off_cpu });
    expected.as_object_mut().unwrap().extend(lists.as_object().unwrap().clone());
    assert_eq!(answer, json!({ "unwind": expected }));
    assert_eq!(Server::new().get("/api/v1/unwind").await.json(), json!({ "unwind": null }));
}

#[tokio::test]
async fn operations() {
    let server = Server::new();
    assert_eq!(server.get("/ready").await.text(), "ready\n");
    let info = server.get("/api/v1/status/buildinfo").await.json();
    assert_eq!(info["status"], "success");
    assert_eq!(info["data"]["version"], env!("CARGO_PKG_VERSION"));
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(
        metrics
            .text()
            .contains("# TYPE pyrite_http_requests_in_flight gauge\npyrite_http_requests_in_flight 1\n")
    );
    for bad in ["0", "61", "x"] {
        assert_eq!(server.get(&format!("/debug/pprof/profile?seconds={bad}")).await.status, 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pyrite_profiles_itself_one_at_a_time() {
    let server = Arc::new(Server::new());
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut x = 1_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                x = std::hint::black_box(x.wrapping_mul(3));
            }
        }
    });
    let first = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.get("/debug/pprof/profile?seconds=1").await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(server.get("/debug/pprof/profile?seconds=1").await.status, 429);
    let profile = first.await.unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().unwrap();
    assert_eq!(profile.status, 200, "{}", profile.text());
    let pushed = server.post("/ingest?name=pyrite&format=pprof", "", profile.body).await;
    assert_eq!(pushed.status, 200, "{}", pushed.text());
    let values = json!({ "name": "service_name", "start": now_ms() - 60_000, "end": now_ms() + 1000 });
    assert_eq!(server.query("LabelValues", &values).await.json()["names"], json!(["pyrite"]));
}

#[tokio::test]
async fn a_build_without_a_page_says_so() {
    let server = Server::new();
    let root = server.get("/").await;
    // With a page built in, the root is the page.
    let text = root.text();
    assert!(root.status == 200 || text.contains("this build of Pyrite has no page"), "{text}");
    assert_eq!(server.get("/no/such/file").await.status, 404);
}
