//! What the sampler says of processes whose behaviour is known.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pyrite::sampler::SamplerConfig;
use pyrite_bpf::Note;
use pyrite_sampling::{CountedStack, Event, Filter, UserFrame};

use crate::common::privileged;
use crate::support::{Recording, Running, Workload, leaf_offset, stacks, ticks};

/// What must be quick is tried so often: where others want the CPUs too, the quickest counts.
const ATTEMPTS: usize = 20;

fn at_hz(frequency_hz: u64) -> SamplerConfig {
    SamplerConfig { frequency_hz, ..SamplerConfig::default() }
}

/// One of the functions of `shares`: its name, the CPU time that the program measured, the ticks that were sampled.
struct Share {
    name: String,
    ns: f64,
    ticks: u64,
}

/// Samples one run of `shares`.
fn sample_shares(shares: &Workload) -> Vec<Share> {
    let recording = Recording::start(at_hz(2999));
    let child = shares.command().arg("3000").stdout(Stdio::piped()).spawn().unwrap();
    let tgid = child.id();
    let output = child.wait_with_output().unwrap();
    let (events, stats) = recording.stop();

    let path = shares.path();
    let of_process = || stacks(&events).filter(|counted| counted.stack.process.tgid == tgid);
    let said = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    let share = |pair: &[&str]| {
        let burner = shares.function(pair[0]);
        let is_in =
            |counted: &CountedStack| leaf_offset(counted, &path).is_some_and(|at| burner.contains(&at));
        Share { name: pair[0].to_owned(), ns: pair[1].parse().unwrap(), ticks: ticks(of_process(), is_in) }
    };
    let found: Vec<Share> = words.chunks(2).map(share).collect();

    // The ticks of the whole process are its CPU time, less what the kernel did not deliver.
    let all = ticks(of_process(), |_| true) as f64;
    let lost_share =
        1.0 - stats.ledger.fates.total() as f64 / (stats.ledger.owed + stats.ledger.surplus) as f64;
    assert!(lost_share.abs() < 0.01, "{:?}", stats.ledger);
    let whole_ns: f64 = found.iter().map(|share| share.ns).sum();
    println!("{all} ticks for {:.0} owed by CPU time", whole_ns * 2999.0 / 1e9);
    // Every frame pointer chain leads to main.
    let main = shares.function("main");
    let is_of_main =
        |frame: &UserFrame| matches!(frame, UserFrame::File { offset, .. } if main.contains(&offset.0));
    let from_main = ticks(of_process(), |counted| counted.stack.user.iter().any(is_of_main));
    assert!(from_main as f64 > 0.95 * all, "{from_main} of {all} stacks go through main");
    found
}

/// Whether each function's share of the ticks lies within three standard errors of its share of the time.
fn check_shares(found: &[Share]) -> Result<(), String> {
    let whole_ns: f64 = found.iter().map(|share| share.ns).sum();
    let all_ticks: u64 = found.iter().map(|share| share.ticks).sum();
    assert!(all_ticks >= 5_000, "{all_ticks} samples");
    for Share { name, ns, ticks } in found {
        let (expect, found) = (ns / whole_ns, *ticks as f64 / all_ticks as f64);
        let standard_error = (expect * (1.0 - expect) / all_ticks as f64).sqrt();
        let seen =
            format!("{name}: measured {expect:.4}, sampled {found:.4}, standard error {standard_error:.4}");
        println!("{seen}");
        if (found - expect).abs() > 3.0 * standard_error {
            return Err(seen);
        }
    }
    Ok(())
}

#[test]
fn bpf_shares_agree_with_the_time_measured_inside_the_program() {
    let Some(_guard) = privileged("bpf_shares") else { return };
    let shares = Workload::build("shares");
    // Three functions within three standard errors are off by chance in one run of 150; bias is off in the next one too.
    if let Err(first) = check_shares(&sample_shares(&shares)) {
        println!("once more: {first}");
        check_shares(&sample_shares(&shares)).unwrap();
    }
}

#[test]
fn bpf_a_process_of_twenty_milliseconds_resolves_to_file_and_offset() {
    let Some(_guard) = privileged("bpf_short_lived") else { return };
    let shares = Workload::build("shares");
    let recording = Recording::start(at_hz(997));
    std::thread::sleep(Duration::from_millis(300));
    let tgids: Vec<u32> = (0..20)
        .map(|_| {
            let mut child = shares.command().arg("20").stdout(Stdio::null()).spawn().unwrap();
            let tgid = child.id();
            child.wait().unwrap();
            tgid
        })
        .collect();
    let (events, _) = recording.stop();
    let path = shares.path();
    let burners = [shares.function("seventy"), shares.function("twenty"), shares.function("ten")];
    for tgid in tgids {
        let of_process = || stacks(&events).filter(|counted| counted.stack.process.tgid == tgid);
        let burning = ticks(of_process(), |counted| {
            leaf_offset(counted, &path).is_some_and(|at| burners.iter().any(|burner| burner.contains(&at)))
        });
        assert!(burning >= 10, "{tgid}: {burning} ticks in its functions");
        // Only in the kernel's execve can a tick meet registers that belong to the memory of the program before.
        let unmapped = |frame: &UserFrame| matches!(frame, UserFrame::Unmapped(_));
        let lost = ticks(of_process(), |counted| {
            counted.stack.kernel.is_empty() && counted.stack.user.first().is_some_and(unmapped)
        });
        assert_eq!(lost, 0);
        let seen = events
            .iter()
            .position(|event| matches!(event, Event::ProcessSeen { key, .. } if key.tgid == tgid));
        let mapped = events.iter().position(
            |event| matches!(event, Event::NewMapping { process, file, .. } if process.tgid == tgid && *file.path == *path.to_string_lossy()),
        );
        assert!(seen.is_some() && seen < mapped, "seen {seen:?}, mapped {mapped:?}");
    }
}

#[test]
fn bpf_start_to_first_sample_is_short() {
    let Some(_guard) = privileged("bpf_start") else { return };
    let shares = Workload::build("shares");
    let _load = Running::start(shares.command().arg("600000"));
    let attempts = (0..ATTEMPTS).map(|_| {
        let before = Instant::now();
        let recording = Recording::start(at_hz(97));
        let started = before.elapsed();
        recording.wait_for("the first second of rows", |events| stacks(events).next().is_some());
        let first = before.elapsed();
        println!("start() returned after {started:?}, first second of rows after {first:?}");
        first
    });
    assert!(attempts.into_iter().any(|first| first < Duration::from_secs(2)), "never within two seconds");
}

#[test]
fn bpf_a_process_from_before_is_read_from_proc() {
    let Some(_guard) = privileged("bpf_before") else { return };
    let shares = Workload::build("shares");
    let _load = Running::start(shares.command().arg("600000"));
    let recording = Recording::start(at_hz(997));
    recording.wait_for("ticks in its functions", |events| {
        ticks(stacks(events), |counted| leaf_offset(counted, &shares.path()).is_some()) > 500
    });
    let (_, stats) = recording.stop();
    assert!(stats.notes.get(Note::ProcessLoaded) > 0);
}

#[test]
fn bpf_a_filter_takes_a_process_with_its_children_and_counts_the_rest() {
    let Some(_guard) = privileged("bpf_filter") else { return };
    let shares = Workload::build("shares");
    let script = format!("read go; '{}' 400 >/dev/null", shares.path().display());
    let mut shell = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    let filter = Filter { roots: [shell.id()].into(), ..Filter::default() };
    let recording = Recording::start(SamplerConfig { filter, ..at_hz(997) });
    shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut other = shares.command().arg("500").stdout(Stdio::null()).spawn().unwrap();
    assert!(shell.wait().unwrap().success());
    assert!(other.wait().unwrap().success());
    let (events, stats) = recording.stop();
    let found = ticks(stacks(&events), |counted| leaf_offset(counted, &shares.path()).is_some());
    assert!(found > 200, "{found} ticks of the child");
    assert_eq!(ticks(stacks(&events), |counted| counted.stack.process.tgid == other.id()), 0);
    assert!(stats.ledger.fates.get(pyrite_bpf::TickFate::Filtered) > 200, "{:?}", stats.ledger);
}

#[test]
fn bpf_the_cgroup_is_the_version_two_directory() {
    let Some(_guard) = privileged("bpf_cgroup") else { return };
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let root = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[2] == "cgroup2").then(|| fields[1].to_owned())
    });
    let directory =
        Path::new(&root.expect("cgroup v2 is mounted")).join(format!("pyrite-test-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let shares = Workload::build("shares");
    let recording = Recording::start(at_hz(997));
    let script =
        format!("echo $$ > '{}/cgroup.procs' && exec '{}' 300", directory.display(), shares.path().display());
    assert!(Command::new("sh").args(["-c", &script]).output().unwrap().status.success());
    let (events, _) = recording.stop();
    let id = fs::metadata(&directory).unwrap().ino();
    fs::remove_dir(&directory).unwrap();
    let burning = || stacks(&events).filter(|counted| leaf_offset(counted, &shares.path()).is_some());
    assert!(ticks(burning(), |_| true) > 100);
    assert_eq!(ticks(burning(), |counted| counted.stack.cgroup_id != id), 0);
}

#[test]
fn bpf_kernel_threads_are_flagged_and_have_kernel_stacks_only() {
    let Some(_guard) = privileged("bpf_kernel_threads") else { return };
    let recording = Recording::start(at_hz(2999));
    // Writing back a file is work for kworker or the disk's kernel thread.
    let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = vec![7_u8; 64 << 20];
    let begun = Instant::now();
    let in_kernel_threads =
        |events: &[Event]| ticks(stacks(events), |counted| counted.stack.is_kernel_thread);
    while in_kernel_threads(&recording.events()) == 0 && begun.elapsed() < Duration::from_secs(30) {
        fs::write(directory.path().join("written"), &data).unwrap();
        assert!(Command::new("sync").status().unwrap().success());
    }
    let (events, _) = recording.stop();
    let kernel_threads = || stacks(&events).filter(|counted| counted.stack.is_kernel_thread);
    assert!(ticks(kernel_threads(), |_| true) > 0, "no kernel thread was sampled");
    assert!(
        kernel_threads().all(|counted| counted.stack.user.is_empty() && !counted.stack.kernel.is_empty())
    );
    for counted in stacks(&events).filter(|counted| !counted.stack.is_kernel_thread) {
        assert!(!counted.stack.user.is_empty() || !counted.stack.kernel.is_empty());
    }
}
