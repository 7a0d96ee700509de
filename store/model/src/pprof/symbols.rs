//! A profile's mappings, functions and locations, moved into a symbol table.

use hashbrown::HashMap;

use crate::pprof::PprofError;
use crate::pprof::parse::{self, Profile};
use crate::{Function, FunctionId, Line, Location, LocationId, Mapping, MappingId, StringId, SymbolTable};

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
        let mut source = Source { profile, table, max_symbol_bytes };
        let mut mappings = Ids::new("mapping");
        for mapping in &profile.mappings {
            mappings.insert(mapping.id, (source.mapping(mapping)?, *mapping))?;
        }
        let mut functions = Ids::new("function");
        for function in &profile.functions {
            functions.insert(function.id, source.function(function)?)?;
        }
        let mut locations = Ids::new("location");
        for location in &profile.locations {
            locations.insert(location.id, source.location(location, &mappings, &functions)?)?;
        }
        Ok(Self { locations })
    }

    pub(crate) fn location(&self, id: u64) -> Result<LocationId, PprofError> {
        self.locations.get(id)
    }
}

struct Source<'a> {
    profile: &'a Profile<'a>,
    table: &'a mut SymbolTable,
    max_symbol_bytes: usize,
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

    fn location(
        &mut self,
        location: &parse::Location,
        mappings: &Ids<(MappingId, parse::Mapping)>,
        functions: &Ids<FunctionId>,
    ) -> Result<LocationId, PprofError> {
        let mapping = match location.mapping_id {
            0 => None,
            id => Some(mappings.get(id)?),
        };
        let line = |line: &parse::Line| {
            let function = functions.get(line.function_id)?;
            Ok(Line { function, line: u32::try_from(line.line).unwrap_or(0) })
        };
        let lines = &self.profile.lines[location.lines.clone()];
        let lines: Vec<Line> = lines.iter().map(line).collect::<Result<_, PprofError>>()?;
        // The address of a named function only tells runs and machines apart.
        let address = match &mapping {
            _ if !lines.is_empty() => 0,
            Some((_, mapping)) => file_offset(mapping, location.address),
            None => location.address,
        };
        Ok(self.table.intern_location(Location { mapping: mapping.map(|(id, _)| id), address, lines }))
    }

    fn text(&mut self, index: i64, what: &'static str) -> Result<StringId, PprofError> {
        let text = self.profile.text(index, what)?;
        let start = text.len().saturating_sub(self.max_symbol_bytes);
        Ok(self.table.intern_str(&text[text.ceil_char_boundary(start)..]))
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

/// Things by id. Writers count from 1 nearly always, so that is an index; other ids take a map.
struct Ids<T> {
    what: &'static str,
    dense: Vec<T>,
    sparse: HashMap<u64, T>,
}

impl<T: Copy> Ids<T> {
    fn new(what: &'static str) -> Self {
        Self { what, dense: Vec::new(), sparse: HashMap::new() }
    }

    fn insert(&mut self, id: u64, item: T) -> Result<(), PprofError> {
        let what = self.what;
        match id {
            0 => return Err(PprofError::ZeroId { what }),
            id if self.find(id).is_some() => return Err(PprofError::DuplicateId { what, id }),
            id if id == self.dense.len() as u64 + 1 => self.dense.push(item),
            id => drop(self.sparse.insert(id, item)),
        }
        Ok(())
    }

    fn get(&self, id: u64) -> Result<T, PprofError> {
        match self.find(id) {
            Some(item) => Ok(item),
            None if id == 0 => Err(PprofError::ZeroId { what: self.what }),
            None => Err(PprofError::UnknownId { what: self.what, id }),
        }
    }

    fn find(&self, id: u64) -> Option<T> {
        let dense = id.checked_sub(1).and_then(|i| self.dense.get(usize::try_from(i).ok()?));
        dense.or_else(|| self.sparse.get(&id)).copied()
    }
}
