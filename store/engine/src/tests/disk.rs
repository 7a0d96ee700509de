//! A disk in memory that does on a crash whatever a disk may do.
//!
//! Each file and directory is there twice: as the process sees it, and as it was last synced, with the changes between the
//! two. When the power fails, any subset of the changed names is kept, and of each file a part of what was appended, torn
//! where the disk likes. Renaming is atomic, as it is with a journal. A failed sync leaves what it was for in doubt, and the
//! next one does not make up for it, as on Linux. `SQLite` does its own file handling: its files are real ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::files::{FileLayer, ReadFile, RealFiles, WriteFile};
use crate::sync::lock;

/// What the disk tears at.
const SECTOR: usize = 512;
const CATALOGUE: &str = "catalogue.sqlite";

/// Random numbers from a seed.
#[derive(Clone, Default)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// `SplitMix64`.
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() >> 1).unwrap() % end.max(1)
    }

    fn flip(&mut self) -> bool {
        self.roll() & 1 == 0
    }
}

/// How much of what was not synced is there after the power has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Nothing,
    Some,
    /// Of names everything, of files nothing.
    Names,
}

/// What happens to operations from some one on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    /// The machine stops; a write may be there by half.
    Crash,
    /// So many operations fail. A full disk lets go of things all the same.
    Fail { kind: ErrorKind, times: u32, reads: bool },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Read,
    /// Needs room.
    Write,
    Sync,
    /// Needs none.
    Remove,
}

#[derive(Clone)]
enum Change {
    Append(Vec<u8>),
    /// Appended, but its sync failed.
    Doubtful(Vec<u8>),
    Cut(usize),
}

#[derive(Default)]
struct Content {
    seen: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Change>,
}

type Names = BTreeMap<String, usize>;

enum Node {
    File(Content),
    Dir { seen: Names, synced: Names },
}

/// A name gone, come, or both.
struct Naming {
    from: Option<(usize, String)>,
    to: Option<(usize, String)>,
    node: usize,
}

struct State {
    base: PathBuf,
    nodes: Vec<Node>,
    /// In order; what a directory's sync made durable is gone from here.
    namings: Vec<Naming>,
    dice: Dice,
    operations: u64,
    /// The operation from which on there is trouble, and which.
    trouble: Option<(u64, Trouble)>,
    down: bool,
}

/// The disk. Clones are the same one.
#[derive(Clone)]
pub(super) struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// An empty disk below a real directory, in which the real files are.
    pub(super) fn new(base: &Path, seed: u64) -> Self {
        let root = Node::Dir { seen: Names::new(), synced: Names::new() };
        Self(Arc::new(Mutex::new(State {
            base: base.to_owned(),
            nodes: vec![root],
            namings: Vec::new(),
            dice: Dice(seed),
            operations: 0,
            trouble: None,
            down: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Lets so many operations that change something succeed, then makes trouble.
    pub(super) fn trouble_after(&self, operations: u64, trouble: Trouble) {
        let mut state = self.state();
        state.trouble = Some((state.operations + operations, trouble));
    }

    pub(super) fn heal(&self) {
        self.state().trouble = None;
    }

    pub(super) fn is_troubled(&self) -> bool {
        self.state().trouble.is_some()
    }

    /// Whether it has crashed.
    pub(super) fn is_down(&self) -> bool {
        self.state().down
    }

    /// The process has died and the machine has not: what was written is there, synced or not. What the next process
    /// reads, its own sync makes durable, however an earlier one ended.
    pub(super) fn restart(&self) {
        let mut state = self.state();
        for node in &mut state.nodes {
            if let Node::File(content) = node {
                content.trust();
            }
        }
        state.down = false;
        state.trouble = None;
    }

    /// The power has failed and is there again.
    pub(super) fn restart_after_power_failure(&self, kept: Kept) {
        self.restart();
        let mut state = self.state();
        let State { nodes, namings, dice, .. } = &mut *state;
        for naming in std::mem::take(namings) {
            let is_kept = match kept {
                Kept::Nothing => false,
                Kept::Names => true,
                Kept::Some => dice.flip(),
            };
            if is_kept {
                apply(nodes, &naming, |node| match node {
                    Node::Dir { synced, .. } => synced,
                    Node::File(_) => panic!("a file has no names in it"),
                });
            }
        }
        for node in nodes {
            match node {
                Node::Dir { seen, synced } => *seen = synced.clone(),
                Node::File(content) => content.survive(kept, dice),
            }
        }
        // The real files go with the directory that they are in.
        for entry in fs::read_dir(&state.base).unwrap() {
            let path = entry.unwrap().path();
            if state.find(&path).is_err() {
                fs::remove_dir_all(path).unwrap();
            }
        }
    }

    /// The paths of all files, those of the catalogue included.
    pub(super) fn all_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs = vec![self.state().base.clone()];
        while let Some(dir) = dirs.pop() {
            for path in self.list(&dir).unwrap().into_iter().map(|name| dir.join(name)) {
                if self.is_dir(&path) {
                    dirs.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        let state = self.state();
        state.find(path).is_ok_and(|node| matches!(state.nodes[node], Node::Dir { .. }))
    }

    /// Flips a bit at rest; positions count around.
    pub(super) fn flip_bit(&self, path: &Path, at: usize) {
        if is_real(path) {
            let mut bytes = fs::read(path).unwrap();
            flip(&mut bytes, at);
            return fs::write(path, bytes).unwrap();
        }
        let mut state = self.state();
        let content = state.content(path);
        flip(&mut content.seen, at);
        // Where the process had not synced it, it is not at rest.
        if content.pending.is_empty() {
            content.synced.clone_from(&content.seen);
        }
    }

    /// Somebody removes a file or directory, and it stays so.
    pub(super) fn remove_by_hand(&self, path: &Path) {
        if is_real(path) {
            return fs::remove_file(path).unwrap();
        }
        let mut state = self.state();
        let (dir, name) = state.place(path).unwrap();
        state.namings.retain(|n| {
            n.from.as_ref() != Some(&(dir, name.clone())) && n.to.as_ref() != Some(&(dir, name.clone()))
        });
        let Node::Dir { seen, synced } = &mut state.nodes[dir] else { panic!("not in a directory") };
        seen.remove(&name);
        synced.remove(&name);
    }

    /// Sets a file's content at rest.
    pub(super) fn write_by_hand(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        *state.content(path) = Content { seen: bytes.to_vec(), synced: bytes.to_vec(), pending: Vec::new() };
    }
}

fn is_real(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(CATALOGUE))
}

fn flip(bytes: &mut [u8], at: usize) {
    if !bytes.is_empty() {
        let bit = at % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

fn apply(nodes: &mut [Node], naming: &Naming, of: impl Fn(&mut Node) -> &mut Names) {
    if let Some((dir, name)) = &naming.from {
        let names = of(&mut nodes[*dir]);
        if names.get(name) == Some(&naming.node) {
            names.remove(name);
        }
    }
    if let Some((dir, name)) = &naming.to {
        of(&mut nodes[*dir]).insert(name.clone(), naming.node);
    }
}

impl Content {
    fn change(&mut self, change: Change) {
        match &change {
            Change::Append(bytes) | Change::Doubtful(bytes) => self.seen.extend_from_slice(bytes),
            Change::Cut(len) => self.seen.truncate(*len),
        }
        self.pending.push(change);
    }

    fn sync(&mut self, dice: &mut Dice) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Append(bytes) => self.synced.extend(bytes),
                Change::Doubtful(bytes) if dice.flip() => self.synced.extend(bytes),
                Change::Doubtful(bytes) => self.synced.resize(self.synced.len() + bytes.len(), 0),
                Change::Cut(len) => self.synced.truncate(len),
            }
        }
    }

    fn doubt(&mut self) {
        for change in &mut self.pending {
            if let Change::Append(bytes) = change {
                *change = Change::Doubtful(std::mem::take(bytes));
            }
        }
    }

    fn trust(&mut self) {
        for change in &mut self.pending {
            if let Change::Doubtful(bytes) = change {
                *change = Change::Append(std::mem::take(bytes));
            }
        }
    }

    fn survive(&mut self, kept: Kept, dice: &mut Dice) {
        let pending = std::mem::take(&mut self.pending);
        if kept == Kept::Some {
            let whole = dice.below(pending.len() + 1);
            let before = self.synced.len();
            for (i, change) in pending.into_iter().enumerate().take(whole + 1) {
                match change {
                    Change::Cut(len) if i < whole => self.synced.truncate(len),
                    Change::Cut(_) => {}
                    Change::Append(bytes) | Change::Doubtful(bytes) => {
                        let end = if i < whole { bytes.len() } else { dice.below(bytes.len() + 1) };
                        self.synced.extend_from_slice(&bytes[..end]);
                    }
                }
            }
            let appended = before.min(self.synced.len());
            if self.synced.len() > appended && dice.below(3) == 0 {
                let from = appended + dice.below(self.synced.len() - appended);
                let end = self.synced.len().min(from + SECTOR);
                let filler = if dice.flip() { 0 } else { 0xa5 };
                self.synced[from..end].fill(filler);
            }
        }
        self.seen.clone_from(&self.synced);
    }
}

fn gone(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{} is not there", path.display()))
}

impl State {
    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut node = 0;
        let Ok(below) = path.strip_prefix(&self.base) else {
            return Err(ErrorKind::PermissionDenied.into());
        };
        for part in below {
            let Node::Dir { seen, .. } = &self.nodes[node] else { return Err(gone(path)) };
            node = *seen.get(part.to_str().unwrap()).ok_or_else(|| gone(path))?;
        }
        Ok(node)
    }

    /// The directory that a path is in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(usize, String)> {
        let dir = self.find(path.parent().unwrap())?;
        Ok((dir, path.file_name().unwrap().to_str().unwrap().to_owned()))
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        let node = self.find(path).unwrap();
        self.content_of(node)
    }

    fn content_of(&mut self, node: usize) -> &mut Content {
        let Node::File(content) = &mut self.nodes[node] else { panic!("not a file") };
        content
    }

    fn seen(&self, dir: usize, path: &Path) -> io::Result<&Names> {
        match &self.nodes[dir] {
            Node::Dir { seen, .. } => Ok(seen),
            Node::File(_) => Err(io::Error::new(ErrorKind::NotADirectory, path.display().to_string())),
        }
    }

    fn name(&mut self, naming: Naming) {
        apply(&mut self.nodes, &naming, |node| match node {
            Node::Dir { seen, .. } => seen,
            Node::File(_) => panic!("a file has no names in it"),
        });
        self.namings.push(naming);
    }

    fn add(&mut self, place: (usize, String), node: Node) -> usize {
        self.nodes.push(node);
        let node = self.nodes.len() - 1;
        self.name(Naming { from: None, to: Some(place), node });
        node
    }

    /// Counts an operation, which may be the one that fails.
    fn begin(&mut self, op: Op) -> io::Result<()> {
        if self.down {
            return Err(io::Error::other("the machine is down"));
        }
        let at = self.operations;
        if op != Op::Read {
            self.operations += 1;
        }
        let Some((from, trouble)) = &mut self.trouble else { return Ok(()) };
        if at < *from {
            return Ok(());
        }
        match trouble {
            Trouble::Crash
            | Trouble::Fail { reads: false, .. }
            | Trouble::Fail { kind: ErrorKind::ReadOnlyFilesystem, .. }
                if op == Op::Read =>
            {
                Ok(())
            }
            Trouble::Crash => {
                self.down = true;
                Err(io::Error::other("the machine is down"))
            }
            Trouble::Fail { kind: ErrorKind::StorageFull, .. } if matches!(op, Op::Read | Op::Remove) => {
                Ok(())
            }
            Trouble::Fail { times: 0, .. } => Ok(()),
            Trouble::Fail { kind, times, .. } => {
                *times -= 1;
                Err(io::Error::from(*kind))
            }
        }
    }
}

struct OpenFile {
    disk: Disk,
    node: usize,
}

impl WriteFile for OpenFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let was_down = state.down;
        let begun = state.begin(Op::Write);
        let end = match &begun {
            Ok(()) => bytes.len(),
            Err(_) if was_down => 0,
            Err(_) => state.dice.below(bytes.len() + 1),
        };
        state.content_of(self.node).change(Change::Append(bytes[..end].to_vec()));
        begun
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        let begun = state.begin(Op::Sync);
        let State { nodes, dice, down, .. } = &mut *state;
        let Node::File(content) = &mut nodes[self.node] else { panic!("not a file") };
        match &begun {
            Ok(()) => content.sync(dice),
            Err(_) if *down => {}
            Err(_) => content.doubt(),
        }
        begun
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin(Op::Remove)?;
        state.content_of(self.node).change(Change::Cut(usize::try_from(len).unwrap()));
        Ok(())
    }
}

impl ReadFile for OpenFile {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut state = self.disk.state();
        state.begin(Op::Read)?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = state.content_of(self.node).seen.get(from..).and_then(|rest| rest.get(..len));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().content_of(self.node).seen.len() as u64)
    }
}

impl Disk {
    fn handle(&self, node: usize) -> OpenFile {
        OpenFile { disk: self.clone(), node }
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Remove)?;
        let node = state.find(path)?;
        let from = state.place(path)?;
        state.name(Naming { from: Some(from), to: None, node });
        Ok(())
    }
}

impl FileLayer for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut state = self.state();
        state.begin(Op::Write)?;
        let node = if let Ok(node) = state.find(path) {
            state.content_of(node).change(Change::Cut(0));
            node
        } else {
            let place = state.place(path)?;
            state.add(place, Node::File(Content::default()))
        };
        drop(state);
        Ok(Box::new(self.handle(node)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut state = self.state();
        state.begin(Op::Read)?;
        let node = state.find(path)?;
        drop(state);
        Ok(Box::new(self.handle(node)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        if is_real(path) {
            return RealFiles.open_read(path);
        }
        let mut state = self.state();
        state.begin(Op::Read)?;
        let node = state.find(path)?;
        drop(state);
        Ok(Box::new(self.handle(node)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Write)?;
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| state.find(dir).is_err()).collect();
        for dir in missing.into_iter().rev() {
            let place = state.place(dir)?;
            if place.0 == 0 {
                // `SQLite` and the lock have their files in it.
                fs::create_dir_all(dir)?;
            }
            state.add(place, Node::Dir { seen: Names::new(), synced: Names::new() });
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.begin(Op::Read)?;
        let node = state.find(dir)?;
        let mut names: Vec<String> = state.seen(node, dir)?.keys().cloned().collect();
        if node != 0 {
            let real = RealFiles.list(dir).unwrap_or_default();
            names.extend(real.into_iter().filter(|name| name.starts_with(CATALOGUE)));
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Write)?;
        if is_real(from) {
            return RealFiles.rename(from, to);
        }
        let node = state.find(from)?;
        if let Ok(taken) = state.find(to)
            && state.seen(taken, to).is_ok_and(|names| !names.is_empty())
        {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let (from, to) = (state.place(from)?, state.place(to)?);
        state.name(Naming { from: Some(from), to: Some(to), node });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        if is_real(path) {
            self.state().begin(Op::Remove)?;
            return RealFiles.remove_file(path);
        }
        self.unlink(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        for name in self.list(path)? {
            let entry = path.join(name);
            if self.is_dir(&entry) { self.remove_dir(&entry)? } else { self.unlink(&entry)? }
        }
        self.unlink(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Sync)?;
        let node = state.find(dir)?;
        let State { nodes, namings, .. } = &mut *state;
        let touches = |place: &Option<(usize, String)>| place.as_ref().is_some_and(|(of, _)| *of == node);
        let (durable, rest): (Vec<_>, Vec<_>) = std::mem::take(namings)
            .into_iter()
            .partition(|naming| touches(&naming.from) || touches(&naming.to));
        *namings = rest;
        for naming in durable {
            // What came under the name that it went from is not to come again.
            namings.retain(|other| other.node != naming.node || other.to != naming.from);
            apply(nodes, &naming, |node| match node {
                Node::Dir { synced, .. } => synced,
                Node::File(_) => panic!("a file has no names in it"),
            });
        }
        Ok(())
    }
}
