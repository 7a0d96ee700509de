//! `overhead`: what the whole of Pyrite costs while it watches a busy node.
//!
//! Starts the release binary with an empty data directory, puts a load on every CPU and reads, once a second, what the
//! kernel accounts to Pyrite: user and system time of it and its children, resident memory, and — from the fdinfo of
//! its BPF file descriptors — the run time of its programs and the memory of its maps. BPF time is spent inside the
//! watched programs, so it is added to Pyrite's own. Prints one table per load and fails if a bound is broken.
//!
//! Bounds, unless `--no-bounds`: CPU ≤ 1.0 % of one CPU, RSS ≤ 100 MB, maps ≤ 40 MB, and with `--minutes 30` growth
//! of RSS from minute 5 to the end ≤ 2 MB. Resident memory goes up and down with the store's flushes, at most four
//! minutes apart, so growth is what the mean of the last five minutes has over the mean of minutes 5 to 10; how far the
//! peaks of the two windows lie apart is printed too.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use pyrite_bench::process::{Running, Status, cpu_time, printed_url};

/// `enum bpf_prog_type` of linux/bpf.h.
const BPF_PROG_TYPE_PERF_EVENT: u64 = 7;
const MAX_CPU_PERCENT: f64 = 1.0;
const MAX_RSS_MB: f64 = 100.0;
const MAX_MAPS_MB: f64 = 40.0;
const MAX_GROWTH_MB: f64 = 2.0;
/// Start-up (BTF, symbol tables, first sight of every process) is not what a node pays from then on.
const WARM_UP: Duration = Duration::from_secs(30);
const GROWTH_FROM: Duration = Duration::from_mins(5);
/// Longer than the time between two flushes of the store, so that each window holds one.
const GROWTH_WINDOW: Duration = Duration::from_mins(5);
const MIX_PROCESSES: usize = 200;

#[derive(Parser)]
struct Args {
    /// Which load to put on the node; the first three in turn unless named.
    #[arg(long, value_enum)]
    load: Option<Load>,
    /// How long to measure each load after the warm-up.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/pyrite")]
    pyrite: PathBuf,
    /// Sampling frequency.
    #[arg(long, default_value_t = 97)]
    frequency: u32,
    /// Print the figures without judging them.
    #[arg(long)]
    no_bounds: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Load {
    /// One process, every CPU, frame pointers, 28 frames.
    FramePointers,
    /// The same without frame pointers.
    NoFramePointers,
    /// 200 processes that share the CPUs.
    Mix,
    /// The other three at once: half an hour shows for all of them whether memory grows.
    Together,
}

/// What BPF programs of one type have done.
#[derive(Clone, Copy, Debug, Default)]
struct BpfRuns {
    ns: u64,
    runs: u64,
}

impl BpfRuns {
    fn since(self, earlier: Self) -> Self {
        Self { ns: self.ns - earlier.ns, runs: self.runs - earlier.runs }
    }

    fn print(self, name: &str) {
        println!("  {name:14} {:.0} ns each, {}", self.ns as f64 / self.runs.max(1) as f64, self.runs);
    }
}

/// One reading of everything Pyrite is charged for.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    cpu_seconds: f64,
    /// The programs that run at ticks, and those at tracepoints: context switches, nearly all of them.
    ticks: BpfRuns,
    switches: BpfRuns,
    rss_mb: f64,
    rss_anon_mb: f64,
    maps_mb: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let stats = Path::new("/proc/sys/kernel/bpf_stats_enabled");
    let before = fs::read_to_string(stats).context("no BPF statistics on this kernel")?;
    fs::write(stats, "1").context("BPF statistics need root")?;
    let loads = args
        .load
        .map_or_else(|| vec![Load::FramePointers, Load::NoFramePointers, Load::Mix], |load| vec![load]);
    let outcome = loads.into_iter().try_for_each(|load| measure(&args, load));
    fs::write(stats, before.trim())?;
    outcome
}

fn measure(args: &Args, load: Load) -> Result<()> {
    let scratch = std::env::temp_dir().join(format!("pyrite-overhead-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let _load = start_load(load, &scratch)?;
    let pyrite = start_pyrite(args, &scratch.join("data"))?;
    let pid = pyrite.0[0].id();
    thread::sleep(WARM_UP);

    let (first, start) = (read(pid)?, Instant::now());
    let duration = Duration::from_secs_f64(args.minutes * 60.0);
    let mut readings = vec![(Duration::ZERO, first)];
    while start.elapsed() < duration {
        thread::sleep(Duration::from_secs(1));
        readings.push((start.elapsed(), read(pid)?));
    }
    let last = readings[readings.len() - 1].1;
    let seconds = start.elapsed().as_secs_f64();
    drop(pyrite);
    fs::remove_dir_all(&scratch)?;

    let own = (last.cpu_seconds - first.cpu_seconds) / seconds * 100.0;
    let (ticks, switches) = (last.ticks.since(first.ticks), last.switches.since(first.switches));
    let bpf = (ticks.ns + switches.ns) as f64 / 1e9 / seconds * 100.0;
    let rss = |reading: &Reading| reading.rss_mb;
    let peak_rss_mb = peak(within(&readings, Duration::ZERO, duration), rss);
    let growth = (duration >= GROWTH_FROM + GROWTH_WINDOW * 2).then(|| {
        let early = within(&readings, GROWTH_FROM, GROWTH_FROM + GROWTH_WINDOW);
        let late = within(&readings, duration.saturating_sub(GROWTH_WINDOW), duration);
        let of_mean = |of: fn(&Reading) -> f64| mean(late, of) - mean(early, of);
        (of_mean(rss), of_mean(|reading| reading.rss_anon_mb), peak(late, rss) - peak(early, rss))
    });
    println!("{load:?}, {} Hz, {seconds:.0} s", args.frequency);
    println!("  CPU            {:.2} % of one CPU ({own:.2} own, {bpf:.2} BPF)", own + bpf);
    ticks.print("BPF, samples");
    switches.print("BPF, switches");
    println!(
        "  RSS            {:.1} MB now, {peak_rss_mb:.1} MB peak, {:.1} MB anonymous",
        last.rss_mb, last.rss_anon_mb
    );
    println!("  maps           {:.1} MB", last.maps_mb);
    if let Some((mean, anonymous, peak)) = growth {
        println!(
            "  RSS growth     {mean:+.1} MB from minute 5 on, {anonymous:+.1} MB of it anonymous; its peaks {peak:+.1} MB"
        );
    }
    if args.no_bounds {
        return Ok(());
    }
    ensure!(own + bpf <= MAX_CPU_PERCENT, "{load:?}: more than {MAX_CPU_PERCENT} % of one CPU");
    ensure!(peak_rss_mb <= MAX_RSS_MB, "{load:?}: more than {MAX_RSS_MB} MB resident");
    ensure!(last.maps_mb <= MAX_MAPS_MB, "{load:?}: more than {MAX_MAPS_MB} MB of maps");
    ensure!(growth.is_none_or(|(mean, ..)| mean <= MAX_GROWTH_MB), "{load:?}: resident memory grows");
    Ok(())
}

/// The readings of a window.
fn within(readings: &[(Duration, Reading)], from: Duration, to: Duration) -> &[(Duration, Reading)] {
    // The last reading comes a moment after the end.
    let to = to + Duration::from_secs(2);
    let first = readings.partition_point(|(at, _)| *at < from);
    &readings[first..readings.partition_point(|(at, _)| *at <= to)]
}

fn peak(readings: &[(Duration, Reading)], of: impl Fn(&Reading) -> f64) -> f64 {
    readings.iter().map(|(_, reading)| of(reading)).fold(0.0, f64::max)
}

fn mean(readings: &[(Duration, Reading)], of: impl Fn(&Reading) -> f64) -> f64 {
    readings.iter().map(|(_, reading)| of(reading)).sum::<f64>() / readings.len() as f64
}

fn start_load(load: Load, scratch: &Path) -> Result<Running> {
    let mut running = Running(Vec::new());
    if load == Load::Together {
        for each in [Load::FramePointers, Load::NoFramePointers, Load::Mix] {
            running.0.append(&mut start_load(each, scratch)?.0);
        }
        return Ok(running);
    }
    let frame_pointers =
        if load == Load::NoFramePointers { "-fomit-frame-pointer" } else { "-fno-omit-frame-pointer" };
    // One for each load: a program that runs cannot be written anew.
    let program = scratch.join(format!("busy-{load:?}"));
    let built = Command::new("cc")
        .args(["-O2", "-g", frame_pointers, "-pthread", "-o"])
        .arg(&program)
        .arg("fixtures/workloads/busy.c")
        .status()
        .context("no C compiler")?;
    ensure!(built.success(), "fixtures/workloads/busy.c does not compile");
    let cpus = thread::available_parallelism()?.get();
    let (processes, threads, duty) = match load {
        Load::Mix => (MIX_PROCESSES, 1, (cpus * 100 / MIX_PROCESSES).max(1)),
        Load::FramePointers | Load::NoFramePointers | Load::Together => (1, cpus, 100),
    };
    for _ in 0..processes {
        let child =
            Command::new(&program).args([threads.to_string(), duty.to_string(), "26".into()]).spawn()?;
        running.0.push(child);
    }
    Ok(running)
}

fn start_pyrite(args: &Args, data: &Path) -> Result<Running> {
    let mut child = Command::new(&args.pyrite)
        .args(["run", "--listen", "127.0.0.1:0", "--frequency", &args.frequency.to_string(), "--data"])
        .arg(data)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start; run `make build`", args.pyrite.display()))?;
    let url = printed_url(&mut child);
    let running = Running(vec![child]);
    url.map(|_| running)
}

fn read(pid: u32) -> Result<Reading> {
    let mut reading = Reading::default();
    let status = Status::of(pid).context("pyrite has ended")?;
    let field_mb = |name: &str| status.bytes(name) as f64 / f64::from(1 << 20);
    (reading.rss_mb, reading.rss_anon_mb) = (field_mb("VmRSS"), field_mb("RssAnon"));
    reading.cpu_seconds = cpu_time(pid)?.as_secs_f64();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor closed while we look has no figures any more.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        let number = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        if info.contains("\nprog_type:") {
            let of_type = match number("prog_type") {
                BPF_PROG_TYPE_PERF_EVENT => &mut reading.ticks,
                _ => &mut reading.switches,
            };
            of_type.ns += number("run_time_ns");
            of_type.runs += number("run_cnt");
        } else if info.contains("\nmap_type:") {
            reading.maps_mb += number("memlock") as f64 / 1e6;
        }
    }
    Ok(reading)
}
