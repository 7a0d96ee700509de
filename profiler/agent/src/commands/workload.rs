//! The command that `record` runs: held back until sampling has begun, followed to its end.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::sys;

/// Stops itself before it becomes the command; the process id stays the same.
const HOLD_BACK: &str = r#"kill -STOP $$; exec "$@""#;
const START_LIMIT: Duration = Duration::from_secs(5);

/// A command that is ours to run.
pub(super) struct Workload {
    child: Child,
}

impl Workload {
    /// Starts `command` up to the point where it would begin.
    pub(super) fn hold_back(command: &[OsString]) -> Result<Self> {
        let child = Command::new("/bin/sh")
            .args(["-c", HOLD_BACK, "sh"])
            .args(command)
            .spawn()
            .context("failed to start a shell for the command")?;
        let workload = Self { child };
        let start = Instant::now();
        while !workload.is_stopped()? {
            ensure!(start.elapsed() < START_LIMIT, "the command did not start within {START_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(workload)
    }

    /// Its process id.
    pub(super) fn tgid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it begin.
    pub(super) fn begin(&self) -> Result<()> {
        sys::send_signal(self.tgid(), libc::SIGCONT).context("failed to continue the command")
    }

    /// Passes a request to end on to it.
    pub(super) fn terminate(&self) {
        // A command that has ended meanwhile is what was asked for.
        let _ = sys::send_signal(self.tgid(), libc::SIGTERM);
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("failed to wait for the command")
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("failed to wait for the command")
    }

    fn is_stopped(&self) -> Result<bool> {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.tgid())).context("the command has vanished")?;
        match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
            Some('T') => Ok(true),
            Some('Z') | None => bail!("the command ended before it began"),
            Some(_) => Ok(false),
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Only where recording failed is it still running: then it must not stay behind, stopped for ever.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The exit code a shell would report: the command's own, or 128 and the signal that ended it.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
