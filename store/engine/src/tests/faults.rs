//! A file layer that records what is done to it, refuses what it is told to, and can forget what was never synced.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::files::{FileLayer, ReadFile, RealFiles, WriteFile};
use crate::sync::lock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Create,
    Append,
    Sync,
    Truncate,
    Rename,
    Remove,
    SyncDir,
    CreateDir,
    /// Asked about only: it changes nothing.
    Read,
}

/// Asked before each operation; an error is what the operation then gives.
type Rule = Arc<Mutex<dyn FnMut(Op, &Path) -> Option<io::Error> + Send>>;
/// The same of files that are opened to be read, which changes nothing and is not counted.
type ReadRule = Arc<dyn Fn(&Path) -> Option<io::Error> + Send + Sync>;

/// A change of names that its directory's sync has not made durable yet.
enum Naming {
    Created(PathBuf),
    Renamed { from: PathBuf, to: PathBuf },
}

#[derive(Default)]
struct State {
    log: Vec<(Op, PathBuf)>,
    rule: Option<Rule>,
    read_rule: Option<ReadRule>,
    /// How many operations still succeed; the rest find the process dead.
    left: Option<usize>,
    synced: HashMap<PathBuf, u64>,
    unsynced_names: Vec<Naming>,
}

/// The layer. Clones share their state.
#[derive(Clone, Default)]
pub(super) struct FaultyFiles(Arc<Mutex<State>>);

impl FaultyFiles {
    /// Lets this many more operations through, then behaves as if the process were gone.
    pub(super) fn crash_after(&self, operations: usize) {
        lock(&self.0).left = Some(operations);
    }

    /// Whether an operation was refused because of [`crash_after`](Self::crash_after).
    pub(super) fn crashed(&self) -> bool {
        lock(&self.0).left == Some(0)
    }

    pub(super) fn set_rule(&self, rule: impl FnMut(Op, &Path) -> Option<io::Error> + Send + 'static) {
        lock(&self.0).rule = Some(Arc::new(Mutex::new(rule)));
    }

    pub(super) fn set_read_rule(&self, rule: impl Fn(&Path) -> Option<io::Error> + Send + Sync + 'static) {
        lock(&self.0).read_rule = Some(Arc::new(rule));
    }

    pub(super) fn clear_rule(&self) {
        lock(&self.0).rule = None;
    }

    pub(super) fn log(&self) -> Vec<(Op, PathBuf)> {
        lock(&self.0).log.clone()
    }

    /// Undoes everything that was never synced, as if the power had failed now.
    pub(super) fn lose_power(&self) {
        let mut state = lock(&self.0);
        while let Some(naming) = state.unsynced_names.pop() {
            match naming {
                Naming::Created(path) if path.is_dir() => fs::remove_dir_all(path).unwrap(),
                // Removed since, perhaps.
                Naming::Created(path) => drop(fs::remove_file(path)),
                Naming::Renamed { from, to } => {
                    if fs::rename(&to, &from).is_ok() {
                        move_keys(&mut state.synced, &to, &from);
                    }
                }
            }
        }
        for (path, len) in &state.synced {
            if let Ok(file) = OpenOptions::new().write(true).open(path) {
                file.set_len(*len).unwrap();
            }
        }
    }

    fn note(&self, op: Op, path: &Path) -> io::Result<()> {
        let mut state = lock(&self.0);
        match &mut state.left {
            Some(0) => return Err(io::Error::other("the process is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        state.log.push((op, path.to_owned()));
        drop(state);
        self.ask(op, path)
    }

    fn ask(&self, op: Op, path: &Path) -> io::Result<()> {
        // Asked without the lock: a rule may wait for the test, which looks at the log meanwhile.
        let rule = lock(&self.0).rule.clone();
        match rule.and_then(|rule| (lock(&rule))(op, path)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn move_keys(synced: &mut HashMap<PathBuf, u64>, from: &Path, to: &Path) {
    let moved: Vec<PathBuf> = synced.keys().filter(|path| path.starts_with(from)).cloned().collect();
    for path in moved {
        let len = synced.remove(&path).unwrap();
        let rest = path.strip_prefix(from).unwrap().to_owned();
        synced.insert(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) }, len);
    }
}

struct FaultyFile {
    layer: FaultyFiles,
    path: PathBuf,
    file: Box<dyn WriteFile>,
}

impl WriteFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.layer.note(Op::Append, &self.path) {
            // Half of it arrives, which is the worst that may happen.
            self.file.append(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.layer.note(Op::Sync, &self.path)?;
        self.file.sync()?;
        let len = fs::metadata(&self.path)?.len();
        lock(&self.layer.0).synced.insert(self.path.clone(), len);
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.layer.note(Op::Truncate, &self.path)?;
        self.file.truncate(len)
    }
}

struct WatchedFile {
    layer: FaultyFiles,
    path: PathBuf,
    file: Box<dyn ReadFile>,
}

impl ReadFile for WatchedFile {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.layer.ask(Op::Read, &self.path)?;
        self.file.read_at(offset, len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

impl FaultyFiles {
    fn writable(&self, path: &Path, file: Box<dyn WriteFile>) -> Box<dyn WriteFile> {
        Box::new(FaultyFile { layer: self.clone(), path: path.to_owned(), file })
    }
}

impl FileLayer for FaultyFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.note(Op::Create, path)?;
        let file = RealFiles.create(path)?;
        let mut state = lock(&self.0);
        state.synced.insert(path.to_owned(), 0);
        state.unsynced_names.push(Naming::Created(path.to_owned()));
        drop(state);
        Ok(self.writable(path, file))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(self.writable(path, RealFiles.open_append(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        // Asked without the lock, as other rules are.
        let rule = lock(&self.0).read_rule.clone();
        if let Some(error) = rule.and_then(|rule| rule(path)) {
            return Err(error);
        }
        let file = RealFiles.open_read(path)?;
        Ok(Box::new(WatchedFile { layer: self.clone(), path: path.to_owned(), file }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.note(Op::CreateDir, path)?;
        let new = !path.exists();
        RealFiles.create_dir(path)?;
        if new {
            lock(&self.0).unsynced_names.push(Naming::Created(path.to_owned()));
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFiles.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(Op::Rename, from)?;
        RealFiles.rename(from, to)?;
        let mut state = lock(&self.0);
        move_keys(&mut state.synced, from, to);
        for naming in &mut state.unsynced_names {
            if let Naming::Created(path) = naming
                && let Ok(rest) = path.strip_prefix(from)
            {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
        state.unsynced_names.push(Naming::Renamed { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.note(Op::Remove, path)?;
        lock(&self.0).synced.remove(path);
        RealFiles.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.note(Op::Remove, path)?;
        lock(&self.0).synced.retain(|file, _| !file.starts_with(path));
        RealFiles.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.note(Op::SyncDir, dir)?;
        RealFiles.sync_dir(dir)?;
        lock(&self.0).unsynced_names.retain(|naming| match naming {
            Naming::Created(path) => path.parent() != Some(dir),
            Naming::Renamed { to, .. } => to.parent() != Some(dir),
        });
        Ok(())
    }
}
