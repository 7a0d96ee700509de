//! What one WAL record says: the dictionary entries and series that are new since the record before, then rows.
//!
//! ```text
//! payload := first strings mappings functions locations stacks series rows
//! first     := mappings functions locations stacks                  how many of each there were before
//! strings   := count { len bytes }                                  those that the entries of this record need
//! mappings  := count { build_id path }                              numbers of strings
//! functions := count { name system_name filename start_line }
//! locations := count { mapping + 1 or 0, address, count { function line } }
//! stacks    := count { parent + 1 or 0, location }
//! series    := count { 5 × str: the profile type, count { name value } }
//! rows      := the rest, as in `rows`
//! ```
//!
//! All numbers are varints; ids are those of the epoch, of which a part on the disk may have the entries already. Series
//! take the next free id of the generation, so applying a record twice, or out of its order, is noticed.

use std::collections::HashMap;

use pyrite_model::{
    Function, FunctionId, LabelSet, Line, Location, LocationId, Mapping, MappingId, ProfileType, SeriesKey,
    StackId, StackNode, StringId, SymbolTable,
};

use crate::dictionary::{Additions, Lens};
use crate::head::{HeadState, Mark};
use crate::rows::{IdBounds, RowBlock};
use crate::stored_key::{key_of_stored, stored_labels};
use crate::varint::{Cursor, Malformed, put_len, put_str, put_u32, put_u64};

/// Appends the payload that brings a reader from `since` to the dictionary's present end, and the rows.
pub(super) fn encode(out: &mut Vec<u8>, head: &HeadState, since: Mark, rows: &RowBlock) {
    encode_symbols(out, &head.epoch.dictionary().read(), since.symbols);
    let series = &head.series.keys()[since.series..];
    put_len(out, series.len());
    for key in series {
        encode_series(out, key);
    }
    out.extend_from_slice(rows.bytes());
}

fn encode_symbols(out: &mut Vec<u8>, symbols: &SymbolTable, since: Lens) {
    for len in [since.mappings, since.functions, since.locations, since.stacks] {
        put_len(out, len);
    }
    let mappings = &symbols.mappings()[since.mappings..];
    let functions = &symbols.functions()[since.functions..];
    let texts = Texts::new(
        mappings
            .iter()
            .flat_map(|Mapping { build_id, path }| [*build_id, *path])
            .chain(functions.iter().flat_map(|f| [f.name, f.system_name, f.filename])),
    );
    put_len(out, texts.ids.len());
    texts.ids.iter().for_each(|id| put_str(out, symbols.str(*id)));

    put_len(out, mappings.len());
    for Mapping { build_id, path } in mappings {
        put_u32(out, texts.number(*build_id));
        put_u32(out, texts.number(*path));
    }
    put_len(out, functions.len());
    for Function { name, system_name, filename, start_line } in functions {
        for text in [name, system_name, filename] {
            put_u32(out, texts.number(*text));
        }
        put_u32(out, *start_line);
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

/// Strings numbered in the order in which they are first needed.
#[derive(Default)]
struct Texts {
    ids: Vec<StringId>,
    numbers: HashMap<StringId, u32>,
}

impl Texts {
    fn new(needed: impl Iterator<Item = StringId>) -> Self {
        let mut texts = Self::default();
        for id in needed {
            let next = texts.ids.len() as u32;
            texts.numbers.entry(id).or_insert_with(|| {
                texts.ids.push(id);
                next
            });
        }
        texts
    }

    fn number(&self, id: StringId) -> u32 {
        self.numbers[&id]
    }
}

fn encode_series(out: &mut Vec<u8>, key: &SeriesKey) {
    let ProfileType { name, sample_type, sample_unit, period_type, period_unit } = &key.profile_type;
    for part in [name, sample_type, sample_unit, period_type, period_unit] {
        put_str(out, part);
    }
    let labels = stored_labels(key);
    put_len(out, labels.len());
    for label in &*labels {
        put_str(out, &label.name);
        put_str(out, &label.value);
    }
}

/// Adds a payload's entries to the head; returns its rows, which stay invisible, and how many stacks have no name because
/// what they build on is lost.
pub(super) fn apply(payload: &[u8], head: &mut HeadState) -> Result<(Option<RowBlock>, usize), Malformed> {
    let mut cursor = Cursor::new(payload);
    let additions = decode_symbols(&mut cursor)?;
    let mut new = Vec::new();
    for _ in 0..cursor.count()? {
        new.push(decode_series(&mut cursor)?);
    }
    let series = head.series.keys().len() + new.len();
    let rows = RowBlock::decode(cursor.rest(), IdBounds { series, stacks: additions.end().stacks })?;
    for (key, expected) in new.into_iter().zip(head.series.keys().len()..) {
        in_order(head.series.intern(key), expected)?;
    }
    Ok((rows, head.epoch.add(&additions)))
}

fn decode_symbols<'a>(cursor: &mut Cursor<'a>) -> Result<Additions<'a>, Malformed> {
    let mut len = || cursor.u32().map(|len| len as usize);
    let first = Lens { mappings: len()?, functions: len()?, locations: len()?, stacks: len()? };
    let mut additions = Additions { first, ..Additions::default() };
    for _ in 0..cursor.count()? {
        additions.strings.push(cursor.str()?);
    }
    let strings = additions.strings.len();
    let text = |cursor: &mut Cursor<'_>| below(cursor.u32()?, strings);
    for _ in 0..cursor.count()? {
        additions.mappings.push([text(cursor)?, text(cursor)?]);
    }
    for _ in 0..cursor.count()? {
        let texts = [text(cursor)?, text(cursor)?, text(cursor)?];
        additions.functions.push((texts, cursor.u32()?));
    }
    for _ in 0..cursor.count()? {
        let location = decode_location(cursor, additions.end())?;
        additions.locations.push(location);
    }
    for _ in 0..cursor.count()? {
        let end = additions.end();
        let parent = optional(cursor, end.stacks)?.map(StackId);
        let location = LocationId(below(cursor.u32()?, end.locations)?);
        additions.stacks.push(StackNode { parent, location });
    }
    // Ids are of 32 bits.
    if u32::try_from(additions.end().stacks).is_ok() { Ok(additions) } else { Err(Malformed) }
}

fn decode_location(cursor: &mut Cursor<'_>, lens: Lens) -> Result<Location, Malformed> {
    let mapping = optional(cursor, lens.mappings)?.map(MappingId);
    let address = cursor.u64()?;
    let count = cursor.count()?;
    let mut line = |_| {
        let function = FunctionId(below(cursor.u32()?, lens.functions)?);
        Ok(Line { function, line: cursor.u32()? })
    };
    let lines = (0..count).map(&mut line).collect::<Result<_, _>>()?;
    Ok(Location { mapping, address, lines })
}

pub(super) fn decode_series(cursor: &mut Cursor<'_>) -> Result<SeriesKey, Malformed> {
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
    Ok(key_of_stored(labels, profile_type))
}

pub(super) fn in_order(id: u32, expected: usize) -> Result<(), Malformed> {
    if id as usize == expected { Ok(()) } else { Err(Malformed) }
}

pub(super) fn below(id: u32, len: usize) -> Result<u32, Malformed> {
    if (id as usize) < len { Ok(id) } else { Err(Malformed) }
}

pub(super) fn optional(cursor: &mut Cursor<'_>, len: usize) -> Result<Option<u32>, Malformed> {
    match cursor.u64()? {
        0 => Ok(None),
        raw => below(u32::try_from(raw - 1).or(Err(Malformed))?, len).map(Some),
    }
}
