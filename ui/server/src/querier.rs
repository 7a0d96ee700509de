//! `querier.v1.QuerierService`: which profile types, labels and series there are.

use std::collections::BTreeSet;

use pyrite_model::{LabelSet, ProfileType, SeriesKey, TimeRange, UnixMs};

use crate::ApiError;
use crate::connect::Call;
use crate::proto::{querier, types};
use crate::state::now;
use crate::store::ProfileStore;
use crate::window::{all_of, window};

/// Window of a profile type query that names none.
const DEFAULT_WINDOW_MS: i64 = 3_600_000;

pub(crate) async fn profile_types(
    call: Call<querier::ProfileTypesRequest>,
) -> Result<querier::ProfileTypesResponse, ApiError> {
    let range = match (call.message.start, call.message.end) {
        (0, 0) => TimeRange::new(UnixMs(now().0 - DEFAULT_WINDOW_MS), now()),
        (start, end) => window(start, end)?,
    };
    let found = call.state.query(move |store| store.profile_types(&call.tenants, range)).await?;
    Ok(querier::ProfileTypesResponse { profile_types: found.iter().map(profile_type).collect() })
}

fn profile_type(found: &ProfileType) -> types::ProfileType {
    types::ProfileType {
        id: found.to_string(),
        name: found.name.clone(),
        sample_type: found.sample_type.clone(),
        sample_unit: found.sample_unit.clone(),
        period_type: found.period_type.clone(),
        period_unit: found.period_unit.clone(),
    }
}

pub(crate) async fn label_names(
    call: Call<types::LabelNamesRequest>,
) -> Result<types::LabelNamesResponse, ApiError> {
    let range = window(call.message.start, call.message.end)?;
    let selector = all_of(&call.message.matchers)?;
    let mut names = call.state.query(move |store| store.label_names(&call.tenants, &selector, range)).await?;
    names.retain(|name| call.utf8_labels.shows(name));
    Ok(types::LabelNamesResponse { names })
}

pub(crate) async fn label_values(
    call: Call<types::LabelValuesRequest>,
) -> Result<types::LabelValuesResponse, ApiError> {
    let types::LabelValuesRequest { name, matchers, start, end } = call.message;
    if name.is_empty() {
        return Err(ApiError::Missing { what: "name" });
    }
    let range = window(start, end)?;
    let selector = all_of(&matchers)?;
    let names =
        call.state.query(move |store| store.label_values(&call.tenants, &name, &selector, range)).await?;
    Ok(types::LabelValuesResponse { names })
}

pub(crate) async fn series(call: Call<querier::SeriesRequest>) -> Result<querier::SeriesResponse, ApiError> {
    let querier::SeriesRequest { matchers, label_names, start, end } = call.message;
    let range = window(start, end)?;
    let selector = all_of(&matchers)?;
    let utf8_labels = call.utf8_labels;
    let list = move |store: &dyn ProfileStore| {
        let found = store.series(&call.tenants, &selector, range)?;
        let distinct: BTreeSet<LabelSet> = found
            .iter()
            .map(|series| {
                let mut labels = project(series, &label_names);
                let hidden = labels.iter().filter(|label| !utf8_labels.shows(&label.name));
                let hidden: Vec<String> = hidden.map(|label| label.name.clone()).collect();
                for name in hidden {
                    labels.remove(&name);
                }
                labels
            })
            .filter(|labels| !labels.is_empty())
            .collect();
        Ok(distinct.iter().map(|labels| types::Labels { labels: label_pairs(labels) }).collect())
    };
    let labels_set = call.state.query(list).await?;
    Ok(querier::SeriesResponse { labels_set })
}

/// The series' labels by the names given; all of them if none is.
pub(crate) fn project(series: &SeriesKey, names: &[String]) -> LabelSet {
    let value = |name: &str| series.label(name).unwrap_or_default().into_owned();
    if names.is_empty() {
        LabelSet::from_pairs(series.label_names().map(|name| (name, value(name))))
    } else {
        LabelSet::from_pairs(names.iter().map(|name| (name, value(name))))
    }
}

pub(crate) fn label_pairs(labels: &LabelSet) -> Vec<types::LabelPair> {
    let pair = |label: &pyrite_model::Label| types::LabelPair {
        name: label.name.clone(),
        value: label.value.clone(),
    };
    labels.iter().map(pair).collect()
}

pub(crate) async fn profile_stats(
    call: Call<types::GetProfileStatsRequest>,
) -> Result<types::GetProfileStatsResponse, ApiError> {
    let extent = call.state.query(move |store| Ok(store.extent(&call.tenants))).await?;
    Ok(types::GetProfileStatsResponse {
        data_ingested: extent.is_some(),
        oldest_profile_time: extent.map_or(0, |range| range.start.0),
        newest_profile_time: extent.map_or(0, |range| range.end.0),
    })
}

/// Plans of a distributed query; there is nothing to plan here.
pub(crate) async fn analyze_query(
    _call: Call<querier::AnalyzeQueryRequest>,
) -> Result<querier::AnalyzeQueryResponse, ApiError> {
    Ok(querier::AnalyzeQueryResponse {})
}
