//! What the BPF programs know: which processes, with which mappings, of which executables.
//!
//! A state machine without threads or clocks: commands of sampling and reports of the threads come in, requests to them
//! come out, and the maps are written in between. What is written needs a few microseconds and never waits for anything,
//! because this runs on the thread that drains the rings.
//!
//! ```text
//! Command ─▶ ┌───────────┐ ─▶ OpenRequest ─▶ opener ─▶ Report::Opened ─┐
//!            │ Publisher │ ─▶ WorkRequest ─▶ builder ─▶ Report::… ─────┤
//!            └───────────┘ ◀───────────────────────────────────────────┘
//!                  │ chunks by mmap, then the maps that point to them
//!                  ▼ BPF programs
//! ```
//!
//! A mapping set is published before its files are known, so that the programs know the process; once a file is open and
//! its bias known, every set that shows it is written again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use pyrite_bpf::abi::{PYRITE_MAX_MAPPINGS, PYRITE_TABLE_ABSENT, pyrite_executable, pyrite_process};
use pyrite_sampling::{BootNs, Command, Generation, Mappings};
use pyrite_symbolizer::Miss;

use crate::unwind::chunks::{ChunkId, Chunks};
use crate::unwind::code::{self, Code, CodeKey, ExecutableIndex, Place};
use crate::unwind::files::{Files, Found, Moved, OpenRequest};
use crate::unwind::kernel::Kernel;
use crate::unwind::room::Room;
use crate::unwind::rules::Rules;
use crate::unwind::stats::{PublishFailure, UnwindStats};
use crate::unwind::tables::{ExecutableTables, Table, pending_entry};
use crate::unwind::work::{BuiltTable, WorkRequest};

/// Whether what the programs know of a mapping set still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Freshness {
    Current,
    /// Some of its files have become known since.
    Incomplete,
    /// It leads to an executable that one of its files is no longer, and whose index may soon be another's.
    Wrong,
}

/// A mapping set that the programs know, or are to know.
#[derive(Debug)]
struct MappingSet {
    mappings: Arc<Mappings>,
    /// Each once.
    keys: Vec<CodeKey>,
    /// The first is the root. None where there was no room.
    chunks: Vec<ChunkId>,
    entries: u32,
    /// The processes that have it.
    tgids: Vec<u32>,
    /// It is to be written again unless it is current.
    freshness: Freshness,
    /// Whether it could not be written the last time.
    has_no_room: bool,
}

/// What is published of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Published {
    generation: Generation,
    began_by: BootNs,
}

/// The state machine.
pub(crate) struct Publisher<K: Kernel> {
    pub(super) kernel: K,
    pub(super) chunks: Chunks<K::Slab>,
    pub(super) files: Files,
    pub(super) tables: ExecutableTables,
    pub(super) room: Room,
    pub(super) rules: Rules,
    sets: HashMap<Generation, MappingSet>,
    processes: HashMap<u32, Published>,
    /// Up to when all events are known by which the processes are described.
    as_of: BootNs,
    /// Processes that have called exec since then: what is known of them is of the program before.
    ahead: HashSet<u32>,
    /// Sets to be written again; each once.
    outdated: Vec<Generation>,
    pub(super) opens: VecDeque<OpenRequest>,
    pub(super) work: VecDeque<WorkRequest>,
    /// Tables that wait for chunks.
    pub(super) parked: VecDeque<(ExecutableIndex, Box<BuiltTable>)>,
    /// How many are with the builder.
    pub(super) building: usize,
    pub(super) is_in_grace: bool,
    pub(super) stats: UnwindStats,
}

impl<K: Kernel> Publisher<K> {
    /// Knows nothing but the slab that is in place. Fails where the kernel takes no executable.
    pub(crate) fn new(kernel: K, first_slab: K::Slab, room: Room, now: BootNs) -> io::Result<Self> {
        let mut chunks = Chunks::new();
        chunks.add_slab(0, first_slab);
        let mut publisher = Self {
            kernel,
            chunks,
            files: Files::default(),
            tables: ExecutableTables::new(),
            room,
            rules: Rules::new(),
            sets: HashMap::new(),
            processes: HashMap::new(),
            as_of: BootNs::default(),
            ahead: HashSet::new(),
            outdated: Vec::new(),
            opens: VecDeque::new(),
            work: VecDeque::new(),
            parked: VecDeque::new(),
            building: 0,
            is_in_grace: false,
            stats: UnwindStats::default(),
        };
        let absent = pyrite_executable { state: PYRITE_TABLE_ABSENT as u8, ..Default::default() };
        publisher.kernel.set_executable(ExecutableIndex::NO_FILE.0, absent)?;
        publisher.kernel.set_executable(ExecutableIndex::UNOPENED.0, pending_entry())?;
        publisher.kernel.set_executable(ExecutableIndex::UNREADABLE.0, absent)?;
        // Every process has it, so its table is never taken out.
        publisher.files.refer(CodeKey::Vdso, None, now);
        Ok(publisher)
    }

    /// The commands that follow know of all events up to `until`.
    pub(crate) fn advance(&mut self, until: BootNs) {
        self.as_of = until;
    }

    /// Carries out what sampling asks for.
    pub(crate) fn command(&mut self, command: Command, now: BootNs) {
        match command {
            Command::Open { tgid, file, start, end } => {
                let key = CodeKey::File(file.key);
                self.files.meet(key, Some(Place { tgid, file, start, end }), now);
            }
            Command::Publish { process, began_by, generation, mappings } => {
                let published = Published { generation, began_by };
                self.publish(process.tgid, published, &mappings, now);
            }
            Command::Withdraw { tgid } => {
                if let Err(error) = self.kernel.remove_process(tgid) {
                    self.count_refusal(&error);
                }
                if let Some(old) = self.processes.remove(&tgid) {
                    self.release(old.generation, tgid, now);
                }
            }
        }
    }

    /// Writes again what has become outdated, and asks the threads for what is needed. To be called once per round, after
    /// the commands and reports of the round.
    pub(crate) fn settle(&mut self, now: BootNs) {
        for generation in std::mem::take(&mut self.outdated) {
            self.rewrite(generation);
        }
        for tgid in std::mem::take(&mut self.ahead) {
            self.announce_process(tgid);
        }
        self.opens.extend(self.files.take_requests());
        self.manage_room(now);
    }

    /// Where the code of a mapping is to be looked up.
    pub(crate) fn code_of(&self, mapping: &pyrite_sampling::Mapping) -> Code {
        self.files.code_of(mapping)
    }

    /// A file was opened, or could not be.
    pub(crate) fn opened(&mut self, request: &OpenRequest, outcome: Result<Found, Miss>, now: BootNs) {
        let before = self.files.index_of(request.key);
        let outcome = outcome.map(|found| {
            let index = self.index_of(&found, now);
            (found, index)
        });
        let known = match &outcome {
            Ok((found, Some(index))) => Ok((found, *index)),
            Ok((_, None)) => {
                self.count(PublishFailure::ExecutablesFull);
                Err(Miss::TooManyFiles)
            }
            Err(miss) => Err(*miss),
        };
        let moved = self.files.opened(request.key, request.place.as_ref(), known, now);
        if let Some(index) = before {
            self.tables.give_up_reopening(index);
        }
        if let Some(moved) = moved {
            self.moved(request.key, moved, now);
        }
    }

    /// A file is another executable than was known.
    fn moved(&mut self, key: CodeKey, moved: Moved, now: BootNs) {
        if let Some(to) = moved.to {
            self.tables.refer(to, moved.sets);
        }
        if let Some(from) = moved.from {
            self.tables.unrefer(from, moved.sets, now);
        }
        if moved.sets == 0 {
            return;
        }
        let freshness = if moved.from.is_some() { Freshness::Wrong } else { Freshness::Incomplete };
        for (generation, set) in self.sets.iter_mut().filter(|(_, set)| set.keys.contains(&key)) {
            if set.freshness == Freshness::Current {
                self.outdated.push(*generation);
            }
            set.freshness = set.freshness.max(freshness);
        }
    }

    /// Gauges and counters.
    pub(crate) fn stats(&self) -> UnwindStats {
        let counts = self.chunks.counts();
        let table_chunks = self.tables.iter().map(|(_, table)| table.chunks.len()).sum();
        let mut publish_failures = self.stats.publish_failures;
        publish_failures[PublishFailure::FilePostponed as usize] = self.files.postponed();
        UnwindStats {
            budget_bytes: self.room.budget_bytes(),
            map_bytes: self.room.map_bytes(self.chunks.slab_count()),
            slabs: self.chunks.slab_count(),
            table_chunks,
            mapping_chunks: counts.used - table_chunks,
            retired_chunks: counts.retired,
            free_chunks: counts.free,
            rows: self.tables.iter().map(|(_, table)| u64::from(table.rows.kept)).sum(),
            input_rows: self.tables.iter().map(|(_, table)| u64::from(table.rows.input)).sum(),
            rules: self.rules.count(),
            tables: self.tables.counts(),
            files: self.files.len(),
            files_waiting: self.files.waiting(),
            processes: self.processes.len(),
            mapping_sets: self.sets.len(),
            publish_failures,
            ..self.stats
        }
    }

    /// How many sets wait for chunks, or for being written again.
    pub(super) fn sets_without_room(&self) -> usize {
        self.outdated.len()
    }

    pub(super) fn count(&mut self, failure: PublishFailure) {
        self.stats.publish_failures[failure as usize] += 1;
    }

    pub(super) fn count_refusal(&mut self, error: &io::Error) {
        // E2BIG: a hash map of which every element is in use.
        let is_full = error.raw_os_error() == Some(libc::E2BIG);
        self.count(if is_full { PublishFailure::ProcessesFull } else { PublishFailure::Refused });
    }

    /// The index of an executable, a new one where it has none yet; `None` where every index is in use.
    fn index_of(&mut self, found: &Found, now: BootNs) -> Option<ExecutableIndex> {
        if let Some(index) = self.tables.find(&found.identity) {
            self.tables.met(index, now);
            if self.tables.get(index).is_some_and(Table::wants_another_try) {
                self.tables.queue(index, found.reader.clone());
                self.announce_table(index);
            }
            return Some(index);
        }
        let index = self.tables.add(Arc::clone(&found.identity), found.reader.clone(), now)?;
        self.announce_table(index);
        Some(index)
    }

    /// Lets the programs know what there is of a table.
    pub(super) fn announce_table(&mut self, index: ExecutableIndex) {
        let entry = self.tables.get(index).map_or_else(pending_entry, Table::entry);
        if let Err(error) = self.kernel.set_executable(index.0, entry) {
            self.count_refusal(&error);
        }
    }

    fn publish(&mut self, tgid: u32, new: Published, mappings: &Arc<Mappings>, now: BootNs) {
        let old = self.processes.insert(tgid, new);
        let is_other_set = old.is_none_or(|old| old.generation != new.generation);
        if is_other_set {
            if !self.sets.contains_key(&new.generation) {
                self.add_set(new.generation, mappings, tgid, now);
            }
            if let Some(set) = self.sets.get_mut(&new.generation) {
                set.tgids.push(tgid);
            }
        }
        self.announce_process(tgid);
        if let Some(old) = old.filter(|_| is_other_set) {
            self.release(old.generation, tgid, now);
        }
    }

    fn add_set(&mut self, generation: Generation, mappings: &Arc<Mappings>, tgid: u32, now: BootNs) {
        let (mut keys, mut met) = (Vec::new(), HashSet::new());
        for mapping in mappings.as_slice() {
            let Some(key) = CodeKey::of(mapping).filter(|key| met.insert(*key)) else { continue };
            keys.push(key);
            if let Some(index) = self.files.refer(key, Place::of(tgid, mapping), now) {
                self.tables.refer(index, 1);
            }
        }
        let mappings = Arc::clone(mappings);
        let (chunks, tgids) = (Vec::new(), Vec::new());
        let freshness = Freshness::Incomplete;
        let set = MappingSet { mappings, keys, chunks, entries: 0, tgids, freshness, has_no_room: false };
        self.sets.insert(generation, set);
        self.rewrite(generation);
    }

    /// Writes a set into new chunks, lets its processes point to them and retires the old ones.
    fn rewrite(&mut self, generation: Generation) {
        let Some(set) = self.sets.get_mut(&generation) else { return };
        let entries = code::entries(&set.mappings, |mapping| self.files.code_of(mapping));
        let Some(ids) = self.chunks.allocate(code::chunks_needed(entries.len())) else {
            return self.postpone(generation);
        };
        for (id, chunk) in ids.iter().zip(code::encode(&entries, &ids)) {
            self.chunks.write(*id, &chunk);
        }
        set.freshness = Freshness::Current;
        set.has_no_room = false;
        set.entries = entries.len() as u32;
        self.stats.sets_written += 1;
        if entries.len() == PYRITE_MAX_MAPPINGS as usize {
            self.count(PublishFailure::TooManyMappings);
        }
        self.replace_chunks(generation, ids);
    }

    /// There is no room to write a set. What the programs know of it stays as long, unless it is wrong.
    fn postpone(&mut self, generation: Generation) {
        let Some(set) = self.sets.get_mut(&generation) else { return };
        let is_first_time = !std::mem::replace(&mut set.has_no_room, true);
        let is_misleading = set.freshness == Freshness::Wrong && !set.chunks.is_empty();
        self.outdated.push(generation);
        if is_first_time {
            self.count(PublishFailure::NoChunk);
        }
        if is_misleading {
            self.replace_chunks(generation, Vec::new());
        }
    }

    /// Lets a set's processes point to these chunks, or to none, and retires those that they pointed to.
    fn replace_chunks(&mut self, generation: Generation, chunks: Vec<ChunkId>) {
        let Some(set) = self.sets.get_mut(&generation) else { return };
        let old = std::mem::replace(&mut set.chunks, chunks);
        for tgid in set.tgids.clone() {
            self.announce_process(tgid);
        }
        self.chunks.retire(old);
    }

    /// Lets the programs know a process, or no longer know it where its set found no room.
    ///
    /// A process that calls exec is taken out by a program in the kernel, and its set may be on its way here at that very
    /// moment. So the set is written first and the exec looked for afterwards, while the kernel notes the exec first and
    /// takes the process out afterwards: whoever comes last takes it out.
    fn announce_process(&mut self, tgid: u32) {
        let Some(published) = self.processes.get(&tgid) else { return };
        let Some(set) = self.sets.get(&published.generation) else { return };
        let told = match set.chunks.first() {
            None => self.kernel.remove_process(tgid),
            Some(root) => self.kernel.set_process(
                tgid,
                pyrite_process {
                    began_by_boot_ns: published.began_by.0,
                    generation: published.generation.abi(),
                    mappings: set.entries,
                    root: root.0,
                    reserved: 0,
                },
            ),
        };
        let is_ahead = self.kernel.last_exec(tgid) > self.as_of;
        if is_ahead {
            self.ahead.insert(tgid);
        }
        let withdrawn = if is_ahead { self.kernel.remove_process(tgid) } else { Ok(()) };
        if let Err(error) = told.and(withdrawn) {
            self.count_refusal(&error);
        }
    }

    /// A process no longer has this set.
    fn release(&mut self, generation: Generation, tgid: u32, now: BootNs) {
        let Some(set) = self.sets.get_mut(&generation) else { return };
        if let Some(at) = set.tgids.iter().position(|other| *other == tgid) {
            set.tgids.swap_remove(at);
        }
        if !set.tgids.is_empty() {
            return;
        }
        let Some(set) = self.sets.remove(&generation) else { return };
        self.chunks.retire(set.chunks);
        for key in set.keys {
            if let Some(index) = self.files.unrefer(key) {
                self.tables.unrefer(index, 1, now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
