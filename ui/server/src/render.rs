//! `/pyroscope/render`, `/pyroscope/render-diff` and `/pyroscope/label-values`: the API before the RPCs, which
//! Grafana's diff view and exports still use. Answers are flamebearer JSON with plain numbers.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use pyrite_model::{Flamebearer, ProfileType, Selector, Tenants, TimeRange, UnixMs};
use pyrite_store::{GroupSeries, SeriesQuery, StackQuery};
use serde::Serialize;

use crate::ApiError;
use crate::attime;
use crate::connect::pack_json;
use crate::params::typed;
use crate::profiles::{double, single};
use crate::state::{Shared, now};
use crate::tenancy::Readers;
use crate::timeline::{Timeline, step_seconds, timeline};
use crate::window::{max_nodes, window};

/// Query parameters, in order, repeated ones included.
type Params = Query<Vec<(String, String)>>;

fn param<'a>(params: &'a Params, name: &str) -> &'a str {
    params.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FlamebearerProfile {
    version: u32,
    flamebearer: FlamebearerBody,
    metadata: Metadata,
    timeline: Option<Timeline>,
    groups: Option<BTreeMap<String, Timeline>>,
    heatmap: (),
    #[serde(skip_serializing_if = "Option::is_none")]
    left_ticks: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    right_ticks: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FlamebearerBody {
    names: Vec<String>,
    levels: Vec<Vec<i64>>,
    num_ticks: i64,
    max_self: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    format: &'static str,
    spy_name: &'static str,
    sample_rate: u32,
    units: String,
    name: String,
}

impl FlamebearerProfile {
    fn new<const SIDES: usize>(bearer: Flamebearer<SIDES>, profile_type: &ProfileType) -> Self {
        let (units, sample_rate) = match profile_type.sample_type.as_str() {
            "cpu" => ("samples", 1_000_000_000),
            "inuse_objects" | "alloc_objects" | "goroutine" | "samples" => ("objects", 100),
            _ => (profile_type.sample_unit.as_str(), 100),
        };
        let metadata = Metadata {
            format: if SIDES == 1 { "single" } else { "double" },
            spy_name: "",
            sample_rate,
            units: units.to_owned(),
            name: profile_type.sample_type.clone(),
        };
        let ticks = |side: usize| (SIDES > 1).then(|| bearer.ticks[side]);
        Self {
            version: 1,
            metadata,
            timeline: None,
            groups: None,
            heatmap: (),
            left_ticks: ticks(0),
            right_ticks: ticks(SIDES - 1),
            flamebearer: FlamebearerBody {
                num_ticks: bearer.total(),
                max_self: bearer.max_self,
                names: bearer.names,
                levels: bearer.levels,
            },
        }
    }
}

/// One side of a rendering: what the parameters `query`, `from` and `until` say.
struct Side {
    tenants: Tenants,
    profile_type: ProfileType,
    selector: Selector,
    range: TimeRange,
}

impl Side {
    fn of(tenants: &Tenants, params: &Params, fields: [&'static str; 3]) -> Result<Self, ApiError> {
        let [query, from, until] = fields;
        let (profile_type, selector) = typed(query, param(params, query))?;
        let now = now();
        let time = |field| attime::parse(param(params, field), now);
        let range = window(time(from).0, time(until).0)?;
        Ok(Self { tenants: tenants.clone(), profile_type, selector, range })
    }

    fn stacks(&self) -> StackQuery {
        StackQuery::new(self.tenants.clone(), self.profile_type.clone(), self.selector.clone(), self.range)
    }
}

/// `maxNodes` wins over `max-nodes`; what is no number counts as absent.
fn nodes(params: &Params) -> Result<usize, ApiError> {
    let number = |name| param(params, name).parse::<i64>().ok().filter(|nodes| *nodes != 0);
    max_nodes(number("maxNodes").or(number("max-nodes")))
}

pub(crate) async fn render(
    State(state): State<Shared>,
    Readers(tenants): Readers,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let side = Side::of(&tenants, &params, ["query", "from", "until"])?;
    let nodes = nodes(&params)?;
    if param(&params, "format") == "dot" {
        return Err(ApiError::Unimplemented { what: "format dot".to_owned() });
    }
    let bearer = single(&state, side.stacks().into(), nodes).await?;
    let mut profile = FlamebearerProfile::new(bearer, &side.profile_type);
    let step_s = step_seconds(side.range);
    // Only the first key names groups, so only by it is grouped: groups of the same name would hide each other.
    let key = param(&params, "groupBy").to_owned();
    let group_by = if key.is_empty() { Vec::new() } else { vec![key.clone()] };
    let range = side.range;
    let query = SeriesQuery {
        stacks: StackQuery::new(tenants, side.profile_type, side.selector, range),
        step_ms: step_s * 1000,
        group_by,
    };
    let series = state.query(move |store| store.select_series(&query)).await?;
    // Pyroscope draws the total line only where there is one series; more than one is what `groups` is for.
    let only = if let [one] = &series[..] { &one.points[..] } else { &[] };
    profile.timeline = Some(timeline(only, range, step_s));
    if !key.is_empty() {
        let name = |group: &GroupSeries| group.labels.get(&key).unwrap_or("*").to_owned();
        let line = |group: &GroupSeries| (name(group), timeline(&group.points, range, step_s));
        profile.groups = Some(series.iter().map(line).collect());
    }
    pack_json(&headers, &profile)
}

pub(crate) async fn render_diff(
    State(state): State<Shared>,
    Readers(tenants): Readers,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let left = Side::of(&tenants, &params, ["leftQuery", "leftFrom", "leftUntil"])?;
    let right = Side::of(&tenants, &params, ["rightQuery", "rightFrom", "rightUntil"])?;
    if left.profile_type != right.profile_type {
        return Err(ApiError::BadValue {
            what: "profile types",
            expected: "the same on both sides",
            found: format!("{} and {}", left.profile_type, right.profile_type),
        });
    }
    let bearer = double(&state, [left.stacks().into(), right.stacks().into()], nodes(&params)?).await?;
    pack_json(&headers, &FlamebearerProfile::new(bearer, &left.profile_type))
}

pub(crate) async fn label_values(
    State(state): State<Shared>,
    Readers(tenants): Readers,
    params: Params,
) -> Result<Json<Vec<String>>, ApiError> {
    let label = match param(&params, "label") {
        "" => return Err(ApiError::Missing { what: "label" }),
        // In this API the name of a profile is its whole type.
        "__name__" => "__profile_type__".to_owned(),
        label => label.to_owned(),
    };
    let range = TimeRange::new(UnixMs(i64::MIN), UnixMs(i64::MAX));
    state.query(move |store| store.label_values(&tenants, &label, &Selector::all(), range)).await.map(Json)
}
