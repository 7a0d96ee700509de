//! Unwind tables on disk, so that a restart does not make them again.
//!
//! One file per executable, `<executable id>-<digest of the rest of its identity>.rows`, written beside its place and then
//! renamed. Nothing is synced: a file torn by a crash fails its checksum and is made again. The directory is bounded; the
//! files that were not used for longest go first, by their time of modification, which each use renews.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pyrite_unwind::{Arch, RawTable, decode, encode};

use crate::unwind::stats::{CacheOutcome, ThreadCounters};
use crate::unwind::tables::TableIdentity;

/// Tables of fewer rows are made in less time than it takes to open a file.
const WORTH_ROWS: usize = 4096;
/// No table is larger: `RawTable::MAX_ROWS` rows of at most 10 bytes, and its rules.
const MAX_FILE_BYTES: u64 = 48 << 20;
const EXTENSION: &str = "rows";
const UNFINISHED: &str = "new";

/// The cache. Owned by one thread.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    limit_bytes: u64,
    /// At least what the files take.
    bytes: u64,
}

impl Cache {
    /// Opens the cache in `directory`, which is made where it is missing.
    pub(crate) fn open(directory: &Path, limit_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut cache = Self { directory: directory.to_owned(), limit_bytes, bytes: 0 };
        for entry in fs::read_dir(directory)?.flatten() {
            // Left behind by a crash.
            if entry.path().extension().is_some_and(|extension| extension == UNFINISHED) {
                let _ = fs::remove_file(entry.path());
            }
        }
        cache.bytes = cache.files().iter().map(|file| file.bytes).sum();
        Ok(cache)
    }

    /// The table of an executable, if it is here. A file that is of no use is removed.
    pub(crate) fn load(
        &mut self,
        identity: &TableIdentity,
        arch: Arch,
        counters: &ThreadCounters,
    ) -> Option<RawTable> {
        let name = name(identity);
        let path = self.path(&name, EXTENSION);
        let Ok((file, bytes)) = read(&path) else {
            counters.count(CacheOutcome::Miss, 1);
            return None;
        };
        if let Ok(table) = decode(&bytes, &name, arch) {
            counters.count(CacheOutcome::Hit, 1);
            // Where that fails the file only looks older than it is.
            let _ = file.set_modified(SystemTime::now());
            return Some(table);
        }
        counters.count(CacheOutcome::Corrupt, 1);
        if fs::remove_file(&path).is_ok() {
            self.bytes = self.bytes.saturating_sub(bytes.len() as u64);
        }
        None
    }

    /// Keeps the table of an executable, if it is worth it.
    pub(crate) fn store(&mut self, identity: &TableIdentity, table: &RawTable, counters: &ThreadCounters) {
        if table.rows.len() < WORTH_ROWS {
            return;
        }
        let name = name(identity);
        let bytes = encode(table, &name);
        let size = bytes.len() as u64;
        if size > self.limit_bytes || size > MAX_FILE_BYTES {
            return;
        }
        self.make_room(size, counters);
        let unfinished = self.path(&name, UNFINISHED);
        let written =
            write(&unfinished, &bytes).and_then(|()| fs::rename(&unfinished, self.path(&name, EXTENSION)));
        if written.is_ok() {
            self.bytes += size;
            counters.count(CacheOutcome::Written, 1);
        } else {
            let _ = fs::remove_file(&unfinished);
            counters.count(CacheOutcome::WriteFailed, 1);
        }
    }

    /// Removes the files that were not used for longest until `size` more bytes fit.
    fn make_room(&mut self, size: u64, counters: &ThreadCounters) {
        if self.bytes + size <= self.limit_bytes {
            return;
        }
        let mut files = self.files();
        files.sort_unstable_by_key(|file| file.used);
        self.bytes = files.iter().map(|file| file.bytes).sum();
        for file in files {
            if self.bytes + size <= self.limit_bytes {
                return;
            }
            if fs::remove_file(&file.path).is_ok() {
                self.bytes -= file.bytes;
                counters.count(CacheOutcome::Evicted, 1);
            }
        }
    }

    fn files(&self) -> Vec<CachedFile> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.path().extension().is_some_and(|own| own == EXTENSION));
        ours.filter_map(|entry| {
            let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(CachedFile { path: entry.path(), bytes: meta.len(), used: meta.modified().ok()? })
        })
        .collect()
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{name}.{extension}"))
    }
}

struct CachedFile {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// What the cache calls an executable: file name and id within the file.
fn name(identity: &TableIdentity) -> String {
    let mut digest = Digest::new();
    digest.add(identity.bytes);
    for segment in &identity.segments {
        digest.add(segment.offset().0);
        digest.add(segment.svma());
        digest.add(segment.file_bytes());
        digest.add(u64::from(segment.is_executable()));
    }
    if let Some((seconds, nanoseconds)) = identity.modified {
        digest.add(seconds as u64);
        digest.add(nanoseconds as u64);
    }
    format!("{}-{:016x}", identity.id, digest.0)
}

/// FNV-1a of 64 bits, which stays the same from one build to the next.
struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn read(path: &Path) -> io::Result<(File, Vec<u8>)> {
    // Whatever lies in the directory is opened without waiting for it.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    (&file).take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok((file, bytes))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use pyrite_unwind::{Cfa, Layout, RawRow, Report, Rule, Saved};

    use super::*;
    use crate::unwind::opener::tests::own_identity;
    use crate::unwind::stats::UnwindStats;

    const ARCH: Arch = Arch::X86_64;

    fn table(rows: usize) -> RawTable {
        let rule = |offset| Rule::new(Cfa::Sp(offset), Saved::Same, Saved::AtCfa(-8));
        RawTable {
            arch: ARCH,
            layout: Layout::default(),
            rows: (0..rows as u32).map(|n| RawRow { pc: 16 * n, rule: n % 2 }).collect(),
            rules: vec![rule(8), rule(16)],
            report: Report::default(),
        }
    }

    fn identity(bytes: u64) -> TableIdentity {
        TableIdentity { bytes, ..own_identity() }
    }

    /// Counts in the order hit, miss, corrupt, written, write failed, evicted.
    fn counts(counters: &ThreadCounters) -> [u64; CacheOutcome::COUNT] {
        let mut stats = UnwindStats::default();
        counters.enter(&mut stats);
        stats.cache
    }

    #[test]
    fn a_table_survives_a_restart_and_a_damaged_one_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let counters = ThreadCounters::default();
        let open = || Cache::open(directory.path(), 1 << 20).unwrap();
        open().store(&identity(1), &table(WORTH_ROWS), &counters);
        assert_eq!(open().load(&identity(1), ARCH, &counters), Some(table(WORTH_ROWS)));
        assert_eq!(open().load(&identity(2), ARCH, &counters), None, "another file of the same id");
        assert_eq!(counts(&counters), [1, 1, 0, 1, 0, 0]);

        let path = open().files().remove(0).path;
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(open().load(&identity(1), ARCH, &counters), None);
        assert!(!path.exists());
        fs::write(&path, []).unwrap();
        assert_eq!(open().load(&identity(1), ARCH, &counters), None);
        assert_eq!(counts(&counters), [1, 1, 2, 1, 0, 0]);
        fs::create_dir(&path).unwrap();
        assert_eq!(open().load(&identity(1), ARCH, &counters), None, "whatever lies there");
    }

    #[test]
    fn a_small_table_is_not_worth_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let counters = ThreadCounters::default();
        let mut cache = Cache::open(directory.path(), 1 << 20).unwrap();
        cache.store(&identity(1), &table(WORTH_ROWS - 1), &counters);
        assert_eq!((counts(&counters), cache.files().len()), ([0; 6], 0));
    }

    #[test]
    fn the_directory_keeps_its_bound_and_what_was_used_last() {
        let directory = tempfile::tempdir().unwrap();
        let counters = ThreadCounters::default();
        let size = encode(&table(WORTH_ROWS), &name(&identity(1))).len() as u64;
        let mut cache = Cache::open(directory.path(), 3 * size).unwrap();
        let aged = |bytes: u64, hours: u64| {
            let path = directory.path().join(format!("{}.rows", name(&identity(bytes))));
            let then = SystemTime::now() - std::time::Duration::from_hours(hours);
            File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        };
        for bytes in 1..=3 {
            cache.store(&identity(bytes), &table(WORTH_ROWS), &counters);
            aged(bytes, 10 - bytes);
        }
        assert!(cache.load(&identity(1), ARCH, &counters).is_some(), "the oldest is used again");
        fs::write(directory.path().join("stranger"), vec![0; 1 << 20]).unwrap();
        cache.store(&identity(4), &table(WORTH_ROWS), &counters);
        let kept = |bytes: u64, cache: &mut Cache| cache.load(&identity(bytes), ARCH, &counters).is_some();
        assert_eq!([1, 2, 3, 4].map(|bytes| kept(bytes, &mut cache)), [true, false, true, true]);
        assert_eq!(counts(&counters)[CacheOutcome::Evicted as usize], 1);
        assert!(cache.files().iter().map(|file| file.bytes).sum::<u64>() <= 3 * size);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let counters = ThreadCounters::default();
        let mut cache = Cache::open(directory.path(), 1 << 20).unwrap();
        let place = cache.path(&name(&identity(1)), EXTENSION);
        fs::create_dir_all(place.join("in the way")).unwrap();
        cache.store(&identity(1), &table(WORTH_ROWS), &counters);
        assert_eq!(counts(&counters)[CacheOutcome::WriteFailed as usize], 1);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::write(cache.path("left", UNFINISHED), b"by a crash").unwrap();
        Cache::open(directory.path(), 1 << 20).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
