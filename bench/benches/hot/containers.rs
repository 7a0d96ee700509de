//! The load that benchmarks of stores share, appended to a store in process: a batch for each second of fifty containers, as
//! the sampler has it, and one for each container and minute, as it is pushed.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use pyrite_bench::recipe::{Container, Minute, Recipe, encode};
use pyrite_model::pprof::{PushContext, PushLimits, append};
use pyrite_model::{Batch, LabelSet, ProfileType, Selector, Tenants, TimeRange, UnixMs};
use pyrite_store::{StackQuery, Store, StoreConfig};

use crate::harness::{Report, cpu_time};
use crate::sampled::sampled_second;

const CONTAINERS: u32 = 50;
const SEED: u64 = 1;
const PUSHED_MINUTES: u32 = 20;
const MINUTE_MS: i64 = 60_000;

/// Each second of a minute appended by itself, then all of it asked for.
pub(crate) fn append_a_minute(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(StoreConfig::new(dir.path()))?;
    let recipe = Recipe::new(SEED, CONTAINERS);
    let minute = Minute(0);
    // Not so long ago that retention would take it.
    let begin = UnixMs(now_ms()? - 2 * MINUTE_MS).floor_to_second();
    let batches: Vec<Batch> =
        minute.seconds().map(|second| sampled_second(&recipe, second, begin)).collect::<Result<_>>()?;
    let rows: usize = batches.iter().map(Batch::row_count).sum();
    report.once("append 60 s of 50 containers as sampled", "rows", || {
        for batch in batches {
            store.append_blocking(batch)?;
        }
        Ok(rows as u64)
    })?;
    check(&store, TimeRange::new(UnixMs(begin.0 + 1), UnixMs(begin.0 + MINUTE_MS)), &recipe, 1)?;
    Ok(store.close()?)
}

/// Twenty minutes of pushes that are decoded already: in the first all is new, in the others most was there before.
pub(crate) fn append_pushed_minutes(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(StoreConfig::new(dir.path()))?;
    let recipe = Recipe::new(SEED, CONTAINERS);
    let begin = UnixMs(now_ms()? - i64::from(PUSHED_MINUTES + 1) * MINUTE_MS).floor_to_second();
    let (mut rows, mut cpu) = ([0, 0], [Duration::ZERO; 2]);
    for minute in (0..PUSHED_MINUTES).map(Minute) {
        let containers = recipe.containers().iter();
        let batches: Vec<Batch> =
            containers.map(|container| pushed_minute(container, minute, begin)).collect::<Result<_>>()?;
        let which = usize::from(minute != Minute(0));
        rows[which] += batches.iter().map(Batch::row_count).sum::<usize>() as u64;
        let before = cpu_time()?;
        for batch in batches {
            store.append_blocking(batch)?;
        }
        cpu[which] += cpu_time()?.saturating_sub(before);
    }
    report.line("append a minute of 50 containers as pushed, first", "rows", rows[0], cpu[0])?;
    report.line("append a minute of 50 containers as pushed, later", "rows", rows[1], cpu[1])?;
    let end = UnixMs(begin.0 + i64::from(PUSHED_MINUTES) * MINUTE_MS);
    check(&store, TimeRange::new(begin, end), &recipe, PUSHED_MINUTES)?;
    Ok(store.close()?)
}

/// What the server makes of a container's push.
fn pushed_minute(container: &Container, minute: Minute, begin: UnixMs) -> Result<Batch> {
    let time_ms = begin.0 + container.pushed_at_ms(minute);
    let profile = encode(container, &container.minute(minute), time_ms);
    let mut labels =
        LabelSet::from_pairs(container.labels().iter().map(|(name, value)| (*name, value.as_str())));
    labels.set("__name__", "process_cpu");
    let limits = PushLimits::default();
    let context = PushContext { labels: &labels, display_names: None, now: UnixMs(time_ms), limits: &limits };
    let mut batch = Batch::default();
    append(&mut batch, &profile, &context)?;
    Ok(batch)
}

/// Whether the store has all of the first minutes.
fn check(store: &Store, range: TimeRange, recipe: &Recipe, minutes: u32) -> Result<()> {
    let query = StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), range);
    let total = store.merge_stacks(&query)?.total();
    let of_one = |container: &Container| (0..minutes).map(|n| container.minute_ns(Minute(n))).sum::<i64>();
    let expect: i64 = recipe.containers().iter().map(of_one).sum();
    ensure!(total == expect, "{total} of {expect}");
    Ok(())
}

fn now_ms() -> Result<i64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as i64)
}
