//! Writes small ELF files with call frame information byte by byte, well-formed or not.

use pyrite_unwind::{Arch, Cfa, RawTable, Rule, Saved, extract};

/// The file is loaded as a whole at this svma, so that svma = offset + this.
pub(crate) const LOWEST_SVMA: u64 = 0x40_0000;
/// All of the file up to here is "code"; sections follow.
pub(crate) const CODE_BYTES: u64 = 0x8000;

/// One of the sections of a file to be.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) flags: u64,
    /// Where it is, for sections within the code.
    pub(crate) at: Option<u64>,
}

impl Section {
    pub(crate) fn new(name: &'static str, bytes: Vec<u8>) -> Self {
        Self { name, bytes, flags: 2, at: None }
    }
}

/// A file to be.
pub(crate) struct Elf {
    pub(crate) arch: Arch,
    pub(crate) sections: Vec<Section>,
    pub(crate) section_headers: bool,
    /// svma of the first instruction.
    pub(crate) entry: u64,
}

impl Elf {
    pub(crate) fn new(arch: Arch, eh_frame: Vec<u8>) -> Self {
        Self { arch, sections: vec![Section::new(".eh_frame", eh_frame)], section_headers: true, entry: 0 }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; CODE_BYTES as usize];
        let mut places = Vec::new();
        for section in &self.sections {
            let at = section.at.unwrap_or(file.len() as u64) as usize;
            let end = at + section.bytes.len();
            file.resize(file.len().max(end), 0);
            file[at..end].copy_from_slice(&section.bytes);
            file.resize(file.len().next_multiple_of(16), 0);
            places.push(at as u64);
        }
        // .eh_frame_hdr: a 4-byte pointer relative to itself, no search table.
        let hdr_at = file.len() as u64;
        let relative = (places[0] as i64 - hdr_at as i64 - 4) as i32;
        file.extend_from_slice(&[1, 0x1b, 0xff, 0xff]);
        file.extend_from_slice(&relative.to_le_bytes());
        file.resize(file.len() + 8, 0);
        let loaded = file.len() as u64;

        let (mut section_table, mut names) = (Vec::new(), vec![0_u8]);
        section_table.extend_from_slice(&[0; 64]);
        for (section, at) in self.sections.iter().zip(&places) {
            let name = names.len() as u32;
            names.extend_from_slice(section.name.as_bytes());
            names.push(0);
            let svma = if section.flags & 2 != 0 { LOWEST_SVMA + at } else { 0 };
            let fields = [section.flags, svma, *at, section.bytes.len() as u64];
            section_table.extend_from_slice(&section_header(name, 1, fields));
        }
        let names_at = file.len() as u64;
        let names_name = names.len() as u32;
        names.extend_from_slice(b".shstrtab\0");
        section_table.extend_from_slice(&section_header(names_name, 3, [0, 0, names_at, names.len() as u64]));
        file.extend_from_slice(&names);
        file.resize(file.len().next_multiple_of(16), 0);
        let table_at = if self.section_headers { file.len() as u64 } else { 0 };
        if self.section_headers {
            file.extend_from_slice(&section_table);
        }
        let dynamic = self.sections.iter().zip(&places).find(|(section, _)| section.name == ".dynamic");
        let dynamic = dynamic.map(|(section, at)| program_header(2, 6, *at, section.bytes.len() as u64));
        let mut header = self.header(table_at, 2 + u16::from(dynamic.is_some()));
        // PT_LOAD, readable and executable; PT_GNU_EH_FRAME; PT_DYNAMIC.
        header.extend_from_slice(&program_header(1, 5, 0, loaded));
        header.extend_from_slice(&program_header(0x6474_e550, 4, hdr_at, 16));
        header.extend(dynamic.into_iter().flatten());
        file[..header.len()].copy_from_slice(&header);
        file
    }

    fn header(&self, table_at: u64, programs: u16) -> Vec<u8> {
        let machine: u16 = if self.arch == Arch::X86_64 { 62 } else { 183 };
        let sections = if self.section_headers { self.sections.len() as u16 + 2 } else { 0 };
        let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        header.extend_from_slice(&3_u16.to_le_bytes());
        header.extend_from_slice(&machine.to_le_bytes());
        header.extend_from_slice(&1_u32.to_le_bytes());
        for word in [self.entry, 64, table_at] {
            header.extend_from_slice(&word.to_le_bytes());
        }
        header.extend_from_slice(&0_u32.to_le_bytes());
        for half in [64, 56, programs, 64, sections, sections.saturating_sub(1)] {
            header.extend_from_slice(&half.to_le_bytes());
        }
        header
    }

    pub(crate) fn table(&self) -> RawTable {
        extract(self.bytes().as_slice(), self.arch).expect("a table")
    }
}

fn section_header(name: u32, kind: u32, [flags, svma, at, bytes]: [u64; 4]) -> [u8; 64] {
    let mut header = [0; 64];
    header[..4].copy_from_slice(&name.to_le_bytes());
    header[4..8].copy_from_slice(&kind.to_le_bytes());
    for (slot, value) in header[8..40].chunks_exact_mut(8).zip([flags, svma, at, bytes]) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    header
}

fn program_header(kind: u32, flags: u32, at: u64, bytes: u64) -> Vec<u8> {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend_from_slice(&flags.to_le_bytes());
    for word in [at, LOWEST_SVMA + at, LOWEST_SVMA + at, bytes, bytes, 0x1000] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header
}

/// Call frame information of one section, entry by entry.
pub(crate) struct Cfi {
    bytes: Vec<u8>,
    last_cie: usize,
    /// `.debug_frame` has absolute addresses and counts CIEs from its start.
    debug: bool,
}

impl Cfi {
    pub(crate) fn eh_frame() -> Self {
        Self { bytes: Vec::new(), last_cie: 0, debug: false }
    }

    pub(crate) fn debug_frame() -> Self {
        Self { bytes: Vec::new(), last_cie: 0, debug: true }
    }

    /// A CIE with these augmentation letters besides "zR".
    pub(crate) fn cie(mut self, arch: Arch, letters: &str, instructions: &[u8]) -> Self {
        self.last_cie = self.bytes.len();
        // Code alignment 1 or 4, data alignment -8, return address in rip or x30.
        let factors: [u8; 3] = if arch == Arch::X86_64 { [1, 0x78, 16] } else { [4, 0x78, 30] };
        let mut body = if self.debug { u32::MAX.to_le_bytes().to_vec() } else { vec![0; 4] };
        if self.debug {
            body.extend_from_slice(&[4, 0, 8, 0]);
            body.extend_from_slice(&factors);
        } else {
            body.push(1);
            body.extend_from_slice(format!("zR{letters}\0").as_bytes());
            body.extend_from_slice(&factors);
            // Pointers of functions are 4 bytes, relative to where they stand.
            body.extend_from_slice(&[1, 0x1b]);
        }
        body.extend_from_slice(instructions);
        self.entry(&body)
    }

    /// An FDE of the last CIE, for code at an offset into the file.
    pub(crate) fn fde(mut self, at: u64, code_bytes: u32, instructions: &[u8]) -> Self {
        let mut body = Vec::new();
        if self.debug {
            body.extend_from_slice(&(self.last_cie as u32).to_le_bytes());
            body.extend_from_slice(&(LOWEST_SVMA + at).to_le_bytes());
            body.extend_from_slice(&u64::from(code_bytes).to_le_bytes());
        } else {
            let here = self.bytes.len() + 4;
            body.extend_from_slice(&((here - self.last_cie) as u32).to_le_bytes());
            let relative = at as i64 - (CODE_BYTES as i64 + here as i64 + 4);
            body.extend_from_slice(&(relative as i32).to_le_bytes());
            body.extend_from_slice(&code_bytes.to_le_bytes());
            body.push(0);
        }
        body.extend_from_slice(instructions);
        self = self.entry(&body);
        self
    }

    /// Any bytes.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn entry(mut self, body: &[u8]) -> Self {
        let padded = body.len().next_multiple_of(4);
        self.bytes.extend_from_slice(&(padded as u32).to_le_bytes());
        self.bytes.extend_from_slice(body);
        self.bytes.resize(self.bytes.len() + padded - body.len(), 0);
        self
    }

    /// With the terminator of `.eh_frame`.
    pub(crate) fn done(mut self) -> Vec<u8> {
        if !self.debug {
            self.bytes.extend_from_slice(&[0; 4]);
        }
        self.bytes
    }
}

/// The rows of a table, spelled out.
pub(crate) fn rows(table: &RawTable) -> Vec<(u32, Rule)> {
    table.rows.iter().map(|row| (row.pc, table.rules[row.rule as usize])).collect()
}

/// `DW_CFA` instructions, and those of the CIEs that compilers write.
pub(crate) mod cfi {
    pub(crate) const fn advance(code_units: u8) -> u8 {
        0x40 | code_units
    }
    pub(crate) const fn offset(register: u8) -> u8 {
        0x80 | register
    }
    pub(crate) const fn restore(register: u8) -> u8 {
        0xc0 | register
    }
    pub(crate) const DEF_CFA: u8 = 0x0c;
    pub(crate) const DEF_CFA_REGISTER: u8 = 0x0d;
    pub(crate) const DEF_CFA_OFFSET: u8 = 0x0e;
    pub(crate) const DEF_CFA_EXPRESSION: u8 = 0x0f;
    pub(crate) const EXPRESSION: u8 = 0x10;
    pub(crate) const UNDEFINED: u8 = 0x07;
    pub(crate) const IN_REGISTER: u8 = 0x09;
    pub(crate) const VAL_OFFSET: u8 = 0x14;
    pub(crate) const REMEMBER: u8 = 0x0a;
    pub(crate) const RESTORE_STATE: u8 = 0x0b;
    pub(crate) const NEGATE_RA_STATE: u8 = 0x2d;

    /// rsp + 8, return address below it.
    pub(crate) const X86_64: [u8; 5] = [DEF_CFA, 7, 8, offset(16), 1];
    /// sp + 0, return address in x30.
    pub(crate) const AARCH64: [u8; 3] = [DEF_CFA, 31, 0];
}

/// The frame address so many bytes above SP, the return address just below it.
pub(crate) fn sp(cfa: i32) -> Rule {
    Rule::new(Cfa::Sp(cfa), Saved::Same, Saved::AtCfa(-8))
}

/// A file with these functions, which find the frame address 8 above SP at their start.
pub(crate) fn x86_64(functions: impl FnOnce(Cfi) -> Cfi) -> Elf {
    Elf::new(Arch::X86_64, functions(Cfi::eh_frame().cie(Arch::X86_64, "", &cfi::X86_64)).done())
}
