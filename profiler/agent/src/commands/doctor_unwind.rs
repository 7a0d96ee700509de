//! `pyrite doctor --unwind`: how many stacks are complete, why others are not, and what to do about it.
//!
//! A Pyrite that runs already is asked; where there is none, this samples the node by itself for a while.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use pyrite_bpf::StackOutcome;
use pyrite_sampling::{Event, UnwindHealth};
use pyrite_server::{OffCpuScore, UnwindAnswer, UnwindScore};
use tokio::net::TcpStream;

use crate::cli::DoctorArgs;
use crate::privilege;
use crate::sampler::{Delivery, OffCpuBudget, Sampler, SamplerConfig};
use crate::sys;
use crate::watch::unwind_score;

/// A Pyrite that runs answers at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer has at most thirty lines.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;
/// Unwind tables are made in this time; stacks sampled before would tell of a Pyrite that has just started.
const WARM_UP: Duration = Duration::from_secs(3);
/// The score is never of more than that.
const LONGEST: Duration = Duration::from_mins(1);

/// Prints the score; fails only where it cannot be found out.
#[expect(clippy::print_stdout, reason = "the lines are this command's output")]
pub(super) fn unwind(args: &DoctorArgs) -> Result<ExitCode> {
    let (score, source) = match ask(args.ask) {
        Ok(score) => (score, format!("the last minute, says the Pyrite at {}", args.ask)),
        Err(no_answer) => {
            let duration = args.duration.min(LONGEST);
            eprintln!("no Pyrite answers at {} ({no_answer:#}): sampling for {duration:?}", args.ask);
            (sample(duration)?, format!("{duration:?} of sampling, {WARM_UP:?} after the start"))
        }
    };
    println!("{source}");
    for line in lines(&score) {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(address: SocketAddr) -> Result<UnwindScore> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, get(address)).await });
    let answer = answer.context("no answer in time")??;
    let answer: UnwindAnswer = serde_json::from_slice(&answer).context("its answer makes no sense")?;
    answer.unwind.context("it serves without watching this node")
}

async fn get(address: SocketAddr) -> Result<Bytes> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends by itself once the answer is read and the sender gone.
    tokio::spawn(connection);
    let request = Request::get("/api/v1/unwind").header(hyper::header::HOST, address.to_string());
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    ensure!(response.status() == StatusCode::OK, "it answers {}", response.status());
    let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| anyhow::anyhow!(error))
}

fn sample(duration: Duration) -> Result<UnwindScore> {
    if let Some(refusal) = privilege::refusal() {
        bail!(refusal);
    }
    sys::raise_open_file_limit();
    let health = Arc::new(Mutex::new(UnwindHealth::default()));
    let first = unix_ms(SystemTime::now() + WARM_UP);
    let fed = Arc::clone(&health);
    let config = SamplerConfig { off_cpu: OffCpuBudget::Node, ..SamplerConfig::default() };
    let sampler = Sampler::start(config, move |event| {
        if let Event::Second(second) = event
            && second.start.0 >= first
        {
            fed.lock().unwrap_or_else(PoisonError::into_inner).on_second(&second);
        }
        Delivery::Taken
    })?;
    std::thread::sleep(WARM_UP + duration);
    let stats = sampler.stop();
    let report = health.lock().unwrap_or_else(PoisonError::into_inner).report();
    Ok(unwind_score(&report, stats.off_cpu.as_ref()))
}

fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// The score as a person reads it.
fn lines(score: &UnwindScore) -> Vec<String> {
    let (complete, guessed) = (percent(score.complete, score.stacks), percent(score.guessed, score.stacks));
    let mut lines = vec![
        format!("complete      {complete} of {} stacks", score.stacks),
        format!(
            "guessed       {guessed} have frames found by the frame pointer for want of unwind information"
        ),
    ];
    for reason in &score.reasons {
        lines.push(format!(
            "{:<13} {} {} stacks: {}",
            reason.reason,
            percent(reason.stacks, score.stacks),
            reason.stacks,
            reason.help
        ));
        lines.extend(advice(&reason.reason).map(|advice| format!("{:14}→ {advice}", "")));
    }
    lines.extend(score.off_cpu.map(off_cpu_line));
    if !score.executables.is_empty() {
        lines.push("executables at which stacks stop:".to_owned());
    }
    for one in &score.executables {
        let all = one.passed + one.stopped;
        lines.push(format!("  {:<32} {} of {all} stop: {}", one.name, percent(one.stopped, all), one.reason));
    }
    if !score.processes.is_empty() {
        lines.push("processes:".to_owned());
    }
    for one in &score.processes {
        let name = format!("{} ({})", one.name, one.tgid);
        let complete = percent(one.complete, one.stacks);
        lines.push(format!("  {name:<32} {complete} of {} complete: {}", one.stacks, one.reason));
    }
    lines
}

fn off_cpu_line(off_cpu: OffCpuScore) -> String {
    let OffCpuScore { captured, shed, lost } = off_cpu;
    let (share, all) = (percent(captured, captured + shed), captured + shed);
    format!("off-CPU       {share} of {all} waits captured, which stand for those shed; {lost} lost")
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:6.2} %", part as f64 / whole.max(1) as f64 * 100.0)
}

/// What a person can do about stacks that stop for this reason.
fn advice(reason: &str) -> Option<&'static str> {
    let outcome = StackOutcome::ALL.into_iter().find(|outcome| outcome.name() == reason)?;
    Some(match outcome {
        StackOutcome::Absent | StackOutcome::Complete | StackOutcome::ChainEnd => return None,
        StackOutcome::TooDeep => "nothing: the frames nearest to the leaf are there",
        StackOutcome::Fault => "nothing, if they are few: their stack was swapped out or being unmapped",
        StackOutcome::NoUnwindInfo => {
            "build the executables below with -fasynchronous-unwind-tables, or with -fno-omit-frame-pointer; \
             if they have unwind information, it came too late: \
             see pyrite_sampler_notes_total{note=\"copy_gave_up\"}"
        }
        StackOutcome::Unsupported => "build the executables below with -fno-omit-frame-pointer",
        StackOutcome::OverBudget => {
            "build the executables below with -fno-omit-frame-pointer: \
             those mapped here have more unwind information than Pyrite gives memory to"
        }
        StackOutcome::NoMapping => {
            "if they are many, see whether mapping events are lost: pyrite_sampler_notes_total{note=\"sideband_lost\"}"
        }
        StackOutcome::UnknownProcess => {
            "if they are many, processes start faster than stacks may be copied: \
             see pyrite_sampler_notes_total{note=\"copy_dropped\"}"
        }
        StackOutcome::BadFrame => {
            "the unwind information of the executables below is wrong there, as in hand-written assembly"
        }
        StackOutcome::CopyEnded => "nothing: a process's first samples copy the top 16 KiB of its stack",
        StackOutcome::StaleMapping => "nothing, if they are few: libraries were being loaded",
        StackOutcome::NotTaken => {
            "nothing: threads slept for longer than they used to, and are told apart from then on"
        }
    })
}

#[cfg(test)]
mod tests {
    use pyrite_server::{UnwindExecutable, UnwindProcess, UnwindReason};

    use super::*;

    #[test]
    fn the_score_says_what_to_do() {
        let reason = "no_unwind_info".to_owned();
        let score = UnwindScore {
            stacks: 200,
            complete: 190,
            guessed: 20,
            reasons: vec![UnwindReason { reason: reason.clone(), help: "code without".into(), stacks: 10 }],
            executables: vec![UnwindExecutable {
                name: "libfoo.so".into(),
                passed: 30,
                stopped: 10,
                reason: reason.clone(),
            }],
            processes: vec![UnwindProcess { name: "app".into(), tgid: 7, stacks: 20, complete: 10, reason }],
            off_cpu: Some(OffCpuScore { captured: 5, shed: 45, lost: 2 }),
        };
        let lines = lines(&score);
        assert!(lines[0].ends_with(" 95.00 % of 200 stacks"), "{}", lines[0]);
        assert!(lines.iter().any(|line| line.contains("→ build the executables below")));
        assert!(lines.iter().any(|line| line.contains("10.00 % of 50 waits captured")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("libfoo.so") && line.contains("25.00 % of 40 stop")));
        assert!(lines.iter().any(|line| line.contains("app (7)") && line.contains("50.00 % of 20 complete")));
    }

    #[test]
    fn every_reason_but_a_known_end_has_advice() {
        for outcome in StackOutcome::ALL {
            assert_eq!(advice(outcome.name()).is_none(), outcome.is_known_end(), "{}", outcome.name());
        }
        assert_eq!(advice("of a newer version"), None);
    }

    #[test]
    fn nothing_sampled_is_no_division_by_zero() {
        assert!(lines(&UnwindScore::default())[0].contains("0.00 % of 0"));
    }

    #[test]
    fn a_port_where_nothing_listens_is_no_answer() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).unwrap();
        assert!(ask(free).is_err());
    }
}
