//! Values that a program counts since its start, such as what Go allocated: what is new in each profile is what it has more
//! than the one before it.
//!
//! ```text
//! stored     a 100     a 150 b 20     a 150 b 20     a 30 b 40     a 35 b 40
//! new           –      a  50 b 20          –         a 30 b 40     a  5
//!             first                   pushed twice   restarted
//! ```
//!
//! * A profile is all that a series has of one instant. Where a stack has several values there, from pushes that were
//!   repeated, the largest counts.
//! * The one before it is the last one of its series within an hour. Where there is none, nothing is known to be new.
//! * Where any stack of both has less than before, the program has started anew and everything is new.
//!
//! What is new in a profile depends on it and on the one before it alone, so windows add up. Profiles are stored as they were
//! pushed and compared when they are asked for, in slices of time that are as long as there is room for their rows.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use pyrite_model::{SeriesKey, StackId, SymbolTable, TimeRange, UnixMs};

use crate::QueryError;
use crate::dictionary::{Copier, Dictionary};
use crate::profiles::EACH_INSTANT;
use crate::query::{Fold, Scan, Source, SourceStacks, StackQuery};
use crate::rows::Run;
use crate::segment::read::Grid;
use crate::shared::View;

/// How much earlier the profile before may be.
const REACH_MS: i64 = 3_600_000;
/// Lengths of slices: the first, and the longest behind one that had rows.
const FIRST_SLICE_MS: i64 = 3_600_000;
const LONGEST_SLICE_MS: i64 = 24 * 3_600_000;

/// Feeds what is new in each profile of the query to the fold; of series that count otherwise every row as it is stored.
pub(crate) fn run<F: Fold>(scan: Scan<'_>, fold: &mut F) -> Result<(), QueryError> {
    let Scan { shared, job, query } = scan;
    if !query.profile_type.may_be_cumulative() {
        return scan.run_stored(fold);
    }
    scan.run_stored(&mut Others(&mut *fold))?;
    let limit = shared.config.limits.compared_values;
    let mut comparison = Comparison { query, limit, known: Known::default(), before: HashMap::new() };
    let mut counted = 0;
    let mut slices = Slices::new(query.range);
    while let Some(range) = slices.next(&shared.view()) {
        let slice = StackQuery { range, ..query.clone() };
        let mut rows = Collecting::new(&mut comparison.known, limit);
        match (Scan { query: &slice, ..scan }).run_stored(&mut rows) {
            Err(QueryError::TooManyToCompare { .. }) if slices.shorten() => continue,
            read => read?,
        }
        let rows = rows.rows;
        slices.advance(range, rows.len(), limit);
        // Twice: as they are read, and as they are put together with those before them.
        let needed = 2 * (rows.len() + comparison.held()) * size_of::<Row>();
        job.keep(needed.saturating_sub(counted));
        counted = counted.max(needed);
        job.check()?;
        comparison.take(rows, range.start, fold)?;
    }
    Ok(())
}

/// A window in slices that follow each other; gaps in which nothing is stored are left out.
struct Slices {
    at: i64,
    end: i64,
    length: i64,
}

impl Slices {
    fn new(window: TimeRange) -> Self {
        Self { at: window.start.0.saturating_sub(REACH_MS), end: window.end.0, length: FIRST_SLICE_MS }
    }

    fn next(&self, view: &View) -> Option<TimeRange> {
        let of_heads = view.heads().filter_map(|head| head.read().range());
        let stored = view.segments.iter().map(|segment| segment.range).chain(of_heads);
        let ahead = stored.filter(|range| range.end.0 >= self.at).map(|range| range.start.0.max(self.at));
        let start = ahead.min().filter(|start| *start <= self.end)?;
        let end = start.saturating_add(self.length - 1).min(self.end);
        Some(TimeRange::new(UnixMs(start), UnixMs(end)))
    }

    /// Returns whether slices could be shorter than they were.
    fn shorten(&mut self) -> bool {
        self.length /= 2;
        self.length > 0
    }

    /// Goes on behind a slice that had so many of at most `limit` rows, in longer ones where there is room.
    fn advance(&mut self, slice: TimeRange, rows: usize, limit: usize) {
        self.at = slice.end.0.saturating_add(1);
        if slice.end.0 == i64::MAX {
            // There is nothing behind it.
            self.end = i64::MIN;
        }
        self.length = match self.length.saturating_mul(2) {
            // One segment may hold rows from both ends of time: a day after the other would be without end.
            longer if rows == 0 => longer,
            longer if rows < limit / 4 => longer.min(LONGEST_SLICE_MS),
            _ => self.length.min(LONGEST_SLICE_MS),
        };
    }
}

/// A fold that does not see series whose values are to be compared.
struct Others<'a, F>(&'a mut F);

impl<F: Fold> Fold for Others<'_, F> {
    /// The inner one, and whether it sees a series.
    type Part = (F::Part, HashMap<u32, bool>);

    fn needs_stacks(&self) -> bool {
        self.0.needs_stacks()
    }

    fn grid(&self) -> Grid {
        self.0.grid()
    }

    fn begin(&mut self, source: &Source<'_>) -> Result<Self::Part, QueryError> {
        let seen = source.series.iter().map(|(id, key)| (*id, !key.is_cumulative()));
        Ok((self.0.begin(source)?, seen.collect()))
    }

    fn add((part, seen): &mut Self::Part, rows: Run<'_>) {
        if seen[&rows.series] {
            F::add(part, rows);
        }
    }

    fn bytes((part, _): &Self::Part) -> usize {
        F::bytes(part)
    }

    fn end(&mut self, (part, _): Self::Part, source: &Source<'_>) -> Result<(), QueryError> {
        self.0.end(part, source)
    }
}

/// A value, with its series and dictionary as [`Known`] numbers them.
#[derive(Clone, Copy, Debug)]
struct Row {
    series: u32,
    dictionary: u32,
    stack: u32,
    time: i64,
    value: i64,
}

/// The series and dictionaries that were met.
#[derive(Default)]
struct Known {
    series: Vec<(u32, Arc<SeriesKey>)>,
    ids: HashMap<Arc<SeriesKey>, u32>,
    dictionaries: Vec<Arc<Dictionary>>,
}

impl Known {
    fn series(&mut self, key: &Arc<SeriesKey>) -> u32 {
        let next = self.series.len() as u32;
        let id = *self.ids.entry(Arc::clone(key)).or_insert(next);
        if id == next {
            self.series.push((id, Arc::clone(key)));
        }
        id
    }

    fn dictionary(&mut self, dictionary: &Arc<Dictionary>) -> u32 {
        let known = self.dictionaries.iter().position(|known| Arc::ptr_eq(known, dictionary));
        let at = known.unwrap_or_else(|| {
            self.dictionaries.push(Arc::clone(dictionary));
            self.dictionaries.len() - 1
        });
        at as u32
    }

    /// Numbers for the stacks of rows, the same for stacks that are the same in two dictionaries.
    fn numbers(&self, rows: &[Row]) -> Vec<u32> {
        if rows.windows(2).all(|pair| pair[0].dictionary == pair[1].dictionary) {
            return rows.iter().map(|row| row.stack).collect();
        }
        let mut numbers = vec![0; rows.len()];
        let mut common = SymbolTable::new();
        for (dictionary, at) in self.dictionaries.iter().zip(0..) {
            if rows.iter().all(|row| row.dictionary != at) {
                continue;
            }
            let symbols = dictionary.read();
            let mut copier = Copier::new(&symbols);
            let of_dictionary = rows.iter().zip(&mut numbers).filter(|(row, _)| row.dictionary == at);
            for (row, number) in of_dictionary {
                *number = copier.stack(&symbols, StackId(row.stack), &mut common).0;
            }
        }
        numbers
    }
}

/// Collects the rows of series whose values are to be compared.
struct Collecting<'a> {
    known: &'a mut Known,
    limit: usize,
    /// How many rows all parts have been given: several are read at once, and share what may be held.
    taken: Arc<AtomicUsize>,
    rows: Vec<Row>,
}

impl<'a> Collecting<'a> {
    fn new(known: &'a mut Known, limit: usize) -> Self {
        Self { known, limit, taken: Arc::default(), rows: Vec::new() }
    }
}

/// The same of one source, or of a share of it, whose stacks they still have.
struct CollectingPart {
    limit: usize,
    taken: Arc<AtomicUsize>,
    is_full: bool,
    /// Series by their ids in the source.
    series: HashMap<u32, u32>,
    rows: Vec<Row>,
}

impl Fold for Collecting<'_> {
    type Part = CollectingPart;

    fn needs_stacks(&self) -> bool {
        true
    }

    fn grid(&self) -> Grid {
        EACH_INSTANT
    }

    fn begin(&mut self, source: &Source<'_>) -> Result<CollectingPart, QueryError> {
        let compared = source.series.iter().filter(|(_, key)| key.is_cumulative());
        let series = compared.map(|(id, key)| (*id, self.known.series(key))).collect();
        let (limit, taken) = (self.limit, Arc::clone(&self.taken));
        Ok(CollectingPart { limit, taken, is_full: false, series, rows: Vec::new() })
    }

    fn add(part: &mut CollectingPart, rows: Run<'_>) {
        let Some(&series) = part.series.get(&rows.series) else { return };
        let count = rows.values.len();
        if part.taken.fetch_add(count, Ordering::Relaxed).saturating_add(count) > part.limit {
            part.is_full = true;
            // None of them is going to be compared.
            part.rows = Vec::new();
            return;
        }
        let each = rows.times.iter().zip(rows.stacks).zip(rows.values);
        let row = |((time, stack), value): ((&i64, &u32), &i64)| Row {
            series,
            dictionary: 0,
            stack: *stack,
            time: *time,
            value: *value,
        };
        part.rows.extend(each.map(row));
    }

    fn bytes(part: &CollectingPart) -> usize {
        part.rows.capacity() * size_of::<Row>()
    }

    fn end(&mut self, part: CollectingPart, source: &Source<'_>) -> Result<(), QueryError> {
        if part.is_full {
            return Err(QueryError::TooManyToCompare { limit: self.limit });
        }
        if let Some(stacks) = source.stacks.filter(|_| !part.rows.is_empty()) {
            let dictionary = self.known.dictionary(stacks.dictionary);
            let of_source = part.rows.into_iter();
            let row = |row: Row| Row { dictionary, stack: stacks.of(row.stack as usize).0, ..row };
            self.rows.extend(of_source.map(row));
        }
        Ok(())
    }
}

/// Compares profiles with those before them, in order of time.
struct Comparison<'a> {
    query: &'a StackQuery,
    /// How many values may be held.
    limit: usize,
    known: Known,
    /// The last profile by series, each stack once.
    before: HashMap<u32, Vec<Row>>,
}

impl Comparison<'_> {
    /// How many values are held of the last profiles.
    fn held(&self) -> usize {
        self.before.values().map(Vec::len).sum()
    }

    /// Takes the rows of a slice that begins at `start`.
    fn take<F: Fold>(&mut self, mut rows: Vec<Row>, start: UnixMs, fold: &mut F) -> Result<(), QueryError> {
        self.before.retain(|_, before| is_in_reach(before, start.0));
        rows.sort_unstable_by_key(|row| (row.series, row.time));
        let mut new = Vec::new();
        for profile in rows.chunk_by(|a, b| (a.series, a.time) == (b.series, b.time)) {
            let Row { series, time, .. } = profile[0];
            let before = self.before.remove(&series).filter(|before| is_in_reach(before, time));
            let known = before.is_some();
            let (profile, changes) = self.compare(before.unwrap_or_default(), profile);
            if known && self.query.range.contains(UnixMs(time)) {
                new.extend(changes);
            }
            self.before.insert(series, profile);
        }
        let held = self.held();
        if held > self.limit {
            return Err(QueryError::TooManyToCompare { limit: self.limit });
        }
        self.feed(new, fold)
    }

    /// The profile with each stack once, and what is new in it.
    fn compare(&self, before: Vec<Row>, profile: &[Row]) -> (Vec<Row>, Vec<Row>) {
        let first = before.len();
        let both = [before, profile.to_vec()].concat();
        let numbers = self.known.numbers(&both);
        let old: HashMap<u32, i64> =
            numbers[..first].iter().zip(&both).map(|(number, row)| (*number, row.value)).collect();
        let mut rows: Vec<(u32, Row)> =
            numbers[first..].iter().copied().zip(both[first..].iter().copied()).collect();
        rows.sort_unstable_by_key(|(number, row)| (*number, Reverse(row.value)));
        rows.dedup_by_key(|(number, _)| *number);
        let old_of = |number: &u32| old.get(number).copied();
        let is_anew = rows.iter().any(|(number, row)| old_of(number).is_some_and(|old| row.value < old));
        let change = |(number, row): &(u32, Row)| {
            let old = old_of(number).filter(|_| !is_anew).unwrap_or(0);
            Row { value: row.value.saturating_sub(old), ..*row }
        };
        let changes = rows.iter().map(change).filter(|row| row.value != 0).collect();
        (rows.into_iter().map(|(_, row)| row).collect(), changes)
    }

    /// Feeds rows to the fold, those of each dictionary as if they were a source.
    fn feed<F: Fold>(&self, mut rows: Vec<Row>, fold: &mut F) -> Result<(), QueryError> {
        rows.sort_unstable_by_key(|row| (row.dictionary, row.series, row.time));
        for of_source in rows.chunk_by(|a, b| a.dictionary == b.dictionary) {
            let dictionary = &self.known.dictionaries[of_source[0].dictionary as usize];
            let stacks = Some(SourceStacks::all_of(dictionary));
            let source = Source { series: &self.known.series, stacks };
            let mut part = fold.begin(&source)?;
            for of_series in of_source.chunk_by(|a, b| a.series == b.series) {
                let times: Vec<i64> = of_series.iter().map(|row| row.time).collect();
                let stacks: Vec<u32> = of_series.iter().map(|row| row.stack).collect();
                let values: Vec<i64> = of_series.iter().map(|row| row.value).collect();
                let series = of_series[0].series;
                F::add(&mut part, Run { series, times: &times, stacks: &stacks, values: &values });
            }
            fold.end(part, &source)?;
        }
        Ok(())
    }
}

/// Whether something of this time can have the profile before it.
fn is_in_reach(before: &[Row], time: i64) -> bool {
    before.first().is_some_and(|row| row.time >= time.saturating_sub(REACH_MS))
}

#[cfg(test)]
mod tests {
    use pyrite_model::{LabelSet, Tenant};

    use super::*;

    #[test]
    fn parts_that_are_read_at_once_hold_no_more_than_one() {
        const LIMIT: usize = 1000;
        let profile_type = "memory:alloc_space:bytes:space:bytes".parse().unwrap();
        let key = SeriesKey { labels: LabelSet::default(), profile_type, tenant: Tenant::default() };
        let (mut known, series) = (Known::default(), [(0, Arc::new(key))]);
        let mut rows = Collecting::new(&mut known, LIMIT);
        let source = Source { series: &series, stacks: None };
        let mut parts: Vec<_> = (0..16).map(|_| rows.begin(&source).unwrap()).collect();
        for _ in 0..LIMIT {
            for part in &mut parts {
                Collecting::add(part, Run { series: 0, times: &[1], stacks: &[1], values: &[1] });
            }
        }
        let bytes: usize = parts.iter().map(Collecting::bytes).sum();
        assert!(bytes <= 2 * LIMIT * size_of::<Row>(), "{bytes} bytes");
        let ended = parts.into_iter().try_for_each(|part| rows.end(part, &source));
        assert!(matches!(ended, Err(QueryError::TooManyToCompare { limit: LIMIT })), "{ended:?}");
    }
}
