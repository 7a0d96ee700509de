//! What the server counts about itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pyrite_model::Exposition;
use pyrite_model::pprof::Appended;

/// The server's counters. Label values come from fixed sets, so their number is bounded.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    rejected: Mutex<BTreeMap<&'static str, u64>>,
    refused_queries: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) profiles: AtomicU64,
    pub(crate) rows: AtomicU64,
    timed_out_connections: AtomicU64,
    negative_samples: AtomicU64,
    truncated_stacks: AtomicU64,
}

impl Counters {
    pub(crate) fn request(&self, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// A push that was not stored, by reason.
    pub(crate) fn rejected(&self, reason: &'static str) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// A connection whose client sent or took nothing for too long.
    pub(crate) fn connection_timed_out(&self) {
        self.timed_out_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A query that did not get its turn, by reason.
    pub(crate) fn refused_query(&self, reason: &'static str) {
        let mut refused = self.refused_queries.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(reason).or_default() += 1;
    }

    /// Profiles that were stored.
    pub(crate) fn stored(&self, profiles: u64, appended: Appended) {
        self.profiles.fetch_add(profiles, Ordering::Relaxed);
        self.rows.fetch_add(appended.rows as u64, Ordering::Relaxed);
        self.negative_samples.fetch_add(appended.negative_samples as u64, Ordering::Relaxed);
        self.truncated_stacks.fetch_add(appended.truncated_stacks as u64, Ordering::Relaxed);
    }

    pub(crate) fn metrics(&self, out: &mut Exposition) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((route, status), &count) in &*requests {
            let labels = [("route", route.as_str()), ("status", &status.to_string())];
            out.counter("pyrite_http_requests_total", "HTTP requests answered.", &labels, count as f64);
        }
        let rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        for (reason, &count) in &*rejected {
            let help = "Pushes that were not stored, by reason.";
            out.counter("pyrite_push_rejected_total", help, &[("reason", reason)], count as f64);
        }
        let refused = self.refused_queries.lock().unwrap_or_else(PoisonError::into_inner);
        for (reason, &count) in &*refused {
            let help = "Queries that did not get their turn, by reason.";
            out.counter("pyrite_http_queries_refused_total", help, &[("reason", reason)], count as f64);
        }
        for (name, help, value) in [
            (
                "pyrite_http_connections_timed_out_total",
                "Connections closed because for too long no request came or nothing of an answer was taken.",
                &self.timed_out_connections,
            ),
            ("pyrite_push_profiles_total", "Pushed profiles that were stored.", &self.profiles),
            ("pyrite_push_rows_total", "Rows of pushed profiles that were stored.", &self.rows),
            (
                "pyrite_push_negative_samples_total",
                "Pushed samples left out because a value was negative.",
                &self.negative_samples,
            ),
            (
                "pyrite_push_truncated_stacks_total",
                "Pushed stack traces that were too deep and lost their leaf side.",
                &self.truncated_stacks,
            ),
        ] {
            out.counter(name, help, &[], value.load(Ordering::Relaxed) as f64);
        }
    }
}
