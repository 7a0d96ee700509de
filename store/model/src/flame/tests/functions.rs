//! Tables of functions, against what a naive reading of the stacks says.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Folded, diff, folded, folded_of, from_folded, tree};
use crate::{FlameTree, FunctionValues, OtherFunctions, RankBy, TopFunctions};

/// What functions took by themselves and in all.
fn sums(stacks: &Folded, is_meant: impl Fn(&str) -> bool) -> [i64; 2] {
    let sum = |is_counted: &dyn Fn(&[&'static str]) -> bool| {
        stacks.iter().filter(|(stack, _)| is_counted(stack)).map(|(_, value)| value).sum()
    };
    let own = sum(&|stack| stack.last().is_some_and(|name| is_meant(name)));
    [own, sum(&|stack| stack.iter().any(|name| is_meant(name)))]
}

fn brute_force(stacks: &Folded, count: usize, by: RankBy) -> TopFunctions {
    let names: BTreeSet<&str> = stacks.iter().flat_map(|(stack, _)| stack.iter().copied()).collect();
    let values = |name: &&str| {
        let [own, total] = sums(stacks, |found| found == *name);
        FunctionValues { name: (*name).to_owned(), own: [own], total: [total] }
    };
    let mut functions: Vec<FunctionValues> = names.iter().map(values).collect();
    functions.sort_by_key(|FunctionValues { name, own, total }| {
        let (first, second) = if by == RankBy::Own { (own, total) } else { (total, own) };
        (Reverse(*first), Reverse(*second), name.clone())
    });
    let others = functions.split_off(count.min(functions.len()));
    let others: BTreeSet<String> = others.into_iter().map(|function| function.name).collect();
    let rest = (!others.is_empty()).then(|| {
        let [own, total] = sums(stacks, |name| others.contains(name));
        OtherFunctions { count: others.len(), own: [own], total: [total] }
    });
    TopFunctions { totals: [stacks.iter().map(|(_, value)| value).sum()], functions, rest }
}

proptest! {
    #[test]
    fn tables_equal_brute_force(stacks in folded(), count in 0..7_usize, by_total in any::<bool>()) {
        let by = if by_total { RankBy::Total } else { RankBy::Own };
        prop_assert_eq!(from_folded(&stacks, 0).top_functions(count, by), brute_force(&stacks, count, by));
    }

    #[test]
    fn each_side_of_two_is_as_if_it_were_alone(left in folded(), right in folded()) {
        let both = diff(&left, &right, 0).top_functions(100, RankBy::Total);
        prop_assert_eq!(both.rest, None);
        for (side, stacks) in [&left, &right].into_iter().enumerate() {
            let alone = from_folded(stacks, 0).top_functions(100, RankBy::Total);
            prop_assert_eq!(both.totals[side], alone.totals[0]);
            for FunctionValues { name, own, total } in &both.functions {
                let found = alone.functions.iter().find(|function| function.name == *name);
                let found = found.map_or([0, 0], |function| [function.own[0], function.total[0]]);
                prop_assert_eq!([own[side], total[side]], found, "{}", name);
            }
        }
    }
}

fn rows(top: &TopFunctions) -> Vec<(&str, i64, i64)> {
    top.functions.iter().map(|row| (row.name.as_str(), row.own[0], row.total[0])).collect()
}

#[test]
fn recursion_counts_once_and_ties_are_ordered() {
    let whole = tree(&[("main;f;g;f", 5), ("main;f", 2), ("main;g;g;g", 3), ("b", 4), ("a", 4)]);
    let top = whole.top_functions(10, RankBy::Own);
    let expected = [("f", 7, 7), ("a", 4, 4), ("b", 4, 4), ("g", 3, 8), ("main", 0, 10)];
    assert_eq!(rows(&top), expected);
    assert_eq!((top.totals, top.rest), ([18], None));
    let top = whole.top_functions(2, RankBy::Total);
    assert_eq!(rows(&top), [("main", 0, 10), ("g", 3, 8)]);
    // Stacks through a, b or f, those through f once.
    assert_eq!(top.rest, Some(OtherFunctions { count: 3, own: [15], total: [15] }));
}

#[test]
fn nothing_small_is_lost_before_the_table_is_made() {
    // Too small for the flame graph wherever it is called, and the largest of all together.
    let calls = ["a;lock", "b;lock", "c;lock", "d;lock", "e;lock"].map(|stack| (stack, 3));
    let callers = ["a", "b", "c", "d", "e"].map(|stack| (stack, 10));
    let stacks = folded_of(&[&calls[..], &callers, &[("big", 14)]].concat());
    let whole = from_folded(&stacks, 0);
    assert_eq!(rows(&whole.top_functions(2, RankBy::Own)), [("lock", 15, 15), ("big", 14, 14)]);
    let drawn = from_folded(&stacks, 6).top_functions(10, RankBy::Own);
    assert!(drawn.functions.iter().all(|row| row.name != "lock"), "{drawn:?}");
}

#[test]
fn nothing_has_no_functions() {
    let nothing = FlameTree::<1>::default().top_functions(5, RankBy::Own);
    assert_eq!(nothing, TopFunctions { totals: [0], functions: Vec::new(), rest: None });
    let huge = from_folded(&folded_of(&[("a", i64::MAX), ("a;b", i64::MAX), ("c;a", i64::MAX)]), 0);
    assert_eq!(rows(&huge.top_functions(1, RankBy::Own)), [("a", i64::MAX, i64::MAX)]);
}
