//! Which status each kind of request gets: the table that clients of Pyroscope rely on.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::support::{CPU, PUSH, QUERIER, Server, now_ms};

const HOUR: i64 = 3_600_000;

#[track_caller]
fn expect(what: &str, answer: &crate::support::Answer, status: u16) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    let code = match status {
        400 => "invalid_argument",
        501 => "unimplemented",
        _ => return,
    };
    assert_eq!(answer.json()["code"], code, "{what}");
    assert!(!answer.json()["message"].as_str().unwrap().is_empty(), "{what}");
}

/// A valid request for each query method.
fn valid_requests() -> Vec<(&'static str, Value)> {
    let (start, end) = (now_ms() - HOUR, now_ms());
    let range = json!({ "start": start, "end": end });
    let select = json!({ "profileTypeID": CPU, "labelSelector": "{}", "start": start, "end": end });
    let with = |base: &Value, key: &str, value: Value| {
        let mut request = base.clone();
        request[key] = value;
        request
    };
    vec![
        ("ProfileTypes", range.clone()),
        ("LabelNames", range.clone()),
        ("LabelValues", with(&range, "name", json!("service_name"))),
        ("Series", range.clone()),
        ("SelectSeries", with(&select, "step", json!(15))),
        ("SelectHeatmap", with(&with(&select, "step", json!(15)), "queryType", json!(1))),
        ("SelectMergeStacktraces", select.clone()),
        ("SelectMergeSpanProfile", with(&select, "spanSelector", json!(["9a517183f26a089d"]))),
        ("SelectMergeProfile", select.clone()),
        ("Diff", json!({ "left": select, "right": select })),
        ("GetProfileStats", json!({})),
        ("AnalyzeQuery", json!({})),
    ]
}

#[tokio::test]
async fn every_method_keeps_the_rules_of_its_transport() {
    let server = Server::new();
    for (method, request) in valid_requests() {
        let path = format!("{QUERIER}/{method}");
        expect(method, &server.query(method, &request).await, 200);
        expect(
            method,
            &server.post(&path, "application/json; charset=utf-8", request.to_string()).await,
            200,
        );
        expect(method, &server.post(&path, "application/json", "{\"invalid json\"").await, 400);
        expect(method, &server.post(&path, "application/json", "").await, 400);
        expect(method, &server.post(&path, "application/json", "[]").await, 400);
        expect(method, &server.post(&path, "application/proto", "\u{8}").await, 400);
        expect(method, &server.post(&path, "text/plain", request.to_string()).await, 415);
        expect(method, &server.get(&path).await, 405);
        for verb in ["PUT", "DELETE", "PATCH"] {
            let request = Request::builder().method(verb).uri(&path).body(Body::empty()).unwrap();
            expect(method, &server.send(request).await, 405);
        }
    }
}

#[tokio::test]
async fn windows_are_checked() {
    let server = Server::new();
    let (start, end) = (now_ms() - HOUR, now_ms());
    for (method, valid) in valid_requests() {
        if matches!(method, "GetProfileStats" | "AnalyzeQuery") {
            continue;
        }
        for (from, until, status) in [
            (end, start, 400),
            (0, end, 400),
            (start, 0, 400),
            (-1, end, 200),
            (-2, -1, 200),
            (start, end + 24 * HOUR, 200),
            (1000, 4000, 200),
            (i64::MIN, i64::MAX, 200),
        ] {
            let mut request = valid.clone();
            for side in ["left", "right"].into_iter().filter(|_| method == "Diff") {
                request[side]["start"] = json!(from);
                request[side]["end"] = json!(until);
            }
            if method != "Diff" {
                request["start"] = json!(from.to_string());
                request["end"] = json!(until);
            }
            // A window of all time in steps of seconds is too much for any store.
            if method != "SelectSeries" || until.checked_sub(from).is_some() {
                expect(&format!("{method} {from} {until}"), &server.query(method, &request).await, status);
            }
        }
    }
    expect("both absent", &server.query("ProfileTypes", &json!({})).await, 200);
    expect("both absent", &server.query("LabelNames", &json!({})).await, 400);
    for bad in [json!({ "start": "now-1h" }), json!({ "start": 1.5, "end": 2 }), json!({ "start": [] })] {
        expect("no number", &server.query("ProfileTypes", &bad).await, 400);
    }
}

#[tokio::test]
async fn selectors_types_and_limits_are_checked() {
    let server = Server::new();
    let (start, end) = (now_ms() - HOUR, now_ms());
    let methods = [
        "SelectMergeStacktraces",
        "SelectMergeProfile",
        "SelectSeries",
        "SelectHeatmap",
        "SelectMergeSpanProfile",
    ];
    for method in methods {
        for (profile_type, selector, status) in [
            (CPU, r#"{service_name="x"}"#, 200),
            ("process_cpu:cpu:nanoseconds:cpu:nanoseconds:delta", "{}", 200),
            ("no:such:type:at:all", "{}", 200),
            (CPU, "", 400),
            (CPU, "!bad_syntax!", 400),
            (CPU, r#"{a=~"("}"#, 400),
            ("", "{}", 400),
            ("invalid_format", "{}", 400),
        ] {
            let request = json!({
                "profile_typeID": profile_type, "label_selector": selector, "start": start, "end": end, "step": 15,
                "query_type": 1,
            });
            expect(
                &format!("{method} {profile_type} {selector}"),
                &server.query(method, &request).await,
                status,
            );
        }
    }
    let select = |extra: Value| {
        let mut request = json!({ "profileTypeID": CPU, "labelSelector": "{}", "start": start, "end": end });
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        request
    };
    for (method, extra, status) in [
        ("SelectMergeStacktraces", json!({ "maxNodes": 0 }), 200),
        ("SelectMergeStacktraces", json!({ "maxNodes": "1048576" }), 200),
        ("SelectMergeStacktraces", json!({ "maxNodes": 1_048_577 }), 400),
        ("SelectMergeStacktraces", json!({ "maxNodes": -1 }), 400),
        ("SelectMergeStacktraces", json!({ "format": 2 }), 200),
        ("SelectMergeStacktraces", json!({ "format": "PROFILE_FORMAT_PPROF" }), 200),
        ("SelectMergeStacktraces", json!({ "format": "PROFILE_FORMAT_FUNCTIONS" }), 200),
        ("SelectMergeStacktraces", json!({ "format": "PROFILE_FORMAT_DOT" }), 501),
        ("SelectMergeStacktraces", json!({ "async": { "type": "ASYNC_QUERY_TYPE_FORCE" } }), 501),
        ("SelectMergeStacktraces", json!({ "async": null, "frameFilter": { "x": 1 } }), 200),
        ("SelectMergeStacktraces", json!({ "spanSelector": ["1"], "traceIdSelector": ["2"] }), 400),
        ("SelectSeries", json!({ "step": 0 }), 400),
        ("SelectSeries", json!({ "step": 0.0001 }), 400),
        ("SelectSeries", json!({ "step": -1 }), 400),
        ("SelectSeries", json!({ "step": "NaN" }), 400),
        ("SelectSeries", json!({ "step": 1, "limit": -1 }), 400),
        ("SelectSeries", json!({ "step": 1, "exemplarType": "EXEMPLAR_TYPE_NONE", "aggregation": 1 }), 200),
    ] {
        expect(&format!("{method} {extra}"), &server.query(method, &select(extra)).await, status);
    }
    for (request, status) in [
        (json!({ "left": select(json!({})) }), 400),
        (json!({ "right": select(json!({})) }), 400),
        (json!({ "left": select(json!({})), "right": select(json!({ "maxNodes": -1 })) }), 400),
    ] {
        expect("Diff", &server.query("Diff", &request).await, status);
    }
    for (method, extra) in [("LabelValues", json!({ "name": "" })), ("LabelValues", json!({}))] {
        let mut request = json!({ "start": start, "end": end });
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        expect("no name", &server.query(method, &request).await, 400);
    }
    for method in ["LabelNames", "LabelValues", "Series"] {
        let request = json!({ "name": "a", "matchers": ["!bad_syntax!"], "start": start, "end": end });
        expect(method, &server.query(method, &request).await, 400);
    }
}

#[tokio::test]
async fn methods_that_are_missing_are_not_unknown() {
    let server = Server::new();
    for path in [
        "/querier.v1.QuerierService/SelectNothing",
        "/push.v1.PusherService/Pull",
        "/settings.v1.SettingsService/Get",
        "/vcs.v1.VCSService/GetFile",
        "/adhocprofiles.v1.AdHocProfileService/List",
        "/version.v1.Version/Version",
    ] {
        expect(path, &server.post(path, "application/json", "{}").await, 501);
        expect(path, &server.get(path).await, 405);
    }
    for path in ["/unknown.v1.Service/Method", "/pyroscope/nothing", "/api/v1/nothing"] {
        expect(path, &server.post(path, "application/json", "{}").await, 404);
        expect(path, &server.get(path).await, 404);
    }
}

#[tokio::test]
async fn bad_accept_headers_are_refused_everywhere() {
    let server = Server::new();
    for path in ["/ready", "/pyroscope/render", PUSH] {
        let request = Request::get(path).header("accept", "a b").body(Body::empty()).unwrap();
        let answer = server.send(request).await;
        assert_eq!(answer.status, 400);
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    }
}

#[tokio::test]
async fn render_takes_only_get_and_a_typed_query() {
    let server = Server::new();
    let query = format!("query={CPU}%7B%7D");
    for (parameters, status) in [
        (format!("{query}&from=now-15m&until=now"), 200),
        (format!("{query}&from=now-15m"), 200),
        (format!("{query}&from=now-15m&until=now&groupBy=service_name&groupBy=region"), 200),
        (format!("{query}&from=now-15m&until=now&aggregation=invalid"), 200),
        (format!("{query}&from=now-15m&until=now&maxNodes=invalid"), 200),
        (format!("{query}&from=now-15m&until=now&maxNodes=0&max-nodes=50"), 200),
        (format!("{query}&from=now-15m&until=now&maxNodes=-1"), 400),
        (format!("{query}&from=0&until=0"), 400),
        (format!("{query}&from=0&until=now"), 400),
        (format!("{query}&from=now-15m&until=0"), 400),
        (format!("{query}&from=now&until=now-15m"), 400),
        ("from=now-15m&until=now".to_owned(), 400),
        ("query=&from=now-15m&until=now".to_owned(), 400),
        ("query=bad_query&from=now-15m&until=now".to_owned(), 400),
        ("query=%7Bservice_name%3D%22test%22%7D&from=now-15m&until=now".to_owned(), 400),
        (format!("{query}&from=now-15m&until=now&format=dot"), 501),
    ] {
        let path = format!("/pyroscope/render?{parameters}");
        expect(&path, &server.get(&path).await, status);
        expect(&path, &server.post(&path, "application/json", "{}").await, 405);
    }
    let side =
        |side: &str, id: &str| format!("{side}Query={id}%7B%7D&{side}From=now-30m&{side}Until=now-15m");
    let memory = "memory:alloc_objects:count:space:bytes";
    for (parameters, status) in [
        (format!("{}&{}", side("left", CPU), side("right", CPU)), 200),
        (side("left", CPU), 400),
        (side("right", CPU), 400),
        (format!("{}&{}", side("left", CPU), side("right", memory)), 400),
        (format!("{}&{}", side("left", CPU), side("right", "bad")), 400),
    ] {
        let path = format!("/pyroscope/render-diff?{parameters}");
        expect(&path, &server.get(&path).await, status);
        expect(&path, &server.post(&path, "application/json", "{}").await, 405);
    }
}
