//! Pure work on profiles: decoding pushed ones, merging their symbols, flame trees and comparisons.

use anyhow::{Result, ensure};
use prost::Message;
use pyrite_bench::recipe::Random;
use pyrite_model::pprof::{ExportMeta, PushContext, PushLimits, append, encode, gzip};
use pyrite_model::{Batch, FlameTree, ProfileType, StackProfile, SymbolTable, UnixMs};

use crate::data::{Shape, labels, stacks};
use crate::harness::Report;

const NOW: UnixMs = UnixMs(1_700_000_000_000);
const MAX_NODES: usize = 8_192;
/// As many distinct stacks as one minute of a busy service has.
const PUSHED: Shape = Shape { stacks: 660, frames: 30, functions: 1_200 };
/// About 100,000 nodes: half of each stack's 30 frames is its own.
const LARGE: Shape = Shape { stacks: 6_700, frames: 30, functions: 5_000 };

/// A profile as clients push it, gzip included.
pub(crate) fn pushed_profile(now: UnixMs, seed: u64) -> Result<Vec<u8>> {
    let meta = ExportMeta {
        profile_type: ProfileType::cpu_time(),
        time_ns: now.0 * 1_000_000,
        duration_ns: 60_000_000_000,
        period: 10_000_000,
    };
    Ok(gzip(&encode(&profile(PUSHED, seed)?, &meta).encode_to_vec()))
}

/// How many samples that profile has.
pub(crate) const PUSHED_SAMPLES: u64 = PUSHED.stacks as u64;

/// Unpacking, decoding and interning one pushed profile.
pub(crate) fn decode_pprof(report: &mut Report) -> Result<()> {
    let packed = pushed_profile(NOW, 5)?;
    let mut labels = labels(1);
    labels.set("__name__", "process_cpu");
    let limits = PushLimits::default();
    let context = PushContext { labels: &labels, display_names: None, now: NOW, limits: &limits };
    let expect = profile(PUSHED, 5)?.total();
    report.measure("pprof with gzip, 660 stacks of 30 frames → batch", "samples", || {
        let mut batch = Batch::default();
        let appended = append(&mut batch, &packed, &context)?;
        let total: i64 = batch.series.iter().flat_map(|series| &series.rows).map(|row| row.value).sum();
        ensure!(total == expect, "{total} of {expect}");
        Ok(appended.rows as u64)
    })?;
    Ok(())
}

/// Building, cutting and drawing a tree of 100,000 nodes.
pub(crate) fn build_and_truncate(report: &mut Report) -> Result<()> {
    let profile = profile(LARGE, 6)?;
    let tree = FlameTree::from_profile(&profile, 0);
    ensure!((90_000..110_000).contains(&tree.node_count()), "{} nodes", tree.node_count());
    report.measure("flame tree of 100,000 nodes: build", "trees", || {
        ensure!(FlameTree::from_profile(&profile, 0).totals() == [profile.total()], "nothing is lost");
        Ok(1)
    })?;
    report.measure("flame tree of 100,000 nodes: build, cut to 8,192", "trees", || {
        let kept = FlameTree::from_profile(&profile, MAX_NODES);
        ensure!(kept.totals() == tree.totals() && kept.node_count() < tree.node_count() / 2, "cut");
        Ok(1)
    })?;
    report.measure("flame tree of 100,000 nodes: draw", "trees", || {
        ensure!(tree.flamebearer().total() == profile.total(), "all is drawn");
        Ok(1)
    })?;
    Ok(())
}

/// Aligning two such trees.
pub(crate) fn diff(report: &mut Report) -> Result<()> {
    let sides = [profile(LARGE, 6)?, profile(LARGE, 7)?];
    report.measure("diff of two profiles of 100,000 nodes, cut", "diffs", || {
        let both = FlameTree::of_profiles(sides.each_ref(), MAX_NODES);
        ensure!(both.totals() == sides.each_ref().map(StackProfile::total), "both sides are whole");
        Ok(1)
    })?;
    Ok(())
}

/// Merging a table into one that has all of it already, as a recording does with each second.
pub(crate) fn merge_symbols(report: &mut Report) -> Result<()> {
    let (symbols, ids) = stacks(PUSHED, 5)?;
    let mut head = SymbolTable::new();
    head.merge(&symbols);
    let lens = head.lens();
    report.measure("symbol table merge, 660 known stacks of 30 frames", "stacks", || {
        let remap = head.merge(&symbols);
        ensure!(head.lens() == lens && remap.stacks.len() == lens.stacks, "nothing new");
        Ok(ids.len() as u64)
    })?;
    Ok(())
}

fn profile(shape: Shape, seed: u64) -> Result<StackProfile> {
    let (symbols, ids) = stacks(shape, seed)?;
    let mut random = Random(seed);
    let values = ids.into_iter().map(|id| (id, 10_000_000 * (1 + random.below(20) as i64))).collect();
    Ok(StackProfile { symbols, values })
}
