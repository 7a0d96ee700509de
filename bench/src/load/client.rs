//! Connect's unary calls over HTTP/1.1: a Protobuf message in, one out, connections kept.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// A server that takes longer has failed.
const PATIENCE: Duration = Duration::from_mins(2);
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// Calls one server.
#[derive(Clone)]
pub(super) struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    url: String,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body of a call that succeeded.
    pub(super) fn success(self) -> Result<Bytes> {
        ensure!(self.status == StatusCode::OK, "the server answers {}: {}", self.status, self.text());
        Ok(self.body)
    }

    /// The beginning of the body, for a person to read.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(500).collect()
    }
}

impl Client {
    /// A client of the server at `url`; connects when there is something to send.
    pub(super) fn new(url: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new()).build(connector);
        Self { pool, url: url.trim_end_matches('/').to_owned() }
    }

    /// Sends a message to a method and reads all of the answer. Nothing is packed beyond the profiles themselves.
    pub(super) async fn call(&self, method: &str, message: Bytes) -> Result<Answer> {
        let uri: Uri = format!("{}/{method}", self.url).parse().context("the server's URL")?;
        let request = Request::post(uri)
            .header("content-type", "application/proto")
            .header("connect-protocol-version", "1")
            .body(Full::new(message))?;
        let exchange = async {
            let response = self.pool.request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| anyhow!(error))?.to_bytes();
            Ok::<_, anyhow::Error>(Answer { status, body })
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await;
        let answer = answer.with_context(|| format!("{method} took longer than {PATIENCE:?}"))?;
        answer.with_context(|| format!("{method} at {}", self.url))
    }
}
