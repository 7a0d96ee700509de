//! A second opinion, by framehop: other code again, but with less to go on than the judge.
//!
//! It knows three registers only, so rules by others fail; it reads no CFA out of memory; it does not know signal frames;
//! and where it finds no rule it takes the frame pointer without saying so. So it cannot be the judge, but where both
//! reach a root they must agree: that is a check of the judge.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder as _};
use object::{Object as _, ObjectKind, ObjectSection as _, ObjectSegment as _};

use crate::accuracy::symbols::{MappedCode, mapped_code};
use crate::accuracy::{CapturedStack, MappingSet};

/// More frames than any stack of 64 KiB has.
const MAX_FRAMES: usize = 8192;
/// DWARF numbers.
const RBP: usize = 6;
const RSP: usize = 7;

type Bytes = Arc<[u8]>;

/// Unwinders by mapping set, and the files they share.
#[derive(Default)]
pub struct SecondJudge {
    files: HashMap<PathBuf, Option<File>>,
    /// The set used last: cases come process by process.
    last: Option<(u64, UnwinderX86_64<Bytes>)>,
    cache: CacheX86_64,
}

/// What framehop needs of a file.
struct File {
    /// Of the executable segments: file offsets, and the svma of each range's start.
    code: Vec<(Range<u64>, u64)>,
    /// All svmas.
    svmas: Range<u64>,
    at_fixed_address: bool,
    sections: ExplicitModuleSectionInfo<Bytes>,
}

impl SecondJudge {
    /// The return addresses down to a root; `None` where it finds none.
    pub fn judge(&mut self, set: &MappingSet, stack: &CapturedStack) -> Option<Vec<u64>> {
        if self.last.as_ref().is_none_or(|(id, _)| *id != set.id) {
            self.last = Some((set.id, self.unwinder(set)));
        }
        let (_, unwinder) = self.last.as_ref()?;
        let (sp, bp) = (stack.registers[RSP], stack.registers[RBP]);
        let mut read = |avma: u64| {
            let bytes = stack
                .stack
                .get(avma.wrapping_sub(sp) as usize..)
                .and_then(|rest| rest.first_chunk())
                .ok_or(())?;
            Ok(u64::from_ne_bytes(*bytes))
        };
        let registers = UnwindRegsX86_64::new(stack.ip, sp, bp);
        let mut walk = unwinder.iter_frames(stack.ip, registers, &mut self.cache, &mut read);
        let mut frames = Vec::new();
        while frames.len() < MAX_FRAMES {
            match walk.next() {
                Ok(Some(frame)) => frames.push(frame.address()),
                Ok(None) => return Some(frames),
                Err(_) => return None,
            }
        }
        None
    }

    fn unwinder(&mut self, set: &MappingSet) -> UnwinderX86_64<Bytes> {
        let mut unwinder = UnwinderX86_64::new();
        let mut taken: Vec<Range<u64>> = Vec::new();
        for code in mapped_code(set) {
            let file = self.files.entry(code.path.clone()).or_insert_with(|| File::read(&code.path));
            let Some((range, bias)) = file.as_ref().and_then(|file| file.locate(&code)) else { continue };
            // The newest mapping comes first; what an older one left behind may lie across it.
            if taken.iter().any(|old| old.start < range.end && range.start < old.end) {
                continue;
            }
            taken.push(range.clone());
            let name = code.path.to_string_lossy().into_owned();
            if let Some(file) = file {
                unwinder.add_module(Module::new(name, range, bias, file.sections.clone()));
            }
        }
        unwinder
    }
}

impl File {
    fn read(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let elf = object::File::parse(&*bytes).ok()?;
        let data = |name: &str| {
            let section = elf.section_by_name(name)?;
            Some(Bytes::from(&*section.uncompressed_data().ok()?))
        };
        let svma = |name: &str| {
            let section = elf.section_by_name(name)?;
            Some(section.address()..section.address() + section.size())
        };
        let segments = || elf.segments();
        let is_code = |segment: &object::Segment<'_, '_>| segment.permissions().executable();
        Some(Self {
            code: segments()
                .filter(is_code)
                .map(|segment| {
                    let (offset, bytes) = segment.file_range();
                    (offset..offset + bytes, segment.address())
                })
                .collect(),
            svmas: segments().map(|segment| segment.address()).min()?
                ..segments().map(|segment| segment.address() + segment.size()).max()?,
            at_fixed_address: elf.kind() == ObjectKind::Executable,
            sections: ExplicitModuleSectionInfo {
                text_svma: svma(".text"),
                got_svma: svma(".got"),
                eh_frame_svma: svma(".eh_frame"),
                eh_frame: data(".eh_frame"),
                eh_frame_hdr_svma: svma(".eh_frame_hdr"),
                eh_frame_hdr: data(".eh_frame_hdr"),
                debug_frame: data(".debug_frame"),
                ..ExplicitModuleSectionInfo::default()
            },
        })
    }

    /// The avmas of the whole file, and its bias, as a mapping of its code shows them.
    fn locate(&self, mapping: &MappedCode) -> Option<(Range<u64>, u64)> {
        const PAGE: u64 = 4096;
        let shown = |(range, _): &&(Range<u64>, u64)| {
            (range.start / PAGE * PAGE..range.end).contains(&mapping.offset)
        };
        let (range, svma) = self.code.iter().find(shown)?;
        let start_svma = mapping.offset.wrapping_sub(range.start).wrapping_add(*svma);
        let bias = mapping.range.start.wrapping_sub(start_svma);
        if self.at_fixed_address && bias != 0 {
            return None;
        }
        Some((self.svmas.start.wrapping_add(bias)..self.svmas.end.wrapping_add(bias), bias))
    }
}
