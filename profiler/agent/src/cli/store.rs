//! Flags of `pyrite store`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pyrite_model::{ProfileType, Selector, Tenant, Tenants, UnixMs};

use crate::instant;

/// The subcommands of `store`.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Say what the data directory holds and what it takes: segments, sums, tenants, dictionaries, log
    Stats(StatsArgs),
    /// Read everything and say what is not as it must be; changes nothing
    #[command(after_help = "\
Exit codes: 0 all is as it must be, 1 something is not, 2 that could not be told")]
    Check(DataArgs),
    /// Mend what can be mended and set aside what cannot
    #[command(after_help = "\
Exit codes: 0 all is as it must be now (with --dry-run: already), 1 something is not, or repair failed")]
    Repair(RepairArgs),
    /// Write profiles of a window to a file, as pprof or as segments
    Export(ExportArgs),
    /// Add profiles from pprof files or from what `export --format segments` wrote
    Import(ImportArgs),
    /// Merge all segments that may be merged now
    Compact(DataArgs),
}

/// Which data directory.
#[derive(Debug, Default, Args)]
pub struct DataArgs {
    /// The data directory [default: as of `run`]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Read the data directory and retention from this TOML file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `store stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[expect(missing_docs, reason = "the group says it")]
    #[command(flatten)]
    pub data: DataArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `store repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    #[expect(missing_docs, reason = "the group says it")]
    #[command(flatten)]
    pub data: DataArgs,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `store export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One gzipped pprof profile for each profile type, merged over the window
    Pprof,
    /// An archive of the segments as they are, every row and label in it
    Segments,
}

/// Flags of `store export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Times are 2026-03-02T09:00:00Z, 2026-03-02, Unix seconds or milliseconds, now, or 2h for two hours ago.

Examples:
  pyrite store export --type process_cpu:cpu:nanoseconds:cpu:nanoseconds --from 1h -o cpu.pb.gz
  pyrite store export --selector '{service_name=\"shop\"}' --from 2026-03-02 -o profiles/
  pyrite store export --format segments -o all.tar")]
pub struct ExportArgs {
    #[expect(missing_docs, reason = "the group says it")]
    #[command(flatten)]
    pub data: DataArgs,
    /// From when on [default: the oldest row]
    #[arg(long, value_parser = instant::parse, value_name = "TIME")]
    pub from: Option<UnixMs>,
    /// Until when [default: the newest row]
    #[arg(long, value_parser = instant::parse, value_name = "TIME")]
    pub to: Option<UnixMs>,
    /// Whose profiles; names joined by | for several [default: anonymous]
    #[arg(long, value_name = "TENANTS")]
    pub tenant: Option<Tenants>,
    /// Only series that match
    #[arg(long, value_name = "SELECTOR")]
    pub selector: Option<Selector>,
    /// Only this profile type
    #[arg(long = "type", value_name = "TYPE")]
    pub profile_type: Option<ProfileType>,
    /// What to write
    #[arg(long, value_enum, default_value = "pprof")]
    pub format: ExportFormat,
    /// A file; for pprof of several types a directory, where each gets a file of its own
    #[arg(short, long, value_name = "FILE|DIR")]
    pub output: PathBuf,
}

/// Flags of `store import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pyrite store import --label service_name=shop cpu.pb.gz
  pyrite store import --label __name__=mutex --time 2026-03-02T09:00:00Z contention.pb.gz
  pyrite store import all.tar")]
pub struct ImportArgs {
    #[expect(missing_docs, reason = "the group says it")]
    #[command(flatten)]
    pub data: DataArgs,
    /// Whose profiles pprof files are [default: anonymous]
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<Tenant>,
    /// A label of the series in pprof files; __name__ is the first part of the profile type, else made of the sample types
    #[arg(long = "label", value_parser = parse_label, value_name = "NAME=VALUE")]
    pub labels: Vec<(String, String)>,
    /// When pprof files were taken, in place of the time that they state
    #[arg(long, value_parser = instant::parse, value_name = "TIME")]
    pub time: Option<UnixMs>,
    /// pprof profiles, plain or gzipped, and archives of segments
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not a label: write name=value")),
    }
}
