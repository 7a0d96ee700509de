//! What of an ELF file this crate needs: where code lies, its build id, where its symbols are.
//!
//! Everything is read by `pread` in bounded pieces. A mapped file would be simpler, but whoever truncates it meanwhile
//! kills the reader by SIGBUS, and its pages count as resident. Layouts: the System V ABI, "Object Files".
//!
//! ```text
//!            e_phoff e_shoff e_phentsize e_phnum e_shentsize e_shnum e_shstrndx
//! ELF64         32      40       54        56        58        60        62       (64 bytes)
//! ELF32         28      32       42        44        46        48        50       (52 bytes)
//! ```

use pyrite_model::FileOffset;

use crate::image::Image;
use crate::miss::Miss;

/// Header tables beyond this size belong to no real executable.
const MAX_TABLE_BYTES: usize = 4 << 20;
/// Notes and build ids beyond these sizes are ignored.
const MAX_NOTE_BYTES: usize = 64 << 10;
const MAX_BUILD_ID_BYTES: usize = 64;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_NOTE: u32 = 7;
const SHT_DYNSYM: u32 = 11;
const SHF_EXECINSTR: u64 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const NT_GO_BUILD_ID: u32 = 4;

/// An address as the ELF file itself states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Svma(pub(crate) u64);

/// 32 or 64 bit: the two layouts an ELF file can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Elf32,
    Elf64,
}

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    pub(crate) offset: u64,
    pub(crate) svma: Svma,
    pub(crate) file_bytes: u64,
    pub(crate) executable: bool,
}

impl Segment {
    /// Where it begins in the file.
    pub fn offset(&self) -> FileOffset {
        FileOffset(self.offset)
    }

    /// Where it begins in memory, as the file states it.
    pub fn svma(&self) -> u64 {
        self.svma.0
    }

    /// How many bytes of it are in the file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Whether it holds code.
    pub fn is_executable(&self) -> bool {
        self.executable
    }
}

/// A symbol table and the strings that name its entries.
#[derive(Clone, Debug)]
pub(crate) struct SymbolSection {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) strings_offset: u64,
    pub(crate) strings_bytes: u64,
}

/// The parts of an ELF file that matter here.
#[derive(Clone, Debug)]
pub(crate) struct ElfLayout {
    pub(crate) class: Class,
    pub(crate) segments: Vec<Segment>,
    pub(crate) gnu_build_id: Option<Vec<u8>>,
    pub(crate) go_build_id: Option<Vec<u8>>,
    /// The full symbol table, absent from stripped files.
    pub(crate) symtab: Option<SymbolSection>,
    /// The dynamic symbols: what a shared library exports.
    pub(crate) dynsym: Option<SymbolSection>,
    /// Whether section `i` holds code.
    pub(crate) code_sections: Vec<bool>,
}

/// Where notes are.
struct NoteRange {
    offset: u64,
    bytes: u64,
}

struct Section {
    kind: u32,
    flags: u64,
    offset: u64,
    bytes: u64,
    link: u32,
}

impl ElfLayout {
    /// Reads the headers of `image`.
    pub(crate) fn read(image: &Image) -> Result<Self, Miss> {
        let head = image.read_up_to(0, 64)?;
        if head.len() < 16 || head[..4] != *b"\x7fELF" {
            return Err(Miss::NotElf);
        }
        let class = match (head[4], head[5]) {
            (1, 1) => Class::Elf32,
            (2, 1) => Class::Elf64,
            _ => return Err(Miss::NotElf),
        };
        if head.len() < class.pick(52, 64) {
            return Err(Miss::Truncated);
        }
        let (segments, notes) = read_segments(image, class, &head)?;
        let mut layout = Self {
            class,
            segments,
            gnu_build_id: None,
            go_build_id: None,
            symtab: None,
            dynsym: None,
            code_sections: Vec::new(),
        };
        // A file without a readable section table still runs, and its segments and notes still identify it.
        let sections = read_sections(image, class, &head).unwrap_or_default();
        let section_notes = sections
            .iter()
            .filter(|s| s.kind == SHT_NOTE)
            .map(|s| NoteRange { offset: s.offset, bytes: s.bytes });
        for note in notes.into_iter().chain(section_notes) {
            layout.read_notes(image, &note);
        }
        layout.code_sections = sections.iter().map(|s| s.flags & SHF_EXECINSTR != 0).collect();
        layout.symtab = symbol_section(&sections, SHT_SYMTAB);
        layout.dynsym = symbol_section(&sections, SHT_DYNSYM);
        Ok(layout)
    }

    /// Where the byte at `offset` is, in the file's own addresses.
    pub(crate) fn svma_of(&self, offset: u64) -> Option<Svma> {
        let holds = |s: &&Segment| offset >= s.offset && offset - s.offset < s.file_bytes;
        let mut holding = self.segments.iter().filter(holds);
        let first = holding.next()?;
        // Segments may share a page of the file; code is looked up in the executable one.
        let best = if first.executable { first } else { holding.find(|s| s.executable).unwrap_or(first) };
        best.svma.0.checked_add(offset - best.offset).map(Svma)
    }

    /// The lowest address that any segment is loaded at.
    pub(crate) fn lowest_svma(&self) -> Svma {
        self.segments.iter().map(|segment| segment.svma).min().unwrap_or(Svma(0))
    }

    fn read_notes(&mut self, image: &Image, range: &NoteRange) {
        let wanted = usize::try_from(range.bytes).unwrap_or(usize::MAX).min(MAX_NOTE_BYTES);
        let Ok(data) = image.read_up_to(range.offset, wanted) else { return };
        for (kind, owner, value) in Notes(&data) {
            let id = (!value.is_empty() && value.len() <= MAX_NOTE_BYTES).then(|| value.to_vec());
            match (kind, owner) {
                (NT_GNU_BUILD_ID, b"GNU\0") if value.len() <= MAX_BUILD_ID_BYTES => self.gnu_build_id = id,
                (NT_GO_BUILD_ID, b"Go\0\0") => self.go_build_id = id,
                _ => {}
            }
        }
    }
}

impl Class {
    pub(crate) fn pick<T>(self, elf32: T, elf64: T) -> T {
        match self {
            Self::Elf32 => elf32,
            Self::Elf64 => elf64,
        }
    }

    /// A field that is as wide as the class.
    pub(crate) fn word(self, bytes: &[u8], elf32_at: usize, elf64_at: usize) -> u64 {
        match self {
            Self::Elf32 => u64::from(u32_at(bytes, elf32_at)),
            Self::Elf64 => u64_at(bytes, elf64_at),
        }
    }
}

fn read_segments(image: &Image, class: Class, head: &[u8]) -> Result<(Vec<Segment>, Vec<NoteRange>), Miss> {
    let entry = class.pick(32, 56);
    if usize::from(u16_at(head, class.pick(42, 54))) != entry {
        return Err(Miss::NotElf);
    }
    let count = usize::from(u16_at(head, class.pick(44, 56)));
    let table = image.read_exact(class.word(head, 28, 32), count * entry)?;
    let (mut segments, mut notes) = (Vec::new(), Vec::new());
    for header in table.chunks_exact(entry) {
        let (offset, file_bytes) = (class.word(header, 4, 8), class.word(header, 16, 32));
        match u32_at(header, 0) {
            PT_LOAD => segments.push(Segment {
                offset,
                svma: Svma(class.word(header, 8, 16)),
                file_bytes,
                executable: u32_at(header, class.pick(24, 4)) & PF_X != 0,
            }),
            PT_NOTE => notes.push(NoteRange { offset, bytes: file_bytes }),
            _ => {}
        }
    }
    if segments.is_empty() {
        return Err(Miss::NotElf);
    }
    Ok((segments, notes))
}

fn read_sections(image: &Image, class: Class, head: &[u8]) -> Result<Vec<Section>, Miss> {
    let entry = class.pick(40, 64);
    let table_at = class.word(head, 32, 40);
    if table_at == 0 || usize::from(u16_at(head, class.pick(46, 58))) != entry {
        return Ok(Vec::new());
    }
    let mut count = usize::from(u16_at(head, class.pick(48, 60)));
    if count == 0 {
        // More than 65,279 sections: the real count is the size field of the first entry.
        let first = image.read_exact(table_at, entry)?;
        count = usize::try_from(class.word(&first, 20, 32)).unwrap_or(usize::MAX);
    }
    let bytes = count.checked_mul(entry).filter(|&bytes| bytes <= MAX_TABLE_BYTES).ok_or(Miss::NotElf)?;
    let table = image.read_exact(table_at, bytes)?;
    let section = |header: &[u8]| Section {
        kind: u32_at(header, 4),
        flags: class.word(header, 8, 8),
        offset: class.word(header, 16, 24),
        bytes: class.word(header, 20, 32),
        link: u32_at(header, class.pick(24, 40)),
    };
    Ok(table.chunks_exact(entry).map(section).collect())
}

fn symbol_section(sections: &[Section], kind: u32) -> Option<SymbolSection> {
    let symbols = sections.iter().find(|s| s.kind == kind)?;
    let strings = sections.get(usize::try_from(symbols.link).ok()?)?;
    Some(SymbolSection {
        offset: symbols.offset,
        bytes: symbols.bytes,
        strings_offset: strings.offset,
        strings_bytes: strings.bytes,
    })
}

/// Walks a note segment: each note is (name size, value size, type), name, value, both padded to four bytes.
struct Notes<'a>(&'a [u8]);

impl<'a> Iterator for Notes<'a> {
    type Item = (u32, &'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_at_checked(12)?;
        let (name_bytes, value_bytes) = (u32_at(head, 0) as usize, u32_at(head, 4) as usize);
        let (name, rest) = split_padded(rest, name_bytes)?;
        let (value, rest) = split_padded(rest, value_bytes)?;
        self.0 = rest;
        Some((u32_at(head, 8), name, value))
    }
}

fn split_padded(bytes: &[u8], len: usize) -> Option<(&[u8], &[u8])> {
    let value = bytes.get(..len)?;
    Some((value, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// Reads a little-endian field; the callers' tables have fixed entry sizes, so it is always inside.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the field lies inside its fixed-size table entry")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A little file of one segment at `0x40_0000` with file offset 0, of either class:
    /// header, a load and a note segment, a build id, two symbols, their names, four sections.
    pub(crate) fn small_file(class: Class) -> Vec<u8> {
        let at = Fields { class };
        let (phdr_bytes, shdr_bytes) = (class.pick(32, 56), class.pick(40, 64));
        let note =
            [[4, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0].as_slice(), b"GNU\0", &[0xab, 0xcd, 0xef, 0]].concat();
        let symbols =
            [at.symbol(0, 0, 0), at.symbol(1, 0x40_1000, 0x20), at.symbol(5, 0x40_1020, 0)].concat();
        let names = b"\0foo\0bar\0";
        let note_at = class.pick(52, 64) + 2 * phdr_bytes;
        let symbols_at = note_at + note.len();
        let names_at = symbols_at + symbols.len();
        let sections_at = names_at + names.len();
        let mut file = at.header(note_at, sections_at);
        file.extend(at.program_header(PT_LOAD, 0, 0x2000));
        file.extend(at.program_header(PT_NOTE, note_at, note.len()));
        file.extend([note, symbols.clone(), names.to_vec()].concat());
        file.extend(vec![0; shdr_bytes]);
        file.extend(at.section(1, SHF_EXECINSTR, (0x1000, 0x1000), 0));
        file.extend(at.section(SHT_SYMTAB, 0, (symbols_at, symbols.len()), 3));
        file.extend(at.section(3, 0, (names_at, names.len()), 0));
        file.resize(0x2000, 0);
        file
    }

    struct Fields {
        class: Class,
    }

    impl Fields {
        fn word(&self, value: u64) -> Vec<u8> {
            let bytes = value.to_le_bytes();
            bytes[..self.class.pick(4, 8)].to_vec()
        }

        fn header(&self, note_at: usize, sections_at: usize) -> Vec<u8> {
            let class = self.class;
            let header_bytes = note_at - 2 * class.pick(32, 56);
            let mut file = b"\x7fELF\0\x01\x01".to_vec();
            file[4] = class.pick(1, 2);
            file.resize(24, 0);
            file.extend(
                [self.word(0), self.word(header_bytes as u64), self.word(sections_at as u64)].concat(),
            );
            file.extend(0_u32.to_le_bytes());
            let counts = [header_bytes, class.pick(32, 56), 2, class.pick(40, 64), 4, 0];
            file.extend(counts.iter().flat_map(|count| (*count as u16).to_le_bytes()));
            file
        }

        fn program_header(&self, kind: u32, offset: usize, bytes: usize) -> Vec<u8> {
            let svma = 0x40_0000 + offset as u64;
            let words =
                [offset as u64, svma, svma, bytes as u64, bytes as u64].map(|word| self.word(word)).concat();
            let (kind, flags, align) = (kind.to_le_bytes(), 5_u32.to_le_bytes(), self.word(8));
            match self.class {
                Class::Elf32 => [&kind, &*words, &flags, &align].concat(),
                Class::Elf64 => [&kind, &flags, &*words, &align].concat(),
            }
        }

        fn section(&self, kind: u32, flags: u64, (offset, bytes): (usize, usize), link: u32) -> Vec<u8> {
            let words = [flags, 0, offset as u64, bytes as u64].map(|word| self.word(word)).concat();
            let tail = [self.word(0), self.word(0)].concat();
            [&[0; 4], &kind.to_le_bytes(), &*words, &link.to_le_bytes(), &[0; 4], &tail].concat()
        }

        fn symbol(&self, name: u32, svma: u64, size: u64) -> Vec<u8> {
            let (name, value, size) = (name.to_le_bytes(), self.word(svma), self.word(size));
            // A global function in section 1.
            let place = [0x12, 0, 1, 0];
            match self.class {
                Class::Elf32 => [&name, &*value, &size, &place].concat(),
                Class::Elf64 => [&name, &place, &*value, &size].concat(),
            }
        }
    }

    fn check(class: Class) {
        let layout = ElfLayout::read(&Image::Memory(small_file(class))).unwrap();
        assert_eq!(layout.gnu_build_id.as_deref(), Some(&[0xab, 0xcd, 0xef][..]));
        assert_eq!(layout.svma_of(0x1010), Some(Svma(0x40_1010)));
        assert_eq!(layout.svma_of(0x2000), None);
        assert_eq!(layout.code_sections, [false, true, false, false]);
        assert!(layout.symtab.is_some() && layout.dynsym.is_none());
    }

    #[test]
    fn both_classes_are_read() {
        check(Class::Elf32);
        check(Class::Elf64);
    }

    #[test]
    fn a_file_cut_anywhere_is_a_miss_or_less_but_never_a_panic() {
        for class in [Class::Elf32, Class::Elf64] {
            let whole = small_file(class);
            for len in 0..0x400 {
                match ElfLayout::read(&Image::Memory(whole[..len].to_vec())) {
                    Ok(layout) => assert_eq!(layout.svma_of(0x10), Some(Svma(0x40_0010))),
                    Err(miss) => assert!(matches!(miss, Miss::NotElf | Miss::Truncated), "{miss}"),
                }
            }
        }
    }

    #[test]
    fn hostile_counts_and_offsets_are_refused() {
        let whole = small_file(Class::Elf64);
        for (at, bytes) in [(32, 8), (40, 8), (56, 2), (60, 2), (54, 2)] {
            let mut file = whole.clone();
            file[at..at + bytes].fill(0xff);
            let layout = ElfLayout::read(&Image::Memory(file));
            assert!(layout.is_err() || layout.is_ok_and(|l| l.symtab.is_none()), "{at}");
        }
        let mut big_endian = whole;
        big_endian[5] = 2;
        assert_eq!(ElfLayout::read(&Image::Memory(big_endian)).err(), Some(Miss::NotElf));
    }
}
