//! `kernels`: judges what Pyrite did on each kernel of the matrix and prints it as one table.
//!
//! `run.sh` beside this file boots the guests and leaves what they wrote in a directory; this program reads it. What a
//! guest writes is read in `report`, what must hold of it is in `judge`.

#![forbid(unsafe_code)]

mod judge;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::judge::{Check, judge};
use crate::report::Report;

#[derive(Parser)]
struct Args {
    /// Where the results are: CASE.txt, and CASE.console where a guest was booted
    results: PathBuf,
    /// Which cases, in the order to print them
    #[arg(required = true)]
    cases: Vec<String>,
}

#[expect(clippy::print_stdout, reason = "the table is this command's output")]
fn main() -> Result<()> {
    let args = Args::parse();
    println!("\n{:<9} {:<28} {:>6} {:>7}  seen", "case", "kernel", "boot s", "whole s");
    let mut failed = 0;
    for case in &args.cases {
        let path = args.results.join(format!("{case}.txt"));
        let text = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let report = Report::parse(&String::from_utf8_lossy(&text));
        let checks = judge(case, &report);
        println!("{}", row(case, &report, &checks));
        let wrong: Vec<&Check> = checks.iter().filter(|check| !check.holds).collect();
        for check in &wrong {
            println!("  FAILED: {}", check.seen);
        }
        if !wrong.is_empty() {
            failed += 1;
            if !report.ended {
                println!("{}", console_tail(&args, case));
            }
        }
    }
    if failed > 0 {
        bail!(
            "{failed} of {} cases failed; their results are in {}",
            args.cases.len(),
            args.results.display()
        );
    }
    Ok(())
}

/// Instructions verified by program, then what was seen.
fn row(case: &str, report: &Report, checks: &[Check]) -> String {
    let programs =
        report.programs.iter().map(|(name, instructions)| format!("{name} {instructions} instructions"));
    let good = checks.iter().filter(|check| check.holds).map(|check| check.seen.clone());
    let seen: Vec<String> = programs.chain(good).collect();
    let (kernel, boot_s, took_s) = (&report.kernel, report.boot_s, report.took_s);
    // The running kernel has been up for long; that is no time to boot.
    let boot = if case == "running" { String::new() } else { format!("{boot_s:.1}") };
    format!("{case:<9} {kernel:<28} {boot:>6} {took_s:>7}  {}", seen.join("; "))
}

/// The last words of a guest that did not come to its end.
fn console_tail(args: &Args, case: &str) -> String {
    const LINES: usize = 30;
    let console = std::fs::read(args.results.join(format!("{case}.console"))).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
