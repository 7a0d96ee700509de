//! Single profiles: all that one series has of one instant, listed, or read by themselves.
//!
//! Which rows were pushed together is not stored, so what a series has of an instant is one profile, whoever it came from; see
//! [`ProfileId`] for what names it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_model::{ProfileId, SeriesKey, TimeRange, UnixMs};

use crate::QueryError;
use crate::deltas;
use crate::job::{Held, key_bytes};
use crate::query::{Fold, Scan, Source, StackQuery};
use crate::rows::Run;
use crate::segment::read::Grid;
use crate::timeline::Points;

/// The profiles of one series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesProfiles {
    /// Which series.
    pub key: SeriesKey,
    /// Time and sum of all values that count, in order of time.
    pub profiles: Vec<(UnixMs, i64)>,
}

/// The profiles of the query's series, sorted by labels.
pub(crate) fn list(scan: Scan<'_>) -> Result<Vec<SeriesProfiles>, QueryError> {
    let Scan { shared, job, query } = scan;
    let limit = shared.config.limits.query_points;
    let (places, series, point_bytes) = (HashMap::new(), Vec::new(), job.hold(0));
    let mut listing = Listing { query, limit, places, series, point_bytes };
    scan.run(&mut listing)?;
    let profiles_of = |(key, points): (Arc<SeriesKey>, Points)| {
        let profiles = points.into_sums().into_iter().map(|(time, total)| (UnixMs(time), total)).collect();
        SeriesProfiles { key: SeriesKey::clone(&key), profiles }
    };
    let bytes = |found: &SeriesProfiles| key_bytes(&found.key) + size_of_val(&*found.profiles);
    let mut found = job.collect(listing.series.into_iter().map(profiles_of), bytes)?;
    found.retain(|series| !series.profiles.is_empty());
    found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

/// Sums by series and instant.
struct Listing<'a> {
    query: &'a StackQuery,
    /// How many there may be.
    limit: usize,
    /// Of a series in the list.
    places: HashMap<Arc<SeriesKey>, usize>,
    series: Vec<(Arc<SeriesKey>, Points)>,
    /// What the sums are counted with.
    point_bytes: Held<'a>,
}

/// The same of one source, whose series are in the order in which it names them.
struct ListingPart {
    limit: usize,
    /// By stack of the source, whether it counts; `None` where every one does.
    counted: Option<Vec<bool>>,
    places: HashMap<u32, usize>,
    points: Vec<Points>,
    /// What they take.
    point_bytes: usize,
    held: usize,
    is_full: bool,
}

impl ListingPart {
    /// Notes how many sums there are; when they may be too many, looks how many they are without repetitions.
    fn grow(&mut self, by: usize) {
        self.held += by;
        if self.held > 2 * self.limit {
            self.held = self.points.iter_mut().map(Points::count).sum();
            self.is_full = self.held > self.limit;
        }
    }
}

impl Fold for Listing<'_> {
    type Part = ListingPart;

    fn needs_stacks(&self) -> bool {
        self.query.chooses_stacks()
    }

    fn grid(&self) -> Grid {
        EACH_INSTANT
    }

    fn begin(&mut self, source: &Source<'_>) -> Result<ListingPart, QueryError> {
        let chosen = source.stacks.filter(|_| self.needs_stacks());
        Ok(ListingPart {
            limit: self.limit,
            counted: chosen.map(|stacks| self.query.counted_stacks(stacks)),
            places: source.series.iter().enumerate().map(|(place, (id, _))| (*id, place)).collect(),
            points: vec![Points::default(); source.series.len()],
            point_bytes: 0,
            held: 0,
            is_full: false,
        })
    }

    fn add(part: &mut ListingPart, rows: Run<'_>) {
        if part.is_full {
            return;
        }
        let points = &mut part.points[part.places[&rows.series]];
        let (before, bytes) = (points.held(), points.bytes());
        for (at, (time, value)) in rows.times.iter().zip(rows.values).enumerate() {
            if part.counted.as_ref().is_none_or(|counted| counted[rows.stacks[at] as usize]) {
                points.add(*time, *value);
            }
        }
        let grown = points.held().saturating_sub(before);
        part.point_bytes += points.bytes() - bytes;
        part.grow(grown);
    }

    fn bytes(part: &ListingPart) -> usize {
        part.counted.as_ref().map_or(0, Vec::len)
            + part.places.capacity() * size_of::<(u32, usize)>()
            + part.points.len() * size_of::<Points>()
            + part.point_bytes
    }

    fn end(&mut self, part: ListingPart, source: &Source<'_>) -> Result<(), QueryError> {
        for ((_, key), new) in source.series.iter().zip(part.points) {
            let next = self.series.len();
            let place = *self.places.entry(Arc::clone(key)).or_insert(next);
            if place == next {
                self.series.push((Arc::clone(key), Points::default()));
            }
            let points = &mut self.series[place].1;
            new.into_sums().into_iter().for_each(|(time, value)| points.add(time, value));
        }
        let limit = self.limit;
        let bytes = |(_, points): &(_, Points)| size_of::<(Arc<SeriesKey>, usize, Points)>() + points.bytes();
        self.point_bytes.set(self.series.iter().map(bytes).sum());
        let held: usize = self.series.iter().map(|(_, points)| points.held()).sum();
        let is_full =
            held > limit && self.series.iter_mut().map(|(_, points)| points.count()).sum::<usize>() > limit;
        if part.is_full || is_full { Err(QueryError::TooManyProfiles { limit }) } else { Ok(()) }
    }
}

/// A grid on which no two instants are the same.
pub(crate) const EACH_INSTANT: Grid = Grid::Steps { origin: 0, step: 1 };

/// Feeds the rows of some profiles alone to the fold.
pub(crate) fn run_only<F: Fold>(scan: Scan<'_>, ids: &[ProfileId], fold: &mut F) -> Result<(), QueryError> {
    let mut times: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    let query = scan.query;
    let inside = || ids.iter().filter(|id| query.range.contains(id.time()));
    for id in inside() {
        times.entry(id.series()).or_default().push(id.time().0);
    }
    for times in times.values_mut() {
        times.sort_unstable();
    }
    let first_and_last = inside().map(|id| id.time()).min().zip(inside().map(|id| id.time()).max());
    let Some((first, last)) = first_and_last else { return Ok(()) };
    let query = StackQuery { range: TimeRange::new(first, last), ..query.clone() };
    deltas::run(Scan { query: &query, ..scan }, &mut Only { fold, times })
}

/// A fold that sees some profiles alone.
struct Only<'a, F> {
    fold: &'a mut F,
    /// Their times in order, by the hash of their series.
    times: BTreeMap<u64, Vec<i64>>,
}

/// The sums of one source, and the times in it that count, by series.
struct OnlyPart<P> {
    part: P,
    times: HashMap<u32, Vec<i64>>,
}

impl<F: Fold> Fold for Only<'_, F> {
    type Part = OnlyPart<F::Part>;

    fn needs_stacks(&self) -> bool {
        self.fold.needs_stacks()
    }

    fn grid(&self) -> Grid {
        EACH_INSTANT
    }

    fn begin(&mut self, source: &Source<'_>) -> Result<Self::Part, QueryError> {
        let times_of = |(id, key): &(u32, Arc<SeriesKey>)| {
            Some((*id, self.times.get(&ProfileId::series_of(key))?.clone()))
        };
        let times = source.series.iter().filter_map(times_of).collect();
        Ok(OnlyPart { part: self.fold.begin(source)?, times })
    }

    fn add(part: &mut Self::Part, rows: Run<'_>) {
        let Some(wanted) = part.times.get(&rows.series) else { return };
        let mut at = 0;
        for same in rows.times.chunk_by(|a, b| a == b) {
            let range = at..at + same.len();
            at = range.end;
            if wanted.binary_search(&same[0]).is_ok() {
                let stacks = rows.stacks.get(range.clone()).unwrap_or_default();
                let values = &rows.values[range];
                F::add(&mut part.part, Run { times: same, stacks, values, ..rows });
            }
        }
    }

    fn bytes(part: &Self::Part) -> usize {
        F::bytes(&part.part)
    }

    fn end(&mut self, part: Self::Part, source: &Source<'_>) -> Result<(), QueryError> {
        self.fold.end(part.part, source)
    }
}
