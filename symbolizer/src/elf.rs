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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Svma(pub(crate) u64);

/// 32 or 64 bit: the two layouts an ELF file can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Elf32,
    Elf64,
}

/// A loadable segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    offset: u64,
    svma: Svma,
    file_bytes: u64,
    executable: bool,
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
