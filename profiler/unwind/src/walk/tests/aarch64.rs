//! What is special about aarch64: the link register, pointers that authenticate themselves, and frame records at the lower
//! end of their frames.

use super::*;

#[test]
fn aarch64_leaves_by_the_link_register_and_strips_what_authenticates() {
    let tag = 0x0055_0000_0000_0000;
    let leaf_rule = Rule::new(Cfa::Sp(0), Saved::Same, Saved::Same);
    let framed = Rule::new(Cfa::Sp(32), Saved::AtCfa(-32), Saved::AtCfa(-24));
    let rows = [
        (0, leaf_rule),
        (0x100, framed),
        (0x200, Rule::new(Cfa::Fp(16), Saved::AtCfa(-16), RA)),
        (0x300, Rule::END),
    ];
    let memory = words(&[
        (SP, SP + 0x60),
        (SP + 8, (CODE + 0x201) | tag),
        (SP + 0x60, 0),
        (SP + 0x68, (CODE + 0x301) | tag),
    ]);
    let start = Start::leaf(Registers { ip: CODE | tag, sp: SP, fp: SP, lr: (CODE + 0x101) | tag });
    check_on(ARM, &rows, &start, &memory, (&[0, 0x101, 0x201, 0x301], Complete, 0));
    // Behind the leaf the link register is the callee's own.
    let rows = [(0, leaf_rule), (0x100, leaf_rule)];
    check_on(ARM, &rows, &start, &memory, (&[0, 0x101], BadFrame, 0));
    // On x86_64 there is none.
    check(&rows, &Start::leaf(Registers { ip: CODE, ..start.registers }), &memory, (&[0], BadFrame, 0));
}

#[test]
fn aarch64_signal_frames_give_the_link_register_back() {
    let rows =
        [(0, Rule::SIGNAL), (0x100, Rule::new(Cfa::Sp(0), Saved::Same, Saved::Same)), (0x200, Rule::END)];
    let mut memory = words(&(0..33).map(|number| (SP + 312 + 8 * number, 0)).collect::<Vec<_>>());
    memory.0.insert(SP + 312 + 8 * 30, CODE + 0x201);
    memory.0.insert(SP + 312 + 8 * 31, 0x1000);
    memory.0.insert(SP + 312 + 8 * 32, CODE + 0x100);
    check_on(ARM, &rows, &leaf(CODE, 0), &memory, (&[0, 0x101, 0x201], Complete, 0));
}

#[test]
fn aarch64_frame_pointers_do_not_tell_where_a_frame_ends() {
    let saves = Rule::new(Cfa::Sp(64), Saved::AtCfa(-64), Saved::AtCfa(-56));
    let lost = Rule::new(Cfa::Sp(32), Saved::Same, Saved::AtCfa(-8));
    let rows = [(0, Rule::NONE), (0x100, saves), (0x200, saves), (0x300, lost), (0x400, Rule::END)];
    // Frames are larger than FP and return address at their lower end. Behind 0x100 SP is known again, for that function
    // has saved FP: so that 0x300, which has not, is left by SP.
    let memory = words(&[
        (SP, SP + 0x30),
        (SP + 8, CODE + 0x101),
        (SP + 0x30, SP + 0x70),
        (SP + 0x38, CODE + 0x201),
        (SP + 0x70, 1),
        (SP + 0x78, CODE + 0x301),
        (SP + 0xc8, CODE + 0x401),
    ]);
    check_on(ARM, &rows, &leaf(CODE, SP), &memory, (&[0, 0x101, 0x201, 0x301, 0x401], Complete, 1));
    // Behind a step by FP no rule leads by SP, save where the caller's FP is in memory. FP is another frame's then.
    let none = [(0, Rule::NONE), (0x100, lost), (0x200, Rule::END)];
    let chain = words(&[(SP, SP + 0x30), (SP + 8, CODE + 0x101), (SP + 0x30, 0), (SP + 0x38, CODE + 0x201)]);
    check_on(ARM, &none, &leaf(CODE, SP), &chain, (&[0, 0x101], Unsupported, 1));
    let signal = [(0, Rule::NONE), (0x100, Rule::SIGNAL), (0x200, Rule::END)];
    check_on(ARM, &signal, &leaf(CODE, SP), &chain, (&[0, 0x101], Unsupported, 1));
}
