//! `store-load`: the same profiles and the same queries for any server that speaks Pyroscope's API, side by side.
//!
//! Pushes a span of made-up minutes of fifty containers, one profile a minute each, waits until the server has settled,
//! asks queries whose windows are aligned to nothing, and checks every answer against what was pushed; a wrong one fails
//! the run. Servers are named by `--url`, or a Pyrite is started by `--pyrite`; with several each gets the same bytes,
//! one server after the other, and the table says how many times the first's figure theirs is.
//!
//! What a server costs is read where it is told how: CPU time and memory of a process (`pid=`) or a control group
//! (`cgroup=`), bytes of a directory (`data=`). Data lies on the disk that the directory for temporary files (TMPDIR) is
//! on: on a file system in memory syncing costs nothing.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pyrite_bench::load::{Comparison, Load, Orders, PushOrders, Server, Spool, Started, drive};
use pyrite_bench::recipe::Span;

#[derive(Parser)]
#[command(max_term_width = 100)]
struct Args {
    /// A server to drive and, where known, its name=, its pid= or cgroup= and the directory of its data=; repeatable
    #[arg(long = "url", value_name = "URL[,KEY=VALUE…]")]
    servers: Vec<Server>,
    /// Start this Pyrite with an empty data directory and drive it before the others
    #[arg(long, value_name = "BINARY")]
    pyrite: Option<PathBuf>,
    /// How long the load goes on, in minutes of its own time
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=44_640))]
    minutes: u32,
    /// When it ends, in Unix seconds [default: the last full minute]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(100_000_000..=9_000_000_000))]
    end: Option<i64>,
    /// How many containers there are
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    containers: u32,
    /// Another seed makes other stacks
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Pushes on their way at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// Pushes that become due in a second; latency then counts from when they are due [default: as fast as it goes]
    #[arg(long, value_name = "PUSHES")]
    per_second: Option<f64>,
    /// How long a server must have been idle to be settled, in seconds
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    idle: u64,
    /// How often each query is repeated after the first time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=1_000))]
    repeats: u32,
    /// Ask only: all was pushed by an earlier run with the same --end
    #[arg(long, requires = "end", conflicts_with_all = ["pyrite", "only_push"])]
    only_ask: bool,
    /// Push only
    #[arg(long)]
    only_push: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.per_second.is_none_or(|rate| rate > 0.0), "--per-second must be more than 0");
    ensure!(args.pyrite.is_some() || !args.servers.is_empty(), "name a --url, or a --pyrite to start");
    let span = Span { start_ms: end_ms(args.end)? - i64::from(args.minutes) * 60_000, minutes: args.minutes };
    let load = Load::new(args.seed, args.containers, span);
    println!("{} containers, {} minutes, --end {}", args.containers, args.minutes, span.end_ms() / 1000);

    let spool = if args.only_ask { None } else { Some(Arc::new(Spool::prepare(&load)?)) };
    if let Some(spool) = &spool {
        let (samples, pushes) = (spool.samples, spool.pushes());
        println!(
            "{pushes} pushes, {samples} samples, {:.1} MB of pprof, {:.1} MB packed: {:.1} bytes a sample",
            spool.raw_bytes as f64 / 1e6,
            spool.packed_bytes as f64 / 1e6,
            spool.packed_bytes as f64 / samples as f64,
        );
    }
    let pushes = PushOrders { in_flight: args.in_flight.into(), per_second: args.per_second };
    let orders = Orders {
        pushes: (!args.only_ask).then_some(pushes),
        idle: Duration::from_secs(args.idle),
        repeats: (!args.only_push).then_some(args.repeats),
    };
    let mut outcomes = Vec::new();
    if let Some(binary) = &args.pyrite {
        // Ended before the next one starts: what it still does would be taken from others.
        let started = Started::pyrite(binary)?;
        outcomes.push(drive(&started.server, &load, spool.as_ref(), &orders)?);
    }
    for server in &args.servers {
        outcomes.push(drive(server, &load, spool.as_ref(), &orders)?);
    }
    print!("{}", Comparison::new(&outcomes, spool.as_deref()));
    Ok(())
}

/// The end of the load: a time given, or the last full minute.
fn end_ms(given: Option<i64>) -> Result<i64> {
    if let Some(seconds) = given {
        return Ok(seconds * 1_000);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    Ok(now.as_secs() as i64 / 60 * 60_000)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["store-load", "--url", "http://h", "--only-ask"]).is_err(), "no end");
        assert!(Args::try_parse_from(["store-load", "--url", "h"]).is_err(), "no URL");
        let end = |end| Args::try_parse_from(["store-load", "--url", "http://h", "--end", end]);
        assert!(end("1700000000").is_ok() && end("1700000000000").is_err(), "seconds");
    }

    #[test]
    fn the_end_is_what_is_given_or_a_full_minute() {
        assert_eq!(end_ms(Some(1_700_000_001)).unwrap(), 1_700_000_001_000);
        assert_eq!(end_ms(None).unwrap() % 60_000, 0);
    }
}
