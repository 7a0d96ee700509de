//! The outcomes side by side.

use std::fmt;
use std::time::Duration;

use crate::load::push::Acknowledged;
use crate::load::{Outcome, Spool};

const LABEL_WIDTH: usize = 40;
const COLUMN_WIDTH: usize = 16;

/// A line of the table: a figure for each server that has one.
#[derive(Debug, PartialEq)]
struct Row {
    label: String,
    figures: Vec<Option<f64>>,
}

/// A table with a column for each server and, behind the first, one of how many times the first's figure theirs is.
pub struct Comparison {
    names: Vec<String>,
    rows: Vec<Row>,
    /// What a person should know beside the figures.
    notes: Vec<String>,
}

impl Comparison {
    /// Compares what was done with the same pushes and the same queries.
    pub fn new(outcomes: &[Outcome], spool: Option<&Spool>) -> Self {
        let mut comparison = Self {
            names: outcomes.iter().map(|outcome| outcome.name.clone()).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
        };
        if let Some(spool) = spool {
            comparison.acknowledgements(outcomes);
            comparison.cost(outcomes, spool);
        }
        comparison.queries(outcomes);
        comparison.row("memory, most ever, MB", outcomes, |outcome| outcome.peak_bytes.map(mb));
        if let Some(spool) = spool {
            comparison.row("at rest, at the end, bytes a sample", outcomes, |outcome| {
                Some(outcome.at_rest_bytes? as f64 / spool.samples as f64)
            });
        }
        comparison.rows.retain(|row| row.figures.iter().any(Option::is_some));
        comparison
    }

    fn row(&mut self, label: &str, outcomes: &[Outcome], figure: impl Fn(&Outcome) -> Option<f64>) {
        self.rows.push(Row { label: label.to_owned(), figures: outcomes.iter().map(figure).collect() });
    }

    fn acknowledgements(&mut self, outcomes: &[Outcome]) {
        type Figure = fn(&Acknowledged) -> f64;
        let figures: [(&str, Figure); 5] = [
            ("acknowledged, pushes a second", |all| all.pushes as f64 / all.wall.as_secs_f64()),
            ("acknowledged, p50, ms", |all| ms(all.p50)),
            ("acknowledged, p99, ms", |all| ms(all.p99)),
            ("acknowledged, slowest, ms", |all| ms(all.slowest)),
            ("told to come later, pushes", |all| all.refusals as f64),
        ];
        for (label, figure) in figures {
            self.row(label, outcomes, |outcome| Some(figure(&outcome.ingest.as_ref()?.acknowledged)));
        }
        let refusals = outcomes.iter().filter_map(|outcome| {
            let refusal = outcome.ingest.as_ref()?.acknowledged.refusal.as_ref()?;
            Some(format!("{}, when it told pushes to come later: {refusal}", outcome.name))
        });
        self.notes.extend(refusals);
    }

    fn cost(&mut self, outcomes: &[Outcome], spool: &Spool) {
        let cpu = |outcome: &Outcome| Some(outcome.ingest.as_ref()?.cost?.0.as_secs_f64());
        let settled = |outcome: &Outcome| Some(outcome.ingest.as_ref()?.cost?.1);
        self.row("CPU time until settled, s", outcomes, cpu);
        self.row("samples a CPU second", outcomes, |outcome| Some(spool.samples as f64 / cpu(outcome)?));
        self.row("MB of pprof a CPU second", outcomes, |outcome| Some(mb(spool.raw_bytes) / cpu(outcome)?));
        self.row("idle after, s", outcomes, |outcome| Some(settled(outcome)?.after?.as_secs_f64()));
        self.row("memory, settled, MB", outcomes, |outcome| Some(mb(settled(outcome)?.usage.memory_bytes)));
        self.row("memory, most until then, MB", outcomes, |outcome| {
            Some(mb(settled(outcome)?.usage.peak_bytes))
        });
        self.row("at rest, settled, bytes a sample", outcomes, |outcome| {
            Some(outcome.ingest.as_ref()?.at_rest_bytes? as f64 / spool.samples as f64)
        });
    }

    fn queries(&mut self, outcomes: &[Outcome]) {
        let Some(first) = outcomes.first() else { return };
        for n in 0..first.answers.len() {
            let question = &first.answers[n].question;
            self.row(&format!("{question}, warm, ms"), outcomes, |outcome| {
                Some(ms(outcome.answers.get(n)?.warm))
            });
            self.row(&format!("{question}, first, ms"), outcomes, |outcome| {
                Some(ms(outcome.answers.get(n)?.first))
            });
            self.row(&format!("{question}, answer, kB"), outcomes, |outcome| {
                Some(outcome.answers.get(n)?.answer_bytes as f64 / 1e3)
            });
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:LABEL_WIDTH$}", "")?;
        for (n, name) in self.names.iter().enumerate() {
            write!(f, " {name:>COLUMN_WIDTH$}")?;
            if n > 0 {
                write!(f, " {:>9}", "times")?;
            }
        }
        writeln!(f)?;
        for Row { label, figures } in &self.rows {
            write!(f, "{label:LABEL_WIDTH$}")?;
            let first = figures.first().copied().flatten();
            for (n, figure) in figures.iter().enumerate() {
                write!(f, " {:>COLUMN_WIDTH$}", figure.map_or_else(|| "-".to_owned(), readable))?;
                if n > 0 {
                    let ratio =
                        figure.zip(first.filter(|first| *first > 0.0)).map(|(figure, first)| figure / first);
                    write!(f, " {:>9}", ratio.map_or_else(|| "-".to_owned(), readable))?;
                }
            }
            writeln!(f)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// Three or four digits that say something, and commas between thousands.
fn readable(figure: f64) -> String {
    match figure {
        f if f < 10.0 => format!("{f:.2}"),
        f if f < 1_000.0 => format!("{f:.1}"),
        f => {
            let digits = format!("{f:.0}");
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .map(|group| std::str::from_utf8(group).unwrap_or_default())
                .collect();
            groups.join(",")
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_side_by_side_with_what_they_are_of_the_first() {
        let row =
            |label: &str, figures: &[Option<f64>]| Row { label: label.into(), figures: figures.to_vec() };
        let comparison = Comparison {
            names: vec!["pyrite".into(), "peer".into()],
            rows: vec![
                row("samples a CPU second", &[Some(400_000.0), Some(52_000.0)]),
                row("at rest", &[Some(2.2), Some(254.0)]),
                row("told to come later", &[Some(0.0), Some(3.0)]),
                row("memory", &[None, Some(454.25)]),
            ],
            notes: Vec::new(),
        };
        let lines: Vec<Vec<String>> = comparison
            .to_string()
            .lines()
            .map(|line| {
                line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(String::from).collect()
            })
            .collect();
        let expect: [&[&str]; 5] = [
            &["pyrite", "peer", "times"],
            &["samples a CPU second", "400,000", "52,000", "0.13"],
            &["at rest", "2.20", "254.0", "115.5"],
            &["told to come later", "0.00", "3.00", "-"],
            &["memory", "-", "454.2", "-"],
        ];
        assert_eq!(lines, expect);
    }
}
