//! Holds answers to what was pushed. A server cannot be fast here by being wrong.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};

use crate::load::wire::{FlameGraph, FlameGraphDiff, Level, SeriesResponse};
use crate::recipe::Profile;

/// A flame graph whose root has the total, and whose nodes hand all that is not their own down to the next level.
pub(super) fn flame_graph(graph: &FlameGraph, total_ns: i64) -> Result<()> {
    ensure!(graph.total == total_ns, "a total of {}, not {total_ns}", graph.total);
    tree(&graph.names, &graph.levels, [total_ns])
}

/// The same of both sides of a comparison.
pub(super) fn diff(graph: &FlameGraphDiff, totals_ns: [i64; 2]) -> Result<()> {
    let found = [graph.left_ticks, graph.right_ticks];
    ensure!(found == totals_ns, "totals of {found:?}, not {totals_ns:?}");
    let sum = totals_ns[0] + totals_ns[1];
    ensure!(graph.total == sum, "a total of {}, not {sum}", graph.total);
    tree(&graph.names, &graph.levels, totals_ns)
}

/// Levels of nodes of offset, total and self for each of `SIDES`, and a name. `total_ns` is the root's.
fn tree<const SIDES: usize>(names: &[String], levels: &[Level], total_ns: [i64; SIDES]) -> Result<()> {
    let width = 3 * SIDES + 1;
    let root = levels.first().context("a flame graph without levels")?;
    ensure!(root.values.len() == width, "a root of {} numbers, not {width}", root.values.len());
    let mut handed_down = total_ns;
    for (depth, level) in levels.iter().enumerate() {
        ensure!(level.values.len() % width == 0, "level {depth} is no list of nodes of {width} numbers");
        let mut found = [0; SIDES];
        let mut own = [0; SIDES];
        for node in level.values.chunks_exact(width) {
            let has_name = usize::try_from(node[width - 1]).is_ok_and(|name| name < names.len());
            ensure!(has_name, "a node of level {depth} has no name");
            for side in 0..SIDES {
                found[side] += node[3 * side + 1];
                own[side] += node[3 * side + 2];
            }
        }
        ensure!(found == handed_down, "level {depth} has {found:?} in all, not {handed_down:?}");
        for side in 0..SIDES {
            handed_down[side] -= own[side];
        }
    }
    ensure!(handed_down == [0; SIDES], "the last level hands {handed_down:?} down to nobody");
    ensure!(levels.len() > 2, "{} levels are no stack traces", levels.len());
    Ok(())
}

/// Every point of every service, and nothing else.
pub(super) fn series(answer: &SeriesResponse, expect: &BTreeMap<&str, BTreeMap<i64, i64>>) -> Result<()> {
    ensure!(answer.series.len() == expect.len(), "{} series, not {}", answer.series.len(), expect.len());
    for series in &answer.series {
        let [label] = &series.labels[..] else {
            anyhow::bail!("a series with the labels {:?}, not service_name alone", series.labels);
        };
        let service = label.value.as_str();
        let points = expect.get(service).with_context(|| format!("a series of {service:?}"))?;
        ensure!(series.points.len() == points.len(), "{service}: {} points", series.points.len());
        for (point, (stamp, value)) in series.points.iter().zip(points) {
            let right = point.timestamp == *stamp && (point.value - *value as f64).abs() < 0.5;
            ensure!(right, "{service}: {} at {}, not {value} at {stamp}", point.value, point.timestamp);
        }
    }
    Ok(())
}

/// The sum of a pprof's values.
pub(super) fn total(profile: &Profile, total_ns: i64) -> Result<()> {
    let found: i64 = profile.sample.iter().flat_map(|sample| &sample.value).sum();
    ensure!(found == total_ns, "a total of {found}, not {total_ns}");
    Ok(())
}

/// Every stack of a pprof by the names of its functions, leaf first, and its value.
pub(super) fn stacks(profile: &Profile, expect: &HashMap<String, i64>) -> Result<()> {
    let found = stacks_of(profile)?;
    for (stack, value) in expect {
        let answered = found.get(stack).copied().unwrap_or(0);
        ensure!(answered == *value, "{answered}, not {value}, of the stack\n{stack}");
    }
    ensure!(found.len() == expect.len(), "{} stacks, not {}", found.len(), expect.len());
    Ok(())
}

fn stacks_of(profile: &Profile) -> Result<HashMap<String, i64>> {
    let functions: HashMap<u64, i64> = profile.function.iter().map(|f| (f.id, f.name)).collect();
    let mut locations = HashMap::new();
    for location in &profile.location {
        let names: Option<Vec<&str>> = location
            .line
            .iter()
            .map(|line| {
                let name = functions.get(&line.function_id)?;
                profile.string_table.get(usize::try_from(*name).ok()?).map(String::as_str)
            })
            .collect();
        locations.insert(location.id, names.context("a location refers to nothing")?.join("\n"));
    }
    let mut stacks: HashMap<String, i64> = HashMap::new();
    for sample in &profile.sample {
        let names: Option<Vec<&str>> =
            sample.location_id.iter().map(|id| locations.get(id).map(String::as_str)).collect();
        let names = names.context("a sample refers to nothing")?.join("\n");
        *stacks.entry(names).or_default() += sample.value.first().context("a sample without a value")?;
    }
    Ok(stacks)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::load::wire::{LabelPair, Point, Series};
    use crate::recipe::{Minute, Recipe, encode};

    fn level(values: &[i64]) -> Level {
        Level { values: values.to_vec() }
    }

    /// `a;b 3`, `a 1`, `a;c 2`, `d 4`.
    fn graph() -> FlameGraph {
        FlameGraph {
            names: ["total", "d", "a", "c", "b"].map(String::from).to_vec(),
            levels: vec![
                level(&[0, 10, 0, 0]),
                level(&[0, 6, 1, 2, 0, 4, 4, 1]),
                level(&[1, 3, 3, 4, 0, 2, 2, 3]),
            ],
            total: 10,
        }
    }

    fn refused(result: Result<()>, reason: &str) {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}, not {reason}");
    }

    #[test]
    fn a_flame_graph_is_right_or_refused() {
        flame_graph(&graph(), 10).unwrap();
        refused(flame_graph(&graph(), 11), "a total of 10, not 11");
        let spoilt = |spoil: fn(&mut FlameGraph)| {
            let mut graph = graph();
            spoil(&mut graph);
            flame_graph(&graph, 10)
        };
        refused(spoilt(|graph| graph.levels[1].values[1] = 5), "level 1 has [9] in all, not [10]");
        refused(spoilt(|graph| graph.levels[1].values[2] = 2), "level 2 has [5] in all, not [4]");
        refused(spoilt(|graph| graph.levels[2].values[2] = 2), "the last level hands [1] down to nobody");
        refused(spoilt(|graph| graph.levels[2].values[3] = 5), "a node of level 2 has no name");
        refused(spoilt(|graph| graph.levels[2].values.truncate(7)), "level 2 is no list of nodes");
        refused(spoilt(|graph| graph.levels.clear()), "without levels");
        // All of it under one node would be answered in no time.
        let other = |graph: &mut FlameGraph| {
            graph.levels.truncate(1);
            graph.levels.push(level(&[0, 10, 10, 1]));
        };
        refused(spoilt(other), "no stack traces");
    }

    /// Left `a;b 3`, `a 1`; right `a;b 1`, `a;c 2`.
    #[test]
    fn a_diff_is_right_or_refused() {
        let graph = FlameGraphDiff {
            names: ["total", "a", "c", "b"].map(String::from).to_vec(),
            levels: vec![
                level(&[0, 4, 0, 0, 3, 0, 0]),
                level(&[0, 4, 1, 0, 3, 0, 1]),
                level(&[1, 3, 3, 0, 1, 1, 3, 0, 0, 0, 0, 2, 2, 2]),
            ],
            total: 7,
            left_ticks: 4,
            right_ticks: 3,
        };
        diff(&graph, [4, 3]).unwrap();
        refused(diff(&graph, [3, 4]), "totals of [4, 3]");
        refused(diff(&FlameGraphDiff { total: 8, ..graph.clone() }, [4, 3]), "a total of 8, not 7");
        let mut spoilt = graph;
        spoilt.levels[2].values[4] = 2;
        refused(diff(&spoilt, [4, 3]), "level 2 has [3, 4] in all, not [3, 3]");
    }

    #[test]
    fn series_are_right_or_refused() {
        let answer = |service: &str, points: &[(i64, f64)]| {
            let labels = vec![LabelPair { name: "service_name".into(), value: service.into() }];
            let points = points.iter().map(|&(timestamp, value)| Point { value, timestamp }).collect();
            SeriesResponse { series: vec![Series { labels, points }] }
        };
        let expect = BTreeMap::from([("api", BTreeMap::from([(15, 3), (45, 4)]))]);
        series(&answer("api", &[(15, 3.0), (45, 4.0)]), &expect).unwrap();
        refused(series(&answer("api", &[(15, 3.0), (45, 5.0)]), &expect), "5 at 45, not 4 at 45");
        refused(series(&answer("api", &[(15, 3.0), (30, 4.0)]), &expect), "4 at 30, not 4 at 45");
        refused(series(&answer("api", &[(15, 3.0)]), &expect), "1 points");
        refused(series(&answer("web", &[(15, 3.0), (45, 4.0)]), &expect), "a series of \"web\"");
        refused(series(&SeriesResponse::default(), &expect), "0 series, not 1");
    }

    #[test]
    fn a_pprof_is_right_or_refused() {
        let recipe = Recipe::new(3, 1);
        let container = &recipe.containers()[0];
        let rows = container.minute(Minute(0));
        let right = Profile::decode(&encode(container, &rows, 0)[..]).unwrap();
        let expect = stacks_of(&right).unwrap();
        assert!(
            expect.len() > rows.len() / 2 && expect.values().sum::<i64>() == container.minute_ns(Minute(0))
        );
        stacks(&right, &expect).unwrap();
        total(&right, container.minute_ns(Minute(0))).unwrap();
        refused(total(&right, 1), "not 1");
        let mut swapped = right.clone();
        // The same total, under another stack.
        swapped.sample[0].value[0] += 1;
        swapped.sample[1].value[0] -= 1;
        total(&swapped, container.minute_ns(Minute(0))).unwrap();
        refused(stacks(&swapped, &expect), "of the stack");
        let mut less = expect.clone();
        let one = expect.keys().next().unwrap();
        less.remove(one);
        refused(stacks(&right, &less), "stacks, not");
        let mut loose = right.clone();
        loose.sample[0].location_id[0] = u64::MAX;
        refused(stacks(&loose, &expect), "a sample refers to nothing");
        let mut loose = right;
        loose.location[0].line[0].function_id = u64::MAX;
        refused(stacks(&loose, &expect), "a location refers to nothing");
    }
}
