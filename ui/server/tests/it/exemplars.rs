//! Heat maps, exemplars beside series, and profiles whose values are counted since a program's start.

use std::sync::Arc;

use pyrite_server::{ServerLimits, ServerState, Tenancy, app};
use pyrite_store::{Limits, Store, StoreConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{CPU, PUSH, Server, base64, cpu_profile, now_ms};

async fn example() -> (Server, i64) {
    let server = Server::new();
    let start = (now_ms() - 100_000) / 1000 * 1000;
    for (pod, offset, value) in [
        ("a", 0, 100),
        ("a", 5000, 119),
        ("a", 6000, 120),
        ("b", 6000, 500),
        ("b", 11_000, 300),
        ("b", 14_000, 1),
    ] {
        server.push(&[("pod", pod), ("zone", "z")], start + offset, &[("main", value)]).await;
    }
    (server, start)
}

fn heatmap(start: i64) -> Value {
    json!({
        "profileTypeID": CPU, "labelSelector": "{}", "start": start, "end": start + 13_000, "step": 10.0,
        "groupBy": ["pod"], "queryType": "HEATMAP_QUERY_TYPE_INDIVIDUAL",
    })
}

/// Numbers as JSON has those of 64 bits, in twenty buckets.
fn counts(found: &[(usize, u32)]) -> Value {
    let mut counts = [0; 20];
    for (bucket, count) in found {
        counts[*bucket] = *count;
    }
    json!(counts)
}

#[tokio::test]
async fn profiles_are_counted_by_time_and_size() {
    let (server, start) = example().await;
    let answer = server.query("SelectHeatmap", &heatmap(start)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // From 100 to 500 in steps of 20.
    let y_min: Vec<f64> = (0..20).map(|bucket| f64::from(100 + 20 * bucket)).collect();
    let slot = |offset: i64, found: &[(usize, u32)]| json!({ "timestamp": (start + offset).to_string(), "yMin": y_min, "counts": counts(found) });
    let group =
        |pod: &str, slots: &[Value]| json!({ "labels": [{ "name": "pod", "value": pod }], "slots": slots });
    let expected = [
        group("a", &[slot(0, &[(0, 1)]), slot(10_000, &[(0, 1), (1, 1)])]),
        group("b", &[slot(10_000, &[(19, 1)]), slot(20_000, &[(10, 1)])]),
    ];
    assert_eq!(answer.json()["series"], json!(expected));
    let mut request = heatmap(start);
    request["limit"] = json!("1");
    request["exemplarType"] = json!("EXEMPLAR_TYPE_INDIVIDUAL");
    let answer = server.query("SelectHeatmap", &request).await.json();
    assert_eq!(answer["series"].as_array().unwrap().len(), 1);
    let exemplars = &answer["series"][0]["slots"][1]["exemplars"];
    assert_eq!(exemplars.as_array().unwrap().len(), 2);
    let found = json!({
        "timestamp": (start + 6000).to_string(), "value": "120", "profileId": exemplars[1]["profileId"],
        "labels": [{ "name": "service_name", "value": "unknown_service" }, { "name": "zone", "value": "z" }],
    });
    assert_eq!(exemplars[1], found);
    let mut request = heatmap(start);
    request["profileIdSelector"] = json!([exemplars[1]["profileId"]]);
    let graph = server.query("SelectMergeStacktraces", &request).await.json();
    assert_eq!(graph["flamegraph"]["total"], "120");
    let mut spans = heatmap(start);
    spans["queryType"] = json!("HEATMAP_QUERY_TYPE_SPAN");
    assert_eq!(server.query("SelectHeatmap", &spans).await.text(), "{}");
}

#[tokio::test]
async fn heat_maps_are_checked() {
    let (server, start) = example().await;
    for (field, value, status) in [
        ("step", json!(0), 400),
        ("step", json!(0.0001), 400),
        ("end", json!(start), 400),
        ("end", json!(start - 1), 400),
        ("limit", json!(-1), 400),
        ("limit", json!(0), 200),
        ("queryType", json!("HEATMAP_QUERY_TYPE_UNSPECIFIED"), 400),
        ("queryType", json!(99), 400),
        ("exemplarType", json!("EXEMPLAR_TYPE_SPAN"), 400),
        ("exemplarType", json!("EXEMPLAR_TYPE_NONE"), 200),
        ("labelSelector", json!(""), 400),
        ("profileTypeID", json!("x"), 400),
        ("groupBy", json!([]), 200),
    ] {
        let mut request = heatmap(start);
        request[field] = value;
        let answer = server.query("SelectHeatmap", &request).await;
        assert_eq!(answer.status, status, "{request}: {}", answer.text());
        if status == 400 {
            assert_eq!(answer.json()["code"], "invalid_argument");
        }
    }
    let mut request = heatmap(1);
    request["end"] = json!(i64::MAX);
    request["step"] = json!(1e12);
    assert_eq!(server.query("SelectHeatmap", &request).await.status, 200);
}

#[tokio::test]
async fn points_lead_to_their_largest_profiles() {
    let (server, start) = example().await;
    let mut request = heatmap(start);
    request["exemplarType"] = json!("EXEMPLAR_TYPE_INDIVIDUAL");
    let series = server.query("SelectSeries", &request).await.json();
    // The last step ends behind the window.
    let exemplars: Vec<(&Value, &Value)> = series["series"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["points"].as_array().unwrap())
        .map(|point| (&point["value"], &point["exemplars"][0]["value"]))
        .collect();
    let expected = [(json!(500.0), json!("500")), (json!(100.0), json!("100")), (json!(239.0), json!("120"))];
    assert_eq!(exemplars, expected.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>());
    request["exemplarType"] = json!("EXEMPLAR_TYPE_SPAN");
    let series = server.query("SelectSeries", &request).await.json();
    assert_eq!(series["series"][0]["points"][0].get("exemplars"), None);
}

/// A server over the real store.
fn embedded(dir: &TempDir, limits: Limits) -> Server {
    let (store, _report) = Store::open(StoreConfig { limits, ..StoreConfig::new(dir.path()) }).unwrap();
    let state = ServerState::new(Arc::new(store), None, Tenancy::default(), ServerLimits::default());
    Server { store: Arc::default(), app: app(state) }
}

#[tokio::test(flavor = "multi_thread")]
async fn among_too_many_profiles_none_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = embedded(&dir, Limits { query_points: 3, ..Limits::default() });
    let start = (now_ms() - 100_000) / 1000 * 1000;
    let mut request = heatmap(start);
    request["exemplarType"] = json!("EXEMPLAR_TYPE_INDIVIDUAL");
    let list = format!("/api/v1/profiles?query={CPU}%7B%7D&from={start}&until={}", start + 10);
    for (offset, total, is_too_many) in [(1, 1.0, false), (2, 3.0, false), (3, 6.0, false), (4, 10.0, true)] {
        server.push(&[], start + offset, &[("main", offset)]).await;
        let answers = [server.query("SelectHeatmap", &request).await, server.get(&list).await];
        for answer in answers {
            let status = if is_too_many { 400 } else { 200 };
            assert_eq!(answer.status, status, "{offset}: {}", answer.text());
            assert_eq!(answer.text().contains("more than 3 profiles"), is_too_many, "{}", answer.text());
        }
        let series = server.query("SelectSeries", &request).await.json();
        let point = &series["series"][0]["points"][0];
        assert_eq!((&point["value"], point.get("exemplars").is_none()), (&json!(total), is_too_many));
    }
}

/// Pushes what Go says it allocated, and what is in use.
async fn push_heap(server: &Server, labels: &[(&str, &str)], time: i64, stacks: &[(&str, i64)]) {
    let mut profile = cpu_profile(time, stacks);
    let texts: Vec<i64> = ["alloc_space", "bytes", "inuse_space", "space"]
        .map(|text| {
            profile.string_table.push(text.to_owned());
            profile.string_table.len() as i64 - 1
        })
        .to_vec();
    let of = |kind: usize| pyrite_model::pprof::proto::ValueType { r#type: texts[kind], unit: texts[1] };
    profile.sample_type = vec![of(0), of(2)];
    profile.period_type = Some(of(3));
    for sample in &mut profile.sample {
        sample.value.push(1);
    }
    let raw = base64(&prost::Message::encode_to_vec(&profile));
    let pair = |(name, value): &(&str, &str)| json!({ "name": name, "value": value });
    let labels: Vec<Value> = labels.iter().map(pair).collect();
    let push = json!({ "series": [{ "labels": labels, "samples": [{ "rawProfile": raw }] }] });
    let answer = server.post(PUSH, "application/json", push.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn values_since_the_start_are_told_as_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    for server in [Server::new(), embedded(&dir, Limits::default())] {
        tell_what_is_new(&server).await;
    }
}

async fn tell_what_is_new(server: &Server) {
    let start = (now_ms() - 600_000) / 1000 * 1000;
    let raw = [("__name__", "memory"), ("service_name", "raw")];
    for (minute, stacks) in [
        (0, &[("main;a", 1000)][..]),
        (1, &[("main;a", 1500), ("main;b", 10)]),
        (1, &[("main;a", 1500), ("main;b", 10)]), // sent again
        (2, &[("main;a", 1500), ("main;b", 10)]), // nothing happened
        (3, &[("main;a", 200)]),                  // restarted
        (4, &[("main;a", 250), ("main;b", 7)]),
    ] {
        push_heap(server, &raw, start + minute * 60_000, stacks).await;
    }
    let delta = [("__name__", "memory"), ("service_name", "delta"), ("__delta__", "false")];
    let profiler = [("__name__", "godeltaprof_memory"), ("service_name", "profiler")];
    for labels in [delta, [profiler[0], profiler[1], ("pod", "a")]] {
        push_heap(server, &labels, start, &[("main;a", 3)]).await;
        push_heap(server, &labels, start + 60_000, &[("main;a", 2)]).await;
    }
    let ingested = server
        .post(&format!("/ingest?name=ingested.alloc_space&from={}", start / 1000), "", "main;a 4\n")
        .await;
    assert_eq!(ingested.status, 200, "{}", ingested.text());
    let request = |profile_type: &str, service: &str| {
        json!({
            "profileTypeID": profile_type, "labelSelector": format!("{{service_name=\"{service}\"}}"),
            "start": start, "end": start + 300_000, "step": 60, "groupBy": ["service_name"],
        })
    };
    let allocated = "memory:alloc_space:bytes:space:bytes";
    for (profile_type, service, total) in [
        (allocated, "raw", 510 + 200 + 57),
        ("memory:alloc_space:bytes:space:bytes:delta", "raw", 510 + 200 + 57),
        ("memory:inuse_space:bytes:space:bytes", "raw", 10),
        (allocated, "delta", 5),
        (allocated, "profiler", 5),
        ("memory:alloc_space:bytes::", "ingested", 4),
    ] {
        let graph = server.query("SelectMergeStacktraces", &request(profile_type, service)).await.json();
        assert_eq!(graph["flamegraph"]["total"], total.to_string(), "{profile_type} {service}");
    }
    let series = server.query("SelectSeries", &request(allocated, "raw")).await.json();
    let points = series["series"][0]["points"].as_array().unwrap();
    let points: Vec<f64> = points.iter().map(|point| point["value"].as_f64().unwrap()).collect();
    assert_eq!(points, [510.0, 200.0, 57.0]);
}
