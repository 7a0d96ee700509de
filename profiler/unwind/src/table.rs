//! The unwind table of one executable before its rules have host-wide ids. This is what the disk cache keeps.

use std::ops::Range;

use pyrite_model::{Avma, FileOffset};

use crate::rule::Rule;

/// The machine that code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

/// From a code position on, up to the next row, this rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawRow {
    /// svma - [`Layout::lowest_svma`].
    pub pc: u32,
    /// Index into [`RawTable::rules`].
    pub rule: u32,
}

/// A part of the file that is mapped into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: FileOffset,
    /// Where it begins in memory, as the file states it.
    pub svma: u64,
    /// How many bytes of it are in the file.
    pub file_bytes: u64,
    /// Whether it holds code.
    pub executable: bool,
}

/// How a file lies in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The lowest svma of any segment; every pc in a table is relative to it.
    pub lowest_svma: u64,
    /// As in the program headers.
    pub segments: Vec<Segment>,
}

impl Layout {
    /// The bias of an executable mapping of `bytes` bytes at `start` that shows the file from `offset` on, such that
    /// avma - bias = pc; `None` where no segment of code lies in that part of the file.
    ///
    /// A mapping begins and ends with whole pages, and so may show the end of the segment before its own, or the beginning
    /// of the next: it is that of the segment which it shows most of.
    pub fn bias(&self, start: Avma, offset: FileOffset, bytes: u64) -> Option<u64> {
        let end = offset.0.saturating_add(bytes);
        let shown = |segment: &&Segment| {
            let segment_end = segment.offset.0.saturating_add(segment.file_bytes);
            segment_end.min(end).saturating_sub(segment.offset.0.max(offset.0))
        };
        let code = self.segments.iter().filter(|segment| segment.executable);
        let segment = code.max_by_key(shown).filter(|segment| shown(segment) > 0)?;
        let svma_of_start = segment.svma.wrapping_sub(segment.offset.0).wrapping_add(offset.0);
        Some(start.0.wrapping_sub(svma_of_start.wrapping_sub(self.lowest_svma)))
    }

    /// Where in the file the byte at this svma is, and how many bytes of its segment there are from it on.
    pub(crate) fn file_offset(&self, svma: u64) -> Option<(FileOffset, u64)> {
        self.segments.iter().find_map(|segment| {
            let within = svma.checked_sub(segment.svma).filter(|within| *within < segment.file_bytes)?;
            Some((FileOffset(segment.offset.0.checked_add(within)?), segment.file_bytes - within))
        })
    }

    /// Whether code lies at this svma.
    pub(crate) fn is_code(&self, svma: u64) -> bool {
        self.code_segment(svma).is_some()
    }

    /// The svmas of the segment in which the code at `svma` lies.
    pub(crate) fn code_segment(&self, svma: u64) -> Option<Range<u64>> {
        let executable = self.segments.iter().filter(|segment| segment.executable);
        let mut ranges =
            executable.map(|segment| segment.svma..segment.svma.saturating_add(segment.file_bytes));
        ranges.find(|range| range.contains(&svma))
    }
}

/// Why a piece of unwind information cannot be expressed as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// A CFA expression beyond registers, constants and one load.
    CfaExpression,
    /// A CFA by a register that no sample carries.
    CfaRegister,
    /// A CFA offset beyond the rule's field.
    CfaRange,
    /// A return address that is neither in memory at the CFA nor in a register while the CFA is by SP.
    ReturnAddress,
    /// A stack pointer of the caller that is not the CFA.
    StackPointer,
    /// Malformed CFI: what holds from here on is not known.
    Malformed,
}

impl Unsupported {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::CfaExpression,
        Self::CfaRegister,
        Self::CfaRange,
        Self::ReturnAddress,
        Self::StackPointer,
        Self::Malformed,
    ];

    /// The stable short name, used as the metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::CfaExpression => "cfa_expression",
            Self::CfaRegister => "cfa_register",
            Self::CfaRange => "cfa_range",
            Self::ReturnAddress => "return_address",
            Self::StackPointer => "stack_pointer",
            Self::Malformed => "malformed",
        }
    }
}

/// What was met while a table was made. Counts; none of them makes the table wrong where it speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Functions (FDEs) read.
    pub functions: u32,
    /// Rows that differ from the one before, gaps not counted; before runs were folded.
    pub input_rows: u32,
    /// Rows in the table.
    pub rows: u32,
    /// Entries that could not be understood.
    pub malformed: u32,
    /// Entries that describe no code of this file.
    pub outside_code: u32,
    /// Entries that overlap another one, which wins.
    pub overlapping: u32,
    /// Rows whose rule for FP cannot be expressed, so that FP counts as lost.
    pub fp_lost: u32,
    /// Rows that cannot be expressed, by [`Unsupported`].
    pub unsupported: [u32; Unsupported::COUNT],
}

/// The unwind table of one executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTable {
    /// The machine.
    pub arch: Arch,
    /// How the file lies in memory.
    pub layout: Layout,
    /// Sorted by pc, no two of one pc, neighbours differ in their rule.
    pub rows: Vec<RawRow>,
    /// Each distinct rule once, the most frequent one first.
    pub rules: Vec<Rule>,
    /// What was met on the way.
    pub report: Report,
}

impl RawTable {
    /// Most rows that a table may have: what a tree of depth 2 with full leaves holds.
    pub const MAX_ROWS: usize = 1 << 22;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bias_turns_an_avma_into_a_pc() {
        let segment = |offset, svma, file_bytes, executable| Segment {
            offset: FileOffset(offset),
            svma,
            file_bytes,
            executable,
        };
        // As lld lays files out: code at 0x2c40 of the file is at svma 0x3c40, its page mapped from offset 0x2000.
        let layout = Layout {
            lowest_svma: 0,
            segments: vec![segment(0, 0, 0x2c30, false), segment(0x2c40, 0x3c40, 0x1000, true)],
        };
        let bias = layout.bias(Avma(0x7f00_0000_2000), FileOffset(0x2000), 0x2000).unwrap();
        assert_eq!(0x7f00_0000_2c40_u64 - bias, 0x3c40);
        assert_eq!(layout.bias(Avma(0x7f00_0000_0000), FileOffset(0), 0x2000), None);

        // Two segments of code that have a page of the file in common.
        let layout = Layout {
            lowest_svma: 0,
            segments: vec![segment(0x1000, 0x1000, 0x1c40, true), segment(0x2c40, 0x3c40, 0x1000, true)],
        };
        let second = layout.bias(Avma(0x7f00_0000_3000), FileOffset(0x2000), 0x2000).unwrap();
        assert_eq!(0x7f00_0000_3c40_u64 - second, 0x3c40);
        let first = layout.bias(Avma(0x7f00_0000_1000), FileOffset(0x1000), 0x2000).unwrap();
        assert_eq!(0x7f00_0000_1000_u64 - first, 0x1000);

        let fixed =
            Layout { lowest_svma: 0x40_0000, segments: vec![segment(0x1000, 0x40_1000, 0x500, true)] };
        let bias = fixed.bias(Avma(0x40_1000), FileOffset(0x1000), 0x1000).unwrap();
        assert_eq!(0x40_1010 - bias, 0x1010, "relative to the lowest svma");
        assert!(fixed.is_code(0x40_14ff) && !fixed.is_code(0x40_1500) && !fixed.is_code(0x40_0fff));
    }
}
