//! Measuring: repeat until there is enough CPU time to divide, report CPU time per unit and units per CPU second.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A path is repeated until it has taken this much CPU time.
const ENOUGH: Duration = Duration::from_millis(500);

/// Prints one line per figure and counts them.
pub(crate) struct Report {
    figures: usize,
}

impl Report {
    /// Prints the heading.
    pub(crate) fn new() -> Self {
        println!("{:<52} {:>14} {:>20}", "path", "CPU each", "per CPU second");
        Self { figures: 0 }
    }

    /// How many figures have been printed.
    pub(crate) fn figures(&self) -> usize {
        self.figures
    }

    /// Repeats `run`, which returns how many `unit`s it did, and reports the CPU time of all threads per unit.
    pub(crate) fn measure(
        &mut self,
        path: &str,
        unit: &str,
        mut run: impl FnMut() -> Result<u64>,
    ) -> Result<Duration> {
        // The first run fills caches; what a running server pays is measured.
        run()?;
        let begun = cpu_time()?;
        let mut units = 0;
        while cpu_time()?.saturating_sub(begun) < ENOUGH {
            units += run()?;
        }
        self.line(path, unit, units, cpu_time()?.saturating_sub(begun))
    }

    /// Reports the CPU time of all threads for what can only be done once.
    pub(crate) fn once(
        &mut self,
        path: &str,
        unit: &str,
        run: impl FnOnce() -> Result<u64>,
    ) -> Result<Duration> {
        let begun = cpu_time()?;
        let units = run()?;
        self.line(path, unit, units, cpu_time()?.saturating_sub(begun))
    }

    /// Reports CPU time that was measured elsewhere; returns what one unit took.
    pub(crate) fn line(&mut self, path: &str, unit: &str, units: u64, cpu: Duration) -> Result<Duration> {
        ensure!(units > 0, "{path}: nothing was done");
        self.figures += 1;
        let each = cpu.as_secs_f64() / units as f64;
        println!("{path:<52} {:>14} {:>20}", readable(each), format!("{:.0} {unit}", 1.0 / each));
        Ok(Duration::from_secs_f64(each))
    }

    /// Prints a figure that is no CPU time.
    pub(crate) fn note(&mut self, path: &str, figure: &str) {
        self.figures += 1;
        println!("{path:<52} {figure}");
    }
}

fn readable(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.2} µs", s * 1e6),
        s => format!("{:.2} ms", s * 1e3),
    }
}

/// CPU time of every living thread of this process.
pub(crate) fn cpu_time() -> Result<Duration> {
    threads_cpu_time(|_| true)
}

/// CPU time of the living threads whose name `wanted` takes; the first field of `schedstat` has nanoseconds.
pub(crate) fn threads_cpu_time(wanted: impl Fn(&str) -> bool) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A thread that ended meanwhile has no figures.
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        let Ok(text) = fs::read_to_string(task.join("schedstat")) else { continue };
        if wanted(name.trim_end()) {
            let ns = text.split(' ').next().context("empty schedstat")?.parse()?;
            total += Duration::from_nanos(ns);
        }
    }
    Ok(total)
}

/// Wall time of one call.
pub(crate) fn wall<T>(run: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let value = run()?;
    Ok((value, begun.elapsed()))
}
