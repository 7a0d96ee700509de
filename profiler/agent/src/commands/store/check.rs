//! `pyrite store check` and `repair`.

use std::process::ExitCode;

use anyhow::Result;
use pyrite_store::offline::{self, CheckReport, Repaired};

use super::{Bar, config, stop_it};
use crate::cli::{DataArgs, RepairArgs};

/// What `check` ends with where it could not look, or not at everything.
const COULD_NOT_CHECK: u8 = 2;

/// Ends with 0 where all is as it must be, 1 where something is not, 2 where that cannot be told.
pub(super) fn check(args: &DataArgs) -> ExitCode {
    let checked = config(args).and_then(|config| {
        let bar = Bar::new("checking");
        Ok(offline::check(&config.data, &mut |step| bar.show(step))?)
    });
    match checked {
        Ok(report) => {
            print(&report);
            match (report.findings.is_empty(), report.unreadable.is_empty()) {
                (true, true) => ExitCode::SUCCESS,
                (true, false) => ExitCode::from(COULD_NOT_CHECK),
                (false, _) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("pyrite: could not check: {error:#}");
            ExitCode::from(COULD_NOT_CHECK)
        }
    }
}

/// Ends with 0 where all is as it must be afterwards, and before where nothing was to be done.
pub(super) fn repair(args: &RepairArgs) -> Result<ExitCode> {
    let config = config(&args.data)?;
    let bar = Bar::new("checking");
    if args.dry_run {
        let plan = offline::plan(&config.data, &mut |step| bar.show(step)).map_err(stop_it)?;
        drop(bar);
        print(&plan);
        say_plan(&plan);
        return Ok(if is_clean(&plan) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let repaired = offline::repair(&config.data, &mut |step| bar.show(step)).map_err(stop_it)?;
    drop(bar);
    let Repaired { before, done, start, after } = repaired;
    print(&before);
    say(&done, &start.findings);
    if is_clean(&after) {
        return Ok(ExitCode::SUCCESS);
    }
    print(&after);
    Ok(ExitCode::FAILURE)
}

/// Whether all is as it must be, and known to be so.
fn is_clean(report: &CheckReport) -> bool {
    report.findings.is_empty() && report.unreadable.is_empty()
}

#[expect(clippy::print_stdout, reason = "the findings are what the user asked for")]
fn print(report: &CheckReport) {
    for damage in &report.findings {
        println!("{damage}");
    }
    for unread in &report.unreadable {
        println!("not read: {unread}");
    }
    for missed in &report.not_covered {
        println!("not checked: {missed}");
    }
    if let Some(holder) = report.running {
        let pid = holder.pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
        println!("the process with pid {pid} works on it; what it changes meanwhile is left out");
    }
    let CheckReport { segments, rows, parts, findings, .. } = report;
    println!(
        "{segments} segments, {parts} parts of dictionaries, {rows} rows read; {} findings",
        findings.len()
    );
}

#[expect(clippy::print_stdout, reason = "the plan is what the user asked for")]
fn say_plan(plan: &CheckReport) {
    for (file, remedy) in plan.remedies() {
        println!("would: {}: {remedy}", file.display());
    }
}

#[expect(clippy::print_stdout, reason = "what was done is what the user asked for")]
fn say(done: &[String], found_by_start: &[pyrite_store::Finding]) {
    for line in done {
        println!("done: {line}");
    }
    for finding in found_by_start {
        println!("done: {finding}");
    }
}
