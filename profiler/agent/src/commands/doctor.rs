//! `pyrite doctor`: is this machine ready, and what to do about each line that is not ok.
//!
//! Every check is a function that looks and returns a [`Finding`]; none of them changes anything.

use std::error::Error as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

use super::doctor_unwind;
use crate::cli::DoctorArgs;
use crate::config::default_data_dir;
use crate::freeze::{self, Verdict};
use crate::privilege;
use crate::sampler::{Delivery, OffCpuBudget, Sampler, SamplerConfig, TickSource};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    /// All is well; the detail says what was seen.
    Ok(String),
    /// Pyrite works, with a limit.
    Limited { seen: String, advice: String },
    /// Pyrite cannot work like this.
    Failed { seen: String, advice: String },
}

impl Finding {
    fn limited(seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Limited { seen: seen.into(), advice: advice.into() }
    }

    fn failed(seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Failed { seen: seen.into(), advice: advice.into() }
    }
}

/// Prints one line per check; fails if a check failed.
#[expect(clippy::print_stdout, reason = "the lines are this command's output")]
pub fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    if args.unwind {
        return doctor_unwind::unwind(args);
    }
    let data = args.data.clone().map_or_else(default_data_dir, Ok)?;
    let checks = [
        ("kernel", kernel(&read("/proc/sys/kernel/osrelease"))),
        ("BTF", btf()),
        ("privilege", privileges()),
        ("user stacks", user_stacks(freeze::look())),
        ("lockdown", lockdown(&read("/sys/kernel/security/lockdown"))),
        ("clang", Finding::Ok("not needed: the BPF programs are inside this binary".into())),
        ("sampling", sampling()),
        ("kernel names", kernel_names(&read("/proc/sys/kernel/kptr_restrict"))),
        ("cgroups", cgroups(&read("/proc/self/mounts"))),
        ("container runtimes", container_runtimes()),
        ("data directory", data_directory(&data)),
        ("port 4040", port()),
    ];
    let mut failed = false;
    for (name, finding) in checks {
        let (mark, seen, advice) = match finding {
            Finding::Ok(seen) => ("ok     ", seen, None),
            Finding::Limited { seen, advice } => ("limited", seen, Some(advice)),
            Finding::Failed { seen, advice } => {
                failed = true;
                ("FAILED ", seen, Some(advice))
            }
        };
        println!("{mark}  {name:<18} {seen}");
        if let Some(advice) = advice {
            println!("{:29}→ {advice}", "");
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn kernel(release: &str) -> Finding {
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::failed(format!("cannot read a version from {release:?}"), "mount /proc");
    };
    if (major, minor) >= (5, 10) {
        return Finding::Ok(format!("Linux {release}"));
    }
    Finding::failed(format!("Linux {release}"), "upgrade to Linux 5.10 or newer")
}

fn btf() -> Finding {
    let path = "/sys/kernel/btf/vmlinux";
    match fs::metadata(path) {
        Ok(meta) => Finding::Ok(format!("{path}, {} KiB", meta.size() / 1024)),
        Err(_) => Finding::failed(
            format!("{path} is missing"),
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (every distribution kernel since 2021)",
        ),
    }
}

fn privileges() -> Finding {
    let missing = privilege::Capabilities::of_self().missing_for_sampling();
    if missing.is_empty() {
        return Finding::Ok("root, or the capabilities that sampling needs".into());
    }
    Finding::failed(format!("{} missing", missing.join(", ")), "run it with sudo or as a system service")
}

fn user_stacks(evidence: freeze::Evidence) -> Finding {
    let verdict = evidence.verdict();
    let seen = format!("Linux {}: {verdict}", evidence.version_text());
    if verdict == Verdict::MayFreeze {
        return Finding::failed(
            seen,
            "upgrade to 6.1.36, 6.3.10, 6.4 or newer, boot with hardened_usercopy=off, or take the risk with --allow-freezing-kernel",
        );
    }
    Finding::Ok(seen)
}

fn lockdown(state: &str) -> Finding {
    if state.contains("[confidentiality]") {
        return Finding::failed(
            "kernel lockdown is at confidentiality, which forbids BPF to read memory",
            "boot with lockdown=integrity or without it",
        );
    }
    Finding::Ok(if state.trim().is_empty() { "none".into() } else { state.trim().to_owned() })
}

/// Loads the programs and opens the events as `run` does by default, and lets go of them at once.
fn sampling() -> Finding {
    let config = SamplerConfig { off_cpu: OffCpuBudget::Node, ..SamplerConfig::default() };
    match Sampler::start(config, |_| Delivery::Taken) {
        Ok(sampler) => {
            let stats = sampler.stop();
            sampled(stats.source, stats.off_cpu.is_some())
        }
        Err(error) => {
            let cause = error.source().map_or_else(String::new, |source| format!(": {source}"));
            Finding::failed("not possible", format!("{error}{cause}"))
        }
    }
}

fn sampled(source: TickSource, has_off_cpu: bool) -> Finding {
    match (source, has_off_cpu) {
        (_, false) => Finding::limited(
            "what runs can be sampled, but not what threads wait for",
            "the warning above says why",
        ),
        (TickSource::Cycles, true) => Finding::Ok("programs verified; event: hardware cycles".into()),
        (TickSource::CpuClock, true) => Finding::limited(
            "programs verified; event: cpu-clock, for there is no hardware counter",
            "usual in a virtual machine; code that runs with interrupts off is then seen a little late",
        ),
    }
}

fn kernel_names(kptr_restrict: &str) -> Finding {
    match kptr_restrict.trim() {
        "2" => Finding::limited(
            "kernel.kptr_restrict = 2 hides kernel addresses: kernel frames stay unnamed",
            "sysctl kernel.kptr_restrict=1",
        ),
        level => Finding::Ok(format!("kernel.kptr_restrict = {level}")),
    }
}

fn cgroups(mounts: &str) -> Finding {
    let mounted = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    match (mounted("cgroup"), mounted("cgroup2")) {
        (false, true) => Finding::Ok("version 2".into()),
        (true, true) => Finding::Ok("versions 1 and 2 (hybrid)".into()),
        (true, false) => Finding::Ok("version 1".into()),
        (false, false) => Finding::limited(
            "none mounted: processes are not grouped by container",
            "mount cgroup2 at /sys/fs/cgroup",
        ),
    }
}

fn container_runtimes() -> Finding {
    const SOCKETS: [(&str, &str); 5] = [
        ("docker", "/var/run/docker.sock"),
        ("podman", "/run/podman/podman.sock"),
        ("containerd", "/run/containerd/containerd.sock"),
        ("CRI-O", "/run/crio/crio.sock"),
        ("k3s", "/run/k3s/containerd/containerd.sock"),
    ];
    let found: Vec<&str> =
        SOCKETS.iter().filter(|(_, path)| Path::new(path).exists()).map(|(name, _)| *name).collect();
    if found.is_empty() {
        return Finding::Ok("no socket found; podman without a socket is read from its files".into());
    }
    Finding::Ok(found.join(", "))
}

fn data_directory(data: &Path) -> Finding {
    // The nearest directory that exists decides whether the data directory can be made.
    let existing =
        data.ancestors().find(|path| path.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    let probe = existing.join(format!(".pyrite-doctor-{}", std::process::id()));
    match fs::write(&probe, b"") {
        Ok(()) => {
            // A probe that cannot be removed again was still written, which is what was asked.
            let _ = fs::remove_file(&probe);
            Finding::Ok(format!("{} can be written", data.display()))
        }
        Err(error) => Finding::failed(
            format!("{} cannot be written: {error}", data.display()),
            "choose another with --data DIR, or free some space",
        ),
    }
}

fn port() -> Finding {
    match TcpListener::bind(("127.0.0.1", 4040)) {
        Ok(_) => Finding::Ok("free".into()),
        Err(error) => Finding::limited(
            format!("taken: {error}"),
            "fine if Pyrite runs already; else choose another with --listen 127.0.0.1:PORT",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freeze::KernelVersion;

    #[test]
    fn kernels_from_5_10_on() {
        for release in ["5.10.0-30-amd64\n", "6.18.44", "10.0.1"] {
            assert!(matches!(kernel(release), Finding::Ok(_)), "{release}");
        }
        for release in ["5.4.0-42-generic", "4.19", ""] {
            assert!(matches!(kernel(release), Finding::Failed { .. }), "{release}");
        }
    }

    #[test]
    fn cgroup_versions_from_the_mount_table() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(cgroups(v2), Finding::Ok("version 2".into()));
        assert_eq!(cgroups(v1), Finding::Ok("version 1".into()));
        assert_eq!(cgroups(&format!("{v1}{v2}")), Finding::Ok("versions 1 and 2 (hybrid)".into()));
        assert!(matches!(cgroups("proc /proc proc rw 0 0\n"), Finding::Limited { .. }));
    }

    #[test]
    fn a_kernel_that_can_freeze_fails() {
        let evidence = |patch| freeze::Evidence {
            version: KernelVersion::of(patch, "", ""),
            ..freeze::Evidence::default()
        };
        let Finding::Failed { seen, .. } = user_stacks(evidence("6.2.16")) else { panic!("must fail") };
        assert_eq!(seen, "Linux 6.2.16: can freeze when BPF reads a process's stack");
        let expect = "Linux 6.18.1: this version reads user memory without the fault of 5.19 to 6.3";
        assert_eq!(user_stacks(evidence("6.18.1")), Finding::Ok(expect.into()));
    }

    #[test]
    fn a_kernel_that_refuses_the_program_of_switches_is_no_clean_bill() {
        assert!(matches!(sampled(TickSource::Cycles, true), Finding::Ok(_)));
        for source in [TickSource::Cycles, TickSource::CpuClock] {
            let Finding::Limited { seen, .. } = sampled(source, false) else { panic!("must be limited") };
            assert!(seen.contains("not what threads wait for"), "{seen}");
        }
    }

    #[test]
    fn lockdown_confidentiality_is_fatal() {
        assert!(matches!(lockdown("none integrity [confidentiality]\n"), Finding::Failed { .. }));
        assert!(matches!(lockdown("[none] integrity confidentiality\n"), Finding::Ok(_)));
    }
}
