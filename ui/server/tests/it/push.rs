//! Pushing: what is stored, what is refused, and with which status.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use prost::Message;
use pyrite_model::pprof::gzip;
use pyrite_server::{ApiError, ServerLimits};
use serde_json::{Value, json};

use crate::support::{CPU, PUSH, Server, base64, cpu_profile, now_ms, push_request};

async fn names(server: &Server) -> Value {
    let range = json!({ "name": "service_name", "start": now_ms() - 60_000, "end": now_ms() + 60_000 });
    server.query("LabelValues", &range).await.json()["names"].clone()
}

#[tokio::test]
async fn both_codecs_plain_and_packed() {
    let raw = cpu_profile(now_ms(), &[("a", 1)]).encode_to_vec();
    // PushRequest { series: [{ labels: [__name__, service_name], samples: [{ raw_profile }] }] } by hand.
    let field = |number: u8, content: &[u8]| {
        let mut out = vec![number << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut out);
        [out, content.to_vec()].concat()
    };
    let label =
        |name: &str, value: &str| field(1, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat());
    let series = |profile: &[u8]| {
        let labels = [label("__name__", "process_cpu"), label("service_name", "proto")].concat();
        field(1, &[labels, field(2, &field(1, profile))].concat())
    };
    let server = Server::new();
    for body in [series(&raw), series(&gzip(&raw))] {
        let answer = server.post(PUSH, "application/proto", body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0), "{}", answer.text());
        let packed = Request::post(PUSH)
            .header("content-type", "application/proto")
            .header("content-encoding", "gzip")
            .body(Body::from(gzip(&body)))
            .unwrap();
        assert_eq!(server.send(packed).await.status, 200);
    }
    let answer = server.post(PUSH, "application/json", push_request(&[], &raw).to_string()).await;
    assert_eq!(answer.text(), "{}");
    assert_eq!(names(&server).await, json!(["proto", "unknown_service"]));
    let metrics = server.get("/metrics").await.text();
    assert!(metrics.contains("pyrite_push_profiles_total 5\n"), "{metrics}");
    assert!(metrics.contains("test_store_rows 5\n"), "{metrics}");
    assert!(
        metrics.contains(r#"pyrite_http_requests_total{route="/push.v1.PusherService/Push",status="200"} 5"#)
    );
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_a_reason() {
    let server = Server::new();
    let now = now_ms();
    let good = cpu_profile(now, &[("a", 1)]);
    let edited = |edit: fn(&mut pyrite_model::pprof::proto::Profile)| {
        let mut profile = good.clone();
        edit(&mut profile);
        push_request(&[], &profile.encode_to_vec())
    };
    let bad_base64 = json!({ "series": [{ "samples": [{ "rawProfile": "%" }] }] });
    let unnamed = json!({ "series": [{ "samples": [{ "rawProfile": base64(&good.encode_to_vec()) }] }] });
    let twice = push_request(&[("a", "1"), ("a", "2")], &good.encode_to_vec());
    for (request, message) in [
        (json!({}), "no profiles received"),
        (json!({ "series": [] }), "no profiles received"),
        (json!({ "series": [{ "labels": [] }] }), "no profiles received"),
        (bad_base64, "request body is not valid JSON"),
        (unnamed, "label __name__ is \"\""),
        (twice, "label names must be distinct, got \"a\" twice"),
        (push_request(&[], b"garbage"), "series 0, profile 0: profile is not valid protobuf"),
        (push_request(&[], b""), "empty profile"),
        (push_request(&[], b"\x1f\x8bgarbage"), "not valid gzip"),
        (edited(|p| p.sample[0].value.clear()), "sample 0 has 0 values"),
        (edited(|p| p.time_nanos = 1), "outside the accepted range"),
        (edited(|p| p.time_nanos += 3_600_000_000_000), "outside the accepted range"),
    ] {
        let answer = server.post(PUSH, "application/json", request.to_string()).await;
        assert_eq!(answer.status, 400, "{request}: {}", answer.text());
        let body = answer.json();
        assert_eq!(body["code"], "invalid_argument");
        assert!(body["message"].as_str().unwrap().contains(message), "{body} lacks {message}");
    }
    assert_eq!(names(&server).await, Value::Null);
    let metrics = server.get("/metrics").await.text();
    for line in
        ["{reason=\"empty\"} 1", "{reason=\"gzip\"} 1", "{reason=\"time\"} 2", "{reason=\"profile_type\"} 1"]
    {
        assert!(metrics.contains(&format!("pyrite_push_rejected_total{line}\n")), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn one_bad_profile_keeps_the_whole_push_out() {
    let server = Server::new();
    let good = base64(&cpu_profile(now_ms(), &[("a", 1)]).encode_to_vec());
    let labels = json!([{ "name": "__name__", "value": "process_cpu" }]);
    let series =
        json!({ "labels": labels, "samples": [{ "rawProfile": good }, { "rawProfile": base64(b"bad") }] });
    let answer = server.post(PUSH, "application/json", json!({ "series": [series] }).to_string()).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("series 0, profile 1"), "{}", answer.text());
    assert_eq!(names(&server).await, Value::Null);
}

#[tokio::test]
async fn what_passes_by_itself_can_be_retried() {
    let server = Server::new();
    let body = push_request(&[], &cpu_profile(now_ms(), &[("a", 1)]).encode_to_vec()).to_string();
    for (error, status, code) in [
        (ApiError::Overloaded { what: "the queue is full" }, 429, "resource_exhausted"),
        (ApiError::Unavailable { reason: "the disk is full".into() }, 503, "unavailable"),
    ] {
        *server.store.fail_next.lock().unwrap() = Some(error);
        let answer = server.post(PUSH, "application/json", body.clone()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["code"], code);
        assert_eq!(answer.headers.contains_key("retry-after"), status == 429);
    }
    assert_eq!(names(&server).await, Value::Null);
    assert_eq!(server.post(PUSH, "application/json", body).await.status, 200);
    assert_eq!(names(&server).await, json!(["unknown_service"]));
}

#[tokio::test]
async fn bodies_have_bounds_before_and_after_unpacking() {
    let limits = ServerLimits { push_body_bytes: 1000, query_body_bytes: 100, ..ServerLimits::default() };
    let server = Server::with(None, limits);
    let answer = server.post(PUSH, "application/json", " ".repeat(1001)).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    let chunks = (0..3).map(|_| Ok::<_, std::io::Error>(vec![b' '; 500]));
    let streamed = Request::post(PUSH)
        .header("content-type", "application/json")
        .body(Body::new(Chunks(chunks.collect())))
        .unwrap();
    assert_eq!(server.send(streamed).await.status, 413);
    let bomb = Request::post(PUSH)
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(Body::from(gzip(&vec![b' '; 100_000])))
        .unwrap();
    assert_eq!(server.send(bomb).await.status, 413);
    let answer = server.query("ProfileTypes", &json!({ "pad": " ".repeat(100) })).await;
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn many_profiles_of_one_push_have_a_bound_together() {
    let profile = |n: usize| {
        let stacks: Vec<String> = (0..100).map(|i| format!("{n}:{i}:{}", "x".repeat(1000))).collect();
        let stacks: Vec<(&str, i64)> = stacks.iter().map(|stack| (&**stack, 1)).collect();
        base64(&gzip(&cpu_profile(now_ms(), &stacks).encode_to_vec()))
    };
    let limits = ServerLimits { push_batch_bytes: 1 << 20, ..ServerLimits::default() };
    let server = Server::with(None, limits);
    let labels = json!([{ "name": "__name__", "value": "process_cpu" }]);
    for (count, status) in [(5, 200), (20, 413)] {
        let samples: Vec<Value> = (0..count).map(|n| json!({ "rawProfile": profile(n) })).collect();
        let request = json!({ "series": [{ "labels": labels, "samples": samples }] });
        assert!(request.to_string().len() < 1 << 18);
        let answer = server.post(PUSH, "application/json", request.to_string()).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
}

/// A stream of byte chunks, without a crate for it.
struct Chunks(std::collections::VecDeque<Result<Vec<u8>, std::io::Error>>);

impl axum::body::HttpBody for Chunks {
    type Data = axum::body::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Ready(
            self.0.pop_front().map(|chunk| chunk.map(|bytes| http_body::Frame::data(bytes.into()))),
        )
    }
}

#[tokio::test]
async fn a_body_that_never_comes_is_given_up() {
    let limits = ServerLimits {
        body_timeout: Duration::from_millis(500),
        push_bytes_in_flight: 1 << 20,
        ..ServerLimits::default()
    };
    let server = Arc::new(Server::with(None, limits));
    let stuck =
        Request::post(PUSH).header("content-type", "application/json").body(Body::new(Never)).unwrap();
    let first = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.send(stuck).await.status }
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(server.post(PUSH, "application/json", "{}").await.status, 429, "its place is taken");
    assert_eq!(first.await.unwrap(), 408);
    assert_eq!(server.post(PUSH, "application/json", "{}").await.status, 400, "its place is free again");
}

#[tokio::test]
async fn nothing_of_a_push_is_unpacked_before_its_turn() {
    let limits =
        ServerLimits { decoding_pushes: 0, push_bytes_in_flight: 1 << 20, ..ServerLimits::default() };
    let server = Server::with(None, limits);
    let waiting = server.post(PUSH, "application/json", "this is no JSON");
    tokio::pin!(waiting);
    let patience = Duration::from_millis(200);
    assert!(tokio::time::timeout(patience, &mut waiting).await.is_err(), "its turn never comes");
    assert_eq!(server.get("/ready").await.status, 200, "nobody else waits for it");
    assert_eq!(server.post(PUSH, "application/json", "{}").await.status, 429, "and its bytes are counted");
}

#[tokio::test]
async fn json_may_say_null_for_what_is_absent() {
    let server = Server::new();
    let profile = base64(&cpu_profile(now_ms(), &[("a", 1)]).encode_to_vec());
    let sample = json!({ "rawProfile": profile, "ID": null, "later": [null] });
    let labels = json!([{ "name": "__name__", "value": "process_cpu" }, { "name": "a", "value": null }]);
    let series = json!([{ "labels": labels, "samples": [sample], "annotations": null }]);
    for request in [json!({ "series": series }), json!({ "series": series, "later": null })] {
        let answer = server.post(PUSH, "application/json", request.to_string()).await;
        assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "{}"));
    }
    assert_eq!(names(&server).await, json!(["unknown_service"]));
}

struct Never;

impl axum::body::HttpBody for Never {
    type Data = axum::body::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn ingest_takes_forms_pprof_and_text() {
    let server = Server::new();
    let raw = cpu_profile(now_ms(), &[("main;work", 5)]).encode_to_vec();
    let form = |parts: &[(&str, &[u8])]| {
        let mut body = Vec::new();
        for (name, content) in parts {
            body.extend_from_slice(b"--XX\r\ncontent-disposition: form-data; name=\"");
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(b"\"; filename=\"f\"\r\n\r\n");
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        [body, b"--XX--\r\n".to_vec()].concat()
    };
    let multipart = "multipart/form-data; boundary=XX";
    let config = br#"{"cpu":{"units":"nanoseconds","display-name":"mutex_count","sampled":true}}"#;
    for (path, content_type, body, status) in [
        ("/ingest?name=go%7Bregion=eu%7D&spyName=gospy", multipart, form(&[("profile", &gzip(&raw))]), 200),
        (
            "/pyroscope/ingest?name=go",
            multipart,
            form(&[("profile", &raw), ("sample_type_config", config)]),
            200,
        ),
        ("/ingest?name=raw&format=pprof", "", raw.clone(), 200),
        ("/ingest?name=raw&format=pprof", "", vec![], 200),
        ("/ingest?name=text&sampleRate=bad", "", b"a;b 2\na 1\n".to_vec(), 200),
        ("/ingest?name=text.alloc_objects&format=lines", "text/plain", b"a;b\na;b\n".to_vec(), 200),
        ("/ingest?name=", "", vec![], 400),
        ("/ingest", "", vec![], 400),
        ("/ingest?name=x%7By%7D", "", vec![], 400),
        ("/ingest?name=x", multipart, form(&[("profile", b"garbage")]), 422),
        ("/ingest?name=x", multipart, form(&[("other", &raw)]), 422),
        ("/ingest?name=x", multipart, form(&[("profile", &raw), ("prev_profile", &raw)]), 422),
        ("/ingest?name=x", multipart, form(&[("profile", &raw), ("sample_type_config", b"[")]), 422),
        ("/ingest?name=x", "multipart/form-data", form(&[("profile", &raw)]), 422),
        ("/ingest?name=x&format=pprof", "", b"garbage".to_vec(), 422),
        ("/ingest?name=x", "", b"a;b\n".to_vec(), 422),
        ("/ingest?name=x.unknown", "", b"a;b 1\n".to_vec(), 422),
        ("/ingest?name=x&from=1700000000", "", b"a;b 1\n".to_vec(), 422),
        ("/ingest?name=x&from=99999999999999999999", "", b"a;b 1\n".to_vec(), 422),
        ("/ingest?name=x&format=jfr", "", vec![], 501),
        ("/ingest?name=x", "binary/octet-stream+trie", vec![], 501),
    ] {
        let answer = server.post(path, content_type, body).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    assert_eq!(names(&server).await, json!(["go", "raw", "text"]));
    let range = json!({
        "start": now_ms() - 60_000, "end": now_ms() + 60_000,
        "labelNames": ["__profile_type__", "service_name", "region", "pyroscope_spy"],
    });
    let series = server.query("Series", &range).await.json();
    let mut lines: Vec<String> = series["labelsSet"]
        .as_array()
        .unwrap()
        .iter()
        .map(|set| {
            let values =
                set["labels"].as_array().unwrap().iter().map(|label| label["value"].as_str().unwrap());
            values.collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort();
    let expected = [
        "memory:alloc_objects:count:: unknown text".to_owned(),
        "mutex:cpu:nanoseconds:cpu:nanoseconds unknown go".to_owned(),
        format!("{CPU} gospy eu go"),
        format!("{CPU} unknown raw"),
        format!("{CPU} unknown text"),
    ];
    assert_eq!(lines, expected);
}
