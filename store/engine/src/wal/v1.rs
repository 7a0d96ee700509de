//! Records of log version 1: each generation has a dictionary of its own.
//!
//! ```text
//! payload := strings mappings functions locations stacks series rows
//! strings   := count { len bytes }
//! mappings  := count { build_id path }                              string ids
//! functions := count { name system_name filename start_line }
//! locations, stacks, series, rows                                   as now, by ids of the generation
//! ```
//!
//! Entries take the next free id of their table.

use pyrite_model::{
    Function, FunctionId, Line, Location, LocationId, Mapping, MappingId, StackId, StackNode, StringId,
    SymbolTable,
};

use super::record::{below, decode_series, in_order, optional};
use crate::head::HeadState;
use crate::rows::{BlockEncoder, IdBounds, RowBlock};
use crate::varint::{Cursor, Malformed};

/// What the records of a file said so far.
#[derive(Default)]
pub(super) struct Generation {
    symbols: SymbolTable,
    blocks: Vec<RowBlock>,
}

impl Generation {
    /// Takes a record; its series go to the head. On an error entries may be added, though no row refers to them.
    pub(super) fn take(&mut self, payload: &[u8], head: &mut HeadState) -> Result<(), Malformed> {
        let mut cursor = Cursor::new(payload);
        apply_symbols(&mut cursor, &mut self.symbols)?;
        for _ in 0..cursor.count()? {
            let expected = head.series.keys().len();
            let key = decode_series(&mut cursor)?;
            in_order(head.series.intern(key), expected)?;
        }
        let bounds = IdBounds { series: head.series.keys().len(), stacks: self.symbols.stack_nodes().len() };
        self.blocks.extend(RowBlock::decode(cursor.rest(), bounds)?);
        Ok(())
    }

    /// Shows all rows in the head, by the stacks of its epoch.
    pub(super) fn publish(self, head: &mut HeadState) {
        let stacks = head.epoch.dictionary().write().merge(&self.symbols).stacks;
        for block in self.blocks {
            let mut encoder = BlockEncoder::default();
            for row in block.iter() {
                encoder.run(row.series, [(row.time, stacks[row.stack as usize].0, row.value)].into_iter());
            }
            encoder.finish().into_iter().for_each(|block| head.publish(block));
        }
    }
}

fn apply_symbols(cursor: &mut Cursor<'_>, symbols: &mut SymbolTable) -> Result<(), Malformed> {
    for _ in 0..cursor.count()? {
        let expected = symbols.lens().strings;
        in_order(symbols.intern_str(cursor.str()?).0, expected)?;
    }
    for _ in 0..cursor.count()? {
        let expected = symbols.mappings().len();
        let (build_id, path) = (string(cursor, symbols)?, string(cursor, symbols)?);
        in_order(symbols.intern_mapping(Mapping { build_id, path }).0, expected)?;
    }
    for _ in 0..cursor.count()? {
        let expected = symbols.functions().len();
        let (name, system_name) = (string(cursor, symbols)?, string(cursor, symbols)?);
        let (filename, start_line) = (string(cursor, symbols)?, cursor.u32()?);
        let function = Function { name, system_name, filename, start_line };
        in_order(symbols.intern_function(function).0, expected)?;
    }
    for _ in 0..cursor.count()? {
        let expected = symbols.locations().len();
        let location = decode_location(cursor, symbols)?;
        in_order(symbols.intern_location(location).0, expected)?;
    }
    for _ in 0..cursor.count()? {
        let expected = symbols.stack_nodes().len();
        let parent = optional(cursor, expected)?.map(StackId);
        let location = LocationId(below(cursor.u32()?, symbols.locations().len())?);
        in_order(symbols.intern_stack_node(StackNode { parent, location }).0, expected)?;
    }
    Ok(())
}

fn decode_location(cursor: &mut Cursor<'_>, symbols: &SymbolTable) -> Result<Location, Malformed> {
    let mapping = optional(cursor, symbols.mappings().len())?.map(MappingId);
    let address = cursor.u64()?;
    let count = cursor.count()?;
    let mut line = |_| {
        let function = FunctionId(below(cursor.u32()?, symbols.functions().len())?);
        Ok(Line { function, line: cursor.u32()? })
    };
    let lines = (0..count).map(&mut line).collect::<Result<_, _>>()?;
    Ok(Location { mapping, address, lines })
}

fn string(cursor: &mut Cursor<'_>, symbols: &SymbolTable) -> Result<StringId, Malformed> {
    below(cursor.u32()?, symbols.lens().strings).map(StringId)
}
