//! The embedded store behind the API answers what the naive one answers.

use std::sync::Arc;

use pyrite_server::{ServerLimits, ServerState, Tenancy, app};
use pyrite_store::{Limits, Store, StoreConfig};
use serde_json::{Value, json};

use crate::support::{CPU, Server, cpu_profile, now_ms, push_request};

async fn ask(app: &axum::Router, path: &str, body: &Value) -> (u16, Value) {
    let server = Server { store: Arc::default(), app: app.clone() };
    let answer = server.post(path, "application/json", body.to_string()).await;
    (answer.status.as_u16(), named(answer.json()))
}

/// Names are numbered by the order of stack ids, which is each store's own; levels hold the numbers.
fn named(mut json: Value) -> Value {
    let is_native_diff = json.get("by").is_some();
    if let Some(graph) = json.get_mut("flamegraph") {
        let names = graph["names"].take();
        let step = if is_native_diff || graph.get("leftTicks").is_some() { 7 } else { 4 };
        for level in graph["levels"].as_array_mut().unwrap() {
            let level = if level.is_object() { &mut level["values"] } else { level };
            for (i, value) in level.as_array_mut().unwrap().iter_mut().enumerate() {
                if i % step == step - 1 {
                    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap();
                    *value = names[number as usize].clone();
                }
            }
        }
    }
    json
}

/// Answers of Pyrite's own API in the window, which the two stores must agree on.
fn own_questions(start: i64, end: i64) -> Vec<String> {
    let query = |prefix: &str, selector: &str| {
        let names = ["Query", "From", "Until"].map(|name| match prefix {
            "" => name.to_lowercase(),
            prefix => format!("{prefix}{name}"),
        });
        let selector =
            selector.replace('{', "%7B").replace('}', "%7D").replace('"', "%22").replace('=', "%3D");
        format!("{}={CPU}{selector}&{}={start}&{}={end}", names[0], names[1], names[2])
    };
    let all = query("", "{}");
    let sides = format!("{}&{}", query("left", r#"{service_name="api"}"#), query("right", "{}"));
    let questions = [
        format!("diff?{sides}"),
        format!("diff?{sides}&by=rate&order=total"),
        format!("diff?{sides}&by=share&function=b&maxNodes=3"),
        format!("diff?{sides}&by=request&leftRequests=3&rightRequests=4&limit=2"),
        format!("top?{all}"),
        format!("top?{all}&limit=2&order=total"),
        format!("top?{}&function=c", query("", r#"{pod="p1"}"#)),
        format!("series?{all}&step=7&groupBy=pod"),
        format!("series?{all}&step=0.5&function=b"),
        format!("profiles?{all}"),
        format!("profiles?{all}&order=total&limit=3&callSite=a"),
    ];
    questions.map(|question| format!("/api/v1/{question}")).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_agrees_with_the_naive_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _report) = Store::open(StoreConfig::new(dir.path())).unwrap();
    let state = ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), ServerLimits::default());
    let apps = [Server::new().app, app(state)];
    let start = now_ms() - 100_000;
    let mut seed = 1_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for i in 0..60 {
        let service = ["api", "web", "db"][random(3) as usize];
        let pod = format!("p{}", random(2));
        let names = ["a", "b", "c", "d"];
        let stacks: Vec<(String, i64)> = (0..=random(6))
            .map(|_| {
                let stack: Vec<&str> = (0..=random(4)).map(|_| names[random(4) as usize]).collect();
                (stack.join(";"), random(100) as i64)
            })
            .collect();
        let stacks: Vec<(&str, i64)> = stacks.iter().map(|(stack, value)| (stack.as_str(), *value)).collect();
        let profile = cpu_profile(start + random(100_000) as i64, &stacks);
        let raw = prost::Message::encode_to_vec(&profile);
        let push = push_request(&[("service_name", service), ("pod", &pod)], &raw);
        for app in &apps {
            assert_eq!(ask(app, "/push.v1.PusherService/Push", &push).await.0, 200);
        }
        if i == 30 {
            store.flush().unwrap();
        }
    }
    let mut select = json!({
        "profileTypeID": CPU, "labelSelector": r#"{service_name=~"api|db"}"#,
        "start": start + 10_000, "end": start + 80_000, "step": 7, "groupBy": ["pod", "service_name"],
        "name": "pod", "matchers": [r#"{service_name="web"}"#], "labelNames": ["pod", "__name__"],
        "queryType": 1, "exemplarType": 2,
    });
    let methods = [
        "ProfileTypes",
        "LabelNames",
        "LabelValues",
        "Series",
        "SelectSeries",
        "SelectHeatmap",
        "SelectMergeStacktraces",
        "Diff",
        "GetProfileStats",
    ];
    for call_site in [json!([]), json!([{ "name": "a" }]), json!([{ "name": "a" }, { "name": "b" }])] {
        select["stackTraceSelector"] = json!({ "callSite": call_site });
        for method in methods {
            let path = format!("/querier.v1.QuerierService/{method}");
            let mut other = select.clone();
            other["labelSelector"] = json!("{}");
            let request =
                if method == "Diff" { json!({ "left": select, "right": other }) } else { select.clone() };
            let (naive, embedded) =
                (ask(&apps[0], &path, &request).await, ask(&apps[1], &path, &request).await);
            assert_eq!(naive.0, 200, "{method}: {}", naive.1);
            assert_eq!(naive, embedded, "{method} {request}");
        }
    }
    let services = format!("/api/v1/services?from={start}&until={}", start + 100_000);
    let answers = apps.map(|app| Server { store: Arc::default(), app });
    for question in own_questions(start + 10_000, start + 80_000) {
        let (naive, embedded) = (answers[0].get(&question).await, answers[1].get(&question).await);
        assert_eq!(naive.status, 200, "{question}: {}", naive.text());
        assert_eq!(named(naive.json()), named(embedded.json()), "{question}");
    }
    let (naive, embedded) = (answers[0].get(&services).await.json(), answers[1].get(&services).await.json());
    assert_eq!(naive["services"].as_array().unwrap().len(), 3);
    assert_eq!(naive, embedded);
    store.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_at_the_ends_of_time_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _report) = Store::open(StoreConfig::new(dir.path())).unwrap();
    let app =
        app(ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), ServerLimits::default()));
    let raw = prost::Message::encode_to_vec(&cpu_profile(now_ms(), &[("a", 1)]));
    assert_eq!(ask(&app, "/push.v1.PusherService/Push", &push_request(&[], &raw)).await.0, 200);
    for flushed in [false, true] {
        if flushed {
            store.flush().unwrap();
        }
        for (start, end) in [(i64::MIN, i64::MAX), (i64::MIN, i64::MIN), (i64::MAX, i64::MAX), (1, i64::MAX)]
        {
            for step in [0.001, 15.0, 1e12] {
                let request = json!({
                    "profileTypeID": CPU, "labelSelector": "{}", "start": start, "end": end, "step": step,
                    "name": "service_name",
                });
                for method in ["ProfileTypes", "LabelValues", "SelectSeries", "SelectMergeStacktraces"] {
                    let path = format!("/querier.v1.QuerierService/{method}");
                    let (status, body) = ask(&app, &path, &request).await;
                    assert_eq!(status, 200, "{method} {request}: {body}");
                }
            }
            let server = Server { store: Arc::default(), app: app.clone() };
            let services = server.get(&format!("/api/v1/services?from={start}&until={end}")).await;
            assert_eq!(services.status, 200, "{}", services.text());
            let window = format!("from={}&until=9223372036854775807", start.max(1));
            let render = server.get(&format!("/pyroscope/render?query={CPU}%7B%7D&{window}")).await;
            assert_eq!(render.status, 200, "{}", render.text());
            assert_eq!(server.get("/pyroscope/label-values?label=__name__").await.json(), json!([CPU]));
        }
    }
    store.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_is_unavailable_not_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _report) = Store::open(StoreConfig::new(dir.path())).unwrap();
    let app =
        app(ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), ServerLimits::default()));
    store.close().unwrap();
    let raw = prost::Message::encode_to_vec(&cpu_profile(now_ms(), &[("a", 1)]));
    let (status, body) = ask(&app, "/push.v1.PusherService/Push", &push_request(&[], &raw)).await;
    assert_eq!((status, &body["code"]), (503, &json!("unavailable")), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_with_one_series_too_many_is_refused_for_now() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { series: 1, ..Limits::default() };
    let (store, _report) = Store::open(StoreConfig { limits, ..StoreConfig::new(dir.path()) }).unwrap();
    let app =
        app(ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), ServerLimits::default()));
    let raw = prost::Message::encode_to_vec(&cpu_profile(now_ms(), &[("a", 1)]));
    let push = async |service: &str| {
        ask(&app, "/push.v1.PusherService/Push", &push_request(&[("service_name", service)], &raw)).await
    };
    assert_eq!(push("api").await.0, 200);
    let (status, body) = push("db").await;
    assert_eq!((status, &body["code"]), (429, &json!("resource_exhausted")), "{body}");
    assert!(body["message"].as_str().unwrap().contains("as many series as it may"), "{body}");
    assert_eq!(push("api").await.0, 200);
    store.close().unwrap();
}
