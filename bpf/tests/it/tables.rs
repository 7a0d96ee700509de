//! Unwind tables of a live process, made by `pyrite-unwind` and laid out as the programs read them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use pyrite_bpf::abi::{self, pyrite_executable};
use pyrite_model::{Avma, FileOffset};
use pyrite_unwind::{Arch, Chunk, Layout, RuleBook, RuleBytes as _, RuleId, build, extract};

pub(crate) const ARCH: Arch = if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Aarch64 };

/// Everything that the maps hold, by index. Chunk 0 and executable 0 are not used.
pub(crate) struct Published {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) executables: Vec<[u8; 16]>,
    pub(crate) book: RuleBook,
    arch: Arch,
    files: HashMap<(u64, u64), (u32, Layout)>,
    next_generation: u32,
}

/// One executable mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) bias: u64,
    pub(crate) executable: u32,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self::of(ARCH)
    }

    /// Of executables for another machine.
    pub(crate) fn of(arch: Arch) -> Self {
        Self {
            arch,
            chunks: vec![[0; 1024]],
            executables: vec![[0; 16]],
            book: RuleBook::new(),
            files: HashMap::new(),
            next_generation: 1,
        }
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = [u8; 16]> {
        (0..).map_while(|id| self.book.get(RuleId(id))).map(|rule| rule.to_abi().to_bytes())
    }

    /// Adds the tables and mappings of a process; returns the value for `processes`.
    pub(crate) fn add_process(&mut self, tgid: u32) -> [u8; 24] {
        let mappings = self.mappings_of(tgid);
        self.add_mappings(&mappings)
    }

    pub(crate) fn mappings_of(&mut self, tgid: u32) -> Vec<Mapping> {
        let maps = fs::read_to_string(format!("/proc/{tgid}/maps")).unwrap();
        let lines = maps.lines().filter(|line| line.split(' ').nth(1).unwrap().contains('x'));
        lines.filter_map(|line| self.mapping(tgid, line)).collect()
    }

    fn mapping(&mut self, tgid: u32, line: &str) -> Option<Mapping> {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (hex(start), hex(end));
        let offset = hex(words.nth(1)?);
        let path = words.nth(2)?;
        if path == "[vsyscall]" {
            return None;
        }
        let (executable, layout) = if path == "[vdso]" {
            self.executable((0, start), &read_memory(tgid, start, end))
        } else {
            let metadata = fs::metadata(path).unwrap();
            self.executable((metadata.dev(), metadata.ino()), &fs::read(path).unwrap())
        };
        let bias = layout.bias(Avma(start), FileOffset(offset), end - start)?;
        Some(Mapping { start, end, bias, executable })
    }

    fn executable(&mut self, key: (u64, u64), bytes: &[u8]) -> (u32, Layout) {
        if let Some(known) = self.files.get(&key) {
            return known.clone();
        }
        let added = self.add_file(bytes);
        self.files.insert(key, added.clone());
        added
    }

    /// Adds the table of an ELF file.
    pub(crate) fn add_file(&mut self, bytes: &[u8]) -> (u32, Layout) {
        let raw = extract(bytes, self.arch).unwrap();
        let image = build(&raw, &mut self.book).unwrap();
        let ids: Vec<u32> = (self.chunks.len() as u32..).take(image.chunk_count()).collect();
        let placed = image.place(&ids).unwrap();
        self.chunks.extend(&placed.chunks);
        (self.add_executable(&placed.executable), raw.layout)
    }

    pub(crate) fn add_executable(&mut self, executable: &pyrite_executable) -> u32 {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&executable.root.to_ne_bytes());
        bytes[4..8].copy_from_slice(&executable.first_pc.to_ne_bytes());
        bytes[8] = executable.depth;
        bytes[9] = executable.state;
        self.executables.push(bytes);
        self.executables.len() as u32 - 1
    }

    pub(crate) fn add_mappings(&mut self, mappings: &[Mapping]) -> [u8; 24] {
        const IN_CHUNK: usize = abi::PYRITE_CHUNK_MAPPINGS as usize;
        let ids: Vec<u32> =
            mappings.chunks(IN_CHUNK).map(|group| self.add_chunk(group, mapping_bytes)).collect();
        let root = match ids[..] {
            [] => 0,
            [only] => only,
            _ => self.add_chunk(&ids, |id| id.to_ne_bytes()),
        };
        let generation = self.next_generation;
        self.next_generation += 1;
        let mut process = [0; 24];
        process[..8].copy_from_slice(&u64::MAX.to_ne_bytes());
        process[8..12].copy_from_slice(&generation.to_ne_bytes());
        process[12..16].copy_from_slice(&(mappings.len() as u32).to_ne_bytes());
        process[16..20].copy_from_slice(&root.to_ne_bytes());
        process
    }

    pub(crate) fn add_chunk<T, const N: usize>(
        &mut self,
        entries: &[T],
        bytes: impl Fn(&T) -> [u8; N],
    ) -> u32 {
        let mut chunk = [0; 1024];
        for (slot, entry) in chunk.chunks_exact_mut(N).zip(entries) {
            slot.copy_from_slice(&bytes(entry));
        }
        self.chunks.push(chunk);
        self.chunks.len() as u32 - 1
    }
}

fn mapping_bytes(mapping: &Mapping) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&mapping.start.to_ne_bytes());
    bytes[8..16].copy_from_slice(&mapping.end.to_ne_bytes());
    bytes[16..24].copy_from_slice(&mapping.bias.to_ne_bytes());
    bytes[24..28].copy_from_slice(&mapping.executable.to_ne_bytes());
    bytes
}

fn read_memory(tgid: u32, start: u64, end: u64) -> Vec<u8> {
    let mut bytes = vec![0; (end - start) as usize];
    File::open(format!("/proc/{tgid}/mem")).unwrap().read_exact_at(&mut bytes, start).unwrap();
    bytes
}

fn hex(digits: &str) -> u64 {
    u64::from_str_radix(digits, 16).unwrap()
}
