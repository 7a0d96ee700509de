//! `GET /containers/{id}/json` of the Docker Engine API (v1.24 and later, and Podman's copy of it).

use std::collections::HashMap;
use std::path::Path;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::{Metadata, RuntimeMiss, connect};

/// Real answers are some ten kilobytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    name: String,
    #[serde(default)]
    config: Config,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    image: String,
    labels: Option<HashMap<String, String>>,
}

/// Asks the daemon at `socket` for the container `id`.
pub(super) async fn inspect(socket: &Path, id: &str) -> Result<Metadata, RuntimeMiss> {
    // An id becomes part of a URL; names that cgroup paths of other shapes give stay out of it.
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        return Err(RuntimeMiss::NotFound);
    }
    let malformed = |_: hyper::Error| RuntimeMiss::Malformed;
    let stream = TokioIo::new(connect(socket).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(malformed)?;
    let driver = tokio::spawn(connection);
    let request = Request::get(format!("/containers/{id}/json"))
        .header(hyper::header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|_invalid_uri| RuntimeMiss::NotFound)?;
    let response = sender.send_request(request).await.map_err(malformed)?;
    let answer = match response.status() {
        StatusCode::OK => Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|_broken_or_too_long| RuntimeMiss::Malformed)
            .and_then(|body| parse(&body.to_bytes())),
        StatusCode::NOT_FOUND => Err(RuntimeMiss::NotFound),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(RuntimeMiss::Denied),
        _ => Err(RuntimeMiss::Malformed),
    };
    driver.abort();
    answer
}

fn parse(body: &[u8]) -> Result<Metadata, RuntimeMiss> {
    let inspected: Inspected =
        serde_json::from_slice(body).map_err(|_not_an_answer| RuntimeMiss::Malformed)?;
    let name = inspected.name.trim_start_matches('/').to_owned();
    let labels = inspected.config.labels.unwrap_or_default();
    let metadata = Metadata { name, image: inspected.config.image, ..Metadata::default() };
    Ok(metadata.with_pod_labels(|label| labels.get(label).map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_pod_containers_and_nonsense() {
        let plain =
            br#"{"Id":"ab","Name":"/web","Image":"sha256:1","Config":{"Image":"nginx:1.27","Labels":null}}"#;
        let expect = Metadata { name: "web".into(), image: "nginx:1.27".into(), ..Metadata::default() };
        assert_eq!(parse(plain), Ok(expect));
        let pod = br#"{"Name":"/k8s_app_web-1_default_u_0","Config":{"Image":"app","Labels":{
            "io.kubernetes.container.name":"app","io.kubernetes.pod.name":"web-1","io.kubernetes.pod.namespace":"default"}}}"#;
        let pod = parse(pod).unwrap();
        assert_eq!(
            (pod.name.as_str(), pod.pod.as_str(), pod.namespace.as_str()),
            ("app", "web-1", "default")
        );
        assert_eq!(parse(br#"{"Name":"/web"}"#).unwrap().name, "web");
        for nonsense in [&b""[..], b"{}", b"[]", b"{\"Name\":3}", b"<html>"] {
            assert_eq!(parse(nonsense), Err(RuntimeMiss::Malformed));
        }
    }
}
