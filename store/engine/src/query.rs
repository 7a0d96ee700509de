//! Queries: rows summed by stack or by time.
//!
//! A query takes one view and reads each of its segments and heads once, so a row counts exactly once whatever the
//! writer and maintenance do meanwhile. A segment that turns out damaged is set aside and the rest answers.

use std::sync::Arc;

use pyrite_model::{ProfileType, Selector, SeriesKey, StackId, StackProfile, TimeRange, names};

use crate::head::Head;
use crate::rows::{RowBlock, StoredRow};
use crate::segment::SegmentInfo;
use crate::segment::dictionary::Dictionary;
use crate::segment::read::IdSet;
use crate::series_index::Selection;
use crate::shared::Shared;
use crate::symbols::{Copier, Symbols};
use crate::{QueryError, StoreError};

/// Which rows a query is about.
#[derive(Clone, Debug)]
pub struct StackQuery {
    /// What was counted.
    pub profile_type: ProfileType,
    /// Whose rows.
    pub selector: Selector,
    /// From when to when, both inclusive.
    pub range: TimeRange,
}

/// What a query makes of rows. Each source is summed by itself first, so that a damaged one leaves no trace.
pub(crate) trait Fold {
    /// The sums of one source.
    type Part;
    /// Whether the stacks' names matter; where they do not, segments need not read them.
    fn needs_symbols(&self) -> bool;
    /// Starts a source: the series that are asked for, by their ids in it, and its symbols where needed.
    fn begin(&mut self, series: &[(u32, Arc<SeriesKey>)], symbols: Option<&dyn Symbols>) -> Self::Part;
    /// Takes one row; its stack is one of the source's.
    fn row(part: &mut Self::Part, row: StoredRow);
    /// Adds the sums of one source to those of all.
    fn end(&mut self, part: Self::Part, symbols: Option<&dyn Symbols>) -> Result<(), QueryError>;
}

/// Feeds every row of the query to the fold.
pub(crate) fn run<F: Fold>(shared: &Shared, query: &StackQuery, fold: &mut F) -> Result<(), QueryError> {
    let view = shared.view();
    let mut selection = shared.series.choose(&query.profile_type, &query.selector);
    for segment in view.segments.iter().filter(|segment| segment.range.overlaps(query.range)) {
        match read_segment(shared, segment, query, &mut selection, fold) {
            Ok(Some(Done { part, dictionary })) => {
                fold.end(part, dictionary.as_deref().map(|symbols| symbols as &dyn Symbols))?;
            }
            Ok(None) => {}
            Err(error) => shared.give_up(segment, error)?,
        }
    }
    shared.cache.trim();
    for head in view.heads() {
        if head.read().range().is_some_and(|range| range.overlaps(query.range)) {
            read_head(head, query, fold)?;
        }
    }
    Ok(())
}

/// A segment that was read to its end.
struct Done<P> {
    part: P,
    dictionary: Option<Arc<Dictionary>>,
}

fn read_segment<F: Fold>(
    shared: &Shared,
    segment: &SegmentInfo,
    query: &StackQuery,
    selection: &mut Selection,
    fold: &mut F,
) -> Result<Option<Done<F::Part>>, StoreError> {
    let series = shared.series.held_by(&segment.name, selection, query.range);
    if series.is_empty() {
        return Ok(None);
    }
    let reader = shared.open_segment(segment)?;
    let dictionary = fold.needs_symbols().then(|| reader.dictionary(shared.files.as_ref())).transpose()?;
    let mut part = fold.begin(&series, dictionary.as_deref().map(|symbols| symbols as &dyn Symbols));
    reader.scan(&id_set(&series), query.range, |row| F::row(&mut part, row))?;
    Ok(Some(Done { part, dictionary }))
}

/// Reads a head; it stays writable but for the two moments when its symbols are looked at.
fn read_head<F: Fold>(head: &Head, query: &StackQuery, fold: &mut F) -> Result<(), QueryError> {
    let keys: Vec<Arc<SeriesKey>> = head.read().series.keys().to_vec();
    let parts = query.profile_type.made_of();
    let as_asked = |key: Arc<SeriesKey>| match () {
        () if key.profile_type == query.profile_type => Some(key),
        () if parts.contains(&key.profile_type) => as_part(&key, &query.profile_type),
        () => None,
    };
    let series = (0..).zip(keys).filter_map(|(id, key)| Some((id, as_asked(key)?)));
    let series: Vec<_> = series.filter(|(_, key)| query.selector.matches(key)).collect();
    let (blocks, mut part) = {
        // Together: rows that become visible later may have stacks that these symbols lack.
        let head = head.read();
        (head.blocks().to_vec(), fold.begin(&series, Some(&head.symbols)))
    };
    scan_blocks(&blocks, &id_set(&series), query.range, |row| F::row(&mut part, row));
    fold.end(part, Some(&head.read().symbols))
}

/// The series as one of `whole`, which it is a part of; only series that tell a state are.
fn as_part(key: &SeriesKey, whole: &ProfileType) -> Option<Arc<SeriesKey>> {
    key.labels.get(names::STATE)?;
    Some(Arc::new(SeriesKey { labels: key.labels.clone(), profile_type: whole.clone() }))
}

fn id_set(series: &[(u32, Arc<SeriesKey>)]) -> IdSet {
    let mut set = IdSet::default();
    for (id, _) in series {
        set.insert(*id);
    }
    set
}

fn scan_blocks(blocks: &[RowBlock], series: &IdSet, window: TimeRange, mut each: impl FnMut(StoredRow)) {
    for block in blocks.iter().filter(|block| block.range().overlaps(window)) {
        let rows = block.iter().filter(|row| series.contains(row.series) && window.contains(row.time));
        rows.for_each(&mut each);
    }
}

/// One value per stack over all rows of the query.
pub(crate) fn merge_stacks(shared: &Shared, query: &StackQuery) -> Result<StackProfile, QueryError> {
    let mut sum = StackSum::default();
    run(shared, query, &mut sum)?;
    let StackSum { mut profile, values } = sum;
    let values = values.into_iter().zip(0..).filter(|(value, _)| *value != 0);
    profile.values = values.map(|(value, id)| (StackId(id), value)).collect();
    Ok(profile)
}

/// Sums by stack; a part holds them by the stack ids of its source.
#[derive(Default)]
struct StackSum {
    profile: StackProfile,
    values: Vec<i64>,
}

impl Fold for StackSum {
    type Part = Vec<i64>;

    fn needs_symbols(&self) -> bool {
        true
    }

    fn begin(&mut self, _series: &[(u32, Arc<SeriesKey>)], symbols: Option<&dyn Symbols>) -> Self::Part {
        vec![0; symbols.map_or(0, |symbols| symbols.lens().stacks)]
    }

    fn row(part: &mut Self::Part, row: StoredRow) {
        let sum = &mut part[row.stack as usize];
        *sum = sum.saturating_add(row.value);
    }

    fn end(&mut self, part: Self::Part, symbols: Option<&dyn Symbols>) -> Result<(), QueryError> {
        let Some(symbols) = symbols else { return Ok(()) };
        let mut copier = Copier::new(symbols);
        for (id, value) in part.into_iter().enumerate().filter(|(_, value)| *value != 0) {
            let at = copier.stack(id as u32, &mut self.profile.symbols).index();
            if at >= self.values.len() {
                self.values.resize(at + 1, 0);
            }
            self.values[at] = self.values[at].saturating_add(value);
        }
        Ok(())
    }
}
