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
    tokio::time::timeout(Duration::from_secs(5), server).await.expect("it stops").unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
