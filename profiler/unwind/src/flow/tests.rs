//! Functions as their bytes, and what must hold at each of their instructions.

use std::ops::Range;

use super::function::{Entry, Explorer, Gap, Piece};
use super::*;
use crate::rule::{Cfa, Saved};

const START: u64 = 0x1000;

fn explored(code: &[u8], end: Option<u64>) -> (Vec<Piece>, Vec<u64>) {
    explored_from(code, Entry { svma: START, end, is_hole: false })
}

fn explored_from(code: &[u8], entry: Entry) -> (Vec<Piece>, Vec<u64>) {
    let gap = Gap { start: START, bytes: code.to_vec() };
    let mut explorer = Explorer::new(1000);
    let mut pieces = Vec::new();
    explorer.explore(&gap, entry, &mut pieces);
    (pieces, explorer.callees)
}

/// Pieces as (offset of their first byte, rule), one behind the other.
#[track_caller]
fn check(code: &[u8], expect: &[(u64, Rule)]) {
    let end = START + code.len() as u64;
    let (pieces, _) = explored(code, Some(end));
    let ends = expect.iter().skip(1).map(|(at, _)| START + at).chain([end]);
    let expect: Vec<Piece> = expect
        .iter()
        .zip(ends)
        .map(|((at, rule), end)| Piece { code: START + at..end, rule: *rule })
        .collect();
    assert_eq!(pieces, expect);
}

/// Nothing is said of a function that cannot be followed.
#[track_caller]
fn check_refused(code: &[u8]) {
    let end = START + code.len() as u64;
    assert_eq!(explored(code, Some(end)).0, [Piece { code: START..end, rule: Rule::NONE }]);
}

fn sp(offset: i32) -> Rule {
    Rule::new(Cfa::Sp(offset), Saved::Same, Saved::AtCfa(-8))
}

fn sp_saved(offset: i32, fp: i16) -> Rule {
    Rule { fp: Saved::AtCfa(fp), ..sp(offset) }
}

fn fp_saved(offset: i32, fp: i16) -> Rule {
    Rule { cfa: Cfa::Fp(offset), ..sp_saved(0, fp) }
}

const RET: u8 = 0xc3;
const PUSH_RAX: u8 = 0x50;
const POP_RCX: u8 = 0x59;
const PUSH_RBP: u8 = 0x55;
const POP_RBP: u8 = 0x5d;
const MOV_RBP_RSP: [u8; 3] = [0x48, 0x89, 0xe5];
const LEAVE: u8 = 0xc9;
const CALL_FAR: [u8; 5] = [0xe8, 0, 0, 0x10, 0];

#[test]
fn the_main_that_rustc_makes() {
    let code = [&[PUSH_RAX][..], &CALL_FAR, &[POP_RCX, RET]].concat();
    check(&code, &[(0, sp(8)), (1, sp(16)), (7, sp(8))]);
}

#[test]
fn a_frame_pointer_is_followed_from_its_push_to_its_pop() {
    // push %rbp; mov %rsp,%rbp; sub $0x20,%rsp; xor %eax,%eax; leave; ret
    let code = [&[PUSH_RBP][..], &MOV_RBP_RSP, &[0x48, 0x83, 0xec, 0x20, 0x31, 0xc0, LEAVE, RET]].concat();
    check(&code, &[(0, sp(8)), (1, sp_saved(16, -16)), (4, fp_saved(16, -16)), (11, sp(8))]);
    // push %rbp; xor %ebp,%ebp; pop %rbp; ret
    check(&[PUSH_RBP, 0x31, 0xed, POP_RBP, RET], &[(0, sp(8)), (1, sp_saved(16, -16)), (4, sp(8))]);
    // mov %rbp,-0x10(%rsp); xor %ebp,%ebp; mov -0x10(%rsp),%rbp; ret
    let below = [0x48, 0x89, 0x6c, 0x24, 0xf0, 0x31, 0xed, 0x48, 0x8b, 0x6c, 0x24, 0xf0, RET];
    check(&below, &[(0, sp(8)), (5, sp_saved(8, -24)), (12, sp(8))]);
}

#[test]
fn a_stack_of_a_size_not_known_is_left_by_the_frame_pointer() {
    // push %rbp; mov %rsp,%rbp; sub %rdi,%rsp; and $-16,%rsp; leave; ret
    let code =
        [&[PUSH_RBP][..], &MOV_RBP_RSP, &[0x48, 0x29, 0xfc, 0x48, 0x83, 0xe4, 0xf0, LEAVE, RET]].concat();
    check(&code, &[(0, sp(8)), (1, sp_saved(16, -16)), (4, fp_saved(16, -16)), (12, sp(8))]);
    // Without one it cannot be left at all: sub %rdi,%rsp; add %rdi,%rsp; ret
    check_refused(&[0x48, 0x29, 0xfc, 0x48, 0x01, 0xfc, RET]);
}

#[test]
fn every_way_out_must_leave_the_stack_as_it_was() {
    check_refused(&[PUSH_RAX, RET]);
    check_refused(&[POP_RCX, RET]);
    // xor %ebp,%ebp; ret
    check_refused(&[0x31, 0xed, RET]);
    // ret $8
    check_refused(&[0xc2, 8, 0]);
    // push %rax; jmp out of the function, into code that has information
    check_refused(&[PUSH_RAX, 0xe9, 0, 0, 0x10, 0]);
    check(&[0xe9, 0, 0, 0x10, 0], &[(0, sp(8))]);
    // No instruction, and none at all behind the last one.
    check_refused(&[0x06]);
    check_refused(&[0x90]);
}

#[test]
fn ways_that_meet_must_agree() {
    // je +1; push %rax; pop %rcx; ret
    check_refused(&[0x74, 1, PUSH_RAX, POP_RCX, RET]);
    // je +2; push %rax; pop %rcx; ret
    check(&[0x74, 2, PUSH_RAX, POP_RCX, RET], &[(0, sp(8)), (3, sp(16)), (4, sp(8))]);
    // dec %edi; push %rax; pop %rcx; jne back; ret
    check(&[0xff, 0xcf, PUSH_RAX, POP_RCX, 0x75, 0xfa, RET], &[(0, sp(8)), (3, sp(16)), (4, sp(8))]);
}

#[test]
fn what_lies_behind_a_call_that_does_not_return_may_be_anything() {
    // je over; push %rax; call abort; over: ret
    let code = [&[0x74, 6, PUSH_RAX][..], &CALL_FAR, &[RET]].concat();
    check(&code, &[(0, sp(8)), (3, sp(16)), (8, sp(8))]);
}

#[test]
fn the_cases_of_a_switch_begin_as_it_ends() {
    // push %rax; jmp *(%rax); nop; pop %rcx; ret; pop %rcx; ret
    let code = [PUSH_RAX, 0xff, 0x20, 0x90, POP_RCX, RET, POP_RCX, RET];
    let piece = |code: Range<u64>, rule| Piece { code: START + code.start..START + code.end, rule };
    assert_eq!(
        explored(&code, Some(START + 8)).0,
        [
            piece(0..1, sp(8)),
            piece(1..3, sp(16)),
            piece(4..5, sp(16)),
            piece(5..6, sp(8)),
            piece(6..7, sp(16)),
            piece(7..8, sp(8))
        ]
    );
}

#[test]
fn a_jump_where_a_function_may_leave_may_be_a_call() {
    // xor %eax,%eax; jmp *%rax; and what only an exception leads to: jmp out of the function
    let landing = [0xe9, 0, 0, 0x10, 0];
    let call = [&[0x31, 0xc0, 0xff, 0xe0][..], &landing].concat();
    let piece = |end, rule| Piece { code: START..START + end, rule };
    assert_eq!(explored(&call, Some(START + 9)).0, [piece(4, sp(8))]);
    // add %rdx,%rax; jmp *%rax; a case: ret
    check(&[0x48, 0x01, 0xd0, 0xff, 0xe0, RET], &[(0, sp(8))]);
    // xor %eax,%eax; notrack jmp *%rax; a case: ret
    check(&[0x31, 0xc0, 0x3e, 0xff, 0xe0, RET], &[(0, sp(8))]);
}

#[test]
fn callees_without_information_are_functions_too() {
    // call +1; ret; ret
    let code = [0xe8, 1, 0, 0, 0, RET, RET];
    assert_eq!(explored(&code, Some(START + 6)).1, [START + 6]);
    // Unless the caller is none itself.
    assert_eq!(explored(&[0xe8, 1, 0, 0, 0, POP_RCX, RET], Some(START + 7)).1, []);
}

#[test]
fn an_end_that_is_not_known_is_found() {
    // ret; then padding and another function
    let (pieces, _) = explored(&[PUSH_RAX, POP_RCX, RET, 0x90, POP_RCX], None);
    assert_eq!(pieces.last(), Some(&Piece { code: START + 2..START + 3, rule: sp(8) }));
    // push %rax; call abort; nop
    let code = [&[PUSH_RAX][..], &CALL_FAR, &[0x90, 0x06]].concat();
    assert_eq!(explored(&code, None).0.last(), Some(&Piece { code: START + 1..START + 6, rule: sp(16) }));
}

#[test]
fn a_hole_must_return() {
    let check = |code: &[u8], rule| {
        let end = START + code.len() as u64;
        let (pieces, _) = explored_from(code, Entry { svma: START, end: Some(end), is_hole: true });
        assert_eq!(pieces, [Piece { code: START..end, rule }]);
    };
    // glibc's clone: syscall; test %rax,%rax; jl error; je thread; ret
    check(&[0x0f, 0x05, 0x48, 0x85, 0xc0, 0x7c, 0x13, 0x74, 0x01, RET], sp(8));
    // jmp out of it; call what does not return; pop %rcx; ret
    check(&[0xe9, 0, 0, 0x10, 0], Rule::NONE);
    check(&CALL_FAR, Rule::NONE);
    check(&[POP_RCX, RET], Rule::NONE);
}

#[test]
fn pieces_that_disagree_are_not_believed() {
    let piece = |code, rule| Piece { code, rule };
    let mut disjoint = Vec::new();
    for next in [
        piece(0..8, sp(8)),
        piece(4..10, sp(8)),
        piece(10..20, sp(16)),
        piece(12..24, sp(24)),
        piece(24..25, sp(8)),
    ] {
        add_disjoint(&mut disjoint, next);
    }
    assert_eq!(disjoint, [piece(0..10, sp(8)), piece(10..24, Rule::NONE), piece(24..25, sp(8))]);
}

#[test]
fn the_work_is_bounded() {
    let nops = vec![0x90; 4096];
    let gap = Gap { start: START, bytes: nops };
    let mut explorer = Explorer::new(100);
    let mut pieces = Vec::new();
    let entry = Entry { svma: START, end: Some(START + 4096), is_hole: false };
    explorer.explore(&gap, entry, &mut pieces);
    assert_eq!((explorer.budget, pieces.len()), (0, 1));
}
