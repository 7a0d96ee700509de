//! The executable mappings of one process: which file, and where in it, an address belongs to.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use pyrite_model::{Avma, FileKey, FileOffset};

use crate::{Generation, MappedRange, UserFrame};

/// A file that is mapped somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// What the kernel calls it. On overlay file systems `/proc/PID/maps` and the mapping events may differ on this.
    pub key: FileKey,
    /// Its path as the process sees it, `(deleted)` suffix included.
    pub path: Arc<str>,
}

impl MappedFile {
    /// The last part of its path, without the kernel's note that it was deleted.
    pub fn base_name(&self) -> &str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// Equal files have equal inodes, so hashing more would only cost time.
impl Hash for MappedFile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.inode.hash(state);
    }
}

/// What backs a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MappingTarget {
    /// A file.
    File(Arc<MappedFile>),
    /// The kernel's vDSO.
    Vdso,
    /// Memory without a file, such as code made by a JIT compiler.
    Anonymous,
}

/// A part of an address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: Avma,
    /// First address behind it.
    pub end: Avma,
    /// Where in the file `start` lies.
    pub file_offset: FileOffset,
    /// What backs it.
    pub target: MappingTarget,
    /// The mapping set that it came with. A stack that was walked by an older set did not meet it.
    pub since: Generation,
}

/// What became of a mapping that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// The set is another one now.
    Changed,
    /// The same code was there already.
    Unchanged,
    /// It would have made more mappings than may be.
    Refused,
}

impl Mapping {
    /// A mapping of `range`, whose file `intern` makes shared, in the set `since`.
    pub fn new(
        range: &MappedRange,
        since: Generation,
        intern: impl FnOnce(FileKey, &Arc<str>) -> Arc<MappedFile>,
    ) -> Self {
        let target = match () {
            () if range.file.inode != 0 => MappingTarget::File(intern(range.file, &range.name)),
            () if &*range.name == "[vdso]" => MappingTarget::Vdso,
            () => MappingTarget::Anonymous,
        };
        Self { start: range.start, end: range.end, file_offset: range.file_offset, target, since }
    }

    /// Where `avma`, which it holds, lies.
    pub(crate) fn resolve(&self, avma: Avma) -> UserFrame {
        match &self.target {
            MappingTarget::File(file) => {
                UserFrame::File { file: Arc::clone(file), offset: self.offset_of(avma) }
            }
            MappingTarget::Vdso => UserFrame::Vdso { offset: self.offset_of(avma) },
            MappingTarget::Anonymous => UserFrame::Anonymous(avma),
        }
    }

    /// Whether it holds `avma`.
    pub(crate) fn holds(&self, avma: Avma) -> bool {
        self.start <= avma && avma < self.end
    }

    /// Whether `avma`, which both hold, is the same code in both.
    pub(crate) fn is_same_code(&self, other: &Self, avma: Avma) -> bool {
        let is_anonymous = self.target == MappingTarget::Anonymous;
        self.target == other.target && (is_anonymous || self.offset_of(avma) == other.offset_of(avma))
    }

    fn offset_of(&self, avma: Avma) -> FileOffset {
        FileOffset(self.file_offset.0.wrapping_add(avma.0 - self.start.0))
    }

    fn part(&self, start: Avma, end: Avma) -> Option<Self> {
        (start < end).then(|| Self {
            start,
            end,
            file_offset: self.offset_of(start),
            target: self.target.clone(),
            since: self.since,
        })
    }
}

/// Mappings sorted by address, disjoint. A newer one replaces what it overlaps, as in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mappings(Vec<Mapping>);

impl Mappings {
    /// Adds a mapping. Changes nothing where the same code is there already, or where there would be more than `limit`.
    pub fn insert(&mut self, mut new: Mapping, limit: usize) -> Insertion {
        if self.has(&new) {
            return Insertion::Unchanged;
        }
        if new.target == MappingTarget::Anonymous {
            self.absorb_neighbours(&mut new);
        }
        let (from, to) = self.overlapped(&new);
        let overlapped = &self.0[from..to];
        let left = overlapped.first().and_then(|old| old.part(old.start, new.start));
        let right = overlapped.last().and_then(|old| old.part(new.end.max(old.start), old.end));
        let pieces = 1 + usize::from(left.is_some()) + usize::from(right.is_some());
        if self.0.len() - overlapped.len() + pieces > limit {
            return Insertion::Refused;
        }
        self.0.splice(from..to, left.into_iter().chain([new]).chain(right));
        Insertion::Changed
    }

    /// Lets every mapping that `old` already had come with the set that it came with there. Returns whether the two are
    /// the same but for that.
    pub(crate) fn keep_ages(&mut self, old: &Self) -> bool {
        for new in &mut self.0 {
            if let Some(known) = old.known_part(new) {
                new.since = known.since;
            } else if new.target == MappingTarget::Anonymous && !old.has_file_in(new) {
                new.since = Generation::NONE;
            }
        }
        self == old
    }

    /// Whether the same code is there already.
    pub(crate) fn has(&self, new: &Mapping) -> bool {
        self.known_part(new).is_some()
    }

    /// The mapping of which `new` is a part, the same code at the same place.
    fn known_part(&self, new: &Mapping) -> Option<&Mapping> {
        self.find(new.start).filter(|old| new.end <= old.end && old.is_same_code(new, new.start))
    }

    fn overlapped(&self, new: &Mapping) -> (usize, usize) {
        let from = self.0.partition_point(|old| old.end <= new.start);
        (from, self.0.partition_point(|old| old.start < new.end).max(from))
    }

    fn has_file_in(&self, new: &Mapping) -> bool {
        let (from, to) = self.overlapped(new);
        self.0[from..to].iter().any(|old| old.target != MappingTarget::Anonymous)
    }

    /// JIT compilers switch pages to executable one by one; together they are one mapping.
    ///
    /// Code without a file is walked by the frame pointer, and so is an address in no mapping: whoever did not know of
    /// the new pages has walked them right. Only where they lie over a file they are as young as they are.
    fn absorb_neighbours(&self, new: &mut Mapping) {
        if !self.has_file_in(new) {
            new.since = Generation::NONE;
        }
        let anonymous = |old: &&Mapping| old.target == MappingTarget::Anonymous;
        let before = self.0.partition_point(|old| old.end < new.start);
        if let Some(old) = self.0.get(before).filter(anonymous)
            && old.start < new.start
        {
            new.start = old.start;
        }
        let behind = self.0.partition_point(|old| old.start <= new.end);
        if let Some(old) = behind.checked_sub(1).and_then(|at| self.0.get(at)).filter(anonymous)
            && old.end > new.end
        {
            new.end = old.end;
        }
        new.file_offset = FileOffset(0);
    }

    /// The mapping that holds `avma`.
    pub fn find(&self, avma: Avma) -> Option<&Mapping> {
        let at = self.0.partition_point(|mapping| mapping.end <= avma);
        self.0.get(at).filter(|mapping| mapping.start <= avma)
    }

    /// Where `avma` lies.
    pub fn resolve(&self, avma: Avma) -> UserFrame {
        self.find(avma).map_or(UserFrame::Unmapped(avma), |mapping| mapping.resolve(avma))
    }

    /// The mappings in order of address.
    pub fn as_slice(&self) -> &[Mapping] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sideband::tests::range;
    use proptest::prelude::{prop_assert, prop_assert_eq, prop_oneof, proptest};

    fn mapping(start: u64, end: u64, inode: u64) -> Mapping {
        mapping_since(start, end, inode, 1)
    }

    /// Of the set that came with the `since`th change.
    fn mapping_since(start: u64, end: u64, inode: u64, since: usize) -> Mapping {
        Mapping::new(&range(start, end, inode, "/bin/x"), generation(since), |key, path| {
            Arc::new(MappedFile { key, path: Arc::clone(path) })
        })
    }

    fn generation(nth: usize) -> Generation {
        (0..nth).fold(Generation::NONE, |generation, _| generation.next())
    }

    fn since(mappings: &Mappings, avma: u64) -> Generation {
        mappings.find(Avma(avma)).unwrap().since
    }

    fn inode_and_offset(mappings: &Mappings, avma: u64) -> Option<(u64, u64)> {
        match mappings.resolve(Avma(avma)) {
            UserFrame::File { file, offset } => Some((file.key.inode, offset.0)),
            _ => None,
        }
    }

    #[test]
    fn an_address_becomes_an_offset_in_the_file() {
        let mut mappings = Mappings::default();
        mappings.insert(mapping(0x40_0000, 0x40_2000, 7), 10);
        assert_eq!(inode_and_offset(&mappings, 0x40_0010), Some((7, 0x1010)));
        assert_eq!(inode_and_offset(&mappings, 0x40_2000), None);
        assert_eq!(mappings.resolve(Avma(0x3f_ffff)), UserFrame::Unmapped(Avma(0x3f_ffff)));
    }

    #[test]
    fn a_mapping_in_the_middle_splits_the_old_one() {
        let mut mappings = Mappings::default();
        mappings.insert(mapping(0x1000, 0x9000, 1), 10);
        mappings.insert(mapping(0x3000, 0x4000, 2), 10);
        assert_eq!(inode_and_offset(&mappings, 0x2fff), Some((1, 0x2fff)));
        assert_eq!(inode_and_offset(&mappings, 0x3000), Some((2, 0x1000)));
        assert_eq!(inode_and_offset(&mappings, 0x4000), Some((1, 0x4000)));
    }

    #[test]
    fn the_limit_refuses_and_keeps_what_there_was() {
        let mut mappings = Mappings::default();
        assert_eq!(mappings.insert(mapping(0x1000, 0x9000, 1), 2), Insertion::Changed);
        assert_eq!(mappings.insert(mapping(0x3000, 0x4000, 2), 2), Insertion::Refused);
        assert_eq!(inode_and_offset(&mappings, 0x3000), Some((1, 0x3000)));
    }

    #[test]
    fn the_same_code_again_changes_nothing() {
        let mut mappings = Mappings::default();
        mappings.insert(mapping_since(0x1000, 0x9000, 1, 1), 10);
        assert_eq!(mappings.insert(mapping_since(0x1000, 0x9000, 1, 2), 10), Insertion::Unchanged);
        let mut part = mapping_since(0x3000, 0x4000, 1, 2);
        part.file_offset = FileOffset(0x3000);
        assert_eq!(mappings.insert(part.clone(), 10), Insertion::Unchanged);
        part.file_offset = FileOffset(0x2000);
        assert_eq!(mappings.insert(part, 10), Insertion::Changed);
        let ages = [0x2000, 0x3000, 0x4000].map(|avma| since(&mappings, avma));
        assert_eq!(ages, [generation(1), generation(2), generation(1)]);
    }

    #[test]
    fn code_of_a_jit_is_young_only_where_a_file_was() {
        let mut mappings = Mappings::default();
        mappings.insert(mapping_since(0x1000, 0x2000, 0, 1), 10);
        mappings.insert(mapping_since(0x2000, 0x3000, 0, 2), 10);
        assert_eq!(since(&mappings, 0x1000), Generation::NONE);
        mappings.insert(mapping_since(0x8000, 0xa000, 1, 3), 10);
        mappings.insert(mapping_since(0x9000, 0xa000, 0, 4), 10);
        assert_eq!(since(&mappings, 0x9000), generation(4));
    }

    #[test]
    fn a_set_read_anew_keeps_the_age_of_what_it_had() {
        let set = |mappings: &[Mapping]| {
            let mut set = Mappings::default();
            for mapping in mappings {
                assert_eq!(set.insert(mapping.clone(), 10), Insertion::Changed);
            }
            set
        };
        let old = set(&[mapping_since(0x1000, 0x3000, 1, 1), mapping_since(0x5000, 0x6000, 2, 2)]);
        let mut same = set(&[mapping_since(0x1000, 0x3000, 1, 9), mapping_since(0x5000, 0x6000, 2, 9)]);
        assert!(same.keep_ages(&old));
        let mut other = set(&[mapping_since(0x1000, 0x3000, 1, 9), mapping_since(0x5000, 0x7000, 2, 9)]);
        assert!(!other.keep_ages(&old));
        assert_eq!((since(&other, 0x1000), since(&other, 0x5000)), (generation(1), generation(9)));
    }

    #[test]
    fn pages_of_a_jit_grow_together() {
        let mut mappings = Mappings::default();
        for page in [1_u64, 3, 2, 4] {
            mappings.insert(mapping(page * 0x1000, (page + 1) * 0x1000, 0), 10);
        }
        assert_eq!(mappings.len(), 1);
        assert_eq!(mappings.resolve(Avma(0x4fff)), UserFrame::Anonymous(Avma(0x4fff)));
    }

    proptest! {
        #[test]
        fn agrees_with_a_page_by_page_model(
            inserts in proptest::collection::vec((0_u64..40, 1_u64..12, prop_oneof![0_u64..1, 1_u64..5]), 0..60)
        ) {
            let mut mappings = Mappings::default();
            let mut model = [None; 64];
            for (page, pages, inode) in inserts {
                mappings.insert(mapping(page << 12, (page + pages) << 12, inode), usize::MAX);
                for i in 0..pages {
                    model[(page + i) as usize] = Some((inode, 0x1000 + (i << 12)));
                }
            }
            for (page, expect) in model.iter().enumerate() {
                let avma = Avma((page as u64) << 12);
                let expect = match expect {
                    None => UserFrame::Unmapped(avma),
                    Some((0, _)) => UserFrame::Anonymous(avma),
                    Some((inode, offset)) => mapping(avma.0, avma.0 + 1, *inode)
                        .part(avma, Avma(avma.0 + 1))
                        .map(|part| match part.target {
                            MappingTarget::File(file) => UserFrame::File { file, offset: FileOffset(*offset) },
                            _ => UserFrame::Unmapped(avma),
                        })
                        .unwrap(),
                };
                prop_assert_eq!(mappings.resolve(avma), expect);
            }
            prop_assert!(mappings.0.windows(2).all(|pair| pair[0].end <= pair[1].start));
            prop_assert!(mappings.0.iter().all(|one| one.start < one.end));
        }
    }
}
