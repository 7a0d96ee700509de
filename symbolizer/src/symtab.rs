//! A compact index of the code symbols of one executable: 12 bytes per symbol, names stay in the file.
//!
//! Built from `.symtab` where the file has it, else from the symbols of an installed debug file of equal build id
//! (`/usr/lib/debug/.build-id/ab/cdef.debug`), else from `.dynsym`.

use std::fmt::Write;
use std::fs::File;
use std::sync::Arc;

use crate::elf::{Class, ElfLayout, Svma, SymbolSection, u16_at, u32_at, u64_at};
use crate::executable::Contents;
use crate::image::Image;
use crate::miss::Miss;

const CHUNK_BYTES: usize = 64 << 10;
/// Longer names exist (heavily templated C++) but carry nothing a reader could use.
const MAX_NAME_BYTES: usize = 4096;
const NAME_READ_BYTES: usize = 256;
/// How many symbols before an address are tried: labels may lie inside the function that holds it.
const MAX_NESTING: usize = 32;
/// What an index costs beside its entries; also bounds how many debug files the cache keeps open.
const FIXED_BYTES: usize = 16 << 10;

/// While an index is built, the top bits of a symbol's size hold its rank among symbols of equal start.
const RANK_SHIFT: u32 = 29;
const MAX_SIZE: u32 = (1 << RANK_SHIFT) - 1;

/// One symbol, relative to the lowest segment.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    size: u32,
    name: u32,
}

/// The index.
#[derive(Debug)]
pub(crate) struct SymbolIndex {
    base: u64,
    entries: Vec<Entry>,
    strings: SymbolSection,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Itself,
    DebugFile(Box<Image>),
}

/// A symbol that was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Name as the table has it.
    pub(crate) name: String,
}

impl SymbolIndex {
    /// Reads the symbols of an executable; an index that would take more than `max_bytes` is not made.
    pub(crate) fn build(contents: &Contents, max_bytes: usize) -> Result<Self, Miss> {
        let own = &contents.layout;
        let (strings, source, entries) = match (&own.symtab, debug_file(own), &own.dynsym) {
            (Some(section), _, _) | (None, None, Some(section)) => {
                (section.clone(), Source::Itself, read(&contents.image, own, section, max_bytes))
            }
            (None, Some((image, layout, section)), _) => {
                let entries = read(&image, &layout, &section, max_bytes);
                (section, Source::DebugFile(Box::new(image)), entries)
            }
            (None, None, None) => return Err(Miss::NoSymbols),
        };
        let mut entries = entries?;
        if entries.is_empty() {
            return Err(Miss::NoSymbols);
        }
        // Of symbols at one address the sized one is kept, of those the one that others link against.
        entries.sort_unstable_by_key(|entry| (entry.start, entry.size >> RANK_SHIFT, entry.name));
        entries.dedup_by_key(|entry| entry.start);
        for entry in &mut entries {
            entry.size &= MAX_SIZE;
        }
        entries.shrink_to_fit();
        Ok(Self { base: own.lowest_svma().0, entries, strings, source })
    }

    /// What this index holds in memory.
    pub(crate) fn bytes(&self) -> usize {
        FIXED_BYTES + self.entries.len() * size_of::<Entry>()
    }

    /// The symbol that covers `svma`.
    pub(crate) fn find(&self, contents: &Arc<Contents>, svma: Svma) -> Result<Found, Miss> {
        let entry = self.covering(svma).ok_or(Miss::NoSymbolHere)?;
        let image = match &self.source {
            Source::Itself => &contents.image,
            Source::DebugFile(image) => image,
        };
        let name = read_name(image, &self.strings, entry.name)?;
        if name.is_empty() { Err(Miss::NoSymbolHere) } else { Ok(Found { name }) }
    }

    fn covering(&self, svma: Svma) -> Option<Entry> {
        let at = u32::try_from(svma.0.checked_sub(self.base)?).ok()?;
        let after = self.entries.partition_point(|entry| entry.start <= at);
        let before = &self.entries[after.saturating_sub(MAX_NESTING)..after];
        let holder = |at: u32| before.iter().rev().find(|e| at >= e.start && at - e.start < e.size);
        // A symbol without size, as assembly often has, reaches to the next one unless it is a label in a function.
        let unsized_last = || before.last().filter(|last| last.size == 0 && holder(last.start).is_none());
        holder(at).or_else(unsized_last).copied()
    }
}

/// The code symbols of a table, unsorted. Room is reserved at once: pages that stay untouched cost nothing, growing would
/// hold the table twice.
fn read(
    image: &Image,
    layout: &ElfLayout,
    section: &SymbolSection,
    max_bytes: usize,
) -> Result<Vec<Entry>, Miss> {
    let entry_bytes = layout.class.pick(16, 24);
    let most = max_bytes.saturating_sub(FIXED_BYTES) / size_of::<Entry>();
    let in_table = usize::try_from(section.bytes).unwrap_or(usize::MAX) / entry_bytes;
    let mut entries = Vec::with_capacity(in_table.min(most));
    let mut chunk = vec![0; CHUNK_BYTES / entry_bytes * entry_bytes];
    let mut done = 0;
    while done < section.bytes {
        let want = usize::try_from(section.bytes - done).unwrap_or(usize::MAX).min(chunk.len());
        let offset = section.offset.checked_add(done).ok_or(Miss::Truncated)?;
        if image.read_into(offset, &mut chunk[..want])? < want {
            return Err(Miss::Truncated);
        }
        for entry in chunk[..want].chunks_exact(entry_bytes).filter_map(|raw| code_symbol(layout, raw)) {
            if entries.len() == most {
                return Err(Miss::TooManySymbols);
            }
            entries.push(entry);
        }
        done += want as u64;
    }
    Ok(entries)
}

/// Functions, and labels in code that other files can link against: hand-written assembly seldom gives a type.
fn code_symbol(layout: &ElfLayout, raw: &[u8]) -> Option<Entry> {
    const NOTYPE: u8 = 0;
    const FUNC: u8 = 2;
    const GNU_IFUNC: u8 = 10;
    const LOCAL: u8 = 0;
    const GLOBAL: u8 = 1;
    /// From here on section numbers have special meanings, such as "absolute".
    const RESERVED: u16 = 0xff00;
    let (info, section, svma, size) = match layout.class {
        Class::Elf32 => (raw[12], u16_at(raw, 14), u64::from(u32_at(raw, 4)), u64::from(u32_at(raw, 8))),
        Class::Elf64 => (raw[4], u16_at(raw, 6), u64_at(raw, 8), u64_at(raw, 16)),
    };
    let (binding, kind) = (info >> 4, info & 15);
    let in_code = layout.code_sections.get(usize::from(section)).copied().unwrap_or(section >= RESERVED);
    let wanted = matches!(kind, FUNC | GNU_IFUNC) || (kind == NOTYPE && binding != LOCAL);
    if section == 0 || !in_code || !wanted {
        return None;
    }
    let link_rank = match binding {
        GLOBAL => 0,
        LOCAL => 2,
        _weak_or_unique => 1,
    };
    let rank: u32 = link_rank + if size == 0 { 4 } else { 0 };
    let start = u32::try_from(svma.checked_sub(layout.lowest_svma().0)?).ok()?;
    let size = u32::try_from(size).unwrap_or(MAX_SIZE).min(MAX_SIZE) | rank << RANK_SHIFT;
    Some(Entry { start, size, name: u32_at(raw, 0) })
}

fn read_name(image: &Image, strings: &SymbolSection, at: u32) -> Result<String, Miss> {
    let mut name = Vec::new();
    let mut rest = strings.strings_bytes.saturating_sub(u64::from(at));
    while rest > 0 && name.len() < MAX_NAME_BYTES {
        let offset = strings.strings_offset.checked_add(u64::from(at)).ok_or(Miss::Truncated)?;
        let piece = image.read_up_to(offset + name.len() as u64, NAME_READ_BYTES.min(rest as usize))?;
        if piece.is_empty() {
            return Err(Miss::Truncated);
        }
        if let Some(end) = piece.iter().position(|&byte| byte == 0) {
            name.extend_from_slice(&piece[..end]);
            break;
        }
        rest -= piece.len() as u64;
        name.extend(piece);
    }
    Ok(String::from_utf8_lossy(&name).into_owned())
}

fn debug_file(layout: &ElfLayout) -> Option<(Image, ElfLayout, SymbolSection)> {
    let (first, rest) = layout.gnu_build_id.as_deref().filter(|_| layout.symtab.is_none())?.split_first()?;
    let mut path = format!("/usr/lib/debug/.build-id/{first:02x}/");
    for byte in rest {
        write!(path, "{byte:02x}").expect("writing to a string cannot fail");
    }
    path.push_str(".debug");
    let image = Image::File(File::open(path).ok()?);
    let debug_layout = ElfLayout::read(&image).ok()?;
    let same = debug_layout.gnu_build_id == layout.gnu_build_id;
    let section = debug_layout.symtab.clone().filter(|_| same)?;
    Some((image, debug_layout, section))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(symbols: &[(u32, u32)], at: u64, expect: Option<u32>) {
        let entries = symbols.iter().map(|&(start, size)| Entry { start, size, name: start }).collect();
        let strings = SymbolSection { offset: 0, bytes: 0, strings_offset: 0, strings_bytes: 0 };
        let index = SymbolIndex { base: 0x1000, entries, strings, source: Source::Itself };
        assert_eq!(index.covering(Svma(at)).map(|entry| entry.start), expect, "{at:#x} in {symbols:x?}");
    }

    #[test]
    fn an_address_belongs_to_the_symbol_that_covers_it() {
        let symbols = [(0, 0x10), (0x20, 0x40), (0x30, 0), (0x70, 0)];
        check(&symbols, 0xfff, None);
        check(&symbols, 0x1000, Some(0));
        check(&symbols, 0x100f, Some(0));
        check(&symbols, 0x1010, None);
        check(&symbols, 0x1038, Some(0x20));
        check(&symbols, 0x1065, None);
        check(&symbols, 0x1070, Some(0x70));
        check(&symbols, 0x9999, Some(0x70));
        check(&[], 0x1000, None);
    }

    #[test]
    fn symbols_of_both_classes_and_a_bound_on_their_number() {
        for class in [Class::Elf32, Class::Elf64] {
            let contents =
                Arc::new(Contents::read(Image::Memory(crate::elf::tests::small_file(class))).unwrap());
            let index = SymbolIndex::build(&contents, 1 << 20).unwrap();
            let name = |svma| index.find(&contents, Svma(svma)).map(|found| found.name);
            assert_eq!(name(0x40_0fff), Err(Miss::NoSymbolHere));
            assert_eq!(name(0x40_101f).as_deref(), Ok("foo"));
            assert_eq!(name(0x40_1020).as_deref(), Ok("bar"));
            let too_small = FIXED_BYTES + size_of::<Entry>();
            assert_eq!(SymbolIndex::build(&contents, too_small).err(), Some(Miss::TooManySymbols));
        }
    }
}
