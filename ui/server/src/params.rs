//! The query strings of Pyrite's own API: what an endpoint does not know is refused, and so is what it cannot read.
//!
//! Questions that nobody answers as they were meant are worse than an error, and there are no old clients to be kind to.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use pyrite_model::{ProfileType, RankBy, Selector, Tenants, TimeRange, UnixMs};
use pyrite_store::StackQuery;

use crate::ApiError;
use crate::state::Shared;

/// Rows that an answer has unless it is asked for others, and at most.
const DEFAULT_ROWS: usize = 50;
const MAX_ROWS: usize = 10_000;

/// Those that may be given more than once.
const LISTS: [&str; 2] = ["callSite", "groupBy"];

/// Parameters in the order in which they were given.
pub(crate) struct Params(Vec<(String, String)>);

impl FromRequestParts<Shared> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &Shared) -> Result<Self, ApiError> {
        let bad = |error: axum::extract::rejection::QueryRejection| ApiError::BadValue {
            what: "query string",
            expected: "a list of names and values",
            found: error.to_string(),
        };
        let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(bad)?;
        Ok(Self(given))
    }
}

impl Params {
    /// Whether there are no others than these, each given once unless it is a list.
    pub(crate) fn are(&self, known: &[&str]) -> Result<(), ApiError> {
        let bad = |expected, name: &str| ApiError::BadValue {
            what: "each parameter",
            expected,
            found: name.chars().take(100).collect(),
        };
        for (at, (name, _)) in self.0.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(bad("one that this endpoint has", name));
            }
            if !LISTS.contains(&name.as_str()) && self.0[..at].iter().any(|(before, _)| before == name) {
                return Err(bad("given once", name));
            }
        }
        Ok(())
    }

    /// What was given; nothing where it is absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let given = self.0.iter().find(|(key, value)| key == name && !value.is_empty());
        given.map(|(_, value)| value.as_str())
    }

    /// All that was given of a list.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let given = self.0.iter().filter(move |(key, value)| key == name && !value.is_empty());
        given.map(|(_, value)| value.as_str())
    }

    pub(crate) fn required(&self, name: &'static str) -> Result<&str, ApiError> {
        self.get(name).ok_or(ApiError::Missing { what: name })
    }

    /// What a parameter says; `None` where it is absent.
    pub(crate) fn parsed<T: FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad = || ApiError::BadValue { what: name, expected, found: text.to_owned() };
        text.parse().ok().map(Some).ok_or_else(bad)
    }

    /// How many rows an answer may have.
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        let limit: usize = self.parsed("limit", "a whole number")?.unwrap_or(DEFAULT_ROWS);
        if (1..=MAX_ROWS).contains(&limit) {
            return Ok(limit);
        }
        let expected = "from 1 to 10000";
        Err(ApiError::BadValue { what: "limit", expected, found: limit.to_string() })
    }

    /// One of several words; the first where there is none.
    pub(crate) fn word<T: Copy>(
        &self,
        name: &'static str,
        words: &[(&str, T)],
        expected: &'static str,
    ) -> Result<T, ApiError> {
        let text = self.get(name).unwrap_or(words[0].0);
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meant)| *meant);
        found.ok_or_else(|| ApiError::BadValue { what: name, expected, found: text.to_owned() })
    }

    /// By which value functions are ranked.
    pub(crate) fn order(&self) -> Result<RankBy, ApiError> {
        let words = [("self", RankBy::Own), ("total", RankBy::Total)];
        self.word("order", &words, "self or total")
    }

    /// Which rows: the parameters are called as given here, and `function` and `callSite`.
    pub(crate) fn stacks(
        &self,
        tenants: &Tenants,
        [query, from, until]: [&'static str; 3],
    ) -> Result<StackQuery, ApiError> {
        let (profile_type, selector) = typed(query, self.required(query)?)?;
        let (from, until) = (self.time(from)?, self.time(until)?);
        if from > until {
            return Err(ApiError::Range { start: from.0, end: until.0 });
        }
        let range = TimeRange::new(from, until);
        let mut stacks = StackQuery::new(tenants.clone(), profile_type, selector, range);
        stacks.function = self.get("function").map(str::to_owned);
        stacks.call_site = self.all("callSite").map(str::to_owned).collect();
        Ok(stacks)
    }

    fn time(&self, name: &'static str) -> Result<UnixMs, ApiError> {
        let time = self.parsed(name, "a whole number of milliseconds since 1970")?;
        time.map(UnixMs).ok_or(ApiError::Missing { what: name })
    }
}

/// A profile type id with the selector of its series behind it: `process_cpu:cpu:nanoseconds:cpu:nanoseconds{pod="a"}`.
pub(crate) fn typed(what: &'static str, text: &str) -> Result<(ProfileType, Selector), ApiError> {
    if text.is_empty() {
        return Err(ApiError::Missing { what });
    }
    let mut selector: Selector = text.parse()?;
    let untyped = ApiError::Missing { what: "a profile type id before the selector of the query" };
    let profile_type = selector.take_name().ok_or(untyped)?.parse()?;
    Ok((profile_type, selector))
}
