//! How a stack reads as text: one name per frame, for trees, folded stacks and call-site filters alike.

use std::borrow::Cow;

use crate::{FunctionId, Location, StackId, StackProfile, SymbolTable};

/// The name of a frame of which nothing at all is known.
const UNKNOWN: &str = "[unknown]";

/// The frame names of a stack trace, root first. Each inlined function is a frame of its own.
pub fn frame_names(symbols: &SymbolTable, stack: StackId) -> Vec<Cow<'_, str>> {
    let mut names = Vec::new();
    for id in symbols.stack_locations(stack) {
        let location = symbols.location(id);
        if location.lines.is_empty() {
            names.push(Cow::Owned(unresolved_name(symbols, location)));
        }
        names.extend(location.lines.iter().map(|line| Cow::Borrowed(function_name(symbols, line.function))));
    }
    names.reverse();
    names
}

/// A function's name as it is shown.
pub(crate) fn function_name(symbols: &SymbolTable, id: FunctionId) -> &str {
    let function = symbols.function(id);
    let names = [symbols.str(function.name), symbols.str(function.system_name)];
    names.into_iter().find(|name| !name.is_empty()).unwrap_or(UNKNOWN)
}

/// What stands for a location without a function: `file!0xaddress`, the same for every profile of that file.
pub(crate) fn unresolved_name(symbols: &SymbolTable, location: &Location) -> String {
    let path = location.mapping.map_or("", |id| symbols.str(symbols.mapping(id).path));
    let file = path.rsplit('/').next().unwrap_or_default();
    match (file, location.address) {
        ("", 0) => UNKNOWN.to_owned(),
        ("", address) => format!("{address:#x}"),
        (file, 0) => file.to_owned(),
        (file, address) => format!("{file}!{address:#x}"),
    }
}

impl StackProfile {
    /// Keeps the stacks whose first frames, root first, have exactly the names given.
    pub fn retain_call_site(&mut self, call_site: &[String]) {
        let Self { symbols, values } = self;
        values.retain(|&(stack, _)| {
            let names = frame_names(symbols, stack);
            names.len() >= call_site.len() && names.iter().zip(call_site).all(|(name, wanted)| name == wanted)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Function, Line, Mapping};

    #[test]
    fn inlined_and_unresolved_frames_have_names() {
        let mut table = SymbolTable::new();
        let functions = ["inner", "outer"].map(|name| {
            let name = table.intern_str(name);
            table.intern_function(Function { name, ..Function::default() })
        });
        let lines = functions.map(|function| Line { function, line: 1 }).to_vec();
        let path = table.intern_str("/usr/lib/libc.so.6");
        let mapping = table.intern_mapping(Mapping { path, ..Mapping::default() });
        let at = |mapping, address, lines| Location { mapping, address, lines };
        let leaf_first = [
            at(Some(mapping), 0x10, lines),
            at(Some(mapping), 0x20, Vec::new()),
            at(None, 0x30, Vec::new()),
            at(Some(mapping), 0, Vec::new()),
            at(None, 0, Vec::new()),
        ];
        let leaf_first = leaf_first.map(|location| table.intern_location(location));
        let stack = table.intern_stack(&leaf_first).unwrap();
        let expected = ["[unknown]", "libc.so.6", "0x30", "libc.so.6!0x20", "outer", "inner"];
        assert_eq!(frame_names(&table, stack), expected);
    }

    #[test]
    fn a_call_site_is_a_prefix_from_the_root() {
        let mut profile = StackProfile::default();
        for (value, leaf_first) in
            [(1, &["b", "a"][..]), (2, &["a"]), (4, &["a", "b"]), (8, &["c", "b", "a"])]
        {
            let locations: Vec<_> =
                leaf_first.iter().map(|name| profile.symbols.intern_named_location(name)).collect();
            let stack = profile.symbols.intern_stack(&locations).unwrap();
            profile.values.push((stack, value));
        }
        for (call_site, total) in [(&["a"][..], 11), (&["a", "b"], 9), (&[], 15), (&["b", "a", "x"], 0)] {
            let mut kept = profile.clone();
            kept.retain_call_site(&call_site.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(kept.total(), total, "{call_site:?}");
        }
    }
}
