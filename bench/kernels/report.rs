//! What a task wrote: lines that start with a word, read into a [`Report`]. The writers are in `guest/`.

use std::collections::BTreeMap;

/// Samples of one stack, root first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    pub(crate) frames: Vec<String>,
    pub(crate) samples: u64,
}

/// All that one task found. Whatever is not there was not reached.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// `uname -r`.
    pub(crate) kernel: String,
    /// Seconds from the kernel's start to the task's.
    pub(crate) boot_s: f64,
    /// Seconds the whole case took, seen from outside.
    pub(crate) took_s: u64,
    /// Whether the task came to its end.
    pub(crate) ended: bool,
    /// Instructions that the verifier went through, by program.
    pub(crate) programs: BTreeMap<String, u64>,
    /// Exit codes of what was run, by name.
    pub(crate) exits: BTreeMap<String, i32>,
    /// What it printed.
    pub(crate) said: BTreeMap<String, Vec<String>>,
    /// Recorded stacks, by recording.
    pub(crate) stacks: BTreeMap<String, Vec<Stack>>,
    /// The sampler's metrics with their labels, by the moment they were read.
    pub(crate) metrics: BTreeMap<String, BTreeMap<String, f64>>,
    /// The answer of `SelectSeries`.
    pub(crate) series: serde_json::Value,
}

impl Report {
    /// Reads what a task wrote; lines that are none of its own are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let mut report = Self::default();
        for line in text.lines().map(|line| line.trim_end_matches('\r')) {
            // A line that does not hold what its word promises is missing from the report, which a check then says.
            let _ = report.take(line);
        }
        report
    }

    fn take(&mut self, line: &str) -> Option<()> {
        if line == "end" {
            self.ended = true;
            return Some(());
        }
        let (word, rest) = line.split_once(' ')?;
        match word {
            "kernel" => rest.clone_into(&mut self.kernel),
            "uptime" => self.boot_s = rest.parse().ok()?,
            "took" => self.took_s = rest.parse().ok()?,
            "program" => {
                let (name, instructions) = rest.split_once(' ')?;
                self.programs.insert(name.to_owned(), instructions.parse().ok()?);
            }
            "exit" => {
                let (name, code) = rest.split_once(' ')?;
                self.exits.insert(name.to_owned(), code.parse().ok()?);
            }
            "said" => {
                let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
                self.said.entry(name.to_owned()).or_default().push(text.to_owned());
            }
            "stack" => {
                let (name, stack) = rest.split_once(' ')?;
                let (frames, samples) = stack.rsplit_once(' ')?;
                let frames = frames.split(';').map(str::to_owned).collect();
                let stack = Stack { frames, samples: samples.parse().ok()? };
                self.stacks.entry(name.to_owned()).or_default().push(stack);
            }
            "metric" => {
                let (moment, metric) = rest.split_once(' ')?;
                let (name, value) = metric.rsplit_once(' ')?;
                let metrics = self.metrics.entry(moment.to_owned()).or_default();
                metrics.insert(name.to_owned(), value.parse().ok()?);
            }
            "series" => self.series = serde_json::from_str(rest).ok()?,
            _ => {}
        }
        Some(())
    }

    /// The share of a recording's samples whose stack `is_right`, and how many samples there are.
    pub(crate) fn share(&self, recording: &str, is_right: impl Fn(&[String]) -> bool) -> (f64, u64) {
        let stacks = self.stacks.get(recording).map_or(&[][..], Vec::as_slice);
        let all: u64 = stacks.iter().map(|stack| stack.samples).sum();
        let right: u64 = stacks.iter().filter(|stack| is_right(&stack.frames)).map(|s| s.samples).sum();
        (right as f64 / all.max(1) as f64, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read_and_others_are_passed_over() {
        let text = "kernel 6.1.0-1-cloud\r\nuptime 2.50\r\nprogram on_tick 612\nexit doctor 0\nsaid doctor ok  x\nsaid doctor\n\
                    stack fp _start;main;operator new(int) 7\nstack fp main 3\nmetric end ticks_total{fate=\"a b\"} 4\n\
                    series {\"series\":[]}\nnoise\nprogram broken\nend\ntook 21\n";
        let report = Report::parse(text);
        assert_eq!((report.kernel.as_str(), report.ended, report.took_s), ("6.1.0-1-cloud", true, 21));
        assert_eq!(report.programs, BTreeMap::from([("on_tick".to_owned(), 612)]));
        assert_eq!(report.said["doctor"], ["ok  x", ""]);
        assert_eq!(report.stacks["fp"][0].frames, ["_start", "main", "operator new(int)"]);
        assert_eq!(report.metrics["end"]["ticks_total{fate=\"a b\"}"].to_string(), "4");
        assert!(report.series["series"].is_array());
        let (share, samples) = report.share("fp", |frames| frames.len() == 3);
        assert!((share - 0.7).abs() < 1e-9 && samples == 10, "{share} of {samples}");
        assert_eq!(report.share("nothing", |_| true).1, 0);
    }

    #[test]
    fn a_guest_that_dies_has_not_ended() {
        assert!(!Report::parse("kernel 5.10\nstack fp main").ended);
    }
}
