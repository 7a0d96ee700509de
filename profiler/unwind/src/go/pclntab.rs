//! The layout of `.gopclntab`: which functions a Go program has, and by how much each moves the stack pointer where.
//!
//! ```text
//! header    magic u32, 0, 0, quantum u8, pointer size u8, functions u64, files u64, [text start u64,] offsets u64 × 5
//! functab   { entry, function offset } × functions, end of the code          u32 each, u64 in Go 1.16 and 1.17
//! function  entry, name i32, args i32, deferreturn u32, pcsp u32, … , function id u8, flags u8
//! pcsp      { change of the delta, varint zigzag; length of code, varint } until a change of zero
//! ```
//!
//! Source: `src/runtime/symtab.go`, `src/runtime/runtime2.go` and `src/debug/gosym/pclntab.go` of Go 1.16 to 1.26. Offsets
//! count from the header, those of the functions from the functab.

use super::pages::Pages;
use super::{GoRefusal, Limits};
use crate::read::{ReadAt, Unreadable};

/// Which Go release changed the layout last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Go116,
    Go118,
    Go120,
}

/// Bytes of the longest header.
pub(super) const HEADER_BYTES: usize = 72;

/// What a header says, with offsets turned into places in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    version: Version,
    /// Code lengths count in this many bytes.
    quantum: u64,
    pub(super) functions: u64,
    /// Of the code; in versions from 1.26 on and in position-independent programs it is 0 here.
    pub(super) text_start: u64,
    names: u64,
    pcsp: u64,
    functab: u64,
}

/// One function of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    /// As the functab states it: relative to the text start from Go 1.18 on.
    pub(super) entry: u64,
    /// Where its name is in the file.
    pub(super) name: u64,
    /// Where its stack pointer deltas are in the file; none for code that Go knows nothing of, such as C.
    pcsp: Option<u64>,
    pub(super) flags: u8,
}

/// It ends the stack of a thread or goroutine.
pub(super) const FLAG_TOP_FRAME: u8 = 1;
/// It sets the stack pointer to something else, and the deltas do not tell.
pub(super) const FLAG_SP_WRITE: u8 = 2;

impl Header {
    /// Reads the header whose first byte is at `offset` of the file.
    pub(super) fn parse<F: ReadAt + ?Sized>(
        pages: &mut Pages<'_, F>,
        offset: u64,
    ) -> Result<Self, GoRefusal> {
        let [m0, m1, m2, m3, zero0, zero1, quantum, pointer_bytes] = pages.array(offset)?;
        let version = version([m0, m1, m2, m3]).ok_or(GoRefusal::Version)?;
        if zero0 != 0 || zero1 != 0 || pointer_bytes != 8 || !matches!(quantum, 1 | 2 | 4) {
            return Err(GoRefusal::Malformed);
        }
        let mut words = [0; 8];
        let known = if version == Version::Go116 { 7 } else { 8 };
        for (index, word) in words.iter_mut().take(known).enumerate() {
            *word = pages.u64(offset.saturating_add(8 + 8 * index as u64))?;
        }
        if version == Version::Go116 {
            // This version has no text start.
            words[2..].rotate_right(1);
        }
        let [functions, _files, text_start, names, _units, _file_names, pcsp, functab] = words;
        let place = |from_header: u64| {
            let at = offset.checked_add(from_header).filter(|at| *at < pages.byte_count());
            at.ok_or(GoRefusal::Malformed)
        };
        let header = Self {
            version,
            quantum: quantum.into(),
            functions,
            text_start,
            names: place(names)?,
            pcsp: place(pcsp)?,
            functab: place(functab)?,
        };
        let room = (pages.byte_count() - header.functab) / header.entry_bytes();
        if functions == 0 || functions >= room || functions > Limits::FUNCTIONS {
            return Err(GoRefusal::Malformed);
        }
        Ok(header)
    }

    /// Bytes of a functab entry.
    fn entry_bytes(&self) -> u64 {
        if self.version == Version::Go116 { 16 } else { 8 }
    }

    /// Whether function entries are addresses and not offsets from the text start.
    pub(super) fn absolute(&self) -> bool {
        self.version == Version::Go116
    }

    /// The entry of function `index`; of the one behind the last: the end of the code.
    pub(super) fn entry<F: ReadAt + ?Sized>(
        &self,
        pages: &mut Pages<'_, F>,
        index: u64,
    ) -> Result<u64, Unreadable> {
        let at = self.functab + index * self.entry_bytes();
        if self.absolute() { pages.u64(at) } else { Ok(pages.u32(at)?.into()) }
    }

    pub(super) fn function<F: ReadAt + ?Sized>(
        &self,
        pages: &mut Pages<'_, F>,
        index: u64,
    ) -> Result<Function, Unreadable> {
        let at = self.functab + index * self.entry_bytes();
        let (entry, offset, entry_field) = if self.absolute() {
            (pages.u64(at)?, pages.u64(at + 8)?, 8)
        } else {
            (pages.u32(at)?.into(), pages.u32(at + 4)?.into(), 4)
        };
        let fields = self.functab.saturating_add(offset).saturating_add(entry_field);
        // Behind the entry: name, args, deferreturn, pcsp, pcfile, pcln, npcdata, cuOffset, [startLine,] funcID, flag.
        let flags_at = if self.version == Version::Go120 { 37 } else { 33 };
        let pcsp = pages.u32(fields.saturating_add(12))?;
        Ok(Function {
            entry,
            name: self.names.saturating_add(pages.u32(fields)?.into()),
            pcsp: (pcsp != 0).then(|| self.pcsp.saturating_add(pcsp.into())),
            flags: pages.u8(fields.saturating_add(flags_at))?,
        })
    }

    /// Where in `bytes` bytes of code which delta holds: (from, delta), sorted, into `spans`. Deltas are how many bytes
    /// the function has put on the stack so far, the return address on `x86_64` not counted. `spans` is empty before.
    pub(super) fn spans<F: ReadAt + ?Sized>(
        &self,
        pages: &mut Pages<'_, F>,
        function: &Function,
        bytes: u64,
        spans: &mut Vec<(u64, i32)>,
    ) -> Result<(), GoRefusal> {
        let Some(mut at) = function.pcsp else { return Ok(()) };
        let (mut pc, mut delta) = (0_u64, -1_i32);
        while pc < bytes {
            let change = varint(pages, &mut at)?;
            if change == 0 && pc != 0 {
                break;
            }
            if spans.len() == Limits::FUNCTION_SPANS {
                return Err(GoRefusal::Malformed);
            }
            let half = (change >> 1) as i32;
            delta = delta.wrapping_add(if change & 1 == 0 { half } else { !half });
            spans.push((pc, delta));
            let length = u64::from(varint(pages, &mut at)?) * self.quantum;
            if length == 0 {
                return Err(GoRefusal::Malformed);
            }
            pc += length;
        }
        Ok(())
    }
}

/// Whether these are the first bytes of a table, and of which layout.
fn version(magic: [u8; 4]) -> Option<Version> {
    match u32::from_le_bytes(magic) {
        0xffff_fffa => Some(Version::Go116),
        0xffff_fff0 => Some(Version::Go118),
        0xffff_fff1 => Some(Version::Go120),
        _ => None,
    }
}

/// Whether a table may begin with these bytes.
pub(super) fn looks_like_header(bytes: [u8; 8]) -> bool {
    let [m0, m1, m2, m3, 0, 0, 1 | 2 | 4, 8] = bytes else { return false };
    version([m0, m1, m2, m3]).is_some()
}

fn varint<F: ReadAt + ?Sized>(pages: &mut Pages<'_, F>, at: &mut u64) -> Result<u32, GoRefusal> {
    let mut value = 0_u32;
    for shift in (0..35).step_by(7) {
        let byte = pages.u8(*at)?;
        *at = at.saturating_add(1);
        value |= u32::from(byte & 0x7f).wrapping_shl(shift);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(GoRefusal::Malformed)
}
