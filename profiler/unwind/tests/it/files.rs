//! Executables of this machine, and tables laid out as in the kernel.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pyrite_bpf::abi::pyrite_executable;
use pyrite_unwind::{Chunk, PlacedTable, RawTable, ReadAt, Rule, RuleBook, RuleId, Tables, build};

pub(crate) struct OpenFile {
    file: File,
    bytes: u64,
}

impl OpenFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }
}

impl ReadAt for OpenFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn byte_count(&self) -> u64 {
        self.bytes
    }
}

/// One executable's table as a kernel would hold it; its chunks have ids that are not their indexes.
pub(crate) struct OneTable {
    placed: PlacedTable,
    book: RuleBook,
}

const FIRST_ID: u32 = 5000;

impl OneTable {
    pub(crate) fn new(raw: &RawTable) -> Self {
        let mut book = RuleBook::new();
        let image = build(raw, &mut book).expect("the table fits");
        assert_eq!(image.rules_refused(), 0);
        let ids: Vec<u32> = (0..image.chunk_count() as u32).map(|index| FIRST_ID + index).collect();
        Self { placed: image.place(&ids).expect("as many ids as chunks"), book }
    }
}

impl Tables for OneTable {
    fn chunk(&self, id: u32) -> Option<&Chunk> {
        self.placed.chunks.get(id.checked_sub(FIRST_ID)? as usize)
    }

    fn executable(&self, index: u32) -> Option<pyrite_executable> {
        (index == 1).then_some(self.placed.executable)
    }

    fn rule(&self, id: u16) -> Option<Rule> {
        self.book.get(RuleId(id))
    }
}

/// This test's own executable and the libraries it runs with, which every machine has.
pub(crate) fn of_this_process() -> BTreeSet<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").expect("procfs is mounted");
    let executable = maps.lines().filter(|line| line.contains("r-xp"));
    let paths: BTreeSet<_> =
        executable.filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..]))).collect();
    assert!(paths.len() >= 2, "at least the test and libc: {paths:?}");
    paths
}

/// Those of `patterns` that are on this machine; a pattern may have one star in its file name.
pub(crate) fn installed(patterns: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for pattern in patterns {
        let (folder, name) = pattern.rsplit_once('/').expect("an absolute path");
        let (before, after) = name.split_once('*').unwrap_or((name, ""));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let file_name = entry.file_name().to_string_lossy().into_owned();
            let matches = if name.contains('*') {
                file_name.starts_with(before) && file_name.ends_with(after)
            } else {
                file_name == name
            };
            if matches && let Ok(path) = entry.path().canonicalize() {
                found.push(path);
            }
        }
    }
    found.sort();
    found.dedup();
    found
}
