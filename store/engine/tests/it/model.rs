//! Random batches, flushes, reopenings and queries give what a list of rows gives.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use pyrite_model::{FunctionValues, LabelSet, ProfileId, RankBy, TimeRange, TopFunctions, UnixMs};
use pyrite_store::{GroupSeries, SeriesProfiles, SeriesQuery, StackQuery};

use super::{batch, by_path, open, query};

const SERVICES: [&str; 3] = ["api", "db", "web"];
const PATHS: [&str; 5] = ["main", "main;a", "main;a;b", "main;c", "other;a"];

#[derive(Clone, Debug)]
enum Step {
    Append { service: usize, rows: Vec<(i64, usize, i64)> },
    Flush,
    Reopen { close: bool },
    Query { service: Option<usize>, start: i64, length: i64, step: i64, path: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let row = (-2000..8000_i64, 0..PATHS.len(), 1..100_i64);
    let rows = prop::collection::vec(row, 1..20);
    let service = 0..SERVICES.len();
    prop_oneof![
        6 => (service.clone(), rows).prop_map(|(service, rows)| Step::Append { service, rows }),
        2 => Just(Step::Flush),
        1 => any::<bool>().prop_map(|close| Step::Reopen { close }),
        4 => (prop::option::of(service), -2500..8500_i64, 0..6000_i64, 1..3000_i64, 0..PATHS.len()).prop_map(
            |(service, start, length, step, path)| Step::Query { service, start, length, step, path }
        ),
    ]
}

/// Whether the rows of a path count.
type Counts<'a> = &'a dyn Fn(&str) -> bool;

#[derive(Default)]
struct Model {
    rows: Vec<(usize, i64, usize, i64)>,
}

impl Model {
    fn matching(
        &self,
        service: Option<usize>,
        range: TimeRange,
    ) -> impl Iterator<Item = &(usize, i64, usize, i64)> {
        self.rows.iter().filter(move |(of, time, ..)| {
            service.is_none_or(|service| service == *of) && range.contains(UnixMs(*time))
        })
    }

    fn merge(&self, service: Option<usize>, range: TimeRange, counts: Counts<'_>) -> Vec<(String, i64)> {
        let mut sums = BTreeMap::new();
        let rows = self.matching(service, range).filter(|row| counts(PATHS[row.2]));
        for (_, _, path, value) in rows {
            *sums.entry(PATHS[*path].to_owned()).or_insert(0) += value;
        }
        sums.into_iter().collect()
    }

    /// Buckets by trying each in turn.
    fn timeline(
        &self,
        service: Option<usize>,
        range: TimeRange,
        step: i64,
        counts: Counts<'_>,
    ) -> Vec<GroupSeries> {
        let mut groups: Vec<GroupSeries> = Vec::new();
        for (id, name) in SERVICES.iter().enumerate() {
            let mut points = Vec::new();
            let mut stamp = range.start.0;
            while stamp <= range.end.0 {
                let bucket = TimeRange::new(UnixMs(stamp - step + 1), UnixMs(stamp));
                let rows = self.matching(Some(id), bucket).filter(|(of, _, path, _)| {
                    service.is_none_or(|service| service == *of) && counts(PATHS[*path])
                });
                let values: Vec<i64> = rows.map(|row| row.3).collect();
                if !values.is_empty() {
                    points.push((UnixMs(stamp), values.iter().sum()));
                }
                stamp += step;
            }
            if !points.is_empty() {
                groups.push(GroupSeries { labels: LabelSet::from_pairs([("service_name", *name)]), points });
            }
        }
        let sum = |group: &GroupSeries| group.points.iter().map(|(_, value)| value).sum::<i64>();
        groups.sort_by(|a, b| sum(b).cmp(&sum(a)).then_with(|| a.labels.cmp(&b.labels)));
        groups
    }

    /// Own and total values by function, the largest own values first.
    fn functions(&self, service: Option<usize>, range: TimeRange, counts: Counts<'_>) -> TopFunctions {
        let paths = self.merge(service, range, counts);
        let mut sums: BTreeMap<&str, [i64; 2]> = BTreeMap::new();
        for (path, value) in &paths {
            let names: Vec<&str> = path.split(';').collect();
            sums.entry(names[names.len() - 1]).or_default()[0] += value;
            for name in BTreeSet::from_iter(names) {
                sums.entry(name).or_default()[1] += value;
            }
        }
        let values = |(name, [own, total]): (&str, [i64; 2])| FunctionValues {
            name: name.to_owned(),
            own: [own],
            total: [total],
        };
        let mut functions: Vec<FunctionValues> = sums.into_iter().map(values).collect();
        functions.sort_by_key(|function| (-function.own[0], -function.total[0]));
        TopFunctions { totals: [paths.iter().map(|(_, value)| value).sum()], functions, rest: None }
    }

    /// Sums by service and time.
    fn profiles(
        &self,
        service: Option<usize>,
        range: TimeRange,
        counts: Counts<'_>,
    ) -> Vec<(String, i64, i64)> {
        let mut sums = BTreeMap::new();
        for (of, time, _, value) in self.matching(service, range).filter(|row| counts(PATHS[row.2])) {
            *sums.entry((SERVICES[*of].to_owned(), *time)).or_insert(0) += value;
        }
        sums.into_iter().map(|((service, time), total)| (service, time, total)).collect()
    }
}

/// Lists profiles, and reads every other one by itself.
fn check_profiles(
    store: &pyrite_store::Store,
    model: &Model,
    query: &StackQuery,
    (service, counts): (Option<usize>, Counts<'_>),
) -> Result<(), TestCaseError> {
    let listed = store.profiles(query).unwrap();
    let mut found = Vec::new();
    for SeriesProfiles { key, profiles } in &listed {
        let service = key.labels.get("service_name").unwrap();
        found.extend(profiles.iter().map(|(time, total)| (service.to_owned(), time.0, *total)));
    }
    prop_assert_eq!(&found, &model.profiles(service, query.range, counts));
    let ids = listed
        .iter()
        .flat_map(|series| series.profiles.iter().map(|(time, _)| ProfileId::new(&series.key, *time)));
    let ids: Vec<ProfileId> = ids.step_by(2).collect();
    let some = store.profiles(&StackQuery { profiles: Some(ids.clone()), ..query.clone() }).unwrap();
    let mut read = Vec::new();
    for SeriesProfiles { key, profiles } in &some {
        read.extend(profiles.iter().map(|(time, total)| (ProfileId::new(key, *time), *total)));
    }
    let totals = found.iter().step_by(2).map(|(_, _, total)| *total);
    prop_assert_eq!(&read, &ids.iter().copied().zip(totals).collect::<Vec<_>>());
    let of_some = StackQuery { profiles: Some(ids), ..query.clone() };
    let sum: i64 = read.iter().map(|(_, total)| total).sum();
    prop_assert_eq!(store.merge_stacks(&of_some).unwrap().total(), sum);
    prop_assert_eq!(store.flame_tree([Some(&of_some)], 0).unwrap().totals(), [sum]);
    Ok(())
}

fn check_query(store: &pyrite_store::Store, model: &Model, step: &Step) -> Result<(), TestCaseError> {
    let &Step::Query { service, start, length, step, path } = step else { return Ok(()) };
    let range = TimeRange::new(UnixMs(start), UnixMs(start + length));
    let selector =
        service.map_or("{}".into(), |service| format!("{{service_name=\"{}\"}}", SERVICES[service]));
    let stacks = query(&selector, range);
    let call_site: Vec<String> = PATHS[path].split(';').map(str::to_owned).collect();
    let function = call_site.last().cloned();
    for (call_site, function) in [(Vec::new(), None), (call_site.clone(), None), (Vec::new(), function)] {
        let counts = |path: &str| {
            let names: Vec<&str> = path.split(';').collect();
            names.len() >= call_site.len()
                && names.iter().zip(&call_site).all(|(a, b)| a == b)
                && function.as_ref().is_none_or(|function| names.contains(&function.as_str()))
        };
        let stacks =
            StackQuery { call_site: call_site.clone(), function: function.clone(), ..stacks.clone() };
        prop_assert_eq!(by_path(&store.merge_stacks(&stacks).unwrap()), model.merge(service, range, &counts));
        let tree = store.flame_tree([Some(&stacks)], 0).unwrap();
        prop_assert_eq!(tree.top_functions(9, RankBy::Own), model.functions(service, range, &counts));
        check_profiles(store, model, &stacks, (service, &counts))?;
        let expected = model.timeline(service, range, step, &counts);
        let group_by = vec!["service_name".to_owned(), "absent".to_owned()];
        let series = SeriesQuery { stacks, step_ms: step, group_by };
        prop_assert_eq!(store.select_series(&series).unwrap(), expected);
    }
    let present: BTreeSet<&str> = model.matching(service, range).map(|row| SERVICES[row.0]).collect();
    let values = store.label_values(&stacks.tenants, "service_name", &[stacks.selector], range).unwrap();
    // A segment knows the first and last row of a series, so a gap in between may name one too many.
    prop_assert!(present.iter().all(|name| values.iter().any(|value| value == name)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_a_list_of_rows(steps in prop::collection::vec(any_step(), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        let mut model = Model::default();
        for step in &steps {
            match step {
                Step::Append { service, rows } => {
                    let named: Vec<_> = rows.iter().map(|&(time, path, value)| (time, PATHS[path], value)).collect();
                    store.append_blocking(batch(SERVICES[*service], &named)).unwrap();
                    model.rows.extend(rows.iter().map(|&(time, path, value)| (*service, time, path, value)));
                }
                Step::Flush => store.flush().unwrap(),
                Step::Reopen { close } => {
                    if *close {
                        store.close().unwrap();
                    }
                    drop(store);
                    let (reopened, report) = open(dir.path());
                    prop_assert_eq!(report.findings.len(), 0);
                    store = reopened;
                }
                Step::Query { .. } => check_query(&store, &model, step)?,
            }
            prop_assert_eq!(store.stats().rows, model.rows.len() as u64);
        }
    }
}
