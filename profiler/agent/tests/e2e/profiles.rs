//! Real programs, profiled by the real binary, read back the ways a user reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::privileged;
use crate::pyrite::{CPU, Pyrite, eventually, now_ms};

/// The functions of `fixtures/workloads/shares.c`.
const FUNCTIONS: [&str; 3] = ["seventy", "twenty", "ten"];
/// High enough for 5,000 samples in a few seconds, and no divisor of anything.
const FREQUENCY: &str = "997";

fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub fn build(source: &str, flags: &[&str], target: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/workloads").join(source);
    stdout(Command::new("cc").args(["-O2", "-g", "-pthread"]).args(flags).arg("-o").arg(target).arg(source));
}

/// Nanoseconds per function, as some reader saw them.
type Times = BTreeMap<String, f64>;

/// Runs the program and returns what it measured of itself.
fn run_shares(program: &Path, cpu: Duration) -> Times {
    let printed = stdout(Command::new(program).arg(cpu.as_millis().to_string()));
    let words: Vec<&str> = printed.split_whitespace().collect();
    words.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].parse().expect("nanoseconds"))).collect()
}

/// Each function's share must lie within three standard errors of the share the program measured.
fn check_shares(reader: &str, seen: &Times, truth: &Times) {
    let of = |times: &Times, name: &str| times.get(name).copied().unwrap_or(0.0);
    let total = |times: &Times| FUNCTIONS.iter().map(|name| of(times, name)).sum::<f64>();
    let samples = total(seen) / 1e9 * FREQUENCY.parse::<f64>().expect("a number");
    assert!(samples >= 5_000.0, "{reader}: only {samples:.0} samples: {seen:?}");
    for name in FUNCTIONS {
        let (share, expected) = (of(seen, name) / total(seen), of(truth, name) / total(truth));
        let standard_error = (expected * (1.0 - expected) / samples).sqrt();
        assert!(
            (share - expected).abs() <= 3.0 * standard_error,
            "{reader}: {name} has {share:.4}, measured {expected:.4} ± {standard_error:.4} over {samples:.0} samples"
        );
    }
}

#[test]
fn bpf_known_shares_come_back_through_api_pprof_and_page() {
    if !privileged("bpf_known_shares_come_back_through_api_pprof_and_page") {
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    let program = folder.path().join("shares");
    build("shares.c", &["-fno-omit-frame-pointer"], &program);
    let pyrite = Pyrite::run(&folder.path().join("data"), &["--frequency", FREQUENCY]);
    let from = now_ms();
    let truth = run_shares(&program, Duration::from_secs(7));
    let selector = format!("{{exe={:?}}}", program.to_str().expect("UTF-8"));
    let wanted: f64 = truth.values().sum::<f64>() * 0.95;
    let limit = Duration::from_secs(4);
    let api = eventually("all samples are queryable", limit, || {
        let values = pyrite.self_values(&selector, Duration::from_mins(1));
        let times: Times = values.into_iter().map(|(name, value)| (name, value as f64)).collect();
        (times.values().sum::<f64>() >= wanted).then_some(times)
    });
    check_shares("SelectMergeStacktraces", &api, &truth);

    let pprof = export_pprof(&pyrite, &selector, from);
    let file = folder.path().join("cpu.pb");
    std::fs::write(&file, pprof).expect("written");
    check_shares("go tool pprof", &read_with_pprof(&file), &truth);
    check_shares("the page", &read_from_page(&pyrite, &selector), &truth);
    assert!(pyrite.terminate().success());
}

/// `SelectMergeProfile` over Connect with Protobuf, as Grafana calls it.
fn export_pprof(pyrite: &Pyrite, selector: &str, from: i64) -> Vec<u8> {
    let mut request = Vec::new();
    for (field, text) in [(1, CPU), (2, selector)] {
        request.push(field << 3 | 2);
        put_varint(&mut request, text.len() as u64);
        request.extend_from_slice(text.as_bytes());
    }
    for (field, time_ms) in [(3, from - 5_000), (4, now_ms() + 1_000)] {
        request.push(field << 3);
        put_varint(&mut request, time_ms as u64);
    }
    let response =
        pyrite.post("/querier.v1.QuerierService/SelectMergeProfile", "application/proto", &request);
    assert_eq!(response.status, 200, "{}", response.text());
    response.body
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Flat times as Go's pprof, which shares no code with us, reads them.
pub fn read_with_pprof(file: &Path) -> Times {
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

/// Self values of the table that stands beside the flame graph, read out of the DOM of a real browser.
fn read_from_page(pyrite: &Pyrite, selector: &str) -> Times {
    let query: String = selector.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let url = format!("{}/?v=1&panel=table&q={query}", pyrite.url());
    let chromium =
        std::env::var_os("CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    let profile = tempfile::tempdir().expect("a directory");
    let dom = eventually("the page's table has rows", Duration::from_secs(60), || {
        let mut command = Command::new(&chromium);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.args(["--virtual-time-budget=15000", "--dump-dom", &url]);
        Some(stdout(&mut command)).filter(|dom| dom.contains("data-self-ns"))
    });
    FUNCTIONS.into_iter().filter_map(|name| Some((name.to_owned(), self_of_row(&dom, name)?))).collect()
}

/// The `data-self-ns` of the table row whose function has this name.
fn self_of_row(dom: &str, name: &str) -> Option<f64> {
    let row = dom.split("<tr").find(|row| text_of(row).split_whitespace().any(|word| word == name))?;
    row.split("data-self-ns=\"").nth(1)?.split('"').next()?.parse().ok()
}

/// What stands between the tags.
fn text_of(html: &str) -> String {
    html.split('<')
        .filter_map(|part| part.split_once('>'))
        .map(|(_, text)| text)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn bpf_every_sample_of_a_cgroup_agrees_with_its_own_accounting() {
    if !privileged("bpf_every_sample_of_a_cgroup_agrees_with_its_own_accounting") {
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    let program = folder.path().join("accounted");
    build("busy.c", &["-fno-omit-frame-pointer"], &program);
    let cgroup = Cgroup::new("pyrite-accounted.service");
    let pyrite = Pyrite::run(&folder.path().join("data"), &["--frequency", FREQUENCY]);
    let before = cgroup.cpu_seconds();
    let mut load = cgroup.spawn(Command::new(&program).args(["2", "70", "12"]));
    std::thread::sleep(Duration::from_secs(8));
    load.kill().expect("it runs");
    load.wait().expect("our child");
    let truth = cgroup.cpu_seconds() - before;
    std::thread::sleep(Duration::from_secs(2));

    let selector = r#"{service_name="pyrite-accounted.service"}"#;
    let stored = pyrite.self_values(selector, Duration::from_mins(1)).iter().map(|(_, ns)| ns).sum::<i64>()
        as f64
        / 1e9;
    let samples = stored * FREQUENCY.parse::<f64>().expect("a number");
    // Sampling error of a total: one standard deviation of a Poisson count, three of them.
    let tolerance = (0.02_f64).max(3.0 / samples.sqrt());
    assert!((stored / truth - 1.0).abs() <= tolerance, "stored {stored:.3} s, the cgroup used {truth:.3} s");
    check_ledger(&pyrite);
}

/// Ticks owed are stored, lost for a named reason, or on their way.
fn check_ledger(pyrite: &Pyrite) {
    let metrics = pyrite.get("/metrics").text();
    let sum = |name: &str| {
        let lines = metrics.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    let owed = sum("pyrite_sampler_ticks_owed_total") + sum("pyrite_sampler_ticks_surplus_total");
    let sent = metrics.lines().find(|line| line.contains("fate=\"sent\"")).expect("the fate is listed");
    let sent: f64 = sent.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    let explained = sum("pyrite_sampler_ticks_total") - sent + sum("pyrite_sampler_ticks_held");
    assert!(owed > 1000.0, "{metrics}");
    assert!((owed - explained).abs() <= 2.0, "owed {owed}, explained {explained}\n{metrics}");
}

/// A group named like a systemd service, on whichever hierarchy accounts CPU time here.
struct Cgroup {
    directory: PathBuf,
    usage: PathBuf,
    is_v1: bool,
}

impl Cgroup {
    fn new(name: &str) -> Self {
        let v1 = Path::new("/sys/fs/cgroup/cpuacct");
        let is_v1 = v1.is_dir();
        let root = if is_v1 { v1 } else { Path::new("/sys/fs/cgroup") };
        let directory = root.join("system.slice").join(name);
        std::fs::create_dir_all(&directory).expect("cgroups can be made");
        let usage = directory.join(if is_v1 { "cpuacct.usage" } else { "cpu.stat" });
        Self { directory, usage, is_v1 }
    }

    fn spawn(&self, command: &mut Command) -> std::process::Child {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"echo $$ > "$1/cgroup.procs"; shift; exec "$@""#, "sh"]).arg(&self.directory);
        shell.arg(command.get_program()).args(command.get_args());
        shell.spawn().expect("a shell")
    }

    fn cpu_seconds(&self) -> f64 {
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

#[test]
fn bpf_a_sample_is_queryable_soon_and_survives_a_restart() {
    if !privileged("bpf_a_sample_is_queryable_soon_and_survives_a_restart") {
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    let (program, data) = (folder.path().join("soon"), folder.path().join("data"));
    build("busy.c", &["-fno-omit-frame-pointer"], &program);
    let mut load = Command::new(&program).args(["1", "100", "5"]).spawn().expect("it was built");
    let pyrite = Pyrite::run(&data, &[]);
    let selector = format!("{{exe={:?}}}", program.to_str().expect("UTF-8"));
    let total = |pyrite: &Pyrite| {
        pyrite.self_values(&selector, Duration::from_mins(1)).iter().map(|(_, ns)| ns).sum::<i64>()
    };
    // Two seconds from the start to the first sample, and two more until it can be asked for.
    eventually("the first sample", Duration::from_secs(4).saturating_sub(pyrite.started.elapsed()), || {
        (total(&pyrite) > 0).then_some(())
    });
    std::thread::sleep(Duration::from_secs(4));
    let before = total(&pyrite);
    pyrite.kill();
    load.kill().expect("it runs");
    load.wait().expect("our child");
    let again = Pyrite::server(&data);
    let after = total(&again);
    assert!(after >= before, "{before} ns were queryable, {after} ns are left");
    let window = json!({"start": now_ms() - 60_000, "end": now_ms() + 1_000});
    assert!(again.call("ProfileTypes", &window).to_string().contains(CPU));
}
