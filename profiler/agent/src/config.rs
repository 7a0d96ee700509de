//! One `Config` out of defaults, the TOML file and the flags, in rising order of precedence.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pyrite_server::{ServerLimits, Tenancy};
use pyrite_store::{CommitPolicy, Limits};
use serde::Deserialize;

use crate::cli::{ServeArgs, Switch};

/// Sampling frequencies that the sampler accepts.
pub const FREQUENCY_RANGE_HZ: std::ops::RangeInclusive<u32> = 1..=1000;

/// The most of the log that pushes may wait behind.
const MAX_COMMIT_BYTES: usize = 64 << 20;

/// Everything `run` and `server` can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Address of the API and the page.
    pub listen: SocketAddr,
    /// Data directory.
    pub data: PathBuf,
    /// Samples per second and CPU.
    pub frequency_hz: u32,
    /// Whether to sample on a kernel that this can freeze; see [`crate::freeze`].
    pub allow_freezing_kernel: bool,
    /// Whether time off the CPU is recorded.
    pub off_cpu: bool,
    /// Profiles older than this are deleted.
    pub max_age: Duration,
    /// Beyond this size the oldest profiles are deleted.
    pub max_bytes: u64,
    /// Damaged segments that were set aside longer ago than this are deleted.
    pub quarantine_max_age: Duration,
    /// Beyond this size the damaged segments that were set aside first are deleted.
    pub quarantine_max_bytes: u64,
    /// What queries may take.
    pub queries: QueryBounds,
    /// How pushes share a write and a sync of the log.
    pub commit: CommitPolicy,
    /// Whether the data of tenants is kept apart.
    pub tenancy: Tenancy,
    /// Tenants with data; a push of one more is refused.
    pub max_tenants: usize,
}

/// What queries may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryBounds {
    /// How long one may run.
    pub timeout: Duration,
    /// How long one may wait for its turn.
    pub wait: Duration,
    /// How many run at the same time.
    pub running: usize,
    /// Memory of one.
    pub bytes: usize,
    /// Memory of all together.
    pub total_bytes: usize,
}

/// The configuration file. Unknown keys are errors: a misspelt setting must not be silently ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    listen: Option<SocketAddr>,
    data: Option<PathBuf>,
    frequency: Option<u32>,
    off_cpu: Option<Switch>,
    #[serde(default)]
    allow_freezing_kernel: bool,
    #[serde(default)]
    multitenancy: bool,
    tenant: Option<String>,
    max_tenants: Option<usize>,
    #[serde(default)]
    retention: RetentionTable,
    #[serde(default)]
    quarantine: BoundsTable,
    #[serde(default)]
    queries: QueriesTable,
    #[serde(default)]
    commit: CommitTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundsTable {
    max_age: Option<String>,
    max_size: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionTable {
    #[serde(default)]
    profiles: BoundsTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueriesTable {
    timeout: Option<String>,
    wait: Option<String>,
    running: Option<usize>,
    memory: Option<String>,
    total_memory: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitTable {
    interval: Option<String>,
    size: Option<String>,
}

impl Config {
    /// Joins defaults, the file that `--config` names and the flags.
    pub fn load(args: &ServeArgs) -> Result<Self> {
        let file = match &args.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("failed to read configuration file {}", path.display()))?;
                parse_file(&text).with_context(|| format!("in configuration file {}", path.display()))?
            }
            None => ConfigFile::default(),
        };
        Self::join(args, file)
    }

    fn join(args: &ServeArgs, file: ConfigFile) -> Result<Self> {
        let frequency_hz = args.frequency.or(file.frequency).unwrap_or(97);
        check_frequency(frequency_hz)?;
        let (max_age, max_bytes) = file.retention.profiles.bounds("retention.profiles", ("30d", "10GiB"))?;
        let (quarantine_max_age, quarantine_max_bytes) =
            file.quarantine.bounds("quarantine", ("30d", "1GiB"))?;
        let queries = file.queries.bounds(args)?;
        let commit = file.commit.policy(args)?;
        let tenancy = file.tenancy(args.multitenancy)?;
        Ok(Self {
            listen: args.listen.or(file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 4040))),
            data: args.data.clone().or(file.data).map_or_else(default_data_dir, Ok)?,
            frequency_hz,
            allow_freezing_kernel: args.allow_freezing_kernel || file.allow_freezing_kernel,
            off_cpu: args.off_cpu.or(file.off_cpu).unwrap_or(Switch::On) == Switch::On,
            max_age,
            max_bytes,
            quarantine_max_age,
            quarantine_max_bytes,
            queries,
            commit,
            tenancy,
            max_tenants: file.max_tenants.unwrap_or_else(|| Limits::default().tenants),
        })
    }
}

impl ConfigFile {
    /// Whether tenants are told apart, by the file or the flag, and whose this node is.
    fn tenancy(&self, flag: bool) -> Result<Tenancy> {
        let node = self.tenant.as_deref().map(str::parse).transpose().context("tenant")?;
        ensure!(self.max_tenants != Some(0), "max_tenants: a store has at least one tenant");
        if flag || self.multitenancy {
            return Ok(Tenancy::Many { node: node.unwrap_or_default() });
        }
        ensure!(node.is_none(), "tenant: it means nothing without multitenancy = true");
        ensure!(self.max_tenants.is_none(), "max_tenants: it means nothing without multitenancy = true");
        Ok(Tenancy::One)
    }
}

impl BoundsTable {
    /// Age and bytes, where the file is silent by the defaults given.
    fn bounds(&self, table: &str, (max_age, max_size): (&str, &str)) -> Result<(Duration, u64)> {
        let max_age = parse_duration(self.max_age.as_deref().unwrap_or(max_age)).map_err(anyhow::Error::msg);
        let max_bytes = parse_size(self.max_size.as_deref().unwrap_or(max_size));
        let max_age = max_age.with_context(|| format!("{table}.max_age"))?;
        Ok((max_age, max_bytes.with_context(|| format!("{table}.max_size"))?))
    }
}

impl QueriesTable {
    /// Flags before the file before the defaults.
    fn bounds(&self, flags: &ServeArgs) -> Result<QueryBounds> {
        let server = ServerLimits::default();
        let store = Limits::default();
        let bounds = QueryBounds {
            timeout: duration("queries.timeout", flags.query_timeout, self.timeout.as_deref())?
                .unwrap_or(server.query_timeout),
            wait: duration("queries.wait", None, self.wait.as_deref())?.unwrap_or(server.query_wait),
            running: self.running.unwrap_or(server.running_queries),
            bytes: size("queries.memory", flags.query_memory, self.memory.as_deref())?
                .unwrap_or(store.query_bytes),
            total_bytes: size(
                "queries.total_memory",
                flags.total_query_memory,
                self.total_memory.as_deref(),
            )?
            .unwrap_or(store.queries_bytes),
        };
        ensure!(bounds.running > 0, "queries.running: there is at least one");
        ensure!(
            bounds.bytes <= bounds.total_bytes,
            "queries.memory: one query cannot have more than queries.total_memory, which is {} bytes",
            bounds.total_bytes
        );
        Ok(bounds)
    }
}

impl CommitTable {
    /// Flags before the file before the defaults.
    fn policy(&self, flags: &ServeArgs) -> Result<CommitPolicy> {
        let default = CommitPolicy::default();
        let interval = duration("commit.interval", flags.commit_interval, self.interval.as_deref())?;
        ensure!(
            interval.is_none_or(|interval| interval <= Duration::from_secs(1)),
            "commit.interval: clients do not wait for longer than a second"
        );
        let max_bytes = size("commit.size", flags.commit_size, self.size.as_deref())?;
        ensure!(
            max_bytes.is_none_or(|bytes| bytes <= MAX_COMMIT_BYTES),
            "commit.size: the log is buffered until it is written, so 64MiB at most"
        );
        Ok(CommitPolicy {
            interval: interval.unwrap_or(default.interval),
            max_bytes: max_bytes.unwrap_or(default.max_bytes),
        })
    }
}

/// What the flag says, or else the file.
fn duration(key: &'static str, flag: Option<Duration>, file: Option<&str>) -> Result<Option<Duration>> {
    let file = file.map(parse_duration).transpose().map_err(anyhow::Error::msg).context(key)?;
    Ok(flag.or(file))
}

/// Likewise.
fn size(key: &'static str, flag: Option<u64>, file: Option<&str>) -> Result<Option<usize>> {
    let file = file.map(parse_size).transpose().context(key)?;
    flag.or(file).map(|bytes| usize::try_from(bytes).context(key)).transpose()
}

/// Refuses a frequency outside [`FREQUENCY_RANGE_HZ`].
pub fn check_frequency(frequency_hz: u32) -> Result<()> {
    if FREQUENCY_RANGE_HZ.contains(&frequency_hz) {
        return Ok(());
    }
    let (min, max) = (FREQUENCY_RANGE_HZ.start(), FREQUENCY_RANGE_HZ.end());
    bail!("a frequency of {frequency_hz} Hz is not possible: choose {min} to {max}")
}

/// Where data is kept unless told otherwise.
pub fn default_data_dir() -> Result<PathBuf> {
    if crate::privilege::is_root() {
        return Ok(PathBuf::from("/var/lib/pyrite"));
    }
    let base = match (std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME")) {
        (Some(data), _) if Path::new(&data).is_absolute() => PathBuf::from(data),
        (_, Some(home)) => PathBuf::from(home).join(".local/share"),
        _ => bail!("neither XDG_DATA_HOME nor HOME is set: name a directory with --data DIR"),
    };
    Ok(base.join("pyrite"))
}

fn parse_file(text: &str) -> Result<ConfigFile> {
    Ok(toml::from_str(text)?)
}

/// Reads `500ms`, `10s`, `5m`, `2h`, `30d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit_ms: u64 = match &text[split..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{text:?} is not a duration: write 500ms, 10s, 5m, 2h or 30d")),
    };
    let duration_ms =
        text[..split].parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms)).filter(|&ms| ms > 0);
    duration_ms
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is not a duration above zero: write 500ms, 10s, 5m, 2h or 30d"))
}

/// Reads `500MB`, `10GiB`; a bare number is bytes.
pub fn parse_size(text: &str) -> Result<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit_bytes: u64 = match text[split..].trim() {
        "" | "B" => 1,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => bail!("{text:?} is not a size: write 500MB, 10GiB or 1TiB"),
    };
    let bytes =
        text[..split].parse::<u64>().ok().and_then(|n| n.checked_mul(unit_bytes)).filter(|&bytes| bytes > 0);
    bytes.with_context(|| format!("{text:?} is not a size above zero: write 500MB, 10GiB or 1TiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(args: &ServeArgs, toml: &str) -> Result<Config> {
        Config::join(args, parse_file(toml)?)
    }

    fn error(toml: &str) -> String {
        let args = ServeArgs { data: Some("/d".into()), ..ServeArgs::default() };
        format!("{:#}", join(&args, toml).expect_err("must be refused"))
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let toml = "listen = '0.0.0.0:1'\ndata = '/file'\nfrequency = 19\noff_cpu = 'off'\n[retention.profiles]\nmax_age = '2d'";
        let args = ServeArgs { frequency: Some(49), ..ServeArgs::default() };
        let config = join(&args, toml).expect("valid");
        assert_eq!(config.frequency_hz, 49);
        assert!(!config.off_cpu);
        let args = ServeArgs { off_cpu: Some(Switch::On), ..args };
        assert!(join(&args, toml).expect("valid").off_cpu);
        assert!(join(&args, "").expect("valid").off_cpu, "on unless told otherwise");
        assert_eq!(config.data, Path::new("/file"));
        assert_eq!(config.listen.to_string(), "0.0.0.0:1");
        assert_eq!(config.max_age, Duration::from_hours(48));
        assert_eq!(config.max_bytes, 10 << 30);
        assert_eq!(
            (config.quarantine_max_age, config.quarantine_max_bytes),
            (Duration::from_hours(720), 1 << 30)
        );
        let toml = "[quarantine]\nmax_age = '1h'\nmax_size = '5MB'";
        let config = join(&args, toml).expect("valid");
        assert_eq!(
            (config.quarantine_max_age, config.quarantine_max_bytes),
            (Duration::from_hours(1), 5_000_000)
        );
        assert_eq!((config.max_age, config.max_bytes), (Duration::from_hours(720), 10 << 30));
        assert!(!config.allow_freezing_kernel);
    }

    #[test]
    fn flag_and_file_can_each_allow_a_freezing_kernel() {
        let flag = ServeArgs { allow_freezing_kernel: true, ..ServeArgs::default() };
        for (args, toml) in [(flag, ""), (ServeArgs::default(), "allow_freezing_kernel = true")] {
            assert!(join(&args, toml).expect("valid").allow_freezing_kernel, "{args:?} {toml}");
        }
    }

    #[test]
    fn tenants_are_told_apart_when_flag_or_file_says_so() {
        let on = ServeArgs { multitenancy: true, ..ServeArgs::default() };
        let many = |name: &str| Tenancy::Many { node: name.parse().expect("a name") };
        for (args, toml, expected) in [
            (&ServeArgs::default(), "", Tenancy::One),
            (&ServeArgs::default(), "multitenancy = true", many("anonymous")),
            (&on, "", many("anonymous")),
            (&on, "tenant = 'ops'", many("ops")),
        ] {
            let config = join(args, toml).expect("valid");
            assert_eq!((config.tenancy, config.max_tenants), (expected, 1000), "{toml}");
        }
        assert_eq!(join(&on, "max_tenants = 3").expect("valid").max_tenants, 3);
    }

    #[test]
    fn queries_and_commits_are_bounded_by_flag_or_file() {
        let none = ServeArgs::default();
        let config = join(&none, "").expect("valid");
        let (limits, server) = (Limits::default(), ServerLimits::default());
        assert_eq!(
            config.queries,
            QueryBounds {
                timeout: Duration::from_mins(1),
                wait: server.query_wait,
                running: server.running_queries,
                bytes: 64 << 20,
                total_bytes: 96 << 20,
            }
        );
        assert_eq!((limits.query_bytes, limits.queries_bytes), (64 << 20, 96 << 20));
        assert_eq!(config.commit, CommitPolicy::default());
        let toml = "[queries]\ntimeout = '5s'\nwait = '2s'\nrunning = 1\nmemory = '1MiB'\ntotal_memory = '2MiB'\n\
                    [commit]\ninterval = '20ms'\nsize = '1MiB'";
        let config = join(&none, toml).expect("valid");
        let (timeout, wait) = (Duration::from_secs(5), Duration::from_secs(2));
        let queries = QueryBounds { timeout, wait, running: 1, bytes: 1 << 20, total_bytes: 2 << 20 };
        assert_eq!(config.queries, queries);
        let commit = CommitPolicy { interval: Duration::from_millis(20), max_bytes: 1 << 20 };
        assert_eq!(config.commit, commit);
        let flags = ServeArgs {
            query_timeout: Some(Duration::from_secs(7)),
            query_memory: Some(3),
            total_query_memory: Some(4),
            commit_interval: Some(Duration::from_millis(1)),
            commit_size: Some(5),
            ..ServeArgs::default()
        };
        let config = join(&flags, toml).expect("valid");
        let timeout = Duration::from_secs(7);
        assert_eq!(config.queries, QueryBounds { timeout, bytes: 3, total_bytes: 4, ..queries });
        assert_eq!(config.commit, CommitPolicy { interval: Duration::from_millis(1), max_bytes: 5 });
    }

    #[test]
    fn refusals_name_the_setting() {
        assert!(error("frequncy = 1").contains("unknown field `frequncy`"));
        assert!(error("frequency = 5000").contains("5000 Hz is not possible: choose 1 to 1000"));
        assert!(
            error("[retention.profiles]\nmax_size = '3 parsecs'").contains("retention.profiles.max_size")
        );
        assert!(error("[retention.profiles]\nmax_age = '0s'").contains("retention.profiles.max_age"));
        assert!(error("[quarantine]\nmax_size = '0'").contains("quarantine.max_size"));
        assert!(error("listen = 'nowhere'").contains("listen"));
        assert!(error("[queries]\nwait = 'x'").contains("queries.wait"));
        assert!(error("[queries]\nrunning = 0").contains("queries.running"));
        assert!(error("[queries]\nmemory = '1TiB'").contains("queries.memory"));
        assert!(error("[commit]\ninterval = '2s'").contains("commit.interval"));
        assert!(error("[commit]\nsize = '0'").contains("commit.size"));
        assert!(error("[commit]\nsize = '1GiB'").contains("commit.size"));
        assert!(error("[retention]\nmax_age = '2d'").contains("unknown field `max_age`"));
        assert!(error("off_cpu = 'perhaps'").contains("off_cpu"));
        assert!(
            error("multitenancy = true\ntenant = 'a|b'")
                .contains("tenant: the name of a tenant has '|' in it")
        );
        assert!(error("multitenancy = true\nmax_tenants = 0").contains("max_tenants"));
        assert!(error("tenant = 'ops'").contains("tenant: it means nothing without multitenancy"));
        assert!(error("max_tenants = 5").contains("max_tenants: it means nothing without multitenancy"));
    }

    #[test]
    fn durations() {
        for (text, ms) in [("7", 7_000), ("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "-1s", "1w", "0", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
