//! Reading the segments of a query: some together, so that what is to be read of them can be shared out among threads.
//!
//! Each is summed by itself until all that is wanted of it has been read, so that a damaged one leaves no trace.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use pyrite_model::SeriesKey;

use crate::job::{Held, Job};
use crate::query::{Fold, Scan, Source, SourceStacks};
use crate::segment::SegmentInfo;
use crate::segment::read::{Grid, IdSet, SegmentReader, StackIds, Wanted};
use crate::segment::rollup::Shape;
use crate::segment::row_table::GroupScan;
use crate::series_index::Selection;
use crate::{QueryError, StoreError};

/// Fewer rows are not worth a thread: to start and end one costs both CPUs a tenth of a millisecond or more. Tests have few
/// rows and several threads all the same.
const ROWS_OF_A_THREAD: usize = if cfg!(test) { 10 } else { 200_000 };
/// Segments that are read together.
const SEGMENTS_AT_ONCE: usize = if cfg!(test) { 3 } else { 16 };
/// Stacks that these have, from which on no more join them: their sums are in memory together.
const STACKS_AT_ONCE: usize = 1 << 20;

impl Scan<'_> {
    /// Feeds all rows of the segments that the query is about to the fold. Segments that turn out damaged are given up.
    pub(crate) fn read_segments<F: Fold>(
        self,
        segments: &[&Arc<SegmentInfo>],
        fold: &mut F,
    ) -> Result<(), QueryError> {
        let Self { shared, query, .. } = self;
        let mut selection = shared.series.choose(&query.tenants, &query.profile_type, &query.selector);
        let epoch = |segment: &SegmentInfo| segment.dictionary.map(|dictionary| dictionary.epoch);
        // A dictionary may take more memory than all else of a query: those of two epochs are not there together for this.
        let may_be_together =
            |a: &&Arc<SegmentInfo>, b: &&Arc<SegmentInfo>| !fold.needs_stacks() || epoch(a) == epoch(b);
        let groups: Vec<_> = segments.chunk_by(may_be_together).collect();
        for group in groups {
            let mut left = group.iter().map(|segment| &***segment).peekable();
            while left.peek().is_some() {
                let opened = self.open_some(&mut left, &mut selection, fold.needs_stacks())?;
                self.read_together(&opened, fold)?;
            }
        }
        shared.cache.trim();
        Ok(())
    }

    fn open_some<'s>(
        self,
        left: &mut impl Iterator<Item = &'s SegmentInfo>,
        selection: &mut Selection,
        needs_stacks: bool,
    ) -> Result<Vec<OpenSegment<'s>>, QueryError> {
        let (mut opened, mut stacks) = (Vec::new(), 0);
        while opened.len() < SEGMENTS_AT_ONCE && stacks < STACKS_AT_ONCE {
            let Some(info) = left.next() else { break };
            match self.open(info, selection, needs_stacks) {
                Ok(Some(segment)) => {
                    stacks += segment.stack_count();
                    opened.push(segment);
                }
                Ok(None) => self.job.done(info.rows),
                Err(error) => self.give_up(info, error)?,
            }
        }
        Ok(opened)
    }

    /// `None` where it has nothing of what is asked for.
    fn open<'s>(
        self,
        info: &'s SegmentInfo,
        selection: &mut Selection,
        needs_stacks: bool,
    ) -> Result<Option<OpenSegment<'s>>, QueryError> {
        let Self { shared, job, query } = self;
        job.check()?;
        let series = shared.series.held_by(&info.name, selection, query.range, job)?;
        if series.is_empty() {
            return Ok(None);
        }
        let reader = shared.open_segment(info)?;
        let stacks =
            needs_stacks.then(|| reader.stacks(shared.files.as_ref(), &shared.epochs)).transpose()?;
        let ids = series.iter().map(|(id, _)| *id).collect();
        Ok(Some(OpenSegment { info, series, ids, reader, stacks }))
    }

    fn read_together<F: Fold>(self, opened: &[OpenSegment<'_>], fold: &mut F) -> Result<(), QueryError> {
        let (mut tasks, mut sums) = (Vec::new(), Vec::new());
        for (segment, open) in opened.iter().enumerate() {
            let planned = open.plan(self, fold.grid()).map(|groups| {
                if groups.is_empty() {
                    self.job.done(open.info.rows);
                }
                tasks.extend(tasks_of(segment, open.info.rows, groups));
                Vec::new()
            });
            sums.push(planned);
        }
        let shares = self.share_out(&tasks, |segment| fold.begin(&opened[segment].source()))?;
        for (segment, summed) in read_at_once::<F>(shares, self.job)? {
            match summed {
                Err(error) => sums[segment] = Err(error),
                Ok(summed) => {
                    if let Ok(sums) = &mut sums[segment] {
                        sums.push(summed);
                    }
                }
            }
        }
        for (open, sums) in opened.iter().zip(sums) {
            match sums {
                Ok(sums) => {
                    sums.into_iter().try_for_each(|summed| fold.end(summed.part, &open.source()))?;
                }
                Err(error) => self.give_up(open.info, error)?,
            }
        }
        Ok(())
    }

    /// Shares tasks out among as many threads as their rows are worth.
    fn share_out<'t, P>(
        self,
        tasks: &'t [Task<'t>],
        mut begin: impl FnMut(usize) -> Result<P, QueryError>,
    ) -> Result<Vec<Vec<Piece<'t, P>>>, QueryError> {
        let rows = tasks.iter().map(|task| task.group.rows()).sum::<usize>();
        let threads = self.shared.config.limits.query_threads.min(rows / ROWS_OF_A_THREAD).max(1);
        let mut piece = |tasks: &'t [Task<'t>]| {
            let segment = tasks[0].segment;
            Ok(Piece { segment, tasks, part: begin(segment)? })
        };
        in_stretches(tasks, rows.div_ceil(threads).max(1))
            .map(|stretch| stretch.chunk_by(|a, b| a.segment == b.segment).map(&mut piece).collect())
            .collect()
    }

    /// Goes on without a segment where it is the segment's fault.
    fn give_up(self, info: &SegmentInfo, error: QueryError) -> Result<(), QueryError> {
        match error {
            QueryError::Store(error) => Ok(self.shared.give_up(info, error)?),
            error => Err(error),
        }
    }
}

/// A segment with something of what is asked for.
struct OpenSegment<'a> {
    info: &'a SegmentInfo,
    series: Vec<(u32, Arc<SeriesKey>)>,
    /// Of these series in the segment.
    ids: IdSet,
    reader: Arc<SegmentReader>,
    /// Where it matters which ones rows have.
    stacks: Option<StackIds>,
}

impl OpenSegment<'_> {
    fn source(&self) -> Source<'_> {
        Source { series: &self.series, stacks: self.stacks.as_ref().map(SourceStacks::of_segment) }
    }

    fn stack_count(&self) -> usize {
        self.stacks.as_ref().map_or(0, |ids| ids.stacks.len())
    }

    fn plan(&self, scan: Scan<'_>, grid: Grid) -> Result<Vec<GroupScan<'_>>, QueryError> {
        let shape = if self.stacks.is_some() { Shape::Stacks } else { Shape::Totals };
        let wanted = Wanted { series: &self.ids, window: scan.query.range, grid, shape };
        Ok(self.reader.plan(scan.shared.files.as_ref(), wanted)?)
    }
}

/// A row group to read.
struct Task<'a> {
    /// The place of its segment among those that are read together.
    segment: usize,
    group: GroupScan<'a>,
    /// How many rows of the segment are done with it.
    stands_for: u64,
}

/// The tasks that read these row groups, with which a segment of so many rows is done.
fn tasks_of(segment: usize, rows: u64, groups: Vec<GroupScan<'_>>) -> impl Iterator<Item = Task<'_>> {
    let planned: usize = groups.iter().map(GroupScan::rows).sum();
    let (mut read, mut done) = (0, 0);
    groups.into_iter().map(move |group| {
        read += group.rows();
        let reached = u128::from(rows) * read as u128 / planned.max(1) as u128;
        let stands_for = reached as u64 - done;
        done += stands_for;
        Task { segment, group, stands_for }
    })
}

/// Cuts tasks into stretches, each of at least so many rows but for the last.
fn in_stretches<'a, 'b>(mut tasks: &'a [Task<'b>], rows: usize) -> impl Iterator<Item = &'a [Task<'b>]> {
    std::iter::from_fn(move || {
        let mut taken = 0;
        let last = tasks.iter().position(|task| {
            taken += task.group.rows();
            taken >= rows
        });
        let (stretch, rest) = tasks.split_at(last.map_or(tasks.len(), |last| last + 1));
        tasks = rest;
        (!stretch.is_empty()).then_some(stretch)
    })
}

/// Tasks of one segment that one thread does, and what is made of their rows.
struct Piece<'a, P> {
    segment: usize,
    tasks: &'a [Task<'a>],
    part: P,
}

/// What was made of a segment's rows, and the memory that it is charged with.
struct Summed<'a, P> {
    part: P,
    _held: Held<'a>,
}

/// By the place of a segment, what was made of some of its rows.
type SummedPiece<'a, P> = (usize, Result<Summed<'a, P>, QueryError>);

/// Reads each share on a thread of its own, the first on this one.
fn read_at_once<'a, F: Fold>(
    shares: Vec<Vec<Piece<'_, F::Part>>>,
    job: &'a Job,
) -> Result<Vec<SummedPiece<'a, F::Part>>, StoreError> {
    let mut shares = shares.into_iter();
    let first = shares.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let start = |share| {
            let thread = std::thread::Builder::new().name("store-read".into());
            thread.spawn_scoped(scope, move || read_share::<F>(share, job))
        };
        let started = shares.map(start).collect::<Result<Vec<_>, _>>();
        let started = started.map_err(StoreError::io("start thread", Path::new("store-read")))?;
        let of_first = read_share::<F>(first, job);
        let join =
            |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok(of_first.into_iter().chain(started.into_iter().flat_map(join)).collect())
    })
}

fn read_share<'a, F: Fold>(share: Vec<Piece<'_, F::Part>>, job: &'a Job) -> Vec<SummedPiece<'a, F::Part>> {
    share.into_iter().map(|piece| (piece.segment, read_piece::<F>(piece, job))).collect()
}

fn read_piece<'a, F: Fold>(
    piece: Piece<'_, F::Part>,
    job: &'a Job,
) -> Result<Summed<'a, F::Part>, QueryError> {
    let Piece { tasks, mut part, .. } = piece;
    let mut held = job.hold(F::bytes(&part));
    for Task { group, stands_for, .. } in tasks {
        let _in_memory = job.hold(group.bytes());
        job.check()?;
        group.run(|rows| {
            F::add(&mut part, rows);
            held.set(F::bytes(&part));
        })?;
        job.done(*stands_for);
    }
    Ok(Summed { part, _held: held })
}
