//! Copying some stacks of one symbol table into another, each thing once.

use pyrite_model::{
    Function, FunctionId, Line, Location, LocationId, Mapping, MappingId, StackId, StackNode, StringId,
    SymbolTable,
};

/// What became of the ids of a symbol table, which may grow meanwhile.
pub(crate) struct Copier {
    /// Stacks and functions may be put here by who knows their ids in the target.
    pub(super) stacks: Vec<Option<StackId>>,
    locations: Vec<Option<LocationId>>,
    pub(super) functions: Vec<Option<FunctionId>>,
    mappings: Vec<Option<MappingId>>,
}

impl Copier {
    /// For what the source holds now.
    pub(crate) fn new(source: &SymbolTable) -> Self {
        let lens = source.lens();
        Self {
            stacks: vec![None; lens.stacks],
            locations: vec![None; lens.locations],
            functions: vec![None; lens.functions],
            mappings: vec![None; lens.mappings],
        }
    }

    /// The id in `target` of a stack of the source.
    pub(crate) fn stack(&mut self, source: &SymbolTable, id: StackId, target: &mut SymbolTable) -> StackId {
        let mut missing = Vec::new();
        let (mut next, mut copied) = (Some(id), None);
        while let Some(id) = next {
            copied = self.stacks[id.index()];
            if copied.is_some() {
                break;
            }
            missing.push(id);
            next = source.stack_node(id).parent;
        }
        for id in missing.into_iter().rev() {
            let location = self.location(source, source.stack_node(id).location, target);
            copied = Some(target.intern_stack_node(StackNode { parent: copied, location }));
            self.stacks[id.index()] = copied;
        }
        copied.expect("a stack has at least the node that names it")
    }

    fn location(&mut self, source: &SymbolTable, id: LocationId, target: &mut SymbolTable) -> LocationId {
        if let Some(done) = self.locations[id.index()] {
            return done;
        }
        let Location { mapping, address, lines } = source.location(id);
        let mapping = mapping.map(|id| self.mapping(source, id, target));
        let copy = |l: &Line| Line { function: self.function(source, l.function, target), line: l.line };
        let lines = lines.iter().map(copy).collect();
        let copied = target.intern_location(Location { mapping, address: *address, lines });
        self.locations[id.index()] = Some(copied);
        copied
    }

    fn function(&mut self, source: &SymbolTable, id: FunctionId, target: &mut SymbolTable) -> FunctionId {
        if let Some(done) = self.functions[id.index()] {
            return done;
        }
        let Function { name, system_name, filename, start_line } = source.function(id);
        let [name, system_name, filename] =
            [name, system_name, filename].map(|text| copy_text(source, text, target));
        let copied = target.intern_function(Function { name, system_name, filename, start_line });
        self.functions[id.index()] = Some(copied);
        copied
    }

    fn mapping(&mut self, source: &SymbolTable, id: MappingId, target: &mut SymbolTable) -> MappingId {
        if let Some(done) = self.mappings[id.index()] {
            return done;
        }
        let Mapping { build_id, path } = source.mapping(id);
        let [build_id, path] = [build_id, path].map(|text| copy_text(source, text, target));
        let copied = target.intern_mapping(Mapping { build_id, path });
        self.mappings[id.index()] = Some(copied);
        copied
    }

    /// Memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let Self { stacks, locations, functions, mappings } = self;
        size_of_val(&**stacks)
            + size_of_val(&**locations)
            + size_of_val(&**functions)
            + size_of_val(&**mappings)
    }
}

fn copy_text(source: &SymbolTable, id: StringId, target: &mut SymbolTable) -> StringId {
    target.intern_str(source.str(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_holds_what_was_asked_for_and_no_more() {
        let mut source = SymbolTable::new();
        let path = source.intern_str("/bin/x");
        let mapping = source.intern_mapping(Mapping { path, ..Mapping::default() });
        let names = ["main", "a", "b"];
        let locations = names.map(|name| {
            let name = source.intern_str(name);
            let function = source.intern_function(Function { name, ..Function::default() });
            let lines = Line { function, line: 3 }.into();
            source.intern_location(Location { mapping: Some(mapping), address: 0, lines })
        });
        let [main, a, b] = locations;
        let wanted = source.intern_stack(&[a, main]).unwrap();
        source.intern_stack(&[b, main]).unwrap();
        let mut target = SymbolTable::new();
        target.intern_named_location("first");
        let mut copier = Copier::new(&source);
        let found = copier.stack(&source, wanted, &mut target);
        assert_eq!(copier.stack(&source, wanted, &mut target), found);
        let text = |id| target.str(id);
        let names: Vec<&str> = target
            .stack_locations(found)
            .map(|id| {
                let location = target.location(id);
                assert_eq!(text(target.mapping(location.mapping.unwrap()).path), "/bin/x");
                text(target.function(location.lines[0].function).name)
            })
            .collect();
        assert_eq!(names, ["a", "main"]);
        assert_eq!((target.stack_nodes().len(), target.functions().len()), (2, 3));
    }
}
