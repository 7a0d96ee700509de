//! The stacks of a growing symbol table as a tree of function names, kept beside the table: to draw a profile is then to
//! add up numbers, and no name is looked at.
//!
//! ```text
//! StackId ──of_stack──▶ node { parent, name }          parents before children; node 0 is the nameless root
//! ```
//!
//! File, line and address play no part, so many stacks share a node, and an inlined call is a node like any other.

use std::hash::BuildHasher;
use std::ops::Range;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::frames::{function_name, unresolved_name};
use crate::{LocationId, StackId, SymbolTable};

/// The node of the empty path.
pub(crate) const ROOT: u32 = 0;

/// No node has the root as its child.
const NO_CHILD: u32 = ROOT;

/// Paths of function names, each a number, and the path that each stack of a symbol table is.
#[derive(Clone, Debug)]
pub struct CallTree {
    names: Names,
    parents: Vec<u32>,
    node_names: Vec<u32>,
    /// The child that came first, beside its parent: most nodes have no other.
    first_children: Vec<u32>,
    /// Children that are not their parent's first.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The names of each location's frames, caller first, as a range of `frames`.
    of_location: Vec<Range<u32>>,
    frames: Vec<u32>,
    of_stack: Vec<u32>,
}

/// Names, each kept once.
#[derive(Clone, Debug, Default)]
struct Names {
    texts: Vec<Box<str>>,
    ids: HashMap<Box<str>, u32>,
}

impl Names {
    fn intern(&mut self, text: &str) -> u32 {
        if let Some(&id) = self.ids.get(text) {
            return id;
        }
        let id = self.texts.len() as u32;
        self.texts.push(Box::from(text));
        self.ids.insert(Box::from(text), id);
        id
    }
}

impl Default for CallTree {
    fn default() -> Self {
        let mut names = Names::default();
        let nameless = names.intern("");
        Self {
            names,
            parents: vec![ROOT],
            node_names: vec![nameless],
            first_children: vec![NO_CHILD],
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            of_location: Vec::new(),
            frames: Vec::new(),
            of_stack: Vec::new(),
        }
    }
}

impl CallTree {
    /// The tree of all stacks of a table.
    pub fn of(symbols: &SymbolTable) -> Self {
        let mut tree = Self::default();
        tree.extend(symbols, usize::MAX);
        tree
    }

    /// Takes in what the table, which is always the same one, has got since the last call: so many stacks at most.
    pub fn extend(&mut self, symbols: &SymbolTable, at_most: usize) {
        for node in symbols.stack_nodes()[self.of_stack.len()..].iter().take(at_most) {
            for id in self.of_location.len()..=node.location.index() {
                self.add_location(symbols, LocationId(id as u32));
            }
            let mut at = node.parent.map_or(ROOT, |parent| self.of_stack[parent.index()]);
            for frame in self.of_location[node.location.index()].clone() {
                at = self.child(at, self.frames[frame as usize]);
            }
            self.of_stack.push(at);
        }
    }

    /// How many nodes there are, the root among them.
    pub fn node_count(&self) -> usize {
        self.parents.len()
    }

    /// How many stacks it knows the nodes of.
    pub fn stack_count(&self) -> usize {
        self.of_stack.len()
    }

    /// The node that a stack ends in.
    pub fn node_of(&self, stack: StackId) -> usize {
        self.of_stack[stack.index()] as usize
    }

    /// By node, whether its path begins with these function names.
    pub fn below(&self, call_site: &[String]) -> Vec<bool> {
        let mut site = Some(ROOT);
        for name in call_site {
            site = site.and_then(|at| self.find(at, *self.names.ids.get(name.as_str())?));
        }
        let mut below = vec![false; self.node_count()];
        let Some(site) = site else { return below };
        for node in site..self.node_count() as u32 {
            let is_inside = node == site || (node != ROOT && below[self.parents[node as usize] as usize]);
            below[node as usize] = is_inside;
        }
        below
    }

    /// By node, whether its path goes through a function of this name.
    pub fn through(&self, function: &str) -> Vec<bool> {
        let mut through = vec![false; self.node_count()];
        let Some(&name) = self.names.ids.get(function) else { return through };
        for (node, (found, parent)) in self.node_names.iter().zip(&self.parents).enumerate().skip(1) {
            through[node] = *found == name || through[*parent as usize];
        }
        through
    }

    /// Estimated memory.
    pub fn bytes(&self) -> usize {
        let per_node = 3 * size_of::<u32>() + size_of::<u32>();
        let text: usize = self.names.texts.len() * 64;
        self.node_count() * per_node + self.of_stack.len() * size_of::<u32>() + self.frames.len() * 12 + text
    }

    pub(crate) fn parent(&self, node: usize) -> u32 {
        self.parents[node]
    }

    pub(crate) fn name_id(&self, node: usize) -> u32 {
        self.node_names[node]
    }

    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.names.texts
    }

    /// The number of a name, added if new.
    pub(crate) fn intern_name(&mut self, text: &str) -> u32 {
        self.names.intern(text)
    }

    /// The child of a node that has this name.
    fn find(&self, parent: u32, name: u32) -> Option<u32> {
        match self.first_children[parent as usize] {
            NO_CHILD => None,
            first if self.node_names[first as usize] == name => Some(first),
            _ => {
                let hash = self.hasher.hash_one((parent, name));
                let is_it = |&node: &u32| {
                    self.parents[node as usize] == parent && self.node_names[node as usize] == name
                };
                self.index.find(hash, is_it).copied()
            }
        }
    }

    /// The same, added if new.
    pub(crate) fn child(&mut self, parent: u32, name: u32) -> u32 {
        if let Some(node) = self.find(parent, name) {
            return node;
        }
        let node = u32::try_from(self.parents.len()).expect("a call tree is bounded far below 2^32 nodes");
        self.parents.push(parent);
        self.node_names.push(name);
        self.first_children.push(NO_CHILD);
        let first = &mut self.first_children[parent as usize];
        if *first == NO_CHILD {
            *first = node;
            return node;
        }
        let Self { parents, node_names, index, hasher, .. } = self;
        let hash_of = |node: u32| hasher.hash_one((parents[node as usize], node_names[node as usize]));
        index.insert_unique(hash_of(node), node, |&node| hash_of(node));
        node
    }

    fn add_location(&mut self, symbols: &SymbolTable, id: LocationId) {
        let start = self.frames.len() as u32;
        let location = symbols.location(id);
        if location.lines.is_empty() {
            let name = self.names.intern(&unresolved_name(symbols, location));
            self.frames.push(name);
        }
        for line in location.lines.iter().rev() {
            let name = self.names.intern(function_name(symbols, line.function));
            self.frames.push(name);
        }
        self.of_location.push(start..self.frames.len() as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Function, Line, Location};

    /// The function names of a node's path, root first.
    fn path(tree: &CallTree, mut node: usize) -> Vec<&str> {
        let mut names = Vec::new();
        while node != ROOT as usize {
            names.push(&*tree.names()[tree.name_id(node) as usize]);
            node = tree.parent(node) as usize;
        }
        names.reverse();
        names
    }

    fn stack(table: &mut SymbolTable, root_first: &[&str]) -> StackId {
        let locations: Vec<_> =
            root_first.iter().rev().map(|name| table.intern_named_location(name)).collect();
        table.intern_stack(&locations).unwrap()
    }

    #[test]
    fn a_tree_that_grows_with_its_table_is_that_of_the_whole_table() {
        let mut table = SymbolTable::new();
        let mut tree = CallTree::default();
        let paths =
            [&["main", "a"][..], &["main"], &["main", "b"], &["main", "b", "a"], &["a"], &["main", "c"]];
        let stacks: Vec<StackId> = paths
            .iter()
            .map(|names| {
                let stack = stack(&mut table, names);
                tree.extend(&table, 1);
                stack
            })
            .collect();
        for (id, names) in stacks.iter().zip(paths) {
            assert_eq!(path(&tree, tree.node_of(*id)), names);
            assert_eq!(CallTree::of(&table).node_of(*id), tree.node_of(*id));
        }
        assert_eq!(tree.node_count(), 7);
    }

    #[test]
    fn lines_and_addresses_make_no_difference_and_inlined_calls_are_nodes() {
        let mut table = SymbolTable::new();
        let line = |table: &mut SymbolTable, name: &str, line| {
            let name = table.intern_str(name);
            Line { function: table.intern_function(Function { name, ..Function::default() }), line }
        };
        let mut stacks = Vec::new();
        for number in [10, 20] {
            let lines = vec![line(&mut table, "inlined", number), line(&mut table, "outer", number)].into();
            let location = Location { lines, address: u64::from(number), mapping: None };
            let location = table.intern_location(location);
            stacks.push(table.intern_stack(&[location]).unwrap());
        }
        let bare = table.intern_location(Location { address: 7, ..Location::default() });
        let bare = table.intern_stack(&[bare]).unwrap();
        let tree = CallTree::of(&table);
        assert_eq!(tree.node_of(stacks[0]), tree.node_of(stacks[1]));
        assert_eq!(path(&tree, tree.node_of(stacks[0])), ["outer", "inlined"]);
        assert_eq!(path(&tree, tree.node_of(bare)), ["0x7"]);
    }

    #[test]
    fn a_call_site_is_a_path_from_the_root() {
        let mut table = SymbolTable::new();
        let paths = [&["a", "b"][..], &["a"], &["b", "a"], &["a", "b", "c"]];
        let stacks = paths.map(|names| stack(&mut table, names));
        let tree = CallTree::of(&table);
        let below = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let below = tree.below(&names);
            stacks.map(|stack| below[tree.node_of(stack)])
        };
        assert_eq!(below(&[]), [true; 4]);
        assert_eq!(below(&["a"]), [true, true, false, true]);
        assert_eq!(below(&["a", "b"]), [true, false, false, true]);
        assert_eq!(below(&["b", "a", "x"]), [false; 4]);
        assert_eq!(below(&["nowhere"]), [false; 4]);
    }

    #[test]
    fn a_function_is_on_a_path_wherever_it_is() {
        let mut table = SymbolTable::new();
        let paths = [&["a", "b"][..], &["b"], &["a", "c"], &["c", "b", "a", "b"]];
        let stacks = paths.map(|names| stack(&mut table, names));
        let tree = CallTree::of(&table);
        let through = |name: &str| {
            let through = tree.through(name);
            stacks.map(|stack| through[tree.node_of(stack)])
        };
        assert_eq!(through("a"), [true, false, true, true]);
        assert_eq!(through("b"), [true, true, false, true]);
        assert_eq!(through("c"), [false, false, true, true]);
        for unknown in ["nowhere", ""] {
            assert_eq!(through(unknown), [false; 4], "{unknown}");
        }
    }
}
