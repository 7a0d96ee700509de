//! A server over the naive store, and requests in one line.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use pyrite_model::pprof::proto;
use pyrite_server::{NodeView, ServerLimits, ServerState, Tenancy, app};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::memory::MemoryStore;

pub(crate) const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
pub(crate) const QUERIER: &str = "/querier.v1.QuerierService";
pub(crate) const PUSH: &str = "/push.v1.PusherService/Push";

pub(crate) struct Server {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) app: Router,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::with(None, ServerLimits::default())
    }

    pub(crate) fn with(node: Option<Arc<dyn NodeView>>, limits: ServerLimits) -> Self {
        let store = Arc::new(MemoryStore::default());
        let app = app(ServerState::new(store.clone(), node, Tenancy::default(), limits));
        Self { store, app }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, content_type: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).header("content-type", content_type).body(body.into()).unwrap()).await
    }

    /// Calls a querier method with JSON.
    pub(crate) async fn query(&self, method: &str, request: &Value) -> Answer {
        self.post(&format!("{QUERIER}/{method}"), "application/json", request.to_string()).await
    }

    /// Pushes folded stacks as one pprof profile and expects success.
    pub(crate) async fn push(&self, labels: &[(&str, &str)], time_ms: i64, stacks: &[(&str, i64)]) {
        let answer = self.push_profile(labels, &cpu_profile(time_ms, stacks)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(answer.text(), "{}");
    }

    pub(crate) async fn push_profile(&self, labels: &[(&str, &str)], profile: &proto::Profile) -> Answer {
        let request = push_request(labels, &prost::Message::encode_to_vec(profile));
        self.post(PUSH, "application/json", request.to_string()).await
    }
}

/// A JSON push of one profile of type `process_cpu` unless a label says otherwise.
pub(crate) fn push_request(labels: &[(&str, &str)], raw: &[u8]) -> Value {
    let mut labels: Vec<Value> =
        labels.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    labels.push(json!({ "name": "__name__", "value": "process_cpu" }));
    json!({ "series": [{ "labels": labels, "samples": [{ "rawProfile": base64(raw), "ID": "x" }] }] })
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A CPU profile out of folded stacks.
pub(crate) fn cpu_profile(time_ms: i64, stacks: &[(&str, i64)]) -> proto::Profile {
    let mut profile = proto::Profile {
        string_table: ["", "cpu", "nanoseconds"].map(str::to_owned).to_vec(),
        sample_type: vec![proto::ValueType { r#type: 1, unit: 2 }],
        period_type: Some(proto::ValueType { r#type: 1, unit: 2 }),
        time_nanos: time_ms * 1_000_000,
        ..Default::default()
    };
    for (stack, value) in stacks {
        let mut location_id = Vec::new();
        for name in stack.split(';').rev() {
            let text = profile.string_table.iter().position(|text| text == name).unwrap_or_else(|| {
                profile.string_table.push(name.to_owned());
                profile.string_table.len() - 1
            });
            let id = text as u64;
            if profile.function.iter().all(|function| function.id != id) {
                profile.function.push(proto::Function { id, name: text as i64, ..Default::default() });
                let line = vec![proto::Line { function_id: id, line: 1 }];
                profile.location.push(proto::Location { id, line, ..Default::default() });
            }
            location_id.push(id);
        }
        profile.sample.push(proto::Sample { location_id, value: vec![*value], label: vec![] });
    }
    profile
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63] as char;
            out.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    out
}
