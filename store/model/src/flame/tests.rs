//! Trees of one query and of two, against what a naive reading of the stacks says.

mod compare;
mod functions;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Folded = Vec<(Vec<&'static str>, i64)>;

fn folded_of(stacks: &[(&'static str, i64)]) -> Folded {
    stacks.iter().map(|(stack, value)| (stack.split(';').collect(), *value)).collect()
}

/// No tree here has as many nodes.
const ALL: usize = 1_000;

fn tree(stacks: &[(&'static str, i64)]) -> FlameTree {
    from_folded(&folded_of(stacks), ALL)
}

fn from_folded(stacks: &Folded, max_nodes: usize) -> FlameTree {
    FlameTree::from_profile(&profile(stacks), max_nodes)
}

fn diff(left: &Folded, right: &Folded, max_nodes: usize) -> FlameTree<2> {
    FlameTree::of_profiles([&profile(left), &profile(right)], max_nodes)
}

fn profile(stacks: &Folded) -> StackProfile {
    let mut profile = StackProfile::default();
    let mut sums: BTreeMap<crate::StackId, i64> = BTreeMap::new();
    for (stack, value) in stacks {
        let locations: Vec<_> =
            stack.iter().rev().map(|name| profile.symbols.intern_named_location(name)).collect();
        let id = profile.symbols.intern_stack(&locations).expect("stacks are not empty");
        *sums.entry(id).or_default() += value;
    }
    profile.values = sums.into_iter().collect();
    profile
}

#[test]
fn one_profile_as_pyroscope_draws_it() {
    let bearer = tree(&[("a;b", 3), ("a", 1), ("a;c", 2), ("d", 4), ("x", 0), ("y", -1)]).flamebearer();
    assert_eq!(bearer.names, ["total", "d", "a", "c", "b"]);
    assert_eq!(
        bearer.levels,
        [vec![0, 10, 0, 0], vec![0, 6, 1, 2, 0, 4, 4, 1], vec![1, 3, 3, 4, 0, 2, 2, 3]]
    );
    assert_eq!((bearer.total(), bearer.max_self), (10, 4));
}

#[test]
fn two_profiles_as_pyroscope_draws_them() {
    let left = folded_of(&[("a;b", 3), ("a", 1)]);
    let right = folded_of(&[("a;b", 1), ("a;c", 2)]);
    let bearer = diff(&left, &right, ALL).flamebearer();
    assert_eq!(bearer.names, ["total", "a", "c", "b"]);
    let levels = [
        vec![0, 4, 0, 0, 3, 0, 0],
        vec![0, 4, 1, 0, 3, 0, 1],
        vec![1, 3, 3, 0, 1, 1, 3, 0, 0, 0, 0, 2, 2, 2],
    ];
    assert_eq!(bearer.levels, levels);
    assert_eq!((bearer.total(), bearer.ticks, bearer.max_self), (7, [4, 3], 3));
}

#[test]
fn nothing_is_a_root_without_children() {
    let bearer = FlameTree::<1>::default().flamebearer();
    assert_eq!(bearer.names, ["total"]);
    assert_eq!(bearer.levels, [[0, 0, 0, 0]]);
    let bearer = diff(&Folded::new(), &Folded::new(), ALL).flamebearer();
    assert_eq!(bearer.levels, [[0; 7]]);
    assert!(FlameTree::default().to_wire().is_empty());
}

#[test]
fn small_nodes_fold_into_other() {
    let stacks = folded_of(&[("a;b", 3), ("a;c;d", 2), ("a;e", 1), ("a;other;x", 1), ("f", 4)]);
    // Largest first: a 7, f 4, b 3, then c, d and the rest.
    let bearer = from_folded(&stacks, 3).flamebearer();
    assert_eq!(bearer.names, ["total", "f", "a", "other", "b"]);
    assert_eq!(
        bearer.levels,
        [vec![0, 11, 0, 0], vec![0, 7, 0, 2, 0, 4, 4, 1], vec![0, 3, 3, 4, 0, 4, 4, 3]]
    );
    // A tie at the border stays: c and d have 2 each.
    assert_eq!(from_folded(&stacks, 4).node_count(), 6);
    // With room for all only the function called `other` loses its child, and in a whole tree not even that.
    for (all, nodes) in [(7, 7), (ALL, 7), (0, 8)] {
        assert_eq!(from_folded(&stacks, all).node_count(), nodes);
    }
}

#[test]
fn wire_bytes_are_preorder_with_the_last_child_first() {
    let wire = tree(&[("a;b", 300), ("c", 1)]).to_wire();
    let expected = [&[0, 0, 2][..], &[1, b'c', 1, 0], &[1, b'a', 0, 1], &[1, b'b', 0xac, 0x02, 0]].concat();
    assert_eq!(wire, expected);
}

#[test]
fn huge_values_saturate() {
    let stacks = folded_of(&[("a", i64::MAX), ("a;b", i64::MAX), ("c", i64::MAX)]);
    assert_eq!(from_folded(&stacks, ALL).totals(), [i64::MAX]);
    let both = diff(&stacks, &stacks, 2);
    assert_eq!(both.flamebearer().total(), i64::MAX);
}

#[test]
fn a_profile_keeps_inlined_and_unresolved_frames() {
    let mut profile = profile(&vec![(vec!["main", "work"], 2)]);
    let unresolved = profile.symbols.intern_location(crate::Location { address: 0x40, ..Default::default() });
    let stack = profile.symbols.intern_stack(&[unresolved]).unwrap();
    profile.values.push((stack, 1));
    let bearer = FlameTree::from_profile(&profile, ALL).flamebearer();
    assert_eq!(bearer.names, ["total", "main", "work", "0x40"]);
    assert_eq!(bearer.levels[1], [0, 1, 1, 3, 0, 2, 0, 1]);
}

/// What a tree says, path by path: own and total values on each side.
fn paths<const SIDES: usize>(tree: &FlameTree<SIDES>) -> BTreeMap<Vec<String>, [[i64; 2]; SIDES]> {
    let bearer = tree.flamebearer();
    let step = SIDES * 3 + 1;
    let mut found = BTreeMap::new();
    // Nodes of the level above with their left end, to find parents by position as a viewer does.
    let mut above: Vec<(Vec<String>, [i64; SIDES], [i64; SIDES])> = vec![];
    for level in &bearer.levels {
        let mut nodes = vec![];
        let mut end = [0; SIDES];
        for node in level.chunks(step) {
            let name = bearer.names[node[step - 1] as usize].clone();
            let start: [i64; SIDES] = std::array::from_fn(|side| end[side] + node[side * 3]);
            let total: [i64; SIDES] = std::array::from_fn(|side| node[side * 3 + 1]);
            end = std::array::from_fn(|side| start[side] + total[side]);
            let side = (0..SIDES).find(|&side| total[side] > 0).unwrap_or(0);
            let holds = |(_, from, size): &&(Vec<String>, [i64; SIDES], [i64; SIDES])| {
                from[side] <= start[side] && end[side] <= from[side] + size[side]
            };
            let mut path = above.iter().find(holds).map_or(vec![], |(path, ..)| path.clone());
            path.push(name);
            found.insert(path.clone(), std::array::from_fn(|side| [node[side * 3 + 2], total[side]]));
            nodes.push((path, start, total));
        }
        above = nodes;
    }
    found
}

/// Truncation and comparison done the slow way, from folded stacks to paths.
fn brute_force<const SIDES: usize>(
    sides: [&Folded; SIDES],
    max_nodes: usize,
) -> BTreeMap<Vec<String>, [[i64; 2]; SIDES]> {
    brute_force_by(sides, max_nodes, |totals| totals.into_iter().max())
}

/// Likewise, with nodes ranked by something that is made of their totals.
fn brute_force_by<const SIDES: usize, K: Copy + Ord>(
    sides: [&Folded; SIDES],
    max_nodes: usize,
    rank: impl Fn([i64; SIDES]) -> K,
) -> BTreeMap<Vec<String>, [[i64; 2]; SIDES]> {
    let mut whole: BTreeMap<Vec<String>, [[i64; 2]; SIDES]> = BTreeMap::new();
    whole.insert(vec!["total".into()], [[0; 2]; SIDES]);
    for (side, stacks) in sides.iter().enumerate() {
        for (stack, value) in *stacks {
            let path: Vec<String> = std::iter::once(&"total").chain(stack).map(ToString::to_string).collect();
            for depth in 1..=path.len() {
                let node = &mut whole.entry(path[..depth].to_vec()).or_insert([[0; 2]; SIDES])[side];
                node[1] += value;
                node[0] += if depth == path.len() { *value } else { 0 };
            }
        }
    }
    let largest = |node: &[[i64; 2]; SIDES]| rank(node.map(|[_, total]| total));
    let mut totals: Vec<K> =
        whole.iter().filter(|(path, _)| SIDES > 1 || path.len() > 1).map(|(_, node)| largest(node)).collect();
    totals.sort_unstable_by(|a, b| b.cmp(a));
    let threshold = if totals.len() <= max_nodes { None } else { Some(totals[max_nodes - 1]) };
    let folded = |path: &[String]| {
        let is_small = threshold.is_some_and(|threshold| largest(&whole[path]) < threshold);
        path.len() > 1 && (is_small || path.ends_with(&["other".into()]))
    };
    let mut kept: BTreeMap<Vec<String>, [[i64; 2]; SIDES]> = BTreeMap::new();
    for (path, node) in &whole {
        let cut = (1..=path.len()).find(|&depth| folded(&path[..depth]));
        match cut {
            None => drop(kept.insert(path.clone(), *node)),
            Some(depth) if depth == path.len() => {
                let mut other = path[..depth - 1].to_vec();
                other.push("other".into());
                let rest = kept.entry(other).or_insert([[0; 2]; SIDES]);
                (0..SIDES).for_each(|side| rest[side] = [rest[side][0] + node[side][1]; 2]);
            }
            Some(_) => {}
        }
    }
    kept
}

fn folded() -> impl Strategy<Value = Folded> {
    let name = prop::sample::select(vec!["a", "b", "c", "d", "other"]);
    prop::collection::vec((prop::collection::vec(name, 1..6), 1..50_i64), 0..30)
}

proptest! {
    #[test]
    fn profiles_in_parts_are_the_tree_of_the_whole(
        stacks in folded(),
        parts in prop::collection::vec(0..3_usize, 30),
        max_nodes in 0..40_usize,
    ) {
        let mut folded = [Folded::new(), Folded::new(), Folded::new()];
        for (stack, part) in stacks.iter().zip(parts) {
            folded[part].push(stack.clone());
        }
        let profiles = folded.map(|stacks| profile(&stacks));
        let trees = profiles.each_ref().map(|profile| CallTree::of(&profile.symbols));
        let mut sums = PathValues::default();
        for (profile, tree) in profiles.iter().zip(&trees) {
            sums.add(&CallValues::new(tree, |_side| profile.values.iter().copied()));
        }
        let (whole, united) = (from_folded(&stacks, max_nodes), FlameTree::of(&sums.values(), max_nodes));
        prop_assert_eq!(united.flamebearer(), whole.flamebearer());
        prop_assert_eq!(united.to_wire(), whole.to_wire());
    }

    #[test]
    fn truncation_equals_brute_force(stacks in folded(), max_nodes in 1..40_usize) {
        let truncated = from_folded(&stacks, max_nodes);
        prop_assert_eq!(truncated.totals()[0], stacks.iter().map(|(_, value)| value).sum::<i64>());
        prop_assert_eq!(paths(&truncated), brute_force([&stacks], max_nodes));
    }

    #[test]
    fn diff_equals_brute_force(left in folded(), right in folded(), max_nodes in 1..40_usize) {
        let truncated = diff(&left, &right, max_nodes);
        prop_assert_eq!(paths(&truncated), brute_force([&left, &right], max_nodes));
    }

    #[test]
    fn own_values_add_up_to_the_total(stacks in folded(), max_nodes in 1..40_usize) {
        let truncated = from_folded(&stacks, max_nodes);
        let own: i64 = truncated.nodes.iter().map(|node| node.own[0]).sum();
        prop_assert_eq!(own, truncated.totals()[0]);
    }
}
