//! Runtimes that answer, refuse, talk nonsense or hang, served by threads of this test.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use prost::Message;
use pyrite::identity::cgroup::{Container, Runtime};
use pyrite::identity::runtime::{Metadata, Question, RuntimeConfig, RuntimeMiss, RuntimeWorker};

use super::no_runtimes;

const ID: &str = "3f0ff4f2dfc0cd41d3a9a3f1f6bd3ba8fc2b9e7c6a1d54a0f1c9f8c4d6e2b7a1";

pub(super) fn docker(id: &str) -> Container {
    Container { runtime: Runtime::Docker, id: id.into(), pod_uid: None, containerd_namespace: None }
}

fn containerd(id: &str, namespace: Option<&str>) -> Container {
    let containerd_namespace = namespace.map(str::to_owned);
    Container { runtime: Runtime::Containerd, containerd_namespace, ..docker(id) }
}

/// What the runtimes of `config` say of `container`.
pub(super) fn ask(config: RuntimeConfig, container: Container) -> Result<Metadata, RuntimeMiss> {
    let worker = RuntimeWorker::spawn(config).unwrap();
    assert!(worker.ask(Question { container, tgid: None }));
    await_answer(&worker)
}

fn await_answer(worker: &RuntimeWorker) -> Result<Metadata, RuntimeMiss> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(answer) = worker.answer() {
            return answer.result;
        }
        assert!(Instant::now() < deadline, "no answer");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A daemon that answers every connection with `answer` and then keeps it open.
fn daemon(dir: &Path, answer: &'static str) -> PathBuf {
    let socket = dir.join(format!("{}.sock", answer.len()));
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _request = stream.read(&mut [0; 4096]);
            let _sent = stream.write_all(answer.as_bytes());
            open.push(stream);
        }
    });
    socket
}

/// How long to wait for what will never come, and for what comes however busy the machine is.
fn timeout_of<T>(expect: &Result<T, RuntimeMiss>) -> Duration {
    Duration::from_millis(if matches!(expect, Err(RuntimeMiss::Timeout)) { 300 } else { 8000 })
}

fn check_docker(answer: &'static str, expect: Result<(&str, &str), RuntimeMiss>) {
    let dir = tempfile::tempdir().unwrap();
    let timeout = timeout_of(&expect);
    let config = RuntimeConfig { docker: vec![daemon(dir.path(), answer)], timeout, ..no_runtimes() };
    let expect = expect.map(|(name, image)| Metadata {
        name: name.into(),
        image: image.into(),
        ..Metadata::default()
    });
    assert_eq!(ask(config, docker(ID)), expect, "{answer}");
}

#[test]
fn docker_daemons_of_every_mood() {
    check_docker(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 85\r\n\r\n\
         {\"Id\":\"3f\",\"Name\":\"/web\",\"Image\":\"sha256:0\",\"Config\":{\"Image\":\"nginx:1\",\"Labels\":{}}}",
        Ok(("web", "nginx:1")),
    );
    check_docker(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
         10\r\n{\"Name\":\"/web\",\"\r\n1e\r\nConfig\":{\"Image\":\"nginx:1\"}}  \r\n0\r\n\r\n",
        Ok(("web", "nginx:1")),
    );
    check_docker("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Err(RuntimeMiss::NotFound));
    check_docker("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", Err(RuntimeMiss::Denied));
    check_docker("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", Err(RuntimeMiss::Malformed));
    check_docker("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}}", Err(RuntimeMiss::Malformed));
    check_docker("SSH-2.0-OpenSSH\r\n", Err(RuntimeMiss::Malformed));
    check_docker("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{\"Name\"", Err(RuntimeMiss::Timeout));
    check_docker("", Err(RuntimeMiss::Timeout));
}

#[test]
fn no_socket_and_no_daemon_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let docker_sockets = vec![dir.path().join("none.sock"), stale];
    let config = RuntimeConfig { docker: docker_sockets, ..no_runtimes() };
    assert_eq!(ask(config, docker(ID)), Err(RuntimeMiss::NoSocket));
}

#[test]
fn a_runtime_that_hangs_is_left_alone_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let (timeout, pause_after_timeout) = (Duration::from_secs(1), Duration::from_mins(1));
    let config =
        RuntimeConfig { docker: vec![daemon(dir.path(), "")], timeout, pause_after_timeout, cri: Vec::new() };
    let worker = RuntimeWorker::spawn(config).unwrap();
    let started = Instant::now();
    for i in 0..500 {
        assert!(worker.ask(Question { container: docker(&format!("{i}")), tgid: None }));
    }
    assert!(started.elapsed() < timeout, "asking never waits");
    for _ in 0..500 {
        assert_eq!(await_answer(&worker), Err(RuntimeMiss::Timeout));
    }
    assert!(started.elapsed() < 3 * timeout, "only the first question waits for the timeout");
}

/// What the public protos say of the messages, written out apart from the code under test.
mod wire {
    use std::collections::HashMap;

    #[derive(prost::Message)]
    pub(super) struct Answer {
        #[prost(message, optional, tag = "1")]
        pub(super) status: Option<Status>,
    }

    #[derive(prost::Message)]
    pub(super) struct Status {
        #[prost(string, tag = "1")]
        pub(super) id: String,
        #[prost(message, optional, tag = "2")]
        pub(super) metadata: Option<Meta>,
        #[prost(int32, tag = "3")]
        pub(super) state: i32,
        #[prost(int64, tag = "4")]
        pub(super) created_at: i64,
        #[prost(message, optional, tag = "8")]
        pub(super) image: Option<Image>,
        #[prost(map = "string, string", tag = "12")]
        pub(super) labels: HashMap<String, String>,
    }

    #[derive(prost::Message)]
    pub(super) struct Meta {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(uint32, tag = "2")]
        pub(super) attempt: u32,
    }

    #[derive(prost::Message)]
    pub(super) struct Image {
        #[prost(string, tag = "1")]
        pub(super) image: String,
    }

    #[derive(prost::Message)]
    pub(super) struct SandboxAnswer {
        #[prost(message, optional, tag = "1")]
        pub(super) status: Option<Sandbox>,
    }

    #[derive(prost::Message)]
    pub(super) struct Sandbox {
        #[prost(string, tag = "1")]
        pub(super) id: String,
        #[prost(message, optional, tag = "2")]
        pub(super) metadata: Option<SandboxMeta>,
    }

    #[derive(prost::Message)]
    pub(super) struct SandboxMeta {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(string, tag = "2")]
        pub(super) uid: String,
        #[prost(string, tag = "3")]
        pub(super) namespace: String,
    }

    #[derive(prost::Message)]
    pub(super) struct GetAnswer {
        #[prost(message, optional, tag = "1")]
        pub(super) container: Option<Container>,
    }

    #[derive(prost::Message)]
    pub(super) struct Container {
        #[prost(string, tag = "1")]
        pub(super) id: String,
        #[prost(map = "string, string", tag = "2")]
        pub(super) labels: HashMap<String, String>,
        #[prost(string, tag = "3")]
        pub(super) image: String,
    }
}

/// Status in the trailers after a message, or in the headers where there is none, as gRPC servers do.
fn grpc_response(message: Option<Vec<u8>>) -> Response {
    let status = HeaderValue::from_static(if message.is_some() { "0" } else { "5" });
    let Some(message) = message else {
        let response = Response::builder().header("content-type", "application/grpc");
        return response.header("grpc-status", status).body(Body::empty()).unwrap();
    };
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status)]);
    let body = Full::new(Bytes::from(framed)).with_trailers(async { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
}

async fn cri_answer(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let question = body.collect().await.unwrap().to_bytes();
    // `id` is field 1 of every question: tag, length, text.
    let id = String::from_utf8(question[7..].to_vec()).unwrap();
    let message = match (parts.uri.path(), id.as_str()) {
        ("/runtime.v1.RuntimeService/ContainerStatus", ID) => Some(app_status()),
        ("/runtime.v1.RuntimeService/PodSandboxStatus", "sandbox") => Some(sandbox_status()),
        ("/containerd.services.containers.v1.Containers/Get", "web")
            if parts.headers["containerd-namespace"] == "default" =>
        {
            let (id, image) = ("web".into(), "docker.io/library/nginx:1".into());
            let container = wire::Container { id, labels: [].into(), image };
            Some(wire::GetAnswer { container: Some(container) }.encode_to_vec())
        }
        _ => None,
    };
    grpc_response(message)
}

fn app_status() -> Vec<u8> {
    let labels = [
        ("io.kubernetes.pod.name", "shop-7d9f"),
        ("io.kubernetes.pod.namespace", "prod"),
        ("io.kubernetes.container.name", "app"),
    ];
    let status = wire::Status {
        id: ID.into(),
        metadata: Some(wire::Meta { name: "app".into(), attempt: 2 }),
        state: 1,
        created_at: 1_795_371_424,
        image: Some(wire::Image { image: "registry.example/shop:9".into() }),
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    };
    wire::Answer { status: Some(status) }.encode_to_vec()
}

fn sandbox_status() -> Vec<u8> {
    let metadata = wire::SandboxMeta { name: "shop-7d9f".into(), uid: "u".into(), namespace: "prod".into() };
    let status = wire::Sandbox { id: "sandbox".into(), metadata: Some(metadata) };
    wire::SandboxAnswer { status: Some(status) }.encode_to_vec()
}

#[test]
fn kubernetes_and_containerd_answer_by_grpc() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cri.sock");
    let served = socket.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::UnixListener::bind(served).unwrap();
        axum::serve(listener, axum::Router::new().fallback(cri_answer)).await.unwrap();
    });
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let check = |container: Container, expect: Result<[&str; 4], RuntimeMiss>| {
        let config = RuntimeConfig { cri: vec![socket.clone()], ..no_runtimes() };
        let expect = expect.map(|values| {
            let [name, image, pod, namespace] = values.map(str::to_owned);
            Metadata { name, image, pod, namespace }
        });
        assert_eq!(ask(config, container.clone()), expect, "{container:?}");
    };
    check(containerd(ID, None), Ok(["app", "registry.example/shop:9", "shop-7d9f", "prod"]));
    check(containerd("sandbox", None), Ok(["POD", "", "shop-7d9f", "prod"]));
    check(containerd("other", None), Err(RuntimeMiss::NotFound));
    check(containerd("web", Some("default")), Ok(["web", "docker.io/library/nginx:1", "", ""]));
    check(containerd("web", Some("elsewhere")), Err(RuntimeMiss::NotFound));
}

#[test]
fn a_cri_socket_that_speaks_something_else_is_malformed_or_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let check = |answer, expect| {
        let timeout = timeout_of(&expect);
        let config = RuntimeConfig { cri: vec![daemon(dir.path(), answer)], timeout, ..no_runtimes() };
        assert_eq!(ask(config, containerd(ID, None)), expect, "{answer:?}");
    };
    check("HTTP/1.1 400 Bad Request\r\n\r\n", Err(RuntimeMiss::Malformed));
    check("", Err(RuntimeMiss::Timeout));
}
