//! What one segment holds: its series, the id each has in it, and its first and last row.
//!
//! Ordered by series, so that the set of them is a bitmap and the rest are columns of few bits; a segment that a
//! window covers then adds its series by words, and one of which few series are asked for is looked up.

use pyrite_model::{TimeRange, UnixMs};

use super::column::{BLOCK, Column};
use super::set::{Places, Postings, SeriesId, SeriesSet};

/// A series in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldSeries {
    pub(super) series: SeriesId,
    /// The id that the segment's samples use.
    pub(super) local: u32,
    /// Its first and last row.
    pub(super) range: TimeRange,
}

#[derive(Debug)]
pub(super) struct Held {
    series: Postings,
    places: Places,
    locals: Column,
    firsts: Column,
    lasts: Column,
    /// Of all rows; `None` without any.
    range: Option<TimeRange>,
}

/// Looking up a series takes as long as going past some of them.
const LOOKUP_COST: usize = 8;

/// Whether the series of a block have room for a row inside a window.
#[derive(Clone, Copy)]
enum Inside {
    All,
    None,
    /// Each must be looked at.
    Some,
}

impl Held {
    /// Rows in any order, each series once.
    pub(super) fn new(mut rows: Vec<HeldSeries>) -> Self {
        rows.sort_unstable_by_key(|row| row.series);
        let series = Postings::from_sorted(rows.iter().map(|row| row.series).collect());
        let ranges = rows.iter().map(|row| row.range);
        Self {
            places: Places::new(&series),
            series,
            locals: Column::new(rows.iter().map(|row| i64::from(row.local))),
            firsts: Column::new(rows.iter().map(|row| row.range.start.0)),
            lasts: Column::new(rows.iter().map(|row| row.range.end.0)),
            range: ranges.reduce(|a, b| TimeRange::new(a.start.min(b.start), a.end.max(b.end))),
        }
    }

    pub(super) fn series(&self) -> &Postings {
        &self.series
    }

    /// Adds the wanted series whose first and last row leave room for one inside the window.
    pub(super) fn add_wanted_to(&self, window: TimeRange, wanted: &SeriesSet, found: &mut SeriesSet) {
        let covered = |range: TimeRange| window.start <= range.start && range.end <= window.end;
        if self.range.is_some_and(covered) {
            self.series.add_wanted_to(wanted, found);
        } else {
            self.for_each(window, wanted, |series, _| found.insert(series));
        }
    }

    /// Calls `each` with the same series and their places here.
    pub(super) fn for_each(
        &self,
        window: TimeRange,
        wanted: &SeriesSet,
        mut each: impl FnMut(SeriesId, usize),
    ) {
        if !self.range.is_some_and(|range| range.overlaps(window)) {
            return;
        }
        let fits = |at| self.firsts.get(at) <= window.end.0 && self.lasts.get(at) >= window.start.0;
        if wanted.len() < self.series.len() / LOOKUP_COST {
            let places =
                wanted.iter().filter_map(|series| Some((series, self.places.of(series, &self.series)?)));
            places.filter(|(_, at)| fits(*at)).for_each(|(series, at)| each(series, at));
            return;
        }
        let (mut at, mut inside) = (0, Inside::Some);
        self.series.for_each(|series| {
            if at % BLOCK == 0 {
                inside = self.inside(at / BLOCK, window);
            }
            let has_room = match inside {
                Inside::All => true,
                Inside::None => false,
                Inside::Some => fits(at),
            };
            if has_room && wanted.contains(series) {
                each(series, at);
            }
            at += 1;
        });
    }

    /// First and last row of the wanted series; `None` where none is here.
    pub(super) fn extent_of(&self, wanted: &SeriesSet) -> Option<TimeRange> {
        if self.series.is_within(wanted) {
            return self.range;
        }
        let mut extent: Option<TimeRange> = None;
        self.for_each(self.range?, wanted, |_, at| {
            let (first, last) = (UnixMs(self.firsts.get(at)), UnixMs(self.lasts.get(at)));
            let (start, end) = extent.map_or((first, last), |e| (e.start.min(first), e.end.max(last)));
            extent = Some(TimeRange::new(start, end));
        });
        extent
    }

    /// The id that the segment's samples use for the series at a place.
    pub(super) fn local(&self, at: usize) -> u32 {
        self.locals.get(at) as u32
    }

    fn inside(&self, block: usize, window: TimeRange) -> Inside {
        let (first_begins, last_begins) = self.firsts.bounds(block);
        let (first_ends, last_ends) = self.lasts.bounds(block);
        if first_begins > window.end.0 || last_ends < window.start.0 {
            Inside::None
        } else if last_begins <= window.end.0 && first_ends >= window.start.0 {
            Inside::All
        } else {
            Inside::Some
        }
    }

    /// Estimated memory.
    pub(super) fn bytes(&self) -> usize {
        let columns = [&self.locals, &self.firsts, &self.lasts].map(Column::bytes).iter().sum::<usize>();
        size_of::<Self>() + self.series.bytes() + self.places.bytes() + columns
    }
}
