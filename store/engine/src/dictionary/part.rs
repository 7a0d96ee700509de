//! A part of an epoch on the disk: the entries of its tables from some ids up to others, as Parquet files.
//!
//! ```text
//! stacks.parquet     stack, parent, location
//! locations.parquet  location, inline, mapping, address, function, line      one row per line, else one without
//! functions.parquet  function, name, system_name, filename, start_line
//! mappings.parquet   mapping, build_id, path
//! part.json          where each table begins, and what the files must hash to
//! ```
//!
//! A table without an entry in the range has no file, but for the first part, which has all: so readers find one to open.

use std::ops::Range;
use std::path::Path;

use pyrite_model::{Function, LocationId, StringId, SymbolTable, TableLens};
use serde::{Deserialize, Serialize};

use super::Dictionary;
use super::entries::Entries;
use crate::files::FileLayer;
use crate::segment::schema::{self, FUNCTIONS, LOCATIONS, MAPPINGS, Packing, STACKS, Table};
use crate::table::{Column, TableIndexes, TableWriter};
use crate::{StoreError, sealed};

const FORMAT: u64 = 1;
const MANIFEST: &str = "part.json";
/// Entries per row group.
const ROW_GROUP_ENTRIES: usize = 64 * 1024;

/// How many entries the tables have that are stored. Strings are stored where they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lens {
    pub(crate) mappings: usize,
    pub(crate) functions: usize,
    pub(crate) locations: usize,
    pub(crate) stacks: usize,
}

impl Lens {
    pub(crate) fn of(symbols: &SymbolTable) -> Self {
        let TableLens { mappings, functions, locations, stacks, .. } = symbols.lens();
        Self { mappings, functions, locations, stacks }
    }

    /// Whether every table is as long as there.
    pub(super) fn reaches(self, other: Self) -> bool {
        self.mappings >= other.mappings
            && self.functions >= other.functions
            && self.locations >= other.locations
            && self.stacks >= other.stacks
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u64,
    first: Lens,
    end: Lens,
    tables: TableIndexes,
}

/// Writes the entries from `first` to `end` into a directory that is there, and syncs all but its name.
pub(super) fn write(
    files: &dyn FileLayer,
    dir: &Path,
    dictionary: &Dictionary,
    Range { start: first, end }: Range<Lens>,
) -> Result<(), StoreError> {
    let mut tables = TableIndexes::new();
    // The dictionary is held for no longer than it takes to copy some entries: the writer waits for it.
    let mut table = |table: &Table,
                     ids: Range<usize>,
                     columns: fn(&SymbolTable, Range<usize>) -> Vec<Column>| {
        if ids.is_empty() && first != Lens::default() {
            return Ok(());
        }
        let path = dir.join(table.file);
        let mut writer = TableWriter::create(files, path, table.schema, schema::properties(Packing::Zstd))?;
        for start in ids.clone().step_by(ROW_GROUP_ENTRIES) {
            let columns = columns(&dictionary.read(), start..ids.end.min(start + ROW_GROUP_ENTRIES));
            writer.write(&columns)?;
        }
        tables.insert(table.file.to_owned(), writer.finish()?);
        Ok::<_, StoreError>(())
    };
    table(&STACKS, first.stacks..end.stacks, stack_columns)?;
    table(&LOCATIONS, first.locations..end.locations, location_columns)?;
    table(&FUNCTIONS, first.functions..end.functions, function_columns)?;
    table(&MAPPINGS, first.mappings..end.mappings, mapping_columns)?;
    sealed::write(files, &dir.join(MANIFEST), &Manifest { format: FORMAT, first, end, tables })?;
    files.sync_dir(dir).map_err(StoreError::io("sync", dir))
}

fn stack_columns(symbols: &SymbolTable, ids: Range<usize>) -> Vec<Column> {
    let nodes = &symbols.stack_nodes()[ids.clone()];
    vec![
        Column::U32(ids.map(|id| id as u32).collect()),
        Column::OptionU32(nodes.iter().map(|node| node.parent.map(|parent| parent.0)).collect()),
        Column::U32(nodes.iter().map(|node| node.location.0).collect()),
    ]
}

fn location_columns(symbols: &SymbolTable, range: Range<usize>) -> Vec<Column> {
    let (mut ids, mut inlines, mut mappings) = (Vec::new(), Vec::new(), Vec::new());
    let (mut addresses, mut functions, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for id in range {
        let location = symbols.location(LocationId(id as u32));
        for inline in 0..location.lines.len().max(1) {
            let line = location.lines.get(inline);
            ids.push(id as u32);
            inlines.push(inline as u32);
            mappings.push(location.mapping.map(|mapping| mapping.0));
            addresses.push(location.address as i64);
            functions.push(line.map(|line| line.function.0));
            lines.push(line.map_or(0, |line| line.line));
        }
    }
    vec![
        Column::U32(ids),
        Column::U32(inlines),
        Column::OptionU32(mappings),
        Column::I64(addresses),
        Column::OptionU32(functions),
        Column::U32(lines),
    ]
}

fn function_columns(symbols: &SymbolTable, ids: Range<usize>) -> Vec<Column> {
    let functions = &symbols.functions()[ids.clone()];
    let texts = |text: fn(&Function) -> StringId| {
        Column::text(functions.iter().map(move |function| symbols.str(text(function))))
    };
    vec![
        Column::U32(ids.map(|id| id as u32).collect()),
        texts(|function| function.name),
        texts(|function| function.system_name),
        texts(|function| function.filename),
        Column::U32(functions.iter().map(|function| function.start_line).collect()),
    ]
}

fn mapping_columns(symbols: &SymbolTable, ids: Range<usize>) -> Vec<Column> {
    let mappings = &symbols.mappings()[ids.clone()];
    vec![
        Column::U32(ids.map(|id| id as u32).collect()),
        Column::text(mappings.iter().map(|mapping| symbols.str(mapping.build_id))),
        Column::text(mappings.iter().map(|mapping| symbols.str(mapping.path))),
    ]
}

/// The files of a part.
pub(super) fn tables(files: &dyn FileLayer, dir: &Path) -> Result<TableIndexes, StoreError> {
    sealed::read::<Manifest>(files, &dir.join(MANIFEST), FORMAT).map(|manifest| manifest.tables)
}

/// Adds the entries of a part to a table that ends where the part begins. Where that fails the table may be of no use any
/// more.
pub(super) fn read(files: &dyn FileLayer, dir: &Path, symbols: &mut SymbolTable) -> Result<(), StoreError> {
    let path = dir.join(MANIFEST);
    let Manifest { first, end, tables, .. } = sealed::read(files, &path, FORMAT)?;
    if first != Lens::of(symbols) {
        return Err(StoreError::corrupt(&path, "it does not begin where the part before it ends"));
    }
    let entries = Entries::read(files, dir, &tables, first)?;
    if entries.end() != end {
        return Err(StoreError::corrupt(dir, "it has another number of entries than it says"));
    }
    if entries.add_to(symbols) {
        Ok(())
    } else {
        Err(StoreError::corrupt(dir, "its ids are not as they must be"))
    }
}
