//! The symbol tables of a part, or of a segment of format 1, decoded and checked but not yet interned.

use std::ops::Range;
use std::path::Path;

use parquet::data_type::ByteArray;
use pyrite_model::{
    Function, FunctionId, Line, Location, LocationId, Mapping, MappingId, StackId, StackNode, StringId,
    SymbolTable,
};

use super::part::Lens;
use crate::StoreError;
use crate::files::FileLayer;
use crate::segment::schema::{FUNCTIONS, LOCATIONS, MAPPINGS, STACKS, Table};
use crate::table::{RowGroup, TableIndexes, TableReader};

struct StoredLocation {
    mapping: Option<u32>,
    address: u64,
    lines: Range<usize>,
}

/// A row of text columns.
type Texts<const COLUMNS: usize> = [ByteArray; COLUMNS];

/// Entries whose ids follow each other from where the tables before them end.
#[derive(Default)]
pub(crate) struct Entries {
    first: Lens,
    stacks: Vec<(Option<u32>, u32)>,
    locations: Vec<StoredLocation>,
    lines: Vec<Line>,
    functions: Vec<(Texts<3>, u32)>,
    mappings: Vec<Texts<2>>,
}

impl Entries {
    /// Reads the files that the index lists; tables without a file are empty.
    pub(crate) fn read(
        files: &dyn FileLayer,
        dir: &Path,
        tables: &TableIndexes,
        first: Lens,
    ) -> Result<Self, StoreError> {
        let mut entries = Self { first, ..Self::default() };
        let each = |table: &Table, add: &mut dyn FnMut(&RowGroup<'_>) -> Result<bool, StoreError>| {
            let Some(index) = tables.get(table.file) else { return Ok(()) };
            let path = dir.join(table.file);
            let reader = TableReader::open(files, path.clone(), index.clone())?;
            for i in 0..reader.row_group_count() {
                if !add(&reader.row_group(i)?)? {
                    return Err(StoreError::corrupt(&path, "its ids or texts are not as they must be"));
                }
            }
            Ok(())
        };
        each(&STACKS, &mut |group| entries.add_stacks(group))?;
        each(&LOCATIONS, &mut |group| entries.add_locations(group))?;
        each(&FUNCTIONS, &mut |group| entries.add_functions(group))?;
        each(&MAPPINGS, &mut |group| entries.add_mappings(group))?;
        if entries.refer_to_entries() {
            Ok(entries)
        } else {
            Err(StoreError::corrupt(dir, "an entry refers past the end of its tables"))
        }
    }

    /// Where the tables end with these entries.
    pub(super) fn end(&self) -> Lens {
        Lens {
            mappings: self.first.mappings + self.mappings.len(),
            functions: self.first.functions + self.functions.len(),
            locations: self.first.locations + self.locations.len(),
            stacks: self.first.stacks + self.stacks.len(),
        }
    }

    fn add_stacks(&mut self, group: &RowGroup<'_>) -> Result<bool, StoreError> {
        let ids = group.u32s(0)?;
        let ordered = follow(&ids, self.first.stacks + self.stacks.len());
        self.stacks.extend(group.option_u32s(1)?.into_iter().zip(group.u32s(2)?));
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
            let next = self.first.locations + self.locations.len();
            if ids[i] as usize == next {
                let (mapping, address) = (mappings[i], addresses[i] as u64);
                let lines = self.lines.len()..self.lines.len();
                self.locations.push(StoredLocation { mapping, address, lines });
            } else if ids[i] as usize + 1 != next {
                return Ok(false);
            }
            let Some(location) = self.locations.last_mut() else { return Ok(false) };
            if let Some(function) = functions[i] {
                self.lines.push(Line { function: FunctionId(function), line: lines[i] });
                location.lines.end = self.lines.len();
            }
        }
        Ok(true)
    }

    fn add_functions(&mut self, group: &RowGroup<'_>) -> Result<bool, StoreError> {
        let ids = group.u32s(0)?;
        let ordered = follow(&ids, self.first.functions + self.functions.len());
        let texts = group.texts(1)?.into_iter().zip(group.texts(2)?).zip(group.texts(3)?);
        let texts = texts.map(|((name, system_name), filename)| [name, system_name, filename]);
        self.functions.extend(texts.zip(group.u32s(4)?));
        Ok(ordered && self.functions.iter().rev().take(ids.len()).all(|(texts, _)| are_text(texts)))
    }

    fn add_mappings(&mut self, group: &RowGroup<'_>) -> Result<bool, StoreError> {
        let ids = group.u32s(0)?;
        let ordered = follow(&ids, self.first.mappings + self.mappings.len());
        let texts = group.texts(1)?.into_iter().zip(group.texts(2)?);
        self.mappings.extend(texts.map(|(build_id, path)| [build_id, path]));
        Ok(ordered && self.mappings.iter().rev().take(ids.len()).all(are_text))
    }

    fn refer_to_entries(&self) -> bool {
        let end = self.end();
        let below = |id: u32, end: usize| (id as usize) < end;
        let stack_ok = |(parent, location): &(Option<u32>, u32)| {
            parent.is_none_or(|parent| below(parent, end.stacks)) && below(*location, end.locations)
        };
        let location_ok = |l: &StoredLocation| l.mapping.is_none_or(|id| below(id, end.mappings));
        self.stacks.iter().all(stack_ok)
            && self.locations.iter().all(location_ok)
            && self.lines.iter().all(|line| below(line.function.0, end.functions))
    }

    /// Interns everything but the stacks. Returns whether each entry took its own id.
    fn add_symbols(&self, symbols: &mut SymbolTable) -> bool {
        let mut ordered = true;
        for (id, [build_id, path]) in (self.first.mappings..).zip(&self.mappings) {
            let mapping = Mapping { build_id: intern(symbols, build_id), path: intern(symbols, path) };
            ordered &= symbols.intern_mapping(mapping).index() == id;
        }
        for (id, ([name, system_name, filename], start_line)) in (self.first.functions..).zip(&self.functions)
        {
            let [name, system_name, filename] =
                [name, system_name, filename].map(|text| intern(symbols, text));
            let function = Function { name, system_name, filename, start_line: *start_line };
            ordered &= symbols.intern_function(function).index() == id;
        }
        for (id, location) in (self.first.locations..).zip(&self.locations) {
            let StoredLocation { mapping, address, lines } = location;
            let lines = self.lines[lines.clone()].into();
            let location = Location { mapping: mapping.map(MappingId), address: *address, lines };
            ordered &= symbols.intern_location(location).index() == id;
        }
        ordered
    }

    /// Interns the entries of a part, in which a parent comes before its children. Returns whether each took its own id;
    /// where one did not, the table is of no use any more.
    pub(super) fn add_to(&self, symbols: &mut SymbolTable) -> bool {
        self.add_symbols(symbols)
            && (self.first.stacks..).zip(&self.stacks).all(|(id, (parent, location))| {
                let parent = parent.map(StackId);
                let node = StackNode { parent, location: LocationId(*location) };
                parent.is_none_or(|parent| parent.index() < id)
                    && symbols.intern_stack_node(node).index() == id
            })
    }

    /// A table of these entries alone, whose parents may come after their children, and what became of each stack;
    /// `None` where a stack has no root or an entry is there twice.
    pub(crate) fn into_table(self) -> Option<(SymbolTable, Vec<StackId>)> {
        let mut symbols = SymbolTable::new();
        if !self.add_symbols(&mut symbols) {
            return None;
        }
        let mut ids: Vec<Option<StackId>> = vec![None; self.stacks.len()];
        let mut path = Vec::new();
        for start in 0..self.stacks.len() as u32 {
            let (mut next, mut parent) = (Some(start), None);
            while let Some(id) = next {
                parent = ids[id as usize];
                if parent.is_some() {
                    break;
                }
                if path.len() > self.stacks.len() {
                    return None;
                }
                path.push(id);
                next = self.stacks[id as usize].0;
            }
            while let Some(id) = path.pop() {
                let location = LocationId(self.stacks[id as usize].1);
                parent = Some(symbols.intern_stack_node(StackNode { parent, location }));
                ids[id as usize] = parent;
            }
        }
        Some((symbols, ids.into_iter().flatten().collect()))
    }
}

fn follow(ids: &[u32], first: usize) -> bool {
    ids.iter().zip(first..).all(|(id, at)| *id as usize == at)
}

fn are_text<const COLUMNS: usize>(texts: &Texts<COLUMNS>) -> bool {
    texts.iter().all(|text| text.as_utf8().is_ok())
}

fn intern(symbols: &mut SymbolTable, text: &ByteArray) -> StringId {
    symbols.intern_str(text.as_utf8().expect("texts were checked when they were read"))
}
