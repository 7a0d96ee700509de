//! Series over time: rows summed into steps, by group of labels, optionally only where the stack begins with given
//! functions or goes through one.
//!
//! Buckets are closed on the right, as the Pyroscope API has them: bucket k holds start + (k−1)·step < time ≤
//! start + k·step and is stamped with its right end; the last one is the last whose stamp is not after the end.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use pyrite_model::{LabelSet, SeriesKey, TimeRange, UnixMs};

use crate::QueryError;
use crate::job::{Held, Job, label_bytes};
use crate::query::{Fold, Scan, Source, StackQuery};
use crate::rows::Run;
use crate::segment::read::Grid;
use crate::shared::Shared;

/// Estimated memory of a group beside its labels and points: its places in the map and the lists.
const GROUP_BYTES: usize = 128;

/// A question about values over time.
#[derive(Clone, Debug)]
pub struct SeriesQuery {
    /// Which rows; the range's ends are the stamps of the first and at most of the last bucket.
    pub stacks: StackQuery,
    /// Width of a bucket.
    pub step_ms: i64,
    /// Labels whose values tell groups apart; none for a single group.
    pub group_by: Vec<String>,
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
        // 128 bits are divided by a function call; no time that a clock shows needs them.
        if let Some(before) = time.0.checked_sub(self.start).and_then(i64::checked_neg) {
            return -before.div_euclid(self.step);
        }
        let before = i128::from(self.start) - i128::from(time.0);
        (-before.div_euclid(i128::from(self.step))) as i64
    }

    /// What a bucket holds, both ends inside.
    fn range(self, bucket: i64) -> TimeRange {
        let end = self.stamp(bucket);
        TimeRange::new(UnixMs(end.0.saturating_sub(self.step).saturating_add(1)), end)
    }

    fn stamp(self, bucket: i64) -> UnixMs {
        UnixMs((i128::from(self.start) + i128::from(bucket) * i128::from(self.step)) as i64)
    }
}

/// Sums of one group by bucket. A bucket may be there more than once in between.
#[derive(Clone, Debug, Default)]
pub(crate) struct Points {
    sums: Vec<(i64, i64)>,
    /// So many of them are of different buckets, in order.
    settled: usize,
}

impl Points {
    /// What may be there unsettled beside twice what is settled.
    const SLACK: usize = 4096;

    pub(crate) fn add(&mut self, bucket: i64, value: i64) {
        match self.sums.last_mut() {
            Some((last, sum)) if *last == bucket => *sum = sum.saturating_add(value),
            _ => self.sums.push((bucket, value)),
        }
        if self.sums.len() > 2 * self.settled + Self::SLACK {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.sums.sort_by_key(|(bucket, _)| *bucket);
        self.sums.dedup_by(|(bucket, value), (before, sum)| {
            let same = bucket == before;
            if same {
                *sum = sum.saturating_add(*value);
            }
            same
        });
        self.settled = self.sums.len();
    }

    /// How many buckets there are.
    pub(crate) fn count(&mut self) -> usize {
        self.settle();
        self.sums.len()
    }

    /// How many sums are held: at least as many as there are buckets.
    pub(crate) fn held(&self) -> usize {
        self.sums.len()
    }

    /// The sums in order of their buckets, each of which is there once.
    pub(crate) fn into_sums(mut self) -> Vec<(i64, i64)> {
        self.settle();
        self.sums
    }

    /// What they take.
    pub(crate) fn bytes(&self) -> usize {
        self.sums.capacity() * size_of::<(i64, i64)>()
    }
}

/// The sum of values; `None` where there are none.
fn sum_of<'a>(values: impl Iterator<Item = &'a i64>) -> Option<i64> {
    values.copied().reduce(i64::saturating_add)
}

/// The sums of one source.
struct Part {
    buckets: Buckets,
    /// By stack of the source, whether it counts; `None` where every one does.
    counts: Option<Vec<bool>>,
    /// Which group a series of the source belongs to.
    group_of: HashMap<u32, usize>,
    points: Vec<Points>,
    /// What they take.
    point_bytes: usize,
}

/// The sums of all sources.
struct Timeline<'a> {
    query: &'a SeriesQuery,
    job: &'a Job,
    buckets: Buckets,
    limit: usize,
    groups: BTreeMap<LabelSet, usize>,
    points: Vec<Points>,
    /// What they are counted with.
    point_bytes: Held<'a>,
}

impl Timeline<'_> {
    fn group_of(&mut self, key: &SeriesKey) -> usize {
        let names = self.query.group_by.iter();
        let pairs = names.filter_map(|name| Some((name.clone(), key.label(name)?.into_owned())));
        let (labels, next) = (LabelSet::from_pairs(pairs), self.points.len());
        if let Some(&group) = self.groups.get(&labels) {
            return group;
        }
        self.job.keep(GROUP_BYTES + label_bytes(&labels));
        self.groups.insert(labels, next);
        self.points.push(Points::default());
        next
    }

    /// Series without points are left out.
    fn into_series(self) -> Vec<GroupSeries> {
        let Self { buckets, groups, mut points, job, .. } = self;
        let mut series: Vec<(i64, GroupSeries)> = Vec::new();
        for (labels, group) in groups {
            let mut of_group = std::mem::take(&mut points[group]);
            of_group.settle();
            let sum = of_group.sums.iter().fold(0_i64, |sum, (_, value)| sum.saturating_add(*value));
            let points: Vec<_> = of_group.sums.iter().map(|(k, value)| (buckets.stamp(*k), *value)).collect();
            if !points.is_empty() {
                job.keep(size_of_val(&*points));
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

    fn needs_stacks(&self) -> bool {
        self.query.stacks.chooses_stacks()
    }

    fn grid(&self) -> Grid {
        Grid::Steps { origin: self.buckets.start, step: self.buckets.step }
    }

    fn begin(&mut self, source: &Source<'_>) -> Result<Part, QueryError> {
        let chosen = source.stacks.filter(|_| self.needs_stacks());
        let counts = chosen.map(|stacks| self.query.stacks.counted_stacks(stacks));
        let mut group_of = HashMap::with_capacity(source.series.len());
        for (at, (id, key)) in source.series.iter().enumerate() {
            self.job.check_at(at)?;
            group_of.insert(*id, self.group_of(key));
        }
        let points = vec![Points::default(); self.points.len()];
        Ok(Part { buckets: self.buckets, counts, group_of, points, point_bytes: 0 })
    }

    fn add(part: &mut Part, rows: Run<'_>) {
        let points = &mut part.points[part.group_of[&rows.series]];
        let before = points.bytes();
        let mut rest = 0..rows.times.len();
        while let Some(first) = rest.next() {
            let bucket = part.buckets.of(UnixMs(rows.times[first]));
            // Neighbours are mostly of one bucket.
            let holds = part.buckets.range(bucket);
            let same =
                rows.times[rest.clone()].iter().take_while(|time| holds.contains(UnixMs(**time))).count();
            let of_bucket = first..rest.start + same;
            rest.start = of_bucket.end;
            let sum = match &part.counts {
                None => sum_of(rows.values[of_bucket].iter()),
                Some(counts) => {
                    let stacks = rows.stacks[of_bucket.clone()].iter();
                    let counted =
                        stacks.zip(&rows.values[of_bucket]).filter(|(stack, _)| counts[**stack as usize]);
                    sum_of(counted.map(|(_, value)| value))
                }
            };
            if let Some(sum) = sum {
                points.add(bucket, sum);
            }
        }
        part.point_bytes += points.bytes() - before;
    }

    fn bytes(part: &Part) -> usize {
        part.counts.as_ref().map_or(0, Vec::len)
            + part.group_of.capacity() * size_of::<(u32, usize)>()
            + part.points.len() * size_of::<Points>()
            + part.point_bytes
    }

    fn end(&mut self, part: Part, _source: &Source<'_>) -> Result<(), QueryError> {
        for (points, new) in self.points.iter_mut().zip(part.points) {
            new.sums.into_iter().for_each(|(bucket, value)| points.add(bucket, value));
        }
        self.point_bytes.set(self.points.iter().map(Points::bytes).sum());
        let limit = self.limit;
        let upper: usize = self.points.iter().map(|points| points.sums.len()).sum();
        if upper > limit && self.points.iter_mut().map(Points::count).sum::<usize>() > limit {
            return Err(QueryError::TooManyPoints { limit });
        }
        Ok(())
    }
}

/// Runs the query; series with the largest sums come first, equal ones in order of their labels.
pub(crate) fn select_series(
    shared: &Shared,
    job: &Job,
    query: &SeriesQuery,
) -> Result<Vec<GroupSeries>, QueryError> {
    let step_ms = query.step_ms;
    if step_ms < 1 {
        return Err(QueryError::BadStep { step_ms });
    }
    let Some(buckets) = Buckets::new(query.stacks.range, step_ms) else {
        return Ok(Vec::new());
    };
    let limit = shared.config.limits.query_points;
    let (groups, points, point_bytes) = (BTreeMap::new(), Vec::new(), job.hold(0));
    let mut timeline = Timeline { query, job, buckets, limit, groups, points, point_bytes };
    let rows = StackQuery { range: buckets.window(), ..query.stacks.clone() };
    Scan { shared, job, query: &rows }.run(&mut timeline)?;
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
}
