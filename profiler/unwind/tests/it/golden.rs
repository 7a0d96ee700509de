//! Call frame information written by hand, and the rows it must become.

use std::io::Write;

use pyrite_unwind::{Arch, Cfa, Rule, Saved, Unreadable, Unsupported, extract};

use crate::assembler::{Cfi, Elf, LOWEST_SVMA, Section, rows};

// DW_CFA instructions.
const fn advance(code_units: u8) -> u8 {
    0x40 | code_units
}
const fn offset(register: u8) -> u8 {
    0x80 | register
}
const fn restore(register: u8) -> u8 {
    0xc0 | register
}
const DEF_CFA: u8 = 0x0c;
const DEF_CFA_REGISTER: u8 = 0x0d;
const DEF_CFA_OFFSET: u8 = 0x0e;
const DEF_CFA_EXPRESSION: u8 = 0x0f;
const EXPRESSION: u8 = 0x10;
const UNDEFINED: u8 = 0x07;
const IN_REGISTER: u8 = 0x09;
const VAL_OFFSET: u8 = 0x14;
const REMEMBER: u8 = 0x0a;
const RESTORE_STATE: u8 = 0x0b;
const NEGATE_RA_STATE: u8 = 0x2d;

/// rsp + 8, return address below it.
const X86_64: [u8; 5] = [DEF_CFA, 7, 8, offset(16), 1];
/// sp + 0, return address in x30.
const AARCH64: [u8; 3] = [DEF_CFA, 31, 0];

fn sp(cfa: i32) -> Rule {
    Rule::new(Cfa::Sp(cfa), Saved::Same, Saved::AtCfa(-8))
}

fn x86_64(functions: impl FnOnce(Cfi) -> Cfi) -> Elf {
    Elf::new(Arch::X86_64, functions(Cfi::eh_frame().cie(Arch::X86_64, "", &X86_64)).done())
}

#[test]
fn a_function_that_keeps_a_frame_pointer() {
    let elf = x86_64(|cfi| {
        let instructions = [
            advance(1),
            DEF_CFA_OFFSET,
            16,
            offset(6),
            2,
            advance(3),
            DEF_CFA_REGISTER,
            6,
            advance(40),
            DEF_CFA,
            7,
            8,
        ];
        cfi.fde(0x1000, 50, &instructions)
    });
    let saved = Rule { fp: Saved::AtCfa(-16), ..sp(16) };
    let table = elf.table();
    assert_eq!(
        rows(&table),
        [
            (0x1000, sp(8)),
            (0x1001, saved),
            (0x1004, Rule { cfa: Cfa::Fp(16), ..saved }),
            (0x102c, Rule { cfa: Cfa::Sp(8), ..saved }),
            (0x1032, Rule::NONE),
        ]
    );
    assert_eq!((table.report.functions, table.report.input_rows, table.report.rows), (1, 4, 5));
    assert_eq!(table.layout.lowest_svma, LOWEST_SVMA);
}

#[test]
fn code_that_aarch64_compilers_write() {
    let fp = |offset| Saved::AtCfa(offset);
    let framed = [
        // paciasp; stp x29, x30, [sp, #-32]!; mov x29, sp; ...; ldp; autiasp; ret
        advance(1),
        NEGATE_RA_STATE,
        advance(1),
        DEF_CFA_OFFSET,
        32,
        offset(29),
        4,
        offset(30),
        3,
        advance(1),
        DEF_CFA_REGISTER,
        29,
        advance(5),
        REMEMBER,
        DEF_CFA,
        31,
        0,
        restore(30),
        restore(29),
        advance(1),
        NEGATE_RA_STATE,
        advance(1),
        RESTORE_STATE,
    ];
    let cfi = Cfi::eh_frame()
        .cie(Arch::Aarch64, "", &AARCH64)
        .fde(0x1000, 64, &framed)
        .fde(0x1040, 16, &[])
        .fde(0x1050, 16, &[UNDEFINED, 30])
        .cie(Arch::Aarch64, "S", &[DEF_CFA, 29, 0, offset(29), 0])
        .fde(0x1060, 8, &[])
        // Signed by the second key, in tagged memory.
        .cie(Arch::Aarch64, "BG", &AARCH64)
        .fde(0x1068, 8, &[NEGATE_RA_STATE]);
    let leaf = Rule::new(Cfa::Sp(0), Saved::Same, Saved::Same);
    let table = Elf::new(Arch::Aarch64, cfi.done()).table();
    let saved = Rule::new(Cfa::Sp(32), fp(-32), fp(-24));
    let framed = Rule { cfa: Cfa::Fp(32), ..saved };
    assert_eq!(
        rows(&table),
        [
            (0x1000, leaf),
            (0x1008, saved),
            (0x100c, framed),
            (0x1020, leaf),
            (0x1028, framed),
            (0x1040, leaf),
            (0x1050, Rule::END),
            (0x1060, Rule::SIGNAL),
            (0x1068, leaf),
            (0x1070, Rule::NONE),
        ]
    );
    assert_eq!(table.report.malformed, 0);
}

#[test]
fn frame_addresses_that_were_stored_or_are_in_other_registers() {
    let elf = x86_64(|cfi| {
        // A function that realigns its stack: CFA in r10, then stored at rbp - 8, rbp saved at rbp.
        cfi.fde(
            0x1000,
            64,
            &[
                advance(4),
                DEF_CFA,
                10,
                0,
                advance(8),
                EXPRESSION,
                6,
                2,
                0x76,
                0,
                advance(4),
                DEF_CFA_EXPRESSION,
                3,
                0x76,
                0x78,
                0x06,
            ],
        )
        // Hand-written assembly: the caller's SP was stored.
        .fde(0x1040, 64, &[DEF_CFA_EXPRESSION, 5, 0x77, 0x38, 0x06, 0x23, 0x08])
        // A linkage table for processors that check branch targets.
        .fde(
            0x1080,
            64,
            &[DEF_CFA_EXPRESSION, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x39, 0x2a, 0x33, 0x24, 0x22],
        )
        // *(rax + 16) + 8
        .fde(0x10c0, 64, &[DEF_CFA_EXPRESSION, 5, 0x70, 0x10, 0x06, 0x23, 0x08])
        // vfork: the return address is popped into rdi, and pushed again. That SP is the CFA is said once more.
        .fde(
            0x1100,
            64,
            &[advance(1), DEF_CFA_OFFSET, 0, IN_REGISTER, 16, 5, VAL_OFFSET, 7, 0, advance(8), offset(16), 0],
        )
    });
    let by_r10 = Rule { cfa: Cfa::Register { register: 10, offset: 0 }, ..sp(0) };
    let realigned = Rule { fp: Saved::AtFp(0), ..by_r10 };
    assert_eq!(
        rows(&elf.table()),
        [
            (0x1000, sp(8)),
            (0x1004, by_r10),
            (0x100c, realigned),
            (0x1010, Rule { cfa: Cfa::FpDeref { offset: -8, add: 0 }, ..realigned }),
            (0x1040, Rule { cfa: Cfa::SpDeref { offset: 56, add: 8 }, ..sp(0) }),
            (0x1080, Rule { cfa: Cfa::Plt { pushed_from: 9 }, ..sp(0) }),
            (0x10c0, Rule { cfa: Cfa::RegisterDeref { register: 0, offset: 16, add: 8 }, ..sp(0) }),
            (0x1100, sp(8)),
            (0x1101, Rule { cfa: Cfa::ReturnRegister { register: 5, offset: 0 }, ra: Saved::Same, ..sp(0) }),
            (0x1109, Rule { ra: Saved::AtCfa(0), ..sp(0) }),
            (0x1140, Rule::NONE),
        ]
    );
}

#[test]
fn what_cannot_be_expressed_is_counted_by_reason() {
    let elf = x86_64(|cfi| {
        cfi.fde(0x1000, 64, &[DEF_CFA_EXPRESSION, 3, 0x77, 0x08, 0x20])
            .fde(0x1040, 64, &[DEF_CFA, 17, 8])
            .fde(0x1080, 64, &[DEF_CFA, 7, 0x80, 0x80, 0x80, 0x80, 0x10])
            .fde(0x10c0, 64, &[DEF_CFA, 5, 0, IN_REGISTER, 16, 2])
            .fde(0x1100, 64, &[IN_REGISTER, 6, 2])
            .fde(0x1140, 64, &[advance(4), RESTORE_STATE])
            .fde(0x1180, 64, &[IN_REGISTER, 7, 8])
    });
    let table = elf.table();
    let lost = Rule { fp: Saved::Unknown, ..sp(8) };
    assert_eq!(
        rows(&table),
        [
            (0x1000, Rule::UNSUPPORTED),
            (0x1100, lost),
            (0x1140, sp(8)),
            (0x1144, Rule::UNSUPPORTED),
            (0x11c0, Rule::NONE)
        ]
    );
    for reason in Unsupported::ALL {
        assert_eq!(table.report.unsupported[reason as usize], 1, "{reason:?}");
    }
    assert_eq!((table.report.fp_lost, table.report.malformed), (1, 1));
}

#[test]
fn gaps_of_padding_have_no_row_and_real_gaps_do() {
    for (gap_from, start, is_padding) in [
        (0x1001, 0x1010, true),
        (0x1000, 0x1010, false),
        (0x1021, 0x1040, false),
        (0x1001, 0x1008, true),
        (0x1000, 0x1008, false),
        (0x1005, 0x1006, true),
        (0x1005, 0x1007, false),
    ] {
        let elf = x86_64(|cfi| {
            cfi.fde(0xff0, (gap_from - 0xff0) as u32, &[]).fde(start, 16, &[DEF_CFA_OFFSET, 16])
        });
        let (start, gap) = (start as u32, (gap_from as u32, Rule::NONE));
        let functions = [(0xff0, sp(8)), (start, sp(16)), (start + 16, Rule::NONE)];
        let with_gap = [functions[0], gap, functions[1], functions[2]];
        let expect = if is_padding { &functions[..] } else { &with_gap[..] };
        assert_eq!(rows(&elf.table()), expect, "{gap_from:#x} {start:#x}");
    }
}

/// As in glibc's `clone`: the system call and what both threads come through behind it.
#[test]
fn a_hole_in_a_function_has_the_rule_that_its_instructions_ask_for() {
    let mut elf =
        x86_64(|cfi| cfi.fde(0x1ff0, 18, &[DEF_CFA_OFFSET, 32]).fde(0x200c, 16, &[DEF_CFA_OFFSET, 48]));
    let mut text = vec![0x90; 32];
    text[2..12].copy_from_slice(&[0x0f, 0x05, 0x48, 0x85, 0xc0, 0x7c, 0x13, 0x74, 0x01, 0xc3]);
    elf.sections.push(Section { flags: 6, at: Some(0x2000), ..Section::new(".text", text.clone()) });
    assert_eq!(
        rows(&elf.table()),
        [(0x1ff0, sp(32)), (0x2002, sp(8)), (0x200c, sp(48)), (0x201c, Rule::NONE)]
    );
    // Without the return.
    text[11] = 0x90;
    elf.sections.truncate(1);
    elf.sections.push(Section { flags: 6, at: Some(0x2000), ..Section::new(".text", text) });
    assert_eq!(rows(&elf.table())[1], (0x2002, Rule::NONE));
}

#[test]
fn of_overlapping_functions_the_one_that_begins_last_wins() {
    let wide = [advance(8), DEF_CFA_OFFSET, 24, advance(0x30), DEF_CFA_OFFSET, 32];
    let elf = x86_64(|cfi| {
        // Out of order, nested, and one of them twice.
        cfi.fde(0x1100, 16, &[]).fde(0x1010, 16, &[DEF_CFA_OFFSET, 16]).fde(0x1000, 0x80, &wide).fde(
            0x1100,
            8,
            &[DEF_CFA_OFFSET, 48],
        )
    });
    let table = elf.table();
    assert_eq!(
        rows(&table),
        [
            (0x1000, sp(8)),
            (0x1008, sp(24)),
            (0x1010, sp(16)),
            (0x1020, Rule::NONE),
            (0x1100, sp(8)),
            (0x1110, Rule::NONE)
        ]
    );
    assert_eq!(table.report.overlapping, 2);
}

#[test]
fn functions_that_are_not_in_the_file_are_counted() {
    let elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[]).fde(0x40_0000, 16, &[]).fde(0x1020, 0, &[]));
    let table = elf.table();
    assert_eq!(rows(&table), [(0x1000, sp(8)), (0x1010, Rule::NONE)]);
    assert_eq!(table.report.outside_code, 2);
}

#[test]
fn without_section_headers_the_program_header_leads_to_the_same_table() {
    let mut elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[advance(1), DEF_CFA_OFFSET, 16]));
    let with_headers = elf.table();
    elf.section_headers = false;
    assert_eq!(elf.table(), with_headers);
    assert_eq!(with_headers.rows.len(), 3);
}

fn debug_frame() -> Vec<u8> {
    let cie = Cfi::debug_frame().cie(Arch::X86_64, "", &X86_64);
    cie.fde(0x1008, 64, &[DEF_CFA_OFFSET, 48]).fde(0x2000, 64, &[DEF_CFA_OFFSET, 16]).done()
}

#[test]
fn debug_frame_adds_what_eh_frame_leaves_out() {
    let mut elf = x86_64(|cfi| cfi.fde(0x1000, 64, &[]));
    elf.sections.push(Section { flags: 0, ..Section::new(".debug_frame", debug_frame()) });
    assert_eq!(
        rows(&elf.table()),
        [(0x1000, sp(8)), (0x1040, Rule::NONE), (0x2000, sp(16)), (0x2040, Rule::NONE)],
        "what overlaps an earlier source is left to it"
    );
}

#[test]
fn packed_sections_are_unpacked() {
    let plain = debug_frame();
    let zlib = |bytes: &[u8]| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    };
    let headed = |kind: u32, packed: Vec<u8>| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(plain.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&8_u64.to_le_bytes());
        bytes.extend_from_slice(&packed);
        bytes
    };
    let gnu = [b"ZLIB".as_slice(), &(plain.len() as u64).to_be_bytes(), &zlib(&plain)].concat();
    let zstd = zstd::encode_all(&*plain, 3).expect("memory takes it");
    let expect = [(0x1008, sp(48)), (0x1048, Rule::NONE), (0x2000, sp(16)), (0x2040, Rule::NONE)];
    for (name, flags, bytes) in [
        (".debug_frame", 0, plain.clone()),
        (".debug_frame", 0x800, headed(1, zlib(&plain))),
        (".debug_frame", 0x800, headed(2, zstd)),
        (".zdebug_frame", 0, gnu),
    ] {
        let mut elf = Elf::new(Arch::X86_64, vec![0; 4]);
        elf.sections.push(Section { flags, ..Section::new(name, bytes) });
        assert_eq!(rows(&elf.table()), expect, "{name} {flags:#x}");
    }
    // A section that claims to unpack to more than it does.
    let mut elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[]));
    let mut lying = headed(1, zlib(&plain));
    lying[8] += 1;
    elf.sections.push(Section { flags: 0x800, ..Section::new(".debug_frame", lying) });
    assert_eq!((elf.table().rows.len(), elf.table().report.malformed), (2, 1));
}

#[test]
fn a_linkage_table_without_call_frame_information_is_known_by_its_bytes() {
    let mut elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[]));
    let mut plt = vec![0xff, 0x35, 0, 0, 0, 0, 0xff, 0x25, 0, 0, 0, 0, 0x0f, 0x1f, 0x40, 0];
    plt.extend_from_slice(&[0xff, 0x25, 0, 0, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0]);
    elf.sections.push(Section { flags: 6, at: Some(0x3000), ..Section::new(".plt", plt) });
    assert_eq!(
        rows(&elf.table())[2..],
        [
            (0x3000, sp(16)),
            (0x3006, sp(24)),
            (0x3010, Rule { cfa: Cfa::Plt { pushed_from: 11 }, ..sp(0) }),
            (0x3020, Rule::NONE)
        ]
    );
}

#[test]
fn a_static_libcs_signal_trampoline_is_known_by_its_bytes() {
    let mut elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[]));
    let mut text = vec![0x90; 64];
    text[17..26].copy_from_slice(&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05]);
    elf.sections.push(Section { flags: 6, at: Some(0x2000), ..Section::new(".text", text) });
    // From the byte before on, where the address that a handler returns to is looked up.
    assert_eq!(rows(&elf.table())[2..], [(0x2010, Rule::SIGNAL), (0x201a, Rule::NONE)]);
}

/// A program whose first instructions have no call frame information, and `main` directly behind them.
fn started() -> Elf {
    let mut elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[]));
    // lea main(%rip), %rdi; call; then: push %rax; pop %rcx; ret
    let start = [0x48, 0x8d, 0x3d, 5, 0, 0, 0, 0xe8, 0, 0, 0x10, 0];
    let text = [&start[..], &[0x50, 0x59, 0xc3]].concat();
    elf.sections.push(Section { flags: 6, at: Some(0x2000), ..Section::new(".text", text) });
    elf.entry = LOWEST_SVMA + 0x2000;
    elf
}

#[test]
fn stacks_end_at_a_programs_entry_point() {
    assert_eq!(
        rows(&started().table())[2..],
        [(0x2000, Rule::END), (0x200c, sp(8)), (0x200d, sp(16)), (0x200e, sp(8)), (0x200f, Rule::NONE)]
    );
}

/// Linkers have them begin anywhere, most with the first function that there is.
#[test]
fn a_librarys_entry_point_is_no_end() {
    let mut elf = started();
    // DT_NEEDED, without PT_INTERP.
    let dynamic = [1_u64, 1, 0, 0].map(u64::to_le_bytes).concat();
    elf.sections.push(Section { flags: 3, ..Section::new(".dynamic", dynamic) });
    assert_eq!(rows(&elf.table()), [(0x1000, sp(8)), (0x1010, Rule::NONE)]);
}

fn refused(bytes: &[u8], arch: Arch) -> &'static str {
    extract(bytes, arch).expect_err("no table").name()
}

#[test]
fn files_of_other_kinds_are_refused_with_a_reason() {
    let elf = x86_64(|cfi| cfi.fde(0x1000, 16, &[])).bytes();
    let with = |at: usize, value: u8| {
        let mut changed = elf.clone();
        changed[at] = value;
        changed
    };
    assert_eq!(refused(b"", Arch::X86_64), "truncated");
    assert_eq!(refused(&[b'#'; 64], Arch::X86_64), "malformed");
    assert_eq!(refused(&elf[..100], Arch::X86_64), "malformed");
    assert_eq!(refused(&elf, Arch::Aarch64), "other_architecture");
    assert_eq!(refused(&with(4, 1), Arch::X86_64), "other_architecture");
    assert_eq!(refused(&with(5, 2), Arch::X86_64), "other_architecture");
    assert_eq!(refused(&with(18, 40), Arch::X86_64), "other_architecture");
    assert_eq!(refused(&with(16, 1), Arch::X86_64), "not_executable");
    let empty = Elf::new(Arch::X86_64, vec![0; 4]);
    assert!(matches!(extract(empty.bytes().as_slice(), Arch::X86_64), Err(Unreadable::NoUnwindInfo)));
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
