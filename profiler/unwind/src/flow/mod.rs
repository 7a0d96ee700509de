//! Rows of code that comes without call frame information, from its instructions: the C library of musl's static programs,
//! the `main` that rustc makes, programs built without tables, functions written in assembly.
//!
//! A function begins with the return address at SP and the caller's FP in FP. From there every way through it is followed
//! ([`function`]), and what each instruction adds to SP and does to FP is noted ([`frame`]). The result is taken only where
//! all of it fits together: where ways meet they must agree, and wherever the function returns or hands over to another, SP
//! must be back at the return address and the caller's FP in FP. A function that does not pass has no rows; nothing is
//! guessed.
//!
//! For `x86_64` alone: compilers for aarch64 keep frame pointers where they make no tables.

mod entries;
mod frame;
mod function;

use hashbrown::HashSet;

use self::entries::Entries;
use self::function::{Entry, Explorer, Gap, Piece};
use crate::draft::Draft;
use crate::elf::Elf;
use crate::read::{ReadAt, Unreadable};
use crate::rule::Rule;
use crate::table::Arch;

/// How many instructions of a file are looked at: some two megabytes of code. V8's own functions have half as many.
const MAX_INSTRUCTIONS: usize = 1 << 19;
/// Larger pieces of code without information are left alone.
const MAX_GAP_BYTES: u64 = 16 << 20;
/// How much code is read; a piece is read again where functions of another call into it.
const MAX_READ_BYTES: u64 = 64 << 20;

/// Adds the functions that no source before has described.
pub(crate) fn add_functions<F: ReadAt + ?Sized>(
    elf: &Elf<'_, F>,
    draft: &mut Draft,
) -> Result<(), Unreadable> {
    if elf.arch != Arch::X86_64 {
        return Ok(());
    }
    let found = match entries::find(elf, draft) {
        Err(Unreadable::Io { source }) => return Err(Unreadable::Io { source }),
        // Without symbols there are no functions to be found; what is there already stays.
        Err(_) => {
            draft.report.malformed += 1;
            return Ok(());
        }
        Ok(found) => found,
    };
    let pieces = explore(elf, draft, found)?;
    add_pieces(pieces, draft)?;
    draft.end_source();
    Ok(())
}

fn explore<F: ReadAt + ?Sized>(
    elf: &Elf<'_, F>,
    draft: &mut Draft,
    found: Entries,
) -> Result<Vec<Piece>, Unreadable> {
    let mut pieces: Vec<Piece> =
        found.entry_point.into_iter().map(|code| Piece { code, rule: Rule::END }).collect();
    let mut known: HashSet<u64> = found.functions.iter().map(|entry| entry.svma).collect();
    let mut explorer = Explorer::new(MAX_INSTRUCTIONS);
    let mut gap: Option<Gap> = None;
    let mut readable = MAX_READ_BYTES;
    let mut entries = found.functions;
    while !entries.is_empty() {
        for entry in entries.drain(..) {
            if gap.as_ref().is_none_or(|gap| !gap.holds(entry.svma)) {
                gap = read_gap(elf, draft, entry.svma, &mut readable)?;
            }
            if let Some(gap) = &gap {
                explorer.explore(gap, entry, &mut pieces);
            }
        }
        // What they call is a function too.
        let new = explorer.callees.drain(..).filter(|callee| known.insert(*callee));
        entries.extend(new.map(|svma| Entry { svma, end: None, is_hole: false }));
        entries.sort_unstable_by_key(|entry| entry.svma);
    }
    Ok(pieces)
}

fn read_gap<F: ReadAt + ?Sized>(
    elf: &Elf<'_, F>,
    draft: &mut Draft,
    svma: u64,
    readable: &mut u64,
) -> Result<Option<Gap>, Unreadable> {
    let Some(code) = draft.gap_at(svma).filter(|gap| gap.end - gap.start <= MAX_GAP_BYTES) else {
        return Ok(None);
    };
    let Some(rest) = readable.checked_sub(code.end - code.start) else { return Ok(None) };
    *readable = rest;
    Ok(Some(Gap { start: code.start, bytes: elf.loaded(code.start, code.end - code.start)? }))
}

/// Adds pieces that lie side by side as one function. Pieces of two functions may overlap, where they share their end; where
/// they then disagree, neither is believed.
fn add_pieces(mut pieces: Vec<Piece>, draft: &mut Draft) -> Result<(), Unreadable> {
    pieces.retain(|piece| !piece.code.is_empty());
    pieces.sort_by_key(|piece| piece.code.start);
    let mut disjoint: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        add_disjoint(&mut disjoint, piece);
    }
    for run in disjoint.chunk_by(|left, right| left.code.end == right.code.start) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        // What lies behind was not come to, so that no row may go on there, however few bytes they are.
        let is_bare_behind = draft.gap_at(last.code.end).is_some();
        if draft.begin(first.code.start, last.code.end + u64::from(is_bare_behind)) {
            for piece in run {
                draft.row(piece.code.start, piece.rule)?;
            }
            if is_bare_behind {
                draft.row(last.code.end, Rule::NONE)?;
            }
        }
    }
    Ok(())
}

/// Appends a piece that begins no earlier than the last.
fn add_disjoint(disjoint: &mut Vec<Piece>, piece: Piece) {
    match disjoint.last_mut() {
        Some(last) if last.code.end > piece.code.start => {
            last.code.end = last.code.end.max(piece.code.end);
            if last.rule != piece.rule {
                last.rule = Rule::NONE;
            }
        }
        _ => disjoint.push(piece),
    }
}

#[cfg(test)]
mod tests;
