//! The server over a real socket, spoken to in bytes.

use std::sync::Arc;
use std::time::Duration;

use pyrite_server::{ServerLimits, ServerState, Tenancy, serve};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::memory::MemoryStore;
use crate::support::{cpu_profile, now_ms, push_request};

async fn exchange(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn push_then_query_then_shut_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state =
        ServerState::new(Arc::new(MemoryStore::default()), None, Tenancy::default(), ServerLimits::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, state, async {
        let _ = stopped.await;
    }));

    let profile = prost::Message::encode_to_vec(&cpu_profile(now_ms(), &[("main;work", 5)]));
    let push = push_request(&[("service_name", "raw")], &profile).to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = exchange(&mut stream, &post("/push.v1.PusherService/Push", &push)).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n{}"), "{answer}");

    let query =
        json!({ "name": "service_name", "start": now_ms() - 60_000, "end": now_ms() + 1000 }).to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = exchange(&mut stream, &post("/querier.v1.QuerierService/LabelValues", &query)).await;
    assert!(answer.ends_with(r#"{"names":["raw"]}"#), "{answer}");

    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = exchange(&mut stream, "garbage\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");

    // A connection without a request does not hold up the end.
    let _idle = TcpStream::connect(address).await.unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), server).await.expect("it stops").unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

/// A server with these limits, and where it listens.
async fn start(limits: ServerLimits) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = ServerState::new(Arc::new(MemoryStore::default()), None, Tenancy::default(), limits);
    tokio::spawn(serve(listener, state, std::future::pending()));
    address
}

async fn metrics(address: std::net::SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    exchange(&mut stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await
}

#[tokio::test]
async fn a_client_that_is_slow_to_ask_is_cut_off() {
    let header_timeout = Duration::from_millis(200);
    let address = start(ServerLimits { header_timeout, ..ServerLimits::default() }).await;
    let beginnings = [
        "",
        // Might become either protocol.
        "P",
        "POST /ingest HTTP/1.1\r\nhost: x\r\n",
        // A request that is answered, and nothing more for a while.
        "GET /ready HTTP/1.1\r\nhost: x\r\n\r\n",
        // HTTP/2, and no request.
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for beginning in beginnings {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut end = Vec::new();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut end)).await;
        // However it is closed.
        assert!(closed.is_ok(), "{beginning:?} keeps its connection");
        assert_eq!(end.starts_with(b"HTTP/1.1 200"), beginning.starts_with("GET"), "{beginning:?}");
    }
    let metrics = metrics(address).await;
    assert!(metrics.contains("\npyrite_http_connections_timed_out_total 5\n"), "{metrics}");
    assert!(metrics.contains("\npyrite_http_connections 1\n"), "this one: {metrics}");
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answers_is_cut_off() {
    let write_timeout = Duration::from_millis(200);
    let address = start(ServerLimits { write_timeout, ..ServerLimits::default() }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Asks and asks and reads nothing, until no more fits on the way.
    let ask = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let asking = async { while stream.write_all(ask.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), asking).await.expect("it is cut off");
    assert!(metrics(address).await.contains("\npyrite_http_connections_timed_out_total 1\n"));
}

#[tokio::test]
async fn who_comes_when_all_places_are_taken_waits() {
    let header_timeout = Duration::from_millis(300);
    let address = start(ServerLimits { connections: 2, header_timeout, ..ServerLimits::default() }).await;
    let silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let began = std::time::Instant::now();
    let answer = metrics(address).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
    drop(silent);
}
