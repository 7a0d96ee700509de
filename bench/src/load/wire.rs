//! The messages of Pyroscope's public contract that are sent and read here; names and numbers are its own. Times are Unix
//! milliseconds.

/// `push.v1.PushRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) series: Vec<RawProfileSeries>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RawProfileSeries {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    pub(super) samples: Vec<RawSample>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RawSample {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) raw_profile: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LabelPair {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// `querier.v1.SelectMergeStacktracesRequest`; the first five fields of `SelectMergeProfileRequest` are the same.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MergeRequest {
    #[prost(string, tag = "1")]
    pub(super) profile_type_id: String,
    #[prost(string, tag = "2")]
    pub(super) label_selector: String,
    #[prost(int64, tag = "3")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    pub(super) end: i64,
    #[prost(int64, optional, tag = "5")]
    pub(super) max_nodes: Option<i64>,
}

/// `querier.v1.SelectMergeStacktracesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MergeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) flamegraph: Option<FlameGraph>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FlameGraph {
    #[prost(string, repeated, tag = "1")]
    pub(super) names: Vec<String>,
    /// Of nodes of four numbers: offset, total, self, name.
    #[prost(message, repeated, tag = "2")]
    pub(super) levels: Vec<Level>,
    #[prost(int64, tag = "3")]
    pub(super) total: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Level {
    #[prost(int64, repeated, tag = "1")]
    pub(super) values: Vec<i64>,
}

/// `querier.v1.DiffRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DiffRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) left: Option<MergeRequest>,
    #[prost(message, optional, tag = "2")]
    pub(super) right: Option<MergeRequest>,
}

/// `querier.v1.DiffResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DiffResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) flamegraph: Option<FlameGraphDiff>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FlameGraphDiff {
    #[prost(string, repeated, tag = "1")]
    pub(super) names: Vec<String>,
    /// Of nodes of seven numbers: offset, total and self of either side, name.
    #[prost(message, repeated, tag = "2")]
    pub(super) levels: Vec<Level>,
    #[prost(int64, tag = "3")]
    pub(super) total: i64,
    #[prost(int64, tag = "5")]
    pub(super) left_ticks: i64,
    #[prost(int64, tag = "6")]
    pub(super) right_ticks: i64,
}

/// `querier.v1.SelectSeriesRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SeriesRequest {
    #[prost(string, tag = "1")]
    pub(super) profile_type_id: String,
    #[prost(string, tag = "2")]
    pub(super) label_selector: String,
    #[prost(int64, tag = "3")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    pub(super) end: i64,
    #[prost(string, repeated, tag = "5")]
    pub(super) group_by: Vec<String>,
    /// Seconds.
    #[prost(double, tag = "6")]
    pub(super) step: f64,
}

/// `querier.v1.SelectSeriesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SeriesResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) series: Vec<Series>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Series {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    pub(super) points: Vec<Point>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Point {
    #[prost(double, tag = "1")]
    pub(super) value: f64,
    #[prost(int64, tag = "2")]
    pub(super) timestamp: i64,
}

/// `types.v1.LabelValuesRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LabelValuesRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) matchers: Vec<String>,
    #[prost(int64, tag = "3")]
    pub(super) start: i64,
    #[prost(int64, tag = "4")]
    pub(super) end: i64,
}

/// `types.v1.LabelValuesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LabelValuesResponse {
    #[prost(string, repeated, tag = "1")]
    pub(super) names: Vec<String>,
}
