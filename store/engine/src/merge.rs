//! Merging: the small segments of an hour become one, those of a day become one.
//!
//! Only segments of the same epoch are merged, so that a stack has the same number in all of them and no symbol is looked
//! at. Row groups are read one after the other in order of time, so memory holds one of them. The new segment lists those
//! it replaces; one catalogue transaction swaps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyrite_model::{SeriesKey, UnixMs};

use crate::StoreError;
use crate::head::SeriesTable;
use crate::maintain::discard_unfinished;
use crate::rows::StoredRow;
use crate::segment::manifest::DictionaryUse;
use crate::segment::read::{SegmentReader, StackColumns};
use crate::segment::series::{SegmentSeries, read_series};
use crate::segment::write::{SegmentContent, SegmentOrigin, SegmentWriter, StackUse};
use crate::segment::{self, SegmentInfo};
use crate::shared::Shared;

/// An hour, of segments that were never merged, and a day.
const SPANS_MS: [i64; 2] = [3_600_000, 24 * 3_600_000];
/// How long after the end of a span its segments are merged: the last flush may still be under way.
const SETTLE_MS: i64 = 10 * 60_000;
/// Larger segments gain nothing from being merged, and retention by size wants small steps.
const MAX_BYTES: u64 = 128 << 20;

/// The segments to merge next, oldest first: two or more of the same epoch and span, small enough together. An hour of
/// which there is one segment alone waits for its day.
pub(crate) fn choose(segments: &[Arc<SegmentInfo>], now: UnixMs) -> Option<Vec<Arc<SegmentInfo>>> {
    for (level, span) in SPANS_MS.into_iter().enumerate() {
        let mut groups: BTreeMap<_, Vec<Arc<SegmentInfo>>> = BTreeMap::new();
        for segment in segments.iter().filter(|s| level > 0 || s.level == 0) {
            // Those of format 1 have stacks of their own and stay as they are.
            let Some(DictionaryUse { epoch, .. }) = segment.dictionary else { continue };
            let slot = segment.range.start.0.div_euclid(span);
            if (slot + 1).saturating_mul(span).saturating_add(SETTLE_MS) > now.0 {
                continue;
            }
            groups.entry((slot, epoch)).or_default().push(Arc::clone(segment));
        }
        if let Some(group) = groups.into_values().find_map(worth_merging) {
            return Some(group);
        }
    }
    None
}

/// Those of a group to make one of; `None` where there are not two. None is larger than twice the others together, so that what
/// trickles in late does not have all of a day written anew each time.
fn worth_merging(mut group: Vec<Arc<SegmentInfo>>) -> Option<Vec<Arc<SegmentInfo>>> {
    let bytes = |group: &[Arc<SegmentInfo>]| group.iter().map(|segment| segment.bytes).sum::<u64>();
    while let Some((at, largest)) = group.iter().enumerate().max_by_key(|(_, segment)| segment.bytes)
        && largest.bytes > ((bytes(&group) - largest.bytes) * 2).min(MAX_BYTES)
    {
        group.remove(at);
    }
    let mut sum = 0;
    let fits = group.into_iter().take_while(|segment| {
        sum += segment.bytes;
        sum <= MAX_BYTES
    });
    Some(fits.collect::<Vec<_>>()).filter(|group| group.len() > 1)
}

/// One input, its series by their ids in the merged segment, and its stacks by their ids in the epoch.
struct Input {
    segment: Arc<SegmentInfo>,
    reader: SegmentReader,
    series: Vec<Option<u32>>,
    stacks: Vec<u32>,
}

/// What the inputs share.
struct Merged {
    dictionary: DictionaryUse,
    series: SeriesTable,
    /// By stack of the epoch.
    stacks: Vec<StackUse>,
    flushed_through: u64,
}

/// Writes one segment with the rows of the group, which are of one epoch, and puts it in their place.
pub(crate) fn merge(shared: &Shared, group: &[Arc<SegmentInfo>]) -> Result<(), StoreError> {
    let dictionaries = group.iter().filter_map(|segment| segment.dictionary);
    let Some(dictionary) = dictionaries.max_by_key(|dictionary| dictionary.stacks) else { return Ok(()) };
    let stacks = vec![StackUse::default(); dictionary.stacks];
    let mut merged = Merged { dictionary, series: SeriesTable::default(), stacks, flushed_through: 0 };
    let mut inputs = Vec::new();
    for segment in group {
        match open_input(shared, segment, &mut merged) {
            Ok(input) => inputs.push(input),
            // What is left of the group is chosen again without it.
            Err(error) => return shared.give_up(segment, error),
        }
    }
    let name = merged_name(&inputs);
    let dir = shared.layout.segments.join(&name);
    let (segment, series) = match write(shared, &inputs, &merged, &name) {
        Ok(written) => written,
        Err((bad_input, error)) => {
            shared.disown(dir);
            discard_unfinished(shared, &name);
            return match bad_input {
                Some(segment) => shared.give_up(&segment, error),
                None => Err(error),
            };
        }
    };
    let replaced: Vec<String> = inputs.iter().map(|input| input.segment.name.clone()).collect();
    drop(inputs);
    let added = shared.add_segment(&segment, &series, &replaced, merged.flushed_through);
    added.inspect_err(|_| shared.disown(dir))?;
    let removed = shared.change_view(|view| view.replace_segments(&replaced, Some(segment)));
    shared.doom_removed(removed);
    shared.counters.merges.add(1);
    Ok(())
}

fn merged_name(inputs: &[Input]) -> String {
    let generations = inputs.iter().filter_map(|input| segment::generations(&input.segment.name));
    let (first, last) = generations.fold((u64::MAX, 0), |(a, b), (first, last)| (a.min(first), b.max(last)));
    let level = inputs.iter().map(|input| input.segment.level).max().unwrap_or(0) + 1;
    segment::name(first, last, level)
}

fn open_input(shared: &Shared, segment: &Arc<SegmentInfo>, merged: &mut Merged) -> Result<Input, StoreError> {
    let files = shared.files.as_ref();
    let dir = shared.layout.segments.join(&segment.name);
    let reader = SegmentReader::open(files, &dir)?;
    merged.flushed_through = merged.flushed_through.max(reader.manifest().flushed_through);
    let mut series = Vec::new();
    for SegmentSeries { id, key, .. } in read_series(files, &dir, reader.manifest())? {
        let merged_id = merged.series.intern(SeriesKey::clone(&key));
        let at = id as usize;
        if at >= series.len() {
            series.resize(at + 1, None);
        }
        series[at] = Some(merged_id);
    }
    let StackColumns { stacks, rows, series: used_by } = reader.stack_columns(files)?;
    for ((stack, rows), used_by) in stacks.iter().zip(rows).zip(used_by) {
        let known = merged.stacks.get_mut(*stack as usize);
        let used_by = series.get(used_by as usize).copied().flatten();
        let Some((known, used_by)) = known.zip(used_by) else {
            return Err(reader.corrupt("a stack is beyond its dictionary or of no series"));
        };
        known.add(rows, used_by);
    }
    Ok(Input { segment: Arc::clone(segment), reader, series, stacks })
}

type Written = (SegmentInfo, Vec<SegmentSeries>);

/// Writes the merged segment; an error says which input it came from, if it came from one.
fn write(
    shared: &Shared,
    inputs: &[Input],
    merged: &Merged,
    name: &str,
) -> Result<Written, (Option<Arc<SegmentInfo>>, StoreError)> {
    let Merged { dictionary, series, stacks: uses, flushed_through } = merged;
    let ranges = || inputs.iter().map(|input| input.segment.range);
    let (start, end) = (ranges().map(|range| range.start.0).min(), ranges().map(|range| range.end.0).max());
    let span_ms = end.unwrap_or(0).saturating_sub(start.unwrap_or(0));
    let content = SegmentContent {
        epoch: dictionary.epoch,
        series: series.keys(),
        span_ms,
        sums_from_rows: shared.config.limits.sums_from_rows,
        stacks: uses,
    };
    let (files, dir) = (shared.files.as_ref(), &shared.layout.segments);
    let ours = |error| (None, error);
    let mut writer = SegmentWriter::create(files, dir, name, content).map_err(ours)?;
    for Input { segment, reader, series, stacks } in inputs {
        // A failure to write must not be taken for a damaged input.
        let mut not_written = None;
        let read = reader.scan_all(files, |row| {
            let series = series.get(row.series as usize).copied().flatten();
            let stack =
                stacks.get(row.stack as usize).copied().filter(|stack| uses[*stack as usize].rows > 0);
            let (series, stack) =
                series.zip(stack).ok_or_else(|| reader.corrupt("a row refers past the end of its tables"))?;
            if not_written.is_none() {
                not_written = writer.push(StoredRow { series, stack, ..row }).err();
            }
            Ok(())
        });
        not_written.map_or(Ok(()), |error| Err((None, error)))?;
        read.map_err(|error| (Some(Arc::clone(segment)), error))?;
    }
    let replaces = inputs.iter().map(|input| input.segment.name.clone()).collect();
    let level = inputs.iter().map(|input| input.segment.level).max().unwrap_or(0) + 1;
    let flushed_through = *flushed_through;
    writer.finish(SegmentOrigin { name: name.to_owned(), level, flushed_through, replaces }).map_err(ours)
}
