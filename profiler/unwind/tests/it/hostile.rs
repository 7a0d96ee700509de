//! Files that were damaged on purpose: an error or a sound table, never a panic.

use std::cell::Cell;
use std::io;

use proptest::prelude::*;
use pyrite_unwind::{Arch, ReadAt, Rule, RuleBook, Unreadable, build, decode, encode, extract};

use crate::assembler::cfi::{DEF_CFA_OFFSET, X86_64};
use crate::assembler::{Cfi, Elf, Section, rows, sp, x86_64};

/// A file with something of everything.
fn victim() -> Vec<u8> {
    let cie = |cfi: Cfi| cfi.cie(Arch::X86_64, "", &[0x0c, 7, 8, 0x90, 1]);
    let eh_frame = cie(Cfi::eh_frame())
        .fde(0x1000, 64, &[0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x0a, 0x48, 0x0b])
        .fde(0x1100, 64, &[0x0f, 5, 0x77, 0x38, 0x06, 0x23, 0x08, 0x10, 6, 2, 0x76, 0])
        .fde(0x1080, 200, &[0x04, 0, 0, 1, 0, 0x0e, 32]);
    let mut elf = Elf::new(Arch::X86_64, eh_frame.done());
    let debug_frame = cie(Cfi::debug_frame()).fde(0x2000, 64, &[0x0e, 48]).done();
    elf.sections.push(Section { flags: 0, ..Section::new(".debug_frame", debug_frame) });
    let plt = vec![0xff, 0x35, 0, 0, 0, 0, 0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.sections.push(Section { flags: 6, at: Some(0x3000), ..Section::new(".plt", plt) });
    elf.sections.push(Section { flags: 6, at: Some(0x4000), ..Section::new(".text", vec![0x90; 64]) });
    elf.bytes()
}

/// Most bytes of the file are empty code; damage goes to the headers and what follows the code.
fn place(at: prop::sample::Index, file: &[u8]) -> usize {
    let (headers, rest) = (256, file.len() - 0x8000);
    let at = at.index(headers + rest);
    if at < headers { at } else { 0x8000 + at - headers }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn damage_is_an_error_or_a_sound_table(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        no_headers in any::<bool>(),
    ) {
        let mut file = victim();
        for (at, value) in damage {
            let at = place(at, &file);
            file[at] = value;
        }
        if let Some(cut) = cut {
            let length = place(cut, &file);
            file.truncate(length);
        }
        if no_headers && file.len() > 64 {
            file[40..48].fill(0);
        }
        if let Ok(table) = extract(file.as_slice(), Arch::X86_64) {
            prop_assert!(table.rows.is_sorted_by(|one, next| one.pc < next.pc && one.rule != next.rule));
            prop_assert!(table.rows.iter().all(|row| (row.rule as usize) < table.rules.len()));
            prop_assert_eq!(decode(&encode(&table, "id"), "id", Arch::X86_64), Ok(table.clone()));
            let chunks = build(&table, &mut RuleBook::new()).map(|image| image.chunk_count());
            prop_assert!(chunks.is_ok_and(|chunks| chunks > 0));
        }
    }
}

#[test]
fn the_victim_is_healthy() {
    let table = extract(victim().as_slice(), Arch::X86_64).expect("a table");
    assert_eq!((table.report.functions, table.report.malformed), (5, 0));
}

/// Every row has a rule of its own, and no table can tell so many apart.
#[test]
fn rules_beyond_what_any_table_can_hold_are_refused() {
    let table_of = |rows: u32| {
        // advance by one; the CFA offset in three bytes
        let instructions: Vec<u8> = (1..rows)
            .flat_map(|row| [0x41, 0x0e, row as u8 | 0x80, (row >> 7) as u8 | 0x80, (row >> 14) as u8])
            .collect();
        let cfi = Cfi::eh_frame().cie(Arch::X86_64, "", &[0x0c, 7, 8, 0x90, 1]);
        extract(
            Elf::new(Arch::X86_64, cfi.fde(0, rows, &instructions).done()).bytes().as_slice(),
            Arch::X86_64,
        )
    };
    assert!(table_of(1 << 15).is_ok_and(|table| table.rules.len() > 1 << 14));
    assert!(matches!(table_of(1 << 17), Err(Unreadable::TooManyRows)));
}

/// A file that counts what is read of it.
struct Counted {
    bytes: Vec<u8>,
    read: Cell<usize>,
}

impl ReadAt for Counted {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.as_slice().read_at(offset, buffer)?;
        self.read.set(self.read.get() + count);
        Ok(count)
    }

    fn byte_count(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Sections may lie over each other, so a small file can hold any amount of them.
#[test]
fn sections_that_are_searched_are_so_within_a_bound_for_all_of_them() {
    const SECTIONS: usize = 600;
    const BYTES: usize = 1 << 16;
    let eh_frame = Cfi::eh_frame().cie(Arch::X86_64, "", &[0x0c, 7, 8, 0x90, 1]).fde(0x1000, 64, &[]);
    let mut elf = Elf::new(Arch::X86_64, eh_frame.done());
    for name in [".text", ".plt"] {
        let code = || Section { flags: 6, at: Some(0x1_0000), ..Section::new(name, vec![0x90; BYTES]) };
        elf.sections.extend((0..SECTIONS).map(|_| code()));
    }
    let file = Counted { bytes: elf.bytes(), read: Cell::new(0) };
    extract(&file, Arch::X86_64).expect("a table");
    assert!(file.read.get() < 36 << 20, "{} bytes of a file of {}", file.read.get(), file.bytes.len());
}

#[test]
fn a_broken_entry_costs_no_more_than_it_must() {
    let broken_cie = [12, 0, 0, 0, 0, 0, 0, 0, 9, b'?', 0, 1, 1, 1, 1, 1];
    let elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[]).raw(&[0xf0, 0xff, 0xff, 0x7f]));
    assert_eq!((elf.table().rows.len(), elf.table().report.malformed), (2, 1), "a length beyond the section");
    let elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[]).raw(&broken_cie));
    assert_eq!((elf.table().rows.len(), elf.table().report.malformed), (2, 1), "an unknown version");
    let elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[0x3f]).fde(0x1010, 16, &[]));
    let expect = [(0x1000, Rule::UNSUPPORTED), (0x1010, sp(8)), (0x1020, Rule::NONE)];
    assert_eq!(rows(&elf.table()), expect, "an unknown instruction");
}

#[test]
fn work_does_not_multiply() {
    // A long program of a CIE that many functions share must not run for each of them: here a minute's work in all.
    let mut many = X86_64.to_vec();
    many.extend([DEF_CFA_OFFSET, 8].repeat(1 << 20));
    let mut cfi = Cfi::eh_frame().cie(Arch::X86_64, "", &many);
    for n in 0..1000 {
        cfi = cfi.fde(0x1000 + n * 16, 16, &[]);
    }
    let begun = std::time::Instant::now();
    let table = Elf::new(Arch::X86_64, cfi.done()).table();
    assert_eq!((table.report.functions, table.rows.len()), (1000, 2));
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn common_entries_laid_over_each_other_are_refused() {
    // Each of these is as long as all that follow together, and would run them as its program.
    let count = 200_usize;
    let mut bytes = Vec::new();
    for n in 0..count {
        let rest = (count - n) * 24 - 4;
        bytes.extend_from_slice(&(rest as u32).to_le_bytes());
        bytes.extend_from_slice(b"\0\0\0\0\x01zR\0\x01\x78\x10\x01\x1b");
        bytes.resize((n + 1) * 24, 0);
    }
    let section_bytes = bytes.len();
    for n in 0..count {
        // An FDE for each: length, back to its CIE, start and length of its code.
        let here = section_bytes + n * 20 + 4;
        bytes.extend_from_slice(&16_u32.to_le_bytes());
        bytes.extend_from_slice(&((here - n * 24) as u32).to_le_bytes());
        let start = 0x1000 + n as i64 * 16 - (0x8000 + here as i64 + 4);
        bytes.extend_from_slice(&(start as i32).to_le_bytes());
        bytes.extend_from_slice(&16_u32.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes.extend_from_slice(&[0; 4]);
    let report = Elf::new(Arch::X86_64, bytes).table().report;
    assert!(report.functions < 10 && report.malformed > 190, "{report:?}");
}
