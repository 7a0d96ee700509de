//! The executables of this node's processes, kept open so that code of a process that has exited still has names.
//!
//! Bounded by the number of open files. A file is opened only after `O_PATH` has shown that it is a regular one: opening
//! a FIFO would block and opening a device can act on it. Whoever needs files shares one registry, so that each is opened
//! once; its lock is never held while a file is opened or read.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use pyrite_model::FileKey;

use crate::executable::{Executable, ExecutableRef};
use crate::image::Image;
use crate::miss::Miss;

/// Counters and gauges of [`Executables`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecutablesStats {
    /// Executables known now, each with at most one open file.
    pub open: usize,
    /// Lookups answered by a file that was open already.
    pub reused: u64,
    /// Files opened.
    pub opened: u64,
    /// Files that could not be opened or read, by [`Miss::index`].
    pub failed: [u64; Miss::ALL.len()],
    /// Files closed to keep the bound.
    pub evicted: u64,
    /// Files opened anew because they had been changed in place.
    pub replaced: u64,
}

/// The registry.
#[derive(Debug)]
pub struct Executables {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_key: HashMap<FileKey, ExecutableRef>,
    stats: ExecutablesStats,
}

impl Executables {
    /// A registry that keeps at most `limit` files open.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), state: Mutex::default() }
    }

    /// The executable that `key` names, opened through the first of `candidates` that is that very file.
    ///
    /// `name` is the path as the process sees it and is only shown. Good candidates are `/proc/PID/map_files/A-B`, which
    /// needs `CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE`, and `/proc/PID/root/PATH`. A file that cannot be had gives a
    /// handle whose [`Executable::miss`] says why; it is tried again on the next call.
    pub fn open(&self, key: FileKey, name: &Path, candidates: &[PathBuf]) -> ExecutableRef {
        let known = self.lock().by_key.get(&key).cloned();
        if let Some(known) = known {
            if known.contents().and_then(|contents| contents.check_unchanged()).is_ok() {
                self.lock().stats.reused += 1;
                return known;
            }
            let mut state = self.lock();
            state.stats.replaced += 1;
            // Another thread may have replaced it already.
            if state.by_key.get(&key).is_some_and(|kept| Arc::ptr_eq(kept, &known)) {
                state.by_key.remove(&key);
            }
        }
        let executable = Arc::new(Executable::new(name, open_first(key, name, candidates)));
        let mut state = self.lock();
        if let Some(miss) = executable.miss() {
            state.stats.failed[miss.index()] += 1;
            return executable;
        }
        if let Some(first) = state.by_key.get(&key) {
            // Another thread was faster; what it opened is used already.
            return Arc::clone(first);
        }
        state.stats.opened += 1;
        state.keep(key, &executable, self.limit);
        executable
    }

    /// The vDSO: the code the kernel maps into every process, read from this one.
    pub fn vdso() -> ExecutableRef {
        Arc::new(Executable::new(Path::new("[vdso]"), read_vdso().map(Image::Memory)))
    }

    /// Counters and gauges.
    pub fn stats(&self) -> ExecutablesStats {
        let state = self.lock();
        ExecutablesStats { open: state.by_key.len(), ..state.stats }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, key: FileKey, executable: &ExecutableRef, limit: usize) {
        if self.by_key.len() >= limit {
            let mut by_age: Vec<_> = self.by_key.iter().map(|(key, e)| (e.last_use(), *key)).collect();
            by_age.sort_unstable_by_key(|(last_use, _)| *last_use);
            for (_, key) in by_age.iter().take((limit / 8).max(1)) {
                if let Some(old) = self.by_key.remove(key) {
                    old.close();
                    self.stats.evicted += 1;
                }
            }
        }
        self.by_key.insert(key, Arc::clone(executable));
    }
}

fn open_first(key: FileKey, name: &Path, candidates: &[PathBuf]) -> Result<Image, Miss> {
    let mut miss = Miss::NotFound;
    for path in candidates {
        match open_verified(key, name, path) {
            Ok(file) => return Ok(Image::File(file)),
            // A later candidate that does not exist says less than an earlier one that could not be read.
            Err(Miss::NotFound) => {}
            Err(other) => miss = other,
        }
    }
    Err(miss)
}

fn open_verified(key: FileKey, name: &Path, path: &Path) -> Result<File, Miss> {
    let handle = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    let meta = handle.metadata()?;
    if !meta.is_file() {
        return Err(Miss::NotRegular);
    }
    let is_same = is_same_file(key, meta.dev(), meta.ino())
        || (is_kernel_link(path) && !is_other_file(key, meta.dev(), meta.ino()) && leads_to(path, name));
    if !is_same {
        return Err(Miss::OtherFile);
    }
    let through_handle = format!("/proc/self/fd/{}", handle.as_raw_fd());
    Ok(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(through_handle)?)
}

/// `/proc/PID/exe` and `/proc/PID/map_files/*` lead to the mapped file itself, not to whatever now has its name. On
/// stacked file systems its numbers may be others than those of the mapping.
fn is_kernel_link(path: &Path) -> bool {
    let mut parts = path.iter().skip(1).map(|part| part.to_str().unwrap_or_default());
    let in_proc = parts.next() == Some("proc")
        && parts.next().is_some_and(|pid| pid == "self" || pid.bytes().all(|b| b.is_ascii_digit()));
    in_proc && matches!((parts.next(), parts.next()), (Some("exe"), None) | (Some("map_files"), Some(_)))
}

/// Whether a kernel link still leads to the file of that name: the process may have called exec meanwhile, and programs
/// that are not position independent are all mapped at the same addresses. The name may lack the path to the root of the
/// process, or the note that the file has been deleted.
fn leads_to(link: &Path, name: &Path) -> bool {
    const DELETED: &[u8] = b" (deleted)";
    let target = std::fs::read_link(link).unwrap_or_default();
    let [target, name] = [target.as_os_str(), name.as_os_str()].map(OsStrExt::as_bytes);
    let [target, name] = [target, name].map(|path| path.strip_suffix(DELETED).unwrap_or(path));
    !name.is_empty() && target.ends_with(name)
}

/// Whether the numbers say for certain that this is another file: the same device, but another inode.
fn is_other_file(key: FileKey, dev: u64, inode: u64) -> bool {
    (libc::major(dev), libc::minor(dev)) == (key.dev_major, key.dev_minor) && inode != key.inode
}

fn is_same_file(key: FileKey, dev: u64, inode: u64) -> bool {
    // Stacked and multi-device file systems (overlayfs, btrfs) report another anonymous device (major 0) to `stat` than
    // `/proc/PID/maps` shows; the inode number then has to do.
    let anonymous = key.dev_major == 0 && libc::major(dev) == 0;
    let same_device = (libc::major(dev), libc::minor(dev)) == (key.dev_major, key.dev_minor);
    inode == key.inode && (same_device || anonymous)
}

fn read_vdso() -> Result<Vec<u8>, Miss> {
    const MAX_VDSO_BYTES: u64 = 1 << 20;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).ok_or(Miss::NotFound)?;
    let range = line.split_ascii_whitespace().next().and_then(|range| range.split_once('-'));
    let (start, end) = range.ok_or(Miss::ReadFailed)?;
    let parse = |hex: &str| u64::from_str_radix(hex, 16).map_err(|_not_hex| Miss::ReadFailed);
    let (start, end) = (parse(start)?, parse(end)?);
    let bytes = end.saturating_sub(start).min(MAX_VDSO_BYTES);
    Image::File(File::open("/proc/self/mem")?).read_exact(start, bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_that_the_kernel_resolves_are_taken_unseen() {
        let check = |path: &str, expect| assert_eq!(is_kernel_link(Path::new(path)), expect, "{path}");
        check("/proc/42/exe", true);
        check("/proc/self/exe", true);
        check("/proc/42/map_files/1000-2000", true);
        check("/proc/42/root/usr/bin/app", false);
        check("/proc/42/root/exe", false);
        check("/proc/42/cwd", false);
        check("/proc/x/exe", false);
        check("/home/proc/42/exe", false);
    }

    #[test]
    fn a_device_may_differ_only_where_file_systems_have_several() {
        let key = |dev_major, dev_minor| FileKey { dev_major, dev_minor, inode: 7 };
        assert!(is_same_file(key(8, 1), libc::makedev(8, 1), 7));
        assert!(!is_same_file(key(8, 1), libc::makedev(8, 2), 7));
        assert!(!is_same_file(key(8, 1), libc::makedev(8, 1), 8));
        assert!(is_same_file(key(0, 31), libc::makedev(0, 44), 7));
        assert!(!is_same_file(key(0, 31), libc::makedev(8, 1), 7));
    }
}
