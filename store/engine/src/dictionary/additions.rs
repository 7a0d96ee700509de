//! What a log says was added to a dictionary.

use pyrite_model::{Function, Location, Mapping, StackNode, StringId, SymbolTable};

use super::part::Lens;

/// Entries by the ids that they have in the dictionary, checked to refer to nothing beyond themselves. Texts are by their
/// place in `strings`.
#[derive(Debug, Default)]
pub(crate) struct Additions<'a> {
    /// Where the tables ended before.
    pub(crate) first: Lens,
    pub(crate) strings: Vec<&'a str>,
    /// Build id and path.
    pub(crate) mappings: Vec<[u32; 2]>,
    /// Name, system name and file; the first line.
    pub(crate) functions: Vec<([u32; 3], u32)>,
    pub(crate) locations: Vec<Location>,
    pub(crate) stacks: Vec<StackNode>,
}

impl Additions<'_> {
    /// Where the tables end with them.
    pub(crate) fn end(&self) -> Lens {
        Lens {
            mappings: self.first.mappings + self.mappings.len(),
            functions: self.first.functions + self.functions.len(),
            locations: self.first.locations + self.locations.len(),
            stacks: self.first.stacks + self.stacks.len(),
        }
    }

    /// Adds those that the table lacks. False where it does not reach to where they begin, or one does not get its id: then
    /// some may have been added.
    pub(super) fn add_to(&self, symbols: &mut SymbolTable) -> bool {
        let (known, first) = (Lens::of(symbols), self.first);
        if !known.reaches(first) {
            return false;
        }
        let texts: Vec<StringId> = self.strings.iter().map(|text| symbols.intern_str(text)).collect();
        let text = |at: u32| texts[at as usize];
        let mappings = self.mappings.iter().zip(first.mappings..).skip(known.mappings - first.mappings);
        for (&[build_id, path], id) in mappings {
            let mapping = Mapping { build_id: text(build_id), path: text(path) };
            if symbols.intern_mapping(mapping).index() != id {
                return false;
            }
        }
        let functions = self.functions.iter().zip(first.functions..).skip(known.functions - first.functions);
        for (&([name, system_name, filename], start_line), id) in functions {
            let [name, system_name, filename] = [name, system_name, filename].map(text);
            let function = Function { name, system_name, filename, start_line };
            if symbols.intern_function(function).index() != id {
                return false;
            }
        }
        let locations = self.locations.iter().zip(first.locations..).skip(known.locations - first.locations);
        for (location, id) in locations {
            if symbols.intern_location(location.clone()).index() != id {
                return false;
            }
        }
        let stacks = self.stacks.iter().zip(first.stacks..).skip(known.stacks - first.stacks);
        for (&node, id) in stacks {
            if symbols.intern_stack_node(node).index() != id {
                return false;
            }
        }
        true
    }
}
