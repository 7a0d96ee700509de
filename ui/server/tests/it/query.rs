//! What queries answer, byte by byte where the contract gives an example.

use axum::body::Body;
use axum::http::Request;
use prost::Message;
use pyrite_model::pprof::proto;
use serde_json::{Value, json};

use crate::support::{CPU, QUERIER, Server, now_ms};

/// Two services; the example stacks in the first.
async fn example() -> (Server, i64) {
    let server = Server::new();
    let time = now_ms() - 60_000;
    let stacks = [("a;b", 3), ("a", 1), ("a;c", 2), ("d", 4)];
    server.push(&[("service_name", "api"), ("region", "eu")], time, &stacks).await;
    server
        .push(&[("service_name", "web"), ("k8s.pod", "w-1")], time + 10_000, &[("a;b", 1), ("a;c", 2)])
        .await;
    (server, time)
}

fn select(selector: &str, time: i64) -> Value {
    json!({ "profileTypeID": CPU, "labelSelector": selector, "start": time - 30_000, "end": time + 30_000 })
}

#[tokio::test]
async fn a_flame_graph_is_the_contract_s_example() {
    let (server, time) = example().await;
    let answer = server.query("SelectMergeStacktraces", &select(r#"{service_name="api"}"#, time)).await;
    let expected = concat!(
        r#"{"flamegraph":{"names":["total","d","a","c","b"],"levels":[{"values":["0","10","0","0"]},"#,
        r#"{"values":["0","6","1","2","0","4","4","1"]},{"values":["1","3","3","4","0","2","2","3"]}],"#,
        r#""total":"10","maxSelf":"4"}}"#,
    );
    assert_eq!(answer.text(), expected);
}

#[tokio::test]
async fn a_diff_is_the_contract_s_example() {
    let server = Server::new();
    let time = now_ms() - 60_000;
    server.push(&[("service_name", "l")], time, &[("a;b", 3), ("a", 1)]).await;
    server.push(&[("service_name", "r")], time, &[("a;b", 1), ("a;c", 2)]).await;
    let sides = [select(r#"{service_name="l"}"#, time), select(r#"{service_name="r"}"#, time)];
    let answer = server.query("Diff", &json!({ "left": sides[0], "right": sides[1] })).await;
    let expected = concat!(
        r#"{"flamegraph":{"names":["total","a","c","b"],"levels":[{"values":["0","4","0","0","3","0","0"]},"#,
        r#"{"values":["0","4","1","0","3","0","1"]},"#,
        r#"{"values":["1","3","3","0","1","1","3","0","0","0","0","2","2","2"]}],"#,
        r#""total":"7","maxSelf":"3","leftTicks":"4","rightTicks":"3"}}"#,
    );
    assert_eq!(answer.text(), expected);
}

#[tokio::test]
async fn no_data_is_a_root_not_an_error() {
    let (server, time) = example().await;
    let empty = r#"{"flamegraph":{"names":["total"],"levels":[{"values":["0","0","0","0"]}]}}"#;
    for mut request in [
        select(r#"{service_name="nobody"}"#, time),
        select("{}", time - 1_000_000),
        select("{}", time),
        select("{}", time),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, mut request)| {
        match i {
            2 => request["profileIdSelector"] = json!(["7c9e6679-7425-40de-944b-e07fc1f90ae7"]),
            3 => request["profileTypeID"] = json!("memory:x:y:z:w"),
            _ => {}
        }
        request
    }) {
        assert_eq!(server.query("SelectMergeStacktraces", &request).await.text(), empty, "{request}");
        request["format"] = json!("PROFILE_FORMAT_TREE");
        assert_eq!(server.query("SelectMergeStacktraces", &request).await.text(), "{}");
        request["format"] = json!("PROFILE_FORMAT_PPROF");
        assert_eq!(
            server.query("SelectMergeStacktraces", &request).await.text(),
            r#"{"pprof":{"profile":{}}}"#
        );
    }
    let mut request = select("{}", time);
    request["spanSelector"] = json!(["9a517183f26a089d"]);
    assert_eq!(server.query("SelectMergeSpanProfile", &request).await.text(), empty);
    let request = json!({ "start": 1000, "end": 4000 });
    for method in ["ProfileTypes", "LabelNames", "Series"] {
        assert_eq!(server.query(method, &request).await.text(), "{}");
    }
}

#[tokio::test]
async fn both_spellings_and_both_codecs_say_the_same() {
    let (server, time) = example().await;
    let camel = select("{}", time);
    let snake = json!({
        "profile_typeID": CPU, "label_selector": "{}", "start": (time - 30_000).to_string(),
        "end": time + 30_000, "max_nodes": null, "unknown": [{}],
        "stackTraceSelector": { "call_site": [] },
    });
    let answer = server.query("SelectMergeStacktraces", &camel).await;
    assert_eq!(server.query("SelectMergeStacktraces", &snake).await.text(), answer.text());

    // The same as protobuf: fields 1 and 2 are strings, 3 and 4 varints; the answer's field 1 is the flame graph.
    let mut message = vec![0x0a, CPU.len() as u8];
    message.extend_from_slice(CPU.as_bytes());
    message.extend_from_slice(b"\x12\x02{}");
    for (field, value) in [(3_u8, time - 30_000), (4, time + 30_000)] {
        message.push(field << 3);
        prost::encoding::encode_varint(value as u64, &mut message);
    }
    let path = format!("{QUERIER}/SelectMergeStacktraces");
    let proto = server.post(&path, "application/proto", message.clone()).await;
    assert_eq!(proto.status, 200, "{}", proto.text());
    assert_eq!(proto.headers["content-type"], "application/proto");
    assert_eq!(proto.body[0], 0x0a);
    assert_eq!(proto.body[2..9], *b"\x0a\x05total");

    let packed = Request::post(&path)
        .header("content-type", "application/proto")
        .header("content-encoding", "gzip")
        .body(Body::from(pyrite_model::pprof::gzip(&message)))
        .unwrap();
    assert_eq!(server.send(packed).await.body, proto.body);
    let unknown = Request::post(&path)
        .header("content-type", "application/proto")
        .header("content-encoding", "br")
        .body(Body::empty())
        .unwrap();
    assert_eq!(server.send(unknown).await.status, 501);
    // An empty protobuf body is a message without fields.
    assert_eq!(server.post(&format!("{QUERIER}/ProfileTypes"), "application/proto", "").await.status, 200);
}

#[tokio::test]
async fn large_answers_are_packed_for_those_who_ask() {
    let server = Server::new();
    let time = now_ms() - 1000;
    let stacks: Vec<(String, i64)> = (0..200).map(|i| (format!("main;function_{i}"), 1)).collect();
    let stacks: Vec<(&str, i64)> = stacks.iter().map(|(stack, value)| (stack.as_str(), *value)).collect();
    server.push(&[], time, &stacks).await;
    let call = |encoding: &str| {
        Request::post(format!("{QUERIER}/SelectMergeStacktraces"))
            .header("content-type", "application/json")
            .header("accept-encoding", encoding)
            .body(Body::from(select("{}", time).to_string()))
            .unwrap()
    };
    let plain = server.send(call("identity")).await;
    let packed = server.send(call("gzip")).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.body.len() < plain.body.len() / 2);
    assert_eq!(*pyrite_model::pprof::inflate(&packed.body, 1 << 20).unwrap(), *plain.body);
}

#[tokio::test]
async fn labels_and_series() {
    let (server, time) = example().await;
    let range = json!({ "start": time - 30_000, "end": time + 30_000 });
    let types = server.query("ProfileTypes", &range).await.json();
    let expected = json!([{
        "ID": CPU, "name": "process_cpu", "sampleType": "cpu", "sampleUnit": "nanoseconds",
        "periodType": "cpu", "periodUnit": "nanoseconds",
    }]);
    assert_eq!(types["profileTypes"], expected);

    let synthetic = [
        "__name__",
        "__period_type__",
        "__period_unit__",
        "__profile_type__",
        "__service_name__",
        "__type__",
        "__unit__",
    ];
    let names = server.query("LabelNames", &range).await.json();
    assert_eq!(names["names"], json!([&synthetic[..], &["region", "service_name"]].concat()));
    let utf8 = Request::post(format!("{QUERIER}/LabelNames"))
        .header("content-type", "application/json")
        .header("accept", "*/*; allow-utf8-labelnames=true")
        .body(Body::from(range.to_string()))
        .unwrap();
    let names = server.send(utf8).await.json();
    assert_eq!(names["names"], json!([&synthetic[..], &["k8s.pod", "region", "service_name"]].concat()));

    let values = |name: &str, matchers: Value| {
        let mut request = range.clone();
        request["name"] = json!(name);
        request["matchers"] = matchers;
        request
    };
    for (name, matchers, expected) in [
        ("service_name", json!([]), json!(["api", "web"])),
        ("service_name", json!([r#"{region="eu"}"#]), json!(["api"])),
        ("service_name", json!([r#"{region="eu"}"#, r#"{service_name="web"}"#]), Value::Null),
        ("k8s.pod", json!([r#"{"k8s.pod"=~"w.*"}"#]), json!(["w-1"])),
        ("__profile_type__", json!([format!(r#"{{__profile_type__="{CPU}"}}"#)]), json!([CPU])),
        ("no_such", json!([]), Value::Null),
    ] {
        let answer = server.query("LabelValues", &values(name, matchers)).await.json();
        assert_eq!(answer["names"], expected, "{name}");
    }

    let mut request = range.clone();
    request["labelNames"] = json!(["service_name", "__profile_type__"]);
    let series = server.query("Series", &request).await.json();
    let tuple = |service: &str| {
        json!({ "labels": [
            { "name": "__profile_type__", "value": CPU }, { "name": "service_name", "value": service },
        ] })
    };
    assert_eq!(series["labelsSet"], json!([tuple("api"), tuple("web")]));
    let all = server.query("Series", &range).await.json();
    let names: Vec<&str> = all["labelsSet"][0]["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, [&synthetic[..], &["region", "service_name"]].concat());
}

#[tokio::test]
async fn select_series_stamps_the_ends_of_its_buckets() {
    let server = Server::new();
    let start = now_ms() - 100_000;
    for (offset, value) in [(-15_000, 1), (-14_999, 2), (0, 4), (1, 8), (15_000, 16), (30_001, 32)] {
        server.push(&[("pod", "a")], start + offset, &[("main;x", value)]).await;
    }
    server.push(&[("pod", "b")], start + 5, &[("main;y", 100)]).await;
    let mut request = json!({
        "profileTypeID": CPU, "labelSelector": "{}", "start": start, "end": start + 44_000, "step": 15.0,
        "groupBy": ["pod"],
    });
    let answer = server.query("SelectSeries", &request).await.text();
    let expected = format!(
        concat!(
            r#"{{"series":[{{"labels":[{{"name":"pod","value":"b"}}],"points":[{{"value":100.0,"timestamp":"{1}"}}]}},"#,
            r#"{{"labels":[{{"name":"pod","value":"a"}}],"#,
            r#""points":[{{"value":6.0,"timestamp":"{0}"}},{{"value":24.0,"timestamp":"{1}"}}]}}]}}"#
        ),
        start,
        start + 15_000
    );
    assert_eq!(answer, expected);
    request["limit"] = json!("1");
    assert_eq!(server.query("SelectSeries", &request).await.json()["series"].as_array().unwrap().len(), 1);
    request["groupBy"] = json!([]);
    request["stackTraceSelector"] = json!({ "callSite": [{ "name": "main" }, { "name": "y" }] });
    let answer = server.query("SelectSeries", &request).await.json();
    assert_eq!(
        answer["series"],
        json!([{ "points": [{ "value": 100.0, "timestamp": (start + 15_000).to_string() }] }])
    );
}

#[tokio::test]
async fn call_sites_and_node_limits_narrow_a_flame_graph() {
    let (server, time) = example().await;
    let mut request = select("{}", time);
    request["stackTraceSelector"] = json!({ "callSite": [{ "name": "a" }, { "name": "b" }] });
    let graph = &server.query("SelectMergeStacktraces", &request).await.json()["flamegraph"];
    assert_eq!(graph["total"], "4");
    assert_eq!(graph["names"], json!(["total", "a", "b"]));
    let mut request = select("{}", time);
    request["maxNodes"] = json!(1);
    let graph = &server.query("SelectMergeStacktraces", &request).await.json()["flamegraph"];
    assert_eq!(graph["names"], json!(["total", "other", "a"]));
    assert_eq!(graph["total"], "13");
}

#[tokio::test]
async fn pprof_comes_back_as_it_went_in() {
    let (server, time) = example().await;
    let request = select(r#"{service_name="api"}"#, time);
    let merged = server.query("SelectMergeProfile", &request).await.json();
    assert_eq!(merged["timeNanos"], ((time + 30_000) * 1_000_000).to_string());
    assert_eq!(merged["sample"].as_array().unwrap().len(), 4);
    let mut request = request;
    request["format"] = json!("PROFILE_FORMAT_PPROF");
    let answer = server.query("SelectMergeStacktraces", &request).await.json();
    let profile: proto::Profile = serde_json::from_value(answer["pprof"]["profile"].clone()).unwrap();
    let sum: i64 = profile.sample.iter().map(|sample| sample.value[0]).sum();
    assert_eq!(sum, 10);
    let again = Server::new();
    let pushed = again.push_profile(&[("service_name", "api")], &profile).await;
    assert_eq!(pushed.status, 200, "{}", pushed.text());
    let graph = |answer: crate::support::Answer| answer.json()["flamegraph"].clone();
    let request = select(r#"{service_name="api"}"#, time);
    let (first, second) = (
        graph(server.query("SelectMergeStacktraces", &request).await),
        graph(again.query("SelectMergeStacktraces", &request).await),
    );
    assert_eq!(first, second);
    assert!(profile.encoded_len() > 0);
}

#[tokio::test]
async fn stats_say_whether_anything_came_in() {
    let server = Server::new();
    assert_eq!(server.query("GetProfileStats", &json!({})).await.text(), "{}");
    let time = now_ms() - 5000;
    server.push(&[], time, &[("a", 1)]).await;
    let expected = json!({
        "dataIngested": true, "oldestProfileTime": time.to_string(), "newestProfileTime": time.to_string(),
    });
    assert_eq!(server.query("GetProfileStats", &json!({})).await.json(), expected);
    assert_eq!(server.query("AnalyzeQuery", &json!({})).await.text(), "{}");
}
