//! What only Pyrite has. `GET /api/v1/services`: all that runs on the node or sent profiles, with the CPU it used in a
//! window. `GET /api/v1/unwind`: how many of the node's stacks are complete.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Query, State};
use pyrite_model::{LabelSet, Matcher, ProfileType, Selector, SeriesKey, Tenants, TimeRange, names};
use pyrite_store::{SeriesQuery, StackQuery};
use serde::{Deserialize, Serialize};

use crate::ApiError;
use crate::node::{KnownService, NodeInfo, NodeView, ServiceKind, UnwindAnswer};
use crate::state::Shared;
use crate::store::ProfileStore;
use crate::tenancy::Readers;
use crate::window::window;

/// Labels that describe a service as a whole.
const SERVICE_LABELS: [&str; 6] =
    [names::CONTAINER_ID, names::CONTAINER_NAME, names::IMAGE, names::NAMESPACE, names::NODE, names::POD];

#[derive(Debug, Deserialize)]
pub(crate) struct ServicesQuery {
    /// Unix milliseconds.
    #[serde(default)]
    from: i64,
    /// Unix milliseconds.
    #[serde(default)]
    until: i64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Services {
    /// Absent where the server runs without an agent.
    node: Option<NodeInfo>,
    /// Most CPU first, then by name.
    services: Vec<Service>,
}

#[derive(Debug, Serialize)]
struct Service {
    #[serde(rename = "service_name")]
    name: String,
    kind: ServiceKind,
    /// CPU time in the window.
    cpu_seconds: f64,
    /// The same by the length of the window.
    cpu_cores: f64,
    /// Whether nothing of it ran: nothing was profiled in the window but threads that wait.
    idle: bool,
    labels: BTreeMap<String, String>,
    profile_types: Vec<String>,
}

pub(crate) async fn list(
    State(state): State<Shared>,
    Readers(tenants): Readers,
    Query(query): Query<ServicesQuery>,
) -> Result<Json<Services>, ApiError> {
    let range = window(query.from, query.until)?;
    let node = state.node_of(&tenants);
    let known = node.map_or_else(Vec::new, NodeView::services);
    let node = node.map(NodeView::info);
    let stored = state.query(move |store| Stored::read(store, &tenants, range)).await?;
    Ok(Json(Services { node, services: join(stored, known, range) }))
}

pub(crate) async fn unwind(State(state): State<Shared>, Readers(tenants): Readers) -> Json<UnwindAnswer> {
    Json(UnwindAnswer { unwind: state.node_of(&tenants).map(NodeView::unwind) })
}

/// What the store knows of the window.
struct Stored {
    series: Vec<SeriesKey>,
    /// Nanoseconds of CPU by service.
    cpu_ns: BTreeMap<String, i64>,
}

impl Stored {
    fn read(store: &dyn ProfileStore, tenants: &Tenants, range: TimeRange) -> Result<Self, ApiError> {
        let series = store.series(tenants, &Selector::all(), range)?;
        // One bucket, (start - 1 ms, end], which is the window with both its ends.
        let query = SeriesQuery {
            stacks: StackQuery::new(
                tenants.clone(),
                ProfileType::cpu_time(),
                Selector::all()
                    .with(Matcher::equal(names::PROFILE_TYPE, ProfileType::cpu_time().to_string())),
                TimeRange::new(range.end, range.end),
            ),
            step_ms: range.end.0.saturating_sub(range.start.0).saturating_add(1),
            group_by: vec![names::SERVICE_NAME.to_owned()],
        };
        let mut cpu_ns = BTreeMap::new();
        for group in store.select_series(&query)? {
            let service = group.labels.get(names::SERVICE_NAME).unwrap_or_default().to_owned();
            let sum = group.points.iter().fold(0_i64, |sum, (_, value)| sum.saturating_add(*value));
            cpu_ns.insert(service, sum);
        }
        Ok(Self { series, cpu_ns })
    }
}

/// A service under construction.
struct Draft {
    kind: ServiceKind,
    /// `None` for a label that differs between the service's series.
    labels: BTreeMap<String, Option<String>>,
    profile_types: BTreeSet<String>,
}

impl Draft {
    fn new(kind: ServiceKind) -> Self {
        Self { kind, labels: BTreeMap::new(), profile_types: BTreeSet::new() }
    }

    fn label(&mut self, name: &str, value: &str) {
        let known = self.labels.entry(name.to_owned()).or_insert_with(|| Some(value.to_owned()));
        if known.as_deref() != Some(value) {
            *known = None;
        }
    }
}

fn join(stored: Stored, known: Vec<KnownService>, range: TimeRange) -> Vec<Service> {
    let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
    for KnownService { service_name, kind, labels } in known {
        let draft = drafts.entry(service_name).or_insert_with(|| Draft::new(kind));
        labels.iter().for_each(|label| draft.label(&label.name, &label.value));
    }
    for SeriesKey { labels, profile_type, .. } in stored.series {
        let name = labels.get(names::SERVICE_NAME).unwrap_or_default();
        let draft = drafts.entry(name.to_owned()).or_insert_with(|| Draft::new(kind_of(name, &labels)));
        draft.profile_types.insert(profile_type.to_string());
        for name in SERVICE_LABELS {
            if let Some(value) = labels.get(name) {
                draft.label(name, value);
            }
        }
    }
    let waiting = [ProfileType::off_cpu(), ProfileType::wall()].map(|of_waiting| of_waiting.to_string());
    let window_s = (range.end.0.saturating_sub(range.start.0) as f64 / 1e3).max(0.001);
    let finish = |(name, draft): (String, Draft)| {
        let cpu_seconds = stored.cpu_ns.get(&name).copied().unwrap_or(0) as f64 / 1e9;
        Service {
            kind: draft.kind,
            cpu_seconds,
            cpu_cores: cpu_seconds / window_s,
            idle: draft.profile_types.iter().all(|id| waiting.contains(id)),
            labels: draft.labels.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
            profile_types: draft.profile_types.into_iter().collect(),
            name,
        }
    };
    let mut services: Vec<Service> = drafts.into_iter().map(finish).collect();
    services.sort_by(|a, b| b.cpu_seconds.total_cmp(&a.cpu_seconds));
    services
}

/// What a service was, by its stored labels; the agent no longer knows it. A process is its own service under the name of
/// its executable, so another name is that of the unit it ran in.
fn kind_of(name: &str, labels: &LabelSet) -> ServiceKind {
    let has = |label| labels.get(label).is_some();
    let executable = labels.get(names::EXE).and_then(|exe| exe.rsplit('/').next());
    match executable {
        _ if has(names::CONTAINER_ID) || has(names::CONTAINER_NAME) => ServiceKind::Container,
        None if !has(names::COMM) => ServiceKind::Pushed,
        None if name == "kernel" => ServiceKind::Kernel,
        Some(executable) if executable != name => ServiceKind::Unit,
        _ => ServiceKind::Process,
    }
}
