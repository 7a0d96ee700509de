//! Single profiles: listed (`GET /api/v1/profiles`), counted by time and size (`SelectHeatmap`), and as examples beside the
//! points of a series over time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use pyrite_model::{
    Heatmap, HeatmapSlot, LabelSet, ProfileId, SIZE_BUCKETS, SeriesKey, SizedProfile, Steps, TimeRange,
    UnixMs,
};
use pyrite_store::{GroupSeries, SeriesProfiles, StackQuery};
use serde::Serialize;

use crate::connect::{Call, pack_json};
use crate::functions::label_map;
use crate::params::Params;
use crate::profiles::{Merge, row_limit, step_ms};
use crate::proto::{querier, types};
use crate::querier::{label_pairs, project};
use crate::state::Shared;
use crate::tenancy::Readers;
use crate::{ApiError, ProfileStore};

/// Slots of a heat map, over all of its series. Each has as many numbers as there are buckets of sizes, twice.
const MAX_SLOTS: usize = 20_000;

/// A profile of one of several series, which is known by its place among them.
type Placed = SizedProfile<usize>;

#[derive(Debug, Serialize)]
struct Listed {
    unit: String,
    /// How many there are in the window.
    count: usize,
    profiles: Vec<Profile>,
}

#[derive(Debug, Serialize)]
struct Profile {
    id: String,
    /// Unix milliseconds.
    time: i64,
    /// The sum of its values.
    total: i64,
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy)]
enum Order {
    Newest,
    Largest,
}

pub(crate) async fn list(
    State(state): State<Shared>,
    Readers(tenants): Readers,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.are(&["query", "from", "until", "function", "callSite", "limit", "order"])?;
    let stacks = params.stacks(&tenants, ["query", "from", "until"])?;
    let limit = params.limit()?;
    let words = [("time", Order::Newest), ("total", Order::Largest)];
    let order = params.word("order", &words, "time or total")?;
    let unit = stacks.profile_type.sample_unit.clone();
    let list = move |store: &dyn ProfileStore| {
        let series = store.profiles(&stacks)?;
        let mut all: Vec<Placed> =
            series.iter().enumerate().flat_map(|(of, series)| placed(of, series)).collect();
        let count = all.len();
        match order {
            Order::Newest => all.sort_by_key(|profile| Reverse(profile.time)),
            Order::Largest => all.sort_by_key(|profile| Reverse((profile.total, profile.time))),
        }
        all.truncate(limit);
        let profile = |Placed { of, time, total }| {
            let SeriesProfiles { key, .. } = &series[of];
            let id = ProfileId::new(key, time).to_string();
            Profile { id, time: time.0, total, labels: label_map(&key.labels) }
        };
        Ok(Listed { unit, count, profiles: all.into_iter().map(profile).collect() })
    };
    pack_json(&headers, &state.query(list).await?)
}

fn placed(of: usize, series: &SeriesProfiles) -> impl Iterator<Item = Placed> {
    series.profiles.iter().map(move |(time, total)| Placed { of, time: *time, total: *total })
}

pub(crate) async fn select_heatmap(
    call: Call<querier::SelectHeatmapRequest>,
) -> Result<querier::SelectHeatmapResponse, ApiError> {
    let request = call.message;
    let (start, end) = (request.start, request.end);
    let merge = Merge::new(call.tenants, &request.profile_type_id, &request.label_selector, start, end)?;
    if start == end {
        return Err(ApiError::BadValue { what: "end", expected: "after start", found: end.to_string() });
    }
    let (step_ms, limit) = (step_ms(request.step)?, row_limit(request.limit)?);
    let kinds = (request.query_type(), request.exemplar_type());
    let with_exemplars = match kinds {
        (querier::HeatmapQueryType::Unspecified, _) => {
            let expected = "HEATMAP_QUERY_TYPE_INDIVIDUAL or HEATMAP_QUERY_TYPE_SPAN";
            return Err(ApiError::BadValue { what: "query_type", expected, found: "none".to_owned() });
        }
        (querier::HeatmapQueryType::Individual, types::ExemplarType::Span)
        | (querier::HeatmapQueryType::Span, types::ExemplarType::Individual) => {
            let (expected, found) = ("of the kind that query_type is", "the other".to_owned());
            return Err(ApiError::BadValue { what: "exemplar_type", expected, found });
        }
        // No spans are kept.
        (querier::HeatmapQueryType::Span, _) => return Ok(querier::SelectHeatmapResponse::default()),
        (_, exemplars) => exemplars == types::ExemplarType::Individual,
    };
    let group_by = request.group_by;
    let draw = move |store: &dyn ProfileStore| {
        let steps = steps(merge.stacks().range, step_ms)?;
        let stacks = StackQuery { range: steps.window(), ..merge.stacks().clone() };
        let profiles = store.profiles(&stacks)?;
        let mut groups: BTreeMap<LabelSet, Vec<Placed>> = BTreeMap::new();
        for (of, series) in profiles.iter().enumerate() {
            groups.entry(group_of(&series.key, &group_by)).or_default().extend(placed(of, series));
        }
        let too_fine = || ApiError::Unanswerable {
            reason: format!("the heat map has more than {MAX_SLOTS} slots; ask for a longer step"),
        };
        let mut map = Heatmap::new(groups, steps, MAX_SLOTS).ok_or_else(too_fine)?;
        map.groups.truncate(limit);
        let exemplar = |profile: &Placed| exemplar(&profiles, profile, &group_by);
        let exemplar = with_exemplars.then_some(&exemplar as &dyn Fn(&Placed) -> types::Exemplar);
        let series = map.groups.iter().map(|group| types::HeatmapSeries {
            labels: label_pairs(&group.labels),
            slots: group.slots.iter().map(|found| slot(found, &map.edges, exemplar)).collect(),
        });
        Ok(querier::SelectHeatmapResponse { series: series.collect() })
    };
    call.state.query(draw).await
}

/// A slot with all buckets, and where they are wanted an exemplar of each that has any.
fn slot(
    found: &HeatmapSlot<usize>,
    edges: &[i64; SIZE_BUCKETS],
    exemplar: Option<&dyn Fn(&Placed) -> types::Exemplar>,
) -> types::HeatmapSlot {
    let mut counts = vec![0; SIZE_BUCKETS];
    for cell in &found.cells {
        counts[cell.bucket] = i32::try_from(cell.count).unwrap_or(i32::MAX);
    }
    let largest = found.cells.iter().map(|cell| &cell.largest);
    types::HeatmapSlot {
        timestamp: found.stamp.0,
        y_min: edges.iter().map(|edge| *edge as f64).collect(),
        counts,
        exemplars: exemplar.map_or_else(Vec::new, |exemplar| largest.map(exemplar).collect()),
    }
}

/// Which of the groups a series belongs to.
fn group_of(key: &SeriesKey, group_by: &[String]) -> LabelSet {
    if group_by.is_empty() { LabelSet::default() } else { project(key, group_by) }
}

fn steps(range: TimeRange, step_ms: i64) -> Result<Steps, ApiError> {
    let expected = "at least 0.001 seconds";
    let bad = || ApiError::BadValue { what: "step", expected, found: format!("{step_ms} ms") };
    Steps::new(range, step_ms).ok_or_else(bad)
}

/// What leads from a point to a profile: its id, and the labels that are not those of its group.
fn exemplar(profiles: &[SeriesProfiles], profile: &Placed, group_by: &[String]) -> types::Exemplar {
    let key = &profiles[profile.of].key;
    let mut labels = key.labels.clone();
    for name in group_by {
        labels.remove(name);
    }
    types::Exemplar {
        timestamp: profile.time.0,
        profile_id: ProfileId::new(key, profile.time).to_string(),
        value: profile.total,
        labels: label_pairs(&labels),
    }
}

/// The largest profile of each point of a series over time, by the group's labels and the point's stamp.
pub(crate) struct PointExemplars(HashMap<LabelSet, HashMap<UnixMs, types::Exemplar>>);

impl PointExemplars {
    pub(crate) fn read(
        store: &dyn ProfileStore,
        stacks: &StackQuery,
        step_ms: i64,
        group_by: &[String],
    ) -> Result<Self, ApiError> {
        let steps = steps(stacks.range, step_ms)?;
        let profiles = store.profiles(&StackQuery { range: steps.window(), ..stacks.clone() })?;
        let mut largest: HashMap<LabelSet, HashMap<UnixMs, Placed>> = HashMap::new();
        for (of, series) in profiles.iter().enumerate() {
            let points = largest.entry(group_of(&series.key, group_by)).or_default();
            for profile in placed(of, series) {
                let known = points.entry(steps.stamp(profile.time)).or_insert(profile);
                if profile.total > known.total {
                    *known = profile;
                }
            }
        }
        let exemplar = |(stamp, profile)| (stamp, exemplar(&profiles, &profile, group_by));
        let points = |(labels, points): (LabelSet, HashMap<UnixMs, Placed>)| {
            (labels, points.into_iter().map(exemplar).collect())
        };
        Ok(Self(largest.into_iter().map(points).collect()))
    }

    /// Those of a point.
    pub(crate) fn of(&mut self, group: &GroupSeries, stamp: UnixMs) -> Vec<types::Exemplar> {
        self.0.get_mut(&group.labels).and_then(|points| points.remove(&stamp)).into_iter().collect()
    }
}
