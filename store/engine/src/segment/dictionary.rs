//! The symbol files of a segment in memory, compact and checked: every id in it exists, and every stack has a root.

use std::collections::HashSet;
use std::path::Path;

use parquet::data_type::ByteArray;
use pyrite_model::{FunctionId, Line};

use super::manifest::Manifest;
use super::schema::{FUNCTIONS, LOCATIONS, MAPPINGS, STACKS, Table};
use crate::StoreError;
use crate::files::FileLayer;
use crate::symbols::{FunctionRef, LocationRef, SymbolLens, Symbols};
use crate::table::{RowGroup, TableReader};

/// Text kept in one piece.
#[derive(Debug, Default)]
struct Texts {
    bytes: String,
    ends: Vec<u32>,
}

impl Texts {
    fn push(&mut self, text: &ByteArray) -> bool {
        let Ok(text) = text.as_utf8() else { return false };
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len() as u32);
        u32::try_from(self.bytes.len()).is_ok()
    }

    fn get(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start as usize..self.ends[i] as usize]
    }
}

#[derive(Debug)]
struct StoredLocation {
    mapping: Option<u32>,
    address: u64,
    /// Where its lines end; they begin where those of the location before end.
    lines_end: u32,
}

/// Everything that the stacks of one segment are made of.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    parents: Vec<Option<u32>>,
    stack_locations: Vec<u32>,
    stack_rows: Vec<u32>,
    locations: Vec<StoredLocation>,
    lines: Vec<Line>,
    /// Three per function: name, system name, file name.
    function_texts: Texts,
    start_lines: Vec<u32>,
    /// Two per mapping: build id, path.
    mapping_texts: Texts,
}

impl Dictionary {
    /// Reads the symbol files of a segment.
    pub(crate) fn load(files: &dyn FileLayer, dir: &Path, manifest: &Manifest) -> Result<Self, StoreError> {
        let mut dictionary = Self::default();
        each_row_group(files, dir, manifest, &STACKS, |group| dictionary.add_stacks(group))?;
        each_row_group(files, dir, manifest, &LOCATIONS, |group| dictionary.add_locations(group))?;
        each_row_group(files, dir, manifest, &FUNCTIONS, |group| {
            let columns = [group.texts(1)?, group.texts(2)?, group.texts(3)?];
            dictionary.start_lines.extend(group.u32s(4)?);
            Ok(interleave(&mut dictionary.function_texts, &columns))
        })?;
        each_row_group(files, dir, manifest, &MAPPINGS, |group| {
            let columns = [group.texts(1)?, group.texts(2)?];
            Ok(interleave(&mut dictionary.mapping_texts, &columns))
        })?;
        let listed = manifest.tables.get(STACKS.file).map(|table| table.rows);
        if listed != Some(dictionary.parents.len() as u64) {
            return Err(StoreError::corrupt(dir, "the manifest lists another number of stacks"));
        }
        match dictionary.check() {
            None => Ok(dictionary),
            Some(what) => Err(StoreError::corrupt(dir, what)),
        }
    }

    /// How many rows of the segment have the stack with this id.
    pub(crate) fn stack_rows(&self) -> &[u32] {
        &self.stack_rows
    }

    /// Estimated memory.
    pub(crate) fn bytes(&self) -> usize {
        self.parents.len() * 16
            + self.locations.len() * size_of::<StoredLocation>()
            + self.lines.len() * size_of::<Line>()
            + self.start_lines.len() * 16
            + self.function_texts.bytes.len()
            + self.mapping_texts.bytes.len()
    }

    fn add_stacks(&mut self, group: &RowGroup<'_>) -> Result<bool, StoreError> {
        let ids = group.u32s(0)?;
        let ordered = ids.into_iter().zip(self.parents.len()..).all(|(id, at)| id as usize == at);
        self.parents.extend(group.option_u32s(1)?);
        self.stack_locations.extend(group.u32s(2)?);
        self.stack_rows.extend(group.u32s(3)?);
        Ok(ordered)
    }

    /// A location has one row per line, the innermost first, or one row without a function.
    fn add_locations(&mut self, group: &RowGroup<'_>) -> Result<bool, StoreError> {
        let ids = group.u32s(0)?;
        let mappings = group.option_u32s(2)?;
        let addresses = group.i64s(3)?;
        let functions = group.option_u32s(4)?;
        let lines = group.u32s(5)?;
        for i in 0..ids.len() {
            if ids[i] as usize == self.locations.len() {
                let lines_end = self.lines.len() as u32;
                let (mapping, address) = (mappings[i], addresses[i] as u64);
                self.locations.push(StoredLocation { mapping, address, lines_end });
            }
            let Some(last) = self.locations.last_mut() else { return Ok(false) };
            if let Some(function) = functions[i] {
                self.lines.push(Line { function: FunctionId(function), line: lines[i] });
                last.lines_end += 1;
            }
            if ids[i] as usize + 1 != self.locations.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is wrong with the ids, if anything.
    fn check(&self) -> Option<&'static str> {
        let lens = self.lens();
        let below = |id: u32, len: usize| (id as usize) < len;
        let parents = self.parents.iter().flatten();
        if !parents.clone().all(|&id| below(id, lens.stacks))
            || !self.stack_locations.iter().all(|&id| below(id, lens.locations))
        {
            return Some("a stack refers past the end of its tables");
        }
        let mut mappings = self.locations.iter().filter_map(|l| l.mapping);
        if !mappings.all(|id| below(id, lens.mappings))
            || !self.lines.iter().all(|l| below(l.function.0, lens.functions))
        {
            return Some("a location refers past the end of its tables");
        }
        if self.has_cycle() { Some("a stack has no root") } else { None }
    }

    fn has_cycle(&self) -> bool {
        let mut rooted = vec![false; self.parents.len()];
        let mut path = HashSet::new();
        for start in 0..self.parents.len() as u32 {
            let mut next = Some(start);
            while let Some(id) = next.filter(|&id| !rooted[id as usize]) {
                if !path.insert(id) {
                    return true;
                }
                next = self.parents[id as usize];
            }
            for id in path.drain() {
                rooted[id as usize] = true;
            }
        }
        false
    }
}

/// Calls `add` for every row group of a table; `false` from it means that the table's ids are not 0, 1, 2, …
fn each_row_group(
    files: &dyn FileLayer,
    dir: &Path,
    manifest: &Manifest,
    table: &Table,
    mut add: impl FnMut(&RowGroup<'_>) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let reader = open_table(files, dir, manifest, table)?;
    for i in 0..reader.row_group_count() {
        if !add(&reader.row_group(i)?)? {
            return Err(StoreError::corrupt(
                &dir.join(table.file),
                "its ids or texts are not as they must be",
            ));
        }
    }
    Ok(())
}

/// Opens one file of a segment.
pub(super) fn open_table(
    files: &dyn FileLayer,
    dir: &Path,
    manifest: &Manifest,
    table: &Table,
) -> Result<TableReader, StoreError> {
    let index = manifest.tables.get(table.file);
    let index = index.ok_or_else(|| StoreError::corrupt(dir, "the manifest lacks a table"))?;
    TableReader::open(files, dir.join(table.file), index.clone())
}

fn interleave(into: &mut Texts, columns: &[Vec<ByteArray>]) -> bool {
    let rows = columns.iter().map(Vec::len).min().unwrap_or(0);
    (0..rows).all(|row| columns.iter().all(|column| into.push(&column[row])))
}

impl Symbols for Dictionary {
    fn lens(&self) -> SymbolLens {
        SymbolLens {
            stacks: self.parents.len(),
            locations: self.locations.len(),
            functions: self.function_texts.ends.len() / 3,
            mappings: self.mapping_texts.ends.len() / 2,
        }
    }

    fn stack(&self, id: u32) -> (Option<u32>, u32) {
        (self.parents[id as usize], self.stack_locations[id as usize])
    }

    fn location(&self, id: u32) -> LocationRef<'_> {
        let at = id as usize;
        let start = if at == 0 { 0 } else { self.locations[at - 1].lines_end };
        let StoredLocation { mapping, address, lines_end } = self.locations[at];
        LocationRef { mapping, address, lines: &self.lines[start as usize..lines_end as usize] }
    }

    fn function(&self, id: u32) -> FunctionRef<'_> {
        let at = id as usize;
        FunctionRef {
            name: self.function_texts.get(at * 3),
            system_name: self.function_texts.get(at * 3 + 1),
            filename: self.function_texts.get(at * 3 + 2),
            start_line: self.start_lines[at],
        }
    }

    fn mapping(&self, id: u32) -> (&str, &str) {
        let at = id as usize;
        (self.mapping_texts.get(at * 2), self.mapping_texts.get(at * 2 + 1))
    }
}
