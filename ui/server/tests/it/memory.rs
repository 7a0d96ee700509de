//! The naivest store there can be: all rows in a list, every query a walk over it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use pyrite_model::{
    Batch, Exposition, FlameTree, LabelSet, ProfileId, ProfileType, Row, Selector, SeriesKey, SeriesRows,
    StackId, StackProfile, SymbolTable, Tenants, TimeRange, UnixMs, frame_names,
};
use pyrite_server::{ApiError, Appending, ProfileStore};
use pyrite_store::{GroupSeries, QueryStatus, SeriesProfiles, SeriesQuery, StackQuery, Stop};

const EVER: TimeRange = TimeRange { start: UnixMs(i64::MIN), end: UnixMs(i64::MAX) };

#[derive(Default)]
pub(crate) struct MemoryStore {
    data: Mutex<Data>,
    /// What the next append fails with.
    pub(crate) fail_next: Mutex<Option<ApiError>>,
}

#[derive(Default)]
struct Data {
    symbols: SymbolTable,
    rows: Vec<(SeriesKey, Row)>,
}

impl Data {
    /// The rows of a query; of values that are counted since a program's start, what is new in each profile.
    fn matching(&self, query: &StackQuery) -> Vec<(SeriesKey, Row)> {
        let chosen = self.rows.iter().filter(|(key, _)| {
            key.profile_type == query.profile_type
                && query.tenants.contains(&key.tenant)
                && query.selector.matches(key)
        });
        let (cumulative, mut rows): (Vec<_>, Vec<_>) =
            chosen.cloned().partition(|(key, _)| key.is_cumulative());
        rows.extend(news(&cumulative));
        rows.retain(|(key, row)| {
            let is_chosen = |ids: &Vec<ProfileId>| ids.contains(&ProfileId::new(key, row.time));
            query.range.contains(row.time)
                && self.counts(row, query)
                && query.profiles.as_ref().is_none_or(is_chosen)
        });
        rows
    }

    /// Whether the row's stack begins with the call site of the query and goes through its function.
    fn counts(&self, row: &Row, query: &StackQuery) -> bool {
        let names = frame_names(&self.symbols, row.stack);
        names.len() >= query.call_site.len()
            && names.iter().zip(&query.call_site).all(|(a, b)| a == b)
            && query.function.as_ref().is_none_or(|function| names.iter().any(|name| name == function))
    }
}

/// What each profile has more than the one within an hour before it, or all of it where something has become less.
fn news(rows: &[(SeriesKey, Row)]) -> Vec<(SeriesKey, Row)> {
    let mut series: BTreeMap<&SeriesKey, BTreeMap<UnixMs, BTreeMap<StackId, i64>>> = BTreeMap::new();
    for (key, Row { time, stack, value }) in rows {
        let of_stack = series.entry(key).or_default().entry(*time).or_default().entry(*stack).or_insert(0);
        *of_stack = (*of_stack).max(*value);
    }
    let mut news = Vec::new();
    for (key, profiles) in series {
        let profiles: Vec<_> = profiles.into_iter().collect();
        for pair in profiles.windows(2) {
            let ((before_at, before), (time, now)) = (&pair[0], &pair[1]);
            let is_anew = now.iter().any(|(stack, value)| before.get(stack).is_some_and(|old| value < old));
            for (stack, value) in now.iter().filter(|_| time.0 - before_at.0 <= 3_600_000) {
                let old = before.get(stack).filter(|_| !is_anew).unwrap_or(&0);
                if value > old {
                    news.push((key.clone(), Row { time: *time, stack: *stack, value: value - old }));
                }
            }
        }
    }
    news
}

impl MemoryStore {
    fn keys(&self, tenants: &Tenants, selector: &Selector, range: TimeRange) -> BTreeSet<SeriesKey> {
        let data = self.data.lock().unwrap();
        let rows = data.rows.iter().filter(|(key, row)| range.contains(row.time) && selector.matches(key));
        let rows = rows.filter(|(key, _)| tenants.contains(&key.tenant));
        rows.map(|(key, _)| key.clone()).collect()
    }
}

impl ProfileStore for MemoryStore {
    fn append(&self, batch: Batch) -> Appending<'_> {
        Box::pin(async move {
            if let Some(error) = self.fail_next.lock().unwrap().take() {
                return Err(error);
            }
            let mut data = self.data.lock().unwrap();
            let remap = data.symbols.merge(&batch.symbols);
            for series in batch.series {
                let SeriesRows { labels, profile_type, rows } = series;
                let key = SeriesKey { labels, profile_type, tenant: batch.tenant.clone() };
                for row in rows {
                    let stack = remap.stacks[row.stack.index()];
                    data.rows.push((key.clone(), Row { stack, ..row }));
                }
            }
            Ok(())
        })
    }

    /// No query is worth ending.
    fn on_behalf(self: Arc<Self>, _: Stop) -> Arc<dyn ProfileStore> {
        self
    }

    fn queries(&self) -> Vec<QueryStatus> {
        Vec::new()
    }

    fn profile_types(&self, tenants: &Tenants, range: TimeRange) -> Result<Vec<ProfileType>, ApiError> {
        let types: BTreeSet<String> = self
            .keys(tenants, &Selector::all(), range)
            .iter()
            .map(|key| key.profile_type.to_string())
            .collect();
        Ok(types.iter().map(|id| id.parse().unwrap()).collect())
    }

    fn label_names(
        &self,
        tenants: &Tenants,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<String>, ApiError> {
        let keys = self.keys(tenants, selector, range);
        let names: BTreeSet<&str> = keys.iter().flat_map(SeriesKey::label_names).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn label_values(
        &self,
        tenants: &Tenants,
        name: &str,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<String>, ApiError> {
        let keys = self.keys(tenants, selector, range);
        let values: BTreeSet<String> =
            keys.iter().filter_map(|key| Some(key.label(name)?.into_owned())).collect();
        Ok(values.into_iter().collect())
    }

    fn series(
        &self,
        tenants: &Tenants,
        selector: &Selector,
        range: TimeRange,
    ) -> Result<Vec<SeriesKey>, ApiError> {
        Ok(self.keys(tenants, selector, range).into_iter().collect())
    }

    fn merge_stacks(&self, query: &StackQuery) -> Result<StackProfile, ApiError> {
        let data = self.data.lock().unwrap();
        let mut sums = BTreeMap::new();
        for (_, row) in data.matching(query) {
            *sums.entry(row.stack).or_default() += row.value;
        }
        Ok(StackProfile { symbols: data.symbols.clone(), values: sums.into_iter().collect() })
    }

    fn flame_tree(&self, query: &StackQuery, max_nodes: usize) -> Result<FlameTree, ApiError> {
        Ok(FlameTree::from_profile(&self.merge_stacks(query)?, max_nodes))
    }

    fn flame_diff(
        &self,
        sides: [Option<&StackQuery>; 2],
        max_nodes: usize,
    ) -> Result<FlameTree<2>, ApiError> {
        let side = |query: Option<&StackQuery>| {
            query.map_or(Ok(StackProfile::default()), |query| self.merge_stacks(query))
        };
        Ok(FlameTree::of_profiles([&side(sides[0])?, &side(sides[1])?], max_nodes))
    }

    fn select_series(&self, query: &SeriesQuery) -> Result<Vec<GroupSeries>, ApiError> {
        let data = self.data.lock().unwrap();
        let range = query.stacks.range;
        let mut groups: BTreeMap<LabelSet, BTreeMap<i64, i64>> = BTreeMap::new();
        for (key, row) in data.matching(&StackQuery { range: EVER, ..query.stacks.clone() }) {
            // Buckets are open at their start and closed at their end, which is their stamp.
            let step = (row.time.0 - range.start.0 + query.step_ms - 1).div_euclid(query.step_ms);
            let stamp = range.start.0 + step * query.step_ms;
            if step < 0 || stamp > range.end.0 {
                continue;
            }
            let label = |name: &String| (name.clone(), key.label(name).unwrap_or_default().into_owned());
            let group = groups.entry(LabelSet::from_pairs(query.group_by.iter().map(label))).or_default();
            *group.entry(stamp).or_default() += row.value;
        }
        let mut series: Vec<GroupSeries> = groups
            .into_iter()
            .map(|(labels, points)| GroupSeries {
                labels,
                points: points.into_iter().map(|(time, value)| (UnixMs(time), value)).collect(),
            })
            .collect();
        series.sort_by_key(|group| -group.points.iter().map(|(_, value)| value).sum::<i64>());
        Ok(series)
    }

    fn profiles(&self, query: &StackQuery) -> Result<Vec<SeriesProfiles>, ApiError> {
        let mut series: BTreeMap<SeriesKey, BTreeMap<UnixMs, i64>> = BTreeMap::new();
        for (key, row) in self.data.lock().unwrap().matching(query) {
            *series.entry(key).or_default().entry(row.time).or_default() += row.value;
        }
        let listed = series
            .into_iter()
            .map(|(key, profiles)| SeriesProfiles { key, profiles: profiles.into_iter().collect() });
        Ok(listed.collect())
    }

    fn extent(&self, tenants: &Tenants) -> Option<TimeRange> {
        let data = self.data.lock().unwrap();
        let times =
            || data.rows.iter().filter(|(key, _)| tenants.contains(&key.tenant)).map(|(_, row)| row.time);
        Some(TimeRange::new(times().min()?, times().max()?))
    }

    fn metrics(&self, out: &mut Exposition) {
        let rows = self.data.lock().unwrap().rows.len();
        out.gauge("test_store_rows", "Rows.", &[], rows as f64);
    }
}
