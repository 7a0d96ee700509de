//! Series over time: rows summed into steps, by group of labels, optionally only where the stack begins with given
//! functions.
//!
//! Buckets are closed on the right, as the Pyroscope API has them: bucket k holds start + (k−1)·step < time ≤
//! start + k·step and is stamped with its right end; the last one is the last whose stamp is not after the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_model::{LabelSet, SeriesKey, TimeRange, UnixMs};

use crate::QueryError;
use crate::query::{Fold, StackQuery, run};
use crate::rows::StoredRow;
use crate::shared::Shared;
use crate::symbols::Symbols;

/// A question about values over time.
#[derive(Clone, Debug)]
pub struct SeriesQuery {
    /// Which rows; the range's ends are the stamps of the first and at most of the last bucket.
    pub stacks: StackQuery,
    /// Width of a bucket.
    pub step_ms: i64,
    /// Labels whose values tell groups apart; none for a single group.
    pub group_by: Vec<String>,
    /// Function names from the root on that a stack must begin with to count; none for every stack.
    pub call_site: Vec<String>,
}

/// The values of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSeries {
    /// The group's labels: those of `group_by` that its series have.
    pub labels: LabelSet,
    /// Time and sum, in order of time; buckets without rows are left out.
    pub points: Vec<(UnixMs, i64)>,
}

/// The buckets of a query.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    start: i64,
    step: i64,
    last: i64,
}

impl Buckets {
    fn new(range: TimeRange, step: i64) -> Option<Self> {
        let span = i128::from(range.end.0) - i128::from(range.start.0);
        let last = span.div_euclid(i128::from(step));
        (last >= 0).then(|| Self { start: range.start.0, step, last: last.min(i128::from(i64::MAX)) as i64 })
    }

    /// The window of all buckets, both ends inside.
    fn window(self) -> TimeRange {
        let first = self.start.saturating_sub(self.step).saturating_add(1);
        TimeRange::new(UnixMs(first), self.stamp(self.last))
    }

    /// Which bucket an instant inside the window belongs to.
    fn of(self, time: UnixMs) -> i64 {
        let offset = i128::from(time.0) - i128::from(self.start);
        (-(-offset).div_euclid(i128::from(self.step))) as i64
    }

    fn stamp(self, bucket: i64) -> UnixMs {
        UnixMs((i128::from(self.start) + i128::from(bucket) * i128::from(self.step)) as i64)
    }
}

/// Which stacks count.
enum StackFilter {
    Every,
    Only(Vec<bool>),
}

impl StackFilter {
    fn keeps(&self, stack: u32) -> bool {
        match self {
            Self::Every => true,
            Self::Only(stacks) => stacks.get(stack as usize).copied().unwrap_or(false),
        }
    }

    /// The stacks whose frames, from the root, begin with these functions.
    fn new(call_site: &[String], symbols: Option<&dyn Symbols>) -> Self {
        let Some(symbols) = symbols.filter(|_| !call_site.is_empty()) else {
            return Self::Every;
        };
        let mut states: Vec<Option<Matched>> = vec![None; symbols.lens().stacks];
        for id in 0..states.len() as u32 {
            resolve(id, call_site, symbols, &mut states);
        }
        Self::Only(states.into_iter().map(|state| state == Some(Matched::Frames(call_site.len()))).collect())
    }
}

/// How far the frames from the root to a node agree with a call site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matched {
    Frames(usize),
    No,
}

fn resolve(id: u32, call_site: &[String], symbols: &dyn Symbols, states: &mut [Option<Matched>]) {
    let mut path = Vec::new();
    let mut next = Some(id);
    let mut state = Matched::Frames(0);
    while let Some(id) = next {
        if let Some(known) = states[id as usize] {
            state = known;
            break;
        }
        path.push(id);
        next = symbols.stack(id).0;
    }
    for id in path.into_iter().rev() {
        state = advance(state, symbols.stack(id).1, call_site, symbols);
        states[id as usize] = Some(state);
    }
}

/// Follows the frames of one location; the outermost function comes first.
fn advance(state: Matched, location: u32, call_site: &[String], symbols: &dyn Symbols) -> Matched {
    let mut state = state;
    let lines = symbols.location(location).lines;
    if lines.is_empty() && state != Matched::Frames(call_site.len()) {
        // A frame without a function has no name that a call site could give.
        return Matched::No;
    }
    for line in lines.iter().rev() {
        match state {
            Matched::Frames(n) if n < call_site.len() => {
                let same = symbols.function(line.function.0).name == call_site[n];
                state = if same { Matched::Frames(n + 1) } else { Matched::No };
            }
            done => return done,
        }
    }
    state
}

/// Sums of one group by bucket.
type Points = HashMap<i64, i64>;

/// The sums of one source.
struct Part {
    buckets: Buckets,
    filter: StackFilter,
    /// Which group a series of the source belongs to.
    group_of: HashMap<u32, usize>,
    points: Vec<Points>,
}

/// The sums of all sources.
struct Timeline<'a> {
    query: &'a SeriesQuery,
    buckets: Buckets,
    limit: usize,
    groups: BTreeMap<LabelSet, usize>,
    points: Vec<Points>,
}

impl Timeline<'_> {
    fn group_of(&mut self, key: &SeriesKey) -> usize {
        let names = self.query.group_by.iter();
        let pairs = names.filter_map(|name| Some((name.clone(), key.label(name)?.into_owned())));
        let next = self.points.len();
        let group = *self.groups.entry(LabelSet::from_pairs(pairs)).or_insert(next);
        if group == next {
            self.points.push(Points::new());
        }
        group
    }

    /// Series without points are left out.
    fn into_series(self) -> Vec<GroupSeries> {
        let Self { buckets, groups, mut points, .. } = self;
        let mut series: Vec<(i64, GroupSeries)> = Vec::new();
        for (labels, group) in groups {
            let points = std::mem::take(&mut points[group]);
            let sum = points.values().fold(0_i64, |sum, value| sum.saturating_add(*value));
            let mut points: Vec<_> = points.into_iter().map(|(k, value)| (buckets.stamp(k), value)).collect();
            points.sort_unstable();
            if !points.is_empty() {
                series.push((sum, GroupSeries { labels, points }));
            }
        }
        // Stable: among equal sums the order of labels, which the map gave, stays.
        series.sort_by_key(|(sum, _)| std::cmp::Reverse(*sum));
        series.into_iter().map(|(_, series)| series).collect()
    }
}

impl Fold for Timeline<'_> {
    type Part = Part;

    fn needs_symbols(&self) -> bool {
        !self.query.call_site.is_empty()
    }

    fn begin(&mut self, series: &[(u32, Arc<SeriesKey>)], symbols: Option<&dyn Symbols>) -> Part {
        let filter = StackFilter::new(&self.query.call_site, symbols);
        let group_of = series.iter().map(|(id, key)| (*id, self.group_of(key))).collect();
        Part { buckets: self.buckets, filter, group_of, points: vec![Points::new(); self.points.len()] }
    }

    fn row(part: &mut Part, row: StoredRow) {
        if part.filter.keeps(row.stack) {
            let points = &mut part.points[part.group_of[&row.series]];
            let sum = points.entry(part.buckets.of(row.time)).or_insert(0);
            *sum = sum.saturating_add(row.value);
        }
    }

    fn end(&mut self, part: Part, _symbols: Option<&dyn Symbols>) -> Result<(), QueryError> {
        for (points, new) in self.points.iter_mut().zip(part.points) {
            for (bucket, value) in new {
                let sum = points.entry(bucket).or_insert(0);
                *sum = sum.saturating_add(value);
            }
        }
        let limit = self.limit;
        let count: usize = self.points.iter().map(Points::len).sum();
        if count > limit { Err(QueryError::TooManyPoints { limit }) } else { Ok(()) }
    }
}

/// Runs the query; series with the largest sums come first, equal ones in order of their labels.
pub(crate) fn select_series(shared: &Shared, query: &SeriesQuery) -> Result<Vec<GroupSeries>, QueryError> {
    let step_ms = query.step_ms;
    if step_ms < 1 {
        return Err(QueryError::BadStep { step_ms });
    }
    let Some(buckets) = Buckets::new(query.stacks.range, step_ms) else {
        return Ok(Vec::new());
    };
    let limit = shared.config.limits.query_points;
    let (groups, points) = (BTreeMap::new(), Vec::new());
    let mut timeline = Timeline { query, buckets, limit, groups, points };
    let rows = StackQuery { range: buckets.window(), ..query.stacks.clone() };
    run(shared, &rows, &mut timeline)?;
    Ok(timeline.into_series())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_closed_on_the_right() {
        let buckets = Buckets::new(TimeRange::new(UnixMs(1000), UnixMs(2500)), 500).unwrap();
        assert_eq!(buckets.window(), TimeRange::new(UnixMs(501), UnixMs(2500)));
        for (time, stamp) in
            [(501, 1000), (1000, 1000), (1001, 1500), (1500, 1500), (2001, 2500), (2500, 2500)]
        {
            assert_eq!(buckets.stamp(buckets.of(UnixMs(time))), UnixMs(stamp), "{time}");
        }
    }

    #[test]
    fn what_follows_the_last_stamp_is_dropped() {
        let buckets = Buckets::new(TimeRange::new(UnixMs(0), UnixMs(1499)), 500).unwrap();
        assert_eq!(buckets.window(), TimeRange::new(UnixMs(-499), UnixMs(1000)));
        assert!(Buckets::new(TimeRange::new(UnixMs(1), UnixMs(0)), 1).is_none());
    }

    #[test]
    fn extreme_windows_do_not_overflow() {
        for (start, end) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MAX), (i64::MIN, i64::MIN)] {
            for step in [1, 7, i64::MAX] {
                let buckets = Buckets::new(TimeRange::new(UnixMs(start), UnixMs(end)), step).unwrap();
                let window = buckets.window();
                for time in [window.start, window.end] {
                    assert!(buckets.stamp(buckets.of(time)) >= UnixMs(start));
                }
            }
        }
    }

    #[test]
    fn call_sites_are_prefixes_from_the_root_inline_frames_included() {
        use pyrite_model::{Function, Line, Location, SymbolTable};
        let mut table = SymbolTable::new();
        let main = table.intern_named_location("main");
        let line = |table: &mut SymbolTable, name: &str| {
            let name = table.intern_str(name);
            Line { function: table.intern_function(Function { name, ..Function::default() }), line: 0 }
        };
        let lines = vec![line(&mut table, "inlined"), line(&mut table, "outer")];
        let both = table.intern_location(Location { lines, ..Location::default() });
        let bare = table.intern_location(Location { address: 7, ..Location::default() });
        let wanted = table.intern_stack(&[bare, both, main]).unwrap().0;
        let inlined = table.stack_node(pyrite_model::StackId(wanted)).parent.unwrap().0;
        let keeps = |names: &[&str], stack| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            StackFilter::new(&names, Some(&table)).keeps(stack)
        };
        assert!(keeps(&[], wanted));
        assert!(keeps(&["main"], wanted));
        assert!(keeps(&["main", "outer"], wanted));
        assert!(keeps(&["main", "outer", "inlined"], inlined));
        assert!(!keeps(&["outer"], wanted));
        assert!(!keeps(&["main", "outer", "inlined", "more"], wanted));
    }
}
