//! The embedded store behind the handlers: the same questions, its errors in the API's terms.

use pyrite_model::{Batch, Exposition, ProfileType, Selector, SeriesKey, StackProfile, TimeRange};
use pyrite_store::{AppendError, QueryError, Store};

use crate::ApiError;
use crate::store::{Appending, GroupSeries, ProfileStore, SeriesQuery, StackQuery};

impl ProfileStore for Store {
    fn append(&self, batch: Batch) -> Appending<'_> {
        Box::pin(async move { Ok(Self::append(self, batch).await?) })
    }

    fn profile_types(&self, range: TimeRange) -> Result<Vec<ProfileType>, ApiError> {
        Ok(Self::profile_types(self, range)?)
    }

    fn label_names(&self, selector: &Selector, range: TimeRange) -> Result<Vec<String>, ApiError> {
        Ok(Self::label_names(self, std::slice::from_ref(selector), range)?)
    }

    fn label_values(
        &self,
        name: &str,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<String>, ApiError> {
        Ok(Self::label_values(self, name, std::slice::from_ref(selector), range)?)
    }

    fn series(&self, selector: &Selector, range: TimeRange) -> Result<Vec<SeriesKey>, ApiError> {
        Ok(Self::series(self, std::slice::from_ref(selector), range)?)
    }

    fn merge_stacks(&self, query: &StackQuery) -> Result<StackProfile, ApiError> {
        Ok(Self::merge_stacks(self, &stack_query(query))?)
    }

    fn select_series(&self, query: &SeriesQuery) -> Result<Vec<GroupSeries>, ApiError> {
        let query = pyrite_store::SeriesQuery {
            stacks: stack_query(&query.stacks),
            step_ms: query.step_ms,
            group_by: query.group_by.clone(),
            call_site: query.call_site.clone(),
        };
        let groups = Self::select_series(self, &query)?;
        Ok(groups
            .into_iter()
            .map(|group| GroupSeries { labels: group.labels, points: group.points })
            .collect())
    }

    fn extent(&self) -> Option<TimeRange> {
        let stats = self.stats();
        Some(TimeRange::new(stats.oldest?, stats.newest?))
    }

    fn metrics(&self, out: &mut Exposition) {
        Self::metrics(self, out);
    }
}

fn stack_query(query: &StackQuery) -> pyrite_store::StackQuery {
    let StackQuery { profile_type, selector, range } = query.clone();
    pyrite_store::StackQuery { profile_type, selector, range }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Overloaded { what } => Self::Overloaded { what },
            AppendError::Invalid { .. } | AppendError::TooLarge { .. } => {
                Self::Rejected { reason: error.to_string() }
            }
            // A full disk may have room again, and a store that closes is opened again: worth another try.
            AppendError::DiskFull { .. } | AppendError::Io { .. } | AppendError::Closed => {
                Self::Unavailable { reason: error.to_string() }
            }
        }
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Store(error) => Self::Unavailable { reason: error.to_string() },
            QueryError::BadStep { step_ms } => {
                Self::BadValue { what: "step", expected: "at least 0.001", found: format!("{step_ms} ms") }
            }
            QueryError::TooManyPoints { .. } => Self::Rejected { reason: error.to_string() },
        }
    }
}
