//! A query's answer as a pprof profile: only what its stacks refer to, with ids that count from 1.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use hashbrown::HashMap;

use crate::pprof::proto;
use crate::{Function, FunctionId, Location, LocationId, MappingId, ProfileType, StackProfile, StringId};

/// What a pprof profile says besides its stacks.
#[derive(Clone, Debug)]
pub struct ExportMeta {
    /// What the values are.
    pub profile_type: ProfileType,
    /// When the profile was taken, in nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// How long it took; 0 where unknown.
    pub duration_ns: i64,
    /// Distance between samples in the period's unit; 0 where unknown.
    pub period: i64,
}

/// The profile as a pprof message.
pub fn encode(profile: &StackProfile, meta: &ExportMeta) -> proto::Profile {
    let mut export =
        Export { profile, out: proto::Profile::default(), texts: HashMap::new(), ids: Ids::default() };
    export.text("");
    let kind = &meta.profile_type;
    let sample_type = export.value_type(&kind.sample_type, &kind.sample_unit);
    export.out.sample_type.push(sample_type);
    export.out.period_type = Some(export.value_type(&kind.period_type, &kind.period_unit));
    export.out.period = meta.period;
    export.out.time_nanos = meta.time_ns;
    export.out.duration_nanos = meta.duration_ns;
    for &(stack, value) in &profile.values {
        let location_id = profile.symbols.stack_locations(stack).map(|id| export.location(id)).collect();
        export.out.sample.push(proto::Sample { location_id, value: vec![value], label: Vec::new() });
    }
    export.out
}

/// Packs bytes with gzip, in which pprof files are exchanged.
///
/// # Panics
/// Never: writing to a vector cannot fail.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).and_then(|()| packer.finish()).expect("writing to a vector cannot fail")
}

/// The ids given so far, by the ids of the symbol table.
#[derive(Default)]
struct Ids {
    mappings: HashMap<MappingId, u64>,
    functions: HashMap<FunctionId, u64>,
    locations: HashMap<LocationId, u64>,
}

struct Export<'a> {
    profile: &'a StackProfile,
    out: proto::Profile,
    texts: HashMap<Box<str>, i64>,
    ids: Ids,
}

impl Export<'_> {
    fn location(&mut self, id: LocationId) -> u64 {
        if let Some(&id) = self.ids.locations.get(&id) {
            return id;
        }
        let Location { mapping, address, ref lines } = *self.profile.symbols.location(id);
        let mapping_id = mapping.map_or(0, |id| self.mapping(id));
        let line: Vec<proto::Line> = lines
            .iter()
            .map(|line| proto::Line { function_id: self.function(line.function), line: i64::from(line.line) })
            .collect();
        if let Some(mapping) = mapping_id.checked_sub(1).and_then(|at| self.out.mapping.get_mut(at as usize))
        {
            mapping.memory_limit = mapping.memory_limit.max(address.saturating_add(1));
            mapping.has_functions |= !line.is_empty();
        }
        let new = self.out.location.len() as u64 + 1;
        self.out.location.push(proto::Location { id: new, mapping_id, address, line, is_folded: false });
        self.ids.locations.insert(id, new);
        new
    }

    fn mapping(&mut self, id: MappingId) -> u64 {
        if let Some(&id) = self.ids.mappings.get(&id) {
            return id;
        }
        let mapping = self.profile.symbols.mapping(id);
        let (filename, build_id) = (self.symbol(mapping.path), self.symbol(mapping.build_id));
        let new = self.out.mapping.len() as u64 + 1;
        // Addresses are file offsets, as if each file were mapped at 0.
        self.out.mapping.push(proto::Mapping { id: new, filename, build_id, ..proto::Mapping::default() });
        self.ids.mappings.insert(id, new);
        new
    }

    fn function(&mut self, id: FunctionId) -> u64 {
        if let Some(&id) = self.ids.functions.get(&id) {
            return id;
        }
        let Function { name, system_name, filename, start_line } = self.profile.symbols.function(id);
        let system_name = if system_name == StringId(0) { name } else { system_name };
        let function = proto::Function {
            id: self.out.function.len() as u64 + 1,
            name: self.symbol(name),
            system_name: self.symbol(system_name),
            filename: self.symbol(filename),
            start_line: i64::from(start_line),
        };
        let new = function.id;
        self.out.function.push(function);
        self.ids.functions.insert(id, new);
        new
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> proto::ValueType {
        proto::ValueType { r#type: self.text(kind), unit: self.text(unit) }
    }

    fn symbol(&mut self, id: StringId) -> i64 {
        let symbols = &self.profile.symbols;
        self.text(symbols.str(id))
    }

    fn text(&mut self, text: &str) -> i64 {
        if let Some(&index) = self.texts.get(text) {
            return index;
        }
        let index = self.out.string_table.len() as i64;
        self.out.string_table.push(text.to_owned());
        self.texts.insert(Box::from(text), index);
        index
    }
}
