//! Comparisons by each measure, against the same on fractions.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::{Folded, brute_force_by, diff, folded, folded_of, paths};
use crate::{Comparison, Measure, RankBy, TimeRange, UnixMs};

fn window(start: i64, seconds: i64) -> TimeRange {
    // Both ends are inside.
    TimeRange::new(UnixMs(start + 1), UnixMs(start + seconds * 1000))
}

fn requests(counts: [u32; 2]) -> Measure {
    Measure::Request(counts.map(|count| NonZeroU32::new(count).unwrap()))
}

fn times(stacks: &Folded, factor: i64) -> Folded {
    stacks.iter().map(|(stack, value)| (stack.clone(), value * factor)).collect()
}

/// Name, own and total change, of all functions.
fn changes(left: &Folded, right: &Folded, measure: Measure) -> Vec<(String, f64, f64)> {
    let comparison = Comparison::new(diff(left, right, 0), measure);
    assert_eq!(comparison.measure(), measure);
    let changed = comparison.most_changed(100, RankBy::Own);
    changed.into_iter().map(|change| (change.values.name, change.own, change.total)).collect()
}

#[test]
fn each_measure_says_what_it_is_about() {
    let left = folded_of(&[("a", 600), ("a;b", 300), ("c", 100)]);
    // In half the time twice as many requests, of which c takes more.
    let right = folded_of(&[("a", 600), ("a;b", 300), ("c", 300)]);
    let row = |name: &str, own: f64, total: f64| (name.to_owned(), own, total);
    let by_total = changes(&left, &right, Measure::Total);
    assert_eq!(by_total, [row("c", 200.0, 200.0), row("a", 0.0, 0.0), row("b", 0.0, 0.0)]);
    let rate = Measure::Rate([window(0, 100), window(700, 50)]);
    assert_eq!(changes(&left, &right, rate), [row("a", 6.0, 9.0), row("c", 5.0, 5.0), row("b", 3.0, 3.0)]);
    let by_share = changes(&left, &right, Measure::Share);
    assert_eq!(by_share, [row("c", 0.15, 0.15), row("a", -0.1, -0.15), row("b", -0.05, -0.05)]);
    let by_request = changes(&left, &right, requests([100, 200]));
    assert_eq!(by_request, [row("a", -3.0, -4.5), row("b", -1.5, -1.5), row("c", 0.5, 0.5)]);
}

#[test]
fn divisors_turn_values_into_the_measure() {
    let tree = diff(&folded_of(&[("a", 600)]), &folded_of(&[("a", 200)]), 0);
    for (measure, name, divisors) in [
        (Measure::Total, "total", [1.0, 1.0]),
        (Measure::Rate([window(5, 10), window(0, 2)]), "rate", [10.0, 2.0]),
        (Measure::Share, "share", [600.0, 200.0]),
        (requests([3, 7]), "request", [3.0, 7.0]),
    ] {
        let comparison = Comparison::new(tree.clone(), measure);
        assert_eq!((comparison.measure().name(), comparison.divisors()), (name, divisors));
        assert_eq!(comparison.totals(), [600, 200]);
    }
}

#[test]
fn a_side_without_values_and_windows_at_the_ends_of_time_are_answered() {
    let some = folded_of(&[("a;b", 10), ("c", 30)]);
    let none = Folded::new();
    assert_eq!(changes(&none, &some, Measure::Share)[0], ("c".to_owned(), 0.75, 0.75));
    assert_eq!(changes(&some, &none, Measure::Share)[0], ("c".to_owned(), -0.75, -0.75));
    assert!(changes(&none, &none, Measure::Share).is_empty());
    let all = TimeRange::new(UnixMs(i64::MIN), UnixMs(i64::MAX));
    let instant = TimeRange::new(UnixMs(7), UnixMs(7));
    let huge = folded_of(&[("a", i64::MAX)]);
    let changed = &changes(&huge, &huge, Measure::Rate([all, instant]))[0];
    assert!(changed.1 > 9e21 && changed.1.is_finite(), "{}", changed.1);
    let comparison = Comparison::new(diff(&some, &none, 0), Measure::Share);
    assert_eq!(comparison.cut(1).totals(), [40, 0]);
}

#[test]
fn the_smaller_side_is_drawn_by_its_share() {
    let left = folded_of(&[("a", 1_000_000), ("b", 1_000_000)]);
    let right = folded_of(&[("c", 2), ("d", 1)]);
    let names = |measure: Measure, nodes: usize| {
        Comparison::new(diff(&left, &right, 0), measure).cut(nodes).flamebearer().names
    };
    assert_eq!(names(Measure::Total, 2), ["total", "other", "b", "a"]);
    assert_eq!(names(Measure::Share, 2), ["total", "other", "c"]);
}

proptest! {
    #[test]
    fn uniform_growth_shows_by_rate_and_vanishes_by_share_and_request(
        stacks in folded(),
        factor in 2..1000_i64,
    ) {
        let grown = times(&stacks, factor);
        let of_all = |measure| changes(&stacks, &grown, measure);
        let windows = [window(0, 60), window(60, 60)];
        prop_assert!(of_all(Measure::Rate(windows)).iter().all(|(_, _, total)| *total > 0.0));
        prop_assert!(of_all(Measure::Total).iter().all(|(_, _, total)| *total > 0.0));
        let same_load = of_all(Measure::Rate([window(0, 60), window(60, 60 * factor)]));
        let per_request = of_all(requests([7, 7 * factor as u32]));
        for nothing in [of_all(Measure::Share), same_load, per_request] {
            prop_assert!(nothing.iter().all(|(_, own, total)| (*own, *total) == (0.0, 0.0)), "{:?}", nothing);
        }
    }

    #[test]
    fn drawn_are_the_nodes_that_are_largest_by_the_measure(
        left in folded(),
        right in folded(),
        counts in [1..9_u32, 1..9_u32],
        max_nodes in 1..40_usize,
    ) {
        let comparison = Comparison::new(diff(&left, &right, 0), requests(counts));
        // Eighths and sevenths have a common denominator.
        let rank = |totals: [i64; 2]| (totals[0] * 2520 / i64::from(counts[0])).max(totals[1] * 2520 / i64::from(counts[1]));
        prop_assert_eq!(paths(&comparison.cut(max_nodes)), brute_force_by([&left, &right], max_nodes, rank));
        let whole = Comparison::new(diff(&left, &right, 0), Measure::Total);
        let expected = diff(&left, &right, max_nodes).flamebearer();
        prop_assert_eq!(whole.cut(max_nodes).flamebearer(), expected);
    }

    #[test]
    fn the_most_changed_come_first(
        left in folded(),
        right in folded(),
        counts in [1..9_u32, 1..9_u32],
        count in 0..6_usize,
    ) {
        let comparison = Comparison::new(diff(&left, &right, 0), requests(counts));
        let all = comparison.most_changed(100, RankBy::Total);
        prop_assert!(all.windows(2).all(|pair| pair[0].total.abs() >= pair[1].total.abs()));
        for change in &all {
            let [l, r] = change.values.total;
            let expected = r as f64 / f64::from(counts[1]) - l as f64 / f64::from(counts[0]);
            prop_assert!((change.total - expected).abs() < 1e-9, "{:?}", change);
        }
        let some = comparison.most_changed(count, RankBy::Total);
        prop_assert_eq!(&some[..], &all[..count.min(all.len())]);
    }
}
