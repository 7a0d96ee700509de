//! Where functions begin that have no call frame information: at symbols, at the file's entry point, at `main`, and where
//! the information has holes.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind, Register};

use super::function::Entry;
use crate::draft::Draft;
use crate::elf::Elf;
use crate::read::{ReadAt, Unreadable};

/// Files with more are programs with symbols that were built without information; the rest of them stays without.
const MAX_ENTRIES: usize = 1 << 16;
/// The instructions at an entry point, up to the call of what never returns.
const ENTRY_POINT_BYTES: u64 = 64;

/// What is known before any function is looked at.
pub(super) struct Entries {
    /// Sorted, no two of one svma.
    pub(super) functions: Vec<Entry>,
    /// The code at the entry point, if it has no information.
    pub(super) entry_point: Option<Range<u64>>,
}

pub(super) fn find<F: ReadAt + ?Sized>(elf: &Elf<'_, F>, draft: &mut Draft) -> Result<Entries, Unreadable> {
    let mut functions = by_symbol(elf, draft)?;
    let start = elf.entry.map(|entry| read_start(elf, entry)).transpose()?.unwrap_or_default();
    let is_bare = |draft: &mut Draft, svma| draft.gap_at(svma).is_some();
    let main = start.main.map(|svma| Entry { svma, end: None, is_hole: false });
    functions.extend(main.filter(|main| is_bare(draft, main.svma)));
    let holes = draft.holes().into_iter();
    functions.extend(holes.map(|hole| Entry { svma: hole.start, end: Some(hole.end), is_hole: true }));
    let entry_point = Some(start.code).filter(|code| !code.is_empty() && is_bare(draft, code.start));
    if let Some(entry_point) = &entry_point {
        functions.retain(|entry| !entry_point.contains(&entry.svma));
    }
    // Of two entries at one place the one that knows its end is kept.
    functions.sort_by_key(|entry| (entry.svma, entry.end.is_none()));
    functions.dedup_by_key(|entry| entry.svma);
    functions.truncate(MAX_ENTRIES);
    Ok(Entries { functions, entry_point })
}

fn by_symbol<F: ReadAt + ?Sized>(elf: &Elf<'_, F>, draft: &mut Draft) -> Result<Vec<Entry>, Unreadable> {
    let mut entries = Vec::new();
    let mut symbols = elf.function_symbols()?;
    // Of several names of one function one that says its size is kept.
    symbols.sort_unstable_by_key(|symbol| (symbol.svma, symbol.bytes == 0));
    symbols.dedup_by_key(|symbol| symbol.svma);
    let bare = symbols.iter().enumerate().filter_map(|(index, symbol)| {
        let gap = draft.gap_at(symbol.svma)?;
        Some((index, symbol, gap))
    });
    for (index, symbol, gap) in bare.take(MAX_ENTRIES) {
        // Parts of functions that were put elsewhere begin with whatever frame the jump to them had.
        if elf.symbol_name(*symbol)?.windows(COLD.len()).any(|part| part == COLD) {
            continue;
        }
        let next = symbols.get(index + 1).map(|next| next.svma);
        let end = match symbol.bytes {
            // Functions written in assembly may come without a size.
            0 => next.map_or(gap.end, |next| next.min(gap.end)),
            bytes => symbol.svma.saturating_add(bytes).min(gap.end),
        };
        entries.push(Entry { svma: symbol.svma, end: Some(end), is_hole: false });
    }
    Ok(entries)
}

const COLD: &[u8] = b".cold";

/// What the code at the file's entry point says.
#[derive(Default)]
struct StartCode {
    /// Its instructions, up to the call.
    code: Range<u64>,
    /// What it hands to the C library as the first argument: in C programs `main`.
    main: Option<u64>,
}

fn read_start<F: ReadAt + ?Sized>(elf: &Elf<'_, F>, entry: u64) -> Result<StartCode, Unreadable> {
    let bytes = elf.loaded(entry, ENTRY_POINT_BYTES)?;
    let mut start = StartCode { code: entry..entry, main: None };
    for instruction in &mut Decoder::with_ip(64, &bytes, entry, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            break;
        }
        start.code.end = instruction.next_ip();
        match (instruction.mnemonic(), instruction.op0_register().full_register()) {
            (Mnemonic::Lea, Register::RDI) if instruction.is_ip_rel_memory_operand() => {
                start.main = Some(instruction.ip_rel_memory_address());
            }
            (Mnemonic::Mov, Register::RDI) if instruction.op1_kind() != OpKind::Register => {
                let is_immediate = instruction.op1_kind() != OpKind::Memory;
                start.main = is_immediate.then(|| instruction.immediate(1));
            }
            _ => {}
        }
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
    }
    Ok(start)
}
