//! Names of functions, from the symbol tables of the files that were mapped. Chains of calls that are known beforehand are
//! known by name, and the roots of Go's stacks are functions.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, SymbolKind};

use crate::accuracy::MappingSet;

/// Symbol tables by path, each read once.
#[derive(Debug, Default)]
pub struct Symbols {
    files: HashMap<PathBuf, File>,
}

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The mapped file.
    pub path: &'a Path,
    /// The function, where the file names one there.
    pub name: Option<&'a str>,
}

#[derive(Debug, Default)]
struct File {
    /// Sorted by start.
    functions: Vec<(Range<u64>, String)>,
    /// File offsets and the svma of each range's start.
    segments: Vec<(Range<u64>, u64)>,
}

/// An executable mapping of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MappedCode {
    /// Avmas.
    pub(crate) range: Range<u64>,
    /// File offset of the range's start.
    pub(crate) offset: u64,
    /// The file.
    pub(crate) path: PathBuf,
}

/// The mappings of files in a set.
pub(crate) fn mapped_code(set: &MappingSet) -> Vec<MappedCode> {
    set.maps.lines().filter_map(parse_line).filter(|code| code.path.is_absolute()).collect()
}

impl Symbols {
    /// Where `avma` lies in the mappings of `set`.
    pub fn place(&mut self, set: &MappingSet, avma: u64) -> Option<Place<'_>> {
        let code = mapped_code(set).into_iter().find(|code| code.range.contains(&avma))?;
        let offset = avma - code.range.start + code.offset;
        let path = code.path.clone();
        let file = self.files.entry(code.path).or_insert_with(|| File::read(&path));
        let function = file.function_at(offset);
        // The key lives as long as `self`, the local path does not.
        let (path, file) = self.files.get_key_value(&path)?;
        let name = function.and_then(|at| file.functions.get(at)).map(|(_, name)| &**name);
        Some(Place { path, name })
    }

    /// Where a frame's code lies: the instruction of a frame behind the leaf lies before the frame's address.
    pub fn place_of_frame(&mut self, set: &MappingSet, avma: u64, is_leaf: bool) -> Option<Place<'_>> {
        self.place(set, if is_leaf { avma } else { avma.wrapping_sub(1) })
    }
}

impl File {
    /// A file that cannot be read has no names.
    fn read(path: &Path) -> Self {
        let Ok(bytes) = fs::read(path) else { return Self::default() };
        let Ok(elf) = object::File::parse(&*bytes) else { return Self::default() };
        let mut functions: Vec<_> = elf
            .symbols()
            .chain(elf.dynamic_symbols())
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition() && symbol.size() > 0)
            .filter_map(|symbol| {
                let range = symbol.address()..symbol.address() + symbol.size();
                Some((range, symbol.name().ok()?.to_owned()))
            })
            .collect();
        functions.sort_by_key(|(range, _)| range.start);
        let segments = elf
            .segments()
            .map(|segment| {
                let (offset, bytes) = segment.file_range();
                (offset..offset + bytes, segment.address())
            })
            .collect();
        Self { functions, segments }
    }

    /// Index of the function at a file offset.
    fn function_at(&self, offset: u64) -> Option<usize> {
        let (range, svma) = self.segments.iter().find(|(range, _)| range.contains(&offset))?;
        let svma = offset - range.start + svma;
        let behind = self.functions.partition_point(|(range, _)| range.start <= svma);
        let at = behind.checked_sub(1)?;
        self.functions[at].0.contains(&svma).then_some(at)
    }
}

/// `start-end perms offset major:minor inode path`
fn parse_line(line: &str) -> Option<MappedCode> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let offset = fields.nth(1)?;
    let path = fields.nth(2)?.trim_start();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(MappedCode { range: hex(start)?..hex(end)?, offset: hex(offset)?, path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_give_ranges_and_files() {
        let set = MappingSet {
            id: 1,
            tgid: 1,
            maps: "7f10-7f20 r-xp 00001000 08:01 42 /lib/a b.so\n7f30-7f40 r-xp 0 00:00 0 //anon\n7f50-7f60 r-xp 0 00:00 0 [vdso]\n"
                .into(),
        };
        let code = mapped_code(&set);
        assert_eq!(code[0], MappedCode { range: 0x7f10..0x7f20, offset: 0x1000, path: "/lib/a b.so".into() });
        assert!(code.iter().all(|code| code.path != Path::new("[vdso]")));
    }

    #[test]
    fn this_very_function_has_a_name() {
        let me = std::process::id();
        let maps = fs::read_to_string(format!("/proc/{me}/maps")).unwrap();
        let set = MappingSet { id: 1, tgid: me, maps };
        let mut symbols = Symbols::default();
        let avma = (parse_line as fn(_) -> _ as *const ()).addr() as u64;
        let place = symbols.place(&set, avma + 1).unwrap();
        assert!(place.name.unwrap().contains("parse_line"), "{place:?}");
        assert_eq!(symbols.place(&set, 8), None);
    }
}
