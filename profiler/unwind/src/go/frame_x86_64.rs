//! Rows of Go functions on `x86_64`. The return address lies at CFA - 8 everywhere, the caller's rbp at CFA - 16:
//!
//! ```text
//! Go 1.21 and later                up to Go 1.20
//!   push %rbp                        sub  $N+8, %rsp
//!   mov  %rsp, %rbp                  mov  %rbp, N(%rsp)
//!   sub  $N, %rsp                    lea  N(%rsp), %rbp
//! ```

use super::frame::{Body, Prologue, Role, overrule_from, rows_by_role, split_rows};
use crate::rule::{Cfa, Rule, Saved};

const RETURN_ADDRESS: Saved = Saved::AtCfa(-8);
const FRAME_POINTER: Saved = Saved::AtCfa(-16);

pub(super) fn rows(role: Role, body: &Body<'_>, rows: &mut Vec<(u64, Rule)>) {
    if rows_by_role(role, body, rows) {
        return;
    }
    let prologue = prologue(body);
    let has = |from: Option<u64>, at: u64| from.is_some_and(|from| at >= from);
    split_rows(body, prologue, rows, |at, delta| {
        if delta < 0 {
            return Rule::UNSUPPORTED;
        }
        let by_sp = Cfa::Sp(delta.saturating_add(8));
        if delta == 0 || !has(prologue.saved_from, at) {
            Rule::new(by_sp, Saved::Same, RETURN_ADDRESS)
        } else if role == Role::Switches && has(prologue.own_from, at) {
            Rule::new(Cfa::FpSwitch(16), FRAME_POINTER, RETURN_ADDRESS)
        } else {
            Rule::new(by_sp, FRAME_POINTER, RETURN_ADDRESS)
        }
    });
    if let Role::Leaves(rule) = role
        && let Some(at) = behind_stack_load(body.code)
    {
        overrule_from(body, at, rule, rows);
    }
}

fn prologue(body: &Body<'_>) -> Prologue {
    let Some(framed) = body.first_framed() else { return Prologue::default() };
    let code = body.code_from(framed);
    let pushed = framed.checked_sub(1).and_then(|at| body.code_from(at).first()) == Some(&0x55);
    if pushed {
        let own = code.starts_with(&[0x48, 0x89, 0xe5]).then_some(framed + 3);
        return Prologue { saved_from: Some(framed), own_from: own };
    }
    // mov %rbp, N(%rsp) with a displacement of one byte or four.
    let stored = match code {
        [0x48, 0x89, 0x6c, 0x24, ..] => 5,
        [0x48, 0x89, 0xac, 0x24, ..] => 8,
        _ => return Prologue::default(),
    };
    let own = match code.get(stored as usize..) {
        Some([0x48, 0x8d, 0x6c, 0x24, ..]) => Some(framed + stored + 5),
        Some([0x48, 0x8d, 0xac, 0x24, ..]) => Some(framed + stored + 8),
        _ => None,
    };
    Prologue { saved_from: Some(framed + stored), own_from: own }
}

/// Behind the first instruction that sets the stack pointer from memory or another register.
fn behind_stack_load(code: &[u8]) -> Option<u64> {
    let length = |at: usize| match code[at..] {
        // mov (%reg), %rsp and mov disp(%reg), %rsp
        [0x48 | 0x49, 0x8b, modrm, ..] if modrm & 0xf8 == 0x20 && !matches!(modrm & 7, 4 | 5) => Some(3),
        [0x48 | 0x49, 0x8b, modrm, ..] if modrm & 0xf8 == 0x60 && modrm & 7 != 4 => Some(4),
        [0x48 | 0x49, 0x8b, modrm, ..] if modrm & 0xf8 == 0xa0 && modrm & 7 != 4 => Some(7),
        // mov %reg, %rsp
        [0x48 | 0x4c, 0x89, modrm, ..] if modrm & 0xc7 == 0xc4 && modrm != 0xe4 => Some(3),
        _ => None,
    };
    (0..code.len()).find_map(|at| length(at).map(|length| (at + length) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(role: Role, spans: &[(u64, i32)], code: &[u8], expect: &[(u64, Rule)]) {
        let mut got = Vec::new();
        rows(role, &Body { start: 0x1000, spans, code }, &mut got);
        got.dedup_by(|next, kept| next.1 == kept.1);
        assert_eq!(got, expect);
    }

    fn by_sp(offset: i32, fp: Saved) -> Rule {
        Rule::new(Cfa::Sp(offset), fp, RETURN_ADDRESS)
    }

    const SWITCHED: Rule = Rule::new(Cfa::FpSwitch(16), FRAME_POINTER, RETURN_ADDRESS);
    /// cmp 0x10(%r14),%rsp; jbe; push %rbp; mov %rsp,%rbp; sub $0x20,%rsp
    const PUSHES: [u8; 14] =
        [0x49, 0x3b, 0x66, 0x10, 0x76, 0x30, 0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20];
    /// sub $0x28,%rsp; mov %rbp,0x20(%rsp); lea 0x20(%rsp),%rbp
    const STORES: [u8; 14] =
        [0x48, 0x83, 0xec, 0x28, 0x48, 0x89, 0x6c, 0x24, 0x20, 0x48, 0x8d, 0x6c, 0x24, 0x20];

    #[test]
    fn a_pushed_frame_pointer_is_saved_at_once() {
        let spans = [(0, 0), (7, 8), (14, 40), (60, 8), (61, 0)];
        let saved = |offset| by_sp(offset, FRAME_POINTER);
        let expect = [
            (0x1000, by_sp(8, Saved::Same)),
            (0x1007, saved(16)),
            (0x100e, saved(48)),
            (0x103c, saved(16)),
            (0x103d, by_sp(8, Saved::Same)),
        ];
        check(Role::Plain, &spans, &PUSHES, &expect);
        let expect = [
            (0x1000, by_sp(8, Saved::Same)),
            (0x1007, saved(16)),
            (0x100a, SWITCHED),
            (0x103d, by_sp(8, Saved::Same)),
        ];
        check(Role::Switches, &spans, &PUSHES, &expect);
        let without_locals = [(0, 0), (7, 8), (61, 0)];
        let expect = [
            (0x1000, by_sp(8, Saved::Same)),
            (0x1007, saved(16)),
            (0x100a, SWITCHED),
            (0x103d, by_sp(8, Saved::Same)),
        ];
        check(Role::Switches, &without_locals, &PUSHES, &expect);
    }

    #[test]
    fn a_stored_frame_pointer_is_saved_an_instruction_later() {
        let spans = [(0, 0), (4, 40), (60, 0)];
        let before = [(0x1000, by_sp(8, Saved::Same)), (0x1004, by_sp(48, Saved::Same))];
        let saved = (0x1009, by_sp(48, FRAME_POINTER));
        let end = (0x103c, by_sp(8, Saved::Same));
        check(Role::Plain, &spans, &STORES, &[before[0], before[1], saved, end]);
        check(Role::Switches, &spans, &STORES, &[before[0], before[1], saved, (0x100e, SWITCHED), end]);
    }

    #[test]
    fn a_frame_without_a_frame_pointer_leaves_it_alone() {
        let spans = [(0, 0), (4, 24), (60, 0)];
        let none = |offset| by_sp(offset, Saved::Same);
        check(
            Role::Plain,
            &spans,
            &[0x48, 0x83, 0xec, 0x18, 0xc3],
            &[(0x1000, none(8)), (0x1004, none(32)), (0x103c, none(8))],
        );
        check(Role::Switches, &spans, &[], &[(0x1000, none(8)), (0x1004, none(32)), (0x103c, none(8))]);
        check(Role::Plain, &[(0, 0), (4, -8)], &[], &[(0x1000, none(8)), (0x1004, Rule::UNSUPPORTED)]);
    }

    #[test]
    fn a_stack_left_for_good_has_its_own_rule_from_there_on() {
        // mov (%r14),%rbx; mov 0x38(%r14),%rsp; push %rax; call *%r12
        let code = [0x49, 0x8b, 0x1e, 0x49, 0x8b, 0x66, 0x38, 0x50, 0x41, 0xff, 0xd4];
        let expect = [(0x1000, by_sp(8, Saved::Same)), (0x1007, Rule::END)];
        check(Role::Leaves(Rule::END), &[(0, 0), (8, 8), (40, 0)], &code, &expect);
        // mov %rbx,%rsp
        check(
            Role::Leaves(Rule::END),
            &[(0, 0)],
            &[0x48, 0x89, 0xdc],
            &[(0x1000, by_sp(8, Saved::Same)), (0x1003, Rule::END)],
        );
        // mov (%rbx),%rsp
        check(
            Role::Leaves(Rule::END),
            &[(0, 0)],
            &[0x90, 0x48, 0x8b, 0x23],
            &[(0x1000, by_sp(8, Saved::Same)), (0x1004, Rule::END)],
        );
        // mov (%rsp),%rax
        check(
            Role::Leaves(Rule::END),
            &[(0, 0)],
            &[0x48, 0x8b, 0x04, 0x24],
            &[(0x1000, by_sp(8, Saved::Same))],
        );
    }

    #[test]
    fn roots_and_signal_returns_need_no_deltas() {
        check(Role::Outermost, &[(0, 0), (4, 8)], &[], &[(0x1000, Rule::END)]);
        check(Role::SignalReturn, &[(0, 0)], &[], &[(0xfff, Rule::SIGNAL)]);
    }
}
