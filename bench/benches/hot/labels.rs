//! Label queries over a hundred thousand series in two segments and a head, and what the index of them costs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pyrite_model::{
    Batch, Exposition, LabelSet, ProfileType, Row, Selector, SeriesRows, SymbolTable, Tenants, TimeRange,
    UnixMs,
};
use pyrite_store::{FlushPolicy, Retention, Store, StoreConfig};

use crate::harness::{Report, wall};

const SERVICES: usize = 1_000;
const PODS: usize = 50;
const SERIES: usize = SERVICES * PODS * 2;
const HOUR_MS: i64 = 3_600_000;
/// What an answer may take, and one about a single service.
const BOUND: Duration = Duration::from_millis(2);
const BOUND_OF_ONE: Duration = Duration::from_micros(100);

/// A question, the label whose values are the answer, and how many those are.
struct Question {
    path: &'static str,
    label: &'static str,
    selector: &'static str,
    range: TimeRange,
    values: usize,
    bound: Duration,
}

/// Label values with and without conditions, windows that cover segments and that cut through them.
pub(crate) fn values_of_labels(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(config(dir.path()))?;
    for hour in 0..3 {
        if hour > 0 {
            store.flush()?;
        }
        append_hour(&store, hour)?;
    }
    ensure!(store.stats().segments == 2 && store.stats().series == SERIES as u64, "{:?}", store.stats());
    ask_all(report, &store)?;
    store.close()?;
    drop(store);

    let before = resident_bytes()?;
    let ((store, _), took) = wall(|| Ok(Store::open(config(dir.path()))?))?;
    let after = resident_bytes()?;
    report.note("  opening the store with them", &format!("{:.0} ms", took.as_secs_f64() * 1e3));
    ensure!(store.stats().series == SERIES as u64, "{:?}", store.stats());
    let each = |bytes: u64| bytes / SERIES as u64;
    let figure = format!(
        "{} bytes a series by its own account, {} more resident after opening",
        each(index_bytes(&store)?),
        each(after.saturating_sub(before))
    );
    report.note("  their index, three segments", &figure);
    Ok(store.close()?)
}

fn ask_all(report: &mut Report, store: &Store) -> Result<()> {
    let hours = |from: f64, to: f64| {
        let at = |hour: f64| UnixMs((hour * HOUR_MS as f64) as i64);
        TimeRange::new(at(from), at(to))
    };
    let all = hours(0.0, 3.0);
    let questions = [
        ("LabelValues of service_name, 100,000 series", "service_name", "{}", all, SERVICES, BOUND),
        ("  in a window that cuts two segments", "service_name", "{}", hours(0.5, 1.5), SERVICES, BOUND),
        ("  of a node's series", "service_name", r#"{node="node-3"}"#, all, SERVICES, BOUND),
        (
            "  where it matches an expression",
            "service_name",
            r#"{service_name=~".*9"}"#,
            all,
            SERVICES / 10,
            BOUND,
        ),
        ("  where another label does not", "node", r#"{service_name!~"service-1.*"}"#, all, PODS, BOUND),
        ("  of one service: pod", "pod", r#"{service_name="service-7"}"#, all, PODS, BOUND_OF_ONE),
        ("  of three: pod", "pod", r#"{service_name=~"service-(1|2|3)"}"#, all, 3 * PODS, BOUND_OF_ONE),
        ("  of pod, 50,000 values", "pod", "{}", all, SERVICES * PODS, Duration::MAX),
    ];
    for (path, label, selector, range, values, bound) in questions {
        ask(report, store, &Question { path, label, selector, range, values, bound })?;
    }
    Ok(())
}

fn ask(report: &mut Report, store: &Store, question: &Question) -> Result<()> {
    let Question { path, label, selector, range, values, bound } = *question;
    let selector: Selector = selector.parse()?;
    let took = report.measure(path, "queries", || {
        let found = store.label_values(&Tenants::default(), label, std::slice::from_ref(&selector), range)?;
        ensure!(found.len() == values, "{path}: {} values, not {values}", found.len());
        ensure!(found.is_sorted_by(|a, b| a < b), "{path}: in order, each once");
        Ok(1)
    })?;
    ensure!(took <= bound, "{path}: {took:?} is more than {bound:?}");
    Ok(())
}

/// The rows are of the first hours of 1970, and are kept; heads are flushed by hand.
fn config(dir: &Path) -> StoreConfig {
    let retention = Retention { max_age: Duration::from_hours(100 * 365 * 24), ..Retention::default() };
    let flush = FlushPolicy { max_rows: usize::MAX, max_bytes: usize::MAX / 4, max_age: Duration::MAX };
    StoreConfig { retention, flush, ..StoreConfig::new(dir) }
}

/// One row of each series, all over the hour, a batch for each pod number.
fn append_hour(store: &Store, hour: i64) -> Result<()> {
    let mut symbols = SymbolTable::new();
    let main = symbols.intern_named_location("main");
    let stack = symbols.intern_stack(&[main]).context("a stack has frames")?;
    for pod in 0..PODS {
        let mut series = Vec::with_capacity(SERVICES * 2);
        for service in 0..SERVICES {
            for profile_type in [ProfileType::cpu_time(), ProfileType::cpu_samples()] {
                let into_hour = (pod * SERVICES + service) as i64 * HOUR_MS / (PODS * SERVICES) as i64;
                let rows = vec![Row { time: UnixMs(hour * HOUR_MS + into_hour), stack, value: 1 }];
                series.push(SeriesRows { labels: labels(service, pod), profile_type, rows });
            }
        }
        store.append_blocking(Batch { symbols: symbols.clone(), series, ..Batch::default() })?;
    }
    Ok(())
}

/// The labels that the agent gives to a pod's process.
fn labels(service: usize, pod: usize) -> LabelSet {
    let id = format!("{:064x}", service * PODS + pod);
    LabelSet::from_pairs([
        ("service_name", format!("service-{service}").as_str()),
        ("container_name", &format!("service-{service}")),
        ("container_id", &id),
        ("image", &format!("registry.example/team/service-{service}:1.2.3")),
        ("namespace", &format!("team-{}", service % 20)),
        ("pod", &format!("service-{service}-{pod:x}")),
        ("node", &format!("node-{pod}")),
        ("comm", "worker"),
        ("exe", "/usr/local/bin/service"),
    ])
}

fn index_bytes(store: &Store) -> Result<u64> {
    let mut out = Exposition::new();
    store.metrics(&mut out);
    let text = out.to_string();
    let line = text.lines().find_map(|line| line.strip_prefix("pyrite_store_series_index_bytes "));
    Ok(line.context("the store tells the size of its index")?.parse::<f64>()? as u64)
}

fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).context("the kernel tells VmRSS")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}
