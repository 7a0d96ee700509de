//! The fields that most queries share: window, selector, profile type, node limit.

use pyrite_model::{Selector, TimeRange, UnixMs};

use crate::ApiError;

/// How many nodes a flame graph has unless the client says otherwise.
const DEFAULT_MAX_NODES: usize = 8192;
/// The most it may ask for.
const MAX_NODES: i64 = 1_048_576;

/// The window from `start` to `end`, Unix milliseconds. Zero is what an absent field decodes to, so it is an error.
pub(crate) fn window(start: i64, end: i64) -> Result<TimeRange, ApiError> {
    match (start, end) {
        (0, _) => Err(ApiError::Missing { what: "start" }),
        (_, 0) => Err(ApiError::Missing { what: "end" }),
        (start, end) if start > end => Err(ApiError::Range { start, end }),
        (start, end) => Ok(TimeRange::new(UnixMs(start), UnixMs(end))),
    }
}

/// One selector that means all of `matchers` together; no matcher matches everything.
pub(crate) fn all_of(matchers: &[String]) -> Result<Selector, ApiError> {
    let mut all = Selector::all();
    for text in matchers {
        let selector: Selector = text.parse()?;
        all = selector.matchers().iter().cloned().fold(all, Selector::with);
    }
    Ok(all)
}

/// The node limit of a flame graph.
pub(crate) fn max_nodes(asked: Option<i64>) -> Result<usize, ApiError> {
    match asked.unwrap_or(0) {
        0 => Ok(DEFAULT_MAX_NODES),
        nodes @ 1..=MAX_NODES => Ok(nodes as usize),
        nodes => Err(ApiError::BadValue {
            what: "max_nodes",
            expected: "between 0 and 1048576",
            found: nodes.to_string(),
        }),
    }
}
