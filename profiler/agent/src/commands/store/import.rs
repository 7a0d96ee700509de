//! `pyrite store import`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use pyrite_model::pprof::{self, DisplayNames, PushContext, PushLimits};
use pyrite_model::{Batch, LabelSet, TimeRange, UnixMs};
use pyrite_store::Store;
use pyrite_store::offline::{self, ARCHIVE_MAGIC_AT, ArchiveError, Imported, Step, is_archive};

use super::{Bar, config, open, size};
use crate::cli::ImportArgs;
use crate::config::Config;
use crate::instant;

/// Larger profiles than are taken by push: here they come from who has the disk.
const MAX_PROFILE_BYTES: usize = 256 << 20;
/// What rows of a profile get that states no time; the epoch itself is nobody's.
const UNSTATED: UnixMs = UnixMs(0);

/// Adds the files one after the other, and says what becomes of rows that are older than is kept.
pub(super) fn import(args: &ImportArgs) -> Result<ExitCode> {
    let config = config(&args.data)?;
    // Before a data directory is made for them.
    for file in &args.files {
        File::open(file).with_context(|| format!("failed to open {}", file.display()))?;
    }
    let store = open(&config, offline::ensure_data_or_empty)?;
    let bar = Bar::new("importing");
    let mut sum = Imported::default();
    let mut outcome = Ok(());
    for (done, file) in (0..).zip(&args.files) {
        bar.show(Step { what: &file.display().to_string(), done, of: args.files.len() as u64 });
        match import_file(&store, args, file, &bar) {
            Ok(imported) => add(&mut sum, imported),
            Err(error) => {
                if let Some(ArchiveError::Stopped { stored, .. }) = error.downcast_ref() {
                    add(&mut sum, *stored);
                }
                let before =
                    format!(" ({done} files before it are stored: leave them out when it is repeated)");
                let before = if done > 0 { before.as_str() } else { "" };
                outcome = Err(error.context(format!("failed to import {}{before}", file.display())));
                break;
            }
        }
    }
    drop(bar);
    // Before anything else can fail: they are in the log.
    eprintln!("{} rows imported", sum.rows);
    let flushed = store.flush();
    let bytes = store.stats().segment_bytes;
    let closed = store.close();
    for warning in warnings(&config, &sum, bytes, instant::now()) {
        eprintln!("{warning}");
    }
    outcome?;
    flushed
        .and(closed)
        .context("the rows are stored, in the log alone: they could not be written as segments")?;
    Ok(ExitCode::SUCCESS)
}

fn add(sum: &mut Imported, more: Imported) {
    sum.rows += more.rows;
    let ranges = [sum.range, more.range].into_iter().flatten();
    sum.range = ranges.reduce(|a, b| TimeRange::new(a.start.min(b.start), a.end.max(b.end)));
}

/// What retention is going to remove.
fn warnings(config: &Config, imported: &Imported, bytes: u64, now: UnixMs) -> Vec<String> {
    let mut warnings = Vec::new();
    let max_age_ms = i64::try_from(config.max_age.as_millis()).unwrap_or(i64::MAX);
    let kept_from = UnixMs(now.0.saturating_sub(max_age_ms));
    if let Some(range) = imported.range.filter(|range| range.start < kept_from) {
        let end = range.end.min(kept_from);
        let days = max_age_ms as f64 / 86_400_000.0;
        warnings.push(format!(
            "rows from {} to {end} are older than the {days:.1} days that are kept: `run` and `server` remove them \
             unless max_age under [retention.profiles] in their configuration file is raised first",
            range.start
        ));
    }
    if bytes > config.max_bytes {
        warnings.push(format!(
            "the segments take {}, more than the {} that are kept: `run` and `server` remove the oldest unless max_size \
             under [retention.profiles] in their configuration file is raised first",
            size(bytes),
            size(config.max_bytes)
        ));
    }
    warnings
}

fn import_file(store: &Store, args: &ImportArgs, path: &Path, bar: &Bar) -> Result<Imported> {
    let mut begin = Vec::new();
    File::open(path)?.take(ARCHIVE_MAGIC_AT as u64 + 8).read_to_end(&mut begin)?;
    if is_archive(&begin) {
        ensure!(
            args.labels.is_empty() && args.time.is_none() && args.tenant.is_none(),
            "an archive of segments has its own labels, times and tenants: --label, --time and --tenant go with pprof files"
        );
        let archive = BufReader::new(File::open(path)?);
        return Ok(store.import_archive(archive, &mut |step| bar.show(step))?);
    }
    let mut bytes = Vec::new();
    // Packed it is smaller still; one byte more tells that it is too large.
    File::open(path)?.take(MAX_PROFILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let batch = read_pprof(args, &bytes)?;
    store.append_patiently(&batch)?;
    let times = || batch.series.iter().flat_map(|series| &series.rows).map(|row| row.time);
    let range = times().min().zip(times().max()).map(|(start, end)| TimeRange::new(start, end));
    Ok(Imported { rows: batch.row_count() as u64, range })
}

fn read_pprof(args: &ImportArgs, bytes: &[u8]) -> Result<Batch> {
    let limits = PushLimits {
        max_profile_bytes: MAX_PROFILE_BYTES,
        max_age_ms: i64::MAX,
        max_ahead_ms: i64::MAX,
        ..PushLimits::default()
    };
    let labels =
        LabelSet::from_pairs(args.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let names = DisplayNames::new();
    let context =
        PushContext { labels: &labels, display_names: Some(&names), now: UNSTATED, limits: &limits };
    let mut batch = Batch { tenant: args.tenant.clone().unwrap_or_default(), ..Batch::default() };
    let appended =
        pprof::append(&mut batch, bytes, &context).context("not a pprof profile that can be imported")?;
    let rows = || batch.series.iter().flat_map(|series| &series.rows);
    ensure!(
        args.time.is_some() || rows().all(|row| row.time != UNSTATED),
        "the profile does not say when it was taken: say it with --time"
    );
    if let Some(time) = args.time {
        batch.series.iter_mut().flat_map(|series| &mut series.rows).for_each(|row| row.time = time);
    }
    if appended.negative_samples > 0 {
        eprintln!("{} samples with a negative value are left out", appended.negative_samples);
    }
    if appended.truncated_stacks > 0 {
        eprintln!("{} stacks are cut at {} frames", appended.truncated_stacks, limits.max_frames);
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ServeArgs;

    #[test]
    fn what_retention_would_remove_is_said() {
        let config =
            Config::load(&ServeArgs { data: Some("/d".into()), ..ServeArgs::default() }).expect("valid");
        let now = UnixMs(40 * 86_400_000);
        let imported = |day: i64| {
            let range = TimeRange::new(UnixMs(day * 86_400_000), UnixMs(39 * 86_400_000));
            Imported { rows: 1, range: Some(range) }
        };
        assert!(warnings(&config, &imported(11), 10 << 30, now).is_empty());
        let said = warnings(&config, &imported(3), (10 << 30) + 1, now).join("\n");
        for word in ["from 1970-01-04", "to 1970-01-11", "30.0 days", "max_age", "10.0 GiB", "max_size"] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
    }
}
