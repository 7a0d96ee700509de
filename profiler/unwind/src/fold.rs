//! Folds runs of push and pop instructions into the row at their start, and numbers rules by how often they are used.
//!
//! A prologue of six pushes is seven rows that say little: each a byte or two behind the one before, with a CFA offset
//! 8 larger. [`Run`] says it in one. About every third row of compiled C++ and Rust goes that way.

use std::cmp::Reverse;

use crate::intern::Interner;
use crate::rule::{Cfa, RUN_BYTES, Rule, Run, Saved};
use crate::table::RawRow;

/// A rule has a place in the host-wide table, which is bounded; one that saves fewer rows than this is not worth it.
const FEWEST_SAVED_ROWS: u32 = 8;

/// Takes sorted rows one by one and keeps them folded.
pub(crate) struct Folder {
    rules: Interner,
    rows: Vec<RawRow>,
    /// How many rows each rule makes unnecessary.
    saved: Vec<u32>,
    run: Option<Running>,
}

/// The rows that the next row may still be folded into.
struct Running {
    start: RawRow,
    folded: Rule,
    /// The CFA offset behind the last of the rows.
    offset: i32,
    count: u32,
}

impl Folder {
    /// Rows will name their rules by the numbers of `rules`.
    pub(crate) fn new(rules: Interner) -> Self {
        Self { rules, rows: Vec::new(), saved: Vec::new(), run: None }
    }

    /// The next row. Its rule has no run.
    pub(crate) fn push(&mut self, row: RawRow) {
        let rule = self.rules.rules()[row.rule as usize];
        let Cfa::Sp(offset) = rule.cfa else {
            self.end_run();
            self.rows.push(row);
            return;
        };
        if let Some(running) = &mut self.run {
            let behind = row.pc - running.start.pc;
            let change = offset.wrapping_sub(running.offset);
            if let Some(run) = extended(&running.folded, &rule, behind, change) {
                running.folded = Rule { fp: rule.fp, run, ..running.folded };
                running.offset = offset;
                running.count += 1;
                return;
            }
        }
        self.end_run();
        self.run = Some(Running { start: row, folded: rule, offset, count: 1 });
    }

    /// The folded rows, and the rules by the numbers that they have now.
    pub(crate) fn finish(mut self) -> (Vec<RawRow>, Vec<Rule>) {
        self.end_run();
        let rows = self.without_rare_runs();
        by_frequency(rows, self.rules.rules())
    }

    fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        if run.count == 1 {
            self.rows.push(run.start);
            return;
        }
        let Some(rule) = self.rules.intern(run.folded) else {
            unfold_into(&mut self.rows, run.start.pc, run.folded, &mut self.rules);
            return;
        };
        self.saved.resize(self.rules.rules().len(), 0);
        self.saved[rule as usize] += run.count - 1;
        self.rows.push(RawRow { pc: run.start.pc, rule });
    }

    fn without_rare_runs(&mut self) -> Vec<RawRow> {
        let mut rows = Vec::with_capacity(self.rows.len());
        for row in std::mem::take(&mut self.rows) {
            let saved = self.saved.get(row.rule as usize).copied().unwrap_or_default();
            if saved == 0 || saved >= FEWEST_SAVED_ROWS {
                rows.push(row);
                continue;
            }
            let folded = self.rules.rules()[row.rule as usize];
            unfold_into(&mut rows, row.pc, folded, &mut self.rules);
        }
        rows
    }
}

/// Appends the rows that `folded` was made of, whose rules have numbers from before.
fn unfold_into(rows: &mut Vec<RawRow>, pc: u32, folded: Rule, rules: &mut Interner) {
    let row = |(behind, rule)| Some(RawRow { pc: pc + behind, rule: rules.intern(rule)? });
    rows.extend(unfold(folded).filter_map(row));
}

/// The run of `folded` with one more change, to `next`; `None` where a run cannot say it.
fn extended(folded: &Rule, next: &Rule, behind: u32, change: i32) -> Option<Run> {
    if behind == 0 || behind > RUN_BYTES || next.ra != folded.ra {
        return None;
    }
    let mut run = folded.run;
    if next.fp != folded.fp {
        if folded.fp != Saved::Same || run.fp_from != 0 {
            return None;
        }
        run.fp_from = behind as u8;
    }
    let pop = match change {
        0 => return Some(run),
        8 => false,
        -8 => true,
        _ => return None,
    };
    if run.pushes != 0 && run.pop != pop {
        return None;
    }
    run.pop = pop;
    run.pushes |= 1 << (behind - 1);
    Some(run)
}

/// Numbers the rules anew, the most frequent first, and leaves out those that no row uses.
fn by_frequency(mut rows: Vec<RawRow>, rules: &[Rule]) -> (Vec<RawRow>, Vec<Rule>) {
    let mut uses = vec![0_u32; rules.len()];
    for row in &rows {
        uses[row.rule as usize] += 1;
    }
    let mut order: Vec<u32> = (0..rules.len() as u32).filter(|rule| uses[*rule as usize] > 0).collect();
    order.sort_by_key(|rule| (Reverse(uses[*rule as usize]), rules[*rule as usize]));
    let mut numbers = vec![0; rules.len()];
    for (number, rule) in order.iter().enumerate() {
        numbers[*rule as usize] = number as u32;
    }
    for row in &mut rows {
        row.rule = numbers[row.rule as usize];
    }
    (rows, order.iter().map(|rule| rules[*rule as usize]).collect())
}

/// The plain rules that a rule with a run stands for, each with how far behind the row it begins.
pub(crate) fn unfold(rule: Rule) -> impl Iterator<Item = (u32, Rule)> {
    let changes = move |behind: u32| {
        let pushed = behind > 0 && rule.run.pushes >> (behind - 1) & 1 == 1;
        behind == 0 || pushed || behind == u32::from(rule.run.fp_from)
    };
    (0..=RUN_BYTES).filter(move |behind| changes(*behind)).map(move |behind| (behind, rule.at(behind as u16)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sp(offset: i32, fp: Saved) -> Rule {
        Rule::new(Cfa::Sp(offset), fp, Saved::AtCfa(-8))
    }

    fn table(rows: &[(u32, Rule)]) -> (Vec<RawRow>, Interner) {
        let mut rules = Interner::new();
        let rows =
            rows.iter().map(|(pc, rule)| RawRow { pc: *pc, rule: rules.intern(*rule).unwrap() }).collect();
        (rows, rules)
    }

    fn fold(rows: Vec<RawRow>, rules: Interner) -> (Vec<RawRow>, Vec<Rule>) {
        let mut folder = Folder::new(rules);
        for row in rows {
            folder.push(row);
        }
        folder.finish()
    }

    /// What holds at each byte from the first row on.
    fn meaning(rows: &[RawRow], rules: &[Rule], end: u32) -> Vec<Rule> {
        let mut rules_by_byte = Vec::new();
        for pc in rows[0].pc..end {
            let row = rows[rows.partition_point(|row| row.pc <= pc) - 1];
            rules_by_byte.push(rules[row.rule as usize].at((pc - row.pc) as u16));
        }
        rules_by_byte
    }

    /// Function after function with this prologue.
    fn repeated(rows: &[(u32, Rule)], times: u32) -> Vec<(u32, Rule)> {
        (0..times).flat_map(|n| rows.iter().map(move |(pc, rule)| (pc + n * 100, *rule))).collect()
    }

    #[test]
    fn a_prologue_and_its_epilogue_are_three_rows() {
        use Saved::{AtCfa, Same};
        let function = [
            (0, sp(8, Same)),
            (1, sp(16, AtCfa(-16))),
            (3, sp(24, AtCfa(-16))),
            (4, sp(32, AtCfa(-16))),
            (8, sp(112, AtCfa(-16))),
            (50, sp(32, AtCfa(-16))),
            (51, sp(24, AtCfa(-16))),
            (53, sp(16, AtCfa(-16))),
            (54, sp(8, AtCfa(-16))),
        ];
        let (rows, rules) = table(&repeated(&function, 9));
        let before = meaning(&rows, rules.rules(), 900);
        let (folded, folded_rules) = fold(rows, rules);
        assert_eq!(folded.len(), 9 * 3);
        assert_eq!(folded_rules.len(), 3);
        assert_eq!(meaning(&folded, &folded_rules, 900), before);
    }

    #[test]
    fn a_run_that_is_rare_stays_as_it_is() {
        let (rows, rules) = table(&[(0, sp(8, Saved::Same)), (1, sp(16, Saved::Same)), (90, Rule::NONE)]);
        assert_eq!(fold(rows.clone(), rules).0.len(), rows.len());
    }

    #[test]
    fn rules_are_numbered_by_use() {
        let rows = [(0, Rule::NONE), (100, Rule::END), (200, Rule::SIGNAL), (300, Rule::END)];
        let (rows, rules) = table(&rows);
        let (_, rules) = fold(rows, rules);
        assert_eq!(rules, [Rule::END, Rule::NONE, Rule::SIGNAL]);
    }

    fn any_rows() -> impl Strategy<Value = Vec<(u32, Rule)>> {
        let fp = prop_oneof![Just(Saved::Same), Just(Saved::AtCfa(-16)), Just(Saved::AtCfa(-24))];
        let cfa = prop_oneof![
            8 => (1..8_i32).prop_map(|words| Cfa::Sp(words * 8)),
            1 => Just(Cfa::Fp(16)),
            1 => Just(Cfa::None),
        ];
        let ra = prop_oneof![9 => Just(Saved::AtCfa(-8)), 1 => Just(Saved::AtCfa(-16))];
        let rule = (cfa, fp, ra).prop_map(|(cfa, fp, ra)| Rule::new(cfa, fp, ra));
        proptest::collection::vec((1..20_u32, rule), 1..40).prop_map(|steps| {
            let mut pc = 0;
            let mut rows: Vec<(u32, Rule)> = Vec::new();
            for (step, rule) in steps {
                pc += step;
                if rows.last().is_none_or(|(_, last)| *last != rule) {
                    rows.push((pc, rule));
                }
            }
            rows
        })
    }

    proptest! {
        #[test]
        fn folding_changes_no_rule_at_any_byte(rows in any_rows()) {
            // Repeated, so that runs are frequent enough to be folded.
            let length = rows.last().map_or(0, |(pc, _)| pc + 1);
            let rows: Vec<_> = (0..9)
                .flat_map(|n| rows.iter().map(move |(pc, rule)| (pc + n * (length + 20), *rule)))
                .collect();
            let mut deduplicated = rows.clone();
            deduplicated.dedup_by_key(|(_, rule)| *rule);
            let end = rows.last().map_or(0, |(pc, _)| pc + 40);
            let (rows, rules) = table(&deduplicated);
            let before = meaning(&rows, rules.rules(), end);
            let count = rows.len();
            let (folded, folded_rules) = fold(rows, rules);
            prop_assert!(folded.len() <= count);
            prop_assert_eq!(meaning(&folded, &folded_rules, end), before);
        }

        #[test]
        fn unfolding_a_rule_says_the_same(rule in crate::rule::tests::any_rule(), behind in 0..40_u32) {
            // A run is at most as long as the bits say, and the rule for FP takes effect within it.
            let rule = Rule { run: Run { fp_from: rule.run.fp_from % 17, ..rule.run }, ..rule };
            let last = unfold(rule).filter(|(at, _)| *at <= behind).last().unwrap();
            prop_assert_eq!(last.1, rule.at(behind as u16));
        }
    }
}
