//! `querier.v1.QuerierService`: profiles merged, compared, exported and over time.
//!
//! Pyrite keeps no span or trace ids with its samples, so a selector of such ids finds nothing: the answer is the empty
//! one, not all data. Profiles have ids that are made of their labels and time.

use pyrite_model::pprof::{ExportMeta, encode, proto};
use pyrite_model::{FlameTree, Flamebearer, ProfileId, ProfileType, StackProfile, Tenants, UnixMs};
use pyrite_store::{SeriesQuery, StackQuery};

use crate::ApiError;
use crate::connect::Call;
use crate::exemplars::PointExemplars;
use crate::proto::{querier, types};
use crate::querier::label_pairs;
use crate::state::ServerState;
use crate::store::ProfileStore;
use crate::window::{max_nodes, window};

/// The merge that a request asks for.
pub(crate) struct Merge {
    stacks: StackQuery,
    /// Whether ids that no sample has are asked for.
    by_id: bool,
}

impl From<StackQuery> for Merge {
    fn from(stacks: StackQuery) -> Self {
        Self { stacks, by_id: false }
    }
}

impl Merge {
    pub(crate) fn new(
        tenants: Tenants,
        profile_type: &str,
        selector: &str,
        start: i64,
        end: i64,
    ) -> Result<Self, ApiError> {
        let range = window(start, end)?;
        Ok(StackQuery::new(tenants, profile_type.parse()?, selector.parse()?, range).into())
    }

    pub(crate) fn of(
        tenants: Tenants,
        request: &querier::SelectMergeStacktracesRequest,
    ) -> Result<Self, ApiError> {
        let (start, end) = (request.start, request.end);
        let mut merge = Self::new(tenants, &request.profile_type_id, &request.label_selector, start, end)?;
        if !request.span_selector.is_empty() && !request.trace_id_selector.is_empty() {
            return Err(ApiError::BadValue {
                what: "span_selector",
                expected: "absent where trace_id_selector is given",
                found: "both".to_owned(),
            });
        }
        merge.stacks.call_site = call_site(request.stack_trace_selector.as_ref());
        merge.stacks.profiles = profile_ids(&request.profile_id_selector)?;
        merge.by_id = !(request.trace_id_selector.is_empty() && request.span_selector.is_empty());
        Ok(merge)
    }

    pub(crate) fn profile_type(&self) -> &ProfileType {
        &self.stacks.profile_type
    }

    pub(crate) fn stacks(&self) -> &StackQuery {
        &self.stacks
    }

    /// Runs the query and `then`, which shapes the answer, on the thread of the query.
    async fn profile<T: Send + 'static>(
        self,
        state: &ServerState,
        then: impl FnOnce(StackProfile) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let query = move |store: &dyn ProfileStore| {
            let profile =
                if self.by_id { StackProfile::default() } else { store.merge_stacks(&self.stacks)? };
            Ok(then(profile))
        };
        state.query(query).await
    }

    /// The same with the flame tree of so many nodes.
    async fn tree<T: Send + 'static>(
        self,
        state: &ServerState,
        max_nodes: usize,
        then: impl FnOnce(FlameTree) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let query = move |store: &dyn ProfileStore| {
            let tree =
                if self.by_id { FlameTree::default() } else { store.flame_tree(&self.stacks, max_nodes)? };
            Ok(then(tree))
        };
        state.query(query).await
    }
}

/// The profiles that a request names; `None` where it names none, and so means all.
fn profile_ids(selector: &[String]) -> Result<Option<Vec<ProfileId>>, ApiError> {
    let ids = selector.iter().map(|id| Ok(id.parse()?)).collect::<Result<Vec<ProfileId>, ApiError>>()?;
    Ok((!ids.is_empty()).then_some(ids))
}

fn call_site(selector: Option<&types::StackTraceSelector>) -> Vec<String> {
    selector.map_or_else(Vec::new, |s| s.call_site.iter().map(|location| location.name.clone()).collect())
}

pub(crate) async fn select_merge_stacktraces(
    call: Call<querier::SelectMergeStacktracesRequest>,
) -> Result<querier::SelectMergeStacktracesResponse, ApiError> {
    let request = call.message;
    let merge = Merge::of(call.tenants, &request)?;
    let nodes = max_nodes(request.max_nodes)?;
    if request.r#async.as_ref().is_some_and(|a| a.r#type() == querier::AsyncQueryType::Force) {
        return Err(ApiError::Unimplemented { what: "an asynchronous query".to_owned() });
    }
    let mut response = querier::SelectMergeStacktracesResponse::default();
    match request.format() {
        querier::ProfileFormat::Tree => {
            response.tree = merge.tree(&call.state, nodes, |tree| tree.to_wire()).await?;
        }
        querier::ProfileFormat::Pprof => {
            let profile = merge_pprof(&call.state, merge, request.end).await?;
            response.pprof = Some(querier::PprofProfile { profile: Some(profile) });
        }
        querier::ProfileFormat::Dot => {
            return Err(ApiError::Unimplemented { what: "format DOT".to_owned() });
        }
        querier::ProfileFormat::Unspecified | querier::ProfileFormat::Flamegraph => {
            response.flamegraph = Some(flame_graph(&call.state, merge, nodes).await?);
        }
    }
    Ok(response)
}

pub(crate) async fn select_merge_span_profile(
    call: Call<querier::SelectMergeSpanProfileRequest>,
) -> Result<querier::SelectMergeSpanProfileResponse, ApiError> {
    let request = call.message;
    let mut merge = Merge::new(
        call.tenants,
        &request.profile_type_id,
        &request.label_selector,
        request.start,
        request.end,
    )?;
    merge.by_id = true;
    let nodes = max_nodes(request.max_nodes)?;
    let mut response = querier::SelectMergeSpanProfileResponse::default();
    if request.format() != querier::ProfileFormat::Tree {
        response.flamegraph = Some(flame_graph(&call.state, merge, nodes).await?);
    }
    Ok(response)
}

async fn flame_graph(
    state: &ServerState,
    merge: Merge,
    max_nodes: usize,
) -> Result<querier::FlameGraph, ApiError> {
    let bearer = single(state, merge, max_nodes).await?;
    let (total, max_self) = (bearer.total(), bearer.max_self);
    Ok(querier::FlameGraph { names: bearer.names, levels: levels(bearer.levels), total, max_self })
}

/// One profile as a flame graph.
pub(crate) async fn single(
    state: &ServerState,
    merge: Merge,
    max_nodes: usize,
) -> Result<Flamebearer<1>, ApiError> {
    merge.tree(state, max_nodes, |tree| tree.flamebearer()).await
}

/// Two profiles as a flame graph, baseline first. Both are whole until they are side by side (I6).
pub(crate) async fn double(
    state: &ServerState,
    sides: [Merge; 2],
    max_nodes: usize,
) -> Result<Flamebearer<2>, ApiError> {
    let draw = move |store: &dyn ProfileStore| {
        let queries = sides.each_ref().map(|side| (!side.by_id).then_some(&side.stacks));
        Ok(store.flame_diff(queries, max_nodes)?.flamebearer())
    };
    state.query(draw).await
}

pub(crate) async fn diff(call: Call<querier::DiffRequest>) -> Result<querier::DiffResponse, ApiError> {
    let querier::DiffRequest { left, right } = call.message;
    let left = left.ok_or(ApiError::Missing { what: "left" })?;
    let right = right.ok_or(ApiError::Missing { what: "right" })?;
    let nodes = max_nodes(left.max_nodes)?.max(max_nodes(right.max_nodes)?);
    let sides = [Merge::of(call.tenants.clone(), &left)?, Merge::of(call.tenants, &right)?];
    let bearer = double(&call.state, sides, nodes).await?;
    let flamegraph = querier::FlameGraphDiff {
        total: bearer.total(),
        max_self: bearer.max_self,
        left_ticks: bearer.ticks[0],
        right_ticks: bearer.ticks[1],
        names: bearer.names,
        levels: levels(bearer.levels),
    };
    Ok(querier::DiffResponse { flamegraph: Some(flamegraph) })
}

fn levels(levels: Vec<Vec<i64>>) -> Vec<querier::Level> {
    levels.into_iter().map(|values| querier::Level { values }).collect()
}

pub(crate) async fn select_merge_profile(
    call: Call<querier::SelectMergeProfileRequest>,
) -> Result<proto::Profile, ApiError> {
    let request = call.message;
    max_nodes(request.max_nodes)?;
    let mut merge = Merge::new(
        call.tenants,
        &request.profile_type_id,
        &request.label_selector,
        request.start,
        request.end,
    )?;
    merge.stacks.call_site = call_site(request.stack_trace_selector.as_ref());
    merge.stacks.profiles = profile_ids(&request.profile_id_selector)?;
    merge.by_id = !request.trace_id_selector.is_empty();
    merge_pprof(&call.state, merge, request.end).await
}

/// The merge as pprof, stamped with the end of its window; an empty message where there is no data.
async fn merge_pprof(state: &ServerState, merge: Merge, end_ms: i64) -> Result<proto::Profile, ApiError> {
    let profile_type = merge.profile_type().clone();
    let range = merge.stacks.range;
    let period = sample_period(state, &merge.stacks);
    let encoded = move |profile: StackProfile| {
        if profile.values.is_empty() {
            return proto::Profile::default();
        }
        let time_ns = end_ms.saturating_mul(1_000_000);
        let duration_ns = range.end.0.saturating_sub(range.start.0).saturating_mul(1_000_000);
        encode(&profile, &ExportMeta { profile_type, time_ns, duration_ns, period })
    };
    merge.profile(state, encoded).await
}

/// Nanoseconds between two CPU samples of this node; 0 where unknown.
fn sample_period(state: &ServerState, StackQuery { tenants, profile_type, .. }: &StackQuery) -> i64 {
    let frequency = state.node_of(tenants).map_or(0, |node| node.info().frequency_hz);
    let sampled = [ProfileType::cpu_time(), ProfileType::cpu_samples()].contains(profile_type);
    if sampled && frequency > 0 { 1_000_000_000 / i64::from(frequency) } else { 0 }
}

pub(crate) async fn select_series(
    call: Call<querier::SelectSeriesRequest>,
) -> Result<querier::SelectSeriesResponse, ApiError> {
    let request = call.message;
    let mut stacks = Merge::new(
        call.tenants,
        &request.profile_type_id,
        &request.label_selector,
        request.start,
        request.end,
    )?
    .stacks;
    stacks.call_site = call_site(request.stack_trace_selector.as_ref());
    // There are no spans that could be examples.
    let with_exemplars = request.exemplar_type() == types::ExemplarType::Individual;
    let limit = row_limit(request.limit)?;
    let query = SeriesQuery { stacks, step_ms: step_ms(request.step)?, group_by: request.group_by };
    let read = move |store: &dyn ProfileStore| {
        let mut found = store.select_series(&query)?;
        found.truncate(limit);
        let SeriesQuery { stacks, step_ms, group_by } = &query;
        let look = || PointExemplars::read(store, stacks, *step_ms, group_by);
        let exemplars = match with_exemplars.then(look).transpose() {
            // The points are what was asked for; among too many profiles none is an example.
            Err(ApiError::Unanswerable { .. }) => None,
            exemplars => exemplars?,
        };
        Ok((found, exemplars))
    };
    let (found, mut exemplars) = call.state.query(read).await?;
    let series = found.iter().map(|group| {
        let point = |(time, value): &(UnixMs, i64)| types::Point {
            value: *value as f64,
            timestamp: time.0,
            exemplars: exemplars.as_mut().map_or_else(Vec::new, |exemplars| exemplars.of(group, *time)),
        };
        types::Series { labels: label_pairs(&group.labels), points: group.points.iter().map(point).collect() }
    });
    Ok(querier::SelectSeriesResponse { series: series.collect() })
}

/// How many series an answer may have: none or 0 is as many as there are.
pub(crate) fn row_limit(asked: Option<i64>) -> Result<usize, ApiError> {
    let asked = asked.unwrap_or(0);
    let limit = usize::try_from(asked).ok().ok_or_else(|| ApiError::BadValue {
        what: "limit",
        expected: "0 or more",
        found: asked.to_string(),
    })?;
    Ok(if limit == 0 { usize::MAX } else { limit })
}

/// A step in seconds as whole milliseconds, at least one.
pub(crate) fn step_ms(seconds: f64) -> Result<i64, ApiError> {
    let ms = (seconds * 1000.0).round();
    if seconds >= 0.001 && ms <= 1e15 {
        return Ok(ms as i64);
    }
    Err(ApiError::BadValue { what: "step", expected: "at least 0.001 seconds", found: seconds.to_string() })
}
