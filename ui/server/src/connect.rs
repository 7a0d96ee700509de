//! Connect's unary calls: one POST, a message in, a message out, as Protobuf or as JSON.
//!
//! JSON follows proto3 with the freedoms clients take: unknown fields, `null` for absent, both spellings of names.

use std::future::Future;
use std::io::Write;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::LengthLimitError;
use prost::Message;
use pyrite_model::Tenants;
use pyrite_model::pprof::{PprofError, gunzip};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ApiError;
use crate::accept::Utf8Labels;
use crate::state::Shared;

/// Answers smaller than this travel as they are: packing would cost more than it saves.
const MIN_PACKED_BYTES: usize = 1024;

/// A call as handlers see it.
pub(crate) struct Call<T> {
    pub(crate) state: Shared,
    /// Whose data it asks for.
    pub(crate) tenants: Tenants,
    pub(crate) utf8_labels: Utf8Labels,
    pub(crate) message: T,
}

/// A route for a query method.
pub(crate) fn query<Req, Res, Answer>(handler: fn(Call<Req>) -> Answer) -> MethodRouter<Shared>
where
    Req: Message + Default + DeserializeOwned + Send + 'static,
    Res: Message + Serialize + Send + 'static,
    Answer: Future<Output = Result<Res, ApiError>> + Send + 'static,
{
    post(async move |State(state): State<Shared>, request: Request| {
        let limit = state.limits.query_body_bytes;
        unary(state, request, limit, handler).await.unwrap_or_else(IntoResponse::into_response)
    })
}

/// Reads the request, runs the handler, writes the answer.
async fn unary<Req, Res, Answer>(
    state: Shared,
    request: Request,
    limit: usize,
    handler: impl FnOnce(Call<Req>) -> Answer,
) -> Result<Response, ApiError>
where
    Req: Message + Default + DeserializeOwned,
    Res: Message + Serialize,
    Answer: Future<Output = Result<Res, ApiError>>,
{
    let (parts, body) = request.into_parts();
    let tenants = state.tenancy.readers(&parts.headers)?;
    let codec = Codec::of(&parts.headers)?;
    let body = read_body(&state, body, limit).await?;
    let message = codec.decode(unpack(&parts.headers, body, limit)?)?;
    let utf8_labels = parts.extensions.get().copied().unwrap_or_default();
    let answer = handler(Call { state, tenants, utf8_labels, message }).await?;
    codec.answer(&parts.headers, &answer)
}

/// The body, up to a limit and in reasonable time.
pub(crate) async fn read_body(state: &Shared, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let announced = http_body_size(&body);
    if announced > limit as u64 {
        return Err(ApiError::TooLarge { limit });
    }
    let read = tokio::time::timeout(state.limits.body_timeout, to_bytes(body, limit)).await;
    read.map_err(|_elapsed| ApiError::BodyRead)?.map_err(|error| {
        let too_large =
            std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<LengthLimitError>);
        if too_large { ApiError::TooLarge { limit } } else { ApiError::BodyRead }
    })
}

fn http_body_size(body: &Body) -> u64 {
    axum::body::HttpBody::size_hint(body).lower()
}

/// Undoes the request's `Content-Encoding`.
pub(crate) fn unpack(headers: &HeaderMap, body: Bytes, limit: usize) -> Result<Bytes, ApiError> {
    let encoding = headers.get(header::CONTENT_ENCODING).map_or(&b"identity"[..], HeaderValue::as_bytes);
    match encoding {
        b"identity" | b"" => Ok(body),
        b"gzip" => match gunzip(&body, limit) {
            Ok(body) => Ok(body.into()),
            Err(PprofError::Gzip { source }) => {
                Err(ApiError::Body { codec: "gzip", reason: source.to_string() })
            }
            Err(_) => Err(ApiError::TooLarge { limit }),
        },
        other => {
            let what = format!("content encoding {:?}", String::from_utf8_lossy(other));
            Err(ApiError::Unimplemented { what })
        }
    }
}

/// A response, packed if the client takes gzip and it pays.
pub(crate) fn pack(request: &HeaderMap, media_type: &'static str, body: Vec<u8>) -> Response {
    let media_type = [(header::CONTENT_TYPE, media_type)];
    if body.len() < MIN_PACKED_BYTES || !accepts_gzip(request) {
        return (media_type, body).into_response();
    }
    let mut packer = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    match packer.write_all(&body).and_then(|()| packer.finish()) {
        Ok(body) => {
            let headers = [(header::CONTENT_ENCODING, "gzip"), (header::VARY, "accept-encoding")];
            (media_type, headers, body).into_response()
        }
        Err(error) => ApiError::Internal { reason: error.to_string() }.into_response(),
    }
}

/// An answer in JSON, packed likewise.
pub(crate) fn pack_json(request: &HeaderMap, answer: &impl Serialize) -> Result<Response, ApiError> {
    let body =
        serde_json::to_vec(answer).map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    Ok(pack(request, "application/json", body))
}

/// Whether gzip is among the accepted encodings, and not with weight 0.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        matches!(name.trim(), "gzip" | "*") && !refused
    })
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Proto,
    Json,
}

impl Codec {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let found =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = found.split(';').next().unwrap_or_default().trim();
        match media_type.to_ascii_lowercase().as_str() {
            "application/proto" => Ok(Self::Proto),
            "application/json" => Ok(Self::Json),
            _ => Err(ApiError::ContentType { found: found.to_owned() }),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Proto => "application/proto",
            Self::Json => "application/json",
        }
    }

    /// Reads a message. Bytes fields of Protobuf stay where they are in the body, if their type is [`Bytes`].
    pub(crate) fn decode<T: Message + Default + DeserializeOwned>(self, body: Bytes) -> Result<T, ApiError> {
        match self {
            Self::Proto => T::decode(body)
                .map_err(|error| ApiError::Body { codec: "protobuf", reason: error.to_string() }),
            Self::Json => {
                json(&body).map_err(|error| ApiError::Body { codec: "JSON", reason: error.to_string() })
            }
        }
    }

    /// Answers a request with a message.
    pub(crate) fn answer<T: Message + Serialize>(
        self,
        request: &HeaderMap,
        message: &T,
    ) -> Result<Response, ApiError> {
        Ok(pack(request, self.media_type(), self.encode(message)?))
    }

    fn encode<T: Message + Serialize>(self, message: &T) -> Result<Vec<u8>, ApiError> {
        match self {
            Self::Proto => Ok(message.encode_to_vec()),
            Self::Json => {
                serde_json::to_vec(message).map_err(|error| ApiError::Internal { reason: error.to_string() })
            }
        }
    }
}

/// Reads a message from JSON. Few clients send a `null`, and without one there is no need of a tree of values.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body).or_else(|_| {
        let mut value = serde_json::from_slice(body)?;
        strip_nulls(&mut value);
        serde_json::from_value(value)
    })
}

/// Removes members that are `null`: in proto3 JSON that means the field is absent. The depth is the parser's, 128.
fn strip_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip_nulls);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
