//! One line per workload, then one per language.

use std::collections::BTreeMap;
use std::fmt;

use pyrite_bench::accuracy::{Tally, Verdict, Workload};

/// What became of a workload's ticks.
pub(crate) struct Row {
    workload: &'static Workload,
    /// The stacks are the judge's own.
    judge_only: bool,
    tally: Tally,
    as_planted: u64,
    /// The names of the first chain that was not as planted.
    not_as_planted: Option<String>,
    not_as_planted_count: u64,
    agreed: u64,
    disagreed: u64,
}

impl Row {
    pub(crate) const HEAD: &str = "workload       identical    further      both at least  not judged   ticks      planted  second judge  what became of them";

    pub(crate) fn new(workload: &'static Workload, judge_only: bool) -> Self {
        Self {
            workload,
            judge_only,
            tally: Tally::default(),
            as_planted: 0,
            not_as_planted: None,
            not_as_planted_count: 0,
            agreed: 0,
            disagreed: 0,
        }
    }

    pub(crate) fn add(
        &mut self,
        verdict: Verdict,
        planted: Option<Result<(), String>>,
        second_agrees: Option<bool>,
    ) {
        self.tally.add(verdict);
        match planted {
            Some(Ok(())) => self.as_planted += 1,
            Some(Err(names)) => {
                self.not_as_planted_count += 1;
                self.not_as_planted.get_or_insert(names);
            }
            None => {}
        }
        match second_agrees {
            Some(true) => self.agreed += 1,
            Some(false) => self.disagreed += 1,
            None => {}
        }
    }

    /// What the workload was written in, and what became of its ticks.
    pub(crate) fn by_language(&self) -> (&'static str, &Tally) {
        (self.workload.written_in, &self.tally)
    }

    /// The bounds that do not hold.
    pub(crate) fn broken(&self, max_not_judged_percent: f64) -> Vec<String> {
        let name = self.workload.name;
        let mut broken = Vec::new();
        if !self.judge_only && self.tally.right_percent() < self.workload.bound_percent {
            broken.push(format!("{name}: {:.2} % right", self.tally.right_percent()));
        }
        if self.tally.further_percent() > self.workload.max_further_percent {
            broken.push(format!("{name}: {:.2} % go further than the judge", self.tally.further_percent()));
        }
        if self.tally.total() == 0 {
            broken.push(format!("{name}: no ticks"));
        }
        if self.tally.not_judged_percent() > max_not_judged_percent {
            broken.push(format!("{name}: {:.2} % not judged", self.tally.not_judged_percent()));
        }
        let planted_percent =
            100.0 * self.as_planted as f64 / (self.as_planted + self.not_as_planted_count).max(1) as f64;
        if self.workload.planted.is_some() && planted_percent < self.workload.bound_percent {
            let example = self.not_as_planted.as_deref().unwrap_or("none was seen");
            broken.push(format!("{name}: {planted_percent:.2} % as planted; {example}"));
        }
        broken
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |percent: f64| if self.judge_only { "-".to_owned() } else { format!("{percent:.2} %") };
        let (identical, further) =
            (shown(self.tally.identical_percent()), shown(self.tally.further_percent()));
        let planted = match self.workload.planted {
            Some(_) => format!("{}/{}", self.as_planted, self.as_planted + self.not_as_planted_count),
            None => "-".to_owned(),
        };
        write!(
            f,
            "{:<14} {identical:>9}  {further:>9} {:>16.1} %  {:>8.2} %  {:>6} {planted:>12} {:>13}  {}",
            self.workload.name,
            self.workload.bound_percent,
            self.tally.not_judged_percent(),
            self.tally.total(),
            format!("{}/{}", self.agreed, self.agreed + self.disagreed),
            self.tally,
        )
    }
}

/// What became of the ticks of all workloads of a language.
pub(crate) struct Languages(BTreeMap<&'static str, Tally>);

impl Languages {
    pub(crate) fn of(rows: &[Row]) -> Self {
        let mut languages: BTreeMap<_, Tally> = BTreeMap::new();
        for (language, tally) in rows.iter().map(Row::by_language) {
            languages.entry(language).or_default().merge(tally);
        }
        Self(languages)
    }
}

impl fmt::Display for Languages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (language, tally) in &self.0 {
            let (identical, further) = (tally.identical_percent(), tally.further_percent());
            writeln!(
                f,
                "{language:<14} {identical:>7.2} %  {further:>7.2} % {:>27.2} %  {:>6}  {tally}",
                tally.not_judged_percent(),
                tally.total()
            )?;
        }
        Ok(())
    }
}
