//! What the tests run beside Pyrite: workloads, cgroups, containers; and readers of what came out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::common::fixture;
use crate::pyrite::Pyrite;

/// What a command prints; it must succeed.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A workload, built into a directory of its own, so that its path belongs to one test only.
pub(crate) struct Workload {
    directory: TempDir,
    name: &'static str,
}

impl Workload {
    pub(crate) fn build(name: &'static str) -> Self {
        let built = Self { directory: TempDir::new().expect("a directory"), name };
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-g", "-fno-omit-frame-pointer", "-pthread"]);
        stdout(cc.arg("-o").arg(built.path()).arg(fixture("workloads").join(format!("{name}.c"))));
        built
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(self.name)
    }

    /// Where it is; other files of the test may stand beside it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn command(&self) -> Command {
        Command::new(self.path())
    }

    pub(crate) fn start(&self, args: &[&str]) -> Load {
        Load::start(self.command().args(args))
    }

    /// Runs `shares` for so much CPU time and returns what it measured of itself.
    pub(crate) fn run_shares(&self, cpu: Duration) -> Times {
        read_shares(&stdout(self.command().arg(cpu.as_millis().to_string())))
    }

    /// The selector of everything that runs this file.
    pub(crate) fn selector(&self) -> String {
        format!("{{exe={:?}}}", self.path().to_str().expect("UTF-8"))
    }
}

/// What `shares` prints.
pub(crate) fn read_shares(printed: &str) -> Times {
    let words: Vec<&str> = printed.split_whitespace().collect();
    words.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].parse().expect("nanoseconds"))).collect()
}

/// A process that runs until it is dropped.
pub(crate) struct Load(Child);

impl Load {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What its first thread has run so far.
    pub(crate) fn cpu_ns(&self) -> f64 {
        // The first of three numbers is the time on a CPU (Documentation/scheduler/sched-stats.rst).
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid())).expect("it runs");
        text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("our child").is_some()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nanoseconds per function, as some reader saw them.
pub(crate) type Times = BTreeMap<String, f64>;

/// Flat times as Go's pprof, which shares no code with us, reads them.
pub(crate) fn read_with_pprof(file: &Path) -> Times {
    let top = stdout(
        Command::new("go")
            .args(["tool", "pprof", "-top", "-nodecount=100000", "-unit=nanoseconds"])
            .arg(file),
    );
    // `flat flat% sum% cum cum% name`, below a header line that starts with `flat`.
    let lines = top.lines().skip_while(|line| line.split_whitespace().next() != Some("flat")).skip(1);
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flat = words.first()?.trim_end_matches("ns").parse().ok()?;
        Some((words.get(5..)?.join(" "), flat))
    };
    lines.filter_map(parse).collect()
}

/// Ticks owed are stored, lost for a named reason, or on their way.
pub(crate) fn check_ledger(pyrite: &Pyrite) {
    let metrics = pyrite.get("/metrics").text();
    let sum = |name: &str| metric(&metrics, name);
    let owed = sum("pyrite_sampler_ticks_owed_total") + sum("pyrite_sampler_ticks_surplus_total");
    let sent = metric(&metrics, r#"pyrite_sampler_ticks_total{fate="sent"}"#);
    let explained = sum("pyrite_sampler_ticks_total") - sent + sum("pyrite_sampler_ticks_held");
    assert!(owed > 1000.0, "{metrics}");
    assert!((owed - explained).abs() <= 2.0, "owed {owed}, explained {explained}\n{metrics}");
}

/// A group named like a systemd service, on whichever hierarchy accounts CPU time here.
pub(crate) struct Cgroup {
    directory: PathBuf,
    usage: PathBuf,
    is_v1: bool,
}

impl Cgroup {
    pub(crate) fn new(name: &str) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/cpuacct");
        let is_v1 = v1.is_dir();
        let root = if is_v1 { v1 } else { Path::new("/sys/fs/cgroup") };
        let directory = root.join("system.slice").join(name);
        std::fs::create_dir_all(&directory).expect("cgroups can be made");
        let usage = directory.join(if is_v1 { "cpuacct.usage" } else { "cpu.stat" });
        Self { directory, usage, is_v1 }
    }

    pub(crate) fn spawn(&self, command: &mut Command) -> Load {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"echo $$ > "$1/cgroup.procs"; shift; exec "$@""#, "sh"]).arg(&self.directory);
        shell.arg(command.get_program()).args(command.get_args());
        Load::start(&mut shell)
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        let text = std::fs::read_to_string(&self.usage).expect("the group is there");
        if self.is_v1 {
            return text.trim().parse::<f64>().expect("nanoseconds") / 1e9;
        }
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).expect("cpu.stat has it");
        usage.parse::<f64>().expect("microseconds") / 1e6
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A group that is still busy stays behind; the next run uses it again.
        let _ = std::fs::remove_dir(&self.directory);
    }
}

/// The value of a metric; summed over its labels where the name stands without any.
pub(crate) fn metric(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    let of_name = lines.filter(|(series, _)| *series == name || series.split('{').next() == Some(name));
    of_name.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
}

/// Samples of the folded stacks whose leaf is `name`, and of all.
pub(crate) fn folded_samples(folded: &str, name: &str) -> (f64, f64) {
    let (mut of_name, mut all) = (0.0, 0.0);
    for line in folded.lines() {
        let (stack, count) = line.rsplit_once(' ').expect("a stack and a count");
        let count: f64 = count.parse().expect("a count");
        all += count;
        if stack.rsplit(';').next() == Some(name) {
            of_name += count;
        }
    }
    (of_name, all)
}

/// One length-delimited field of a Protobuf message.
pub(crate) fn message(field: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    put_varint(&mut out, content.len() as u64);
    out.extend_from_slice(content);
    out
}

/// One integer field of a Protobuf message.
pub(crate) fn integer(field: u8, value: i64) -> Vec<u8> {
    let mut out = vec![field << 3];
    put_varint(&mut out, value as u64);
    out
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
