//! Routes, and what happens to every request before and after its handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};

use crate::state::{ServerState, Shared};
use crate::{
    ApiError, accept, compare, connect, exemplars, functions, ingest, ops, page, profiles, push, querier,
    render, services,
};

/// Services of the Pyroscope API. A method of theirs that has no route is not implemented; it is never unknown.
const KNOWN_SERVICES: [&str; 10] = [
    "adhocprofiles.v1.AdHocProfileService",
    "capabilities.v1.FeatureFlagsService",
    "debuginfo.v1alpha1.DebuginfoService",
    "opentelemetry.proto.collector.profiles.v1development.ProfilesService",
    "push.v1.PusherService",
    "querier.v1.QuerierService",
    "settings.v1.RecordingRulesService",
    "settings.v1.SettingsService",
    "vcs.v1.VCSService",
    "version.v1.Version",
];

/// The server as a service, without a socket.
pub fn app(state: Arc<ServerState>) -> Router {
    let mut router = querier_routes()
        .route("/push.v1.PusherService/Push", post(push::route))
        .route("/ingest", post(ingest::route))
        .route("/pyroscope/ingest", post(ingest::route))
        .route("/pyroscope/render", get(render::render))
        .route("/pyroscope/render-diff", get(render::render_diff))
        .route("/pyroscope/label-values", get(render::label_values))
        .route("/api/v1/services", get(services::list))
        .route("/api/v1/unwind", get(services::unwind))
        .route("/api/v1/top", get(functions::top))
        .route("/api/v1/series", get(functions::series))
        .route("/api/v1/diff", get(compare::diff))
        .route("/api/v1/profiles", get(exemplars::list))
        .route("/api/v1/queries", get(ops::queries))
        .route("/api/v1/status/buildinfo", get(ops::build_info))
        .route("/ready", get(ops::ready))
        .route("/metrics", get(ops::metrics))
        .route("/debug/pprof/profile", get(ops::self_profile));
    for service in KNOWN_SERVICES {
        router = router.route(&format!("/{service}/{{method}}"), post(not_implemented));
    }
    router
        .fallback(page::fallback)
        .layer(from_fn(accept::layer))
        .layer(from_fn_with_state(Arc::clone(&state), count))
        // Bodies are read by the handlers, each up to its own limit.
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
}

fn querier_routes() -> Router<Shared> {
    let path = |method: &str| format!("/querier.v1.QuerierService/{method}");
    Router::new()
        .route(&path("ProfileTypes"), connect::query(querier::profile_types))
        .route(&path("LabelNames"), connect::query(querier::label_names))
        .route(&path("LabelValues"), connect::query(querier::label_values))
        .route(&path("Series"), connect::query(querier::series))
        .route(&path("GetProfileStats"), connect::query(querier::profile_stats))
        .route(&path("AnalyzeQuery"), connect::query(querier::analyze_query))
        .route(&path("SelectSeries"), connect::query(profiles::select_series))
        .route(&path("SelectHeatmap"), connect::query(exemplars::select_heatmap))
        .route(&path("SelectMergeStacktraces"), connect::query(profiles::select_merge_stacktraces))
        .route(&path("SelectMergeSpanProfile"), connect::query(profiles::select_merge_span_profile))
        .route(&path("SelectMergeProfile"), connect::query(profiles::select_merge_profile))
        .route(&path("Diff"), connect::query(profiles::diff))
}

async fn not_implemented(Path(method): Path<String>) -> ApiError {
    ApiError::Unimplemented { what: format!("method {method:?}") }
}

/// Counts requests by route, not by path: paths are up to the client.
async fn count(State(state): State<Shared>, request: Request, next: Next) -> Response {
    let _here = InFlight::enter(&state.in_flight);
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    state.counters.request(path.as_deref().unwrap_or("other"), response.status().as_u16());
    response
}

/// Counts a connection or a request for as long as it is served, also when its client leaves.
pub(crate) struct InFlight<'a>(&'a AtomicU64);

impl<'a> InFlight<'a> {
    pub(crate) fn enter(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
