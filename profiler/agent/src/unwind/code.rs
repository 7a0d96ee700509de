//! What code a mapping shows, and what that is called in the tables of the BPF programs.

use std::sync::Arc;

use pyrite_bpf::abi::{PYRITE_CHUNK_IDS, PYRITE_CHUNK_MAPPINGS, PYRITE_MAX_MAPPINGS, pyrite_mapping};
use pyrite_model::{Avma, FileKey};
use pyrite_sampling::{MappedFile, Mapping, MappingTarget, Mappings};

use crate::sys::Chunk;
use crate::unwind::chunks::ChunkId;

const CHUNK_MAPPINGS: usize = PYRITE_CHUNK_MAPPINGS as usize;
const CHUNK_IDS: usize = PYRITE_CHUNK_IDS as usize;
const MAX_MAPPINGS: usize = PYRITE_MAX_MAPPINGS as usize;
const EMPTY: Chunk = [0; size_of::<Chunk>()];

/// What the kernel maps as code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CodeKey {
    File(FileKey),
    Vdso,
}

impl CodeKey {
    /// What a mapping shows, if that can have an unwind table.
    pub(crate) fn of(mapping: &Mapping) -> Option<Self> {
        /// Below it lies the vDSO of 32-bit programs, which is another one.
        const FIRST_64_BIT: Avma = Avma(1 << 32);

        match &mapping.target {
            MappingTarget::File(file) => Some(Self::File(file.key)),
            MappingTarget::Vdso if mapping.start >= FIRST_64_BIT => Some(Self::Vdso),
            MappingTarget::Vdso | MappingTarget::Anonymous => None,
        }
    }
}

/// Where a file is mapped: how it can be opened while the process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) tgid: u32,
    pub(crate) file: Arc<MappedFile>,
    pub(crate) start: Avma,
    pub(crate) end: Avma,
}

impl Place {
    /// Where `tgid` has mapped the file that `mapping` shows, if it shows one.
    pub(crate) fn of(tgid: u32, mapping: &Mapping) -> Option<Self> {
        match &mapping.target {
            MappingTarget::File(file) => {
                Some(Self { tgid, file: Arc::clone(file), start: mapping.start, end: mapping.end })
            }
            MappingTarget::Vdso | MappingTarget::Anonymous => None,
        }
    }
}

/// An index into the map `executables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ExecutableIndex(pub(crate) u32);

impl ExecutableIndex {
    /// Code without a file, such as a JIT compiler's.
    pub(crate) const NO_FILE: Self = Self(0);
    /// Every file that nobody has looked at yet: its table is pending.
    pub(crate) const UNOPENED: Self = Self(1);
    /// Every file that cannot be read: its table is absent.
    pub(crate) const UNREADABLE: Self = Self(2);
    /// The first that belongs to one executable.
    pub(crate) const FIRST: Self = Self(3);
}

/// Whose code an address is, and how it becomes a position in that executable's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) executable: ExecutableIndex,
    /// avma - bias = position. Means nothing where the executable has no table of its own.
    pub(crate) bias: u64,
}

impl Code {
    /// Code that belongs to no executable with a table.
    pub(crate) fn without_table(executable: ExecutableIndex) -> Self {
        Self { executable, bias: 0 }
    }
}

/// The first address that the programs do not search for: they compare addresses by the sign of a difference. Above lies
/// nothing of a process but the old vsyscall page, which every process of `x86_64` shows and which has no table.
const FIRST_UNSEARCHED: Avma = Avma(1 << 63);

/// The mappings as the BPF programs read them, neighbours that show one executable joined. Those that the programs cannot
/// search, or beyond how many they can, are left out.
pub(crate) fn entries(mappings: &Mappings, code_of: impl Fn(&Mapping) -> Code) -> Vec<pyrite_mapping> {
    let mut entries: Vec<pyrite_mapping> = Vec::with_capacity(mappings.len());
    for mapping in mappings.as_slice().iter().take_while(|mapping| mapping.end <= FIRST_UNSEARCHED) {
        let code = code_of(mapping);
        let (start, end) = (mapping.start.0, mapping.end.0);
        let is_full = entries.len() == MAX_MAPPINGS;
        match entries.last_mut() {
            Some(last) if (last.end, last.executable, last.bias) == (start, code.executable.0, code.bias) => {
                last.end = end;
            }
            _ if is_full => break,
            _ => entries.push(pyrite_mapping {
                start,
                end,
                bias: code.bias,
                executable: code.executable.0,
                reserved: 0,
            }),
        }
    }
    entries
}

/// How many chunks `count` entries take, the root included.
pub(crate) fn chunks_needed(count: usize) -> usize {
    match count.div_ceil(CHUNK_MAPPINGS) {
        leaves @ 0..=1 => leaves.max(1),
        leaves => leaves + 1,
    }
}

/// The content of the chunks `ids`, of which the first is the root.
pub(crate) fn encode(entries: &[pyrite_mapping], ids: &[ChunkId]) -> Vec<Chunk> {
    let leaves = entries.chunks(CHUNK_MAPPINGS).map(leaf);
    match ids {
        [] => Vec::new(),
        [_] => vec![leaves.into_iter().next().unwrap_or(EMPTY)],
        [_, leaf_ids @ ..] => {
            let mut root = EMPTY;
            let (words, _) = root.as_chunks_mut::<4>();
            for (word, id) in words.iter_mut().zip(leaf_ids.iter().take(CHUNK_IDS)) {
                *word = id.0.to_ne_bytes();
            }
            std::iter::once(root).chain(leaves).collect()
        }
    }
}

fn leaf(entries: &[pyrite_mapping]) -> Chunk {
    let mut chunk = EMPTY;
    let (slots, _) = chunk.as_chunks_mut::<{ size_of::<pyrite_mapping>() }>();
    for (slot, entry) in slots.iter_mut().zip(entries) {
        slot[..8].copy_from_slice(&entry.start.to_ne_bytes());
        slot[8..16].copy_from_slice(&entry.end.to_ne_bytes());
        slot[16..24].copy_from_slice(&entry.bias.to_ne_bytes());
        slot[24..28].copy_from_slice(&entry.executable.to_ne_bytes());
    }
    chunk
}

#[cfg(test)]
pub(crate) mod tests {
    use pyrite_model::FileOffset;
    use pyrite_sampling::{Generation, Insertion};

    use super::*;

    pub(crate) fn file_mapping(start: u64, end: u64, inode: u64) -> Mapping {
        let key = FileKey { dev_major: 8, dev_minor: 1, inode };
        let file = MappedFile { key, path: format!("/lib/{inode}").into() };
        Mapping {
            start: Avma(start),
            end: Avma(end),
            file_offset: FileOffset(0),
            target: MappingTarget::File(Arc::new(file)),
            since: Generation::NONE,
        }
    }

    pub(crate) fn mappings(all: impl IntoIterator<Item = Mapping>) -> Mappings {
        let mut mappings = Mappings::default();
        for one in all {
            assert_eq!(mappings.insert(one, usize::MAX), Insertion::Changed);
        }
        mappings
    }

    /// What a BPF program finds for `avma`: the index of the executable.
    pub(crate) fn find(root: &Chunk, count: usize, avma: u64, chunk: impl Fn(u32) -> Chunk) -> Option<u32> {
        let leaf_of = |at: usize| {
            if count <= CHUNK_MAPPINGS {
                return *root;
            }
            chunk(u32::from_ne_bytes(root.as_chunks::<4>().0[at / CHUNK_MAPPINGS]))
        };
        (0..count).find_map(|at| {
            let leaf = leaf_of(at);
            let slot = leaf.as_chunks::<32>().0[at % CHUNK_MAPPINGS];
            let word = |at: usize| u64::from_ne_bytes(slot.as_chunks::<8>().0[at]);
            (word(0) <= avma && avma < word(1)).then(|| word(3) as u32)
        })
    }

    fn inode(mapping: &Mapping) -> u32 {
        match CodeKey::of(mapping) {
            Some(CodeKey::File(key)) => key.inode as u32,
            _ => 0,
        }
    }

    #[test]
    fn every_mapping_is_found_in_sets_of_any_size() {
        for count in [0_usize, 1, 32, 33, 64, 65, 1000, MAX_MAPPINGS] {
            let set = mappings((0..count as u64).map(|n| file_mapping(n << 13, (n << 13) + 0x1000, n + 1)));
            let entries = entries(&set, |mapping| Code {
                executable: ExecutableIndex(inode(mapping)),
                bias: mapping.start.0,
            });
            let ids: Vec<ChunkId> =
                (0..chunks_needed(entries.len())).map(|n| ChunkId(n as u32 + 7)).collect();
            let chunks = encode(&entries, &ids);
            assert_eq!(chunks.len(), ids.len());
            let chunk = |id: u32| chunks[id as usize - 7];
            for n in (0..count as u64).step_by(1 + count / 100) {
                let found = |avma| find(&chunks[0], entries.len(), avma, chunk);
                assert_eq!(found((n << 13) + 0xfff), Some(n as u32 + 1));
                assert_eq!(found((n << 13) + 0x1000), None);
            }
        }
    }

    #[test]
    fn neighbours_of_one_executable_and_bias_are_one_entry() {
        let set = mappings([
            file_mapping(0x1000, 0x2000, 1),
            file_mapping(0x2000, 0x3000, 1),
            file_mapping(0x3000, 0x4000, 2),
            file_mapping(0x5000, 0x6000, 2),
        ]);
        let joined = entries(&set, |mapping| Code { executable: ExecutableIndex(inode(mapping)), bias: 9 });
        let ranges: Vec<_> = joined.iter().map(|entry| (entry.start, entry.end, entry.executable)).collect();
        assert_eq!(ranges, [(0x1000, 0x3000, 1), (0x3000, 0x4000, 2), (0x5000, 0x6000, 2)]);
        let apart = entries(&set, |mapping| Code { executable: ExecutableIndex(1), bias: mapping.start.0 });
        assert_eq!(apart.len(), 4);
    }

    #[test]
    fn the_vsyscall_page_is_left_out_for_its_address_looks_negative() {
        let set = mappings([
            file_mapping(0x1000, 0x2000, 1),
            file_mapping(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000, 2),
        ]);
        let kept = entries(&set, |_| Code { executable: ExecutableIndex(1), bias: 0 });
        assert_eq!(kept.iter().map(|entry| entry.start).collect::<Vec<_>>(), [0x1000]);
    }

    #[test]
    fn mappings_beyond_what_the_programs_search_are_left_out() {
        let set = mappings((0..MAX_MAPPINGS as u64 + 5).map(|n| file_mapping(n << 12, (n + 1) << 12, n + 1)));
        let kept = entries(&set, |mapping| Code { executable: ExecutableIndex(inode(mapping)), bias: 0 });
        assert_eq!(kept.len(), MAX_MAPPINGS);
        assert_eq!(chunks_needed(kept.len()), 1 + CHUNK_IDS);
    }
}
