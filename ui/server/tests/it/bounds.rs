//! What queries may take, as clients see it: turns, time, memory, and what becomes of them when nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use pyrite_model::{
    Batch, Exposition, FlameTree, LabelSet, ProfileType, Row, Selector, SeriesKey, SeriesRows, StackProfile,
    SymbolTable, Tenants, TimeRange, UnixMs,
};
use pyrite_server::{ApiError, Appending, ProfileStore, ServerLimits, ServerState, Tenancy, app, serve};
use pyrite_store::{
    GroupSeries, Limits, QueryStatus, Retention, SeriesProfiles, SeriesQuery, StackQuery, Stop, Store,
    StoreConfig,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use crate::support::{CPU, QUERIER};

/// A store whose label queries go on until they are let go or stopped.
#[derive(Clone, Default)]
struct Endless {
    stop: Stop,
    may_end: Arc<AtomicBool>,
}

impl Endless {
    fn let_go(&self) {
        self.may_end.store(true, Ordering::SeqCst);
    }
}

impl ProfileStore for Endless {
    fn on_behalf(self: Arc<Self>, stop: Stop) -> Arc<dyn ProfileStore> {
        Arc::new(Self { stop, may_end: Arc::clone(&self.may_end) })
    }

    fn queries(&self) -> Vec<QueryStatus> {
        Vec::new()
    }

    fn label_names(&self, _: &Tenants, _: &Selector, _: TimeRange) -> Result<Vec<String>, ApiError> {
        while !self.may_end.load(Ordering::SeqCst) {
            self.stop.check()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Vec::new())
    }

    fn append(&self, _: Batch) -> Appending<'_> {
        unreachable!("nothing is pushed")
    }

    fn profile_types(&self, _: &Tenants, _: TimeRange) -> Result<Vec<ProfileType>, ApiError> {
        unreachable!("not asked")
    }

    fn label_values(
        &self,
        _: &Tenants,
        _: &str,
        _: &Selector,
        _: TimeRange,
    ) -> Result<Vec<String>, ApiError> {
        unreachable!("not asked")
    }

    fn series(&self, _: &Tenants, _: &Selector, _: TimeRange) -> Result<Vec<SeriesKey>, ApiError> {
        unreachable!("not asked")
    }

    fn merge_stacks(&self, _: &StackQuery) -> Result<StackProfile, ApiError> {
        unreachable!("not asked")
    }

    fn flame_tree(&self, _: &StackQuery, _: usize) -> Result<FlameTree, ApiError> {
        unreachable!("not asked")
    }

    fn flame_diff(&self, _: [Option<&StackQuery>; 2], _: usize) -> Result<FlameTree<2>, ApiError> {
        unreachable!("not asked")
    }

    fn select_series(&self, _: &SeriesQuery) -> Result<Vec<GroupSeries>, ApiError> {
        unreachable!("not asked")
    }

    fn profiles(&self, _: &StackQuery) -> Result<Vec<SeriesProfiles>, ApiError> {
        unreachable!("not asked")
    }

    fn extent(&self, _: &Tenants) -> Option<TimeRange> {
        unreachable!("not asked")
    }

    fn metrics(&self, _: &mut Exposition) {}
}

struct Answered {
    status: u16,
    retry_after: Option<String>,
    body: Value,
}

async fn post(app: &Router, method: &str, body: &Value) -> Answered {
    let request = Request::post(format!("{QUERIER}/{method}")).header("content-type", "application/json");
    let response = app.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answered { status, retry_after, body: serde_json::from_slice(&body).unwrap() }
}

async fn get(app: &Router, path: &str) -> String {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn label_names() -> Value {
    json!({ "start": 1, "end": 2 })
}

fn served(store: &Endless, limits: ServerLimits) -> Router {
    app(ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), limits))
}

async fn until<F: AsyncFn() -> bool>(what: &str, is_so: F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_waits_for_its_turn_but_not_for_ever() {
    let store = Endless::default();
    let query_wait = Duration::from_millis(100);
    let limits =
        ServerLimits { running_queries: 1, waiting_queries: 1, query_wait, ..ServerLimits::default() };
    let app = served(&store, limits);
    let ask = || {
        let app = app.clone();
        tokio::spawn(async move { post(&app, "LabelNames", &label_names()).await })
    };
    let running = ask();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let waiting = ask();
    until("the second waits", async || get(&app, "/api/v1/queries").await.contains("\"waiting\":1")).await;
    let refused = post(&app, "LabelNames", &label_names()).await;
    let waited = waiting.await.unwrap();
    for (answer, reason) in [(refused, "queries are waiting"), (waited, "none of which ended in time")] {
        assert_eq!((answer.status, &answer.body["code"]), (429, &json!("resource_exhausted")));
        assert!(answer.body["message"].as_str().unwrap().contains(reason), "{}", answer.body);
        assert_eq!(answer.retry_after.as_deref(), Some("1"));
    }
    store.let_go();
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(ask().await.unwrap().status, 200, "there is room again");
    let metrics = get(&app, "/metrics").await;
    for line in [
        "pyrite_http_queries_refused_total{reason=\"too_many_waiting\"} 1",
        "pyrite_http_queries_refused_total{reason=\"waited_too_long\"} 1",
        "pyrite_http_queries_waiting 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_ended() {
    let limits = ServerLimits { query_timeout: Duration::from_millis(50), ..ServerLimits::default() };
    let app = served(&Endless::default(), limits);
    let answer = post(&app, "LabelNames", &label_names()).await;
    assert_eq!((answer.status, &answer.body["code"]), (504, &json!("deadline_exceeded")), "{}", answer.body);
    assert!(answer.body["message"].as_str().unwrap().contains("0.05 s"), "{}", answer.body);
    assert_eq!(answer.retry_after, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_request_is_dropped_frees_its_place() {
    let limits = ServerLimits { running_queries: 1, ..ServerLimits::default() };
    let store = Endless::default();
    let app = served(&store, limits);
    let request = label_names();
    let ask = post(&app, "LabelNames", &request);
    assert!(tokio::time::timeout(Duration::from_millis(50), ask).await.is_err(), "it goes on");
    let began = Instant::now();
    let next = tokio::spawn({
        let app = app.clone();
        async move { post(&app, "LabelNames", &label_names()).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.let_go();
    assert_eq!(next.await.unwrap().status, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "the first did not end");
}

/// A store with so many rows of one series, in segments of 100,000.
fn full_store(dir: &std::path::Path, limits: Limits, segments: i64) -> Store {
    // Its rows are of 1970.
    let retention = Retention { max_age: Duration::MAX, ..Retention::default() };
    let config = StoreConfig { limits, retention, ..StoreConfig::new(dir) };
    let (store, _report) = Store::open(config).unwrap();
    let mut symbols = SymbolTable::new();
    let main = symbols.intern_named_location("main");
    let stack = symbols.intern_stack(&[main]).unwrap();
    for segment in 0..segments {
        let row = |i: i64| Row { time: UnixMs(1 + (segment * 100_000 + i) * 10), stack, value: 1 };
        let series = SeriesRows {
            labels: LabelSet::from_pairs([("service_name", "busy")]),
            profile_type: ProfileType::cpu_time(),
            rows: (0..100_000).map(row).collect(),
        };
        let batch = Batch { symbols: symbols.clone(), series: vec![series], ..Batch::default() };
        store.append_blocking(batch).unwrap();
        store.flush().unwrap();
    }
    store
}

/// Values over time in the finest steps, which no sums can answer.
fn over_all() -> Value {
    json!({ "profileTypeID": CPU, "labelSelector": "{}", "start": 1, "end": 100_000_000, "step": 0.017,
            "stackTraceSelector": { "callSite": [{ "name": "main" }] } })
}

/// A client that closes its connection ends its query: within a row group, not at the query's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_ends_the_query() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { sums_from_rows: u64::MAX, ..Limits::default() };
    let store = full_store(dir.path(), limits, 10);
    let state = ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), ServerLimits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, state, std::future::pending()));

    let body = over_all().to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {QUERIER}/SelectSeries HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    until("the query runs", async || !store.queries().is_empty()).await;
    let running = store.queries();
    drop(stream);
    let closed = Instant::now();
    until("the query has ended", async || store.queries().is_empty()).await;
    let took = closed.elapsed();

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).await.unwrap();
    let line = "pyrite_store_queries_cancelled_total{reason=\"client\"} 1";
    assert!(metrics.lines().any(|found| found == line), "{took:?} after {running:?}: {metrics}");
    assert_eq!(running[0].kind, "values over time");
    assert_eq!(running[0].rows_to_read, 1_000_000);
    server.abort();
    store.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_holds_too_much_is_told_which_limit_and_what_to_narrow() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { query_bytes: 1 << 20, ..Limits::default() };
    let store = full_store(dir.path(), limits, 1);
    let app =
        app(ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), ServerLimits::default()));
    let answer = post(&app, "SelectSeries", &over_all()).await;
    assert_eq!((answer.status, &answer.body["code"]), (429, &json!("resource_exhausted")), "{}", answer.body);
    let message = answer.body["message"].as_str().unwrap();
    assert!(message.contains("1048576") && message.contains("shorter window"), "{message}");
    assert_eq!(answer.retry_after, None, "trying again does not help");
    let names = post(&app, "LabelNames", &json!({ "start": 1, "end": 100_000_000 })).await;
    assert_eq!(names.status, 200, "{}", names.body);
    let metrics = get(&app, "/metrics").await;
    let line = "pyrite_store_queries_refused_total{reason=\"query_memory\"} 1";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
    store.close().unwrap();
}

#[tokio::test]
async fn the_list_of_queries_is_empty_at_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _report) = Store::open(StoreConfig::new(dir.path())).unwrap();
    let app =
        app(ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), ServerLimits::default()));
    assert_eq!(get(&app, "/api/v1/queries").await, r#"{"waiting":0,"queries":[]}"#);
    store.close().unwrap();
}
