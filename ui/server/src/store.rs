//! What the handlers need of a store. The embedded one is [`Store`]; tests bring a naive one in
//! memory, and a database that many nodes share can be another.

use std::future::Future;
use std::pin::Pin;
use std::slice;
use std::sync::Arc;

use pyrite_model::{
    Batch, Exposition, FlameTree, ProfileType, Selector, SeriesKey, StackProfile, Tenants, TimeRange,
};
use pyrite_store::{
    AppendError, GroupSeries, QueryError, QueryStatus, SeriesProfiles, SeriesQuery, StackQuery, Stop, Store,
};

use crate::ApiError;
use crate::error::chain;

/// An append under way; done when the batch is on disk and visible to queries.
pub type Appending<'a> = Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send + 'a>>;

/// A store of profiles, those of each tenant by themselves: what a tenant is told is made of its own rows. All but `append` block and are called on threads made for that.
pub trait ProfileStore: Send + Sync + 'static {
    /// Stores a batch.
    fn append(&self, batch: Batch) -> Appending<'_>;
    /// The store for one query, which gives up with an error soon after `stop` says so.
    fn on_behalf(self: Arc<Self>, stop: Stop) -> Arc<dyn ProfileStore>;
    /// What the queries under way are at, the oldest first.
    fn queries(&self) -> Vec<QueryStatus>;
    /// The profile types with rows in the window, sorted by id.
    fn profile_types(&self, tenants: &Tenants, range: TimeRange) -> Result<Vec<ProfileType>, ApiError>;
    /// Names of stored and synthetic labels, sorted bytewise.
    fn label_names(
        &self,
        tenants: &Tenants,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<String>, ApiError>;
    /// Values of one label, sorted bytewise.
    fn label_values(
        &self,
        tenants: &Tenants,
        name: &str,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<String>, ApiError>;
    /// The series with rows in the window.
    fn series(
        &self,
        tenants: &Tenants,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<SeriesKey>, ApiError>;
    /// One value per stack.
    fn merge_stacks(&self, query: &StackQuery) -> Result<StackProfile, ApiError>;
    /// The flame tree of one query.
    fn flame_tree(&self, query: &StackQuery, max_nodes: usize) -> Result<FlameTree, ApiError>;
    /// Two queries side by side, the baseline first; a side without a query is empty.
    fn flame_diff(&self, sides: [Option<&StackQuery>; 2], max_nodes: usize)
    -> Result<FlameTree<2>, ApiError>;
    /// One value per group and bucket, largest group first.
    fn select_series(&self, query: &SeriesQuery) -> Result<Vec<GroupSeries>, ApiError>;
    /// The profiles of each series, sorted by labels.
    fn profiles(&self, query: &StackQuery) -> Result<Vec<SeriesProfiles>, ApiError>;
    /// First and last time of any row of theirs; `None` while there is none.
    fn extent(&self, tenants: &Tenants) -> Option<TimeRange>;
    /// Adds the store's own metrics.
    fn metrics(&self, out: &mut Exposition);
}

// `Self::name` is the store's own method: inherent ones come before those of a trait.
impl ProfileStore for Store {
    fn append(&self, batch: Batch) -> Appending<'_> {
        Box::pin(async move { Ok(Self::append(self, batch).await?) })
    }

    fn on_behalf(self: Arc<Self>, stop: Stop) -> Arc<dyn ProfileStore> {
        Arc::new(Self::on_behalf(&self, stop))
    }

    fn queries(&self) -> Vec<QueryStatus> {
        Self::queries(self)
    }

    fn profile_types(&self, tenants: &Tenants, range: TimeRange) -> Result<Vec<ProfileType>, ApiError> {
        Ok(Self::profile_types(self, tenants, range)?)
    }

    fn label_names(
        &self,
        tenants: &Tenants,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<String>, ApiError> {
        Ok(Self::label_names(self, tenants, slice::from_ref(selector), range)?)
    }

    fn label_values(
        &self,
        tenants: &Tenants,
        name: &str,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<String>, ApiError> {
        Ok(Self::label_values(self, tenants, name, slice::from_ref(selector), range)?)
    }

    fn series(
        &self,
        tenants: &Tenants,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<SeriesKey>, ApiError> {
        Ok(Self::series(self, tenants, slice::from_ref(selector), range)?)
    }

    fn merge_stacks(&self, query: &StackQuery) -> Result<StackProfile, ApiError> {
        Ok(Self::merge_stacks(self, query)?)
    }

    fn flame_tree(&self, query: &StackQuery, max_nodes: usize) -> Result<FlameTree, ApiError> {
        Ok(Self::flame_tree(self, [Some(query)], max_nodes)?)
    }

    fn flame_diff(
        &self,
        sides: [Option<&StackQuery>; 2],
        max_nodes: usize,
    ) -> Result<FlameTree<2>, ApiError> {
        Ok(Self::flame_tree(self, sides, max_nodes)?)
    }

    fn select_series(&self, query: &SeriesQuery) -> Result<Vec<GroupSeries>, ApiError> {
        Ok(Self::select_series(self, query)?)
    }

    fn profiles(&self, query: &StackQuery) -> Result<Vec<SeriesProfiles>, ApiError> {
        Ok(Self::profiles(self, query)?)
    }

    fn extent(&self, tenants: &Tenants) -> Option<TimeRange> {
        Self::extent(self, tenants)
    }

    fn metrics(&self, out: &mut Exposition) {
        Self::metrics(self, out);
    }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        let reason = chain(&error);
        match error {
            AppendError::Overloaded { what } => Self::Overloaded { what },
            AppendError::TooManySeries { .. } => {
                Self::Overloaded { what: "the store holds as many series as it may" }
            }
            AppendError::TooManyTenants { .. } => {
                Self::Overloaded { what: "the store holds data of as many tenants as it may" }
            }
            AppendError::DiskFull { .. } | AppendError::Io { .. } | AppendError::Closed => {
                Self::Unavailable { reason }
            }
            AppendError::Invalid { .. } | AppendError::TooLarge { .. } => Self::Rejected { reason },
        }
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let reason = chain(&error);
        match error {
            QueryError::Store(_) => Self::Unavailable { reason },
            QueryError::BadStep { .. }
            | QueryError::TooManyPoints { .. }
            | QueryError::TooManyProfiles { .. }
            | QueryError::TooManyToCompare { .. } => Self::Unanswerable { reason },
            QueryError::Cancelled => Self::Canceled,
            QueryError::TimedOut { .. } => Self::TimedOut { reason },
            QueryError::TooMuchMemory { .. } => Self::Exhausted { reason, passes: false },
            QueryError::MemoryTaken { .. } => Self::Exhausted { reason, passes: true },
        }
    }
}
