//! One unary gRPC call over a unix socket: a POST whose body is `compressed: u8, length: u32 big-endian, message`.

use std::path::Path;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, TE};
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::{RuntimeMiss, connect};

const MAX_ANSWER_BYTES: usize = 4 << 20;
const PREFIX_BYTES: usize = 5;
/// gRPC status codes, of which the rest is treated alike.
const OK: &str = "0";
const NOT_FOUND: &str = "5";
const PERMISSION_DENIED: &str = "7";

/// A call to be made.
pub(super) struct Call<'a> {
    /// `/package.Service/Method`
    pub(super) method: &'a str,
    /// containerd's namespace, which it takes from the call's metadata.
    pub(super) containerd_namespace: Option<&'a str>,
}

/// Makes `call` at `socket`.
pub(super) async fn unary<Q: Message, A: Message + Default>(
    socket: &Path,
    call: &Call<'_>,
    question: &Q,
) -> Result<A, RuntimeMiss> {
    let malformed = |_: hyper::Error| RuntimeMiss::Malformed;
    let stream = TokioIo::new(connect(socket).await?);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = handshake.await.map_err(malformed)?;
    let driver = tokio::spawn(connection);
    let mut request = Request::post(format!("http://localhost{}", call.method))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers");
    if let Some(namespace) = call.containerd_namespace {
        request = request.header("containerd-namespace", namespace);
    }
    let request = request.body(Full::new(frame(question))).map_err(|_bad_namespace| RuntimeMiss::NotFound)?;
    let response = sender.send_request(request).await.map_err(malformed)?;
    let headers = response.headers().clone();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    driver.abort();
    let body = body.map_err(|_broken_or_too_long| RuntimeMiss::Malformed)?;
    // An answer without body carries its status in the headers.
    check_status(body.trailers().unwrap_or(&headers))?;
    unframe(&body.to_bytes())
}

fn check_status(headers: &HeaderMap) -> Result<(), RuntimeMiss> {
    match headers.get("grpc-status").and_then(|status| status.to_str().ok()) {
        Some(OK) => Ok(()),
        Some(NOT_FOUND) => Err(RuntimeMiss::NotFound),
        Some(PERMISSION_DENIED) => Err(RuntimeMiss::Denied),
        _ => Err(RuntimeMiss::Malformed),
    }
}

fn frame(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut framed = Vec::with_capacity(PREFIX_BYTES + encoded.len());
    framed.push(0);
    framed.extend((encoded.len() as u32).to_be_bytes());
    framed.extend(encoded);
    framed.into()
}

fn unframe<A: Message + Default>(body: &[u8]) -> Result<A, RuntimeMiss> {
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES).ok_or(RuntimeMiss::Malformed)?;
    let length = prefix[1..].iter().fold(0_usize, |length, &byte| length << 8 | usize::from(byte));
    if prefix[0] != 0 || message.len() != length {
        return Err(RuntimeMiss::Malformed);
    }
    A::decode(message).map_err(|_not_the_message| RuntimeMiss::Malformed)
}
