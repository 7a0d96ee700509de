//! The queries: what is asked, how long the answer takes, and that it is right.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prost::Message;

use crate::figures::quantile;
use crate::load::client::Client;
use crate::load::wire::{
    DiffRequest, DiffResponse, LabelValuesRequest, LabelValuesResponse, MergeRequest, MergeResponse,
    SeriesRequest, SeriesResponse,
};
use crate::load::{Load, check};
use crate::recipe::{Container, Profile, TICK_MS, Window};

const PROFILE_TYPE: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
const MAX_NODES: i64 = 8_192;
/// A slow query is repeated at least so often, and no more than for so long.
const LEAST_REPEATS: u32 = 5;
const LONGEST: Duration = Duration::from_secs(30);

/// A query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    FlameGraphOfAll,
    FlameGraphOfOne,
    /// First half against second half.
    Diff,
    SeriesByService {
        step_s: i64,
    },
    LabelValues,
    PprofOfOne,
}

/// All of them, in the order in which they are asked.
pub(super) const QUESTIONS: [Question; 7] = [
    Question::FlameGraphOfAll,
    Question::FlameGraphOfOne,
    Question::Diff,
    Question::SeriesByService { step_s: 15 },
    Question::SeriesByService { step_s: 60 },
    Question::LabelValues,
    Question::PprofOfOne,
];

/// How long a query took.
#[derive(Clone, Debug)]
pub(super) struct Timing {
    pub(super) question: String,
    /// The first time that it was asked.
    pub(super) first: Duration,
    /// The median of all other times.
    pub(super) warm: Duration,
    /// The size of the last answer.
    pub(super) answer_bytes: usize,
}

/// Asks once and then `repeats` times, each time for another window, and checks every answer.
pub(super) async fn ask(client: &Client, load: &Load, question: Question, repeats: u32) -> Result<Timing> {
    let begun = Instant::now();
    let (mut taken, mut answer_bytes) = (Vec::new(), 0);
    for repetition in 0..=repeats {
        if repetition > LEAST_REPEATS && begun.elapsed() > LONGEST {
            break;
        }
        let window = load.window(repetition);
        let (method, message) = question.request(load, window);
        let asked = Instant::now();
        let answer = client.call(method, message.into()).await?.success()?;
        taken.push(asked.elapsed());
        answer_bytes = answer.len();
        question.check(load, window, &answer)?;
        if repetition == 0 && question == Question::PprofOfOne {
            check::stacks(&Profile::decode(answer)?, &load.stacks_of(load.one().0, window))?;
        }
    }
    let first = taken[0];
    let warm = if taken.len() > 1 { quantile(&mut taken[1..], 0.5)? } else { first };
    Ok(Timing { question: question.describe(load), first, warm, answer_bytes })
}

impl Question {
    /// What it asks, for a person to read.
    pub(super) fn describe(self, load: &Load) -> String {
        let all = load.recipe.containers().len();
        match self {
            Self::FlameGraphOfAll => format!("flame graph of all {all}"),
            Self::FlameGraphOfOne => "flame graph of one".to_owned(),
            Self::Diff => format!("diff of halves, all {all}"),
            Self::SeriesByService { step_s } => format!("SelectSeries by service, {step_s} s"),
            Self::LabelValues => "LabelValues".to_owned(),
            Self::PprofOfOne => "pprof of one".to_owned(),
        }
    }

    /// The method and its message.
    fn request(self, load: &Load, window: Window) -> (&'static str, Vec<u8>) {
        let merge = |of: Option<&Container>, window: Window| MergeRequest {
            profile_type_id: PROFILE_TYPE.to_owned(),
            label_selector: load.selector(of),
            start: window.start_ms,
            end: window.end_ms,
            max_nodes: Some(MAX_NODES),
        };
        let Window { start_ms: start, end_ms: end } = window;
        match self {
            Self::FlameGraphOfAll => (MERGE, merge(None, window).encode_to_vec()),
            Self::FlameGraphOfOne => (MERGE, merge(Some(load.one().1), window).encode_to_vec()),
            Self::Diff => {
                let [left, right] = halves(window).map(|half| Some(merge(None, half)));
                ("querier.v1.QuerierService/Diff", DiffRequest { left, right }.encode_to_vec())
            }
            Self::SeriesByService { step_s } => {
                let request = SeriesRequest {
                    profile_type_id: PROFILE_TYPE.to_owned(),
                    label_selector: load.selector(None),
                    start,
                    end,
                    group_by: vec!["service_name".to_owned()],
                    step: step_s as f64,
                };
                ("querier.v1.QuerierService/SelectSeries", request.encode_to_vec())
            }
            Self::LabelValues => {
                let matchers = vec![load.selector(None)];
                let request = LabelValuesRequest { name: "service_name".to_owned(), matchers, start, end };
                ("querier.v1.QuerierService/LabelValues", request.encode_to_vec())
            }
            Self::PprofOfOne => {
                // A pprof is whole: a limit on nodes is for flame graphs.
                let request = MergeRequest { max_nodes: None, ..merge(Some(load.one().1), window) };
                ("querier.v1.QuerierService/SelectMergeProfile", request.encode_to_vec())
            }
        }
    }

    /// Holds an answer to what was pushed.
    fn check(self, load: &Load, window: Window, answer: &[u8]) -> Result<()> {
        let of_all = |window| load.ledger.grand_total_ns(window);
        let of_one = || load.ledger.total_ns(load.one().0, window);
        match self {
            Self::FlameGraphOfAll => check::flame_graph(&flame_graph(answer)?, of_all(window)),
            Self::FlameGraphOfOne => check::flame_graph(&flame_graph(answer)?, of_one()),
            Self::Diff => {
                let graph =
                    DiffResponse::decode(answer)?.flamegraph.context("an answer without a flame graph")?;
                check::diff(&graph, halves(window).map(of_all))
            }
            Self::SeriesByService { step_s } => {
                check::series(&SeriesResponse::decode(answer)?, &points(load, window, step_s * 1000))
            }
            Self::LabelValues => {
                let mut expect: Vec<&str> = load.recipe.containers().iter().map(Container::service).collect();
                expect.sort_unstable();
                let found = LabelValuesResponse::decode(answer)?.names;
                ensure!(found == expect, "{} services, not {}: {found:?}", found.len(), expect.len());
                Ok(())
            }
            Self::PprofOfOne => check::total(&Profile::decode(answer)?, of_one()),
        }
    }
}

const MERGE: &str = "querier.v1.QuerierService/SelectMergeStacktraces";

fn flame_graph(answer: &[u8]) -> Result<super::wire::FlameGraph> {
    MergeResponse::decode(answer)?.flamegraph.context("an answer without a flame graph")
}

/// The two halves of a window; like its ends, the middle is where no push is.
fn halves(window: Window) -> [Window; 2] {
    let middle = window.start_ms + (window.end_ms - window.start_ms) / 2 / TICK_MS * TICK_MS;
    [Window { end_ms: middle, ..window }, Window { start_ms: middle, ..window }]
}

/// By service and time stamp what `SelectSeries` must answer: the bucket stamped start + k·step holds what is later than
/// the stamp before and not later than its own; the last stamp is the last that is not after the end.
fn points(load: &Load, window: Window, step_ms: i64) -> BTreeMap<&str, BTreeMap<i64, i64>> {
    let last = (window.end_ms - window.start_ms) / step_ms;
    let covered =
        Window { start_ms: window.start_ms - step_ms + 1, end_ms: window.start_ms + last * step_ms };
    let mut by_service: BTreeMap<&str, BTreeMap<i64, i64>> = BTreeMap::new();
    for (n, container) in load.recipe.containers().iter().enumerate() {
        for push in load.ledger.pushes(n, covered) {
            let since = push.time_ms - window.start_ms + step_ms - 1;
            let stamp = window.start_ms + since.div_euclid(step_ms) * step_ms;
            *by_service.entry(container.service()).or_default().entry(stamp).or_default() += push.value_ns;
        }
    }
    by_service
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Span;

    fn load(minutes: u32) -> Load {
        Load::new(1, 6, Span { start_ms: 1_700_000_000_000, minutes })
    }

    /// The definition, bucket by bucket, against the arithmetic above.
    #[test]
    fn buckets_are_closed_on_the_right() {
        let load = load(20);
        for (repetition, step_ms) in [(0, 15_000), (3, 60_000), (7, 7_000)] {
            let window = load.window(repetition);
            let found = points(&load, window, step_ms);
            let stamps =
                (0..).map(|k| window.start_ms + k * step_ms).take_while(|stamp| *stamp <= window.end_ms);
            let mut expect: BTreeMap<&str, BTreeMap<i64, i64>> = BTreeMap::new();
            for stamp in stamps {
                let bucket = Window { start_ms: stamp - step_ms + 1, end_ms: stamp };
                for (n, container) in load.recipe.containers().iter().enumerate() {
                    let value = load.ledger.total_ns(n, bucket);
                    if value > 0 {
                        expect.entry(container.service()).or_default().insert(stamp, value);
                    }
                }
            }
            assert_eq!(found, expect);
            assert!(found.values().map(BTreeMap::len).sum::<usize>() > 100);
        }
    }

    #[test]
    fn no_push_is_at_the_end_of_a_window() {
        let load = load(60);
        for window in (0..50).flat_map(|n| [load.window(n)].into_iter().chain(halves(load.window(n)))) {
            assert!(window.start_ms < window.end_ms);
            for end in [window.start_ms, window.end_ms] {
                let near = Window { start_ms: end - 2, end_ms: end + 2 };
                assert_eq!(load.ledger.grand_total_ns(near), 0, "{window:?}");
            }
        }
        let [left, right] = halves(load.window(0));
        let sum = load.ledger.grand_total_ns(left) + load.ledger.grand_total_ns(right);
        assert_eq!(sum, load.ledger.grand_total_ns(load.window(0)));
    }
}
