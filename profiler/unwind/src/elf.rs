//! Reads from an ELF file just what unwinding needs: program headers, section headers and the few sections asked for.
//!
//! Nothing is mapped. What a file can make us read is bounded: headers by [`MAX_HEADER_BYTES`], a section by
//! [`MAX_SECTION_BYTES`] before and after it is unpacked. So is what it can make us allocate: a sparse file may be far larger
//! than memory, so that no size may be believed because the file has as many bytes.

use std::io::Read;

use gimli::{BaseAddresses, EhFrameHdr, LittleEndian};
use object::elf::{self, FileHeader64};
use object::pod;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, Sym};
use object::read::{ReadCache, ReadCacheOps, ReadRef};
use pyrite_model::FileOffset;

use crate::read::{ReadAt, Unreadable, read_exact, read_range};
use crate::table::{Arch, Layout, Segment};

type Header = FileHeader64<object::LittleEndian>;
type ProgramHeader64 = elf::ProgramHeader64<object::LittleEndian>;
type SectionHeader64 = elf::SectionHeader64<object::LittleEndian>;
type Symbol = elf::Sym64<object::LittleEndian>;
const ENDIAN: object::LittleEndian = object::LittleEndian;

/// Program headers, section headers and section names together.
const MAX_HEADER_BYTES: u64 = 4 << 20;
/// Linkers make some ten. Each function's address is looked for among them.
const MAX_PROGRAM_HEADERS: u32 = 128;
const MAX_SECTION_HEADERS: u32 = MAX_HEADER_BYTES as u32 / size_of::<SectionHeader64>() as u32;
/// The largest known have some forty entries of 16 bytes.
const MAX_DYNAMIC_BYTES: u64 = 64 << 10;
/// The largest `.eh_frame` known, of a browser with all its symbols, has some 30 MiB.
const MAX_SECTION_BYTES: u64 = 64 << 20;
/// Longer names are none that anybody asks for, and a file may give all its sections one long name.
const MAX_NAME_BYTES: usize = 32;
/// What unpacking may take beside its result: the window of zstd's levels up to 19. Others are not met.
const MAX_WINDOW_LOG: u32 = 23;
/// Where the size of `.eh_frame` is not known, `.eh_frame_hdr` is read up to its pointer to it.
const EH_FRAME_HDR_BYTES: u64 = 16;
/// How much of a symbol's name is looked at.
const NAME_BYTES: u64 = 512;

/// An ELF file whose headers were read.
pub(crate) struct Elf<'f, F: ?Sized> {
    file: &'f F,
    pub(crate) arch: Arch,
    pub(crate) layout: Layout,
    sections: Vec<SectionHead>,
    /// Where `PT_GNU_EH_FRAME` says that `.eh_frame_hdr` is: svma, and place in the file.
    eh_frame_hdr: Option<(u64, FileOffset)>,
    /// It names a loader or a library, so its libc is another file.
    pub(crate) needs_libraries: bool,
    /// svma of the first instruction that runs; none in libraries, whose headers may name any.
    pub(crate) entry: Option<u64>,
}

/// A function that the symbol table names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FunctionSymbol {
    pub(crate) svma: u64,
    /// 0 where it is not stated.
    pub(crate) bytes: u64,
    /// Where its name is in the file.
    name: u64,
}

/// What the section header says.
pub(crate) struct SectionHead {
    pub(crate) name: Vec<u8>,
    pub(crate) svma: u64,
    pub(crate) bytes: u64,
    offset: FileOffset,
    compressed: bool,
}

/// A section's bytes, unpacked.
pub(crate) struct Section {
    pub(crate) svma: u64,
    pub(crate) bytes: Vec<u8>,
}

impl<'f, F: ReadAt + ?Sized> Elf<'f, F> {
    /// Reads the headers.
    pub(crate) fn read(file: &'f F) -> Result<Self, Unreadable> {
        let mut ident = [0; 64];
        read_exact(file, 0, &mut ident)?;
        if ident[..4] != elf::ELFMAG {
            return Err(Unreadable::Malformed);
        }
        if ident[4] != elf::ELFCLASS64.0 || ident[5] != elf::ELFDATA2LSB.0 {
            return Err(Unreadable::OtherArchitecture);
        }
        let cache = ReadCache::new(HeaderReader { file, position: 0, left: MAX_HEADER_BYTES });
        let header = Header::parse(&cache).map_err(|_malformed| Unreadable::Malformed)?;
        let arch = match header.e_machine(ENDIAN) {
            elf::EM_X86_64 => Arch::X86_64,
            elf::EM_AARCH64 => Arch::Aarch64,
            _ => return Err(Unreadable::OtherArchitecture),
        };
        if !matches!(header.e_type(ENDIAN), elf::ET_EXEC | elf::ET_DYN) {
            return Err(Unreadable::NotExecutable);
        }
        let programs = program_headers(header, &cache)?;
        let loaded = programs.iter().filter(|program| program.p_type(ENDIAN) == elf::PT_LOAD);
        let segments: Vec<_> = loaded.map(segment).collect();
        let lowest_svma =
            segments.iter().map(|segment| segment.svma).min().ok_or(Unreadable::NotExecutable)?;
        let hdr = programs.iter().find(|program| program.p_type(ENDIAN) == elf::PT_GNU_EH_FRAME);
        let names_loader = programs.iter().any(|program| program.p_type(ENDIAN) == elf::PT_INTERP);
        let names_libraries = programs.iter().any(|program| names_libraries(program, &cache));
        let entry = Some(header.e_entry(ENDIAN)).filter(|entry| *entry != 0);
        Ok(Self {
            file,
            arch,
            layout: Layout { lowest_svma, segments },
            // They are not needed to run a program, so a file whose own are missing or broken is still of use.
            sections: section_heads(header, &cache).unwrap_or_default(),
            needs_libraries: names_loader || names_libraries,
            entry: entry.filter(|_| names_loader || !names_libraries),
            eh_frame_hdr: hdr.map(|hdr| (hdr.p_vaddr(ENDIAN), FileOffset(hdr.p_offset(ENDIAN)))),
        })
    }

    /// The headers of the sections that have bytes in the file.
    pub(crate) fn section_heads(&self) -> &[SectionHead] {
        &self.sections
    }

    /// The section of this name, if there is one with bytes in the file.
    pub(crate) fn section(&self, name: &[u8]) -> Result<Option<Section>, Unreadable> {
        let Some(head) = self.sections.iter().find(|head| head.name == name && head.bytes > 0) else {
            return Ok(None);
        };
        if head.bytes > MAX_SECTION_BYTES {
            return Err(Unreadable::TooLarge { bytes: head.bytes });
        }
        let raw = read_range(self.file, head.offset.0, head.bytes)?;
        let bytes = if head.compressed {
            unpack(&raw)?
        } else if name.starts_with(b".zdebug") {
            unpack_gnu(&raw)?
        } else {
            raw
        };
        Ok(Some(Section { svma: head.svma, bytes }))
    }

    /// `.eh_frame`, found by its section header or, in files without any, by `PT_GNU_EH_FRAME`.
    pub(crate) fn eh_frame(&self) -> Result<Option<Section>, Unreadable> {
        match self.section(b".eh_frame")? {
            Some(section) => Ok(Some(section)),
            None => self.eh_frame_by_segment(),
        }
    }

    fn eh_frame_by_segment(&self) -> Result<Option<Section>, Unreadable> {
        let Some((hdr_svma, hdr_offset)) = self.eh_frame_hdr else { return Ok(None) };
        let hdr = read_range(self.file, hdr_offset.0, EH_FRAME_HDR_BYTES)?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(hdr_svma);
        let parsed = EhFrameHdr::new(&hdr, LittleEndian).parse(&bases, 8);
        let pointer = parsed.and_then(|parsed| parsed.eh_frame_ptr().direct());
        let svma = pointer.map_err(|_malformed| Unreadable::Malformed)?;
        let Some((offset, rest)) = self.layout.file_offset(svma) else { return Ok(None) };
        // Its size is not stated; a terminator ends it.
        let bytes = read_range(self.file, offset.0, rest.min(MAX_SECTION_BYTES))?;
        Ok(Some(Section { svma, bytes }))
    }

    /// The functions of `.symtab`, or of `.dynsym` in files without it.
    pub(crate) fn function_symbols(&self) -> Result<Vec<FunctionSymbol>, Unreadable> {
        let tables: [(&[u8], &[u8]); 2] = [(b".symtab", b".strtab"), (b".dynsym", b".dynstr")];
        for (table, names) in tables {
            let Some(section) = self.section(table)? else { continue };
            let names = self.sections.iter().find(|head| head.name == names).ok_or(Unreadable::Malformed)?;
            let (symbols, _rest) =
                pod::slice_from_bytes::<Symbol>(&section.bytes, section.bytes.len() / size_of::<Symbol>())
                    .map_err(|()| Unreadable::Malformed)?;
            let defined = symbols.iter().filter(|symbol| {
                symbol.st_type() == elf::STT_FUNC && symbol.st_shndx(ENDIAN) != elf::SHN_UNDEF
            });
            let functions = defined.map(|symbol| FunctionSymbol {
                svma: symbol.st_value(ENDIAN),
                bytes: symbol.st_size(ENDIAN),
                name: names.offset.0.saturating_add(symbol.st_name(ENDIAN).into()),
            });
            return Ok(functions.collect());
        }
        Ok(Vec::new())
    }

    /// The first bytes of a function's name.
    pub(crate) fn symbol_name(&self, symbol: FunctionSymbol) -> Result<Vec<u8>, Unreadable> {
        let rest = self.file.byte_count().saturating_sub(symbol.name);
        let mut name = read_range(self.file, symbol.name, rest.min(NAME_BYTES))?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    /// At most `bytes` bytes of the file that are loaded at `svma`.
    pub(crate) fn loaded(&self, svma: u64, bytes: u64) -> Result<Vec<u8>, Unreadable> {
        let Some((offset, rest)) = self.layout.file_offset(svma) else { return Ok(Vec::new()) };
        read_range(self.file, offset.0, rest.min(bytes).min(MAX_SECTION_BYTES))
    }
}

/// The number of headers is looked at before any is read, for room is made for all of them first.
fn program_headers<'c, R: ReadRef<'c>>(
    header: &Header,
    file: R,
) -> Result<&'c [ProgramHeader64], Unreadable> {
    let programs = match header.phnum(ENDIAN, file) {
        Ok(0..=MAX_PROGRAM_HEADERS) => header.program_headers(ENDIAN, file),
        _ => return Err(Unreadable::Malformed),
    };
    programs.map_err(|_malformed| Unreadable::Malformed)
}

/// Of the sections that have bytes in the file; likewise.
fn section_heads<'c, R: ReadRef<'c>>(header: &Header, file: R) -> object::read::Result<Vec<SectionHead>> {
    if header.shnum(ENDIAN, file)? > MAX_SECTION_HEADERS {
        return Ok(Vec::new());
    }
    let table = header.sections(ENDIAN, file)?;
    let used = table.iter().filter(|head| head.sh_type(ENDIAN) != elf::SHT_NOBITS);
    let named = used.filter_map(|head| {
        let name = table.section_name(ENDIAN, head).ok()?;
        (name.len() <= MAX_NAME_BYTES).then(|| section_head(head, name))
    });
    Ok(named.collect())
}

fn segment(program: &ProgramHeader64) -> Segment {
    Segment {
        offset: FileOffset(program.p_offset(ENDIAN)),
        svma: program.p_vaddr(ENDIAN),
        file_bytes: program.p_filesz(ENDIAN),
        executable: program.p_flags(ENDIAN).contains(elf::PF_X),
    }
}

fn names_libraries<'c, R: ReadRef<'c>>(program: &ProgramHeader64, file: R) -> bool {
    if program.p_type(ENDIAN) != elf::PT_DYNAMIC || program.p_filesz(ENDIAN) > MAX_DYNAMIC_BYTES {
        return false;
    }
    program.dynamic(ENDIAN, file).is_ok_and(|entries| {
        entries.unwrap_or_default().iter().any(|entry| entry.d_tag(ENDIAN) == elf::DT_NEEDED)
    })
}

fn section_head(head: &SectionHeader64, name: &[u8]) -> SectionHead {
    SectionHead {
        name: name.to_owned(),
        svma: head.sh_addr(ENDIAN),
        bytes: head.sh_size(ENDIAN),
        offset: FileOffset(head.sh_offset(ENDIAN)),
        compressed: head.sh_flags(ENDIAN).contains(elf::SHF_COMPRESSED),
    }
}

/// Unpacks a section whose flags say that it begins with an `Elf64_Chdr`.
fn unpack(raw: &[u8]) -> Result<Vec<u8>, Unreadable> {
    const HEADER_BYTES: usize = 24;
    let (header, packed) = raw.split_at_checked(HEADER_BYTES).ok_or(Unreadable::Malformed)?;
    let kind = u32::from_le_bytes(header[..4].try_into().map_err(|_short| Unreadable::Malformed)?);
    let bytes = u64::from_le_bytes(header[8..16].try_into().map_err(|_short| Unreadable::Malformed)?);
    if kind == elf::ELFCOMPRESS_ZLIB.0 {
        read_all(flate2::read::ZlibDecoder::new(packed), bytes)
    } else if kind == elf::ELFCOMPRESS_ZSTD.0 {
        let decoder = zstd::stream::read::Decoder::with_buffer(packed).and_then(|mut decoder| {
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Ok(decoder)
        });
        read_all(decoder.map_err(|_malformed| Unreadable::Malformed)?, bytes)
    } else {
        Err(Unreadable::Malformed)
    }
}

/// Unpacks a section of the older kind: "ZLIB", its size in big-endian order, and a zlib stream.
fn unpack_gnu(raw: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let rest = raw.strip_prefix(b"ZLIB").ok_or(Unreadable::Malformed)?;
    let (bytes, packed) = rest.split_first_chunk::<8>().ok_or(Unreadable::Malformed)?;
    read_all(flate2::read::ZlibDecoder::new(packed), u64::from_be_bytes(*bytes))
}

fn read_all(unpacked: impl Read, bytes: u64) -> Result<Vec<u8>, Unreadable> {
    if bytes > MAX_SECTION_BYTES {
        return Err(Unreadable::TooLarge { bytes });
    }
    let mut buffer = Vec::new();
    let read = unpacked.take(bytes).read_to_end(&mut buffer);
    match read {
        Ok(count) if count as u64 == bytes => Ok(buffer),
        _ => Err(Unreadable::Malformed),
    }
}

/// The file as the header parser reads it, for as long as it asks for little.
struct HeaderReader<'f, F: ?Sized> {
    file: &'f F,
    position: u64,
    left: u64,
}

impl<F: ReadAt + ?Sized> ReadCacheOps for HeaderReader<'_, F> {
    fn len(&mut self) -> Result<u64, ()> {
        Ok(self.file.byte_count())
    }

    fn seek(&mut self, position: u64) -> Result<u64, ()> {
        self.position = position;
        Ok(position)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ()> {
        self.left = self.left.checked_sub(buffer.len() as u64).ok_or(())?;
        let count = self.file.read_at(self.position, buffer).map_err(|_unreadable| ())?;
        self.position += count as u64;
        Ok(count)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ()> {
        self.left = self.left.checked_sub(buffer.len() as u64).ok_or(())?;
        read_exact(self.file, self.position, buffer).map_err(|_unreadable| ())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ops::Range;

    use super::*;

    /// A file far larger than what there is of it. Notes the most that was asked for at once.
    #[derive(Clone, Copy)]
    struct Sparse<'a> {
        bytes: &'a [u8],
        most: &'a Cell<u64>,
    }

    impl<'a> ReadRef<'a> for Sparse<'a> {
        fn len(self) -> Result<u64, ()> {
            Ok(1 << 40)
        }

        fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
            self.most.set(self.most.get().max(size));
            self.bytes.read_bytes_at(offset, size)
        }

        fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
            self.bytes.read_bytes_at_until(range, delimiter)
        }
    }

    #[test]
    fn headers_are_counted_before_room_is_made_for_them() {
        const SECTION_0: usize = 64;
        const PROGRAM: usize = 128;
        const HUGE: u32 = 1 << 28;
        let mut bytes = vec![0; 192];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(32, &(PROGRAM as u64).to_le_bytes());
        put(40, &(SECTION_0 as u64).to_le_bytes());
        // Sizes of headers, and numbers of headers that stand in section 0.
        put(54, &[56, 0, 0xff, 0xff, 64, 0, 0, 0, 1, 0]);
        put(SECTION_0 + 32, &u64::from(HUGE).to_le_bytes());
        put(SECTION_0 + 44, &HUGE.to_le_bytes());
        put(PROGRAM, &elf::PT_DYNAMIC.0.to_le_bytes());
        put(PROGRAM + 32, &u64::from(HUGE).to_le_bytes());
        let (header, _) = pod::from_bytes::<Header>(&bytes).unwrap();
        let (program, _) = pod::from_bytes::<ProgramHeader64>(&bytes[PROGRAM..]).unwrap();
        let most = Cell::new(0);
        let file = Sparse { bytes: &bytes, most: &most };
        assert!(matches!(program_headers(header, file), Err(Unreadable::Malformed)));
        assert!(section_heads(header, file).unwrap().is_empty());
        assert!(!names_libraries(program, file));
        assert_eq!(most.get(), SECTION_0 as u64);
    }
}
