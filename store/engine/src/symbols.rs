//! Symbols that can be copied from where they are stored into a [`SymbolTable`], as far as they are needed.

use pyrite_model::{
    Function, FunctionId, Line, Location, LocationId, Mapping, MappingId, StackId, StackNode, SymbolTable,
};

/// A place that holds symbols under ids of its own. Parents lead to a root; ids given out are valid.
pub(crate) trait Symbols {
    /// Number of stack nodes, locations, functions and mappings.
    fn lens(&self) -> SymbolLens;
    /// Parent and location of a stack node.
    fn stack(&self, id: u32) -> (Option<u32>, u32);
    /// A location by id.
    fn location(&self, id: u32) -> LocationRef<'_>;
    /// A function by id.
    fn function(&self, id: u32) -> FunctionRef<'_>;
    /// Build id and path of a mapping.
    fn mapping(&self, id: u32) -> (&str, &str);
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SymbolLens {
    pub(crate) stacks: usize,
    pub(crate) locations: usize,
    pub(crate) functions: usize,
    pub(crate) mappings: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct LocationRef<'a> {
    pub(crate) mapping: Option<u32>,
    pub(crate) address: u64,
    pub(crate) lines: &'a [Line],
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FunctionRef<'a> {
    pub(crate) name: &'a str,
    pub(crate) system_name: &'a str,
    pub(crate) filename: &'a str,
    pub(crate) start_line: u32,
}

impl Symbols for SymbolTable {
    fn lens(&self) -> SymbolLens {
        SymbolLens {
            stacks: self.stack_nodes().len(),
            locations: self.locations().len(),
            functions: self.functions().len(),
            mappings: self.mappings().len(),
        }
    }

    fn stack(&self, id: u32) -> (Option<u32>, u32) {
        let StackNode { parent, location } = self.stack_node(StackId(id));
        (parent.map(|id| id.0), location.0)
    }

    fn location(&self, id: u32) -> LocationRef<'_> {
        let Location { mapping, address, lines } = Self::location(self, LocationId(id));
        LocationRef { mapping: mapping.map(|id| id.0), address: *address, lines }
    }

    fn function(&self, id: u32) -> FunctionRef<'_> {
        let Function { name, system_name, filename, start_line } = self.function(FunctionId(id));
        FunctionRef {
            name: self.str(name),
            system_name: self.str(system_name),
            filename: self.str(filename),
            start_line,
        }
    }

    fn mapping(&self, id: u32) -> (&str, &str) {
        let Mapping { build_id, path } = self.mapping(MappingId(id));
        (self.str(build_id), self.str(path))
    }
}

/// Copies stacks and all they are made of, each thing once.
pub(crate) struct Copier<'a, S: ?Sized> {
    source: &'a S,
    stacks: Vec<Option<StackId>>,
    locations: Vec<Option<LocationId>>,
    functions: Vec<Option<FunctionId>>,
    mappings: Vec<Option<MappingId>>,
}

impl<'a, S: Symbols + ?Sized> Copier<'a, S> {
    pub(crate) fn new(source: &'a S) -> Self {
        let lens = source.lens();
        Self {
            source,
            stacks: vec![None; lens.stacks],
            locations: vec![None; lens.locations],
            functions: vec![None; lens.functions],
            mappings: vec![None; lens.mappings],
        }
    }

    /// The id in `target` of a stack of the source.
    pub(crate) fn stack(&mut self, id: u32, target: &mut SymbolTable) -> StackId {
        if let Some(done) = self.stacks[id as usize] {
            return done;
        }
        let mut missing = vec![id];
        let mut next = self.source.stack(id).0;
        let mut parent = None;
        while let Some(id) = next {
            parent = self.stacks[id as usize];
            if parent.is_some() {
                break;
            }
            missing.push(id);
            next = self.source.stack(id).0;
        }
        let mut copied = StackId::default();
        for id in missing.into_iter().rev() {
            let location = self.location(self.source.stack(id).1, target);
            copied = target.intern_stack_node(StackNode { parent, location });
            parent = Some(copied);
            self.stacks[id as usize] = parent;
        }
        copied
    }

    fn location(&mut self, id: u32, target: &mut SymbolTable) -> LocationId {
        if let Some(done) = self.locations[id as usize] {
            return done;
        }
        let LocationRef { mapping, address, lines } = self.source.location(id);
        let mapping = mapping.map(|id| self.mapping(id, target));
        let copy = |l: &Line| Line { function: self.function(l.function.0, target), line: l.line };
        let lines = lines.iter().map(copy).collect();
        let copied = target.intern_location(Location { mapping, address, lines });
        self.locations[id as usize] = Some(copied);
        copied
    }

    fn function(&mut self, id: u32, target: &mut SymbolTable) -> FunctionId {
        *self.functions[id as usize].get_or_insert_with(|| {
            let FunctionRef { name, system_name, filename, start_line } = self.source.function(id);
            let (name, system_name) = (target.intern_str(name), target.intern_str(system_name));
            let filename = target.intern_str(filename);
            target.intern_function(Function { name, system_name, filename, start_line })
        })
    }

    fn mapping(&mut self, id: u32, target: &mut SymbolTable) -> MappingId {
        *self.mappings[id as usize].get_or_insert_with(|| {
            let (build_id, path) = self.source.mapping(id);
            let (build_id, path) = (target.intern_str(build_id), target.intern_str(path));
            target.intern_mapping(Mapping { build_id, path })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_only_what_a_stack_needs() {
        let mut source = SymbolTable::new();
        let [main, leaf, other] = ["main", "leaf", "other"].map(|name| source.intern_named_location(name));
        let wanted = source.intern_stack(&[leaf, main]).unwrap();
        source.intern_stack(&[other, main]).unwrap();
        let mut target = SymbolTable::new();
        target.intern_named_location("there before");
        let mut copier = Copier::new(&source);
        let id = copier.stack(wanted.0, &mut target);
        assert_eq!(copier.stack(wanted.0, &mut target), id);
        let names: Vec<_> = target
            .stack_locations(id)
            .map(|l| SymbolTable::location(&target, l).lines[0].function)
            .map(|f| target.str(SymbolTable::function(&target, f).name).to_owned())
            .collect();
        assert_eq!(names, ["leaf", "main"]);
        assert!(target.strings().all(|text| text != "other"));
    }
}
