//! What functions cost. `GET /api/v1/top`: the largest functions of a profile, and all others as one row.
//! `GET /api/v1/series`: values over time, of all stacks or of those that go through a function.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use pyrite_model::{FunctionValues, LabelSet, OtherFunctions, TopFunctions};
use pyrite_store::SeriesQuery;
use serde::Serialize;

use crate::ApiError;
use crate::connect::pack_json;
use crate::params::Params;
use crate::profiles::step_ms;
use crate::state::Shared;
use crate::tenancy::Readers;

#[derive(Debug, Serialize)]
struct Top {
    unit: String,
    /// The sum of all values.
    total: i64,
    functions: Vec<Function>,
    rest: Option<Rest>,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    #[serde(rename = "self")]
    own: i64,
    total: i64,
}

/// All other functions, taken as one.
#[derive(Debug, Serialize)]
struct Rest {
    functions: usize,
    #[serde(rename = "self")]
    own: i64,
    total: i64,
}

impl Top {
    fn new(unit: String, TopFunctions { totals: [total], functions, rest }: TopFunctions) -> Self {
        let function = |FunctionValues { name, own: [own], total: [total] }| Function { name, own, total };
        let rest = rest.map(|OtherFunctions { count, own: [own], total: [total] }| Rest {
            functions: count,
            own,
            total,
        });
        Self { unit, total, functions: functions.into_iter().map(function).collect(), rest }
    }
}

pub(crate) async fn top(
    State(state): State<Shared>,
    Readers(tenants): Readers,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.are(&["query", "from", "until", "function", "callSite", "limit", "order"])?;
    let stacks = params.stacks(&tenants, ["query", "from", "until"])?;
    let (limit, order) = (params.limit()?, params.order()?);
    let unit = stacks.profile_type.sample_unit.clone();
    let functions =
        state.query(move |store| Ok(store.flame_tree(&stacks, 0)?.top_functions(limit, order))).await?;
    pack_json(&headers, &Top::new(unit, functions))
}

#[derive(Debug, Serialize)]
struct Trends {
    unit: String,
    /// The largest sums first.
    series: Vec<Trend>,
}

#[derive(Debug, Serialize)]
struct Trend {
    labels: BTreeMap<String, String>,
    points: Vec<Point>,
}

#[derive(Debug, Serialize)]
struct Point {
    /// The end of the step, in Unix milliseconds.
    time: i64,
    value: i64,
}

pub(crate) async fn series(
    State(state): State<Shared>,
    Readers(tenants): Readers,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.are(&["query", "from", "until", "function", "callSite", "step", "groupBy", "limit"])?;
    let stacks = params.stacks(&tenants, ["query", "from", "until"])?;
    let step: Option<f64> = params.parsed("step", "a number of seconds")?;
    let step_ms = step_ms(step.ok_or(ApiError::Missing { what: "step" })?)?;
    let group_by = params.all("groupBy").map(str::to_owned).collect();
    let limit = params.limit()?;
    let unit = stacks.profile_type.sample_unit.clone();
    let query = SeriesQuery { stacks, step_ms, group_by };
    let mut found = state.query(move |store| store.select_series(&query)).await?;
    found.truncate(limit);
    let series = found.into_iter().map(|group| Trend {
        labels: label_map(&group.labels),
        points: group.points.iter().map(|(time, value)| Point { time: time.0, value: *value }).collect(),
    });
    pack_json(&headers, &Trends { unit, series: series.collect() })
}

pub(crate) fn label_map(labels: &LabelSet) -> BTreeMap<String, String> {
    labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect()
}
