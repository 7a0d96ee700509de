//! Reading a segment: the rows of some series within a window, and which stacks their ids mean.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pyrite_model::{StackId, TimeRange, UnixMs};

use super::cover::{Piece, Resolution, ceil, cover};
use super::manifest::{DictionaryUse, Manifest};
use super::rollup::{Rollup, Shape};
use super::row_table::{GroupScan, Place, RowTable};
use super::schema::{SAMPLES, STACK_IDS};
use super::v1;
use crate::StoreError;
use crate::dictionary::{Dictionary, Epochs};
use crate::files::FileLayer;
use crate::rows::StoredRow;
use crate::sync::lock;

/// A set of small ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdSet {
    bits: Vec<bool>,
}

impl FromIterator<u32> for IdSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut bits = Vec::new();
        for at in ids.into_iter().map(|id| id as usize) {
            if at >= bits.len() {
                bits.resize(at + 1, false);
            }
            bits[at] = true;
        }
        Self { bits }
    }
}

impl IdSet {
    pub(crate) fn contains(&self, id: u32) -> bool {
        self.bits.get(id as usize).copied().unwrap_or(false)
    }
}

/// What the stack ids of a segment's samples mean.
#[derive(Clone, Debug)]
pub(crate) struct StackIds {
    pub(crate) dictionary: Arc<Dictionary>,
    /// By id in the segment.
    pub(crate) stacks: Arc<[StackId]>,
}

/// What was read of a segment's stacks. The dictionary of an epoch is not kept with them: how much of those is in memory is not
/// for those to say who once needed one.
#[derive(Clone)]
enum Loaded {
    /// In format 1.
    Own(StackIds),
    OfEpoch {
        used: DictionaryUse,
        stacks: Arc<[StackId]>,
    },
}

/// By stack of a segment.
#[derive(Debug, Default)]
pub(crate) struct StackColumns {
    /// Which one of the epoch it is.
    pub(crate) stacks: Vec<u32>,
    /// How many rows have it.
    pub(crate) rows: Vec<u32>,
    /// A series that some of them are of.
    pub(crate) series: Vec<u32>,
}

/// An open segment. Its files are opened when they are first read: a long window needs one or two of each.
pub(crate) struct SegmentReader {
    dir: PathBuf,
    manifest: Manifest,
    samples: RowTable,
    /// As the manifest lists them.
    rollups: Vec<RowTable>,
    totals: Vec<RowTable>,
    stacks: Mutex<Option<Loaded>>,
}

impl SegmentReader {
    pub(crate) fn open(files: &dyn FileLayer, dir: &Path) -> Result<Self, StoreError> {
        let manifest = Manifest::read(files, dir)?;
        let ladder = |shape| {
            let table = |rollup: &Rollup| RowTable::new(Rollup::file(shape, rollup.bucket_ms));
            manifest.ladder(shape).iter().map(table).collect()
        };
        let (rollups, totals) = (ladder(Shape::Stacks), ladder(Shape::Totals));
        let samples = RowTable::new(SAMPLES.file);
        Ok(Self { dir: dir.to_owned(), manifest, samples, rollups, totals, stacks: Mutex::new(None) })
    }

    /// What its stack ids mean.
    pub(crate) fn stacks(&self, files: &dyn FileLayer, epochs: &Epochs) -> Result<StackIds, StoreError> {
        match self.loaded(files)? {
            Loaded::Own(stacks) => Ok(stacks),
            Loaded::OfEpoch { used: DictionaryUse { epoch, stacks: end }, stacks } => {
                Ok(StackIds { dictionary: epochs.get(epoch, end)?, stacks })
            }
        }
    }

    /// Read when first asked for.
    fn loaded(&self, files: &dyn FileLayer) -> Result<Loaded, StoreError> {
        let mut loaded = lock(&self.stacks);
        if let Some(loaded) = &*loaded {
            return Ok(loaded.clone());
        }
        let read = match self.manifest.dictionary {
            None => Loaded::Own(v1::read_stacks(files, &self.dir, &self.manifest)?),
            Some(used) => {
                let ids = self.stack_column(files, 1)?;
                if ids.iter().any(|id| *id as usize >= used.stacks) {
                    return Err(self.corrupt("a stack is beyond its dictionary"));
                }
                Loaded::OfEpoch { used, stacks: ids.into_iter().map(StackId).collect() }
            }
        };
        *loaded = Some(read.clone());
        Ok(read)
    }

    /// What it says of its stacks. In format 2 only.
    pub(crate) fn stack_columns(&self, files: &dyn FileLayer) -> Result<StackColumns, StoreError> {
        let column = |at| self.stack_column(files, at);
        Ok(StackColumns { stacks: column(1)?, rows: column(2)?, series: column(3)? })
    }

    fn stack_column(&self, files: &dyn FileLayer, column: usize) -> Result<Vec<u32>, StoreError> {
        let table = self.manifest.open_table(files, &self.dir, STACK_IDS.file)?;
        let mut values = Vec::new();
        for i in 0..table.row_group_count() {
            values.extend(table.row_group(i)?.u32s(column)?);
        }
        if values.len() == self.manifest.stack_count() {
            Ok(values)
        } else {
            Err(self.corrupt("the manifest lists another number of stacks"))
        }
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The error for a segment whose files contradict each other.
    pub(crate) fn corrupt(&self, what: &'static str) -> StoreError {
        StoreError::corrupt(&self.dir, what)
    }

    fn row_tables(&self) -> impl Iterator<Item = &RowTable> {
        self.rollups.iter().chain(&self.totals).chain([&self.samples])
    }

    /// How many files it holds open.
    pub(crate) fn open_files(&self) -> usize {
        self.row_tables().filter(|table| table.is_open()).count()
    }

    /// Estimated memory.
    pub(crate) fn bytes(&self) -> usize {
        let stacks = match &*lock(&self.stacks) {
            None => 0,
            Some(Loaded::Own(ids)) => ids.dictionary.bytes() + size_of_val(&*ids.stacks),
            // The epoch's dictionary is everybody's.
            Some(Loaded::OfEpoch { stacks, .. }) => size_of_val(&**stacks),
        };
        // The fixed parts and the manifest, whose windows and checksums are some 60 bytes for a row group.
        let groups: usize = self.manifest.tables.values().map(|table| table.row_groups.len()).sum();
        8192 + groups * 64 + self.row_tables().map(RowTable::bytes).sum::<usize>() + stacks
    }

    /// The row groups to read for the rows of the series within the window. These come added up where that makes no difference
    /// to the grid, and without stacks where nobody wants them and there are totals.
    pub(crate) fn plan<'a>(
        &'a self,
        files: &dyn FileLayer,
        wanted: Wanted<'a>,
    ) -> Result<Vec<GroupScan<'a>>, StoreError> {
        let (shape, tables) = match wanted.shape {
            Shape::Totals if !self.totals.is_empty() => (Shape::Totals, &self.totals),
            _ => (Shape::Stacks, &self.rollups),
        };
        let ladder = self.manifest.ladder(shape);
        let usable = ladder.iter().take_while(|rollup| wanted.grid.allows(rollup.bucket_ms));
        let bucket_ms: Vec<i64> = usable.map(|rollup| rollup.bucket_ms).collect();
        // Where the window holds all of the segment, so do the buckets that hold its ends. The last instants of time are in
        // none.
        let range = self.manifest.range();
        let within = wanted.window.start <= range.start && range.end <= wanted.window.end;
        let has_all = |coarsest: &usize| within && ceil(range.end.0, bucket_ms[*coarsest]).is_some();
        let pieces = match bucket_ms.len().checked_sub(1).filter(has_all) {
            Some(coarsest) => vec![Piece { from: Resolution::Rollup(coarsest), range: EVER }],
            None => cover(wanted.window, &bucket_ms),
        };
        let mut groups = Vec::new();
        for Piece { from, range } in pieces {
            let (table, windows, shape) = match from {
                Resolution::Rows => (&self.samples, &self.manifest.windows, Shape::Stacks),
                Resolution::Rollup(level) => (&tables[level], &ladder[level].windows, shape),
            };
            let wanted = Wanted { window: range, shape, ..wanted };
            groups.extend(table.plan(&self.place(files), windows, wanted)?);
        }
        Ok(groups)
    }

    /// Calls `each` for every row, row group by row group.
    pub(crate) fn scan_all(
        &self,
        files: &dyn FileLayer,
        each: impl FnMut(StoredRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.samples.scan_all(&self.place(files), each)
    }

    fn place<'a>(&'a self, files: &'a dyn FileLayer) -> Place<'a> {
        Place { files, dir: &self.dir, manifest: &self.manifest }
    }
}

const EVER: TimeRange = TimeRange { start: UnixMs(i64::MIN), end: UnixMs(i64::MAX) };

/// Which rows to read.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) series: &'a IdSet,
    pub(crate) window: TimeRange,
    pub(crate) grid: Grid,
    /// Whether their stacks matter.
    pub(crate) shape: Shape,
}

/// Which instants must be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grid {
    /// None within the window.
    Window,
    /// Those on the two sides of `origin` + k · `step`, in ms; each is the last of its step.
    Steps { origin: i64, step: i64 },
}

impl Grid {
    /// Whether buckets of this length lie within steps.
    fn allows(self, bucket_ms: i64) -> bool {
        match self {
            Self::Window => true,
            Self::Steps { origin, step } => origin % bucket_ms == 0 && step % bucket_ms == 0,
        }
    }
}
