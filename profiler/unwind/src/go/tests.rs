//! Tables made by hand in each layout that Go has had, and broken ones.

use std::cell::Cell;
use std::io;

use proptest::prelude::*;
use pyrite_model::FileOffset;

use super::{GoRefusal, GoReport, go_functions};
use crate::read::ReadAt;
use crate::rule::{Cfa, Rule, Saved};
use crate::table::{Arch, Layout, Segment};

/// Where the parts lie in the file; all of it is loaded at `BASE`.
const BASE: u64 = 0x40_0000;
const CODE: usize = 0x100;
const CODE_BYTES: usize = 0x100;
const TABLE: usize = 0x200;
const MODULE: usize = 0x600;
const RELOCATIONS: usize = 0x800;
const DYNAMIC: usize = 0x900;
const FILE_BYTES: usize = 0xa00;
const TEXT: u64 = BASE + CODE as u64;

#[derive(Clone, Copy, Debug)]
enum TextStart {
    Header,
    Module,
    Relocations,
}

/// A file under construction.
struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }
}

/// A file without sections that has three functions of 0x40 bytes each: one that pushes and pops, `runtime.goexit`, and one
/// that Go knows no deltas of.
fn image(magic: u32, text_start: TextStart) -> Vec<u8> {
    let mut image = Image(vec![0; FILE_BYTES]);
    let absolute = magic == 0xffff_fffa;
    // push %rbp at 4; pop %rbp at 0x20
    image.put(CODE + 4, &[0x55, 0x48, 0x89, 0xe5]);
    image.put_u32(TABLE, magic);
    image.put(TABLE + 6, &[1, 8]);
    let words = if absolute { 7 } else { 8 };
    let (names, pcsp, functab) = (0x80, 0xc0, 0x100);
    let mut header = vec![3, 0];
    if !absolute {
        header.push(if matches!(text_start, TextStart::Header) { TEXT } else { 0 });
    }
    header.extend([names, 0, 0, pcsp, functab]);
    assert_eq!(header.len(), words);
    for (index, word) in header.into_iter().enumerate() {
        image.put_u64(TABLE + 8 + 8 * index, word);
    }
    image.put(TABLE + names as usize, b"main.f\0runtime.goexit\0");
    // Delta 0 for 5 bytes, 8 for 0x1b, 0 for the rest. Offset 0 says that there is none.
    image.put(TABLE + pcsp as usize + 1, &[2, 5, 16, 0x1b, 15, 0x20, 0]);
    let functab = TABLE + functab as usize;
    let entry_bytes = if absolute { 8 } else { 4 };
    for (index, (name, pcsp)) in [(0, 1), (7, 1), (0, 0)].into_iter().enumerate() {
        let at = 0x80 + 0x40 * index;
        for place in [functab + 2 * entry_bytes * index, functab + at] {
            put_entry(&mut image, place, 0x40 * index as u64, absolute);
        }
        image.put_u32(functab + 2 * entry_bytes * index + entry_bytes, at as u32);
        image.put_u32(functab + at + entry_bytes, name);
        image.put_u32(functab + at + entry_bytes + 12, pcsp);
    }
    put_entry(&mut image, functab + 6 * entry_bytes, 0xc0, absolute);
    put_module(&mut image, text_start);
    image.0
}

fn put_entry(image: &mut Image, at: usize, entry: u64, absolute: bool) {
    if absolute { image.put_u64(at, TEXT + entry) } else { image.put_u32(at, entry as u32) }
}

fn put_module(image: &mut Image, text_start: TextStart) {
    image.put_u64(MODULE + 136, 4);
    let words = [(0, BASE + TABLE as u64), (160, TEXT), (168, TEXT + 0xc0), (176, TEXT)];
    match text_start {
        TextStart::Header => {}
        TextStart::Module => words.iter().for_each(|(at, word)| image.put_u64(MODULE + at, *word)),
        TextStart::Relocations => {
            for (index, (at, word)) in words.into_iter().enumerate() {
                let relocation = RELOCATIONS + 24 * index;
                image.put_u64(relocation, BASE + (MODULE + at) as u64);
                image.put_u64(relocation + 8, 8);
                image.put_u64(relocation + 16, word);
            }
            // A program header of PT_DYNAMIC, and what it leads to.
            image.put_u64(32, 64);
            image.put(56, &1_u16.to_le_bytes());
            image.put_u32(64, 2);
            image.put_u64(64 + 8, DYNAMIC as u64);
            image.put_u64(64 + 32, 32);
            for (index, word) in [7, BASE + RELOCATIONS as u64, 8, 4 * 24].into_iter().enumerate() {
                image.put_u64(DYNAMIC + 8 * index, word);
            }
        }
    }
}

fn layout() -> Layout {
    let segment = |from: usize, to: usize, executable| Segment {
        offset: FileOffset(from as u64),
        svma: BASE + from as u64,
        file_bytes: (to - from) as u64,
        executable,
    };
    let segments = vec![
        segment(CODE, CODE + CODE_BYTES, true),
        segment(0, CODE, false),
        segment(TABLE, FILE_BYTES, false),
    ];
    Layout { lowest_svma: BASE, segments }
}

type Function = (u64, u64, Vec<(u64, Rule)>);

fn read(file: &(impl ReadAt + ?Sized)) -> Result<(Vec<Function>, GoReport), GoRefusal> {
    let mut functions = Vec::new();
    let report = go_functions(file, Arch::X86_64, &layout(), &mut |function| {
        functions.push((function.code.start, function.code.end, function.rows.to_vec()));
    })?;
    Ok((functions, report))
}

fn expected() -> Vec<Function> {
    let by_sp = |offset, fp| Rule::new(Cfa::Sp(offset), fp, Saved::AtCfa(-8));
    let before = by_sp(8, Saved::Same);
    let pushed = by_sp(16, Saved::AtCfa(-16));
    vec![
        (TEXT, TEXT + 0x40, vec![(TEXT, before), (TEXT + 5, pushed), (TEXT + 0x20, before)]),
        (TEXT + 0x40, TEXT + 0x80, vec![(TEXT + 0x40, Rule::END)]),
    ]
}

#[test]
fn every_layout_gives_the_same_rows() {
    for (magic, text_start) in [
        (0xffff_fffa, TextStart::Header),
        (0xffff_fff0, TextStart::Header),
        (0xffff_fff1, TextStart::Header),
        (0xffff_fff1, TextStart::Module),
        (0xffff_fff1, TextStart::Relocations),
    ] {
        let (functions, report) = read(&image(magic, text_start)).unwrap();
        assert_eq!(functions, expected(), "{magic:#x} {text_start:?}");
        assert_eq!(report, GoReport { functions: 2, malformed: 0, rows: 4 });
    }
}

#[test]
fn the_table_is_found_by_its_section() {
    let mut image = Image(image(0xffff_fff1, TextStart::Header));
    // Two section headers behind the file's end: the table, which the segments would not show, and the names.
    let headers = image.0.len();
    image.0.resize(headers + 128, 0);
    let names = image.0.len();
    image.0.extend_from_slice(b".data.rel.ro.gopclntab\0");
    image.put_u64(40, headers as u64);
    image.put(60, &[2, 0, 1, 0]);
    image.put_u64(headers + 24, TABLE as u64);
    image.put_u32(headers + 64, 22);
    image.put_u64(headers + 64 + 24, names as u64);
    assert_eq!(read(&image.0).unwrap().0, expected());
    image.put(names, b".other\0");
    assert!(matches!(read(&image.0), Err(GoRefusal::NotGo)));
}

#[test]
fn what_is_missing_is_named() {
    let good = image(0xffff_fff1, TextStart::Module);
    let refusal = |change: &dyn Fn(&mut Image)| {
        let mut image = Image(good.clone());
        change(&mut image);
        read(&image.0).expect_err("a broken table").name()
    };
    assert_eq!(refusal(&|image| image.put_u32(TABLE, 0xffff_fffb)), "not_go");
    assert_eq!(refusal(&|image| image.put_u64(TABLE + 8, 0)), "not_go");
    assert_eq!(refusal(&|image| image.put_u64(TABLE + 8, u64::MAX)), "not_go");
    assert_eq!(refusal(&|image| image.put_u64(MODULE, 1)), "go_no_text_start");
    assert_eq!(refusal(&|image| image.put_u64(MODULE + 136, 9)), "go_no_text_start");
    assert_eq!(refusal(&|image| image.0.truncate(TABLE + 0x104)), "not_go");
}

#[test]
fn a_broken_function_is_left_out_and_counted() {
    let mut broken = Image(image(0xffff_fff1, TextStart::Header));
    // A span of no length.
    broken.put(TABLE + 0xc2, &[0]);
    let (functions, report) = read(&broken.0).unwrap();
    assert_eq!((functions.len(), report.malformed), (0, 2));
}

/// Every other function begins at the first byte of a code that is as large as can be, and all have the same endless list of
/// deltas. Each by itself is malformed; reading them all would take for ever.
#[test]
fn a_list_that_many_functions_share_is_read_a_bounded_number_of_times() {
    const FUNCTIONS: usize = 4000;
    const LIST: usize = 1 << 18;
    let (names, pcsp) = (0x80, 0xc0);
    let functab = pcsp + LIST;
    let mut image = Image(vec![0; TABLE + functab + 8 * FUNCTIONS + 64]);
    image.put_u32(TABLE, 0xffff_fff1);
    image.put(TABLE + 6, &[1, 8]);
    for (index, word) in
        [FUNCTIONS as u64, 0, TEXT, names, 0, 0, pcsp as u64, functab as u64].into_iter().enumerate()
    {
        image.put_u64(TABLE + 8 + 8 * index, word);
    }
    // One byte of code, then one byte more on the stack, and so on.
    image.0[TABLE + pcsp..][..LIST].copy_from_slice(&[2, 1].repeat(LIST / 2));
    let functab = TABLE + functab;
    let record = 8 * FUNCTIONS + 8;
    for index in 0..=FUNCTIONS {
        image.put_u32(functab + 8 * index, if index % 2 == 0 { 0 } else { u32::MAX });
        image.put_u32(functab + 8 * index + 4, record as u32);
    }
    image.put_u32(functab + 8 * FUNCTIONS, u32::MAX);
    image.put_u32(functab + record + 16, 1);
    let mut layout = layout();
    layout.segments[0].file_bytes = 1 << 40;
    let read = go_functions(&image.0, Arch::X86_64, &layout, &mut |_| {});
    assert!(matches!(read, Err(GoRefusal::TooManyRows)), "{read:?}");
}

/// A file far larger than what there is of it: zeros follow, of which so many can be read.
struct Sparse {
    bytes: Vec<u8>,
    left: Cell<usize>,
}

impl ReadAt for Sparse {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left =
            self.left.get().checked_sub(buffer.len()).ok_or_else(|| io::Error::other("read enough"))?;
        self.left.set(left);
        let count = self.bytes.read_at(offset, buffer)?;
        buffer[count..].fill(0);
        Ok(buffer.len())
    }

    fn byte_count(&self) -> u64 {
        1 << 40
    }
}

#[test]
fn relocations_are_read_a_bounded_number_of_times() {
    let mut file = Image(image(0xffff_fff1, TextStart::Relocations));
    file.put_u64(DYNAMIC + 24, u64::MAX);
    let sparse = Sparse { bytes: file.0, left: Cell::new(256 << 20) };
    assert_eq!(read(&sparse).unwrap().0, expected());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_it_panic_or_speak_of_other_code(
        changes in prop::collection::vec((0..FILE_BYTES, any::<u8>()), 1..12),
        kind in 0..3_usize,
        length in prop_oneof![Just(FILE_BYTES), 0..FILE_BYTES],
    ) {
        let kinds = [TextStart::Header, TextStart::Module, TextStart::Relocations];
        let mut file = image(0xffff_fff1, kinds[kind]);
        for (at, value) in changes {
            file[at] = value;
        }
        file.truncate(length);
        if let Ok((functions, _)) = read(&file) {
            for (start, end, rows) in functions {
                prop_assert!(start < end && u32::try_from(end - start).is_ok());
                prop_assert!(!rows.is_empty() && rows.is_sorted_by(|a, b| a.0 < b.0));
            }
        }
    }
}
