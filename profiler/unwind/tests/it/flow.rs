//! Functions whose call frame information was taken away: what their instructions say must be what the information said.

use std::fs;
use std::path::Path;

use object::elf::{FileHeader64, PT_GNU_EH_FRAME, SHT_NOBITS};
use object::read::elf::{FileHeader, ProgramHeader};
use pyrite_unwind::{Arch, Cfa, Layout, RawTable, Rule, Saved, Tables, extract, lookup};

use crate::files::{OneTable, installed, of_this_process};

const SECTION_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// How long the code at an entry point may be.
const START_BYTES: u64 = 64;

/// The file as if it had been made without tables.
fn without_information(bytes: &[u8]) -> Vec<u8> {
    let mut bare = bytes.to_vec();
    let endian = object::LittleEndian;
    let header = FileHeader64::<object::LittleEndian>::parse(bytes).expect("an ELF file");
    let sections = header.sections(endian, bytes).expect("section headers");
    let section_table = header.e_shoff(endian) as usize;
    for (index, section) in sections.iter().enumerate() {
        let name = sections.section_name(endian, section).expect("a name");
        if name == b".eh_frame" || name == b".debug_frame" {
            let kind = section_table + index * SECTION_HEADER_BYTES + 4;
            bare[kind..kind + 4].copy_from_slice(&SHT_NOBITS.0.to_le_bytes());
        }
    }
    let program_table = header.e_phoff(endian) as usize;
    for (index, program) in header.program_headers(endian, bytes).expect("programs").iter().enumerate() {
        if program.p_type(endian) == PT_GNU_EH_FRAME {
            let kind = program_table + index * PROGRAM_HEADER_BYTES;
            bare[kind..kind + 4].fill(0);
        }
    }
    bare
}

#[derive(Debug, Default)]
struct Tally {
    agreed: u64,
    /// The instructions say nothing.
    silent: u64,
    /// One goes by FP and the other by SP, so they cannot be compared.
    by_other_register: u64,
    wrong: Vec<String>,
}

impl Tally {
    fn note(&mut self, pc: u32, truth: Rule, found: Rule, is_start: bool) {
        match (truth.cfa, found.cfa) {
            (_, Cfa::None) => self.silent += 1,
            // The information may say how the entry point would return if it ever did.
            (_, Cfa::End) if is_start => self.agreed += 1,
            _ if agree(truth, found) => self.agreed += 1,
            (Cfa::Sp(_), Cfa::Fp(_)) | (Cfa::Fp(_), Cfa::Sp(_)) => self.by_other_register += 1,
            _ => self.wrong.push(format!("{pc:#x}: {truth:?}, but {found:?}")),
        }
    }
}

/// The information calls FP unchanged up to its first change, and so does the slot it was put into.
fn agree(truth: Rule, found: Rule) -> bool {
    let either = [truth.fp, found.fp].contains(&Saved::Same);
    (truth.cfa, truth.ra) == (found.cfa, found.ra)
        && (truth.fp == found.fp || either || found.fp == Saved::Unknown)
}

fn compare(path: &Path) -> Tally {
    let bytes = fs::read(path).expect("the file can be read");
    let mut tally = Tally::default();
    let Ok(full) = extract(bytes.as_slice(), Arch::X86_64) else { return tally };
    let Ok(bare) = extract(without_information(&bytes).as_slice(), Arch::X86_64) else { return tally };
    let rule_at = |table: &OneTable, pc: u32| {
        let found = lookup(table, 1, pc.into()).expect("a table that is ready");
        table.rule(found.rule.0).expect("a rule").at(found.behind)
    };
    let (full_table, bare_table) = (OneTable::new(&full), OneTable::new(&bare));
    let header = FileHeader64::<object::LittleEndian>::parse(&*bytes).expect("an ELF file");
    let start = header.e_entry(object::LittleEndian);
    for pc in positions(&full) {
        let truth = rule_at(&full_table, pc);
        if truth.cfa != Cfa::None && !is_trap(&bytes, &full.layout, pc) {
            let is_start = (start..start + START_BYTES).contains(&(full.layout.lowest_svma + u64::from(pc)));
            tally.note(pc, truth, rule_at(&bare_table, pc), is_start);
        }
    }
    tally
}

/// Whether a `ud2` lies here or just before. Compilers put it where nothing comes to, and say nothing of it.
fn is_trap(bytes: &[u8], layout: &Layout, pc: u32) -> bool {
    const UD2: &[u8] = &[0x0f, 0x0b];
    let svma = layout.lowest_svma + u64::from(pc);
    let segment = layout.segments.iter().find(|segment| {
        segment.executable && (segment.svma..segment.svma + segment.file_bytes).contains(&svma)
    });
    let at = segment.map(|segment| (svma - segment.svma + segment.offset.0) as usize);
    at.is_some_and(|at| bytes[at..].starts_with(UD2) || bytes[at - 1..].starts_with(UD2))
}

/// Where rows begin, and the bytes behind, in which runs of pushes go on.
fn positions(table: &RawTable) -> impl Iterator<Item = u32> {
    table.rows.iter().flat_map(|row| [0, 1, 3, 6, 11].map(|behind| row.pc + behind))
}

fn check(path: &Path) -> u64 {
    let Tally { agreed, silent, by_other_register, wrong } = compare(path);
    println!(
        "{}: {agreed} agree, {silent} silent, {by_other_register} by another register, {} wrong",
        path.display(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}: {:#?}", path.display(), &wrong[..wrong.len().min(20)]);
    agreed
}

#[test]
fn instructions_say_what_call_frame_information_says() {
    let agreed: u64 = of_this_process().iter().map(|path| check(path)).sum();
    assert!(agreed > 1000, "{agreed}");
}

#[test]
#[ignore = "takes a while; `make bench-unwind` runs it"]
fn instructions_say_what_call_frame_information_says_in_large_libraries() {
    let paths = installed(&[
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
        "/usr/lib/x86_64-linux-gnu/libsqlite3.so.0",
        "/usr/bin/python3*",
    ]);
    let agreed: u64 = paths.iter().map(|path| check(path)).sum();
    assert!(paths.is_empty() || agreed > 10_000, "{agreed}");
}
