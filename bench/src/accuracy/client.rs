//! The C programs `capture` and `judge`: building them, running them, reading what they say.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::accuracy::{CapturedStack, Cases, MappingSet};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/judge");

/// Both programs, built.
#[derive(Debug)]
pub struct Tools {
    capture: PathBuf,
    judge: PathBuf,
}

/// What to capture.
#[derive(Clone, Copy, Debug)]
pub struct Capture {
    /// Ticks per second and CPU.
    pub frequency_hz: u32,
    /// For how long at most.
    pub seconds: u32,
    /// Id of the BPF program that decides which ticks are captured; 0 for all of them.
    pub program: u32,
}

/// How the judge got from one frame to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// By call frame information.
    Information,
    /// By the frame pointer, for want of call frame information.
    FramePointer,
    /// Not at all.
    Failed,
}

/// A frame as the judge sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The leaf's instruction, or where the call will return to.
    pub avma: u64,
    /// The step to the next frame.
    pub step: Step,
}

/// Where the judge's walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At the thread's root.
    Complete,
    /// Before it; the judge's word for why, as listed in `judge.c`.
    Stopped(String),
}

/// What the judge says of one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Id of the stack.
    pub id: u64,
    /// Where it ended.
    pub ending: Ending,
    /// Leaf first.
    pub frames: Vec<Frame>,
}

/// A judge at work. It remembers the mapping sets it was told.
#[derive(Debug)]
pub struct Judge {
    child: Child,
    /// `None` once closed.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Tools {
    /// Builds both programs into `directory`.
    ///
    /// # Errors
    /// Where there is no C compiler, or no libdw-dev.
    pub fn build(directory: &Path) -> Result<Self> {
        let build = |name: &str, sources: &[&str], libraries: &[&str]| {
            let program = directory.join(name);
            let mut cc = Command::new("cc");
            cc.args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
            cc.args(sources.iter().map(|source| Path::new(SOURCES).join(source))).args(libraries);
            let built = cc.status().context("no C compiler")?;
            ensure!(
                built.success(),
                "{name} does not compile; bench/dev/packages.sh accuracy installs libdw-dev"
            );
            anyhow::Ok(program)
        };
        Ok(Self {
            capture: build("capture", &["capture.c", "processes.c"], &[])?,
            judge: build("judge", &["judge.c", "modules.c"], &["-ldw", "-lelf"])?,
        })
    }

    /// Runs a command and captures its stacks into a file.
    ///
    /// # Errors
    /// Where perf events cannot be opened, or the file not be written.
    pub fn capture(&self, what: Capture, command: &mut Command, into: &Path) -> Result<()> {
        let status = Command::new(&self.capture)
            .arg(into)
            .args([what.frequency_hz, what.seconds, what.program].map(|number| number.to_string()))
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .status()
            .context("capture does not start")?;
        ensure!(status.success(), "capture failed");
        Ok(())
    }

    /// Starts a judge.
    ///
    /// # Errors
    /// Where the program does not start.
    pub fn judge(&self) -> Result<Judge> {
        let mut child = Command::new(&self.judge)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("judge does not start")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("stdout is piped")?);
        Ok(Judge { child, input, output })
    }
}

/// Opens a file of cases.
///
/// # Errors
/// Where it cannot be opened.
pub fn open_cases(path: &Path) -> Result<Cases<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    Ok(Cases::new(BufReader::new(file)))
}

impl Judge {
    /// Tells it the mappings that later stacks refer to.
    ///
    /// # Errors
    /// Where the judge has ended.
    pub fn learn(&mut self, set: &MappingSet) -> Result<()> {
        self.send(&set.encode())
    }

    /// Asks for a judgement.
    ///
    /// # Errors
    /// Where the judge has ended, or says what is not understood.
    pub fn judge(&mut self, stack: &CapturedStack) -> Result<Judgement> {
        self.send(&stack.encode())?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let judgement = parse_judgement(&line).with_context(|| format!("the judge said {line:?}"))?;
        ensure!(judgement.id == stack.id, "the judge spoke of another stack");
        Ok(judgement)
    }

    fn send(&mut self, message: &[u8]) -> Result<()> {
        let Some(input) = &mut self.input else { bail!("the judge is closed") };
        input.write_all(message).context("the judge has ended")?;
        input.flush().context("the judge has ended")
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends with its input; what it returns does not matter any more.
        let _ = self.child.wait();
    }
}

/// `ID END FRAME FRAME …`
fn parse_judgement(line: &str) -> Option<Judgement> {
    let mut words = line.split_ascii_whitespace();
    let id = words.next()?.parse().ok()?;
    let ending = match words.next()? {
        "complete" => Ending::Complete,
        why => Ending::Stopped(why.to_owned()),
    };
    let frames = words.map(|word| {
        let (avma, how) = word.split_at_checked(word.len().checked_sub(1)?)?;
        let step = match how {
            "c" => Step::Information,
            "p" => Step::FramePointer,
            "-" => Step::Failed,
            _ => return None,
        };
        Some(Frame { avma: u64::from_str_radix(avma, 16).ok()?, step })
    });
    Some(Judgement { id, ending, frames: frames.collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judgements_are_parsed() {
        let frame = |avma, step| Frame { avma, step };
        assert_eq!(
            parse_judgement("7 no_memory 401000c 55aap 1f-\n"),
            Some(Judgement {
                id: 7,
                ending: Ending::Stopped("no_memory".into()),
                frames: vec![
                    frame(0x40_1000, Step::Information),
                    frame(0x55aa, Step::FramePointer),
                    frame(0x1f, Step::Failed)
                ],
            })
        );
        assert_eq!(parse_judgement("8 complete\n").map(|judgement| judgement.ending), Some(Ending::Complete));
        assert_eq!(parse_judgement("8 complete 12x\n"), None);
        assert_eq!(parse_judgement(""), None);
    }
}
