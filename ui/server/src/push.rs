//! `push.v1.PusherService/Push`: profiles in, an empty message out once they are on disk.
//!
//! A push is stored as a whole or not at all.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use pyrite_model::pprof::{Appended, DisplayNames, PprofError, PushContext, append};
use pyrite_model::{Batch, LabelSet, SeriesRows, Tenant, names};
use tokio::sync::SemaphorePermit;

use crate::connect::{Codec, read_body, unpack};
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
    take_in(&state, request).await.unwrap_or_else(|error| {
        state.counters.rejected(reason(&error));
        error.into_response()
    })
}

async fn take_in(state: &Shared, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let tenant = state.tenancy.writer(&parts.headers)?;
    let room = admit(state, &parts.headers)?;
    let codec = Codec::of(&parts.headers)?;
    let body = read_body(state, body, room.bytes).await?;
    let (held, headers, limit) = (Arc::clone(state), parts.headers.clone(), room.bytes);
    let Decoded { batch, profiles, appended } =
        in_turn(state, move || decode(&held.limits, &codec.decode(unpack(&headers, body, limit)?)?)).await?;
    store(state, tenant, batch, profiles, appended).await?;
    codec.answer(&parts.headers, &push::PushResponse {})
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
        ApiError::NoTenant => "unauthenticated",
        ApiError::Tenant(_) | ApiError::ManyTenants { .. } => "tenant",
        _ => "malformed",
    }
}

/// What a push holds.
struct Decoded {
    batch: Batch,
    profiles: u64,
    appended: Appended,
}

fn decode(limits: &ServerLimits, message: &push::PushRequest) -> Result<Decoded, ApiError> {
    let profiles: u64 = message.series.iter().map(|series| series.samples.len() as u64).sum();
    if profiles == 0 {
        return Err(ApiError::NoProfiles);
    }
    let mut batch = Batch::default();
    let mut sum = Appended::default();
    let mut series_bytes = 0;
    for (series, pushed) in message.series.iter().enumerate() {
        let labels = labels(pushed)?;
        let context = PushContext { labels: &labels, display_names: None, now: now(), limits: &limits.push };
        for (profile, sample) in pushed.samples.iter().enumerate() {
            let failed = |source: PprofError| ApiError::Profile { series, profile, source };
            let known = batch.series.len();
            let appended = append(&mut batch, &sample.raw_profile, &context).map_err(failed)?;
            sum.rows += appended.rows;
            sum.negative_samples += appended.negative_samples;
            sum.truncated_stacks += appended.truncated_stacks;
            // A few kilobytes can unpack to a whole profile, and a push can bring many.
            series_bytes += batch.series[known..].iter().map(SeriesRows::bytes).sum::<usize>();
            if series_bytes + batch.symbols.estimated_bytes() > limits.push_batch_bytes {
                return Err(ApiError::TooLarge { limit: limits.push_batch_bytes });
            }
        }
    }
    Ok(Decoded { batch, profiles, appended: sum })
}

/// Runs a decoder when its turn comes, so that only a few unpacked pushes are in memory at once.
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

/// Stores a batch as its tenant's and counts it; an empty one needs no store.
pub(crate) async fn store(
    state: &ServerState,
    tenant: Tenant,
    batch: Batch,
    profiles: u64,
    appended: Appended,
) -> Result<(), ApiError> {
    if !batch.series.is_empty() {
        state.store.append(Batch { tenant, ..batch }).await?;
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

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use prost::Message;

    use super::*;

    #[test]
    fn a_profile_stays_where_it_is_in_the_body() {
        let sample = push::RawSample { raw_profile: Bytes::from(vec![7; 1000]), id: String::new() };
        let series = push::RawProfileSeries { labels: Vec::new(), samples: vec![sample.clone()] };
        let body = Bytes::from(push::PushRequest { series: vec![series] }.encode_to_vec());
        let message: push::PushRequest = Codec::Proto.decode(body.clone()).unwrap();
        let profile = &message.series[0].samples[0].raw_profile;
        assert_eq!(*profile, sample.raw_profile);
        assert!(body.as_ptr_range().contains(&profile.as_ptr()));
    }
}
