//! Merging: the small segments of an hour become one, those of a day become one, sharing one dictionary.
//!
//! A dictionary in each segment costs 28 bytes a row where segments last a minute and less than one where they last
//! an hour. Row groups are read one after the other in order of time, so memory holds one of them and the merged
//! dictionary. The new segment lists those it replaces; one catalogue transaction swaps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyrite_model::{SeriesKey, SymbolTable, UnixMs};

use crate::StoreError;
use crate::head::SeriesTable;
use crate::maintain::{describe, discard_unfinished};
use crate::rows::StoredRow;
use crate::segment::read::{SegmentReader, read_series};
use crate::segment::write::{SegmentOrigin, SegmentSeries, SegmentVocabulary, SegmentWriter};
use crate::segment::{self, SegmentInfo};
use crate::shared::Shared;
use crate::symbols::Copier;

const HOUR_MS: i64 = 3_600_000;
/// The span that the segments made from each level cover.
const SPANS_MS: [i64; 2] = [HOUR_MS, 24 * HOUR_MS];
/// How long after the end of a span its segments are merged: the last flush may still be under way.
const SETTLE_MS: i64 = 10 * 60_000;
/// Larger segments gain nothing from being merged, and retention by size wants small steps.
const MAX_BYTES: u64 = 128 << 20;
/// Once the merged dictionary has this many stack nodes no further segment joins.
const MAX_STACKS: usize = 200_000;

/// The segments to merge next, oldest first: two or more of the same level and span, small enough together.
pub(crate) fn choose(segments: &[Arc<SegmentInfo>], now: UnixMs) -> Option<Vec<Arc<SegmentInfo>>> {
    for (level, span) in SPANS_MS.into_iter().enumerate() {
        let mut groups: BTreeMap<i64, Vec<Arc<SegmentInfo>>> = BTreeMap::new();
        for segment in segments.iter().filter(|s| s.level == level as u32) {
            let slot = segment.range.start.0.div_euclid(span);
            if (slot + 1).saturating_mul(span).saturating_add(SETTLE_MS) > now.0 {
                continue;
            }
            groups.entry(slot).or_default().push(Arc::clone(segment));
        }
        let group = groups.into_values().find_map(|group| {
            let mut bytes = 0;
            let fits = group.into_iter().take_while(|segment| {
                bytes += segment.bytes;
                bytes <= MAX_BYTES
            });
            Some(fits.collect::<Vec<_>>()).filter(|group| group.len() > 1)
        });
        if group.is_some() {
            return group;
        }
    }
    None
}

/// One input and what its ids are in the merged vocabulary.
struct Input {
    segment: Arc<SegmentInfo>,
    reader: SegmentReader,
    series: Vec<Option<u32>>,
    stacks: Vec<Option<u32>>,
}

/// What the inputs share.
#[derive(Default)]
struct Merged {
    symbols: SymbolTable,
    series: SeriesTable,
    stack_rows: Vec<u32>,
    flushed_through: u64,
}

/// Writes one segment with the rows of the group and puts it in their place.
pub(crate) fn merge(shared: &Shared, group: &[Arc<SegmentInfo>]) -> Result<(), StoreError> {
    let mut merged = Merged::default();
    let mut inputs = Vec::new();
    for segment in group {
        match open_input(shared, segment, &mut merged) {
            Ok(input) => inputs.push(input),
            // What is left of the group is chosen again without it.
            Err(error) => return shared.give_up(segment, error),
        }
        if inputs.len() > 1 && merged.symbols.stack_nodes().len() > MAX_STACKS {
            break;
        }
    }
    let name = merged_name(&inputs);
    let dir = shared.layout.segments.join(&name);
    let (segment, series) = if shared.files.list(&dir).is_ok() {
        // An earlier try came this far.
        describe(shared, &dir, &name)?
    } else {
        match write(shared, &inputs, &merged, name) {
            Ok(written) => written,
            Err((bad_input, error)) => {
                discard_unfinished(shared);
                return match bad_input {
                    Some(segment) => shared.give_up(&segment, error),
                    None => Err(error),
                };
            }
        }
    };
    let replaced: Vec<String> = inputs.iter().map(|input| input.segment.name.clone()).collect();
    drop(inputs);
    shared.add_segment(&segment, &series, &replaced, merged.flushed_through)?;
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
    let dictionary = reader.load_dictionary(files)?;
    let mut copier = Copier::new(&dictionary);
    let mut stacks = vec![None; dictionary.stack_rows().len()];
    for (id, &rows) in dictionary.stack_rows().iter().enumerate().filter(|(_, rows)| **rows > 0) {
        let merged_id = copier.stack(id as u32, &mut merged.symbols).index();
        if merged_id >= merged.stack_rows.len() {
            merged.stack_rows.resize(merged_id + 1, 0);
        }
        merged.stack_rows[merged_id] = merged.stack_rows[merged_id].saturating_add(rows);
        stacks[id] = Some(merged_id as u32);
    }
    Ok(Input { segment: Arc::clone(segment), reader, series, stacks })
}

type Written = (SegmentInfo, Vec<SegmentSeries>);

/// Writes the merged segment; an error says which input it came from, if it came from one.
fn write(
    shared: &Shared,
    inputs: &[Input],
    merged: &Merged,
    name: String,
) -> Result<Written, (Option<Arc<SegmentInfo>>, StoreError)> {
    let vocabulary = SegmentVocabulary {
        symbols: &merged.symbols,
        series: merged.series.keys(),
        stack_rows: &merged.stack_rows,
    };
    let (files, dir) = (shared.files.as_ref(), &shared.layout.segments);
    let ours = |error| (None, error);
    let mut writer = SegmentWriter::create(files, dir, &name, &vocabulary).map_err(ours)?;
    for Input { segment, reader, series, stacks } in inputs {
        let id_in = |map: &[Option<u32>], id: u32| map.get(id as usize).copied().flatten();
        // A failure to write must not be taken for a damaged input.
        let mut not_written = None;
        let read = reader.scan_all(|row| {
            let ids = id_in(series, row.series).zip(id_in(stacks, row.stack));
            let (series, stack) =
                ids.ok_or_else(|| reader.corrupt("a row refers past the end of its tables"))?;
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
    let flushed_through = merged.flushed_through;
    writer.finish(SegmentOrigin { name, level, flushed_through, replaces }).map_err(ours)
}
