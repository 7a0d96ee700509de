//! Asking: each query first with the store's files out of the page cache and then warm, each time for another window that is
//! aligned to nothing; every answer is checked against what the recipe appended.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pyrite_bench::figures::quantile;
use pyrite_bench::process::cpu_time;
use pyrite_bench::recipe::{Ledger, PERIOD_NS, Recipe, Second, Span, Window};
use pyrite_model::{Matcher, ProfileType, Selector, Tenants, TimeRange, UnixMs};
use pyrite_store::{SeriesQuery, StackQuery, Store};
use rustix::fs::{Advice, fadvise};

use crate::{Args, Shape};

const MAX_NODES: usize = 8_192;
const STEP_MS: i64 = 15_000;

/// What was appended.
pub(crate) struct Load<'a> {
    pub(crate) store: &'a Store,
    pub(crate) recipe: &'a Recipe,
    pub(crate) span: Span,
    pub(crate) shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Over the last so-manieth part of the span.
    FlameGraphOfAll {
        part: i64,
    },
    FlameGraphOfOne,
    /// First half against second half.
    Diff,
    SeriesByService,
    LabelValues,
}

const QUESTIONS: [Question; 7] = [
    Question::FlameGraphOfAll { part: 1 },
    Question::FlameGraphOfAll { part: 10 },
    Question::FlameGraphOfAll { part: 100 },
    Question::FlameGraphOfOne,
    Question::Diff,
    Question::SeriesByService,
    Question::LabelValues,
];

/// Prints a line for each query.
pub(crate) fn ask_all(load: &Load<'_>, dir: &Path, args: &Args) -> Result<()> {
    let totals = Totals::new(load);
    println!("{:<40} {:>10} {:>10} {:>10} {:>10}", "query", "first", "cold", "warm", "CPU");
    let asked = QUESTIONS.into_iter().filter(|question| question.text(load).contains(&args.query));
    for question in asked {
        let ask = |repetition| -> Result<Duration> {
            let window = question.window(load.span, repetition);
            let begun = Instant::now();
            let found = question.ask(load, window)?;
            let taken = begun.elapsed();
            let expect = question.expect(load, &totals, window);
            ensure!(found == expect, "{}: {found} of {expect}", question.text(load));
            Ok(taken)
        };
        let first = ask(0)?;
        evict(dir)?;
        let cold = ask(1)?;
        let (mut warm, mut cpu) = (Vec::new(), Duration::ZERO);
        for repetition in 2..2 + args.repeats {
            let before = cpu_time(std::process::id())?;
            warm.push(ask(repetition)?);
            cpu += cpu_time(std::process::id())?.saturating_sub(before);
        }
        let figures = [first, cold, quantile(&mut warm, 0.5)?, cpu / args.repeats];
        let [first, cold, warm, cpu] = figures.map(|taken| format!("{:.1} ms", taken.as_secs_f64() * 1e3));
        println!("{:<40} {first:>10} {cold:>10} {warm:>10} {cpu:>10}", question.text(load));
    }
    Ok(())
}

impl Question {
    fn text(self, load: &Load<'_>) -> String {
        let all = load.recipe.containers().len();
        match self {
            Self::FlameGraphOfAll { part: 1 } => format!("flame graph of all {all}"),
            Self::FlameGraphOfAll { part } => format!("flame graph of all {all}, 1/{part} of the time"),
            Self::FlameGraphOfOne => "flame graph of one".to_owned(),
            Self::Diff => format!("diff of halves, all {all}"),
            Self::SeriesByService => "SelectSeries by service, 15 s".to_owned(),
            Self::LabelValues => "LabelValues".to_owned(),
        }
    }

    /// Nearly the whole span, or the last part of it; no row is at the ends.
    fn window(self, span: Span, repetition: u32) -> Window {
        let part = if let Self::FlameGraphOfAll { part } = self { part } else { 1 };
        let start_ms =
            span.end_ms() - i64::from(span.minutes) * 60_000 / part + 17_233 + 1_000 * i64::from(repetition);
        let length = span.end_ms() - 23_417 - start_ms;
        // Whole steps, so that they are the window.
        let length = if self == Self::SeriesByService { length / STEP_MS * STEP_MS } else { length };
        Window { start_ms, end_ms: start_ms + length - 1 }
    }

    /// The sum of the values in the answer, or how many there are.
    fn ask(self, load: &Load<'_>, window: Window) -> Result<i64> {
        let store = load.store;
        match self {
            Self::FlameGraphOfAll { .. } | Self::FlameGraphOfOne => {
                let tree = store.flame_tree([Some(&self.query(load, window))], MAX_NODES)?;
                ensure!(tree.flamebearer().total() == tree.totals()[0], "all of it is drawn");
                Ok(tree.totals()[0])
            }
            Self::Diff => {
                let middle = window.start_ms + (window.end_ms - window.start_ms) / 2;
                let halves = [Window { end_ms: middle, ..window }, Window { start_ms: middle + 1, ..window }];
                let queries = halves.map(|half| self.query(load, half));
                let tree = store.flame_tree(queries.each_ref().map(Some), MAX_NODES)?;
                Ok(tree.flamebearer().total())
            }
            Self::SeriesByService => {
                // The first bucket ends a step behind the start.
                let start_ms = window.start_ms + STEP_MS - 1;
                let stacks = self.query(load, Window { start_ms, ..window });
                let group_by = vec!["service_name".to_owned()];
                let groups = store.select_series(&SeriesQuery { stacks, step_ms: STEP_MS, group_by })?;
                Ok(groups.iter().flat_map(|group| &group.points).map(|(_, value)| value).sum::<i64>())
            }
            Self::LabelValues => {
                let range = TimeRange::new(UnixMs(window.start_ms), UnixMs(window.end_ms));
                Ok(store.label_values(&Tenants::default(), "service_name", &[], range)?.len() as i64)
            }
        }
    }

    fn expect(self, load: &Load<'_>, totals: &Totals, window: Window) -> i64 {
        match self {
            Self::LabelValues => load.recipe.containers().len() as i64,
            Self::FlameGraphOfOne => totals.of_one.in_window(window),
            _ => totals.of_all.in_window(window),
        }
    }

    fn query(self, load: &Load<'_>, window: Window) -> StackQuery {
        let selector = match self {
            Self::FlameGraphOfOne => {
                let service = load.recipe.containers()[load.one()].service();
                Selector::all().with(Matcher::equal("service_name", service))
            }
            _ => Selector::all(),
        };
        let range = TimeRange::new(UnixMs(window.start_ms), UnixMs(window.end_ms));
        StackQuery::new(Tenants::default(), ProfileType::cpu_time(), selector, range)
    }
}

impl Load<'_> {
    /// The container that is asked for by itself.
    fn one(&self) -> usize {
        self.recipe.containers().len() / 2
    }
}

/// What there is by time: each stamp, and the sum of all values up to it.
struct Sums(Vec<(i64, i64)>);

impl Sums {
    fn of(mut values: Vec<(i64, i64)>) -> Self {
        values.sort_unstable();
        let mut sum = 0;
        for (_, value) in &mut values {
            sum += *value;
            *value = sum;
        }
        Self(values)
    }

    fn in_window(&self, window: Window) -> i64 {
        let before = |end: i64| {
            let end = self.0.partition_point(|(stamp, _)| *stamp < end);
            end.checked_sub(1).map_or(0, |last| self.0[last].1)
        };
        before(window.end_ms + 1) - before(window.start_ms)
    }
}

/// What the answers must add up to.
struct Totals {
    of_all: Sums,
    of_one: Sums,
}

impl Totals {
    fn new(load: &Load<'_>) -> Self {
        let one = load.one();
        let of = |containers: std::ops::Range<usize>| match load.shape {
            Shape::Seconds => {
                let value = |n: usize, second| {
                    i64::from(load.recipe.containers()[n].samples_in(Second(second))) * PERIOD_NS
                };
                let stamped = |second: u32| {
                    let stamp = load.span.start_ms + (i64::from(second) + 1) * 1_000;
                    (stamp, containers.clone().map(|n| value(n, second)).sum())
                };
                Sums::of((0..load.span.minutes * 60).map(stamped).collect())
            }
            Shape::Minutes => {
                let ledger = Ledger::new(load.recipe, load.span);
                let ever = Window { start_ms: 0, end_ms: i64::MAX };
                let pushes = containers.clone().flat_map(|n| ledger.pushes(n, ever).to_vec());
                Sums::of(pushes.map(|push| (push.time_ms, push.value_ns)).collect())
            }
        };
        Self { of_all: of(0..load.recipe.containers().len()), of_one: of(one..one + 1) }
    }
}

/// Has the kernel forget what it read of the files below a directory.
fn evict(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            evict(&path)?;
        } else {
            let file = File::open(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
