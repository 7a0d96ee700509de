//! `accuracy`: how often Pyrite's stacks are right, by language and by reason.
//!
//! Runs each workload under Pyrite's sampler while the kernel's own perf captures registers and stack at the same ticks,
//! draws a random sample of the ticks, and has the judge say what each stack is (`bench/judge`). Prints the share of
//! identical stacks per workload and per language, with reasons. Fails below a workload's bound, or where more stacks than
//! are known to must go further than the judge, or more than 2 % cannot be judged, or where a chain of calls that is known
//! beforehand is not found. With `--judge-only` Pyrite is left
//! out and the judge itself is checked: by those chains, and by a second judge.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the table is this program's output")]

mod draw;
mod profiler;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use pyrite_bench::accuracy::{Capture, Tools, Trial, Verdict, WORKLOADS, Workload};

use crate::draw::Draw;
use crate::profiler::Profiler;
use crate::table::{Languages, Row};

/// More than this share of ticks that nobody can judge makes the rest worthless.
const MAX_NOT_JUDGED_PERCENT: f64 = 2.0;

#[derive(Parser)]
struct Args {
    /// Which workloads; all of them unless named.
    workloads: Vec<String>,
    /// For how long to run each.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Ticks per second and CPU that are captured. Each copies 64 KiB.
    #[arg(long, default_value_t = 199)]
    frequency: u32,
    /// How many ticks of each workload to judge at most.
    #[arg(long, default_value_t = 1000)]
    samples: usize,
    /// Which ticks are drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Check the judge alone.
    #[arg(long)]
    judge_only: bool,
    /// Print the figures without judging them.
    #[arg(long)]
    no_bounds: bool,
    /// Print this many stacks of each workload that are not identical.
    #[arg(long, default_value_t = 0)]
    show: usize,
    /// Keep what was built and captured here.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let scratch = tempfile::TempDir::new()?;
    let directory = args.keep.clone().unwrap_or_else(|| scratch.path().to_owned());
    std::fs::create_dir_all(&directory)?;
    let directory = directory.canonicalize()?;
    let tools = Tools::build(&directory)?;
    println!("{}", Row::HEAD);
    let mut rows = Vec::new();
    for workload in choose(&args.workloads)? {
        let row = measure(&args, &tools, workload, &directory)?;
        println!("{row}");
        rows.push(row);
    }
    if !args.judge_only {
        println!("\n{}", Languages::of(&rows));
    }
    let broken: Vec<String> = rows.iter().flat_map(|row| row.broken(MAX_NOT_JUDGED_PERCENT)).collect();
    ensure!(args.no_bounds || broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Workload>> {
    if let Some(unknown) = names.iter().find(|name| WORKLOADS.iter().all(|workload| workload.name != **name))
    {
        bail!("there is no workload {unknown}");
    }
    let wanted = |workload: &&Workload| names.is_empty() || names.iter().any(|name| name == workload.name);
    Ok(WORKLOADS.iter().filter(wanted).collect())
}

fn measure(args: &Args, tools: &Tools, workload: &'static Workload, directory: &Path) -> Result<Row> {
    let built = workload.build(directory)?;
    let cases = built.join("cases");
    let profiler = (!args.judge_only).then(|| Profiler::start(args.frequency)).transpose()?;
    let what = Capture {
        frequency_hz: args.frequency,
        seconds: args.seconds + 10,
        program: profiler.as_ref().map_or(0, Profiler::program),
    };
    tools.capture(what, &mut workload.command(&built, args.seconds), &cases)?;
    let observed = profiler.map(Profiler::stop);
    if let Some(observed) = observed.as_ref().filter(|_| args.show > 0) {
        println!("{:?}\n{:?}", observed.stats.ledger, observed.stats.notes);
    }

    let drawn = Draw::from_file(&cases, args.samples, args.seed)?;
    let mut trial = Trial::new(workload, built, tools.judge()?)?;
    let mut row = Row::new(workload, args.judge_only);
    let mut shown = 0;
    for (set, stack) in drawn.cases() {
        let reference = trial.hear(set, stack).with_context(|| format!("judging {}", workload.name))?;
        let truth = reference.frames();
        let seen = observed.as_ref().and_then(|observed| observed.find(stack));
        let verdict = match &observed {
            Some(_) => trial.verdict(set, seen, &reference),
            None => reference.own_verdict(),
        };
        // Without Pyrite it is the judge's own stacks that must be as planted.
        let whole = match &observed {
            Some(_) => seen.filter(|seen| seen.is_complete).map(|seen| &seen.frames),
            None => (verdict == Verdict::Identical).then_some(&truth),
        };
        let planted = whole.and_then(|frames| trial.is_as_planted(set, frames));
        if shown < args.show
            && (verdict != Verdict::Identical || planted.as_ref().is_some_and(Result::is_err))
        {
            shown += 1;
            println!(
                "{} {verdict} planted {planted:?}\n  judge {:?} {truth:x?}\n  seen  {seen:x?}",
                workload.name, reference.judgement.ending
            );
            println!("  names {}", trial.names(set, &truth));
        }
        row.add(verdict, planted, reference.second_agrees);
    }
    for _ in 0..drawn.lost() {
        row.add(Verdict::NotJudged("not_captured".to_owned()), None, None);
    }
    Ok(row)
}
