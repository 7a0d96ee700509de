//! What a server costs while it is driven: CPU time and memory of a process or of a control group.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{Status, cpu_time};

/// A server is idle when it uses less than this share of one CPU; some poll or keep books without end.
const IDLE_SHARE: f64 = 0.05;
const POLL: Duration = Duration::from_millis(500);
/// A server that is not idle by then is taken to be settled as it is, and said not to be.
const PATIENCE: Duration = Duration::from_mins(15);

/// How a server's CPU time and memory are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meter {
    /// A process with its children.
    Process(u32),
    /// A control group of version 2, on Linux 5.19 or later; its memory is that of its files in the page cache, too.
    Cgroup(PathBuf),
}

/// One reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// User and system time.
    pub(super) cpu: Duration,
    pub(super) memory_bytes: u64,
    /// The most it ever was.
    pub(super) peak_bytes: u64,
}

/// How a server came to rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    /// When it became idle, counted from when it was last asked for anything; `None` where it did not.
    pub(super) after: Option<Duration>,
    pub(super) usage: Usage,
}

impl Meter {
    pub(super) fn read(&self) -> Result<Usage> {
        match self {
            Self::Process(pid) => {
                let status = Status::of(*pid)?;
                Ok(Usage {
                    cpu: cpu_time(*pid)?,
                    memory_bytes: status.bytes("VmRSS"),
                    peak_bytes: status.bytes("VmHWM"),
                })
            }
            Self::Cgroup(dir) => {
                let stat = read(dir, "cpu.stat")?;
                let us = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
                let us = us.context("cpu.stat has no usage_usec")?.trim().parse()?;
                Ok(Usage {
                    cpu: Duration::from_micros(us),
                    memory_bytes: read(dir, "memory.current")?.trim().parse()?,
                    peak_bytes: read(dir, "memory.peak")?.trim().parse()?,
                })
            }
        }
    }

    /// Waits until the server has used next to no CPU for as long as `idle`.
    pub(super) async fn settle(&self, idle: Duration) -> Result<Settled> {
        let begun = Instant::now();
        let mut readings: VecDeque<(Instant, Usage)> = VecDeque::new();
        loop {
            let (now, usage) = (Instant::now(), self.read()?);
            // The newest reading that is old enough is the one to compare with; those before it have served.
            while readings.get(1).is_some_and(|(at, _)| now - *at >= idle) {
                readings.pop_front();
            }
            if let Some((at, before)) = readings.front().filter(|(at, _)| now - *at >= idle) {
                let used = usage.cpu.saturating_sub(before.cpu);
                let share = used.as_secs_f64() / (now - *at).as_secs_f64();
                if share < IDLE_SHARE {
                    return Ok(Settled { after: Some(*at - begun), usage });
                }
            }
            if begun.elapsed() > PATIENCE {
                return Ok(Settled { after: None, usage });
            }
            readings.push_back((now, usage));
            tokio::time::sleep(POLL).await;
        }
    }
}

fn read(dir: &Path, file: &str) -> Result<String> {
    let path = dir.join(file);
    fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control_group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn a_control_group_is_read() {
        let files = [
            ("cpu.stat", "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"),
            ("memory.current", "4096\n"),
            ("memory.peak", "8192\n"),
        ];
        let dir = control_group(&files);
        let usage = Meter::Cgroup(dir.path().into()).read().unwrap();
        assert_eq!(
            (usage.cpu, usage.memory_bytes, usage.peak_bytes),
            (Duration::from_millis(2_500), 4_096, 8_192)
        );
        for missing in 0..files.len() {
            let others: Vec<_> =
                files.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, f)| *f).collect();
            let dir = control_group(&others);
            let error = format!("{:#}", Meter::Cgroup(dir.path().into()).read().unwrap_err());
            assert!(error.contains(files[missing].0), "{error}");
        }
    }

    /// A group whose CPU time rises for a second and then stands still.
    #[test]
    fn settled_is_when_the_cpu_time_stands_still() {
        let dir =
            control_group(&[("memory.current", "1"), ("memory.peak", "1"), ("cpu.stat", "usage_usec 0")]);
        let stat = dir.path().join("cpu.stat");
        let busy = std::thread::spawn(move || {
            let begun = Instant::now();
            let mut us = 0;
            while begun.elapsed() < Duration::from_secs(1) {
                us = begun.elapsed().as_micros();
                // Renamed into place: a reader never sees half a file.
                fs::write(stat.with_extension("new"), format!("usage_usec {us}\n")).unwrap();
                fs::rename(stat.with_extension("new"), &stat).unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
            us
        });
        let meter = Meter::Cgroup(dir.path().into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let settled = runtime.block_on(meter.settle(Duration::from_secs(1))).unwrap();
        assert_eq!(settled.usage.cpu.as_micros(), busy.join().unwrap(), "all of it counts");
        let after = settled.after.unwrap();
        assert!(after >= Duration::from_millis(900), "{after:?}");
    }
}
