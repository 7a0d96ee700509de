//! `GET /api/v1/diff`: two profiles of any selectors and windows side by side, by total, rate, share or request.

use std::num::NonZeroU32;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use pyrite_model::{Comparison, Flamebearer, FunctionChange, FunctionValues, Measure, TimeRange};
use serde::Serialize;

use crate::ApiError;
use crate::connect::pack_json;
use crate::params::Params;
use crate::state::Shared;
use crate::tenancy::Readers;
use crate::window::max_nodes;

const PARAMETERS: [&str; 14] = [
    "leftQuery",
    "leftFrom",
    "leftUntil",
    "leftRequests",
    "rightQuery",
    "rightFrom",
    "rightUntil",
    "rightRequests",
    "function",
    "callSite",
    "by",
    "limit",
    "order",
    "maxNodes",
];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Diff {
    /// The measure that is used.
    by: &'static str,
    unit: String,
    left: Side,
    right: Side,
    /// By how much more the right one is, by the measure.
    change: f64,
    /// Those that changed most by the measure first.
    functions: Vec<Function>,
    flamegraph: FlameGraph,
}

#[derive(Debug, Serialize)]
struct Side {
    /// The sum of all values, as they were counted.
    total: i64,
    /// What values are divided by to be ones by the measure.
    divisor: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Function {
    name: String,
    left: Values,
    right: Values,
    /// By how much more the right side has, by the measure.
    self_change: f64,
    total_change: f64,
}

#[derive(Debug, Serialize)]
struct Values {
    #[serde(rename = "self")]
    own: i64,
    total: i64,
}

/// As the RPC of the same name has it, with plain numbers; the nodes are those that are largest by the measure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FlameGraph {
    names: Vec<String>,
    levels: Vec<Vec<i64>>,
    total: i64,
    max_self: i64,
}

impl From<Flamebearer<2>> for FlameGraph {
    fn from(bearer: Flamebearer<2>) -> Self {
        let total = bearer.total();
        Self { names: bearer.names, levels: bearer.levels, total, max_self: bearer.max_self }
    }
}

impl From<FunctionChange> for Function {
    fn from(change: FunctionChange) -> Self {
        let FunctionValues { name, own, total } = change.values;
        let [left, right] = [0, 1].map(|side| Values { own: own[side], total: total[side] });
        Self { name, left, right, self_change: change.own, total_change: change.total }
    }
}

#[derive(Clone, Copy)]
enum By {
    Total,
    Rate,
    Share,
    Request,
}

/// The measure that the parameters ask for, of sides with these windows.
fn measure(params: &Params, windows: [TimeRange; 2]) -> Result<Measure, ApiError> {
    let words = [("total", By::Total), ("rate", By::Rate), ("share", By::Share), ("request", By::Request)];
    let by = params.word("by", &words, "total, rate, share or request")?;
    let counts = ["leftRequests", "rightRequests"];
    if !matches!(by, By::Request)
        && let Some(name) = counts.into_iter().find(|name| params.get(name).is_some())
    {
        let found = params.get(name).unwrap_or_default().to_owned();
        return Err(ApiError::BadValue { what: name, expected: "absent unless by is request", found });
    }
    let requests = |name| {
        let count = params.parsed::<NonZeroU32>(name, "a whole number from 1 to 4294967295")?;
        count.ok_or(ApiError::Missing { what: name })
    };
    Ok(match by {
        By::Total => Measure::Total,
        By::Rate => Measure::Rate(windows),
        By::Share => Measure::Share,
        By::Request => Measure::Request([requests(counts[0])?, requests(counts[1])?]),
    })
}

pub(crate) async fn diff(
    State(state): State<Shared>,
    Readers(tenants): Readers,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params.are(&PARAMETERS)?;
    let left = params.stacks(&tenants, ["leftQuery", "leftFrom", "leftUntil"])?;
    let right = params.stacks(&tenants, ["rightQuery", "rightFrom", "rightUntil"])?;
    let units = [&left, &right].map(|side| side.profile_type.sample_unit.clone());
    if units[0] != units[1] {
        return Err(ApiError::BadValue {
            what: "units of the profile types",
            expected: "the same on both sides",
            found: units.join(" and "),
        });
    }
    let measure = measure(&params, [left.range, right.range])?;
    let (limit, order) = (params.limit()?, params.order()?);
    let nodes = max_nodes(params.parsed("maxNodes", "a whole number")?)?;
    let [unit, _] = units;
    let compare = move |store: &dyn crate::ProfileStore| {
        let comparison = Comparison::new(store.flame_diff([Some(&left), Some(&right)], 0)?, measure);
        let (totals, divisors) = (comparison.totals(), comparison.divisors());
        let [left, right] = [0, 1].map(|side| Side { total: totals[side], divisor: divisors[side] });
        Ok(Diff {
            by: comparison.measure().name(),
            unit,
            left,
            right,
            change: comparison.change(totals),
            functions: comparison.most_changed(limit, order).into_iter().map(Function::from).collect(),
            flamegraph: comparison.cut(nodes).flamebearer().into(),
        })
    };
    pack_json(&headers, &state.query(compare).await?)
}
