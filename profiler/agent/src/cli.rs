//! The command line: every flag with its help, and nothing else. [`crate::config`] turns flags into a `Config`.

mod store;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

pub use self::store::{DataArgs, ExportArgs, ExportFormat, ImportArgs, RepairArgs, StatsArgs, StoreCommand};
use crate::config::{parse_duration, parse_size};

/// Shows where this node's CPU goes, per container and service, with nothing changed in any application.
#[derive(Debug, Parser)]
#[command(
    name = "pyrite",
    version,
    max_term_width = 100,
    after_help = "\
Start here:
  sudo pyrite doctor                        is this machine ready?
  sudo pyrite run                           watch this node; open http://127.0.0.1:4040
  sudo pyrite record -o cpu.svg -- make     one flame graph of one command"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this node: sampler, store, API and page in one process (needs root)
    Run(ServeArgs),
    /// Store, API and page only, for profiles that others push (needs no privilege)
    Server(ServeArgs),
    /// Record one profile into a file (needs root)
    Record(RecordArgs),
    /// Check this machine and say what to do about each line that is not ok
    Doctor(DoctorArgs),
    /// Look at, check, mend and move the data that is kept
    #[command(subcommand)]
    Store(StoreCommand),
}

/// Flags of `run` and `server`. A flag that is absent falls back to the configuration file, then to its default.
#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// Address of the API and the page [default: 127.0.0.1:4040]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where profiles are kept [default: /var/lib/pyrite as root, else ~/.local/share/pyrite]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Read settings from this TOML file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Samples per second and CPU, 1 to 1000 [default: 97]; `server` takes no samples and ignores it
    #[arg(long, value_name = "HZ")]
    pub frequency: Option<u32>,
    /// Sample even on a kernel that reading user stacks can freeze (5.19 to 6.3, see `pyrite doctor`)
    #[arg(long)]
    pub allow_freezing_kernel: bool,
    /// Record what threads wait for as well, within a budget [default: on]
    #[arg(long, value_name = "ON|OFF")]
    pub off_cpu: Option<Switch>,
    /// End a query that runs longer than this [default: 60s]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub query_timeout: Option<Duration>,
    /// Refuse a query that needs more memory than this [default: 64MiB]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub query_memory: Option<u64>,
    /// Refuse the large ones of the queries under way where all together need more than this [default: 96MiB]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub total_query_memory: Option<u64>,
    /// Let a push wait so long for others that share its write and sync, a second at most [default: it waits for none]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub commit_interval: Option<Duration>,
    /// Write and sync what has been pushed when it is this much [default: 4MiB]
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    pub commit_size: Option<u64>,
    /// Keep the data of tenants apart, as the header X-Scope-OrgID of each request names them
    #[arg(long)]
    pub multitenancy: bool,
}

/// Something that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It is done.
    On,
    /// It is not.
    Off,
}

/// Flags of `record`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pyrite record --duration 10s -o node.svg
  pyrite record --pid 4242 -o app.pb.gz
  pyrite record --container web -o web.html
  pyrite record --pid 4242 --off-cpu -o waits.svg
  pyrite record -o build.folded -- make -j2")]
pub struct RecordArgs {
    /// How long to record, such as 10s or 2m [default: 10s, or until CMD ends]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Only this process and the children it starts
    #[arg(long, value_name = "PID", group = "target")]
    pub pid: Option<u32>,
    /// Only the container with this name or id
    #[arg(long, value_name = "NAME", group = "target")]
    pub container: Option<String>,
    /// Samples per second and CPU, 1 to 1000
    #[arg(long, value_name = "HZ", default_value_t = 97)]
    pub frequency: u32,
    /// Record what threads wait for, and for how long, instead of what they run
    #[arg(long)]
    pub off_cpu: bool,
    /// Sample even on a kernel that reading user stacks can freeze (5.19 to 6.3, see `pyrite doctor`)
    #[arg(long)]
    pub allow_freezing_kernel: bool,
    /// Also read debug information: source lines and inlined functions, at the price of time and memory
    #[arg(long)]
    pub lines: bool,
    /// Where to write; the ending chooses the format: .pb.gz (pprof), .svg, .folded or .html
    #[arg(short, long, value_name = "FILE", default_value = "profile.pb.gz")]
    pub output: PathBuf,
    /// Run this command, record it and its children, and exit with its exit code
    #[arg(last = true, value_name = "CMD", group = "target")]
    pub command: Vec<OsString>,
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The data directory to check
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Say instead how many stacks are complete, why others are not, and what to do about it
    #[arg(long)]
    pub unwind: bool,
    /// With --unwind: where Pyrite runs; if it does not, this node is sampled for a while (needs root)
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4040", requires = "unwind")]
    pub ask: SocketAddr,
    /// With --unwind: for how long, a minute at most
    #[arg(long, value_parser = parse_duration, value_name = "TIME", default_value = "10s", requires = "unwind")]
    pub duration: Duration,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn record_takes_one_target_only() {
        assert!(Cli::try_parse_from(["pyrite", "record", "--pid", "1", "--container", "web"]).is_err());
        assert!(Cli::try_parse_from(["pyrite", "record", "--pid", "1", "--", "true"]).is_err());
        let cli = Cli::try_parse_from(["pyrite", "record", "-o", "a.svg", "--", "sh", "-c", "exit 3"]);
        let Command::Record(args) = cli.expect("valid").command else { panic!("not record") };
        assert_eq!(args.command, ["sh", "-c", "exit 3"]);
    }
}
