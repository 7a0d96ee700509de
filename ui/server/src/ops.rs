//! Endpoints for those who run Pyrite: readiness, metrics, version, queries under way, and a profile of Pyrite itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use pprof::protos::Message;
use pyrite_model::Exposition;
use pyrite_model::pprof::gzip;
use pyrite_store::QueryStatus;
use serde::{Deserialize, Serialize};

use crate::ApiError;
use crate::state::{Shared, blocking};

/// Length of a self-profile where none is asked for.
const DEFAULT_SECONDS: u64 = 10;
/// Longer ones keep the signal timer on for no gain.
const MAX_SECONDS: u64 = 60;
/// Not a divisor of common periods, so that periodic work is not missed.
const SELF_FREQUENCY_HZ: i32 = 97;

pub(crate) async fn ready() -> &'static str {
    "ready\n"
}

pub(crate) async fn metrics(State(state): State<Shared>) -> Result<Response, ApiError> {
    let mut out = Exposition::new();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    out.gauge("pyrite_build_info", "Always 1; the label says which build this is.", &version, 1.0);
    let in_flight = state.in_flight.load(Ordering::Relaxed) as f64;
    out.gauge("pyrite_http_requests_in_flight", "HTTP requests being answered.", &[], in_flight);
    let waiting = state.waiting_queries() as f64;
    out.gauge("pyrite_http_queries_waiting", "Queries that wait for their turn.", &[], waiting);
    let connections = state.connections.load(Ordering::Relaxed) as f64;
    out.gauge("pyrite_http_connections", "Connections being served.", &[], connections);
    state.counters.metrics(&mut out);
    if let Some(node) = &state.node {
        node.metrics(&mut out);
    }
    // The store may have to lock; it must not hold up the threads that serve connections.
    let store = std::sync::Arc::clone(&state.store);
    let text = blocking(move || {
        store.metrics(&mut out);
        Ok(out.to_string())
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

#[derive(Serialize)]
pub(crate) struct BuildInfo {
    status: &'static str,
    data: BuildData,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildData {
    version: &'static str,
    revision: &'static str,
    branch: &'static str,
    build_user: &'static str,
    build_date: &'static str,
    go_version: &'static str,
}

/// The version in the shape that Pyroscope's tools read; what does not apply is empty.
pub(crate) async fn build_info() -> Json<BuildInfo> {
    let version = env!("CARGO_PKG_VERSION");
    let data =
        BuildData { version, revision: "", branch: "", build_user: "", build_date: "", go_version: "" };
    Json(BuildInfo { status: "success", data })
}

#[derive(Serialize)]
pub(crate) struct Queries {
    /// How many wait for their turn.
    waiting: usize,
    /// Those under way, the oldest first.
    queries: Vec<RunningQuery>,
}

#[derive(Serialize)]
struct RunningQuery {
    id: u64,
    kind: &'static str,
    age_seconds: f64,
    rows_read: u64,
    rows_to_read: u64,
    bytes: usize,
}

/// What the queries under way are at. It says nothing of whose they are or what they are about.
pub(crate) async fn queries(State(state): State<Shared>) -> Json<Queries> {
    let running = |status: QueryStatus| {
        let QueryStatus { id, kind, age, bytes, rows_read, rows_to_read } = status;
        RunningQuery { id, kind, age_seconds: age.as_secs_f64(), rows_read, rows_to_read, bytes }
    };
    let queries = state.store.queries().into_iter().map(running).collect();
    Json(Queries { waiting: state.waiting_queries(), queries })
}

#[derive(Debug, Deserialize)]
pub(crate) struct ProfileQuery {
    seconds: Option<u64>,
}

/// A CPU profile of this process, as gzip pprof.
pub(crate) async fn self_profile(
    State(state): State<Shared>,
    Query(query): Query<ProfileQuery>,
) -> Result<Response, ApiError> {
    let seconds = query.seconds.unwrap_or(DEFAULT_SECONDS);
    if !(1..=MAX_SECONDS).contains(&seconds) {
        let found = seconds.to_string();
        return Err(ApiError::BadValue { what: "seconds", expected: "between 1 and 60", found });
    }
    let busy = ApiError::Overloaded { what: "a profile of this process is already being taken" };
    let _turn = state.self_profile.try_acquire().ok().ok_or(busy)?;
    let failed = |error: pprof::Error| ApiError::Internal { reason: error.to_string() };
    // Unwinding out of these from a signal handler can deadlock on the loader's lock.
    let guard = pprof::ProfilerGuardBuilder::default()
        .frequency(SELF_FREQUENCY_HZ)
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()
        .map_err(failed)?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let packed = blocking(move || {
        let profile = guard.report().build().and_then(|report| report.pprof()).map_err(failed)?;
        Ok(gzip(&profile.encode_to_vec()))
    })
    .await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"pyrite.pb.gz\""),
    ];
    Ok((headers, packed).into_response())
}
