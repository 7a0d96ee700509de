//! Damaged segments: set aside as they were found, named, and kept for a while.
//!
//! ```text
//! quarantine/NAME/         the segment, nothing in it changed
//! quarantine/NAME.json     the note on it: since when, why, and which rows can no longer be queried
//! ```
//!
//! They are evidence, and perhaps something can be saved from them by hand, so they are not removed at once. But a disk
//! that damages many must not fill up with them: the oldest go when they are too old or take too much room.
//!
//! A note is written before its segment is moved, so that a segment in quarantine is known by one whatever happens; a
//! note without a segment says nothing and goes at the next start.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pyrite_model::{Exposition, TimeRange, UnixMs};
use serde::{Deserialize, Serialize};

use crate::dictionary::EpochId;
use crate::files::{FileLayer, dir_bytes, read_all};
use crate::metrics::Counter;
use crate::segment::manifest::Manifest;
use crate::segment::{self, SegmentInfo};
use crate::shared::{Clock, Layout};
use crate::sync::lock;
use crate::{QuarantineLimits, StoreError};

/// However small they are, no more are held than this: what is known of each is in memory.
const MAX_SEGMENTS: usize = 1000;
/// So many of the newest are named in the metrics, one line each.
const NAMED: usize = 20;
const NOTE: &str = ".json";
/// What is behind the segment's name in that of a copy, so that it is known for one where its note is lost.
const COPY: &str = ".copy";

/// What `quarantine/NAME.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The name that the segment had while it was in use.
    pub(crate) segment: String,
    /// What is wrong with it.
    pub(crate) why: String,
    /// When it was set aside.
    pub(crate) since_ms: i64,
    /// The rows that are lost to queries; not known where neither the catalogue nor a legible manifest tells.
    pub(crate) rows: Option<u64>,
    pub(crate) min_time_ms: Option<i64>,
    pub(crate) max_time_ms: Option<i64>,
    /// Its other rows are in a segment that was made of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_copy: bool,
}

impl Note {
    fn new(segment: &str, why: &str, since: UnixMs, known: Option<&SegmentInfo>) -> Self {
        Self {
            segment: segment.to_owned(),
            why: why.to_owned(),
            since_ms: since.0,
            rows: known.map(|known| known.rows),
            min_time_ms: known.map(|known| known.range.start.0),
            max_time_ms: known.map(|known| known.range.end.0),
            is_copy: false,
        }
    }

    /// When the rows were, both ends inside.
    fn range(&self) -> Option<TimeRange> {
        Some(TimeRange::new(UnixMs(self.min_time_ms?), UnixMs(self.max_time_ms?)))
    }
}

/// A segment in quarantine.
struct Held {
    /// Its directory there: the segment's own name, or one made of it where that was taken.
    name: String,
    bytes: u64,
    note: Note,
    /// The dictionary that says what its stacks are; `None` where nothing is to be made of its rows any more.
    epoch: Option<EpochId>,
}

/// The quarantine of one data directory.
pub(crate) struct Quarantine {
    files: Arc<dyn FileLayer>,
    layout: Layout,
    clock: Clock,
    limits: QuarantineLimits,
    /// In the order in which they were set aside.
    held: Mutex<Vec<Held>>,
    taken: Counter,
    removed_by_age: Counter,
    removed_by_size: Counter,
}

impl Quarantine {
    /// Looks at what is held already.
    pub(crate) fn open(
        files: &Arc<dyn FileLayer>,
        layout: &Layout,
        clock: &Clock,
        limits: QuarantineLimits,
    ) -> Result<Self, StoreError> {
        let quarantine = Self {
            files: Arc::clone(files),
            layout: layout.clone(),
            clock: Arc::clone(clock),
            limits,
            held: Mutex::default(),
            taken: Counter::default(),
            removed_by_age: Counter::default(),
            removed_by_size: Counter::default(),
        };
        let dir = &layout.quarantine;
        let names = match files.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(StoreError::io("list", dir))?,
        };
        for name in &names {
            match name.strip_suffix(NOTE) {
                Some(of) if names.iter().all(|other| other != of) => quarantine.discard_note(of)?,
                Some(_) => {}
                None => quarantine.find(name)?,
            }
        }
        lock(&quarantine.held).sort_by_key(|held| held.note.since_ms);
        Ok(quarantine)
    }

    /// Sets a segment aside as it is; `known` is what the catalogue or its manifest says of it. One that is not among the
    /// segments has been moved already.
    pub(crate) fn take(
        &self,
        segment: &str,
        why: &str,
        known: Option<&SegmentInfo>,
    ) -> Result<(), StoreError> {
        let mut held = lock(&self.held);
        let Layout { root, quarantine: dir, segments, .. } = &self.layout;
        let from = segments.join(segment);
        let Some(bytes) = self.size(&from) else { return Ok(()) };
        self.files.create_dir(dir).map_err(StoreError::io("create", dir))?;
        self.sync_dir(root)?;
        let name = self.free_name(segment);
        let note = Note::new(segment, why, (self.clock)(), known);
        let epoch = known.and_then(epoch_of);
        self.write_note(&name, &note)?;
        self.files.rename(&from, &dir.join(&name)).map_err(StoreError::io("move", &from))?;
        self.sync_dir(dir)?;
        self.sync_dir(segments)?;
        self.taken.add(1);
        held.push(Held { name, bytes, note, epoch });
        // Stable, and needed only after the clock has been set back.
        held.sort_by_key(|held| held.note.since_ms);
        Ok(())
    }

    /// Keeps a copy of a segment as it is, before one is made of its sound rows; `lost` says which the others are.
    pub(crate) fn copy(&self, why: &str, lost: &SegmentInfo) -> Result<(), StoreError> {
        let mut held = lock(&self.held);
        let Layout { root, quarantine: dir, segments, .. } = &self.layout;
        let from = segments.join(&lost.name);
        let is_same = |held: &Held| {
            let Note { segment, is_copy, .. } = &held.note;
            *is_copy && *segment == lost.name && self.are_same(&from, &dir.join(&held.name))
        };
        if held.iter().any(is_same) {
            // What was to be made of it then was not finished.
            return Ok(());
        }
        let name = self.free_name(&format!("{}{COPY}", lost.name));
        // Under a name that is no segment's until all of it is there.
        let temporary = dir.join(format!("tmp-{name}"));
        self.files.create_dir(&temporary).map_err(StoreError::io("create", &temporary))?;
        self.sync_dir(root)?;
        let mut bytes = 0;
        for file in self.files.list(&from).map_err(StoreError::io("list", &from))? {
            let (source, target) = (from.join(&file), temporary.join(&file));
            let content = read_all(self.files.as_ref(), &source).map_err(StoreError::io("read", &source))?;
            let mut copy = self.files.create(&target).map_err(StoreError::io("create", &target))?;
            let written = copy.append(&content).and_then(|()| copy.sync());
            written.map_err(StoreError::io("write", &target))?;
            bytes += content.len() as u64;
        }
        self.sync_dir(&temporary)?;
        let note = Note { is_copy: true, ..Note::new(&lost.name, why, (self.clock)(), Some(lost)) };
        self.write_note(&name, &note)?;
        self.files.rename(&temporary, &dir.join(&name)).map_err(StoreError::io("rename", &temporary))?;
        self.sync_dir(dir)?;
        self.taken.add(1);
        held.push(Held { name, bytes, note, epoch: None });
        Ok(())
    }

    /// Moves a segment back to where it was; `name` is the one that it has here. Returns the one that it has there.
    pub(crate) fn give_back(&self, name: &str) -> Result<Option<String>, StoreError> {
        let mut held = lock(&self.held);
        let Some(at) = held.iter().position(|held| held.name == name) else { return Ok(None) };
        let Layout { quarantine: dir, segments, .. } = &self.layout;
        let (from, to) = (dir.join(name), segments.join(&held[at].note.segment));
        self.files.rename(&from, &to).map_err(StoreError::io("move", &from))?;
        self.sync_dir(segments)?;
        self.sync_dir(dir)?;
        let Held { note, .. } = held.remove(at);
        self.discard_note(name)?;
        Ok(Some(note.segment))
    }

    /// Removes what is too old, then the oldest until the rest is within its bounds.
    pub(crate) fn trim(&self) -> Result<(), StoreError> {
        let QuarantineLimits { max_age, max_bytes } = self.limits;
        let max_age_ms = i64::try_from(max_age.as_millis()).unwrap_or(i64::MAX);
        let now = (self.clock)();
        let mut held = lock(&self.held);
        // Whoever has looked at one may have removed it since.
        held.retain(|held| self.size(&self.layout.quarantine.join(&held.name)).is_some());
        let mut bytes: u64 = held.iter().map(|held| held.bytes).sum();
        while let Some(oldest) = held.first() {
            let (reason, counter) = match () {
                () if now.0.saturating_sub(oldest.note.since_ms) > max_age_ms => {
                    ("age", &self.removed_by_age)
                }
                () if bytes > max_bytes || held.len() > MAX_SEGMENTS => ("size", &self.removed_by_size),
                () => break,
            };
            self.remove(oldest)?;
            let Held { name, bytes: freed, note, .. } = held.remove(0);
            bytes -= freed;
            counter.add(1);
            let (from, until) = window_text(note.range());
            let (rows, why) = (note.rows, note.why);
            tracing::warn!(name, reason, %from, %until, rows, why, "damaged segment removed from quarantine");
        }
        Ok(())
    }

    /// Writes counters and gauges.
    pub(crate) fn metrics(&self, out: &mut Exposition) {
        let moved = "Damaged segments moved to quarantine.";
        out.counter("pyrite_store_segments_quarantined_total", moved, &[], self.taken.get() as f64);
        for (reason, counter) in [("age", &self.removed_by_age), ("size", &self.removed_by_size)] {
            let (name, removed) =
                ("pyrite_store_quarantine_removed_total", "Damaged segments removed from quarantine.");
            out.counter(name, removed, &[("reason", reason)], counter.get() as f64);
        }
        let held = lock(&self.held);
        out.gauge("pyrite_store_quarantine_segments", "Segments in quarantine.", &[], held.len() as f64);
        let bytes: u64 = held.iter().map(|held| held.bytes).sum();
        out.gauge("pyrite_store_quarantine_bytes", "Disk space of the quarantine.", &[], bytes as f64);
        for Held { name, note, .. } in held.iter().rev().take(NAMED) {
            let (from, until) = window_text(note.range());
            let labels = [("segment", name.as_str()), ("from", from.as_str()), ("until", until.as_str())];
            let lost = "Rows that queries lack because their segment is in quarantine, and when they were.";
            let rows = note.rows.map_or(f64::NAN, |rows| rows as f64);
            out.gauge("pyrite_store_quarantine_rows", lost, &labels, rows);
        }
    }

    /// Takes up a segment that an earlier process set aside.
    fn find(&self, name: &str) -> Result<(), StoreError> {
        let dir = self.layout.quarantine.join(name);
        // Whatever else somebody has put there is not ours to count, let alone to remove.
        let Some(bytes) = self.size(&dir).filter(|_| segment::generations(name).is_some()) else {
            return Ok(());
        };
        let manifest = Manifest::read(self.files.as_ref(), &dir).ok();
        let known = manifest.map(|manifest| manifest.info(name));
        let note = if let Some(note) = self.read_note(name) {
            note
        } else {
            let note = note_by_name(name, "found in quarantine", (self.clock)(), known.as_ref());
            self.write_note(name, &note)?;
            note
        };
        let epoch = known.as_ref().and_then(epoch_of).filter(|_| !note.is_copy);
        lock(&self.held).push(Held { name: name.to_owned(), bytes, note, epoch });
        Ok(())
    }

    /// The dictionaries that what is held here needs when it is put in use again.
    pub(crate) fn epochs(&self) -> BTreeSet<EpochId> {
        lock(&self.held).iter().filter_map(|held| held.epoch).collect()
    }

    /// Whether two directories have the same files; not where that cannot be told.
    fn are_same(&self, one: &Path, other: &Path) -> bool {
        let names = |dir: &Path| self.files.list(dir).ok();
        let content = |dir: &Path, name: &str| read_all(self.files.as_ref(), &dir.join(name)).ok();
        names(one) == names(other)
            && names(one).is_some_and(|names| {
                let is_same = |name: &String| {
                    content(one, name).is_some_and(|bytes| content(other, name) == Some(bytes))
                };
                names.iter().all(is_same)
            })
    }

    /// What the files of a directory take; `None` where it is not there, or none.
    fn size(&self, dir: &Path) -> Option<u64> {
        let names = self.files.list(dir).ok()?;
        let sizes =
            names.iter().map(|name| self.files.open_read(&dir.join(name)).and_then(|file| file.len()));
        Some(sizes.filter_map(Result::ok).sum())
    }

    /// Generations may be numbered anew where a catalogue was lost together with the newest segment.
    fn free_name(&self, segment: &str) -> String {
        let is_free = |name: &String| self.files.list(&self.layout.quarantine.join(name)).is_err();
        let more = (2..).map(|n: u32| format!("{segment}.{n}"));
        let mut names = std::iter::once(segment.to_owned()).chain(more);
        names.find(is_free).expect("there are more numbers than directories")
    }

    fn note_path(&self, name: &str) -> PathBuf {
        self.layout.quarantine.join(format!("{name}{NOTE}"))
    }

    fn read_note(&self, name: &str) -> Option<Note> {
        read_note(self.files.as_ref(), &self.layout.quarantine, name)
    }

    fn write_note(&self, name: &str, note: &Note) -> Result<(), StoreError> {
        let path = self.note_path(name);
        let text = serde_json::to_string(note).expect("a note has string keys and finite numbers");
        let mut file = self.files.create(&path).map_err(StoreError::io("create", &path))?;
        let written = file.append(format!("{text}\n").as_bytes()).and_then(|()| file.sync());
        written.map_err(StoreError::io("write", &path))?;
        self.sync_dir(&self.layout.quarantine)
    }

    /// Removes a note whose segment never came or is gone.
    fn discard_note(&self, name: &str) -> Result<(), StoreError> {
        if self.read_note(name).is_none() {
            // Nothing that was written here.
            return Ok(());
        }
        let path = self.note_path(name);
        self.files.remove_file(&path).map_err(StoreError::io("remove", &path))
    }

    fn remove(&self, held: &Held) -> Result<(), StoreError> {
        let dir = self.layout.quarantine.join(&held.name);
        self.files.remove_dir(&dir).map_err(StoreError::io("remove", &dir))?;
        self.discard_note(&held.name)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), StoreError> {
        self.files.sync_dir(dir).map_err(StoreError::io("sync", dir))
    }
}

/// What is known of a segment in quarantine.
pub(crate) struct Surveyed {
    /// Its name there.
    pub(crate) name: String,
    /// The one that it had while it was in use.
    pub(crate) segment: String,
    /// See [`Note::is_copy`].
    pub(crate) is_copy: bool,
    pub(crate) bytes: u64,
    pub(crate) rows: Option<u64>,
    pub(crate) range: Option<TimeRange>,
}

/// The segments in a quarantine that no store has open.
pub(crate) fn survey(files: &dyn FileLayer, dir: &Path) -> Vec<Surveyed> {
    let names = files.list(dir).unwrap_or_default();
    let of_segment = |name: &String| {
        segment::generations(name)?;
        files.list(&dir.join(name)).ok()?;
        // A start makes one where there is none.
        let note = read_note(files, dir, name).unwrap_or_else(|| note_by_name(name, "", UnixMs(0), None));
        let (range, bytes) = (note.range(), dir_bytes(files, &dir.join(name)));
        let Note { segment, rows, is_copy, .. } = note;
        Some(Surveyed { name: name.clone(), segment, is_copy, bytes, rows, range })
    };
    names.iter().filter_map(of_segment).collect()
}

/// The note on a segment in quarantine; `None` where there is none that is legible. A name is no path.
fn read_note(files: &dyn FileLayer, dir: &Path, name: &str) -> Option<Note> {
    let text = read_all(files, &dir.join(format!("{name}{NOTE}"))).ok()?;
    let note: Note = serde_json::from_slice(&text).ok()?;
    (!note.segment.contains('/')).then_some(note)
}

/// What the name of one says that has no note.
fn note_by_name(name: &str, why: &str, since: UnixMs, known: Option<&SegmentInfo>) -> Note {
    let segment = name.split('.').next().unwrap_or(name);
    let is_copy = name[segment.len()..].starts_with(COPY);
    Note { is_copy, ..Note::new(segment, why, since, known) }
}

fn epoch_of(segment: &SegmentInfo) -> Option<EpochId> {
    segment.dictionary.map(|used| used.epoch)
}

/// Both ends as dates, for people and for labels.
pub(crate) fn window_text(range: Option<TimeRange>) -> (String, String) {
    let text = |end: Option<UnixMs>| end.map_or_else(|| "unknown".to_owned(), |end| end.to_string());
    (text(range.map(|range| range.start)), text(range.map(|range| range.end)))
}
