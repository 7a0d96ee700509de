//! What a span of pushes holds in any window: found from the numbers of samples alone, without drawing one stack, so
//! that it is a second opinion on what was pushed.

use crate::recipe::Recipe;
use crate::recipe::container::Minute;

/// The stretch of time that is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When the load began, in Unix milliseconds.
    pub start_ms: i64,
    /// How long it goes on.
    pub minutes: u32,
}

impl Span {
    /// Its minutes.
    pub fn each_minute(self) -> impl Iterator<Item = Minute> {
        (0..self.minutes).map(Minute)
    }

    /// The first instant behind it, in Unix milliseconds.
    pub fn end_ms(self) -> i64 {
        self.start_ms + i64::from(self.minutes) * 60_000
    }
}

/// A query's window in Unix milliseconds, both ends inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first instant.
    pub start_ms: i64,
    /// Its last.
    pub end_ms: i64,
}

/// One profile that a container pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The minute that it is of.
    pub minute: Minute,
    /// Its time stamp in Unix milliseconds.
    pub time_ms: i64,
    /// The sum of its values.
    pub value_ns: i64,
}

/// All pushes of a span.
pub struct Ledger {
    /// By container, in order of time.
    containers: Vec<Vec<Pushed>>,
}

impl Ledger {
    /// The pushes of all containers of a recipe.
    pub fn new(recipe: &Recipe, span: Span) -> Self {
        let of = |container: &super::Container| {
            let pushed = |minute| {
                let time_ms = span.start_ms + container.pushed_at_ms(minute);
                Pushed { minute, time_ms, value_ns: container.minute_ns(minute) }
            };
            span.each_minute().map(pushed).collect()
        };
        Self { containers: recipe.containers().iter().map(of).collect() }
    }

    /// The pushes of one container in a window.
    ///
    /// # Panics
    /// Where the recipe has no such container.
    pub fn pushes(&self, container: usize, window: Window) -> &[Pushed] {
        let all = &self.containers[container];
        let first = all.partition_point(|push| push.time_ms < window.start_ms);
        let end = all.partition_point(|push| push.time_ms <= window.end_ms);
        &all[first..end.max(first)]
    }

    /// The CPU time that one container pushed in a window.
    ///
    /// # Panics
    /// Where the recipe has no such container.
    pub fn total_ns(&self, container: usize, window: Window) -> i64 {
        self.pushes(container, window).iter().map(|push| push.value_ns).sum()
    }

    /// The CPU time that all containers pushed in a window.
    pub fn grand_total_ns(&self, window: Window) -> i64 {
        (0..self.containers.len()).map(|container| self.total_ns(container, window)).sum()
    }
}
