//! Tenants over HTTP: no endpoint answers without one, and none answers one with what is another's.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use pyrite_server::{NodeView, ServerLimits, ServerState, Tenancy, app};
use pyrite_store::{Limits, Store, StoreConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rest::Node;
use crate::support::{Answer, CPU, PUSH, QUERIER, Server, cpu_profile, now_ms, push_request};

const HEADER: &str = "X-Scope-OrgID";

/// A server over a store of its own.
struct Served {
    app: Router,
    store: Store,
    _dir: TempDir,
}

/// One question.
#[derive(Clone, Debug)]
enum Ask {
    Rpc(&'static str, Value),
    Get(String),
}

fn many() -> Tenancy {
    Tenancy::Many { node: "ops".parse().unwrap() }
}

fn serve(tenancy: Tenancy) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { tenants: 2, ..Limits::default() };
    let (store, _report) = Store::open(StoreConfig { limits, ..StoreConfig::new(dir.path()) }).unwrap();
    let state = ServerState::new(Arc::new(store.clone()), None, tenancy, ServerLimits::default());
    Served { app: app(state), store, _dir: dir }
}

fn request(ask: &Ask) -> Request<Body> {
    match ask {
        Ask::Get(path) => Request::get(path).body(Body::empty()).unwrap(),
        Ask::Rpc(method, body) => Request::post(format!("{QUERIER}/{method}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap(),
    }
}

async fn send(app: &Router, tenants: &[&[u8]], mut request: Request<Body>) -> Answer {
    for value in tenants {
        request.headers_mut().append(HEADER, HeaderValue::from_bytes(value).unwrap());
    }
    Server { store: Arc::default(), app: app.clone() }.send(request).await
}

impl Served {
    async fn ask(&self, tenants: &str, ask: &Ask) -> Answer {
        let answer = send(&self.app, &[tenants.as_bytes()], request(ask)).await;
        assert_eq!(answer.status, 200, "{tenants} {ask:?}: {}", answer.text());
        answer
    }

    async fn push(&self, tenant: &str, labels: &[(&str, &str)], time: i64, stacks: &[(&str, i64)]) {
        let raw = prost::Message::encode_to_vec(&cpu_profile(time, stacks));
        let body = Body::from(push_request(labels, &raw).to_string());
        let request = Request::post(PUSH).header("content-type", "application/json").body(body).unwrap();
        let answer = send(&self.app, &[tenant.as_bytes()], request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    async fn ingest(&self, tenant: &str, name: &str, time: i64, folded: &'static str) {
        let path = format!("/ingest?name={name}&from={}", time / 1000);
        let answer =
            send(&self.app, &[tenant.as_bytes()], Request::post(path).body(folded.into()).unwrap()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// What a tenant pushes: the labels, functions and times of any other, other values, and something of its own.
    async fn fill(&self, tenant: &str, mark: &str, value: i64, time: i64) {
        let own = [format!("{mark}-service"), format!("main;{mark}-function"), format!("{mark}_label")];
        self.push(tenant, &[("service_name", "api"), ("pod", "p1")], time, &[("main;work", value)]).await;
        let labels = [("service_name", &*own[0]), (&own[2], "1")];
        self.push(tenant, &labels, time + value * 10, &[(&own[1], 7 * value), ("main;work", value)]).await;
        let (name, folded) = match mark {
            "acme" => ("acme-text%7Bacme_tag%3Dacme%7D", "main;acme-line 3\n"),
            _ => ("rival-text%7Brival_tag%3Drival%7D", "main;rival-line 5\n"),
        };
        self.ingest(tenant, name, time, folded).await;
    }
}

/// A question for each endpoint that reads data, and for labels one each.
fn questions(time: i64) -> Vec<Ask> {
    let (start, end) = (time - 60_000, time + 60_000);
    let select = json!({ "profileTypeID": CPU, "labelSelector": "{}", "start": start, "end": end });
    let with = |fields: Value| {
        let mut request = select.clone();
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        request
    };
    let mut all = vec![
        Ask::Rpc("ProfileTypes", select.clone()),
        Ask::Rpc("LabelNames", select.clone()),
        Ask::Rpc("LabelNames", with(json!({ "matchers": [r#"{__tenant__!="x"}"#] }))),
        Ask::Rpc("Series", select.clone()),
        Ask::Rpc("Series", with(json!({ "labelNames": ["service_name", "__tenant__", "pod"] }))),
        Ask::Rpc("GetProfileStats", json!({})),
        Ask::Rpc("AnalyzeQuery", json!({})),
        Ask::Rpc("SelectSeries", with(json!({ "step": 15, "groupBy": ["service_name", "__tenant__"] }))),
        Ask::Rpc(
            "SelectSeries",
            with(json!({ "step": 15, "stackTraceSelector": { "callSite": [{ "name": "main" }] } })),
        ),
        Ask::Rpc("SelectMergeStacktraces", select.clone()),
        Ask::Rpc("SelectMergeStacktraces", with(json!({ "labelSelector": r#"{__tenant__=~"acme|rival"}"# }))),
        Ask::Rpc("SelectMergeSpanProfile", with(json!({ "spanSelector": ["9a517183f26a089d"] }))),
        Ask::Rpc(
            "Diff",
            json!({ "left": select, "right": with(json!({ "labelSelector": r#"{pod="p1"}"# })) }),
        ),
        Ask::Get(format!("/api/v1/services?from={start}&until={end}")),
        Ask::Get("/api/v1/unwind".to_owned()),
        Ask::Get(format!("/api/v1/top?query={CPU}%7B%7D&from={start}&until={end}")),
        Ask::Get(format!("/api/v1/series?query={CPU}%7B%7D&from={start}&until={end}&step=15&function=main")),
        Ask::Get(format!(
            "/api/v1/diff?leftQuery={CPU}%7B%7D&leftFrom={start}&leftUntil={end}\
             &rightQuery={CPU}%7Bpod%3D%22p1%22%7D&rightFrom={start}&rightUntil={end}&by=share"
        )),
        Ask::Get(format!(
            "/pyroscope/render?query={CPU}%7B%7D&from={start}&until={end}&groupBy=service_name"
        )),
        Ask::Get(format!(
            "/pyroscope/render-diff?leftQuery={CPU}%7B%7D&leftFrom={start}&leftUntil={end}\
             &rightQuery={CPU}%7Bpod%3D%22p1%22%7D&rightFrom={start}&rightUntil={end}"
        )),
    ];
    for name in
        ["service_name", "pod", "acme_label", "rival_label", "acme_tag", "__tenant__", "__profile_type__"]
    {
        all.push(Ask::Rpc("LabelValues", with(json!({ "name": name }))));
        all.push(Ask::Get(format!("/pyroscope/label-values?label={name}")));
    }
    all
}

/// Questions about single profiles: those of two tenants are two, even where labels and times are the same.
fn single_profiles(time: i64) -> [Ask; 2] {
    let (start, end) = (time - 60_000, time + 60_000);
    let heatmap = json!({
        "profileTypeID": CPU, "labelSelector": "{}", "start": start, "end": end, "step": 15, "queryType": 1,
        "groupBy": ["service_name"],
    });
    let list = format!("/api/v1/profiles?query={CPU}%7B%7D&from={start}&until={end}");
    [Ask::Rpc("SelectHeatmap", heatmap), Ask::Get(list)]
}

/// An answer without the ids of profiles, which are made of the tenant's name too.
fn without_ids(mut answer: Value) -> Value {
    for profile in answer.get_mut("profiles").and_then(Value::as_array_mut).into_iter().flatten() {
        assert!(profile.as_object_mut().unwrap().remove("id").is_some(), "{profile}");
    }
    answer
}

/// Two exports, which number things as each store came to know them.
fn exports(time: i64) -> [Ask; 2] {
    let (start, end) = (time - 60_000, time + 60_000);
    let select = json!({ "profileTypeID": CPU, "labelSelector": "{}", "start": start, "end": end });
    let mut pprof = select.clone();
    pprof["format"] = json!("PROFILE_FORMAT_PPROF");
    [Ask::Rpc("SelectMergeProfile", select), Ask::Rpc("SelectMergeStacktraces", pprof)]
}

/// Sum of all sample values of an exported profile.
fn exported_total(answer: &Answer) -> i64 {
    let json = answer.json();
    let profile = json.get("pprof").map_or(&json, |pprof| &pprof["profile"]);
    let samples = profile.get("sample").and_then(Value::as_array);
    samples
        .into_iter()
        .flatten()
        .map(|sample| sample["value"][0].as_str().unwrap().parse::<i64>().unwrap())
        .sum()
}

/// An answer with the numbers of names in flame graphs replaced by the names: numbers are each store's own.
fn named(mut answer: Value) -> Value {
    let (bearer, diff) = match &mut answer {
        Value::Object(fields) if fields.contains_key("flamebearer") => {
            let diff = fields["metadata"]["format"] == "double";
            (&mut fields["flamebearer"], diff)
        }
        Value::Object(fields) if fields.contains_key("flamegraph") => {
            let diff = fields["flamegraph"].get("leftTicks").is_some() || fields.contains_key("by");
            (&mut fields["flamegraph"], diff)
        }
        _ => return answer,
    };
    let names = bearer["names"].take();
    let step = if diff { 7 } else { 4 };
    for level in bearer["levels"].as_array_mut().unwrap() {
        let level = if level.is_object() { &mut level["values"] } else { level };
        for value in level.as_array_mut().unwrap().iter_mut().skip(step - 1).step_by(step) {
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap();
            *value = names[number as usize].clone();
        }
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn no_endpoint_shows_a_tenant_what_is_anothers() {
    let (both, acme, rival, together) =
        (serve(many()), serve(Tenancy::One), serve(Tenancy::One), serve(Tenancy::One));
    let time = (now_ms() - 120_000) / 1000 * 1000;
    for (tenant, alone, value) in [("acme", &acme, 10), ("rival", &rival, 100)] {
        for served in [&both, alone, &together] {
            served.fill(tenant, tenant, value, time).await;
        }
    }
    let empty = serve(Tenancy::One);
    let cases = [
        ("acme", &acme, Some("rival")),
        ("rival", &rival, Some("acme")),
        ("rival|acme", &together, None),
        ("nobody", &empty, None),
    ];
    for flushed in [false, true] {
        if flushed {
            for served in [&both, &acme, &rival, &together] {
                served.store.flush().unwrap();
            }
        }
        for ask in questions(time) {
            for (tenants, alone, hidden) in cases {
                let answer = both.ask(tenants, &ask).await;
                let shown = hidden.is_some_and(|hidden| answer.text().contains(hidden));
                assert!(!shown, "{tenants} {ask:?}: {}", answer.text());
                let expected = alone.ask("", &ask).await.json();
                assert_eq!(named(answer.json()), named(expected), "{tenants} {ask:?}");
            }
        }
        for ask in single_profiles(time) {
            for (tenants, alone, hidden) in cases.into_iter().filter(|case| !case.0.contains('|')) {
                let answer = both.ask(tenants, &ask).await;
                let shown = hidden.is_some_and(|hidden| answer.text().contains(hidden));
                assert!(!shown, "{tenants} {ask:?}: {}", answer.text());
                let expected = alone.ask("", &ask).await.json();
                assert_eq!(without_ids(answer.json()), without_ids(expected), "{tenants} {ask:?}");
            }
        }
        for ask in exports(time) {
            for (tenants, alone, hidden) in cases {
                let answer = both.ask(tenants, &ask).await;
                let shown = hidden.is_some_and(|hidden| answer.text().contains(hidden));
                assert!(!shown, "{tenants} {ask:?}: {}", answer.text());
                let total = exported_total(&answer);
                assert_eq!(total, exported_total(&alone.ask("", &ask).await), "{tenants} {ask:?}");
                assert_eq!(total > 0, tenants != "nobody", "{tenants} {ask:?}");
            }
        }
    }
}

#[tokio::test]
async fn every_endpoint_for_data_must_be_told_whose() {
    let served = serve(many());
    let time = now_ms();
    let raw = prost::Message::encode_to_vec(&cpu_profile(time, &[("a", 1)]));
    let push = || {
        let body = Body::from(push_request(&[], &raw).to_string());
        Request::post(PUSH).header("content-type", "application/json").body(body).unwrap()
    };
    let ingest = |path: &str| Request::post(format!("{path}?name=app")).body(Body::from("a 1\n")).unwrap();
    let long = "x".repeat(200);
    let cases: [(&[&[u8]], u16, u16); 15] = [
        (&[], 401, 401),
        (&[b""], 401, 401),
        (&[b"a"], 200, 200),
        (&[b"a|b"], 200, 400),
        (&[b"a|a"], 200, 200),
        (&[b"a|"], 400, 400),
        (&[b"|"], 400, 400),
        (&[b"a", b"b"], 400, 400),
        (&[b"a", b"a"], 400, 400),
        (&[b"\"a\""], 400, 400),
        (&[b"a b"], 400, 400),
        (&["\u{e4}".as_bytes()], 400, 400),
        (&[b"\xff\xfe"], 400, 400),
        (&[b"../a"], 400, 400),
        (&[long.as_bytes()], 400, 400),
    ];
    let codes = |status: u16| if status == 401 { "unauthenticated" } else { "invalid_argument" };
    for (tenants, read, written) in cases {
        let asks = questions(time).into_iter().chain(exports(time)).chain(single_profiles(time));
        let reads = asks.map(|ask| (request(&ask), read));
        let writes =
            [push(), ingest("/ingest"), ingest("/pyroscope/ingest")].map(|request| (request, written));
        for (request, expected) in reads.chain(writes) {
            let path = request.uri().to_string();
            let answer = send(&served.app, tenants, request).await;
            assert_eq!(answer.status, expected, "{tenants:?} {path}: {}", answer.text());
            if expected != 200 {
                assert_eq!(answer.json()["code"], codes(expected), "{tenants:?} {path}");
                assert!(answer.json()["message"].as_str().unwrap().contains(HEADER), "{}", answer.text());
            }
        }
    }
    for path in ["/ready", "/api/v1/status/buildinfo", "/api/v1/queries", "/metrics"] {
        let answer = send(&served.app, &[], Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 200, "{path} is for those who run the server");
        let (pushes, refused) = (3, 11 * 3);
        if path == "/metrics" {
            for (reason, count) in [("unauthenticated", 2 * pushes), ("tenant", refused)] {
                let line = format!("pyrite_push_rejected_total{{reason=\"{reason}\"}} {count}");
                assert!(answer.text().contains(&line), "{line} is not in {}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn where_tenants_are_not_told_apart_the_header_means_nothing() {
    let served = serve(Tenancy::One);
    let time = now_ms() - 120_000;
    served.fill("acme", "acme", 1, time).await;
    served.fill("a|b|", "acme", 1, time).await;
    let ignored: [&[&[u8]]; 4] = [&[], &[b"x"], &[b"|"], &[b"a", b"b"]];
    for tenants in ignored {
        let services =
            Ask::Rpc("LabelValues", json!({ "name": "service_name", "start": 1, "end": now_ms() }));
        let answer = send(&served.app, tenants, request(&services)).await;
        assert_eq!(answer.json(), json!({ "names": ["acme-service", "acme-text", "api"] }), "{tenants:?}");
    }
}

#[tokio::test]
async fn the_label_that_names_tenants_in_files_cannot_be_pushed() {
    let served = serve(many());
    let raw = prost::Message::encode_to_vec(&cpu_profile(now_ms(), &[("a", 1)]));
    let mut on_sample = cpu_profile(now_ms(), &[("a", 1)]);
    let text = on_sample.string_table.len() as i64;
    on_sample.string_table.extend(["__tenant__", "rival"].map(str::to_owned));
    on_sample.sample[0].label =
        vec![pyrite_model::pprof::proto::Label { key: text, str: text + 1, ..Default::default() }];
    let on_sample = prost::Message::encode_to_vec(&on_sample);
    for body in [push_request(&[("__tenant__", "rival")], &raw), push_request(&[], &on_sample)] {
        let request = Request::post(PUSH).header("content-type", "application/json");
        let answer = send(&served.app, &[b"acme"], request.body(Body::from(body.to_string())).unwrap()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().contains("__tenant__")),
            (400, true),
            "{}",
            answer.text()
        );
    }
    let request = Request::post("/ingest?name=app%7B__tenant__%3Drival%7D").body("a 1\n".into()).unwrap();
    let answer = send(&served.app, &[b"acme"], request).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(served.store.stats().rows, 0);
}

#[tokio::test]
async fn one_tenant_too_many_is_refused_for_now() {
    let served = serve(many());
    let time = now_ms() - 120_000;
    served.fill("acme", "acme", 1, time).await;
    served.fill("rival", "rival", 1, time).await;
    let request = Request::post("/ingest?name=app").body(Body::from("a 1\n")).unwrap();
    let answer = send(&served.app, &[b"third"], request).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.json()["message"].as_str().unwrap().contains("tenants"), "{}", answer.text());
    assert_eq!(answer.headers["retry-after"], "1");
    served.fill("acme", "acme", 1, time).await;
}

#[tokio::test]
async fn what_runs_on_the_node_is_shown_to_its_tenant() {
    let node: Option<Arc<dyn NodeView>> = Some(Arc::new(Node));
    let store = Arc::new(crate::memory::MemoryStore::default());
    let app = app(ServerState::new(store, node, many(), ServerLimits::default()));
    let now = now_ms();
    for path in [format!("/api/v1/services?from={}&until={now}", now - 1000), "/api/v1/unwind".to_owned()] {
        for (tenants, shown) in [("ops", true), ("acme|ops", true), ("acme", false), ("anonymous", false)] {
            let request = Request::get(&path).body(Body::empty()).unwrap();
            let answer = send(&app, &[tenants.as_bytes()], request).await.json();
            let (node, unwind) = (answer.get("node"), answer.get("unwind"));
            assert_eq!(node.or(unwind).unwrap().is_null(), !shown, "{tenants} {path}");
            let listed = answer.get("services").map(|services| services.as_array().unwrap().len());
            assert_eq!(listed.unwrap_or(usize::from(shown)) > 0, shown, "{tenants} {path}");
        }
    }
}
