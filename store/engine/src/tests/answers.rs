//! All rows of a store one by one, and whether what it answers over windows is what they add up to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::test_runner::TestCaseError;
use pyrite_model::{
    FlameTree, ProfileType, Selector, SeriesKey, StackId, StackProfile, Tenants, TimeRange, UnixMs,
    frame_names,
};

use super::EVERYTHING;
use super::disk::Dice;
use crate::query::{Fold, Scan, Source};
use crate::rows::Run;
use crate::segment::read::Grid;
use crate::{QueryError, SeriesQuery, StackQuery, Stop, Store};

/// The path of a stack whose entry in a dictionary is damaged.
pub(super) const LOST: &str = "[lost: damaged dictionary]";

/// A row as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) service: String,
    pub(super) time: i64,
    /// Function names, root first.
    pub(super) path: String,
    pub(super) value: i64,
}

#[derive(Default)]
struct Rows {
    found: Vec<Found>,
}

impl Fold for Rows {
    /// Series, time, stack and value.
    type Part = Vec<(u32, i64, u32, i64)>;

    fn needs_stacks(&self) -> bool {
        true
    }

    /// No sums are as fine.
    fn grid(&self) -> Grid {
        Grid::Steps { origin: 0, step: 1 }
    }

    fn begin(&mut self, _source: &Source<'_>) -> Result<Self::Part, QueryError> {
        Ok(Vec::new())
    }

    fn add(part: &mut Self::Part, rows: Run<'_>) {
        let each = rows.times.iter().zip(rows.stacks).zip(rows.values);
        part.extend(each.map(|((time, stack), value)| (rows.series, *time, *stack, *value)));
    }

    fn bytes(part: &Self::Part) -> usize {
        size_of_val(&**part)
    }

    fn end(&mut self, part: Self::Part, source: &Source<'_>) -> Result<(), QueryError> {
        let keys: BTreeMap<u32, &Arc<SeriesKey>> = source.series.iter().map(|(id, key)| (*id, key)).collect();
        let stacks = source.stacks.unwrap();
        let symbols = stacks.dictionary.read();
        for (series, time, stack, value) in part {
            let service = keys[&series].label("service_name").unwrap().into_owned();
            let path = frame_names(&symbols, stacks.of(stack as usize)).join(";");
            self.found.push(Found { service, time, path, value });
        }
        Ok(())
    }
}

/// All rows.
pub(super) fn all_rows(store: &Store) -> Result<Option<Vec<Found>>, QueryError> {
    let shared = store.maintenance().shared();
    let job = shared.jobs.begin(Stop::default());
    let mut rows = Rows::default();
    let query = StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), EVERYTHING);
    Scan { shared, job: &job, query: &query }.run(&mut rows)?;
    Ok(Some(rows.found))
}

fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T, what: &str) -> Result<(), TestCaseError> {
    if found == expected {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("{what}: {found:?} is not {expected:?}")))
}

/// Asks for windows that the seed chooses, which are aligned to nothing, and for all.
pub(super) fn check(store: &Store, rows: &[Found], around: i64, seed: u64) -> Result<(), TestCaseError> {
    let mut dice = Dice(seed);
    let mut instant = || around - dice.below(6 * 3_600_000) as i64;
    let windows = [instant(), instant(), instant(), instant()];
    let windows = [(windows[0], windows[1]), (windows[2], windows[3]), (i64::MIN, i64::MAX)];
    for (at, (a, b)) in windows.into_iter().enumerate() {
        let window = TimeRange::new(UnixMs(a.min(b)), UnixMs(a.max(b)));
        check_stacks(store, rows, window)?;
        if window != EVERYTHING {
            let step = [1_700, 60_000, 600_000, 3_600_000][(seed as usize + at) % 4];
            check_timeline(store, rows, window, step)?;
        }
    }
    let services: BTreeSet<String> = rows.iter().map(|row| row.service.clone()).collect();
    let found = store
        .label_values(&Tenants::default(), "service_name", &[], EVERYTHING)
        .map_err(|error| failed(&error))?;
    same(&found, &services.into_iter().collect(), "label values")
}

fn failed(error: &QueryError) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

fn check_stacks(store: &Store, rows: &[Found], window: TimeRange) -> Result<(), TestCaseError> {
    let query = StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), window);
    let mut expected = BTreeMap::new();
    for row in rows.iter().filter(|row| window.contains(UnixMs(row.time))) {
        *expected.entry(row.path.clone()).or_insert(0) += row.value;
    }
    let profile = store.merge_stacks(&query).map_err(|error| failed(&error))?;
    same(&by_path(&profile), &expected, "stacks")?;
    let tree = store.flame_tree([Some(&query)], 0).map_err(|error| failed(&error))?;
    let of_rows = FlameTree::from_profile(&profile, 0);
    same(&tree.flamebearer(), &of_rows.flamebearer(), "flame tree")
}

fn by_path(profile: &StackProfile) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    let path = |stack: StackId| frame_names(&profile.symbols, stack).join(";");
    for (stack, value) in &profile.values {
        *sums.entry(path(*stack)).or_insert(0) += value;
    }
    sums
}

fn check_timeline(
    store: &Store,
    rows: &[Found],
    window: TimeRange,
    step_ms: i64,
) -> Result<(), TestCaseError> {
    let stacks = StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), window);
    let query = SeriesQuery { stacks, step_ms, group_by: vec!["service_name".to_owned()] };
    let mut expected = BTreeMap::new();
    for row in rows {
        let step = (row.time - window.start.0 + step_ms - 1).div_euclid(step_ms);
        let stamp = window.start.0 + step * step_ms;
        if step >= 0 && stamp <= window.end.0 {
            *expected.entry((row.service.clone(), stamp)).or_insert(0) += row.value;
        }
    }
    let groups = store.select_series(&query).map_err(|error| failed(&error))?;
    let points = groups.iter().flat_map(|group| {
        let service = group.labels.get("service_name").unwrap();
        group.points.iter().map(move |(stamp, value)| ((service.to_owned(), stamp.0), *value))
    });
    same(&points.collect(), &expected, "series")
}
