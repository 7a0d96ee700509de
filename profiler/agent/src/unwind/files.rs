//! The files that processes have mapped: which executable each is, once that is known.
//!
//! The kernel's numbers of a file are its name while it is mapped or open, no longer: an inode number may be used again.
//! So what is known of a file that nobody maps counts only as long as the file is still held open, and a file that is met
//! anew is looked at again now and then, because it may have been changed in place.

use std::sync::Arc;

use hashbrown::HashMap;
use pyrite_sampling::{BootNs, Mapping};
use pyrite_symbolizer::{ExecutableReader, ExecutableRef, Miss};
use pyrite_unwind::Layout;

use crate::unwind::code::{Code, CodeKey, ExecutableIndex, Place};
use crate::unwind::tables::TableIdentity;

/// A file is looked at again no more often than this.
pub(crate) const LOOK_AGAIN_NS: u64 = 1_000_000_000;
/// Files that nobody maps are dropped when there are so many files in all.
const MAX_FILES: usize = 16_384;
/// Files asked for and not answered yet. New ones may come faster than they can be opened: beyond this they are postponed.
const MAX_ASKED: usize = 4_096;

/// An executable as it was found in a file.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) identity: Arc<TableIdentity>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) executable: ExecutableRef,
    pub(crate) reader: ExecutableReader,
}

/// A file to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRequest {
    pub(crate) key: CodeKey,
    /// `None` for the vDSO, which is everywhere.
    pub(crate) place: Option<Place>,
}

#[derive(Debug)]
struct File {
    state: FileState,
    /// How many mapping sets show it.
    sets: u32,
    place: Option<Place>,
    /// When it was last asked to be opened.
    asked_at: BootNs,
    /// Whether an answer is still to come.
    is_asked: bool,
}

#[derive(Debug)]
enum FileState {
    Unopened,
    Known { index: ExecutableIndex, layout: Arc<Layout>, executable: ExecutableRef },
    Unreadable,
}

/// What became of a file's executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) from: Option<ExecutableIndex>,
    pub(crate) to: Option<ExecutableIndex>,
    /// How many mapping sets show the file.
    pub(crate) sets: u32,
}

/// All files.
#[derive(Debug, Default)]
pub(crate) struct Files {
    by_key: HashMap<CodeKey, File>,
    to_open: Vec<OpenRequest>,
    /// How many files are asked for.
    asked: usize,
    /// Whether a file was postponed since those that were are asked for again.
    has_postponed: bool,
    /// How often a file was postponed.
    postponed: u64,
    /// How many files there are when those that nobody maps are looked for next.
    sweep_at: usize,
}

impl Files {
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// How many wait to be opened.
    pub(crate) fn waiting(&self) -> usize {
        self.asked
    }

    /// How often a file could not be asked for when it was met.
    pub(crate) fn postponed(&self) -> u64 {
        self.postponed
    }

    /// Files to be opened since the last time this was asked for.
    pub(crate) fn take_requests(&mut self) -> Vec<OpenRequest> {
        std::mem::take(&mut self.to_open)
    }

    /// A file was met, though no mapping set shows it yet.
    pub(crate) fn meet(&mut self, key: CodeKey, place: Option<Place>, now: BootNs) {
        self.make_room();
        let file = self.by_key.entry(key).or_insert_with(File::new);
        if place.is_some() {
            file.place = place;
        }
        if file.sets == 0 && file.is_forgettable() {
            file.state = FileState::Unopened;
        }
        let is_new = matches!(file.state, FileState::Unopened);
        let may_have_changed = key != CodeKey::Vdso && now.abs_diff(file.asked_at) >= LOOK_AGAIN_NS;
        if !file.is_asked && (is_new || may_have_changed) {
            self.ask(key, now);
        }
    }

    /// One more mapping set shows this file. Returns its executable, if that is known.
    pub(crate) fn refer(
        &mut self,
        key: CodeKey,
        place: Option<Place>,
        now: BootNs,
    ) -> Option<ExecutableIndex> {
        self.meet(key, place, now);
        let file = self.by_key.get_mut(&key)?;
        file.sets += 1;
        file.index()
    }

    /// One mapping set less shows this file. Returns its executable, if that is known.
    pub(crate) fn unrefer(&mut self, key: CodeKey) -> Option<ExecutableIndex> {
        let file = self.by_key.get_mut(&key)?;
        file.sets = file.sets.saturating_sub(1);
        file.index()
    }

    /// The executable `index` must be read again: asks for one of the files that are it. Returns whether there is one.
    pub(crate) fn ask_for(&mut self, index: ExecutableIndex, now: BootNs) -> bool {
        let mut files = self.by_key.iter();
        let is_it = |file: &File| file.sets > 0 && !file.is_asked && file.index() == Some(index);
        let found = files.find(|(_, file)| is_it(file)).map(|(key, _)| *key);
        found.is_some_and(|key| self.ask(key, now))
    }

    /// Asks for the files that are mapped and were postponed.
    pub(crate) fn ask_postponed(&mut self, now: BootNs) {
        if !std::mem::take(&mut self.has_postponed) {
            return;
        }
        let is_waiting =
            |file: &File| file.sets > 0 && !file.is_asked && matches!(file.state, FileState::Unopened);
        let waiting = self.by_key.iter().filter(|(_, file)| is_waiting(file));
        let waiting: Vec<CodeKey> = waiting.map(|(key, _)| *key).collect();
        for key in waiting {
            // Where there is no room for more, the rest is postponed again.
            if !self.ask(key, now) {
                return;
            }
        }
    }

    /// The executable that a file is, if that is known.
    pub(crate) fn index_of(&self, key: CodeKey) -> Option<ExecutableIndex> {
        self.by_key.get(&key)?.index()
    }

    /// What opening a file gave: the executable that it is, and its index. Returns what changed, if anything did.
    pub(crate) fn opened(
        &mut self,
        key: CodeKey,
        tried: Option<&Place>,
        outcome: Result<(&Found, ExecutableIndex), Miss>,
        now: BootNs,
    ) -> Option<Moved> {
        let file = self.by_key.get_mut(&key)?;
        file.is_asked = false;
        self.asked = self.asked.saturating_sub(1);
        let from = file.index();
        match outcome {
            Ok((found, index)) => {
                file.state = FileState::Known {
                    index,
                    layout: Arc::clone(&found.layout),
                    executable: Arc::clone(&found.executable),
                };
            }
            // It is mapped, so it is there; that its process has ended says nothing.
            Err(_) if from.is_some() && file.sets > 0 => {}
            Err(_) => {
                // Another process has mapped it meanwhile, which may still live.
                let was_unopened = matches!(file.state, FileState::Unopened);
                if was_unopened && file.place.as_ref() != tried {
                    self.ask(key, now);
                    return None;
                }
                let changed = was_unopened || from.is_some();
                file.state = FileState::Unreadable;
                return changed.then_some(Moved { from, to: None, sets: file.sets });
            }
        }
        let to = file.index();
        (from != to).then_some(Moved { from, to, sets: file.sets })
    }

    /// Where the code of a mapping is to be looked up.
    pub(crate) fn code_of(&self, mapping: &Mapping) -> Code {
        let Some(key) = CodeKey::of(mapping) else {
            return Code::without_table(ExecutableIndex::NO_FILE);
        };
        match self.by_key.get(&key).map(|file| &file.state) {
            None | Some(FileState::Unopened) => Code::without_table(ExecutableIndex::UNOPENED),
            Some(FileState::Unreadable) => Code::without_table(ExecutableIndex::UNREADABLE),
            Some(FileState::Known { index, layout, .. }) => {
                let bytes = mapping.end.0 - mapping.start.0;
                match layout.bias(mapping.start, mapping.file_offset, bytes) {
                    Some(bias) => Code { executable: *index, bias },
                    None => Code::without_table(ExecutableIndex::UNREADABLE),
                }
            }
        }
    }

    /// Forgets every file that is one of these executables, which are sorted.
    pub(crate) fn forget(&mut self, indexes: &[ExecutableIndex]) {
        self.by_key.retain(|_, file| {
            let is_one = |index: ExecutableIndex| indexes.binary_search(&index).is_ok();
            let is_it = file.sets == 0 && file.index().is_some_and(is_one);
            if is_it {
                file.state = FileState::Unopened;
            }
            !is_it || file.is_asked
        });
    }

    /// Asks for a file, or postpones it where too many are asked for already. Returns whether it is asked for.
    fn ask(&mut self, key: CodeKey, now: BootNs) -> bool {
        if self.asked >= MAX_ASKED {
            self.has_postponed = true;
            self.postponed += 1;
            return false;
        }
        let Some(file) = self.by_key.get_mut(&key) else { return false };
        file.asked_at = now;
        file.is_asked = true;
        self.asked += 1;
        self.to_open.push(OpenRequest { key, place: file.place.clone() });
        true
    }

    fn make_room(&mut self) {
        if self.by_key.len() >= self.sweep_at {
            self.by_key.retain(|_, file| file.sets > 0 || file.is_asked);
            // Where all of them are mapped, they are not all looked at for each one that comes.
            self.sweep_at = MAX_FILES.max(self.by_key.len() + MAX_FILES / 8);
        }
    }
}

impl File {
    fn new() -> Self {
        Self {
            state: FileState::Unopened,
            sets: 0,
            place: None,
            asked_at: BootNs::default(),
            is_asked: false,
        }
    }

    fn index(&self) -> Option<ExecutableIndex> {
        match self.state {
            FileState::Known { index, .. } => Some(index),
            FileState::Unopened | FileState::Unreadable => None,
        }
    }

    /// Whether nothing holds the file any more, so that its numbers may name another one.
    fn is_forgettable(&self) -> bool {
        match &self.state {
            FileState::Known { executable, .. } => executable.miss().is_some(),
            FileState::Unopened | FileState::Unreadable => true,
        }
    }
}
