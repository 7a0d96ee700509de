//! `pyrite store stats`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use pyrite_model::UnixMs;
use pyrite_store::offline::{self, DirStats};

use super::{config, size};
use crate::cli::StatsArgs;

#[expect(clippy::print_stdout, reason = "the figures are what the user asked for")]
pub(super) fn stats(args: &StatsArgs) -> Result<ExitCode> {
    let config = config(&args.data)?;
    let stats = offline::stats(&config.data)
        .with_context(|| format!("failed to read the data directory {}", config.data.display()))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&stats)?);
    } else {
        print!("{}", text(&stats));
    }
    Ok(ExitCode::SUCCESS)
}

/// The figures as tables, one for each kind of thing that is there, and the rest as lines below them.
fn text(stats: &DirStats) -> String {
    let tables = [groups(stats), sums(stats), tenants(stats), dictionaries(stats), logs(stats)];
    // A heading alone says nothing.
    let tables = tables.iter().filter(|rows| rows.len() > 1).map(|rows| table(rows) + "\n");
    tables.collect::<String>() + &rest(stats)
}

type Rows = Vec<Vec<String>>;

fn row<const COLUMNS: usize>(cells: [String; COLUMNS]) -> Vec<String> {
    cells.into()
}

fn heading<const COLUMNS: usize>(names: [&str; COLUMNS]) -> Vec<String> {
    row(names.map(str::to_owned))
}

fn time(ms: Option<i64>) -> String {
    ms.map_or_else(|| "none".to_owned(), |ms| UnixMs(ms).to_string())
}

/// Bytes for each row.
fn each(bytes: u64, rows: u64) -> String {
    format!("{:.2}", bytes as f64 / rows.max(1) as f64)
}

fn groups(stats: &DirStats) -> Rows {
    let names =
        ["segments of", "level", "age", "segments", "samples", "size", "bytes/sample", "oldest", "newest"];
    let groups = stats.groups.iter().map(|group| {
        row([
            group.signal.to_owned(),
            group.level.to_string(),
            group.age.text().to_owned(),
            group.segments.to_string(),
            group.rows.to_string(),
            size(group.bytes),
            each(group.bytes, group.rows),
            time(Some(group.oldest_ms)),
            time(Some(group.newest_ms)),
        ])
    });
    std::iter::once(heading(names)).chain(groups).collect()
}

fn sums(stats: &DirStats) -> Rows {
    let sums = stats.sums.iter().map(|sums| {
        row([
            sums.of.to_owned(),
            sums.level.to_string(),
            length(sums.bucket_ms),
            sums.segments.to_string(),
            sums.rows.to_string(),
            size(sums.bytes),
            each(sums.bytes, sums.rows),
        ])
    });
    let names = ["sums of", "level", "over", "segments", "rows", "size", "bytes/row"];
    std::iter::once(heading(names)).chain(sums).collect()
}

/// A length of time in its largest unit.
fn length(ms: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    let unit = UNITS.iter().find(|(unit_ms, _)| ms >= *unit_ms && ms % unit_ms == 0);
    unit.map_or_else(|| format!("{ms} ms"), |(unit_ms, unit)| format!("{} {unit}", ms / unit_ms))
}

fn tenants(stats: &DirStats) -> Rows {
    let tenants = stats.tenants.iter().map(|tenant| {
        row([
            tenant.tenant.clone(),
            tenant.series.to_string(),
            tenant.rows.to_string(),
            time(tenant.oldest_ms),
            time(tenant.newest_ms),
        ])
    });
    std::iter::once(heading(["tenant", "series", "samples", "oldest", "newest"])).chain(tenants).collect()
}

fn dictionaries(stats: &DirStats) -> Rows {
    let dictionaries = stats.dictionaries.iter().map(|dictionary| {
        row([
            format!("epoch {}", dictionary.epoch),
            dictionary.segments.to_string(),
            dictionary.parts.to_string(),
            dictionary.stacks.to_string(),
            size(dictionary.bytes),
        ])
    });
    let names = ["dictionary", "segments", "parts", "stack nodes", "size"];
    std::iter::once(heading(names)).chain(dictionaries).collect()
}

fn logs(stats: &DirStats) -> Rows {
    let logs = stats.logs.iter().map(|log| {
        row([
            format!("generation {}", log.generation),
            log.version.map_or_else(|| "illegible".to_owned(), |version| version.to_string()),
            log.epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string()),
            log.records.to_string(),
            log.rows.to_string(),
            size(log.bytes),
            size(log.unusable_bytes),
            time(log.oldest_ms),
            time(log.newest_ms),
        ])
    });
    let names = ["log", "version", "epoch", "records", "samples", "size", "unusable", "oldest", "newest"];
    std::iter::once(heading(names)).chain(logs).collect()
}

/// What is one of its kind.
fn rest(stats: &DirStats) -> String {
    let DirStats { quarantine, .. } = stats;
    let per_sample =
        stats.bytes_per_sample.map_or_else(String::new, |bytes| format!(", {bytes:.2} bytes a sample"));
    let mut lines = vec![
        format!("all            {} samples, {}{per_sample}", stats.rows, size(stats.bytes)),
        format!("time           {} to {}", time(stats.oldest_ms), time(stats.newest_ms)),
        format!("series         {}", stats.series),
        format!("catalogue      {}", size(stats.catalogue_bytes)),
        format!("cut from logs  {}", size(stats.cut_bytes)),
        format!("quarantine     {} segments, {}", quarantine.segments, size(quarantine.bytes)),
        format!("format         {}", stats.format),
    ];
    if quarantine.rows > 0 {
        let (oldest, newest) = (time(quarantine.oldest_ms), time(quarantine.newest_ms));
        lines.push(format!("not answered   {} samples from {oldest} to {newest}", quarantine.rows));
    }
    lines.extend(stats.running_pid.map(|pid| format!("in use by       the process with pid {pid}")));
    let unreadable = stats.unreadable.iter();
    lines.extend(unreadable.map(|name| format!("not legible    segment {name}; see `pyrite store check`")));
    lines.join("\n") + "\n"
}

/// Columns as wide as their widest cell; numbers stand on the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let width = |column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let is_number = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit());
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| {
            if is_number(cell) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "rows"], ["long", "5"]].map(heading);
        assert_eq!(table(&rows), "a     rows\nlong     5\n");
    }

    #[test]
    fn lengths_have_their_largest_unit() {
        for (ms, text) in [
            (1, "1 ms"),
            (1_500, "1500 ms"),
            (60_000, "1 min"),
            (600_000, "10 min"),
            (3_600_000, "1 h"),
            (86_400_000, "1 d"),
        ] {
            assert_eq!(length(ms), text);
        }
    }
}
