//! Queries: rows summed by stack or by time.
//!
//! A query takes one view and reads each of its segments and heads once, so a row counts exactly once whatever the
//! writer and maintenance do meanwhile. A segment that turns out damaged is set aside and the rest answers.

use std::sync::Arc;

use pyrite_model::{
    CallTree, ProfileId, ProfileType, Selector, SeriesKey, StackId, Tenants, TimeRange, names,
};

use crate::dictionary::Dictionary;
use crate::head::Head;
use crate::job::Job;
use crate::rows::{RowBlock, Run, StoredRow};
use crate::segment::read::{Grid, IdSet, StackIds};
use crate::shared::Shared;
use crate::{QueryError, deltas, profiles};

/// Rows of a head between two looks whether the query may go on: about as many as a row group has.
const STEP_ROWS: usize = 128 * 1024;

/// Which rows a query is about.
#[derive(Clone, Debug)]
pub struct StackQuery {
    /// Whose rows.
    pub tenants: Tenants,
    /// What was counted.
    pub profile_type: ProfileType,
    /// Of which of their series.
    pub selector: Selector,
    /// From when to when, both inclusive.
    pub range: TimeRange,
    /// Function names from the root on that a stack must begin with to count; none for every stack.
    pub call_site: Vec<String>,
    /// A function that a stack must go through to count, wherever in it; none for every stack.
    pub function: Option<String>,
    /// The profiles that rows must be of to count; none for every profile.
    pub profiles: Option<Vec<ProfileId>>,
}

impl StackQuery {
    /// All stacks of these rows.
    pub fn new(
        tenants: impl Into<Tenants>,
        profile_type: ProfileType,
        selector: Selector,
        range: TimeRange,
    ) -> Self {
        let tenants = tenants.into();
        Self { tenants, profile_type, selector, range, call_site: Vec::new(), function: None, profiles: None }
    }

    fn takes(&self, key: &SeriesKey) -> bool {
        self.tenants.contains(&key.tenant) && self.selector.matches(key)
    }

    /// Whether there are conditions on stacks.
    pub(crate) fn chooses_stacks(&self) -> bool {
        !self.call_site.is_empty() || self.function.is_some()
    }

    /// By node of a call tree, whether stacks that end in it count.
    pub(crate) fn counted_nodes(&self, calls: &CallTree) -> Vec<bool> {
        let mut counted = calls.below(&self.call_site);
        if let Some(function) = &self.function {
            let through = calls.through(function);
            counted.iter_mut().zip(through).for_each(|(counted, through)| *counted &= through);
        }
        counted
    }

    /// By stack of a source, whether it counts.
    pub(crate) fn counted_stacks(&self, stacks: SourceStacks<'_>) -> Vec<bool> {
        let of_source: Vec<StackId> = (0..stacks.count).map(|id| stacks.of(id)).collect();
        let known = of_source.iter().map(|stack| stack.index() + 1).max().unwrap_or(0);
        let calls = stacks.dictionary.calls(known);
        let counted = self.counted_nodes(&calls);
        of_source.into_iter().map(|stack| counted[calls.node_of(stack)]).collect()
    }
}

/// Where rows are from: the series that are asked for, by their ids there, and what its stack ids mean.
pub(crate) struct Source<'a> {
    pub(crate) series: &'a [(u32, Arc<SeriesKey>)],
    pub(crate) stacks: Option<SourceStacks<'a>>,
}

/// The stacks of a source.
#[derive(Clone, Copy)]
pub(crate) struct SourceStacks<'a> {
    pub(crate) dictionary: &'a Arc<Dictionary>,
    pub(crate) count: usize,
    /// By id in the source; `None` where ids are the dictionary's own.
    ids: Option<&'a [StackId]>,
}

impl<'a> SourceStacks<'a> {
    /// All stacks that a dictionary has by now, under their own ids.
    pub(crate) fn all_of(dictionary: &'a Arc<Dictionary>) -> Self {
        let count = dictionary.read().stack_nodes().len();
        Self { dictionary, count, ids: None }
    }

    /// Those of a segment.
    pub(crate) fn of_segment(stacks: &'a StackIds) -> Self {
        Self { dictionary: &stacks.dictionary, count: stacks.stacks.len(), ids: Some(&stacks.stacks) }
    }

    /// Which stack of the dictionary an id of the source means.
    pub(crate) fn of(&self, id: usize) -> StackId {
        self.ids.map_or(StackId(id as u32), |ids| ids[id])
    }
}

/// What a query makes of rows. Each source is summed by itself first, so that a damaged one leaves no trace.
pub(crate) trait Fold {
    /// The sums of one source.
    type Part: Send;
    /// Whether it matters which stacks the rows have; where it does not, segments need not read what they are.
    fn needs_stacks(&self) -> bool;
    /// Which instants within the window must be told apart.
    fn grid(&self) -> Grid;
    /// Starts a source, or a share of it.
    fn begin(&mut self, source: &Source<'_>) -> Result<Self::Part, QueryError>;
    /// Takes rows of one series, whose stacks are those of the source.
    fn add(part: &mut Self::Part, rows: Run<'_>);
    /// Memory of the sums of one source; asked for each run of rows.
    fn bytes(part: &Self::Part) -> usize;
    /// Adds the sums of one source to those of all.
    fn end(&mut self, part: Self::Part, source: &Source<'_>) -> Result<(), QueryError>;
}

/// One pass over the rows of a query.
#[derive(Clone, Copy)]
pub(crate) struct Scan<'a> {
    pub(crate) shared: &'a Shared,
    /// What it is charged to.
    pub(crate) job: &'a Job,
    pub(crate) query: &'a StackQuery,
}

impl Scan<'_> {
    /// Feeds every row of the query to the fold; of values that are counted since a program's start, what is new in each.
    pub(crate) fn run<F: Fold>(self, fold: &mut F) -> Result<(), QueryError> {
        match &self.query.profiles {
            None => deltas::run(self, fold),
            Some(ids) => profiles::run_only(self, ids, fold),
        }
    }

    /// Feeds every row of the query to the fold as it is stored.
    pub(crate) fn run_stored<F: Fold>(self, fold: &mut F) -> Result<(), QueryError> {
        let Self { shared, job, query } = self;
        let view = shared.view();
        let mut segments: Vec<_> = view.segments.iter().filter(|s| s.range.overlaps(query.range)).collect();
        // So that one dictionary after the other is needed.
        segments.sort_by_key(|segment| segment.dictionary.map(|dictionary| dictionary.epoch));
        let overlaps = |range: TimeRange| range.overlaps(query.range);
        let heads = view.heads().filter(|head| head.read().range().is_some_and(overlaps));
        let heads: Vec<_> = heads.map(|head| (head, head.read().rows() as u64)).collect();
        let rows_of_heads = heads.iter().map(|(_, rows)| rows).sum::<u64>();
        job.plan(segments.iter().map(|segment| segment.rows).sum::<u64>() + rows_of_heads);
        self.read_segments(&segments, fold)?;
        for (head, rows) in heads {
            self.read_head(head, fold)?;
            job.done(rows);
        }
        job.check()
    }

    fn read_head<F: Fold>(self, head: &Head, fold: &mut F) -> Result<(), QueryError> {
        let Self { job, query, .. } = self;
        let (blocks, keys) = {
            let state = head.read();
            (state.blocks().to_vec(), state.series.keys().to_vec())
        };
        let series = series_asked_for(query, keys);
        // Rows are visible only when their stacks are known.
        let stacks = SourceStacks::all_of(head.dictionary());
        let source = Source { series: &series, stacks: Some(stacks) };
        let mut part = fold.begin(&source)?;
        let copied = size_of_val(&*blocks) + size_of_val(&*series);
        let mut sums = job.hold(F::bytes(&part) + copied);
        job.check()?;
        let wanted: IdSet = series.iter().map(|(id, _)| *id).collect();
        let mut rows = 0;
        for block in blocks.iter().filter(|block| block.range().overlaps(query.range)) {
            rows += block.len();
            if rows >= STEP_ROWS {
                rows = 0;
                job.check()?;
            }
            scan_block(block, &wanted, query.range, |StoredRow { series, time, stack, value }| {
                F::add(&mut part, Run { series, times: &[time.0], stacks: &[stack], values: &[value] });
            });
            sums.set(F::bytes(&part) + copied);
        }
        drop(sums);
        fold.end(part, &source)
    }
}

/// The series of a head that the query is about, by their ids there.
fn series_asked_for(query: &StackQuery, keys: Vec<Arc<SeriesKey>>) -> Vec<(u32, Arc<SeriesKey>)> {
    let parts = query.profile_type.made_of();
    let as_asked = |key: Arc<SeriesKey>| match () {
        () if key.profile_type == query.profile_type => Some(key),
        () if parts.contains(&key.profile_type) => as_part(&key, &query.profile_type),
        () => None,
    };
    let series = (0..).zip(keys).filter_map(|(id, key)| Some((id, as_asked(key)?)));
    series.filter(|(_, key)| query.takes(key)).collect()
}

/// The series as one of `whole`, which it is a part of; only series that tell a state are.
fn as_part(key: &SeriesKey, whole: &ProfileType) -> Option<Arc<SeriesKey>> {
    key.labels.get(names::STATE)?;
    Some(Arc::new(SeriesKey { profile_type: whole.clone(), ..key.clone() }))
}

fn scan_block(block: &RowBlock, series: &IdSet, window: TimeRange, each: impl FnMut(StoredRow)) {
    let rows = block.iter().filter(|row| series.contains(row.series) && window.contains(row.time));
    rows.for_each(each);
}
