//! Everything a request can fail with, and the one table that says how a client hears of it.
//!
//! Clients that push give up on 4xx and retry on 429 and 5xx, so nothing that passes by itself may be another 4xx.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pyrite_model::pprof::PprofError;
use pyrite_model::{ProfileIdError, ProfileTypeError, SelectorError, TenantError};
use serde::Serialize;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A selector that does not parse.
    #[error("invalid selector: {0}")]
    Selector(#[from] SelectorError),
    /// A profile type id that does not parse.
    #[error(transparent)]
    ProfileType(#[from] ProfileTypeError),
    /// A profile id that does not parse.
    #[error(transparent)]
    ProfileId(#[from] ProfileIdError),
    /// A request that does not say whose data it is about, where tenants are told apart.
    #[error("this server tells tenants apart: the header X-Scope-OrgID must name one")]
    NoTenant,
    /// A tenant whose name is none.
    #[error("invalid X-Scope-OrgID: {0}")]
    Tenant(#[from] TenantError),
    /// More tenants than the request can be about.
    #[error("X-Scope-OrgID must be {expected}")]
    ManyTenants {
        /// What it may be.
        expected: &'static str,
    },
    /// A field that may not be empty.
    #[error("{what} is required")]
    Missing {
        /// The field.
        what: &'static str,
    },
    /// A push without a single profile.
    #[error("no profiles received")]
    NoProfiles,
    /// A field with a value it cannot have.
    #[error("{what} must be {expected}, got {found}")]
    BadValue {
        /// The field.
        what: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A window that ends before it starts.
    #[error("start {start} is after end {end}")]
    Range {
        /// Unix milliseconds.
        start: i64,
        /// Unix milliseconds.
        end: i64,
    },
    /// A body that does not decode.
    #[error("request body is not valid {codec}: {reason}")]
    Body {
        /// What it should be.
        codec: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// A pushed profile that cannot be stored.
    #[error("series {series}, profile {profile}: {}", chain(source))]
    Profile {
        /// Position of its series in the push.
        series: usize,
        /// Position of the profile in its series.
        profile: usize,
        /// What is wrong with it.
        #[source]
        source: PprofError,
    },
    /// A profile sent to `/ingest` that cannot be stored.
    #[error("{}", chain(.0))]
    Ingest(PprofError),
    /// Content sent to `/ingest` that is none of the formats read here.
    #[error("{what}")]
    IngestFormat {
        /// What is wrong with it.
        what: String,
    },
    /// A batch that the store will never take.
    #[error("the store rejected the profile: {reason}")]
    Rejected {
        /// What the store said.
        reason: String,
    },
    /// A query that the store cannot answer as it is asked.
    #[error("{reason}")]
    Unanswerable {
        /// What to change.
        reason: String,
    },
    /// A media type that the endpoint does not read.
    #[error("unsupported content type {found:?}")]
    ContentType {
        /// The request's content type.
        found: String,
    },
    /// An `Accept` header that does not parse.
    #[error("invalid Accept header {found:?}")]
    Accept {
        /// The header.
        found: String,
    },
    /// More bytes than an endpoint reads.
    #[error("request body is larger than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// A body that did not arrive in time or at all.
    #[error("the request body could not be read")]
    BodyRead,
    /// Too much at once; trying again later can help.
    #[error("too many requests: {what}")]
    Overloaded {
        /// Which bound was met.
        what: &'static str,
    },
    /// A query that holds more memory than it may.
    #[error("{reason}")]
    Exhausted {
        /// Which limit, and what to change.
        reason: String,
        /// Whether there may be room for it later.
        passes: bool,
    },
    /// A query whose time is over.
    #[error("{reason}")]
    TimedOut {
        /// Which limit, and what to change.
        reason: String,
    },
    /// A query whose client has gone, so that nobody reads this.
    #[error("the client did not wait for the answer")]
    Canceled,
    /// The store cannot write or read now; trying again later can help.
    #[error("{reason}")]
    Unavailable {
        /// What the store said.
        reason: String,
    },
    /// Something of the Pyroscope API that Pyrite does not have.
    #[error("{what} is not implemented")]
    Unimplemented {
        /// A method, format or encoding.
        what: String,
    },
    /// No such path.
    #[error("no such path: {path}")]
    NotFound {
        /// The path.
        path: String,
    },
    /// A defect of the server.
    #[error("internal error: {reason}")]
    Internal {
        /// What happened.
        reason: String,
    },
}

/// An error with its sources, colon by colon.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}

impl ApiError {
    /// The status and Connect's name for the kind of error.
    pub(crate) fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Selector(_)
            | Self::ProfileType(_)
            | Self::ProfileId(_)
            | Self::Tenant(_)
            | Self::ManyTenants { .. }
            | Self::Missing { .. }
            | Self::NoProfiles
            | Self::BadValue { .. }
            | Self::Range { .. }
            | Self::Body { .. }
            | Self::Profile { .. }
            | Self::Rejected { .. }
            | Self::Unanswerable { .. }
            | Self::Accept { .. } => (StatusCode::BAD_REQUEST, "invalid_argument"),
            Self::NoTenant => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Ingest(PprofError::TooLarge { .. }) | Self::TooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "invalid_argument")
            }
            Self::Ingest(_) | Self::IngestFormat { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid_argument")
            }
            Self::ContentType { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_argument"),
            Self::BodyRead | Self::Canceled => (StatusCode::REQUEST_TIMEOUT, "canceled"),
            Self::Overloaded { .. } | Self::Exhausted { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted")
            }
            Self::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
            Self::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Unimplemented { .. } => (StatusCode::NOT_IMPLEMENTED, "unimplemented"),
            Self::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Self::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}

#[derive(Serialize)]
struct ErrorBody {
    code: &'static str,
    message: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status();
        if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            tracing::warn!(code, error = %self, "request failed");
        }
        if matches!(self, Self::Accept { .. }) {
            return (status, self.to_string()).into_response();
        }
        let passes = matches!(self, Self::Overloaded { .. } | Self::Exhausted { passes: true, .. });
        let body = ErrorBody { code, message: chain(&self) };
        let mut response = (status, axum::Json(body)).into_response();
        if passes {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
