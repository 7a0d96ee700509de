//! What the handlers need of a store. The embedded one is [`pyrite_store::Store`]; tests bring a naive one in memory.

use std::future::Future;
use std::pin::Pin;

use pyrite_model::{
    Batch, Exposition, LabelSet, ProfileType, Selector, SeriesKey, StackProfile, TimeRange, UnixMs,
};

use crate::ApiError;

/// An append under way; done when the batch is on disk and visible to queries.
pub type Appending<'a> = Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send + 'a>>;

/// Which stacks to add up.
#[derive(Clone, Debug)]
pub struct StackQuery {
    /// What was counted.
    pub profile_type: ProfileType,
    /// In which series.
    pub selector: Selector,
    /// When, both ends included.
    pub range: TimeRange,
}

/// Which rows to add up over time.
#[derive(Clone, Debug)]
pub struct SeriesQuery {
    /// Which rows.
    pub stacks: StackQuery,
    /// Width of a bucket in milliseconds. Buckets end at `start + k * step`, the end included.
    pub step_ms: i64,
    /// Labels whose values make a series of their own.
    pub group_by: Vec<String>,
    /// Names of the first frames, root first, that a stack must have; all stacks if empty.
    pub call_site: Vec<String>,
}

/// One line of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSeries {
    /// The labels that were grouped by, where the series have them.
    pub labels: LabelSet,
    /// The end of each bucket that has rows, and their sum.
    pub points: Vec<(UnixMs, i64)>,
}

/// A store of profiles. All but `append` block and are called on threads made for that.
pub trait ProfileStore: Send + Sync + 'static {
    /// Stores a batch.
    fn append(&self, batch: Batch) -> Appending<'_>;
    /// The profile types with rows in the window, sorted by id.
    fn profile_types(&self, range: TimeRange) -> Result<Vec<ProfileType>, ApiError>;
    /// Names of stored and synthetic labels, sorted bytewise.
    fn label_names(&self, selector: &Selector, range: TimeRange) -> Result<Vec<String>, ApiError>;
    /// Values of one label, sorted bytewise.
    fn label_values(
        &self,
        name: &str,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<String>, ApiError>;
    /// The series with rows in the window.
    fn series(&self, selector: &Selector, range: TimeRange) -> Result<Vec<SeriesKey>, ApiError>;
    /// One value per stack.
    fn merge_stacks(&self, query: &StackQuery) -> Result<StackProfile, ApiError>;
    /// One value per group and bucket, largest group first.
    fn select_series(&self, query: &SeriesQuery) -> Result<Vec<GroupSeries>, ApiError>;
    /// First and last time of any row; `None` while there is none.
    fn extent(&self) -> Option<TimeRange>;
    /// Adds the store's own metrics.
    fn metrics(&self, out: &mut Exposition);
}
