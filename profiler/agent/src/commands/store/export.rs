//! `pyrite store export`.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use pyrite_model::pprof::{self, ExportMeta};
use pyrite_model::{ProfileType, Selector, TimeRange};
use pyrite_store::offline::{self, ArchiveError, Step};
use pyrite_store::{StackQuery, Store};

use super::super::record;
use super::{Bar, config, open};
use crate::cli::{ExportArgs, ExportFormat};

/// Writes the files and says what is in them.
pub(super) fn export(args: &ExportArgs) -> Result<ExitCode> {
    let store = open(&config(&args.data)?, offline::ensure_data)?;
    let outcome = match args.format {
        ExportFormat::Pprof => export_pprof(&store, args),
        ExportFormat::Segments => export_segments(&store, args),
    };
    store.close()?;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// From the oldest row to the newest, where not told otherwise.
fn window(store: &Store, args: &ExportArgs) -> Result<TimeRange> {
    let stats = store.stats();
    let (start, end) = (args.from.or(stats.oldest), args.to.or(stats.newest));
    let (start, end) = start.zip(end).context("there are no rows")?;
    ensure!(start <= end, "--from {start} is behind --to {end}");
    Ok(TimeRange::new(start, end))
}

fn export_pprof(store: &Store, args: &ExportArgs) -> Result<()> {
    let range = window(store, args)?;
    let tenants = args.tenant.clone().unwrap_or_default();
    let types = match &args.profile_type {
        Some(profile_type) => vec![profile_type.clone()],
        None => store.profile_types(&tenants, range)?,
    };
    let into_dir = args.output.is_dir() || args.output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if into_dir {
        fs::create_dir_all(&args.output)
            .with_context(|| format!("failed to make {}", args.output.display()))?;
    } else {
        record::ensure_directory(&args.output)?;
        if types.len() > 1 {
            let names: Vec<String> = types.iter().map(ToString::to_string).collect();
            bail!("choose one with --type, or let -o be a directory; there are: {}", names.join(", "));
        }
    }
    let bar = Bar::new("exporting");
    let mut written: Vec<(PathBuf, i64)> = Vec::new();
    for (done, profile_type) in (0..).zip(&types) {
        bar.show(Step { what: &profile_type.to_string(), done, of: types.len() as u64 });
        let path = if into_dir { args.output.join(file_name(profile_type)) } else { args.output.clone() };
        let selector = args.selector.clone().unwrap_or_else(Selector::all);
        if let Some(total) = write_pprof(
            store,
            StackQuery::new(tenants.clone(), profile_type.clone(), selector, range),
            &path,
        )? {
            written.push((path, total));
        }
    }
    drop(bar);
    ensure!(!written.is_empty(), "there are no rows of that from {} to {}", range.start, range.end);
    for (path, total) in written {
        eprintln!("{total} in all, from {} to {}, written to {}", range.start, range.end, path.display());
    }
    Ok(())
}

/// Writes one profile and returns what its values sum up to; none where there are none.
fn write_pprof(store: &Store, query: StackQuery, path: &Path) -> Result<Option<i64>> {
    let profile = store.merge_stacks(&query)?;
    if profile.values.is_empty() {
        return Ok(None);
    }
    let StackQuery { profile_type, range, .. } = query;
    let time_ns = range.start.0.saturating_mul(1_000_000);
    let duration_ns = range.end.0.saturating_sub(range.start.0).saturating_mul(1_000_000);
    let meta = ExportMeta { profile_type, time_ns, duration_ns, period: 0 };
    record::write(path, &pprof::gzip(&pprof::encode(&profile, &meta).encode_to_vec()))?;
    Ok(Some(profile.total()))
}

/// The profile type without what file systems or shells mind.
fn file_name(profile_type: &ProfileType) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '-' };
    let name: String = profile_type.to_string().chars().map(safe).collect();
    format!("{name}.pb.gz")
}

fn export_segments(store: &Store, args: &ExportArgs) -> Result<()> {
    ensure!(
        args.selector.is_none() && args.profile_type.is_none() && args.tenant.is_none(),
        "segments are exported whole: --selector, --type and --tenant go with --format pprof"
    );
    let range = window(store, args)?;
    record::ensure_directory(&args.output)?;
    let failed = || format!("failed to write {}", args.output.display());
    let mut beside = args.output.as_os_str().to_owned();
    beside.push(".partial");
    let file = File::create(&beside).with_context(failed)?;
    let bar = Bar::new("exporting");
    let exported = store.export_archive(range, BufWriter::new(&file), &mut |step| bar.show(step));
    drop(bar);
    let exported = exported.map_err(repair_first).with_context(failed).and_then(|exported| {
        ensure!(exported.0 > 0, "there are no segments from {} to {}", range.start, range.end);
        file.sync_all().and_then(|()| fs::rename(&beside, &args.output)).with_context(failed)?;
        Ok(exported)
    });
    if exported.is_err() {
        // The failure is what there is to say.
        let _ = fs::remove_file(&beside);
    }
    let (segments, rows) = exported?;
    eprintln!("{segments} segments with {rows} rows written to {}", args.output.display());
    Ok(())
}

fn repair_first(error: ArchiveError) -> anyhow::Error {
    let is_damage = matches!(error, ArchiveError::Unsound { .. });
    let error = anyhow::Error::new(error);
    if is_damage { error.context("`pyrite store repair` first, so that it can be imported") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_file_names() {
        assert_eq!(file_name(&ProfileType::cpu_time()), "process_cpu-cpu-nanoseconds-cpu-nanoseconds.pb.gz");
    }
}
