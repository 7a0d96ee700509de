//! A profile's mappings, functions and locations, moved into a symbol table.

use hashbrown::HashMap;

use crate::pprof::PprofError;
use crate::pprof::parse::{self, Profile};
use crate::{Function, FunctionId, Line, LocationId, Mapping, MappingId, StringId, SymbolTable, TableLens};

/// Where the profile's location ids lead.
pub(crate) struct Symbols {
    locations: Ids<LocationId>,
}

impl Symbols {
    pub(crate) fn intern(
        profile: &Profile<'_>,
        table: &mut SymbolTable,
        max_symbol_bytes: usize,
    ) -> Result<Self, PprofError> {
        let Profile { strings, mappings, functions, locations, samples, .. } = profile;
        // Most stacks branch off from others once.
        table.make_room(TableLens {
            strings: strings.len(),
            mappings: mappings.len(),
            functions: functions.len(),
            locations: locations.len(),
            stacks: samples.len(),
        });
        let texts = vec![None; strings.len()];
        let mut source = Source { profile, table, max_symbol_bytes, texts, lines: Vec::new() };
        let mut ids = Known {
            mappings: Ids::new("mapping", mappings.len()),
            functions: Ids::new("function", functions.len()),
        };
        for (index, mapping) in mappings.iter().enumerate() {
            ids.mappings.insert(mapping.id, (source.mapping(mapping)?, index))?;
        }
        for function in functions {
            ids.functions.insert(function.id, source.function(function)?)?;
        }
        let mut found = Ids::new("location", locations.len());
        for location in locations {
            found.insert(location.id, source.location(location, &ids)?)?;
        }
        Ok(Self { locations: found })
    }

    #[inline]
    pub(crate) fn location(&self, id: u64) -> Result<LocationId, PprofError> {
        self.locations.get(id)
    }
}

/// What locations refer to.
struct Known {
    /// With their index in the profile.
    mappings: Ids<(MappingId, usize)>,
    functions: Ids<FunctionId>,
}

struct Source<'a> {
    profile: &'a Profile<'a>,
    table: &'a mut SymbolTable,
    max_symbol_bytes: usize,
    /// Where the profile's strings went, by index; functions refer to most of them more than once.
    texts: Vec<Option<StringId>>,
    /// The lines of the location under way.
    lines: Vec<Line>,
}

impl Source<'_> {
    fn mapping(&mut self, mapping: &parse::Mapping) -> Result<MappingId, PprofError> {
        let build_id = self.text(mapping.build_id, "a mapping's build id")?;
        let path = self.text(mapping.filename, "a mapping's file name")?;
        Ok(self.table.intern_mapping(Mapping { build_id, path }))
    }

    fn function(&mut self, function: &parse::Function) -> Result<FunctionId, PprofError> {
        let name = self.text(function.name, "a function's name")?;
        let system_name = self.text(function.system_name, "a function's system name")?;
        let filename = self.text(function.filename, "a function's file name")?;
        Ok(self.table.intern_function(Function {
            name,
            system_name: if system_name == name { StringId(0) } else { system_name },
            filename,
            start_line: u32::try_from(function.start_line).unwrap_or(0),
        }))
    }

    fn location(&mut self, location: &parse::Location, known: &Known) -> Result<LocationId, PprofError> {
        let mapping = match location.mapping_id {
            0 => None,
            id => Some(known.mappings.get(id)?),
        };
        self.lines.clear();
        for line in &self.profile.lines[location.lines.clone()] {
            let function = known.functions.get(line.function_id)?;
            self.lines.push(Line { function, line: u32::try_from(line.line).unwrap_or(0) });
        }
        // The address of a named function only tells runs and machines apart.
        let address = match &mapping {
            _ if !self.lines.is_empty() => 0,
            Some((_, index)) => file_offset(&self.profile.mappings[*index], location.address),
            None => location.address,
        };
        Ok(self.table.intern_location_of(mapping.map(|(id, _)| id), address, &self.lines))
    }

    fn text(&mut self, index: i64, what: &'static str) -> Result<StringId, PprofError> {
        let known = usize::try_from(index).ok().and_then(|i| self.texts.get_mut(i));
        let Some(known) = known else { return Err(PprofError::StringIndex { what, index }) };
        if let Some(id) = known {
            return Ok(*id);
        }
        let text = self.profile.text(index, what)?;
        let start = text.len().saturating_sub(self.max_symbol_bytes);
        Ok(*known.insert(self.table.intern_str(&text[text.ceil_char_boundary(start)..])))
    }
}

/// The address within the file where the mapping says how to get there, else as given.
fn file_offset(mapping: &parse::Mapping, address: u64) -> u64 {
    if (mapping.memory_start..mapping.memory_limit).contains(&address) {
        (address - mapping.memory_start).wrapping_add(mapping.file_offset)
    } else {
        address
    }
}

/// Things by id. Writers count from 1 nearly always, so ids that are not much larger than the number of things are
/// indexes; others take a map.
struct Ids<T> {
    what: &'static str,
    /// Ids below this are indexes.
    dense_below: u64,
    dense: Vec<Option<T>>,
    sparse: HashMap<u64, T>,
}

impl<T: Copy> Ids<T> {
    fn new(what: &'static str, count: usize) -> Self {
        let dense = Vec::with_capacity(count + 1);
        Self { what, dense_below: 2 * (count as u64 + 1), dense, sparse: HashMap::new() }
    }

    fn insert(&mut self, id: u64, item: T) -> Result<(), PprofError> {
        let what = self.what;
        if id == 0 {
            return Err(PprofError::ZeroId { what });
        }
        let before = if id < self.dense_below {
            let index = id as usize;
            if index >= self.dense.len() {
                self.dense.resize(index + 1, None);
            }
            self.dense[index].replace(item)
        } else {
            self.sparse.insert(id, item)
        };
        if before.is_some() { Err(PprofError::DuplicateId { what, id }) } else { Ok(()) }
    }

    #[inline]
    fn get(&self, id: u64) -> Result<T, PprofError> {
        let dense = usize::try_from(id).ok().and_then(|index| self.dense.get(index));
        match dense {
            Some(Some(item)) => Ok(*item),
            _ => self.get_sparse(id),
        }
    }

    fn get_sparse(&self, id: u64) -> Result<T, PprofError> {
        let what = self.what;
        match self.sparse.get(&id) {
            Some(item) => Ok(*item),
            None if id == 0 => Err(PprofError::ZeroId { what }),
            None => Err(PprofError::UnknownId { what, id }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_found_by_ids_of_any_size() {
        let ids = [1, 2, 3, 9, 10, 11, 1 << 40, u64::MAX];
        for order in [ids.to_vec(), ids.iter().rev().copied().collect()] {
            let mut things = Ids::new("thing", 4);
            for &id in &order {
                things.insert(id, id).unwrap();
            }
            for id in ids {
                assert_eq!(things.get(id).unwrap(), id);
                let error = things.insert(id, id).unwrap_err().to_string();
                assert_eq!(error, format!("thing id {id} is defined twice"));
            }
            for id in [4, 8, 12, 1 << 41] {
                let error = things.get(id).unwrap_err().to_string();
                assert_eq!(error, format!("thing id {id} is used but not defined"));
            }
            assert!(matches!(things.get(0), Err(PprofError::ZeroId { .. })));
            assert!(matches!(things.insert(0, 0), Err(PprofError::ZeroId { .. })));
        }
    }
}
