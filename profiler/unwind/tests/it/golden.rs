//! Call frame information written by hand, and the rows it must become.

use pyrite_unwind::{Arch, Cfa, Rule, Saved, Unsupported};

use crate::assembler::cfi::{
    AARCH64, DEF_CFA, DEF_CFA_EXPRESSION, DEF_CFA_OFFSET, DEF_CFA_REGISTER, EXPRESSION, IN_REGISTER,
    NEGATE_RA_STATE, REMEMBER, RESTORE_STATE, UNDEFINED, VAL_OFFSET, advance, offset, restore,
};
use crate::assembler::{Cfi, Elf, LOWEST_SVMA, Section, rows, sp, x86_64};

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
