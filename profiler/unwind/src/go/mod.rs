//! Unwind rows of Go programs, from the table of functions that the Go runtime itself unwinds by.
//!
//! Go programs have no `.eh_frame`, but every one has `.gopclntab`, stripped or not: for each function, how many bytes it
//! has put on the stack at each instruction. So the CFA is exact everywhere. What the table does not say comes from the
//! first instructions of a function ([`frame`]): whether and where it saves the frame pointer, which leads back from the
//! scheduler's stack to the goroutine's and from Go to C.
//!
//! C code linked into a Go program has `.eh_frame`, and no function here covers it.

mod frame;
mod frame_aarch64;
mod frame_x86_64;
mod locate;
mod pages;
mod pclntab;

use std::ops::Range;

use thiserror::Error;

use self::frame::{Body, Role};
use self::locate::{Located, locate, offset_of};
use self::pages::Pages;
use self::pclntab::Function;
use crate::read::{ReadAt, Unreadable};
use crate::rule::Rule;
use crate::table::{Arch, Layout};

/// One function and its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFunction<'a> {
    /// svmas that the rows speak for.
    pub code: Range<u64>,
    /// (svma, what holds from there on): sorted, the first at the beginning of `code`, neighbours differ.
    pub rows: &'a [(u64, Rule)],
}

/// Why a file gives no rows of Go.
#[derive(Debug, Error)]
pub enum GoRefusal {
    /// It has no table of Go functions.
    #[error("no Go program")]
    NotGo,
    /// Its table has the layout of Go 1.15 or older, or one not known yet.
    #[error("a Go function table of an unknown version")]
    Version,
    /// The table contradicts itself.
    #[error("a malformed Go function table")]
    Malformed,
    /// Where the code begins that the table speaks of could not be found.
    #[error("the beginning of the Go code could not be found")]
    NoTextStart,
    /// More rows than a table may have.
    #[error("more Go unwind rows than a table can hold")]
    TooManyRows,
    /// The file could not be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl GoRefusal {
    /// The stable short name, used as the metric label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotGo => "not_go",
            Self::Version => "go_version",
            Self::Malformed => "go_malformed",
            Self::NoTextStart => "go_no_text_start",
            Self::TooManyRows => "go_too_many_rows",
            Self::Unreadable(why) => why.name(),
        }
    }
}

/// Bounds that keep hostile files from costing more than an honest one of their size.
struct Limits;

impl Limits {
    /// The largest Go program known here has a fifth of a million. Each may lead to a few places of the file of its own.
    const FUNCTIONS: u64 = 1 << 20;
    const ROWS: u64 = 1 << 23;
    /// Of one function; generated ones have some ten thousand.
    const FUNCTION_SPANS: usize = 1 << 17;
    /// How many words are looked at for a table, and for a `moduledata`: those of 1 GiB.
    const SEARCHED_PLACES: usize = 1 << 27;
    const MODULES: usize = 16;
    const DYNAMIC_ENTRIES: u64 = 4096;
    /// A sparse file has room for any number; large position-independent programs have a million.
    const RELOCATIONS: u64 = 1 << 22;
    /// How much of a function's code is looked at.
    const CODE_BYTES: u64 = 256;
}

/// What was met on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoReport {
    /// Functions that had rows.
    pub functions: u32,
    /// Functions left out because their entry in the table is malformed.
    pub malformed: u32,
    /// All the rows.
    pub rows: u64,
}

/// Gives each function of a Go program to `each`, sorted by code.
pub fn go_functions<F: ReadAt + ?Sized>(
    file: &F,
    arch: Arch,
    layout: &Layout,
    each: &mut dyn FnMut(GoFunction<'_>),
) -> Result<GoReport, GoRefusal> {
    let mut pages = Pages::new(file);
    let located = locate(&mut pages, layout)?;
    let report = GoReport::default();
    let (spans, rows) = (Vec::new(), Vec::new());
    Reader { pages, located, arch, layout, report, spans_read: 0, spans, rows }.run(each)
}

struct Reader<'a, F: ?Sized> {
    pages: Pages<'a, F>,
    located: Located,
    arch: Arch,
    layout: &'a Layout,
    report: GoReport,
    /// What was read of all functions so far, whether it became rows or not: many may share one endless list.
    spans_read: u64,
    /// Of the function at hand: where which delta holds, and the rows made of that.
    spans: Vec<(u64, i32)>,
    rows: Vec<(u64, Rule)>,
}

impl<F: ReadAt + ?Sized> Reader<'_, F> {
    fn run(mut self, each: &mut dyn FnMut(GoFunction<'_>)) -> Result<GoReport, GoRefusal> {
        let functions = self.located.header.functions;
        let mut next = self.function(0)?;
        for index in 0..functions {
            let (function, role) = next;
            let start = self.svma(function.entry);
            let end = if index + 1 < functions {
                next = self.function(index + 1)?;
                self.svma(next.0.entry).saturating_sub(next.1.bytes_before())
            } else {
                let end = self.located.header.entry(&mut self.pages, functions)?;
                self.svma(end)
            };
            let made = self.make_rows(&function, role, start..end);
            self.spans_read += self.spans.len() as u64;
            if self.spans_read > Limits::ROWS {
                return Err(GoRefusal::TooManyRows);
            }
            match made {
                Ok(()) => {}
                Err(GoRefusal::Malformed) => {
                    self.report.malformed += 1;
                    continue;
                }
                Err(refusal) => return Err(refusal),
            }
            if self.rows.is_empty() {
                continue;
            }
            self.report.functions += 1;
            self.report.rows += self.rows.len() as u64;
            each(GoFunction { code: start.saturating_sub(role.bytes_before())..end, rows: &self.rows });
        }
        Ok(self.report)
    }

    fn svma(&self, entry: u64) -> u64 {
        self.located.text_start.saturating_add(entry)
    }

    fn function(&mut self, index: u64) -> Result<(Function, Role), GoRefusal> {
        let function = self.located.header.function(&mut self.pages, index)?;
        let mut name = [0; Role::NAME_BYTES];
        let filled = self.pages.prefix(function.name, &mut name)?;
        let name = name[..filled].split(|byte| *byte == 0).next().unwrap_or_default();
        Ok((function, Role::of(name, function.flags)))
    }

    /// Makes `rows` those of the function; none where Go knows nothing of it.
    fn make_rows(&mut self, function: &Function, role: Role, code: Range<u64>) -> Result<(), GoRefusal> {
        let Self { pages, located, spans, rows, .. } = self;
        rows.clear();
        spans.clear();
        let bytes = code.end.checked_sub(code.start).filter(|bytes| *bytes > 0 && *bytes <= u32::MAX.into());
        let bytes = bytes.ok_or(GoRefusal::Malformed)?;
        let offset = offset_of(self.layout, code.start).ok_or(GoRefusal::Malformed)?;
        located.header.spans(pages, function, bytes, spans)?;
        if spans.is_empty() {
            return Ok(());
        }
        let mut instructions = [0; Limits::CODE_BYTES as usize];
        let looked_at = pages.prefix(offset, &mut instructions[..bytes.min(Limits::CODE_BYTES) as usize])?;
        let body = Body { start: code.start, spans, code: &instructions[..looked_at] };
        match self.arch {
            Arch::X86_64 => frame_x86_64::rows(role, &body, rows),
            Arch::Aarch64 => frame_aarch64::rows(role, &body, rows),
        }
        rows.dedup_by(|next, kept| next.1 == kept.1);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
