//! What must hold of each case, as functions from its [`Report`] to [`Check`]s.

use crate::report::Report;

/// A quarter of what a kernel accepts, so that a compiler's or a kernel's whim is seen long before it stops the sampler.
pub(crate) const MAX_INSTRUCTIONS: u64 = 250_000;
/// `chain` runs four seconds at 97 Hz; beside other loads it gets a fraction of them.
const MIN_SAMPLES: u64 = 30;
/// The rest is the shell around the program, and its start.
const MIN_WHOLE: f64 = 0.9;
/// `syscalls` spends most of its time on the way into the kernel and out, where part of the ticks hits.
const MIN_IN_KERNEL: f64 = 0.2;
/// The threads of `waits` live eight seconds: one sleeps, two share a CPU and so wait for it up to sixteen together. In the
/// first of them, unwind tables are still made, and how much the threads then get done beside other loads differs.
const MIN_WAITED_S: f64 = 1.0;
const MAX_WAITED_S: f64 = 17.0;
/// The functions of `fixtures/workloads/chain.c`.
const CHAIN: [&str; 9] = ["main", "one", "two", "three", "four", "five", "six", "compare", "spin"];
const FREQUENCY_HZ: f64 = 97.0;

/// Something that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// What was seen, in a few words.
    pub(crate) seen: String,
    /// Whether that is as it must be.
    pub(crate) holds: bool,
}

fn check(seen: impl Into<String>, holds: bool) -> Check {
    Check { seen: seen.into(), holds }
}

/// The checks of the case of this name.
pub(crate) fn judge(case: &str, report: &Report) -> Vec<Check> {
    let mut checks = vec![];
    if !report.ended {
        checks.push(check("did not come to its end", false));
    }
    match case {
        "hotplug" => hotplug(report, &mut checks),
        "units" => units(report, &mut checks),
        "refusals" => refusals(report, &mut checks),
        "running" => profile(report, &mut checks),
        version => {
            if !report.kernel.starts_with(&format!("{version}.")) {
                checks.push(check(format!("the kernel is {:?}", report.kernel), false));
            }
            profile(report, &mut checks);
        }
    }
    checks
}

type IsRight = fn(&[String]) -> bool;

/// Time off the CPU is in microseconds, and of a known kind at a known place.
fn off_cpu(report: &Report, checks: &mut Vec<Check>) {
    exits_well("off_cpu", report, checks);
    for (function, state) in [("sleeper", "[blocked]"), ("starved", "[runnable]")] {
        let is_right = |frames: &[String]| {
            frames.iter().any(|frame| frame == function) && frames.last().is_some_and(|leaf| leaf == state)
        };
        let (share, us) = report.share("off_cpu", is_right);
        let seconds = share * us as f64 / 1e6;
        let seen = format!("{function} {state} {seconds:.1} s");
        checks.push(check(seen, (MIN_WAITED_S..MAX_WAITED_S).contains(&seconds)));
    }
}

fn profile(report: &Report, checks: &mut Vec<Check>) {
    exits_well("doctor", report, checks);
    if report.programs.is_empty() {
        checks.push(check("no program was verified", false));
    }
    for (name, instructions) in report.programs.iter().filter(|(_, count)| **count > MAX_INSTRUCTIONS) {
        checks.push(check(format!("{name}: {instructions} instructions verified"), false));
    }
    let recordings: [(&str, IsRight, f64); 3] = [
        ("frame_pointers", is_whole_chain, MIN_WHOLE),
        ("no_frame_pointers", reaches_start, MIN_WHOLE),
        ("kernel", is_in_kernel, MIN_IN_KERNEL),
    ];
    for (name, is_right, at_least) in recordings {
        exits_well(name, report, checks);
        let (share, samples) = report.share(name, is_right);
        let seen = format!("{name} {:.1} % of {samples}", share * 100.0);
        checks.push(check(seen, share >= at_least && samples >= MIN_SAMPLES));
    }
    off_cpu(report, checks);
}

fn exits_well(name: &str, report: &Report, checks: &mut Vec<Check>) {
    let code = report.exits.get(name).copied();
    if code != Some(0) {
        let said = report.said.get(name).map_or_else(String::new, |said| said.join(" | "));
        checks.push(check(format!("{name} ended with {code:?}: {said}"), false));
    }
}

/// Whether the program's own functions are all there, once and in their order. What lies between them is the library's.
fn is_whole_chain(frames: &[String]) -> bool {
    let own = frames.iter().map(String::as_str).filter(|frame| CHAIN.contains(frame));
    own.eq(CHAIN)
}

/// The same, and the C library's frames above `main` too, which have no frame pointers either.
fn reaches_start(frames: &[String]) -> bool {
    is_whole_chain(frames) && frames[0] == "_start"
}

fn is_in_kernel(frames: &[String]) -> bool {
    frames.iter().any(|frame| frame.starts_with("do_syscall_64") || frame.contains("sys_getppid"))
}

fn hotplug(report: &Report, checks: &mut Vec<Check>) {
    for (moment, cpus) in [("before", 2.0), ("offline", 1.0), ("online", 2.0), ("after", 2.0)] {
        let Some(metrics) = report.metrics.get(moment) else {
            checks.push(check(format!("no metrics {moment}"), false));
            continue;
        };
        let value = |name: &str| metrics.get(name).copied().unwrap_or(f64::NAN);
        let fates = metrics.iter().filter(|(name, _)| name.starts_with("ticks_total{"));
        let fates: f64 = fates.map(|(_, ticks)| ticks).sum();
        let owed = value("ticks_owed_total") + value("ticks_surplus_total");
        let explained = fates - value("ticks_total{fate=\"sent\"}") + value("ticks_held");
        let seen = format!("{moment}: owed {owed}, explained {explained}, {} CPUs", value("cpus"));
        let balances = (owed - explained).abs() <= 2.0 && (value("cpus") - cpus).abs() < 0.5;
        checks.push(check(seen, balances && value("notes_total{note=\"cpu_not_opened\"}") < 0.5));
    }
    if let (Some(online), Some(after)) = (report.metrics.get("online"), report.metrics.get("after")) {
        let grown = |name: &str| after.get(name).unwrap_or(&f64::NAN) - online.get(name).unwrap_or(&f64::NAN);
        let owed_hz = grown("ticks_owed_total") / grown("uptime");
        let stored = grown("ticks_total{fate=\"stored\"}") / grown("ticks_owed_total");
        let seen = format!("then {owed_hz:.0} ticks owed per second, {:.0} % stored", stored * 100.0);
        // Two busy CPUs; one would owe half of that.
        checks.push(check(seen, owed_hz > 1.5 * FREQUENCY_HZ && stored > 0.5));
    }
    exits_well("daemon", report, checks);
}

fn units(report: &Report, checks: &mut Vec<Check>) {
    for name in ["burn-left", "burn-right"] {
        let seconds = cpu_seconds(&report.series, name);
        checks.push(check(format!("{name} {seconds:.1} s"), seconds > 1.0));
    }
}

/// CPU seconds of a service in an answer of `SelectSeries`.
fn cpu_seconds(answer: &serde_json::Value, service: &str) -> f64 {
    let is_named = |series: &&serde_json::Value| {
        series["labels"].as_array().into_iter().flatten().any(|label| label["value"] == service)
    };
    let series = answer["series"].as_array().into_iter().flatten().filter(is_named);
    let points = series.flat_map(|series| series["points"].as_array().into_iter().flatten());
    // A sum of no points would be -0.
    points.filter_map(|point| point["value"].as_f64()).fold(0.0, |sum, value| sum + value) / 1e9
}

fn refusals(report: &Report, checks: &mut Vec<Check>) {
    for (name, says) in [("lockdown", "lockdown"), ("unprivileged", "needs root"), ("no_btf", "no BTF")] {
        let said = report.said.get(name).map_or(&[][..], Vec::as_slice);
        let in_one_line = said.len() == 1 && said[0].starts_with("pyrite: ") && said[0].contains(says);
        let refused = report.exits.get(name) == Some(&1);
        let seen = if in_one_line { name.to_owned() } else { format!("{name}: {}", said.join(" | ")) };
        checks.push(check(seen, refused && in_one_line));
    }
    let doctor = report.said.get("doctor").map_or(&[][..], Vec::as_slice);
    let tells = doctor.iter().any(|line| line.starts_with("FAILED") && line.contains("lockdown"));
    checks.push(check("doctor", tells && report.exits.get("doctor") == Some(&1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(case: &str, text: &str) -> Vec<String> {
        let checks = judge(case, &Report::parse(text));
        checks.into_iter().filter(|check| !check.holds).map(|check| check.seen).collect()
    }

    fn profile_of(instructions: u64, no_frame_pointers: &str) -> String {
        let chain = CHAIN.join(";").replace("compare", "qsort_r;compare");
        format!(
            "kernel 6.1.0-1\nexit doctor 0\nexit frame_pointers 0\nexit no_frame_pointers 0\nexit kernel 0\nexit off_cpu 0\n\
             stack off_cpu start_thread;live;sleeper;nanosleep;[blocked] 2900000\n\
             stack off_cpu start_thread;live;starved;[runnable] 2800000\nstack off_cpu main;[blocked] 3000000\n\
             program on_tick {instructions}\nstack frame_pointers {chain} 370\nstack frame_pointers [busybox+0x31a60] 10\n\
             stack no_frame_pointers {no_frame_pointers}{chain} 380\nstack kernel main;syscall;do_syscall_64 100\nend\n"
        )
    }

    #[test]
    fn a_profile_is_judged_by_its_chains_and_its_cost() {
        let good = profile_of(612, "_start;__libc_start_main;");
        assert_eq!(failures("6.1", &good), [""; 0]);
        assert_eq!(failures("6.12", &good), ["the kernel is \"6.1.0-1\""]);
        assert_eq!(failures("6.1", &profile_of(612, "")), ["no_frame_pointers 0.0 % of 380"]);
        let awake = good.replace("starved;[runnable]", "starved;[blocked]");
        assert_eq!(failures("6.1", &awake), ["starved [runnable] 0.0 s"]);
        let dear = profile_of(300_000, "_start;");
        assert_eq!(failures("running", &dear), ["on_tick: 300000 instructions verified"]);
        assert_eq!(failures("6.1", &good.replace("four;", "")).len(), 2, "a function is missing");
        assert_eq!(
            failures("6.1", &good.replace("four;", "four;four;")).len(),
            2,
            "a function is there twice"
        );
        assert!(failures("6.1", "kernel 6.1.0-1\n").contains(&"did not come to its end".to_owned()));
    }

    #[test]
    fn the_books_of_a_hotplug_must_balance() {
        let moment = |name: &str, cpus: u32, owed: u32, uptime: u32| {
            format!(
                "metric {name} uptime {uptime}\nmetric {name} ticks_owed_total {owed}\nmetric {name} ticks_surplus_total 2\n\
                 metric {name} ticks_held 5\nmetric {name} cpus {cpus}\nmetric {name} notes_total{{note=\"cpu_not_opened\"}} 0\n\
                 metric {name} ticks_total{{fate=\"sent\"}} 90\nmetric {name} ticks_total{{fate=\"stored\"}} {}\n",
                owed - 3
            )
        };
        let all = |lost: u32| {
            moment("before", 2, 600, 5)
                + &moment("offline", 1, 800, 7)
                + &moment("online", 2, 1000, 9)
                + &moment("after", 2, 1780 - lost, 13)
                + "exit daemon 0\nend\n"
        };
        assert_eq!(failures("hotplug", &all(0)), [""; 0]);
        assert_eq!(failures("hotplug", &all(0).replace("ticks_held 5", "ticks_held 9")).len(), 4);
        // One CPU of two came back.
        assert_eq!(failures("hotplug", &all(390)), ["then 98 ticks owed per second, 100 % stored"]);
        assert_eq!(failures("hotplug", "exit daemon 0\nend\n").len(), 4);
    }

    #[test]
    fn units_are_services() {
        let answer = |left: &str| {
            format!(
                r#"series {{"series":[{{"labels":[{{"name":"service_name","value":"{left}"}}],"points":[{{"value":4e9}}]}},
{{"labels":[{{"name":"service_name","value":"burn-right"}}],"points":[{{"value":3e9}},{{"value":1e9}}]}}]}}"#
            )
            .replace('\n', "")
        };
        assert_eq!(failures("units", &format!("{}\nend\n", answer("burn-left"))), [""; 0]);
        assert_eq!(failures("units", &format!("{}\nend\n", answer("sh"))), ["burn-left 0.0 s"]);
    }

    #[test]
    fn a_refusal_is_one_sentence() {
        let good = "exit lockdown 1\nsaid lockdown pyrite: the kernel is locked down (lockdown=confidentiality)\n\
                    exit unprivileged 1\nsaid unprivileged pyrite: watching a whole node needs root\n\
                    exit no_btf 1\nsaid no_btf pyrite: this kernel has no BTF\n\
                    exit doctor 1\nsaid doctor FAILED   lockdown           x\nend\n";
        assert_eq!(failures("refusals", good), [""; 0]);
        let wordy = good.replace("said no_btf pyrite", "said no_btf and\nsaid no_btf pyrite");
        assert_eq!(failures("refusals", &wordy).len(), 1);
        assert_eq!(failures("refusals", &good.replace("exit doctor 1", "exit doctor 0")), ["doctor"]);
    }
}
