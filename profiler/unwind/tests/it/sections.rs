//! What is found in a file besides `.eh_frame`: other sections, code that is known by its bytes, entry points.

use std::io::Write;

use pyrite_unwind::{Arch, Cfa, Rule, Unreadable, extract};

use crate::assembler::cfi::{DEF_CFA_OFFSET, X86_64, advance};
use crate::assembler::{Cfi, Elf, LOWEST_SVMA, Section, rows, sp, x86_64};

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
