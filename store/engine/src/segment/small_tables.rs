//! The files of a segment beside its samples: the series, and what the stacks are made of.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use pyrite_model::{LabelSet, SymbolTable};

use super::schema::{self, FUNCTIONS, LOCATIONS, MAPPINGS, SERIES, STACKS, Table};
use super::write::{Renumbering, SegmentSeries};
use crate::StoreError;
use crate::files::FileLayer;
use crate::symbols::Symbols;
use crate::table::{Column, TableIndex, TableWriter};

/// Entries per row group.
const ROW_GROUP_ENTRIES: usize = 64 * 1024;

/// The symbols that the stacks of a segment need, under the ids they have in it.
pub(super) struct NumberedSymbols<'a> {
    symbols: &'a SymbolTable,
    stacks: &'a Renumbering,
    stack_rows: &'a [u32],
    locations: Renumbering,
    functions: Renumbering,
    mappings: Renumbering,
}

impl<'a> NumberedSymbols<'a> {
    /// `stacks` numbers the stack nodes, parents included; `stack_rows` is by their ids in `symbols`.
    pub(super) fn new(symbols: &'a SymbolTable, stacks: &'a Renumbering, stack_rows: &'a [u32]) -> Self {
        let lens = symbols.lens();
        let mut locations = Renumbering::new(lens.locations);
        let mut functions = Renumbering::new(lens.functions);
        let mut mappings = Renumbering::new(lens.mappings);
        for &old in &stacks.old_of {
            locations.take(Symbols::stack(symbols, old).1);
        }
        for &old in &locations.old_of {
            let location = Symbols::location(symbols, old);
            for line in location.lines {
                functions.take(line.function.0);
            }
            if let Some(mapping) = location.mapping {
                mappings.take(mapping);
            }
        }
        Self { symbols, stacks, stack_rows, locations, functions, mappings }
    }

    fn stack_columns(&self, range: Range<usize>) -> Vec<Column> {
        let stacks = &self.stacks.old_of[range.clone()];
        let nodes = || stacks.iter().map(|&old| Symbols::stack(self.symbols, old));
        let rows_of = |&old: &u32| self.stack_rows.get(old as usize).copied().unwrap_or(0);
        let location_id = |old: u32| self.locations.new_of(old);
        vec![
            Column::U32(range.map(|id| id as u32).collect()),
            Column::OptionU32(nodes().map(|(parent, _)| Some(self.stacks.new_of(parent?))).collect()),
            Column::U32(nodes().map(|(_, location)| location_id(location)).collect()),
            Column::U32(stacks.iter().map(rows_of).collect()),
        ]
    }

    fn location_columns(&self, range: Range<usize>) -> Vec<Column> {
        let (mut ids, mut inlines, mut mappings) = (Vec::new(), Vec::new(), Vec::new());
        let (mut addresses, mut functions, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for id in range {
            let location = Symbols::location(self.symbols, self.locations.old_of[id]);
            for inline in 0..location.lines.len().max(1) {
                let line = location.lines.get(inline);
                ids.push(id as u32);
                inlines.push(inline as u32);
                mappings.push(location.mapping.map(|old| self.mappings.new_of(old)));
                addresses.push(location.address as i64);
                functions.push(line.map(|line| self.functions.new_of(line.function.0)));
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

    fn function_columns(&self, range: Range<usize>) -> Vec<Column> {
        let old = &self.functions.old_of[range.clone()];
        let functions = || old.iter().map(|&old| Symbols::function(self.symbols, old));
        vec![
            Column::U32(range.map(|id| id as u32).collect()),
            Column::text(functions().map(|f| f.name)),
            Column::text(functions().map(|f| f.system_name)),
            Column::text(functions().map(|f| f.filename)),
            Column::U32(functions().map(|f| f.start_line).collect()),
        ]
    }

    fn mapping_columns(&self, range: Range<usize>) -> Vec<Column> {
        let old = &self.mappings.old_of[range.clone()];
        let mappings = || old.iter().map(|&old| Symbols::mapping(self.symbols, old));
        vec![
            Column::U32(range.map(|id| id as u32).collect()),
            Column::text(mappings().map(|(build_id, _)| build_id)),
            Column::text(mappings().map(|(_, path)| path)),
        ]
    }
}

/// Where the files go.
pub(super) struct SmallTables<'a> {
    pub(super) files: &'a dyn FileLayer,
    pub(super) dir: &'a Path,
}

impl SmallTables<'_> {
    /// Writes every file but the samples and adds it to the index.
    pub(super) fn write_all(
        &self,
        tables: &mut BTreeMap<String, TableIndex>,
        series: &[SegmentSeries],
        symbols: &NumberedSymbols<'_>,
    ) -> Result<(), StoreError> {
        let mut write = |table: &Table, entries, columns: &dyn Fn(Range<usize>) -> Vec<Column>| {
            tables.insert(table.file.to_owned(), self.write(table, entries, columns)?);
            Ok::<_, StoreError>(())
        };
        write(&SERIES, series.len(), &|range| series_columns(&series[range]))?;
        write(&STACKS, symbols.stacks.old_of.len(), &|range| symbols.stack_columns(range))?;
        write(&LOCATIONS, symbols.locations.old_of.len(), &|range| symbols.location_columns(range))?;
        write(&FUNCTIONS, symbols.functions.old_of.len(), &|range| symbols.function_columns(range))?;
        write(&MAPPINGS, symbols.mappings.old_of.len(), &|range| symbols.mapping_columns(range))
    }

    fn write(
        &self,
        table: &Table,
        entries: usize,
        columns: &dyn Fn(Range<usize>) -> Vec<Column>,
    ) -> Result<TableIndex, StoreError> {
        let path = self.dir.join(table.file);
        let mut writer = TableWriter::create(self.files, path, table.schema, schema::properties())?;
        for start in (0..entries).step_by(ROW_GROUP_ENTRIES) {
            writer.write(&columns(start..entries.min(start + ROW_GROUP_ENTRIES)))?;
        }
        writer.finish()
    }
}

fn series_columns(series: &[SegmentSeries]) -> Vec<Column> {
    vec![
        Column::U32(series.iter().map(|s| s.id).collect()),
        Column::text(series.iter().map(|s| s.key.profile_type.to_string())),
        Column::text(series.iter().map(|s| labels_to_json(&s.key.labels))),
        Column::I64(series.iter().map(|s| s.range.start.0).collect()),
        Column::I64(series.iter().map(|s| s.range.end.0).collect()),
        Column::I64(series.iter().map(|s| s.rows as i64).collect()),
    ]
}

/// A label set as a JSON object with its names in order, so that equal sets are equal text.
pub(crate) fn labels_to_json(labels: &LabelSet) -> String {
    let object: BTreeMap<&str, &str> = labels.iter().map(|l| (l.name.as_str(), l.value.as_str())).collect();
    serde_json::to_string(&object).expect("a map of strings is JSON")
}

/// Reads what [`labels_to_json`] wrote.
pub(crate) fn labels_from_json(text: &str) -> Option<LabelSet> {
    let object: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    Some(LabelSet::from_pairs(object))
}
