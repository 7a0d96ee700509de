//! Where a Go program's function table lies, and where its code begins.
//!
//! The section `.gopclntab` says the former (its name has a prefix in position-independent programs); where a file has no
//! section headers any more, the segments are searched for the table's header. The code's beginning stands in the header up
//! to Go 1.25 unless the program is position-independent, and always in the runtime's `moduledata`, which is found by its
//! pointer to the header. That pointer, too, may be but a relocation's addend.

use super::pages::Pages;
use super::pclntab::{HEADER_BYTES, Header, looks_like_header};
use super::{GoRefusal, Limits};
use crate::read::{ReadAt, Unreadable};
use crate::table::{Layout, Segment};

/// Where the words of a `moduledata` are that are read here (`src/runtime/symtab.go`, the same in Go 1.16 to 1.26).
const FTAB_LENGTH: u64 = 136;
const MIN_PC: u64 = 160;
const MAX_PC: u64 = 168;
const TEXT: u64 = 176;
const MODULE_BYTES: u64 = 192;

const RELATIVE_X86_64: u32 = 8;
const RELATIVE_AARCH64: u32 = 1027;
const DT_RELA: u64 = 7;
const DT_RELA_BYTES: u64 = 8;
const PT_DYNAMIC: u32 = 2;
const RELA_BYTES: u64 = 24;

/// A table whose code's beginning is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located {
    pub(super) header: Header,
    /// svma that entries are relative to; 0 where they are absolute.
    pub(super) text_start: u64,
}

/// Finds the table of a file.
pub(super) fn locate<F: ReadAt + ?Sized>(
    pages: &mut Pages<'_, F>,
    layout: &Layout,
) -> Result<Located, GoRefusal> {
    let offset = match section(pages)? {
        Sections::Has(offset) => offset,
        Sections::Lacks => return Err(GoRefusal::NotGo),
        Sections::Stripped => search_segments(pages, layout)?.ok_or(GoRefusal::NotGo)?,
    };
    let header = Header::parse(pages, offset)?;
    let fits = |pages: &mut Pages<'_, F>, text_start| covers_code(pages, layout, &header, text_start);
    if header.absolute() {
        return if fits(pages, 0)? {
            Ok(Located { header, text_start: 0 })
        } else {
            Err(GoRefusal::NoTextStart)
        };
    }
    if header.text_start != 0 && fits(pages, header.text_start)? {
        return Ok(Located { header, text_start: header.text_start });
    }
    let module = Module { svma: svma_of(layout, offset).ok_or(GoRefusal::Malformed)?, header };
    for text_start in [module.in_memory(pages, layout)?, module.in_relocations(pages, layout)?] {
        if let Some(text_start) = text_start
            && fits(pages, text_start)?
        {
            return Ok(Located { header, text_start });
        }
    }
    Err(GoRefusal::NoTextStart)
}

/// Whether all functions would lie in one segment of code.
fn covers_code<F: ReadAt + ?Sized>(
    pages: &mut Pages<'_, F>,
    layout: &Layout,
    header: &Header,
    text_start: u64,
) -> Result<bool, GoRefusal> {
    let first = text_start.checked_add(header.entry(pages, 0)?);
    let end = text_start.checked_add(header.entry(pages, header.functions)?);
    let (Some(first), Some(end)) = (first, end) else { return Ok(false) };
    Ok(first < end && layout.is_code(first) && layout.is_code(end - 1))
}

enum Sections {
    /// There is a function table at this place of the file.
    Has(u64),
    /// There are sections, and none is a function table.
    Lacks,
    /// The file has no section headers, or none that could be read.
    Stripped,
}

fn section<F: ReadAt + ?Sized>(pages: &mut Pages<'_, F>) -> Result<Sections, GoRefusal> {
    const NAMES: [&[u8]; 2] = [b".gopclntab\0", b".data.rel.ro.gopclntab\0"];
    const HEADER_BYTES: u64 = 64;
    let table = pages.u64(40)?;
    let [_, _, count_0, count_1, names_0, names_1] = pages.array(58)?;
    let (count, names) = (u16::from_le_bytes([count_0, count_1]), u16::from_le_bytes([names_0, names_1]));
    let at = |index: u16| table.checked_add(u64::from(index) * HEADER_BYTES);
    let end = at(count).filter(|end| *end <= pages.byte_count());
    let (Some(_), Some(names), true) = (end, at(names), count > 0 && table > 0 && names < count) else {
        return Ok(Sections::Stripped);
    };
    let names = pages.u64(names + 24)?;
    for index in 0..count {
        let header = table + u64::from(index) * HEADER_BYTES;
        let mut name = [0; 23];
        let name_at = names.saturating_add(pages.u32(header)?.into());
        let filled = pages.prefix(name_at, &mut name)?;
        if NAMES.iter().any(|wanted| name[..filled].starts_with(wanted)) {
            return Ok(Sections::Has(pages.u64(header + 24)?));
        }
    }
    Ok(Sections::Lacks)
}

/// The places in all that is loaded and no code where a struct of `bytes` bytes may begin.
fn places(layout: &Layout, byte_count: u64, bytes: u64) -> impl Iterator<Item = u64> {
    let data = layout.segments.iter().filter(|segment| !segment.executable);
    let all = data.flat_map(move |segment| {
        let end = segment.offset.0.saturating_add(segment.file_bytes).min(byte_count).saturating_sub(bytes);
        let first = segment.offset.0.min(end).next_multiple_of(8);
        (first..end).step_by(8)
    });
    all.take(Limits::SEARCHED_PLACES)
}

/// Searches for something that parses as a table's header.
fn search_segments<F: ReadAt + ?Sized>(
    pages: &mut Pages<'_, F>,
    layout: &Layout,
) -> Result<Option<u64>, GoRefusal> {
    for offset in places(layout, pages.byte_count(), HEADER_BYTES as u64) {
        if looks_like_header(pages.array(offset)?)
            && let Ok(header) = Header::parse(pages, offset)
            && header.functions > 1
        {
            return Ok(Some(offset));
        }
    }
    Ok(None)
}

/// What a `moduledata` must point to.
struct Module {
    /// Of the table's header.
    svma: u64,
    header: Header,
}

impl Module {
    /// Searches memory as the file states it.
    fn in_memory<F: ReadAt + ?Sized>(
        &self,
        pages: &mut Pages<'_, F>,
        layout: &Layout,
    ) -> Result<Option<u64>, GoRefusal> {
        let mut candidates = 0;
        for offset in places(layout, pages.byte_count(), MODULE_BYTES) {
            if pages.u64(offset)? != self.svma
                || pages.u64(offset + FTAB_LENGTH)? != self.header.functions + 1
            {
                continue;
            }
            candidates += 1;
            if candidates > Limits::MODULES {
                break;
            }
            let [low, high, text] =
                [pages.u64(offset + MIN_PC)?, pages.u64(offset + MAX_PC)?, pages.u64(offset + TEXT)?];
            if self.agrees(pages, low, high, text)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Searches memory as the dynamic linker would make it.
    fn in_relocations<F: ReadAt + ?Sized>(
        &self,
        pages: &mut Pages<'_, F>,
        layout: &Layout,
    ) -> Result<Option<u64>, GoRefusal> {
        let Some((first, count)) = relocations(pages, layout)? else { return Ok(None) };
        let mut candidates: Vec<(u64, [Option<u64>; 3])> = Vec::new();
        for index in 0..count {
            if let Some((place, addend)) = relative(pages, first + index * RELA_BYTES)?
                && addend == self.svma
                && candidates.len() < Limits::MODULES
                && let Some(offset) = offset_of(layout, place)
                && pages.u64(offset.saturating_add(FTAB_LENGTH))? == self.header.functions + 1
            {
                candidates.push((place, [None; 3]));
            }
        }
        if candidates.is_empty() {
            return Ok(None);
        }
        for index in 0..count {
            let Some((place, addend)) = relative(pages, first + index * RELA_BYTES)? else { continue };
            for (module, words) in &mut candidates {
                for (word, at) in words.iter_mut().zip([MIN_PC, MAX_PC, TEXT]) {
                    if place == module.wrapping_add(at) {
                        *word = Some(addend);
                    }
                }
            }
        }
        for (_, words) in candidates {
            if let [Some(low), Some(high), Some(text)] = words
                && self.agrees(pages, low, high, text)?
            {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    fn agrees<F: ReadAt + ?Sized>(
        &self,
        pages: &mut Pages<'_, F>,
        low: u64,
        high: u64,
        text: u64,
    ) -> Result<bool, GoRefusal> {
        let first = self.header.entry(pages, 0)?;
        let end = self.header.entry(pages, self.header.functions)?;
        Ok(text.checked_add(first) == Some(low) && text.checked_add(end) == Some(high))
    }
}

/// Where the relocations of the file begin, and how many there are.
fn relocations<F: ReadAt + ?Sized>(
    pages: &mut Pages<'_, F>,
    layout: &Layout,
) -> Result<Option<(u64, u64)>, GoRefusal> {
    let (table, count) = (pages.u64(32)?, u16::from_le_bytes(pages.array(56)?));
    for index in 0..count {
        let header = table.saturating_add(56 * u64::from(index));
        if pages.u32(header)? != PT_DYNAMIC {
            continue;
        }
        let (offset, bytes) = (pages.u64(header + 8)?, pages.u64(header + 32)?);
        let (mut rela, mut rela_bytes) = (None, None);
        for entry in 0..(bytes / 16).min(Limits::DYNAMIC_ENTRIES) {
            let at = offset.saturating_add(16 * entry);
            match pages.u64(at)? {
                DT_RELA => rela = Some(pages.u64(at.saturating_add(8))?),
                DT_RELA_BYTES => rela_bytes = Some(pages.u64(at.saturating_add(8))?),
                _ => {}
            }
        }
        let (Some(rela), Some(rela_bytes)) = (rela, rela_bytes) else { return Ok(None) };
        let Some(first) = offset_of(layout, rela) else { return Ok(None) };
        let count = rela_bytes.min(pages.byte_count().saturating_sub(first)) / RELA_BYTES;
        return Ok(Some((first, count.min(Limits::RELOCATIONS))));
    }
    Ok(None)
}

/// Place and addend of the relocation at `at`, if it is one by the load address alone.
fn relative<F: ReadAt + ?Sized>(pages: &mut Pages<'_, F>, at: u64) -> Result<Option<(u64, u64)>, Unreadable> {
    let kind = pages.u32(at + 8)?;
    if kind != RELATIVE_X86_64 && kind != RELATIVE_AARCH64 {
        return Ok(None);
    }
    Ok(Some((pages.u64(at)?, pages.u64(at + 16)?)))
}

fn svma_of(layout: &Layout, offset: u64) -> Option<u64> {
    layout.segments.iter().find_map(|segment: &Segment| {
        let within = offset.checked_sub(segment.offset.0).filter(|within| *within < segment.file_bytes)?;
        segment.svma.checked_add(within)
    })
}

/// Where in the file the byte at `svma` is.
pub(super) fn offset_of(layout: &Layout, svma: u64) -> Option<u64> {
    layout.segments.iter().find_map(|segment: &Segment| {
        let within = svma.checked_sub(segment.svma).filter(|within| *within < segment.file_bytes)?;
        segment.offset.0.checked_add(within)
    })
}
