//! `days`: the store by itself, with days of fifty containers in it.
//!
//! ```text
//! Recipe ─▶ batches ─▶ Store ─ settle ─▶ bytes at rest
//!                        └── ask, evict, ask again ─▶ wall and CPU time of each query, every answer checked
//! ```
//!
//! The load is that of `store-load`, which drives the same store over HTTP; here it comes second by second, as the sampler has
//! it, or minute by minute. With `--data` what was appended is kept, and `--only-ask` asks it again.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

mod ask;
mod fill;
#[path = "../sampled/mod.rs"]
mod sampled;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use pyrite_bench::load::disk_bytes;
use pyrite_bench::process::Status;
use pyrite_bench::recipe::{Recipe, Span};
use pyrite_store::{Retention, Store, StoreConfig};

/// The allocator that the product runs with.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How the rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// A batch for each second of all containers, as the sampler appends them
    Seconds,
    /// A batch for each minute of a container, as one is pushed
    Minutes,
}

#[derive(Parser)]
struct Args {
    /// How long the load goes on, in minutes of its own time
    #[arg(long, default_value_t = 1_440, value_parser = clap::value_parser!(u32).range(5..=44_640))]
    minutes: u32,
    /// When it ends, in Unix seconds [default: the last full minute]
    #[arg(long, value_name = "SECONDS")]
    end: Option<i64>,
    /// How many containers there are
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    containers: u32,
    /// How the rows come
    #[arg(long, value_enum, default_value_t = Shape::Seconds)]
    shape: Shape,
    /// Where the data lies, which is then kept [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// All is in the data directory from an earlier run with the same --end and --shape
    #[arg(long, requires_all = ["data", "end"])]
    only_ask: bool,
    /// How often each query is repeated after the first time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) repeats: u32,
    /// Only the queries that have this in their text
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) query: String,
    /// Cargo adds it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let end_ms = args.end.map_or_else(last_full_minute_ms, |seconds| Ok(seconds * 1_000))?;
    let span = Span { start_ms: end_ms - i64::from(args.minutes) * 60_000, minutes: args.minutes };
    let recipe = Recipe::new(1, args.containers);
    println!("{} containers, {} minutes, --end {}", args.containers, args.minutes, end_ms / 1_000);

    let temporary = tempfile::tempdir()?;
    let dir = args.data.as_deref().unwrap_or(temporary.path());
    let (store, _) = Store::open(config(dir))?;
    if !args.only_ask {
        fill::fill(&store, &recipe, span, args.shape)?;
        fill::settle(&store)?;
    }
    let (stats, at_rest) = (store.stats(), disk_bytes(dir)?);
    println!(
        "{} rows in {} segments, {:.1} MB at rest: {:.2} bytes a row",
        stats.rows,
        stats.segments,
        at_rest as f64 / 1e6,
        at_rest as f64 / stats.rows as f64,
    );
    ask::ask_all(&ask::Load { store: &store, recipe: &recipe, span, shape: args.shape }, dir, &args)?;
    println!("memory, most: {:.0} MB", Status::of(std::process::id())?.bytes("VmHWM") as f64 / 1e6);
    Ok(store.close()?)
}

/// A month must fit, and may be of any time.
fn config(dir: &Path) -> StoreConfig {
    let retention = Retention { max_age: Duration::from_hours(100 * 365 * 24), max_bytes: 100 << 30 };
    StoreConfig { retention, ..StoreConfig::new(dir) }
}

fn last_full_minute_ms() -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    Ok(now.as_secs() as i64 / 60 * 60_000)
}
