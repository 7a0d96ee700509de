//! What one WAL record says: the dictionary entries and series that are new since the record before, then rows.
//!
//! ```text
//! payload := strings mappings functions locations stacks series rows
//! strings   := count { len bytes }
//! mappings  := count { build_id path }                              string ids
//! functions := count { name system_name filename start_line }
//! locations := count { mapping + 1 or 0, address, count { function line } }
//! stacks    := count { parent + 1 or 0, location }
//! series    := count { 5 × str: the profile type, count { name value } }
//! rows      := the rest, as in `rows`
//! ```
//!
//! All numbers are varints. Entries take the next free id of their table, so applying a record twice, or out of its
//! order, is noticed.

use pyrite_model::{
    Function, FunctionId, LabelSet, Line, Location, LocationId, Mapping, MappingId, ProfileType, SeriesKey,
    StackId, StackNode, StringId, SymbolTable,
};

use crate::head::{HeadState, Mark};
use crate::rows::RowBlock;
use crate::varint::{Cursor, Malformed, put_len, put_str, put_u32, put_u64};

/// Appends the payload that brings a reader from `since` to the dictionary's present end, and the rows.
pub(super) fn encode(out: &mut Vec<u8>, head: &HeadState, since: Mark, rows: &RowBlock) {
    encode_symbols(out, &head.dictionary.read(), since);
    let series = &head.series.keys()[since.series..];
    put_len(out, series.len());
    for key in series {
        encode_series(out, key);
    }
    out.extend_from_slice(rows.bytes());
}

fn encode_symbols(out: &mut Vec<u8>, symbols: &SymbolTable, since: Mark) {
    let since = since.symbols;
    let strings = symbols.lens().strings;
    put_len(out, strings - since.strings);
    (since.strings..strings).for_each(|i| put_str(out, symbols.str(StringId(i as u32))));

    let mappings = &symbols.mappings()[since.mappings..];
    put_len(out, mappings.len());
    for Mapping { build_id, path } in mappings {
        put_u32(out, build_id.0);
        put_u32(out, path.0);
    }
    let functions = &symbols.functions()[since.functions..];
    put_len(out, functions.len());
    for Function { name, system_name, filename, start_line } in functions {
        for number in [name.0, system_name.0, filename.0, *start_line] {
            put_u32(out, number);
        }
    }
    let locations = &symbols.locations()[since.locations..];
    put_len(out, locations.len());
    for Location { mapping, address, lines } in locations {
        put_u64(out, mapping.map_or(0, |id| u64::from(id.0) + 1));
        put_u64(out, *address);
        put_len(out, lines.len());
        for Line { function, line } in lines {
            put_u32(out, function.0);
            put_u32(out, *line);
        }
    }
    let stacks = &symbols.stack_nodes()[since.stacks..];
    put_len(out, stacks.len());
    for StackNode { parent, location } in stacks {
        put_u64(out, parent.map_or(0, |id| u64::from(id.0) + 1));
        put_u32(out, location.0);
    }
}

fn encode_series(out: &mut Vec<u8>, key: &SeriesKey) {
    let ProfileType { name, sample_type, sample_unit, period_type, period_unit } = &key.profile_type;
    for part in [name, sample_type, sample_unit, period_type, period_unit] {
        put_str(out, part);
    }
    put_len(out, key.labels.len());
    for label in &key.labels {
        put_str(out, &label.name);
        put_str(out, &label.value);
    }
}

/// Adds a payload's entries to the head and returns its rows, which stay invisible.
///
/// On an error the head's dictionary may hold some of the payload's entries, though no row refers to them.
pub(super) fn apply(payload: &[u8], head: &mut HeadState) -> Result<Option<RowBlock>, Malformed> {
    let mut cursor = Cursor::new(payload);
    apply_symbols(&mut cursor, &mut head.dictionary.write())?;
    for _ in 0..cursor.count()? {
        let expected = head.series.keys().len();
        let key = decode_series(&mut cursor)?;
        in_order(head.series.intern(key), expected)?;
    }
    let rows = RowBlock::decode(cursor.rest(), head.bounds())?;
    head.count_strings();
    Ok(rows)
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

fn decode_series(cursor: &mut Cursor<'_>) -> Result<SeriesKey, Malformed> {
    let mut part = || cursor.str().map(str::to_owned);
    let profile_type = ProfileType {
        name: part()?,
        sample_type: part()?,
        sample_unit: part()?,
        period_type: part()?,
        period_unit: part()?,
    };
    let mut labels = LabelSet::default();
    for _ in 0..cursor.count()? {
        labels.set(cursor.str()?, cursor.str()?);
    }
    Ok(SeriesKey { labels, profile_type })
}

fn in_order(id: u32, expected: usize) -> Result<(), Malformed> {
    if id as usize == expected { Ok(()) } else { Err(Malformed) }
}

fn below(id: u32, len: usize) -> Result<u32, Malformed> {
    if (id as usize) < len { Ok(id) } else { Err(Malformed) }
}

fn optional(cursor: &mut Cursor<'_>, len: usize) -> Result<Option<u32>, Malformed> {
    match cursor.u64()? {
        0 => Ok(None),
        raw => below(u32::try_from(raw - 1).or(Err(Malformed))?, len).map(Some),
    }
}

fn string(cursor: &mut Cursor<'_>, symbols: &SymbolTable) -> Result<StringId, Malformed> {
    below(cursor.u32()?, symbols.lens().strings).map(StringId)
}
