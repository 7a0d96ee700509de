//! A table in the making: functions as their sources give them, in any order, become one sorted list of rows.
//!
//! Sources come in order of trust (`.eh_frame`, then `.debug_frame`, and so on); what an earlier one covers a later one
//! cannot change. Within a source the function with the highest start at or below an address wins, which is what
//! the runtime's own search through `.eh_frame_hdr` does.

use std::ops::Range;

use crate::fold::Folder;
use crate::intern::Interner;
use crate::read::Unreadable;
use crate::rule::Rule;
use crate::table::{Arch, Layout, RawRow, RawTable, Report, Unsupported};

/// Functions begin at multiples of at most so many bytes; what would align them to more is not taken for padding.
const LARGEST_ALIGNMENT: u64 = 16;

/// The function that rows are being added to.
#[derive(Clone, Copy, Debug)]
struct Function {
    /// svma - lowest svma, as all code positions here.
    start: u32,
    end: u32,
    /// Its rows are from here on in `rows`, up to `end_row`.
    first_row: u32,
    end_row: u32,
}

/// Collects functions and their rows.
pub(crate) struct Draft {
    arch: Arch,
    layout: Layout,
    rows: Vec<RawRow>,
    functions: Vec<Function>,
    /// What the sources before the current one cover, sorted and disjoint; made when the next source's first function
    /// asks for it.
    covered: Option<Vec<(u32, u32)>>,
    rules: Interner,
    /// The current source has functions.
    added: bool,
    pub(crate) report: Report,
}

impl Draft {
    pub(crate) fn new(arch: Arch, layout: Layout) -> Self {
        Self {
            arch,
            layout,
            rows: Vec::new(),
            functions: Vec::new(),
            covered: None,
            rules: Interner::new(),
            added: false,
            report: Report::default(),
        }
    }

    /// How the file lies in memory.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes room for about as many rows as call frame information of `bytes` bytes holds.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        const SMALLEST_ROW_BYTES: usize = 5;
        self.rows.reserve((bytes / SMALLEST_ROW_BYTES).min(RawTable::MAX_ROWS));
    }

    /// Starts the function at svmas `start` to `end`. False where it is no code of this file, or an earlier source
    /// has it: then it gets no rows.
    pub(crate) fn begin(&mut self, start: u64, end: u64) -> bool {
        let Some((first, last)) = self.position(start).zip(self.position(end)) else {
            self.report.outside_code += 1;
            return false;
        };
        if first >= last || !self.layout.is_code(start) {
            self.report.outside_code += 1;
            return false;
        }
        if self.is_covered(first, last) {
            return false;
        }
        self.report.functions += 1;
        self.added = true;
        let row = self.rows.len() as u32;
        self.functions.push(Function { start: first, end: last, first_row: row, end_row: row });
        true
    }

    /// From `svma` on, `rule` holds. Rows belong to the function that was begun last, and come in order.
    pub(crate) fn row(&mut self, svma: u64, rule: Rule) -> Result<(), Unreadable> {
        let Some(pc) = self.position(svma) else { return Ok(()) };
        if self.rows.len() >= RawTable::MAX_ROWS {
            return Err(Unreadable::TooManyRows);
        }
        let rule = self.rules.intern(rule).ok_or(Unreadable::TooManyRows)?;
        self.rows.push(RawRow { pc, rule });
        if let Some(function) = self.functions.last_mut() {
            function.end_row = self.rows.len() as u32;
        }
        Ok(())
    }

    /// From `svma` on, there is a rule that cannot be expressed.
    pub(crate) fn unsupported(&mut self, svma: u64, reason: Unsupported) -> Result<(), Unreadable> {
        self.report.unsupported[reason as usize] += 1;
        self.row(svma, Rule::UNSUPPORTED)
    }

    /// Whether a signal trampoline is among the functions so far.
    pub(crate) fn has_signal_frame(&self) -> bool {
        self.rules.knows(Rule::SIGNAL)
    }

    /// No more functions come from this source.
    pub(crate) fn end_source(&mut self) {
        if std::mem::take(&mut self.added) {
            self.sort();
            self.covered = None;
        }
    }

    /// Whether an earlier source has code between these positions.
    fn is_covered(&mut self, start: u32, end: u32) -> bool {
        let covered = self.covered();
        let next = covered.partition_point(|(_, covered_end)| *covered_end <= start);
        covered.get(next).is_some_and(|(covered_start, _)| *covered_start < end)
    }

    /// The code around `svma` that no source before the current one has. To be asked before the current one adds any.
    pub(crate) fn gap_at(&mut self, svma: u64) -> Option<Range<u64>> {
        let pc = self.position(svma)?;
        let segment = self.layout.code_segment(svma)?;
        let lowest = self.layout.lowest_svma;
        let covered = self.covered();
        let next = covered.partition_point(|(_, end)| *end <= pc);
        let svma_of = |pc: u32| lowest + u64::from(pc);
        let before = next.checked_sub(1).and_then(|before| covered.get(before));
        let start = before.map_or(segment.start, |(_, end)| svma_of(*end).max(segment.start));
        let end = covered.get(next).map_or(segment.end, |(start, _)| svma_of(*start).min(segment.end));
        (start..end).contains(&svma).then_some(start..end)
    }

    /// Svmas of code of a few bytes that no source before the current one has, and that is no padding. To be asked likewise.
    pub(crate) fn holes(&mut self) -> Vec<Range<u64>> {
        let lowest = self.layout.lowest_svma;
        let gaps = self.covered().windows(2).map(|pair| svmas(lowest, pair[0].1, pair[1].0));
        gaps.filter(|gap| gap.end - gap.start < LARGEST_ALIGNMENT && !is_padding(gap)).collect()
    }

    fn covered(&mut self) -> &[(u32, u32)] {
        self.covered.get_or_insert_with(|| {
            let mut covered: Vec<(u32, u32)> = Vec::new();
            for function in &self.functions {
                match covered.last_mut() {
                    Some((_, end)) if *end >= function.start => *end = function.end.max(*end),
                    _ => covered.push((function.start, function.end)),
                }
            }
            covered
        })
    }

    /// The finished table.
    pub(crate) fn finish(mut self) -> Result<RawTable, Unreadable> {
        self.end_source();
        if self.functions.is_empty() {
            return Err(Unreadable::NoUnwindInfo);
        }
        let none = self.rules.intern(Rule::NONE).ok_or(Unreadable::TooManyRows)?;
        let rules = std::mem::replace(&mut self.rules, Interner::new());
        let merged = Merged { folder: Folder::new(rules), none, pending: None, last: None, input_rows: 0 };
        let (rows, rules) = self.merge(merged);
        self.report.rows = rows.len() as u32;
        Ok(RawTable { arch: self.arch, layout: self.layout, rows, rules, report: self.report })
    }

    fn position(&self, svma: u64) -> Option<u32> {
        svma.checked_sub(self.layout.lowest_svma).and_then(|pc| u32::try_from(pc).ok())
    }

    /// Sorts functions by their start; the first of equal ones stays first.
    fn sort(&mut self) {
        if !self.functions.is_sorted_by_key(|function| function.start) {
            self.functions.sort_by_key(|function| function.start);
        }
    }

    /// All rows in order, with "none" in the gaps.
    fn merge(&mut self, mut merged: Merged) -> (Vec<RawRow>, Vec<Rule>) {
        let lowest = self.layout.lowest_svma;
        let mut covered_to = None;
        let mut last_start = None;
        for (index, function) in self.functions.iter().enumerate() {
            if last_start == Some(function.start) {
                self.report.overlapping += 1;
                continue;
            }
            last_start = Some(function.start);
            if let Some(end) = covered_to.filter(|end| !is_padding(&svmas(lowest, *end, function.start))) {
                merged.push(RawRow { pc: end, rule: merged.none });
            }
            let next = self.functions[index + 1..].iter().find(|next| next.start > function.start);
            let end = next.map_or(function.end, |next| next.start.min(function.end));
            self.report.overlapping += u32::from(end < function.end);
            for row in &self.rows[function.first_row as usize..function.end_row as usize] {
                if (function.start..end).contains(&row.pc) {
                    merged.push(*row);
                }
            }
            covered_to = Some(end);
        }
        if let Some(end) = covered_to {
            merged.push(RawRow { pc: end, rule: merged.none });
        }
        self.report.input_rows = merged.finish_counting();
        merged.folder.finish()
    }
}

fn svmas(lowest: u64, start: u32, end: u32) -> Range<u64> {
    lowest + u64::from(start)..lowest + u64::from(end)
}

/// Whether what lies between two functions only aligns the second, so that nothing runs there: the row before simply goes on.
/// Other gaps, however small, are code, as the few instructions of glibc's `clone` that both threads come through.
fn is_padding(gap: &Range<u64>) -> bool {
    let alignment = 1 << gap.end.trailing_zeros().min(LARGEST_ALIGNMENT.ilog2());
    gap.end.saturating_sub(gap.start) < alignment
}

/// Rows on their way to the folder.
struct Merged {
    folder: Folder,
    /// The rule of gaps.
    none: u32,
    /// May still be replaced by a row of the same pc.
    pending: Option<RawRow>,
    /// The rule of the row before the pending one.
    last: Option<u32>,
    input_rows: u32,
}

impl Merged {
    /// Takes a row unless it says nothing new. Of several rows of one pc the last one counts.
    fn push(&mut self, row: RawRow) {
        if self.pending.is_some_and(|pending| pending.pc >= row.pc) {
            self.pending = None;
        }
        let before = self.pending.map(|pending| pending.rule).or(self.last);
        if before == Some(row.rule) {
            return;
        }
        self.pass_on();
        self.pending = Some(row);
    }

    fn pass_on(&mut self) {
        if let Some(row) = self.pending.take() {
            self.input_rows += u32::from(row.rule != self.none);
            self.last = Some(row.rule);
            self.folder.push(row);
        }
    }

    /// How many rows there were, gaps not counted.
    fn finish_counting(&mut self) -> u32 {
        self.pass_on();
        self.input_rows
    }
}
