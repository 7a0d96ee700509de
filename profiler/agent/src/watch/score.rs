//! The score of unwinding in the words of the API.

use pyrite_bpf::{OffFate, StackOutcome};
use pyrite_sampling::{ExecutableScore, HealthReport, ProcessScore, StackCounts};
use pyrite_server::{OffCpuScore, UnwindExecutable, UnwindProcess, UnwindReason, UnwindScore};

use crate::sampler::OffCpuStats;

/// What `/api/v1/unwind`, the page and `pyrite doctor --unwind` show.
pub(crate) fn unwind_score(report: &HealthReport, off_cpu: Option<&OffCpuStats>) -> UnwindScore {
    UnwindScore {
        stacks: report.stacks.total(),
        complete: report.stacks.complete(),
        guessed: report.stacks.guessed,
        reasons: report.stacks.reasons().into_iter().map(reason).collect(),
        executables: report.executables.iter().map(executable).collect(),
        processes: report.processes.iter().map(process).collect(),
        off_cpu: off_cpu.map(|off_cpu| OffCpuScore {
            captured: off_cpu.fates.get(OffFate::Sent),
            shed: off_cpu.fates.get(OffFate::Shed),
            lost: off_cpu.fates.lost(),
        }),
    }
}

fn reason((outcome, stacks): (StackOutcome, u64)) -> UnwindReason {
    UnwindReason { reason: outcome.name().to_owned(), help: outcome.help().to_owned(), stacks }
}

fn executable(score: &ExecutableScore) -> UnwindExecutable {
    UnwindExecutable {
        name: score.code.name().to_owned(),
        passed: score.passed,
        stopped: score.stopped.total(),
        reason: main_reason(&score.stopped),
    }
}

fn process(score: &ProcessScore) -> UnwindProcess {
    UnwindProcess {
        name: score.comm.to_string(),
        tgid: score.process.tgid,
        stacks: score.stacks.total(),
        complete: score.stacks.complete(),
        reason: main_reason(&score.stacks),
    }
}

fn main_reason(stacks: &StackCounts) -> String {
    stacks.reasons().first().map_or_else(String::new, |(outcome, _)| outcome.name().to_owned())
}
