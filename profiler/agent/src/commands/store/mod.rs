//! `pyrite store`: the data directory seen, checked, mended and moved while no Pyrite runs on it.

mod check;
mod export;
mod import;
mod stats;

use std::cell::Cell;
use std::io::{ErrorKind, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use pyrite_store::offline::{self, Step};
use pyrite_store::{OpenReport, Store, StoreError};

use crate::cli::{DataArgs, ServeArgs, StoreCommand};
use crate::config::Config;

/// Runs one of the subcommands.
pub fn store(command: &StoreCommand) -> Result<ExitCode> {
    match command {
        StoreCommand::Stats(args) => stats::stats(args),
        StoreCommand::Check(args) => Ok(check::check(args)),
        StoreCommand::Repair(args) => check::repair(args),
        StoreCommand::Export(args) => export::export(args),
        StoreCommand::Import(args) => import::import(args),
        StoreCommand::Compact(args) => compact(args),
    }
}

fn compact(args: &DataArgs) -> Result<ExitCode> {
    let config = config(args)?;
    let bar = Bar::new("merging");
    let compacted = offline::compact(&config.data, &mut |step| bar.show(step)).map_err(stop_it);
    drop(bar);
    let failed = || format!("failed to compact the data directory {}", config.data.display());
    let (done, report) = compacted.with_context(failed)?;
    say(&report);
    eprintln!(
        "{} segments of {} became {} of {}",
        done.segments_before,
        size(done.bytes_before),
        done.segments_after,
        size(done.bytes_after)
    );
    Ok(ExitCode::SUCCESS)
}

/// Where the data is and how long it is kept.
fn config(args: &DataArgs) -> Result<Config> {
    let DataArgs { data, config } = args;
    Config::load(&ServeArgs { data: data.clone(), config: config.clone(), ..ServeArgs::default() })
}

/// Opens the store so that it removes nothing, where the directory is as it must be, and says what was found.
fn open(config: &Config, ensure: fn(&Path) -> Result<(), StoreError>) -> Result<Store> {
    let failed = || format!("failed to open the data directory {}", config.data.display());
    ensure(&config.data).with_context(failed)?;
    let (store, report) =
        Store::open(offline::keeping_all(&config.data)).map_err(stop_it).with_context(failed)?;
    say(&report);
    Ok(store)
}

fn say(report: &OpenReport) {
    for finding in &report.findings {
        eprintln!("{finding}");
    }
}

/// Says what to do where a Pyrite runs on the directory, or nobody may write to it.
fn stop_it(error: StoreError) -> anyhow::Error {
    let advice = match &error {
        StoreError::Locked { .. } => Some("stop that Pyrite first"),
        StoreError::Io { source, .. } if source.kind() == ErrorKind::ReadOnlyFilesystem => {
            Some("its disk cannot be written; copy it to one that can")
        }
        _ => None,
    };
    let error = anyhow::Error::new(error);
    match advice {
        Some(advice) => error.context(advice),
        None => error,
    }
}

/// Where standard error is no terminal, a line says how far it is, and another one after so long.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// How far the work has come, on standard error.
enum Bar {
    Terminal(ProgressBar),
    Lines { what: &'static str, last: Cell<Option<Instant>> },
}

impl Bar {
    fn new(what: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { what, last: Cell::new(None) };
        }
        let bar = ProgressBar::new(1);
        let template = format!("{what} {{wide_bar}} {{percent}} % {{msg}}");
        bar.set_style(ProgressStyle::with_template(&template).expect("the template is a constant"));
        Self::Terminal(bar)
    }

    fn show(&self, step: Step<'_>) {
        let of = step.of.max(1);
        match self {
            Self::Terminal(bar) => {
                bar.set_length(of);
                bar.set_position(step.done);
                bar.set_message(step.what.to_owned());
            }
            Self::Lines { what, last } => {
                if last.get().is_none_or(|at| at.elapsed() >= LINE_PERIOD) {
                    last.set(Some(Instant::now()));
                    let percent = u128::from(step.done) * 100 / u128::from(of);
                    eprintln!("{what}: {percent} %, {}", step.what);
                }
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Self::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while value >= 1024.0
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
