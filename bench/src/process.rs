//! Processes that are measured: started, asked for their address, read from `/proc`, ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Kills what it holds when it goes out of scope.
pub struct Running(pub Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // A child that is already gone is what was wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until a Pyrite prints the URL that it serves at; its standard output must be piped.
///
/// # Errors
/// Where it ends before it does.
pub fn printed_url(child: &mut Child) -> Result<String> {
    let stdout = child.stdout.take().context("stdout is piped")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(at) = line.find("http://") {
            return Ok(line[at..].trim_end().to_owned());
        }
    }
    bail!("pyrite ended before it printed its address")
}

/// User and system time of a process, with its ended children and all its living descendants.
///
/// # Errors
/// Where there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid}"))?;
    let after_comm = stat.rsplit_once(')').context("malformed stat")?.1;
    // Fields 14–17 of proc(5): utime, stime, cutime, cstime.
    let ticks: f64 =
        after_comm.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let of_children =
        children.split_whitespace().filter_map(|child| cpu_time(child.parse().ok()?).ok()).sum::<Duration>();
    Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND) + of_children)
}

/// Figures of `/proc/PID/status`.
pub struct Status(String);

impl Status {
    /// What it says now.
    ///
    /// # Errors
    /// Where there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"));
        text.map(Self).with_context(|| format!("no process {pid}"))
    }

    /// A figure in bytes, such as that of `VmRSS`; 0 where there is none.
    pub fn bytes(&self, name: &str) -> u64 {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn this_process_is_read() {
        let me = std::process::id();
        let (before, begun) = (cpu_time(me).unwrap(), Instant::now());
        while begun.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(begun);
        }
        // On a busy machine little of the time may have been ours.
        assert!(cpu_time(me).unwrap() > before);
        let status = Status::of(me).unwrap();
        assert!(status.bytes("VmRSS") > 1 << 20 && status.bytes("VmHWM") >= status.bytes("VmRSS"));
        assert_eq!(status.bytes("VmNothing"), 0);
        assert!(cpu_time(u32::MAX).is_err() && Status::of(u32::MAX).is_err());
    }
}
