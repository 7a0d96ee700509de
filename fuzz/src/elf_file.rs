//! The smallest ELF file that has one section: for parsers of a section, so that mutation spares the headers around it.

use pyrite_unwind::Arch;

/// The whole file, and code that is not in it, is loaded at this svma.
pub(crate) const LOWEST_SVMA: u64 = 0x40_0000;
/// Where the section begins in the file.
pub(crate) const SECTION_AT: u64 = 128;
/// As far as code reaches by what the headers say.
const LOADED_BYTES: u64 = 1 << 24;

/// A file with `bytes` as its section of this name.
pub(crate) fn with_section(arch: Arch, name: &str, bytes: &[u8]) -> Vec<u8> {
    let machine: u16 = if arch == Arch::X86_64 { 62 } else { 183 };
    let names = format!("\0{name}\0.shstrtab\0");
    let names_at = SECTION_AT + bytes.len() as u64;
    let headers_at = (names_at + names.len() as u64).next_multiple_of(8);

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // A shared object with a program header behind this one and three section headers at the end, the last with names.
    put(&mut file, 2, &[3, machine.into()]);
    put(&mut file, 4, &[1]);
    put(&mut file, 8, &[0, 64, headers_at]);
    put(&mut file, 4, &[0]);
    put(&mut file, 2, &[64, 56, 1, 64, 3, 2]);
    // PT_LOAD, readable and executable.
    put(&mut file, 4, &[1, 5]);
    put(&mut file, 8, &[0, LOWEST_SVMA, LOWEST_SVMA, LOADED_BYTES, LOADED_BYTES, 0x1000]);
    file.resize(SECTION_AT as usize, 0);
    file.extend_from_slice(bytes);
    file.extend_from_slice(names.as_bytes());
    file.resize(headers_at as usize, 0);
    put(&mut file, 8, &[0; 8]);
    // Name, SHT_PROGBITS or SHT_STRTAB, SHF_ALLOC, svma, offset, size.
    put(&mut file, 4, &[1, 1]);
    put(&mut file, 8, &[2, LOWEST_SVMA + SECTION_AT, SECTION_AT, bytes.len() as u64, 0, 1, 0]);
    put(&mut file, 4, &[2 + name.len() as u64, 3]);
    put(&mut file, 8, &[0, 0, names_at, names.len() as u64, 0, 1, 0]);
    file
}

/// Appends each value with so many bytes.
pub(crate) fn put(file: &mut Vec<u8>, width: usize, values: &[u64]) {
    values.iter().for_each(|value| file.extend_from_slice(&value.to_le_bytes()[..width]));
}
