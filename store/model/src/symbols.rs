//! Everything stacks are made of, each thing stored once and named by an index.
//!
//! ```text
//! StackId ─▶ StackNode { parent: Option<StackId>, location }     parent pointers lead from leaf to root
//!                               │
//!            Location { mapping, address, lines: [Line { function, line }] }   innermost inlined line first
//!                               │                       │
//!            Mapping { build_id, path }       Function { name, system_name, filename, start_line }
//! ```
//!
//! Ids are dense and only ever grow, so "all that was added since" is a range of indexes per table ([`TableLens`]).
//! That is what the WAL logs. A stack node's parent has a smaller id than the node itself.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::Lines;
use crate::interner::{Interner, Texts, next_id};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The id as an index into its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}

ids! {
    /// Index of a string; `StringId(0)` is always the empty string.
    StringId,
    /// Index of a mapping.
    MappingId,
    /// Index of a function.
    FunctionId,
    /// Index of a location.
    LocationId,
    /// Index of a stack node; names the stack trace from that node (leaf) to its root.
    StackId,
}

/// An executable as a profile refers to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Build id in hex, else another executable id, else empty.
    pub build_id: StringId,
    /// Path of the file as the process saw it, or a name such as `[kernel]`.
    pub path: StringId,
}

/// A function as pprof knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Function {
    /// Demangled name.
    pub name: StringId,
    /// Name as the symbol table has it; empty where it equals `name`.
    pub system_name: StringId,
    /// Source file; empty where unknown.
    pub filename: StringId,
    /// First line of the function; 0 where unknown.
    pub start_line: u32,
}

/// A position in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The function.
    pub function: FunctionId,
    /// Line number; 0 where unknown.
    pub line: u32,
}

/// A code address, resolved to its lines where that was possible.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Location {
    /// The executable, where known.
    pub mapping: Option<MappingId>,
    /// Address within the mapping: a file offset, or as given where a pushed profile does not say how it was mapped;
    /// 0 where unknown, and for pushed locations that have lines.
    pub address: u64,
    /// The functions that it is in.
    pub lines: Lines,
}

/// A location to look for. It hashes as the location does, for it has the same fields in the same order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct LocationKey<'a> {
    mapping: Option<MappingId>,
    address: u64,
    lines: &'a [Line],
}

impl Location {
    fn key(&self) -> LocationKey<'_> {
        LocationKey { mapping: self.mapping, address: self.address, lines: &self.lines }
    }
}

/// One frame of a stack trace and the way to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StackNode {
    /// The caller; `None` at the root.
    pub parent: Option<StackId>,
    /// Where in the code.
    pub location: LocationId,
}

/// How many entries each table of a [`SymbolTable`] has: a mark that later additions are counted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableLens {
    /// Strings.
    pub strings: usize,
    /// Mappings.
    pub mappings: usize,
    /// Functions.
    pub functions: usize,
    /// Locations.
    pub locations: usize,
    /// Stack nodes.
    pub stacks: usize,
}

/// Where the ids of one table went when it was merged into another.
#[derive(Clone, Debug, Default)]
pub struct Remap {
    /// For each stack id of the source the stack id in the target.
    pub stacks: Vec<StackId>,
}

/// Stack nodes, each kept once, in order of first appearance.
///
/// A node finds its first child beside itself and only further children in the index. Most nodes are the only child of
/// their parent, and the nodes of a new stack lie side by side, so that below the point where a stack leaves the known
/// ones no node costs a look into a table much larger than the CPU's caches.
#[derive(Clone, Debug, Default)]
struct StackTree {
    nodes: Vec<StackNode>,
    /// By node; [`NO_CHILD`] for a leaf.
    first_children: Vec<StackId>,
    /// Roots, and children that are not their parent's first.
    index: HashTable<StackId>,
    hasher: DefaultHashBuilder,
}

/// No node has this id as its child, for a parent's id is smaller than the child's.
const NO_CHILD: StackId = StackId(0);

impl StackTree {
    fn intern(&mut self, node: StackNode) -> StackId {
        let Some(parent) = node.parent else { return self.intern_indexed(node) };
        match self.first_children[parent.index()] {
            NO_CHILD => {
                let id = self.push(node);
                self.first_children[parent.index()] = id;
                id
            }
            first if self.nodes[first.index()].location == node.location => first,
            _ => self.intern_indexed(node),
        }
    }

    fn intern_indexed(&mut self, node: StackNode) -> StackId {
        let hash = self.hasher.hash_one(node);
        if let Some(&id) = self.index.find(hash, |&id| self.nodes[id.index()] == node) {
            return id;
        }
        let id = self.push(node);
        let Self { nodes, index, hasher, .. } = self;
        index.insert_unique(hash, id, |&id| hasher.hash_one(nodes[id.index()]));
        id
    }

    /// Walks from the end of a path to the frames after it, adds what is new, and leaves the ids on the path.
    fn extend(&mut self, path: &mut Vec<StackId>, root_first: &[LocationId]) {
        for (i, &location) in root_first.iter().enumerate() {
            let known = self.nodes.len();
            let id = self.intern(StackNode { parent: path.last().copied(), location });
            path.push(id);
            if id.index() == known {
                return self.extend_new(path, id, &root_first[i + 1..]);
            }
        }
    }

    /// The same for frames after the newest node: it has no children, so all of them are new and follow each other.
    fn extend_new(&mut self, path: &mut Vec<StackId>, newest: StackId, root_first: &[LocationId]) {
        let end = next_id(self.nodes.len() + root_first.len());
        let parents = (newest.0..).map(|id| Some(StackId(id)));
        let nodes = root_first.iter().zip(parents).map(|(&location, parent)| StackNode { parent, location });
        self.nodes.extend(nodes);
        // Each is the first child of the one before.
        self.first_children.pop();
        self.first_children.extend((newest.0 + 1..end).map(StackId));
        self.first_children.push(NO_CHILD);
        path.extend((newest.0 + 1..end).map(StackId));
    }

    /// Makes room for this many further branches.
    fn make_room(&mut self, branches: usize) {
        let Self { nodes, index, hasher, .. } = self;
        index.reserve(branches, |&id| hasher.hash_one(nodes[id.index()]));
    }

    fn push(&mut self, node: StackNode) -> StackId {
        let id = StackId(next_id(self.nodes.len()));
        self.nodes.push(node);
        self.first_children.push(NO_CHILD);
        id
    }
}

/// Strings, mappings, functions, locations and stacks, each kept once.
#[derive(Clone, Debug)]
pub struct SymbolTable {
    strings: Texts,
    mappings: Interner<Mapping>,
    functions: Interner<Function>,
    locations: Interner<Location>,
    stacks: StackTree,
}

impl Default for SymbolTable {
    fn default() -> Self {
        let mut strings = Texts::default();
        strings.intern("");
        Self {
            strings,
            mappings: Interner::default(),
            functions: Interner::default(),
            locations: Interner::default(),
            stacks: StackTree::default(),
        }
    }
}

impl SymbolTable {
    /// A table that holds only the empty string.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for this many strings, mappings, functions and locations in all, and for this many further stacks.
    pub(crate) fn make_room(&mut self, lens: TableLens) {
        let TableLens { strings, mappings, functions, locations, stacks } = lens;
        self.strings.make_room(strings);
        self.mappings.make_room(mappings);
        self.functions.make_room(functions);
        self.locations.make_room(locations);
        self.stacks.make_room(stacks);
    }

    /// The id of `text`, added if new.
    pub fn intern_str(&mut self, text: &str) -> StringId {
        StringId(self.strings.intern(text))
    }

    /// The id of `mapping`, added if new.
    pub fn intern_mapping(&mut self, mapping: Mapping) -> MappingId {
        MappingId(self.mappings.intern(mapping))
    }

    /// The id of `function`, added if new.
    pub fn intern_function(&mut self, function: Function) -> FunctionId {
        FunctionId(self.functions.intern(function))
    }

    /// The id of `location`, added if new.
    pub fn intern_location(&mut self, location: Location) -> LocationId {
        LocationId(self.locations.intern(location))
    }

    /// The id of the location that has these lines, which it takes a vector of its own for only if it is new.
    pub fn intern_location_of(
        &mut self,
        mapping: Option<MappingId>,
        address: u64,
        lines: &[Line],
    ) -> LocationId {
        let key = LocationKey { mapping, address, lines };
        let id = match self.locations.find(&key, |known| known.key() == key) {
            Ok(id) => id,
            Err(hash) => self.locations.add(hash, Location { mapping, address, lines: lines.into() }),
        };
        LocationId(id)
    }

    /// The id of the stack node, added if new.
    ///
    /// # Panics
    /// Where its parent is not in this table.
    pub fn intern_stack_node(&mut self, node: StackNode) -> StackId {
        self.stacks.intern(node)
    }

    /// Goes on from a stack trace, whose nodes from the root on are `path`, to frames called by its leaf, and leaves
    /// the ids of their nodes on the path.
    pub(crate) fn intern_callees(&mut self, path: &mut Vec<StackId>, root_first: &[LocationId]) {
        self.stacks.extend(path, root_first);
    }

    /// The id of a whole stack trace given leaf first; `None` for an empty one.
    pub fn intern_stack(&mut self, leaf_first: &[LocationId]) -> Option<StackId> {
        leaf_first
            .iter()
            .rev()
            .fold(None, |parent, &location| Some(self.intern_stack_node(StackNode { parent, location })))
    }

    /// A location that is known by its function name only.
    pub fn intern_named_location(&mut self, name: &str) -> LocationId {
        let name = self.intern_str(name);
        let function = self.intern_function(Function { name, ..Function::default() });
        self.intern_location_of(None, 0, &[Line { function, line: 0 }])
    }

    /// The text of a string.
    pub fn str(&self, id: StringId) -> &str {
        self.strings.get(id.0)
    }

    /// A mapping by id.
    pub fn mapping(&self, id: MappingId) -> Mapping {
        self.mappings.items()[id.index()]
    }

    /// A function by id.
    pub fn function(&self, id: FunctionId) -> Function {
        self.functions.items()[id.index()]
    }

    /// A location by id.
    pub fn location(&self, id: LocationId) -> &Location {
        &self.locations.items()[id.index()]
    }

    /// A stack node by id.
    pub fn stack_node(&self, id: StackId) -> StackNode {
        self.stacks.nodes[id.index()]
    }

    /// All strings in id order.
    pub fn strings(&self) -> impl ExactSizeIterator<Item = &str> {
        self.strings.iter()
    }

    /// All mappings in id order.
    pub fn mappings(&self) -> &[Mapping] {
        self.mappings.items()
    }

    /// All functions in id order.
    pub fn functions(&self) -> &[Function] {
        self.functions.items()
    }

    /// All locations in id order.
    pub fn locations(&self) -> &[Location] {
        self.locations.items()
    }

    /// All stack nodes in id order; a parent always comes before its children.
    pub fn stack_nodes(&self) -> &[StackNode] {
        &self.stacks.nodes
    }

    /// The locations of a stack trace, leaf first.
    pub fn stack_locations(&self, id: StackId) -> impl Iterator<Item = LocationId> + '_ {
        let mut next = Some(id);
        std::iter::from_fn(move || {
            let node = self.stack_node(next?);
            next = node.parent;
            Some(node.location)
        })
    }

    /// How many entries each table has now.
    pub fn lens(&self) -> TableLens {
        TableLens {
            strings: self.strings.len(),
            mappings: self.mappings.items().len(),
            functions: self.functions.items().len(),
            locations: self.locations.items().len(),
            stacks: self.stacks.nodes.len(),
        }
    }

    /// What it takes in memory, roughly: the indexes are put at what they mostly take, and a location at one line.
    pub fn estimated_bytes(&self) -> usize {
        let index = size_of::<u32>() + 1;
        let TableLens { strings, mappings, functions, locations, stacks } = self.lens();
        self.strings.bytes()
            + strings * index
            + mappings * (size_of::<Mapping>() + index)
            + functions * (size_of::<Function>() + index)
            + locations * (size_of::<Location>() + index)
            + stacks * (size_of::<StackNode>() + size_of::<StackId>())
    }

    /// Adds all that `other` holds and says where its stacks went.
    pub fn merge(&mut self, other: &Self) -> Remap {
        let strings: Vec<StringId> = other.strings().map(|text| self.intern_str(text)).collect();
        let mappings: Vec<MappingId> = other
            .mappings()
            .iter()
            .map(|m| {
                let (build_id, path) = (strings[m.build_id.index()], strings[m.path.index()]);
                self.intern_mapping(Mapping { build_id, path })
            })
            .collect();
        let functions: Vec<FunctionId> = other
            .functions()
            .iter()
            .map(|f| {
                self.intern_function(Function {
                    name: strings[f.name.index()],
                    system_name: strings[f.system_name.index()],
                    filename: strings[f.filename.index()],
                    start_line: f.start_line,
                })
            })
            .collect();
        let mut lines = Vec::new();
        let locations: Vec<LocationId> = other
            .locations()
            .iter()
            .map(|l| {
                let moved = |line: &Line| Line { function: functions[line.function.index()], ..*line };
                lines.clear();
                lines.extend(l.lines.iter().map(moved));
                let mapping = l.mapping.map(|id| mappings[id.index()]);
                self.intern_location_of(mapping, l.address, &lines)
            })
            .collect();
        let mut stacks: Vec<StackId> = Vec::with_capacity(other.stack_nodes().len());
        for node in other.stack_nodes() {
            let parent = node.parent.map(|id| stacks[id.index()]);
            let location = locations[node.location.index()];
            stacks.push(self.intern_stack_node(StackNode { parent, location }));
        }
        Remap { stacks }
    }
}

#[cfg(test)]
mod tests;
