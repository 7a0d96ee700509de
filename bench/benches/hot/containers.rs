//! The sampler's shape of the load that benchmarks of stores share: a batch for each second of fifty containers.

use anyhow::{Result, ensure};
use pyrite_bench::recipe::{Minute, Recipe};
use pyrite_model::{Batch, ProfileType, Selector, Tenants, TimeRange, UnixMs};
use pyrite_store::{StackQuery, Store, StoreConfig};

use crate::harness::Report;
use crate::sampled::sampled_second;

const CONTAINERS: u32 = 50;
const SEED: u64 = 1;

/// Each second of a minute appended by itself, then all of it asked for.
pub(crate) fn append_a_minute(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(StoreConfig::new(dir.path()))?;
    let recipe = Recipe::new(SEED, CONTAINERS);
    let minute = Minute(0);
    // Not so long ago that retention would take it.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    let begin = UnixMs(now - 120_000).floor_to_second();
    let batches: Vec<Batch> =
        minute.seconds().map(|second| sampled_second(&recipe, second, begin)).collect::<Result<_>>()?;
    let rows: usize = batches.iter().map(Batch::row_count).sum();
    report.once("append 60 s of 50 containers as sampled", "rows", || {
        for batch in batches {
            store.append_blocking(batch)?;
        }
        Ok(rows as u64)
    })?;
    let range = TimeRange::new(UnixMs(begin.0 + 1), UnixMs(begin.0 + 60_000));
    let query = StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), range);
    let (total, expect): (i64, i64) =
        (store.merge_stacks(&query)?.total(), recipe.containers().iter().map(|c| c.minute_ns(minute)).sum());
    ensure!(total == expect, "{total} of {expect}");
    Ok(store.close()?)
}
