//! The embedded store: what an agent's second costs to append and to flush, what an hour of fifty services costs to ask.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use pyrite_bench::recipe::Random;
use pyrite_model::{Batch, Matcher, ProfileType, Row, Selector, SeriesRows, Tenants, TimeRange, UnixMs};
use pyrite_store::{FlushPolicy, Retention, SeriesQuery, StackQuery, Store, StoreConfig};

use crate::data::{Shape, agent_second, labels, stacks};
use crate::harness::{Report, wall};

const SECONDS: i64 = 600;
const SERVICES: usize = 50;
const HOUR_MS: i64 = 3_600_000;
/// The API's default bound on the nodes of a flame graph.
const MAX_NODES: usize = 8_192;
const STEP_MS: i64 = 15_000;

/// Ten minutes of seconds of 400 rows over 200 stacks of 30 frames, each appended by itself, then one flush.
pub(crate) fn append_and_flush(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    // Flushed by hand, so that appending and flushing are told apart.
    let flush = FlushPolicy { max_rows: usize::MAX, max_bytes: usize::MAX / 4, max_age: Duration::MAX };
    let (store, _) = Store::open(StoreConfig { flush, ..config(dir.path()) })?;
    let shape = Shape { stacks: 2_000, frames: 30, functions: 1_000 };
    let (symbols, ids) = stacks(shape, 3)?;
    let mut random = Random(3);
    let mut batches = (0..SECONDS).map(|second| {
        let chosen: Vec<_> = (0..200).map(|_| ids[random.below(ids.len() as u64) as usize]).collect();
        // A batch brings only what its own stacks are made of.
        let mut own = pyrite_model::SymbolTable::new();
        let remapped =
            chosen.iter().map(|&id| own_stack(&symbols, id, &mut own)).collect::<Result<Vec<_>>>()?;
        Ok(agent_second(own, &remapped, UnixMs(second * 1000)))
    });
    let batches: Vec<Batch> = batches.by_ref().collect::<Result<_>>()?;
    report.once("append one agent second: 200 stacks, 400 rows", "seconds", || {
        for batch in batches {
            store.append_blocking(batch)?;
        }
        Ok(SECONDS as u64)
    })?;
    report.once("flush ten minutes of them", "flushes", || {
        store.flush()?;
        Ok(1)
    })?;
    let stats = store.stats();
    ensure!(stats.segments == 1 && stats.rows <= 400 * SECONDS as u64, "{stats:?}");
    let range = TimeRange::new(UnixMs(0), UnixMs(SECONDS * 1000));
    let query = StackQuery::new(Tenants::default(), ProfileType::cpu_samples(), Selector::all(), range);
    let total = store.merge_stacks(&query)?.total();
    ensure!(total == 200 * SECONDS, "{total} samples came back");
    report.note(
        "  its segment",
        &format!("{:.1} bytes per row", stats.segment_bytes as f64 / stats.rows as f64),
    );
    Ok(store.close()?)
}

/// Flame graph, series and label values over one hour of fifty services, 200 samples a second in all.
pub(crate) fn query_an_hour(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(config(dir.path()))?;
    let appended = fill_an_hour(&store)?;
    let range = TimeRange::new(UnixMs(1), UnixMs(HOUR_MS));
    let stacks = StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), range);

    let flame_graph = |query: &StackQuery, total: i64| {
        let tree = store.flame_tree([Some(query)], MAX_NODES)?;
        ensure!(tree.totals() == [total], "{:?} of {total}", tree.totals());
        ensure!(tree.flamebearer().total() == total, "the drawing has all of it");
        Ok(1)
    };
    report.measure("flame graph, 1 h × 50 services, 8,192 nodes", "graphs", || {
        flame_graph(&stacks, appended)
    })?;
    let selector = Selector::all().with(Matcher::equal("service_name", "service-7"));
    let one = StackQuery { selector, ..stacks.clone() };
    let of_one = store.merge_stacks(&one)?.total();
    report.measure("flame graph, 1 h × 1 service, 8,192 nodes", "graphs", || flame_graph(&one, of_one))?;
    report.measure("diff, 30 min against 30 min × 50 services", "diffs", || {
        diff_halves(&store, &stacks, appended)
    })?;

    let by_service = SeriesQuery {
        stacks: StackQuery { range: TimeRange::new(UnixMs(STEP_MS), UnixMs(HOUR_MS)), ..stacks.clone() },
        step_ms: STEP_MS,
        group_by: vec!["service_name".into()],
    };
    report.measure("SelectSeries by service, 1 h, 15 s steps", "queries", || {
        let groups = store.select_series(&by_service)?;
        let total: i64 = groups.iter().flat_map(|group| &group.points).map(|(_, value)| value).sum();
        ensure!(groups.len() == SERVICES && total == appended, "{} groups, {total}", groups.len());
        Ok(1)
    })?;
    report.measure("LabelValues of service_name", "queries", || {
        ensure!(
            store.label_values(&Tenants::default(), "service_name", &[], range)?.len() == SERVICES,
            "every service"
        );
        Ok(1)
    })?;
    let (_, first) = wall(|| flame_graph(&stacks, appended))?;
    report.note("  wall time of the flame graph of all", &format!("{:.1} ms", first.as_secs_f64() * 1e3));
    Ok(store.close()?)
}

/// The rows here are of the first hours of 1970, and are kept.
fn config(dir: &Path) -> StoreConfig {
    let retention = Retention { max_age: Duration::from_hours(100 * 365 * 24), ..Retention::default() };
    StoreConfig { retention, ..StoreConfig::new(dir) }
}

/// One row of each service in every second, on one of its 500 stacks; returns the sum of all values.
fn fill_an_hour(store: &Store) -> Result<i64> {
    let mut random = Random(4);
    let mut appended = 0;
    let shape = Shape { stacks: 500, frames: 25, functions: 400 };
    let services = (0..SERVICES).map(|n| stacks(shape, n as u64)).collect::<Result<Vec<_>>>()?;
    for minute in 0..60 {
        for (service, (symbols, ids)) in services.iter().enumerate() {
            let rows: Vec<Row> = (0..240)
                .map(|n| {
                    let time = UnixMs(minute * 60_000 + (n / 4 + 1) * 1000);
                    let stack = ids[random.below(ids.len() as u64) as usize];
                    Row { time, stack, value: 10_309_278 }
                })
                .collect();
            appended += rows.iter().map(|row| row.value).sum::<i64>();
            let profile_type = ProfileType::cpu_time();
            let series = vec![SeriesRows { labels: labels(service), profile_type, rows }];
            store.append_blocking(Batch { symbols: symbols.clone(), series, ..Batch::default() })?;
        }
    }
    store.flush()?;
    Ok(appended)
}

fn diff_halves(store: &Store, stacks: &StackQuery, total: i64) -> Result<u64> {
    let half = |start, end| {
        let range = TimeRange::new(UnixMs(start), UnixMs(end));
        StackQuery { range, ..stacks.clone() }
    };
    let sides = [half(1, HOUR_MS / 2), half(HOUR_MS / 2 + 1, HOUR_MS)];
    let both = store.flame_tree(sides.each_ref().map(Some), MAX_NODES)?;
    let [baseline, comparison] = both.totals();
    ensure!(baseline > 0 && baseline + comparison == total, "{baseline} + {comparison} of {total}");
    ensure!(!both.flamebearer().levels.is_empty(), "it can be drawn");
    Ok(1)
}

fn own_stack(
    symbols: &pyrite_model::SymbolTable,
    id: pyrite_model::StackId,
    own: &mut pyrite_model::SymbolTable,
) -> Result<pyrite_model::StackId> {
    let names = pyrite_model::frame_names(symbols, id);
    let leaf_first: Vec<_> = names.iter().rev().map(|name| own.intern_named_location(name)).collect();
    own.intern_stack(&leaf_first).ok_or_else(|| anyhow::anyhow!("a stack has frames"))
}
