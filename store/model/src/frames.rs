//! How a stack reads as text: one name per frame, for trees, folded stacks and call sites alike.

use std::borrow::Cow;

use crate::{FunctionId, Location, StackId, SymbolTable};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Function, Line, Lines, Mapping};

    #[test]
    fn inlined_and_unresolved_frames_have_names() {
        let mut table = SymbolTable::new();
        let functions = ["inner", "outer"].map(|name| {
            let name = table.intern_str(name);
            table.intern_function(Function { name, ..Function::default() })
        });
        let lines = functions.map(|function| Line { function, line: 1 }).into_iter().collect();
        let path = table.intern_str("/usr/lib/libc.so.6");
        let mapping = table.intern_mapping(Mapping { path, ..Mapping::default() });
        let at = |mapping, address, lines| Location { mapping, address, lines };
        let leaf_first = [
            at(Some(mapping), 0x10, lines),
            at(Some(mapping), 0x20, Lines::default()),
            at(None, 0x30, Lines::default()),
            at(Some(mapping), 0, Lines::default()),
            at(None, 0, Lines::default()),
        ];
        let leaf_first = leaf_first.map(|location| table.intern_location(location));
        let stack = table.intern_stack(&leaf_first).unwrap();
        let expected = ["[unknown]", "libc.so.6", "0x30", "libc.so.6!0x20", "outer", "inner"];
        assert_eq!(frame_names(&table, stack), expected);
    }
}
