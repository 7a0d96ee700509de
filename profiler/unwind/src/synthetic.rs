//! Code that comes without call frame information and is known by its bytes: the procedure linkage tables of linkers that
//! describe none (LLD, which links every Rust program, and mold), and the signal trampolines of musl and Go.

use crate::draft::Draft;
use crate::elf::{Elf, SectionHead};
use crate::read::{ReadAt, Unreadable};
use crate::rule::{Cfa, Rule, Saved};
use crate::table::Arch;

/// Larger linkage tables are not looked at; a hundred thousand functions fit.
const MAX_PLT_BYTES: u64 = 2 << 20;
/// Header and first entry, by which the kind of a table is known.
const LOOKED_AT_BYTES: u64 = 64;
/// How much code is searched for a trampoline, in all.
const MAX_SEARCHED_BYTES: u64 = 32 << 20;

/// jmp *GOT(%rip), with a prefix where bounds are checked
const JMP_GOT: [&[u8]; 2] = [&[0xff, 0x25], &[0xf2, 0xff, 0x25]];
/// push GOT+8 (%rip)
const PUSH_GOT: &[u8] = &[0xff, 0x35];
const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
/// push $imm32
const PUSH_INDEX: u8 = 0x68;
/// push %r11; push GOT+8 (%rip)
const PUSH_R11_PUSH_GOT: &[u8] = &[0x41, 0x53, 0xff, 0x35];
/// bti c
const BTI: [u8; 4] = [0x5f, 0x24, 0x03, 0xd5];
/// stp x16, x30, [sp, #-16]!
const STP_X16_X30: [u8; 4] = [0xf0, 0x7b, 0xbf, 0xa9];

/// Adds linkage tables that no call frame information covers.
pub(crate) fn add_linkage_tables<F: ReadAt + ?Sized>(
    elf: &Elf<'_, F>,
    draft: &mut Draft,
) -> Result<(), Unreadable> {
    for head in elf.section_heads() {
        let is_table = matches!(&*head.name, b".plt" | b".iplt" | b".plt.got" | b".plt.sec");
        if !is_table || head.bytes > MAX_PLT_BYTES {
            continue;
        }
        let bytes = elf.loaded(head.svma, head.bytes.min(LOOKED_AT_BYTES))?;
        let rows = match elf.arch {
            Arch::X86_64 => x86_64_rows(&bytes),
            Arch::Aarch64 => aarch64_rows(&bytes),
        };
        add(draft, head, &rows)?;
    }
    draft.end_source();
    Ok(())
}

fn add(draft: &mut Draft, head: &SectionHead, rows: &[(u64, Rule)]) -> Result<(), Unreadable> {
    let end = head.svma.saturating_add(head.bytes);
    if !rows.is_empty() && draft.begin(head.svma, end) {
        for (offset, rule) in rows.iter().filter(|(offset, _)| *offset < head.bytes) {
            draft.row(head.svma + offset, *rule)?;
        }
    }
    Ok(())
}

/// Of a lazy table: the header, reached with the entry's index pushed, then the entries. None of a table of an unknown
/// kind: those that keep the processor from guessing where they jump put more on the stack.
fn x86_64_rows(bytes: &[u8]) -> Vec<(u64, Rule)> {
    let cfa = |cfa| Rule::new(cfa, Saved::Same, Saved::AtCfa(-8));
    let jumps = cfa(Cfa::Sp(8));
    let body = bytes.strip_prefix(ENDBR64).unwrap_or(bytes);
    let prefix = (bytes.len() - body.len()) as u64;
    if body.starts_with(PUSH_GOT) {
        let pushed_from = pushed_from(bytes.get(16..32).unwrap_or_default());
        let entries = pushed_from.map_or(Rule::NONE, |pushed_from| cfa(Cfa::Plt { pushed_from }));
        return vec![(0, cfa(Cfa::Sp(16))), (prefix + 6, cfa(Cfa::Sp(24))), (16, entries)];
    }
    if body.starts_with(PUSH_R11_PUSH_GOT) {
        // mold: the index is in r11, which only the header pushes.
        return vec![(0, jumps), (prefix + 2, cfa(Cfa::Sp(16))), (prefix + 8, cfa(Cfa::Sp(24))), (32, jumps)];
    }
    let is_known = JMP_GOT.iter().any(|jump| body.starts_with(jump));
    if is_known { vec![(0, jumps)] } else { Vec::new() }
}

/// From which byte on an entry has pushed its index.
fn pushed_from(entry: &[u8]) -> Option<u8> {
    const PUSH_BYTES: usize = 5;
    // jmp *GOT(%rip); push; jmp header, or endbr64; push; jmp header, or push; jmp header.
    let push_at = [6, 4, 0].into_iter().find(|at| {
        let before = &entry[..*at.min(&entry.len())];
        let known = match at {
            6 => before.starts_with(&[0xff, 0x25]),
            4 => before == ENDBR64,
            _ => true,
        };
        known && entry.get(*at) == Some(&PUSH_INDEX)
    })?;
    Some((push_at + PUSH_BYTES) as u8)
}

/// Entries leave SP and the link register alone; the header saves two registers.
fn aarch64_rows(bytes: &[u8]) -> Vec<(u64, Rule)> {
    let untouched = Rule::new(Cfa::Sp(0), Saved::Same, Saved::Same);
    let body = bytes.strip_prefix(&BTI).unwrap_or(bytes);
    let saved_from = (bytes.len() - body.len()) as u64 + 4;
    if !body.starts_with(&STP_X16_X30) {
        return vec![(0, untouched)];
    }
    let saved = Rule::new(Cfa::Sp(16), Saved::Same, Saved::AtCfa(-8));
    vec![(0, untouched), (saved_from, saved), (32, untouched)]
}

/// Adds the signal trampoline of a file that has one without saying so. Only a libc brings one along, so only files that
/// need no libc are searched.
pub(crate) fn add_signal_trampoline<F: ReadAt + ?Sized>(
    elf: &Elf<'_, F>,
    draft: &mut Draft,
) -> Result<(), Unreadable> {
    let (code, step): (&[u8], usize) = match elf.arch {
        // mov $15, %rax; syscall
        Arch::X86_64 => (&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05], 1),
        // mov x8, #139; svc #0
        Arch::Aarch64 => (&[0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4], 4),
    };
    if elf.needs_libraries || draft.has_signal_frame() {
        return Ok(());
    }
    let mut trampolines = Vec::new();
    let mut left = MAX_SEARCHED_BYTES;
    for head in elf.section_heads().iter().filter(|head| head.name == b".text") {
        let Some(rest) = left.checked_sub(head.bytes) else { continue };
        left = rest;
        let text = elf.loaded(head.svma, head.bytes)?;
        for at in (0..text.len()).step_by(step).filter(|at| text[*at..].starts_with(code)) {
            let start = head.svma + at as u64;
            // The address that a handler returns to is looked up as return addresses are, one byte before; libcs put a
            // byte there that nothing runs.
            let from = if at > 0 && draft.gap_at(start - 1).is_some() { start - 1 } else { start };
            trampolines.push(from..start + code.len() as u64);
        }
    }
    for code in trampolines {
        if draft.begin(code.start, code.end) {
            draft.row(code.start, Rule::SIGNAL)?;
        }
    }
    draft.end_source();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sp(offset: i32) -> Rule {
        Rule::new(Cfa::Sp(offset), Saved::Same, Saved::AtCfa(-8))
    }

    fn plt(pushed_from: u8) -> Rule {
        Rule { cfa: Cfa::Plt { pushed_from }, ..sp(0) }
    }

    /// A header, and one entry behind it.
    fn table(header: &[u8], entry: &[u8]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        bytes.resize(16, 0x90);
        bytes.extend_from_slice(entry);
        bytes
    }

    #[test]
    fn tables_that_push_before_they_jump() {
        let header = [0xff, 0x35, 1, 2, 3, 4, 0xff, 0x25, 1, 2, 3, 4];
        let lld = table(&header, &[0xff, 0x25, 1, 2, 3, 4, 0x68, 0, 0, 0, 0, 0xe9, 1, 2, 3, 4]);
        assert_eq!(x86_64_rows(&lld), [(0, sp(16)), (6, sp(24)), (16, plt(11))]);
        let ibt = table(&header, &[0xf3, 0x0f, 0x1e, 0xfa, 0x68, 0, 0, 0, 0, 0xe9, 1, 2, 3, 4, 0x66, 0x90]);
        assert_eq!(x86_64_rows(&ibt), [(0, sp(16)), (6, sp(24)), (16, plt(9))]);
    }

    #[test]
    fn tables_that_only_jump() {
        assert_eq!(x86_64_rows(&[0xff, 0x25, 1, 2, 3, 4, 0x66, 0x90]), [(0, sp(8))]);
        assert_eq!(x86_64_rows(&[0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 1, 2, 3, 4]), [(0, sp(8))]);
        let mold = [0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x53, 0xff, 0x35, 1, 2, 3, 4, 0xff, 0x25, 1, 2];
        assert_eq!(x86_64_rows(&mold), [(0, sp(8)), (6, sp(16)), (12, sp(24)), (32, sp(8))]);
    }

    #[test]
    fn tables_of_an_unknown_kind_are_left_alone() {
        // What `-z retpolineplt` makes calls within its entries: mov GOT(%rip), %r11; call; or, where it is lazy, a header
        // like that of others and: mov %r11, (%rsp); ret.
        assert_eq!(x86_64_rows(&[0x4c, 0x8b, 0x1d, 1, 2, 3, 4, 0xe8, 0x14, 0, 0, 0]), []);
        let header = [0xff, 0x35, 1, 2, 3, 4, 0x4c, 0x8b, 0x1d, 1, 2, 3, 4, 0xe8, 0x0e, 0];
        let entry =
            [0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];
        assert_eq!(x86_64_rows(&table(&header, &entry))[2], (16, Rule::NONE));
        assert_eq!(x86_64_rows(&[]), []);
    }

    #[test]
    fn a_header_without_entries_is_no_trouble() {
        assert_eq!(x86_64_rows(PUSH_GOT), [(0, sp(16)), (6, sp(24)), (16, Rule::NONE)]);
        assert_eq!(pushed_from(&[]), None);
        assert_eq!(pushed_from(&[0xff, 0x25, 0, 0, 0, 0]), None);
    }

    #[test]
    fn aarch64_saves_in_the_header_alone() {
        let untouched = Rule::new(Cfa::Sp(0), Saved::Same, Saved::Same);
        let saved = Rule::new(Cfa::Sp(16), Saved::Same, Saved::AtCfa(-8));
        assert_eq!(aarch64_rows(&STP_X16_X30), [(0, untouched), (4, saved), (32, untouched)]);
        let with_bti = [BTI, STP_X16_X30].concat();
        assert_eq!(aarch64_rows(&with_bti), [(0, untouched), (8, saved), (32, untouched)]);
        assert_eq!(aarch64_rows(&[]), [(0, untouched)]);
    }
}
