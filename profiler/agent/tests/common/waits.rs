//! What the threads of `fixtures/workloads/waits.c` have waited for, as the kernel says.

use std::collections::BTreeMap;

/// Seconds that the threads of one name lived, ran, and waited for a CPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Truth {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
    pub(crate) queued: f64,
}

impl Truth {
    /// The rest: seconds that they waited for anything else.
    pub(crate) fn blocked(self) -> f64 {
        self.wall - self.cpu - self.queued
    }
}

/// Reads what the program prints: `NAME wall NS cpu NS queued NS` for each thread.
pub(crate) fn truths(printed: &str) -> BTreeMap<String, Truth> {
    let mut truths = BTreeMap::<String, Truth>::new();
    for line in printed.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let seconds = |at: usize| words[at].parse::<f64>().expect("nanoseconds") / 1e9;
        let truth = truths.entry(words[0].to_owned()).or_default();
        truth.wall += seconds(2);
        truth.cpu += seconds(4);
        truth.queued += seconds(6);
    }
    truths
}
