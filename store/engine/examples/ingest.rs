//! What ingest costs: the sampler's load (200 processes, about 400 rows and 200 stacks of 30 frames a second) through
//! WAL, head, flush and merge, as fast as the store takes it.
//!
//! Run with `cargo run --release -p pyrite-store --example ingest [SECONDS]`; prints CPU time and memory as it goes.

#![expect(clippy::print_stdout, reason = "printing figures is what it is for")]

use std::time::Instant;

use pyrite_model::{
    Batch, LabelSet, Location, ProfileType, Row, Selector, SeriesRows, SymbolTable, Tenants, TimeRange,
    UnixMs,
};
use pyrite_store::{StackQuery, Store, StoreConfig};

const PROCESSES: u64 = 200;
const FRAMES: u64 = 30;

/// A small generator, so that every run sees the same load.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// One second: of each process one stack, under both profile types.
fn second(random: &mut Random, time: i64) -> Batch {
    let mut symbols = SymbolTable::new();
    let mut series = Vec::new();
    for process in 0..PROCESSES {
        // A heavy tail: low numbers are far more usual than high ones.
        let kind = random.below(8).min(random.below(8)) * random.below(6);
        let frames = (0..FRAMES).map(|depth| {
            let of = if depth < 20 { depth } else { depth * 100 + kind };
            let name = format!("namespace::module{}::Type{of}::function_with_a_name_{process}", process % 10);
            let name = symbols.intern_str(&name);
            let function = symbols.intern_function(pyrite_model::Function { name, ..Default::default() });
            let lines = pyrite_model::Line { function, line: 0 }.into();
            symbols.intern_location(Location { mapping: None, address: of * 64 + process, lines })
        });
        let root_first: Vec<_> = frames.collect();
        let leaf_first: Vec<_> = root_first.into_iter().rev().collect();
        let Some(stack) = symbols.intern_stack(&leaf_first) else { continue };
        let count = 1 + random.below(3) as i64;
        for (profile_type, value) in
            [(ProfileType::cpu_time(), count * 10_309_278), (ProfileType::cpu_samples(), count)]
        {
            let labels = LabelSet::from_pairs([
                ("service_name", format!("service-{process}")),
                ("container_id", format!("{process:064x}")),
                ("node", "bench".to_owned()),
            ]);
            series.push(SeriesRows {
                labels,
                profile_type,
                rows: vec![Row { time: UnixMs(time), stack, value }],
            });
        }
    }
    Batch { symbols, series, ..Batch::default() }
}

/// CPU seconds used and resident MiB of this process, as `/proc` has them.
fn usage() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .map(|f| f.parse().unwrap_or(0))
        .collect();
    // utime, stime and rss are fields 14, 15 and 24; ticks are hundredths of a second, pages 4 KiB.
    let at = |field: usize| fields.get(field - 4).copied().unwrap_or(0) as f64;
    ((at(14) + at(15)) / 100.0, at(24) / 256.0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds: i64 = std::env::args().nth(1).map_or(Ok(1800), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(StoreConfig::new(dir.path()))?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // Nothing of this may be too old for retention.
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64 / 1000 * 1000;
    let start = now - seconds * 1000;
    let mut making = 0.0;
    let (mut flushing, mut flushes) = (0.0, 0.0);
    for i in 0..seconds {
        let before = usage().0;
        let batch = second(&mut random, start + i * 1000);
        making += usage().0 - before;
        store.append_blocking(batch)?;
        if i % 240 == 239 {
            let before = usage().0;
            store.flush()?;
            flushing += usage().0 - before;
            flushes += 1.0;
            println!("{i:>6} s: {:>5.1} MiB resident, {:?}", usage().1, store.stats());
        }
    }
    store.flush()?;
    let appending = usage().0 - making - flushing;
    let stats = store.stats();
    println!(
        "append: {:.2} ms CPU per second of load ({} rows)",
        appending / seconds as f64 * 1e3,
        stats.rows
    );
    println!("flush: {:.0} ms CPU per 4 minutes of load", flushing / f64::max(flushes, 1.0) * 1e3);
    println!("disk: {:.2} bytes per row", stats.segment_bytes as f64 / stats.rows as f64);
    for (window, ms) in [("all", seconds * 1000), ("last minute", 60_000)] {
        let range = TimeRange::new(UnixMs(now - ms), UnixMs(now));
        let query = StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), range);
        for run in ["first", "again"] {
            let before = Instant::now();
            let total = store.merge_stacks(&query)?.total();
            println!(
                "flame graph, {window}, {run}: {:.1} ms, {total} ns",
                before.elapsed().as_secs_f64() * 1e3
            );
        }
    }
    println!("{:.1} MiB resident", usage().1);
    Ok(())
}
