//! Queries: rows summed by stack or by time.
//!
//! A query takes one view and reads each of its segments and heads once, so a row counts exactly once whatever the
//! writer and maintenance do meanwhile. A segment that turns out damaged is set aside and the rest answers.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use pyrite_model::{
    CallTree, ProfileId, ProfileType, Selector, SeriesKey, StackId, Tenants, TimeRange, names,
};

use crate::deltas;
use crate::dictionary::Dictionary;
use crate::head::Head;
use crate::job::Job;
use crate::profiles;
use crate::rows::{RowBlock, Run, StoredRow};
use crate::segment::SegmentInfo;
use crate::segment::read::{Grid, IdSet, StackIds, Wanted};
use crate::segment::rollup::Shape;
use crate::segment::row_table::GroupScan;
use crate::series_index::Selection;
use crate::shared::Shared;
use crate::{QueryError, StoreError};

/// Row groups of fewer rows are not worth a thread each: to start and end one costs both CPUs a tenth of a millisecond or more.
const ROWS_OF_A_THREAD: usize = 500_000;

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

    /// Which stack of the dictionary an id of the source means.
    pub(crate) fn of(&self, id: usize) -> StackId {
        self.ids.map_or(StackId(id as u32), |ids| ids[id])
    }
}

impl StackIds {
    fn source(&self) -> SourceStacks<'_> {
        SourceStacks { dictionary: &self.dictionary, count: self.stacks.len(), ids: Some(&self.stacks) }
    }
}

/// What a query makes of rows. Each source is summed by itself first, so that a damaged one leaves no trace.
pub(crate) trait Fold {
    /// The sums of one source.
    type Part: Send;
    /// What the query is charged to.
    fn job(&self) -> &Job;
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

/// Feeds every row of the query to the fold; of values that are counted since a program's start, what is new in each.
pub(crate) fn run<F: Fold>(shared: &Shared, query: &StackQuery, fold: &mut F) -> Result<(), QueryError> {
    match &query.profiles {
        None => deltas::run(shared, query, fold),
        Some(ids) => profiles::run_only(shared, query, ids, fold),
    }
}

/// Feeds every row of the query to the fold as it is stored.
pub(crate) fn run_stored<F: Fold>(
    shared: &Shared,
    query: &StackQuery,
    fold: &mut F,
) -> Result<(), QueryError> {
    let view = shared.view();
    let mut selection = shared.series.choose(&query.tenants, &query.profile_type, &query.selector);
    let segments: Vec<_> = view.segments.iter().filter(|s| s.range.overlaps(query.range)).collect();
    let overlaps = |head: &&Arc<Head>| head.read().range().is_some_and(|range| range.overlaps(query.range));
    let heads: Vec<_> = view.heads().filter(overlaps).map(|head| (head, head.read().rows() as u64)).collect();
    let rows_of_heads = heads.iter().map(|(_, rows)| rows).sum::<u64>();
    fold.job().plan(segments.iter().map(|segment| segment.rows).sum::<u64>() + rows_of_heads);
    for segment in segments {
        if let Err(error) = read_segment(shared, segment, query, &mut selection, fold) {
            match error {
                QueryError::Store(error) => shared.give_up(segment, error)?,
                error => return Err(error),
            }
        }
        fold.job().done(segment.rows);
    }
    shared.cache.trim();
    for (head, rows) in heads {
        read_head(head, query, fold)?;
        fold.job().done(rows);
    }
    fold.job().check()
}

fn read_segment<F: Fold>(
    shared: &Shared,
    segment: &SegmentInfo,
    query: &StackQuery,
    selection: &mut Selection,
    fold: &mut F,
) -> Result<(), QueryError> {
    fold.job().check()?;
    let series = shared.series.held_by(&segment.name, selection, query.range, fold.job())?;
    if series.is_empty() {
        return Ok(());
    }
    let reader = shared.open_segment(segment)?;
    let files = shared.files.as_ref();
    let stacks = fold.needs_stacks().then(|| reader.stacks(files, &shared.epochs)).transpose()?;
    let source = Source { series: &series, stacks: stacks.as_deref().map(StackIds::source) };
    let shape = if fold.needs_stacks() { Shape::Stacks } else { Shape::Totals };
    let series = id_set(source.series);
    let wanted = Wanted { series: &series, window: query.range, grid: fold.grid(), shape };
    let groups = reader.plan(files, wanted)?;
    let max_threads = shared.config.limits.query_threads;
    let begun = share_out(&groups, max_threads, || fold.begin(&source))?;
    for part in read_at_once::<F>(begun, fold.job())? {
        fold.end(part, &source)?;
    }
    Ok(())
}

/// Some of a source's row groups, which one thread reads, and what is made of them.
struct Share<'a, P> {
    groups: &'a [GroupScan<'a>],
    part: P,
}

/// Shares row groups out among as many threads as are worth their start.
fn share_out<'a, P>(
    groups: &'a [GroupScan<'a>],
    max_threads: usize,
    mut begin: impl FnMut() -> Result<P, QueryError>,
) -> Result<Vec<Share<'a, P>>, QueryError> {
    let rows: usize = groups.iter().map(GroupScan::rows).sum();
    let threads = max_threads.min(rows / ROWS_OF_A_THREAD).max(1);
    let shares = in_stretches(groups, rows.div_ceil(threads).max(1));
    shares.map(|groups| Ok(Share { groups, part: begin()? })).collect()
}

/// Reads each share on a thread of its own, the first on this one.
fn read_at_once<F: Fold>(shares: Vec<Share<'_, F::Part>>, job: &Job) -> Result<Vec<F::Part>, QueryError> {
    let mut shares = shares.into_iter();
    let first = shares.next();
    std::thread::scope(|scope| {
        let start = |share| {
            let thread = std::thread::Builder::new().name("store-read".into());
            thread.spawn_scoped(scope, move || read::<F>(share, job))
        };
        let started = shares.map(start).collect::<Result<Vec<_>, _>>();
        let started = started.map_err(StoreError::io("start thread", Path::new("store-read")))?;
        let of_first = first.map(|share| read::<F>(share, job));
        let join =
            |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        of_first.into_iter().chain(started.into_iter().map(join)).collect()
    })
}

fn read<F: Fold>(share: Share<'_, F::Part>, job: &Job) -> Result<F::Part, QueryError> {
    let Share { groups, mut part } = share;
    let mut sums = job.hold(F::bytes(&part));
    for group in groups {
        let _in_memory = job.hold(group.bytes());
        job.check()?;
        group.run(|rows| {
            F::add(&mut part, rows);
            sums.set(F::bytes(&part));
        })?;
    }
    Ok(part)
}

/// Cuts row groups into stretches, each of at least so many rows but for the last.
fn in_stretches<'a>(
    mut groups: &'a [GroupScan<'a>],
    rows: usize,
) -> impl Iterator<Item = &'a [GroupScan<'a>]> {
    std::iter::from_fn(move || {
        let mut taken = 0;
        let last = groups.iter().position(|group| {
            taken += group.rows();
            taken >= rows
        });
        let (stretch, rest) = groups.split_at(last.map_or(groups.len(), |last| last + 1));
        groups = rest;
        (!stretch.is_empty()).then_some(stretch)
    })
}

fn read_head<F: Fold>(head: &Head, query: &StackQuery, fold: &mut F) -> Result<(), QueryError> {
    let parts = query.profile_type.made_of();
    let as_asked = |key: Arc<SeriesKey>| match () {
        () if key.profile_type == query.profile_type => Some(key),
        () if parts.contains(&key.profile_type) => as_part(&key, &query.profile_type),
        () => None,
    };
    let (blocks, keys) = {
        let state = head.read();
        (state.blocks().to_vec(), state.series.keys().to_vec())
    };
    let series = (0..).zip(keys).filter_map(|(id, key)| Some((id, as_asked(key)?)));
    let series: Vec<_> = series.filter(|(_, key)| query.takes(key)).collect();
    // Rows are visible only when their stacks are known.
    let stacks = SourceStacks::all_of(head.dictionary());
    let source = Source { series: &series, stacks: Some(stacks) };
    let mut part = fold.begin(&source)?;
    let job = fold.job();
    let copied = size_of_val(&*blocks) + size_of_val(&*series);
    let mut sums = job.hold(F::bytes(&part) + copied);
    job.check()?;
    let wanted = id_set(&series);
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

/// The series as one of `whole`, which it is a part of; only series that tell a state are.
fn as_part(key: &SeriesKey, whole: &ProfileType) -> Option<Arc<SeriesKey>> {
    key.labels.get(names::STATE)?;
    Some(Arc::new(SeriesKey { profile_type: whole.clone(), ..key.clone() }))
}

fn id_set(series: &[(u32, Arc<SeriesKey>)]) -> IdSet {
    let mut set = IdSet::default();
    for (id, _) in series {
        set.insert(*id);
    }
    set
}

fn scan_block(block: &RowBlock, series: &IdSet, window: TimeRange, each: impl FnMut(StoredRow)) {
    let rows = block.iter().filter(|row| series.contains(row.series) && window.contains(row.time));
    rows.for_each(each);
}
