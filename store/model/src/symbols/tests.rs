//! Symbol tables: each thing once, and found again however it is asked for.

use proptest::prelude::*;

use super::*;

fn names_leaf_first(table: &SymbolTable, id: StackId) -> Vec<String> {
    let lines = table.stack_locations(id).flat_map(|l| table.location(l).lines.to_vec());
    lines.map(|line| table.str(table.function(line.function).name).to_owned()).collect()
}

fn stack(table: &mut SymbolTable, leaf_first: &[&str]) -> StackId {
    let locations: Vec<_> = leaf_first.iter().map(|name| table.intern_named_location(name)).collect();
    table.intern_stack(&locations).expect("not empty")
}

#[test]
fn shared_callers_are_stored_once() {
    let mut table = SymbolTable::new();
    let a = stack(&mut table, &["leaf", "main"]);
    let b = stack(&mut table, &["other", "main"]);
    assert_eq!(table.stack_nodes().len(), 3);
    assert_ne!(a, b);
    assert_eq!(names_leaf_first(&table, a), ["leaf", "main"]);
    assert_eq!(stack(&mut table, &["leaf", "main"]), a);
}

#[test]
fn every_child_of_a_node_is_found_again() {
    let mut table = SymbolTable::new();
    let leaves = ["a", "b", "c"];
    let first: Vec<StackId> = leaves.iter().map(|leaf| stack(&mut table, &[leaf, "main"])).collect();
    let again: Vec<StackId> = leaves.iter().map(|leaf| stack(&mut table, &[leaf, "main"])).collect();
    assert_eq!(first, again);
    assert_eq!(table.stack_nodes().len(), 1 + leaves.len());
}

proptest! {
    #[test]
    fn a_path_leads_to_the_same_nodes_as_one_frame_after_the_other(
        stacks in prop::collection::vec((prop::collection::vec(0..3_u32, 0..6), 0..6_usize), 0..40),
    ) {
        let (mut by_path, mut by_frame) = (SymbolTable::new(), SymbolTable::new());
        let (mut path, mut expected) = (Vec::new(), Vec::new());
        for (callees, shared) in stacks {
            let callees: Vec<LocationId> = callees.into_iter().map(LocationId).collect();
            path.truncate(shared);
            by_path.intern_callees(&mut path, &callees);
            expected.truncate(shared);
            for location in callees {
                let parent = expected.last().copied();
                expected.push(by_frame.intern_stack_node(StackNode { parent, location }));
            }
            prop_assert_eq!(&path, &expected);
            prop_assert_eq!(by_path.stack_nodes(), by_frame.stack_nodes());
            prop_assert_eq!(&by_path.stacks.first_children, &by_frame.stacks.first_children);
        }
    }
}

#[test]
fn a_location_is_found_however_it_is_asked_for() {
    let mut table = SymbolTable::new();
    let lines = [Line { function: FunctionId(3), line: 7 }, Line { function: FunctionId(1), line: 0 }];
    let mut ids = Vec::new();
    for mapping in [None, Some(MappingId(0))] {
        for address in [0, 1 << 40] {
            for lines in [&lines[..], &lines[..1], &[]] {
                let id = table.intern_location_of(mapping, address, lines);
                let location = Location { mapping, address, lines: lines.into() };
                assert_eq!(*table.location(id), location);
                assert_eq!(table.intern_location(location), id);
                assert_eq!(table.intern_location_of(mapping, address, lines), id);
                ids.push(id);
            }
        }
    }
    assert_eq!(ids, (0..12).map(LocationId).collect::<Vec<_>>());
}

#[test]
fn merge_keeps_every_stack() {
    let mut left = SymbolTable::new();
    stack(&mut left, &["x", "main"]);
    let mut right = SymbolTable::new();
    let id = stack(&mut right, &["y", "x", "main"]);
    let remap = left.merge(&right);
    assert_eq!(names_leaf_first(&left, remap.stacks[id.index()]), ["y", "x", "main"]);
    assert_eq!(left.stack_nodes().len(), 3);
}
