//! Each case is a picture: rules by pc, words of memory by address, registers, and the frames they must give.

use std::collections::BTreeMap;

use proptest::prelude::*;
use pyrite_bpf::StackOutcome::{
    self, BadFrame, ChainEnd, Complete, CopyEnded, Fault, NoMapping, NoUnwindInfo, OverBudget, TooDeep,
    Unsupported,
};
use pyrite_bpf::abi::{
    PYRITE_TABLE_OVER_BUDGET, PYRITE_TABLE_PENDING, PYRITE_TABLE_READY, pyrite_executable, pyrite_stack_copy,
};
use pyrite_model::Avma;

use super::{Machine, MappedCode, Pending, Registers, StackCopy, StackMemory, Start, Walked, Walker};
use crate::lookup::{CHUNK_BYTES, Chunk, Tables};
use crate::rule::{Cfa, Rule, Run, Saved};

mod aarch64;

const ARM: Machine = Machine::Aarch64 { address_tag_mask: 0xff7f_0000_0000_0000 };
/// Where the code of every test is mapped: pc 0 of executable 1.
const CODE: u64 = 0x40_0000;
const CODE_BYTES: u64 = 0x1_0000;
/// Mapped as code without a file.
const JIT: u64 = 0x80_0000;
/// Where the stack begins.
const SP: u64 = 0x7000;

/// One executable whose rows all lie in one leaf.
struct Picture {
    state: u32,
    rules: Vec<Rule>,
    leaf: Chunk,
}

impl Picture {
    fn new(rows: &[(u16, Rule)]) -> Self {
        let mut leaf = [0xff; CHUNK_BYTES];
        for (index, ((pc, _), slot)) in rows.iter().zip(leaf.chunks_exact_mut(4)).enumerate() {
            slot[..2].copy_from_slice(&pc.to_le_bytes());
            slot[2..].copy_from_slice(&(index as u16 + 1).to_le_bytes());
        }
        let rules = std::iter::once(Rule::NONE).chain(rows.iter().map(|(_, rule)| *rule)).collect();
        Self { state: PYRITE_TABLE_READY, rules, leaf }
    }
}

impl Tables for Picture {
    fn chunk(&self, id: u32) -> Option<&Chunk> {
        (id == 7).then_some(&self.leaf)
    }

    fn executable(&self, index: u32) -> Option<pyrite_executable> {
        (index == 1).then_some(pyrite_executable {
            root: 7,
            first_pc: 0,
            depth: 0,
            state: self.state as u8,
            reserved: [0; 6],
        })
    }

    fn rule(&self, id: u16) -> Option<Rule> {
        self.rules.get(usize::from(id)).copied()
    }
}

#[derive(Default)]
struct Words(BTreeMap<u64, u64>);

impl StackMemory for Words {
    fn read_u64(&self, avma: Avma) -> Option<u64> {
        self.0.get(&avma.0).copied()
    }
}

fn words(pairs: &[(u64, u64)]) -> Words {
    Words(pairs.iter().copied().collect())
}

fn mapping(avma: Avma) -> Option<MappedCode> {
    match avma.0 {
        CODE..0x41_0000 => Some(MappedCode { executable: 1, bias: CODE }),
        JIT..0x81_0000 => Some(MappedCode { executable: 0, bias: 0 }),
        _ => None,
    }
}

fn walk(
    machine: Machine,
    tables: &impl Tables,
    start: &Start,
    memory: &impl StackMemory,
) -> (Vec<u64>, Walked) {
    let mut frames = Vec::new();
    let walked = Walker { machine, tables, mappings: &mapping, memory, limit: 8 }.walk(start, &mut frames);
    (frames.into_iter().map(|Avma(ip)| ip).collect(), walked)
}

fn leaf(ip: u64, fp: u64) -> Start {
    Start::leaf(Registers { ip, sp: SP, fp, lr: 0 })
}

/// Frames are given relative to `CODE`.
#[track_caller]
fn check_on(
    machine: Machine,
    rows: &[(u16, Rule)],
    start: &Start,
    memory: &Words,
    expect: (&[u64], StackOutcome, u16),
) {
    let (frames, walked) = walk(machine, &Picture::new(rows), start, memory);
    let relative: Vec<u64> = frames.iter().map(|ip| ip.wrapping_sub(CODE)).collect();
    assert_eq!((relative.as_slice(), walked.outcome, walked.frame_pointer_frames), expect);
}

#[track_caller]
fn check(rows: &[(u16, Rule)], start: &Start, memory: &Words, expect: (&[u64], StackOutcome, u16)) {
    check_on(Machine::X86_64, rows, start, memory, expect);
}

const RA: Saved = Saved::AtCfa(-8);

fn sp_rule(offset: i32) -> Rule {
    Rule::new(Cfa::Sp(offset), Saved::Same, RA)
}

#[test]
fn a_chain_by_the_stack_pointer_ends_where_the_table_says_so() {
    let rows = [(0, sp_rule(8)), (0x100, sp_rule(24)), (0x200, Rule::END)];
    let memory = words(&[(SP, CODE + 0x150), (SP + 24, CODE + 0x210)]);
    check(&rows, &leaf(CODE + 0x10, 0), &memory, (&[0x10, 0x150, 0x210], Complete, 0));
}

#[test]
fn a_return_address_belongs_to_the_call_before_it() {
    // The call is the last instruction of its function, so the address behind it is already the next one's.
    let rows = [(0, sp_rule(8)), (0x100, sp_rule(16)), (0x200, Rule::END), (0x300, Rule::UNSUPPORTED)];
    let memory = words(&[(SP, CODE + 0x200), (SP + 16, CODE + 0x300)]);
    check(&rows, &leaf(CODE, 0), &memory, (&[0, 0x200, 0x300], Complete, 0));
}

#[test]
fn runs_of_pushes_and_pops_move_the_cfa_byte_by_byte() {
    let run = Run { pushes: 0b101, pop: false, fp_from: 1 };
    let push = Rule { run, ..Rule::new(Cfa::Sp(8), Saved::AtCfa(-16), RA) };
    let pop = Rule { run: Run { pushes: 1, pop: true, fp_from: 0 }, ..sp_rule(16) };
    let rows = [(0, push), (0x80, pop), (0x100, Rule::END)];
    let end = CODE + 0x101;
    check(&rows, &leaf(CODE, 0), &words(&[(SP, end)]), (&[0, 0x101], Complete, 0));
    check(&rows, &leaf(CODE + 1, 0), &words(&[(SP, 0), (SP + 8, end)]), (&[1, 0x101], Complete, 0));
    check(&rows, &leaf(CODE + 3, 0), &words(&[(SP + 8, 0), (SP + 16, end)]), (&[3, 0x101], Complete, 0));
    check(
        &rows,
        &leaf(CODE + 0x7f, 0),
        &words(&[(SP + 8, 0), (SP + 16, end)]),
        (&[0x7f, 0x101], Complete, 0),
    );
    check(&rows, &leaf(CODE + 0x80, 0), &words(&[(SP + 8, end)]), (&[0x80, 0x101], Complete, 0));
    check(&rows, &leaf(CODE + 0x81, 0), &words(&[(SP, end)]), (&[0x81, 0x101], Complete, 0));
}

#[test]
fn the_frame_pointer_is_carried_saved_and_restored() {
    let saves = Rule::new(Cfa::Sp(16), Saved::AtCfa(-16), RA);
    let by_fp = Rule::new(Cfa::Fp(16), Saved::AtCfa(-16), RA);
    let rows = [(0, saves), (0x100, sp_rule(8)), (0x200, by_fp), (0x300, Rule::END)];
    let memory = words(&[
        (SP, SP + 0x80), // the leaf's caller's FP
        (SP + 8, CODE + 0x101),
        (SP + 16, CODE + 0x201),
        (SP + 0x80, 0),
        (SP + 0x88, CODE + 0x301),
    ]);
    check(&rows, &leaf(CODE, 1), &memory, (&[0, 0x101, 0x201, 0x301], Complete, 0));
}

#[test]
fn a_realigned_frame_is_left_through_memory() {
    // lea 8(%rsp),%r10 … push %r10: CFA = *(rbp - 8), rbp saved where rbp points.
    let realigned = Rule::new(Cfa::FpDeref { offset: -8, add: 0 }, Saved::AtFp(0), RA);
    let loaded = Rule::new(Cfa::SpDeref { offset: 32, add: 8 }, Saved::Same, RA);
    let by_fp = Rule::new(Cfa::Fp(16), Saved::AtCfa(-16), RA);
    let rows = [(0, realigned), (0x100, loaded), (0x200, by_fp), (0x300, Rule::END)];
    let cfa = SP + 0x60;
    let memory = words(&[
        (SP + 0x30, SP + 0x200),
        (SP + 0x28, cfa),
        (cfa - 8, CODE + 0x101),
        (cfa + 32, SP + 0x100),
        (SP + 0x100, CODE + 0x201),
        (SP + 0x200, 0),
        (SP + 0x208, CODE + 0x301),
    ]);
    check(&rows, &leaf(CODE, SP + 0x30), &memory, (&[0, 0x101, 0x201, 0x301], Complete, 0));
}

#[test]
fn other_registers_are_known_at_the_leaf_only() {
    let by_rax = Rule::new(Cfa::Register { register: 0, offset: 8 }, Saved::Same, RA);
    let by_r11 = Rule::new(Cfa::RegisterDeref { register: 11, offset: 16, add: 24 }, Saved::Same, RA);
    let rows = [(0, by_rax), (0x100, by_r11), (0x200, Rule::END)];
    let mut all = [0; Registers::COUNT];
    (all[0], all[11]) = (SP + 0x40, SP + 0x80);
    let memory = words(&[(SP + 0x40, CODE + 0x201), (SP + 0x90, SP + 0x20), (SP + 0x30, CODE + 0x202)]);
    let start = |ip| Start { all: Some(all), ..leaf(ip, 0) };
    check(&rows, &start(CODE), &memory, (&[0, 0x201], Complete, 0));
    check(&rows, &start(CODE + 0x100), &memory, (&[0x100, 0x202], Complete, 0));
    check(&rows, &leaf(CODE, 0), &memory, (&[0], Unsupported, 0));
    let memory = words(&[(SP + 0x40, CODE + 0x101)]);
    check(&rows, &start(CODE), &memory, (&[0, 0x101], ChainEnd, 0));
}

#[test]
fn a_plt_entry_pushes_at_its_own_byte() {
    let plt = |pushed_from| Rule::new(Cfa::Plt { pushed_from }, Saved::Same, RA);
    let rows = [(0, plt(11)), (0x100, plt(9)), (0x200, Rule::END)];
    let before = words(&[(SP, CODE + 0x201)]);
    let behind = words(&[(SP, 3), (SP + 8, CODE + 0x201)]);
    for (at, memory) in [(0x3a, &before), (0x3b, &behind), (0x3f, &behind), (0x40, &before), (0x138, &before)]
    {
        check(&rows, &leaf(CODE + at, 0), memory, (&[at, 0x201], Complete, 0));
    }
    check(&rows, &leaf(CODE + 0x139, 0), &behind, (&[0x139, 0x201], Complete, 0));
}

#[test]
fn a_signal_frame_gives_back_all_registers_wherever_the_stack_was() {
    // The handler runs on a stack above the interrupted one; the interrupted function's CFA is in r9 and its FP counts.
    let by_r9 = Rule::new(Cfa::Register { register: 9, offset: 16 }, Saved::Same, RA);
    let by_fp = Rule::new(Cfa::Fp(16), Saved::AtCfa(-16), RA);
    let rows = [(0, sp_rule(8)), (0xff, Rule::SIGNAL), (0x110, by_r9), (0x200, by_fp), (0x300, Rule::END)];
    let uc = SP + 8;
    let memory = words(
        &[(SP, CODE + 0x100), (0x2028, CODE + 0x201), (0x2100, 0), (0x2108, CODE + 0x301)]
            .into_iter()
            .chain((40..168).step_by(8).map(|offset| (uc + offset, 0)))
            .chain([(uc + 168, CODE + 0x110), (uc + 160, 0x2000), (uc + 120, 0x2100), (uc + 48, 0x2020)])
            .collect::<Vec<_>>(),
    );
    // 0x110 is the first byte of its row: were it taken for a return address, the trampoline's rule would hold. No call
    // comes before the trampoline nor before it, so both are told one byte further.
    check(&rows, &leaf(CODE, 0), &memory, (&[0, 0x101, 0x111, 0x201, 0x301], Complete, 0));
}

#[test]
fn an_unreadable_or_empty_signal_frame_ends_the_walk() {
    let rows = [(0, Rule::SIGNAL)];
    check(&rows, &leaf(CODE, SP + 8), &words(&[]), (&[0], Fault, 0));
    let zeros = (40..=168).step_by(8).map(|offset| (SP + offset, 0)).collect::<Vec<_>>();
    check(&rows, &leaf(CODE, 0), &words(&zeros), (&[0], ChainEnd, 0));
}

#[test]
fn a_return_address_in_a_register_is_followed_where_registers_are_known() {
    // As in vfork: the return address was popped into rdi, and the CFA is SP.
    let by_rdi = Rule::new(Cfa::ReturnRegister { register: 5, offset: 0 }, Saved::Same, Saved::Same);
    let (rows, memory) = ([(0, by_rdi), (0x100, Rule::END)], words(&[]));
    let mut all = [0; Registers::COUNT];
    all[5] = CODE + 0x101;
    let known = Start { all: Some(all), ..leaf(CODE + 8, 0) };
    check(&rows, &known, &memory, (&[8, 0x101], Complete, 0));
    check(&rows, &leaf(CODE + 8, 0), &memory, (&[8], Unsupported, 0));
    for offset in [4, -8] {
        let bad = [(0, Rule { cfa: Cfa::ReturnRegister { register: 5, offset }, ..by_rdi })];
        check(&bad, &known, &memory, (&[8], BadFrame, 0));
    }
}

#[test]
fn a_switched_stack_may_lie_below() {
    let back = Rule::new(Cfa::FpSwitch(16), Saved::AtCfa(-16), RA);
    let rows = [
        (0, sp_rule(8)),
        (0x100, back),
        (0x200, Rule::new(Cfa::Fp(16), Saved::AtCfa(-16), RA)),
        (0x300, Rule::END),
    ];
    let memory = words(&[
        (SP, CODE + 0x101),
        (0x100, 0x180),
        (0x108, CODE + 0x201),
        (0x180, 0),
        (0x188, CODE + 0x301),
    ]);
    check(&rows, &leaf(CODE, 0x100), &memory, (&[0, 0x101, 0x201, 0x301], Complete, 0));
    let rows = [(0, sp_rule(8)), (0x100, Rule { cfa: Cfa::Fp(16), ..back })];
    check(&rows, &leaf(CODE, 0x100), &memory, (&[0, 0x101], BadFrame, 0));
}

#[test]
fn frames_that_do_not_grow_or_are_askew_are_bad() {
    let none = words(&[]);
    let fp = |offset| [(0, Rule::new(Cfa::Fp(offset), Saved::Same, RA))];
    check(&fp(16), &leaf(CODE, SP - 16), &none, (&[0], BadFrame, 0));
    check(&fp(16), &leaf(CODE, SP - 8), &none, (&[0], Fault, 0));
    check(&fp(20), &leaf(CODE, SP), &none, (&[0], BadFrame, 0));
    check(&[(0, sp_rule(0))], &leaf(CODE, SP), &none, (&[0], BadFrame, 0));
    check(&[(0, sp_rule(-8))], &leaf(CODE, SP), &none, (&[0], BadFrame, 0));
    for ra in [Saved::Same, Saved::Unknown, Saved::AtFp(0)] {
        check(&[(0, Rule::new(Cfa::Sp(8), Saved::Same, ra))], &leaf(CODE, SP), &none, (&[0], BadFrame, 0));
    }
}

#[test]
fn a_lost_frame_pointer_is_not_followed() {
    let loses = Rule::new(Cfa::Sp(8), Saved::Unknown, RA);
    let memory = words(&[(SP, CODE + 0x101), (SP + 0x20, 0), (SP + 0x28, CODE + 0x201)]);
    for (rule, outcome) in [
        (Rule::NONE, NoUnwindInfo),
        (Rule::UNSUPPORTED, Unsupported),
        (Rule::new(Cfa::Fp(16), Saved::Same, RA), BadFrame),
        (Rule::new(Cfa::FpSwitch(16), Saved::Same, RA), BadFrame),
    ] {
        check(&[(0, loses), (0x100, rule)], &leaf(CODE, SP + 0x20), &memory, (&[0, 0x101], outcome, 0));
    }
}

#[test]
fn a_saved_frame_pointer_that_cannot_be_read_is_a_fault() {
    let rows = [(0, Rule::new(Cfa::Sp(16), Saved::AtCfa(-16), RA))];
    check(&rows, &leaf(CODE, 0), &words(&[(SP + 8, CODE)]), (&[0], Fault, 0));
}

#[test]
fn without_a_rule_the_frame_pointer_goes_on_and_is_counted() {
    let rows = [
        (0, Rule::NONE),
        (0x100, Rule::UNSUPPORTED),
        (0x200, Rule::FRAME_POINTER),
        (0x300, sp_rule(8)),
        (0x400, Rule::END),
    ];
    let memory = words(&[
        (SP, SP + 0x20),
        (SP + 8, CODE + 0x101),
        (SP + 0x20, SP + 0x40),
        (SP + 0x28, JIT + 8),
        (SP + 0x40, SP + 0x60),
        (SP + 0x48, CODE + 0x201),
        (SP + 0x60, 0x55), // a caller that uses FP for something else
        (SP + 0x68, CODE + 0x301),
        (SP + 0x70, CODE + 0x401),
    ]);
    let frames = [0, 0x101, JIT + 8 - CODE, 0x201, 0x301, 0x401];
    check(&rows, &leaf(CODE, SP), &memory, (&frames, Complete, 4));
}

#[test]
fn what_lies_behind_no_code_is_no_return_address() {
    let none = [(0, Rule::NONE)];
    for (number, is_code) in [(0x66_6666, false), (CODE, false), (CODE + 1, true), (JIT + CODE_BYTES, true)] {
        let memory = words(&[(SP, 0x55), (SP + 8, number)]);
        let frames = [0, number.wrapping_sub(CODE)];
        let frames = if is_code { &frames[..] } else { &frames[..1] };
        check(&none, &leaf(CODE, SP), &memory, (frames, NoUnwindInfo, u16::from(is_code)));
    }
}

#[test]
fn an_insane_frame_pointer_leaves_the_reason() {
    let memory = words(&[(SP, 0), (SP + 8, CODE + 1), (SP + 0x10, 0), (SP + 0x20, 0), (SP + 0x28, 0)]);
    let none = [(0, Rule::NONE)];
    for fp in [0, 1, SP - 8, SP + 4, SP + 0x10, SP + 0x5000, u64::MAX - 7] {
        check(&none, &leaf(CODE, fp), &memory, (&[0], NoUnwindInfo, 0));
    }
    check(&none, &leaf(CODE, SP + 0x20), &memory, (&[0], ChainEnd, 0));
    check(&none, &leaf(CODE, SP), &memory, (&[0, 1], ChainEnd, 1));
    let wild = Start::leaf(Registers { ip: 8, sp: SP, fp: 1, lr: 0 });
    check(&none, &wild, &memory, (&[8_u64.wrapping_sub(CODE)], NoMapping, 0));
    check(&none, &leaf(JIT, 1), &memory, (&[JIT - CODE], NoUnwindInfo, 0));
    check(&[(0, Rule::UNSUPPORTED)], &leaf(CODE, 1), &memory, (&[0], Unsupported, 0));
}

#[test]
fn tables_that_are_not_ready_say_so() {
    for (state, outcome) in
        [(PYRITE_TABLE_OVER_BUDGET, OverBudget), (PYRITE_TABLE_PENDING, NoUnwindInfo), (99, NoUnwindInfo)]
    {
        let tables = Picture { state, ..Picture::new(&[(0, sp_rule(8))]) };
        let (frames, walked) = walk(Machine::X86_64, &tables, &leaf(CODE, 1), &words(&[(SP, CODE)]));
        assert_eq!((frames, walked.outcome), (vec![CODE], outcome));
    }
}

#[test]
fn a_walk_tells_what_it_knew_before_it_met_a_table_in_the_making() {
    let tables = Picture { state: PYRITE_TABLE_PENDING, ..Picture::new(&[(0, sp_rule(8))]) };
    let memory = words(&[(SP, SP + 0x10), (SP + 8, CODE + 0x10), (SP + 0x10, 0), (SP + 0x18, CODE + 0x20)]);
    let (frames, walked) = walk(Machine::X86_64, &tables, &leaf(JIT, SP), &memory);
    assert_eq!((frames, walked.outcome), (vec![JIT, CODE + 0x10, CODE + 0x20], ChainEnd));
    assert_eq!(walked.pending, Some(Pending { executable: 1, frames: 2, frame_pointer_frames: 1 }));
    let ready = Picture { state: PYRITE_TABLE_READY, ..tables };
    assert_eq!(walk(Machine::X86_64, &ready, &leaf(JIT, SP), &memory).1.pending, None);
}

#[test]
fn a_stack_deeper_than_the_limit_is_cut_there() {
    let memory = words(&(0..64).map(|at| (SP + 8 * at, CODE + 1)).collect::<Vec<_>>());
    check(&[(0, sp_rule(8))], &leaf(CODE, 0), &memory, (&[0, 1, 1, 1, 1, 1, 1, 1], TooDeep, 0));
    // The last frame that has room may be the outermost one.
    let mut exact = words(&(0..6).map(|at| (SP + 8 * at, CODE + 1)).collect::<Vec<_>>());
    exact.0.insert(SP + 48, CODE + 0x101);
    let rows = [(0, sp_rule(8)), (0x100, Rule::END)];
    check(&rows, &leaf(CODE, 0), &exact, (&[0, 1, 1, 1, 1, 1, 1, 0x101], Complete, 0));
}

#[test]
fn a_copied_stack_goes_on_where_the_kernel_stopped() {
    let rows = [(0, sp_rule(8)), (0xff, sp_rule(16)), (0x200, Rule::END)];
    let tables = Picture::new(&rows);
    let mut bytes = Vec::new();
    for word in [0, CODE + 0x180, 0, CODE + 0x201] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let mut copy = pyrite_stack_copy { ip: CODE + 0x100, frames_before: 2, ..Default::default() };
    copy.registers[7] = SP;
    let start = Start::from_copy(&copy, Machine::X86_64);
    assert!(!start.exact);
    let before = vec![Avma(1), Avma(2)];
    let run = |bytes: &[u8]| {
        let memory = StackCopy::new(Avma(SP), bytes);
        let mut frames = before.clone();
        let unwinder = Walker {
            machine: Machine::X86_64,
            tables: &tables,
            mappings: &mapping,
            memory: &memory,
            limit: 8,
        };
        let walked = unwinder.walk(&start, &mut frames);
        (frames.into_iter().map(|Avma(ip)| ip).collect::<Vec<_>>(), walked.outcome)
    };
    let all = vec![1, 2, CODE + 0x100, CODE + 0x180, CODE + 0x201];
    assert_eq!(run(&bytes), (all.clone(), Complete));
    assert_eq!(run(&bytes[..31]), (all[..4].to_vec(), CopyEnded));
    copy.all_registers = 1;
    assert!(Start::from_copy(&copy, Machine::X86_64).exact);
    (copy.all_registers, copy.frames_before) = (0, 0);
    assert!(Start::from_copy(&copy, Machine::X86_64).exact);
}

/// Answers every read with something that depends on the address alone.
struct Noise(u64);

impl StackMemory for Noise {
    fn read_u64(&self, avma: Avma) -> Option<u64> {
        let mixed = (avma.0 ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        match mixed % 8 {
            0 => None,
            1 => Some(mixed),
            2..=4 => Some(CODE + mixed % CODE_BYTES),
            _ => Some(avma.0.wrapping_add((mixed % 512) & !7)),
        }
    }
}

proptest! {
    #[test]
    fn no_registers_memory_or_rules_make_it_panic_or_run_on(
        rules in prop::collection::vec(crate::rule::tests::any_rule(), 1..40),
        seed: u64,
        ip in prop_oneof![CODE..CODE + CODE_BYTES, any::<u64>()],
        sp in prop_oneof![Just(SP), any::<u64>()],
        fp in prop_oneof![Just(SP + 64), any::<u64>()],
        lr: u64,
        all in any::<Option<[u64; 32]>>(),
        exact: bool,
        sp_lost: bool,
        arm: bool,
        limit in 0..1100_usize,
    ) {
        let rows: Vec<(u16, Rule)> = rules.iter().enumerate().map(|(at, rule)| (at as u16 * 1500, *rule)).collect();
        let start = Start { registers: Registers { ip, sp, fp, lr }, all, exact, sp_lost };
        let machine = if arm { ARM } else { Machine::X86_64 };
        let tables = Picture::new(&rows);
        let unwinder = Walker { machine, tables: &tables, mappings: &mapping, memory: &Noise(seed), limit };
        let mut frames = Vec::new();
        let walked = unwinder.walk(&start, &mut frames);
        prop_assert!(frames.len() <= limit);
        prop_assert!(walked.outcome != TooDeep || frames.len() == limit);
        prop_assert!(usize::from(walked.frame_pointer_frames) <= frames.len());
        prop_assert!(frames.iter().skip(1).all(|frame| frame.0 != 0));
    }
}
