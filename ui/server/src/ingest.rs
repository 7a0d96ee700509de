//! `/ingest`, the way to push that came before the RPC: pprof in a form or bare, and stacks as text.
//!
//! Its statuses are Pyroscope's: 400 for a bad query string, 413 and 429 as everywhere, 422 for content.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pyrite_model::pprof::{Appended, DisplayNames};
use pyrite_model::{Batch, names};
use serde::Deserialize;

use crate::ApiError;
use crate::app_name::AppName;
use crate::attime;
use crate::connect::read_body;
use crate::folded::{self, TextKind, TextProfile};
use crate::multipart::parts;
use crate::push::{admit, decode_ingest, in_turn, reason, store};
use crate::state::{ServerState, Shared, now};

/// Samples a second where the client names no number.
const DEFAULT_SAMPLE_RATE: i64 = 100;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IngestQuery {
    name: String,
    from: String,
    sample_rate: String,
    spy_name: String,
    format: String,
}

pub(crate) async fn route(
    State(state): State<Shared>,
    Query(query): Query<IngestQuery>,
    request: Request,
) -> Response {
    match ingest(&state, query, request).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => {
            state.counters.rejected(reason(&error));
            error.into_response()
        }
    }
}

async fn ingest(state: &Shared, query: IngestQuery, request: Request) -> Result<(), ApiError> {
    let (parts, body) = request.into_parts();
    let tenant = state.tenancy.writer(&parts.headers)?;
    let app = AppName::parse(&query.name)?;
    let room = admit(state, &parts.headers)?;
    let content_type = parts.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let media_type = String::from_utf8_lossy(content_type).into_owned();
    let body = read_body(state, body, room.bytes).await?;
    let content = Content { query, app, media_type, body };
    let held = Arc::clone(state);
    let (batch, appended) = in_turn(state, move || content.decode(&held)).await?;
    store(state, tenant, batch, 1, appended).await
}

/// All that a request brought.
struct Content {
    query: IngestQuery,
    app: AppName,
    media_type: String,
    body: Bytes,
}

impl Content {
    fn decode(&self, state: &ServerState) -> Result<(Batch, Appended), ApiError> {
        let (mut batch, appended) = self.rows(state)?;
        // Clients of this API send what is new in each profile, unless they say otherwise.
        if self.app.labels.get(names::DELTA).is_none() {
            for series in batch.series.iter_mut().filter(|series| series.profile_type.may_be_cumulative()) {
                series.labels.set(names::DELTA, "false");
            }
        }
        Ok((batch, appended))
    }

    fn rows(&self, state: &ServerState) -> Result<(Batch, Appended), ApiError> {
        let media_type = self.media_type.split(';').next().unwrap_or_default().trim();
        match (self.query.format.as_str(), media_type) {
            (format @ ("trie" | "tree" | "jfr" | "speedscope"), _)
            | (_, format @ ("binary/octet-stream+trie" | "binary/octet-stream+tree")) => {
                Err(ApiError::Unimplemented { what: format!("ingest format {format:?}") })
            }
            ("pprof", _) => self.pprof(state, &self.body, &DisplayNames::new()),
            ("lines", _) => self.text(state, true),
            (_, media_type) if media_type.eq_ignore_ascii_case("multipart/form-data") => self.form(state),
            _ => self.text(state, false),
        }
    }

    fn form(&self, state: &ServerState) -> Result<(Batch, Appended), ApiError> {
        let parts = parts(&self.media_type, &self.body)?;
        let content = |name: &str| parts.iter().find(|part| part.name == name).map(|part| part.content);
        if content("prev_profile").is_some() {
            let what = "unsupported client version: it sends prev_profile".to_owned();
            return Err(ApiError::IngestFormat { what });
        }
        let missing = || ApiError::IngestFormat { what: "the form has no part named \"profile\"".to_owned() };
        let profile = content("profile").ok_or_else(missing)?;
        let shown_as = content("sample_type_config").map_or(Ok(DisplayNames::new()), display_names)?;
        self.pprof(state, profile, &shown_as)
    }

    fn pprof(
        &self,
        state: &ServerState,
        profile: &[u8],
        shown_as: &DisplayNames,
    ) -> Result<(Batch, Appended), ApiError> {
        let labels = self.app.series_labels(&self.app.app, self.spy());
        decode_ingest(state, profile, &labels, shown_as)
    }

    fn text(&self, state: &ServerState, lines: bool) -> Result<(Batch, Appended), ApiError> {
        let rate = self.query.sample_rate.parse().ok().filter(|rate| *rate >= 0);
        let (kind, app) = TextKind::of(&self.app.app, rate.unwrap_or(DEFAULT_SAMPLE_RATE))?;
        let labels = self.app.series_labels(app, self.spy());
        let time = if self.query.from.is_empty() { now() } else { attime::parse(&self.query.from, now()) };
        let limits = &state.limits.push;
        limits.check_time(time, now()).map_err(ApiError::Ingest)?;
        folded::decode(&self.body, TextProfile { labels, kind, time, lines, limits })
    }

    fn spy(&self) -> &str {
        if self.query.spy_name.is_empty() { "unknown" } else { &self.query.spy_name }
    }
}

/// What the client calls its sample types.
fn display_names(config: &[u8]) -> Result<DisplayNames, ApiError> {
    #[derive(Deserialize)]
    struct SampleType<'a> {
        #[serde(rename = "display-name", default, borrow)]
        display_name: Cow<'a, str>,
    }
    let bad =
        |error: serde_json::Error| ApiError::IngestFormat { what: format!("sample_type_config: {error}") };
    let types: BTreeMap<String, SampleType<'_>> = serde_json::from_slice(config).map_err(bad)?;
    let named = types.into_iter().filter(|(_, t)| !t.display_name.is_empty());
    Ok(named.map(|(kind, t)| (kind, t.display_name.into_owned())).collect())
}
