//! Rows of Go functions on aarch64. A frame keeps the return address at its lowest word and the caller's x29 below that,
//! outside of what its delta counts; x29 then points to the latter:
//!
//! ```text
//! small frames                     large frames
//!   str x30, [sp, #-N]!              sub x20, sp, #N
//!   stur x29, [sp, #-8]              stp x29, x30, [x20, #-8]
//!   sub x29, sp, #8                  mov sp, x20
//!                                    sub x29, sp, #8
//! ```
//!
//! A function that makes its frame itself stores the pair by `stp x29, x30, [sp, #offset]`, if at all.

use super::frame::{Body, Prologue, Role, overrule_from, rows_by_role, split_rows};
use crate::rule::{Cfa, Rule, Saved};

const INSTRUCTION: u64 = 4;

/// Where a frame keeps the caller's registers, as seen from its lowest word.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    prologue: Prologue,
    /// From here on the return address is in the frame.
    linked_from: Option<u64>,
    x29: i32,
    x30: i32,
}

pub(super) fn rows(role: Role, body: &Body<'_>, rows: &mut Vec<(u64, Rule)>) {
    if rows_by_role(role, body, rows) {
        return;
    }
    let frame = frame(body);
    let has = |from: Option<u64>, at: u64| from.is_some_and(|from| at >= from);
    split_rows(body, frame.prologue, rows, |at, delta| {
        if delta == 0 {
            return Rule::new(Cfa::Sp(0), Saved::Same, Saved::Same);
        }
        let from_cfa = |from_sp: i32| i16::try_from(from_sp.wrapping_sub(delta)).map(Saved::AtCfa);
        let (Ok(x29), Ok(x30), true) = (from_cfa(frame.x29), from_cfa(frame.x30), delta > 0) else {
            return Rule::UNSUPPORTED;
        };
        let x30 = if has(frame.linked_from, at) { x30 } else { Saved::Same };
        let x29 = if has(frame.prologue.saved_from, at) { x29 } else { Saved::Same };
        if role == Role::Switches && has(frame.prologue.own_from, at) {
            return Rule::new(Cfa::FpSwitch(delta.saturating_sub(frame.x29)), x29, x30);
        }
        Rule::new(Cfa::Sp(delta), x29, x30)
    });
    if let Role::Leaves(rule) = role
        && let Some(at) = behind_stack_load(body)
    {
        overrule_from(body, at, rule, rows);
    }
}

fn frame(body: &Body<'_>) -> Frame {
    let Some(framed) = body.first_framed() else { return Frame::default() };
    let before = framed.checked_sub(INSTRUCTION).and_then(|at| instruction(body, at));
    let made = Frame { linked_from: Some(framed), x29: -8, x30: 0, ..Frame::default() };
    match before {
        // str x30, [sp, #-N]!
        Some(word) if word & 0xffe0_0fff == 0xf800_0ffe => {
            // stur x29, [sp, #-8]
            let saves = instruction(body, framed) == Some(0xf81f_83fd);
            let saved_from = saves.then_some(framed + INSTRUCTION);
            let own_from = saves.then_some(framed + 2 * INSTRUCTION);
            Frame { prologue: Prologue { saved_from, own_from }, ..made }
        }
        // mov sp, x20
        Some(0x9100_029f) => {
            let prologue = Prologue { saved_from: Some(framed), own_from: Some(framed + INSTRUCTION) };
            Frame { prologue, ..made }
        }
        _ => stored_pair(body, framed).unwrap_or_default(),
    }
}

/// A frame that stores the pair itself, within the first instructions after it was made.
fn stored_pair(body: &Body<'_>, framed: u64) -> Option<Frame> {
    let span_end = body.spans.iter().map(|(at, _)| *at).find(|at| *at > framed).unwrap_or(u64::MAX);
    let mut at = framed;
    while at < span_end {
        let word = instruction(body, at)?;
        at += INSTRUCTION;
        // stp x29, x30, [sp, #offset]
        if word & 0xffc0_7fff == 0xa900_7bfd {
            let offset = ((word >> 15 & 0x7f) as i32) << 25 >> 25;
            let prologue = Prologue { saved_from: Some(at), own_from: None };
            return Some(Frame { prologue, linked_from: Some(at), x29: 8 * offset, x30: 8 * offset + 8 });
        }
    }
    None
}

/// Behind the first instruction that sets the stack pointer from another register: mov sp, xN.
fn behind_stack_load(body: &Body<'_>) -> Option<u64> {
    let positions = (0..body.code.len() as u64).step_by(INSTRUCTION as usize);
    let mut loads = positions.filter(|at| {
        instruction(body, *at).is_some_and(|word| word & 0xffff_fc1f == 0x9100_001f && word >> 5 & 31 != 31)
    });
    loads.next().map(|at| at + INSTRUCTION)
}

fn instruction(body: &Body<'_>, at: u64) -> Option<u32> {
    Some(u32::from_le_bytes(*body.code_from(at).first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(role: Role, spans: &[(u64, i32)], words: &[u32], expect: &[(u64, Rule)]) {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut got = Vec::new();
        rows(role, &Body { start: 0x1000, spans, code: &code }, &mut got);
        got.dedup_by(|next, kept| next.1 == kept.1);
        assert_eq!(got, expect);
    }

    const LEAF: Rule = Rule::new(Cfa::Sp(0), Saved::Same, Saved::Same);

    #[test]
    fn a_small_frame_saves_the_return_address_first() {
        let words = [0xf81e_0ffe, 0xf81f_83fd, 0xd100_23fd];
        let linked = Rule::new(Cfa::Sp(32), Saved::Same, Saved::AtCfa(-32));
        let saved = Rule { fp: Saved::AtCfa(-40), ..linked };
        let start = [(0x1000, LEAF), (0x1004, linked), (0x1008, saved)];
        let spans = [(0, 0), (4, 32), (64, 0)];
        check(Role::Plain, &spans, &words, &[start[0], start[1], start[2], (0x1040, LEAF)]);
        let switched = (0x100c, Rule { cfa: Cfa::FpSwitch(40), ..saved });
        check(Role::Switches, &spans, &words, &[start[0], start[1], start[2], switched, (0x1040, LEAF)]);
    }

    #[test]
    fn a_large_frame_has_both_saved_before_it_is_made() {
        let words = [0xd110_03f4, 0xa93f_fa9d, 0x9100_029f, 0xd100_23fd];
        let saved = Rule::new(Cfa::Sp(1024), Saved::AtCfa(-1032), Saved::AtCfa(-1024));
        check(Role::Plain, &[(0, 0), (12, 1024)], &words, &[(0x1000, LEAF), (0x100c, saved)]);
        let too_large = [(0x1000, LEAF), (0x100c, Rule::UNSUPPORTED)];
        check(Role::Plain, &[(0, 0), (12, 1 << 16)], &words, &too_large);
    }

    #[test]
    fn a_frame_of_its_own_making_is_searched_for_the_pair() {
        // sub sp, sp, #192; mov x0, x0; stp x29, x30, [sp, #176]
        let words = [0xd103_03ff, 0xaa00_03e0, 0xa90b_7bfd];
        let made = Rule::new(Cfa::Sp(192), Saved::Same, Saved::Same);
        let saved = Rule::new(Cfa::Sp(192), Saved::AtCfa(-16), Saved::AtCfa(-8));
        check(Role::Plain, &[(0, 0), (4, 192)], &words, &[(0x1000, LEAF), (0x1004, made), (0x100c, saved)]);
    }

    #[test]
    fn a_stack_left_for_good_has_its_own_rule_from_there_on() {
        // mov x0, x1; mov sp, x0
        let words = [0xaa01_03e0, 0x9100_001f];
        check(Role::Leaves(Rule::END), &[(0, 0)], &words, &[(0x1000, LEAF), (0x1008, Rule::END)]);
    }
}
