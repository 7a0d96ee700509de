//! `push.v1.PusherService/Push`: profiles in, an empty message out once they are on disk.
//!
//! A push is stored as a whole or not at all.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use pyrite_model::pprof::{Appended, DisplayNames, PprofError, PushContext, append};
use pyrite_model::{Batch, LabelSet, names};
use tokio::sync::SemaphorePermit;

use crate::connect::{Call, unary};
use crate::proto::push;
use crate::state::{ServerState, Shared, blocking, now};
use crate::{ApiError, ServerLimits};

/// Memory that the smallest push is counted with.
const MIN_PUSH_BYTES: usize = 1 << 20;
/// How much larger a packed body may become; profiles pack to a fourth or so, and their repetitions further.
const UNPACKED_GROWTH: usize = 32;

/// What a profile without a service name is filed under.
pub(crate) const UNKNOWN_SERVICE: &str = "unknown_service";

pub(crate) async fn route(State(state): State<Shared>, request: Request) -> Response {
    let counted = Arc::clone(&state);
    let answer = async move {
        let room = admit(&state, request.headers())?;
        unary(Arc::clone(&state), request, room.bytes, handle).await
    };
    answer.await.unwrap_or_else(|error| {
        counted.counters.rejected(reason(&error));
        error.into_response()
    })
}

/// Memory set aside for the body of a push, given back when dropped.
pub(crate) struct Room<'a> {
    /// The body may take this much, packed or unpacked.
    pub(crate) bytes: usize,
    _permit: SemaphorePermit<'a>,
}

/// Room for the body of a push. What it may take follows from its headers, or is the most that any push may.
pub(crate) fn admit<'a>(state: &'a ServerState, headers: &HeaderMap) -> Result<Room<'a>, ApiError> {
    let ServerLimits { push_body_bytes, push_bytes_in_flight, .. } = state.limits;
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    let growth = if headers.contains_key(header::CONTENT_ENCODING) { UNPACKED_GROWTH } else { 1 };
    let bytes = announced.map_or(push_body_bytes, |len| len.saturating_mul(growth));
    let bytes = bytes.max(MIN_PUSH_BYTES).min(push_body_bytes).min(push_bytes_in_flight);
    let overloaded = ApiError::Overloaded { what: "pushes are being taken in" };
    let permit = state.pushes.try_acquire_many((bytes >> 10) as u32).ok().ok_or(overloaded)?;
    Ok(Room { bytes, _permit: permit })
}

/// The name under which a rejected push is counted.
pub(crate) fn reason(error: &ApiError) -> &'static str {
    match error {
        ApiError::Profile { source, .. } | ApiError::Ingest(source) => source.reason(),
        ApiError::Overloaded { .. } => "overloaded",
        ApiError::Unavailable { .. } => "unavailable",
        ApiError::TooLarge { .. } => "too_large",
        ApiError::BodyRead => "body_read",
        _ => "malformed",
    }
}

async fn handle(call: Call<push::PushRequest>) -> Result<push::PushResponse, ApiError> {
    let Call { state, message, .. } = call;
    if message.series.iter().all(|series| series.samples.is_empty()) {
        return Err(ApiError::NoProfiles);
    }
    let profiles = message.series.iter().map(|series| series.samples.len() as u64).sum();
    let (batch, appended) = decode(&state, message).await?;
    store(&state, batch, profiles, appended).await?;
    Ok(push::PushResponse {})
}

async fn decode(state: &Shared, message: push::PushRequest) -> Result<(Batch, Appended), ApiError> {
    let held = Arc::clone(state);
    in_turn(state, move || {
        let mut batch = Batch::default();
        let mut sum = Appended::default();
        for (series, pushed) in message.series.iter().enumerate() {
            let labels = labels(pushed)?;
            let context =
                PushContext { labels: &labels, display_names: None, now: now(), limits: &held.limits.push };
            for (profile, sample) in pushed.samples.iter().enumerate() {
                let failed = |source: PprofError| ApiError::Profile { series, profile, source };
                let appended = append(&mut batch, &sample.raw_profile, &context).map_err(failed)?;
                sum.rows += appended.rows;
                sum.negative_samples += appended.negative_samples;
                sum.truncated_stacks += appended.truncated_stacks;
            }
        }
        Ok((batch, sum))
    })
    .await
}

/// Runs a decoder when its turn comes, so that only a few unpacked profiles are in memory at once.
pub(crate) async fn in_turn<T: Send + 'static>(
    state: &Shared,
    run: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = Arc::clone(&state.decoding).acquire_owned().await;
    blocking(move || {
        let _permit = permit;
        run()
    })
    .await
}

/// Stores a batch and counts it; an empty one needs no store.
pub(crate) async fn store(
    state: &ServerState,
    batch: Batch,
    profiles: u64,
    appended: Appended,
) -> Result<(), ApiError> {
    if !batch.series.is_empty() {
        state.store.append(batch).await?;
    }
    state.counters.stored(profiles, appended);
    Ok(())
}

fn labels(pushed: &push::RawProfileSeries) -> Result<LabelSet, ApiError> {
    let mut labels = LabelSet::default();
    for pair in &pushed.labels {
        if labels.get(&pair.name).is_some() {
            let found = format!("{:?} twice", pair.name);
            return Err(ApiError::BadValue { what: "label names", expected: "distinct", found });
        }
        labels.set(&pair.name, &pair.value);
    }
    if labels.get(names::SERVICE_NAME).is_none() {
        labels.set(names::SERVICE_NAME, UNKNOWN_SERVICE);
    }
    Ok(labels)
}

/// Decodes one profile that came to `/ingest`.
pub(crate) fn decode_ingest(
    state: &ServerState,
    profile: &[u8],
    labels: &LabelSet,
    shown_as: &DisplayNames,
) -> Result<(Batch, Appended), ApiError> {
    let mut batch = Batch::default();
    let limits = &state.limits.push;
    let context = PushContext { labels, display_names: Some(shown_as), now: now(), limits };
    match append(&mut batch, profile, &context) {
        // Agents send an empty profile when there was nothing to sample.
        Err(PprofError::Empty) => Ok((Batch::default(), Appended::default())),
        other => other.map(|appended| (batch, appended)).map_err(ApiError::Ingest),
    }
}
