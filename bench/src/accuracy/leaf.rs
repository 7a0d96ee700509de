//! Who called a leaf that the judge left by the frame pointer.
//!
//! A function that has not made its frame yet, or makes none, still has its caller's frame pointer, so that a step by it
//! leads past the caller. Where the leaf has no call frame information the judge can do no better. The return address is
//! there all the same: at the top of the stack, behind what the leaf has pushed and before the frame that the frame pointer
//! points to. It is the first word there with a call before it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::accuracy::symbols::{MappedCode, mapped_code};
use crate::accuracy::{CapturedStack, Judgement, MappingSet, Step};

/// A leaf without a frame may have pushed every register.
const MAX_PUSHED_WORDS: usize = 16;
/// DWARF numbers of `x86_64`.
const RBP: usize = 6;
const RSP: usize = 7;
/// The longest call but for its prefixes: opcode, two bytes that say where from, displacement.
const MAX_CALL_BYTES: usize = 7;

/// The return address of a leaf without a frame, where the judge left the leaf by the frame pointer.
pub(crate) fn caller_passed_over(
    set: &MappingSet,
    stack: &CapturedStack,
    judgement: &Judgement,
) -> Option<u64> {
    if judgement.frames.first()?.step != Step::FramePointer {
        return None;
    }
    let below_frame = stack.registers[RBP].checked_sub(stack.registers[RSP])? / 8;
    let pushed = MAX_PUSHED_WORDS.min(usize::try_from(below_frame).ok()?);
    let code = mapped_code(set);
    let words = stack.stack.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
    words.take(pushed).find(|word| is_return_address(&code, *word))
}

/// Whether a call ends right before an address. Code that has no file is not known; there any address will do.
fn is_return_address(code: &[MappedCode], avma: u64) -> bool {
    let Some(mapping) = code.iter().find(|mapping| mapping.range.contains(&avma)) else { return false };
    let Ok(file) = File::open(&mapping.path) else { return true };
    let Some(offset) = (avma - mapping.range.start + mapping.offset).checked_sub(MAX_CALL_BYTES as u64)
    else {
        return false;
    };
    let mut before = [0; MAX_CALL_BYTES];
    file.read_exact_at(&mut before, offset).is_ok() && ends_in_call(before)
}

/// `E8` and four bytes; or `FF`, a byte with 2 in its middle, and what that byte asks for (Intel SDM, volume 2, CALL).
fn ends_in_call(code: [u8; MAX_CALL_BYTES]) -> bool {
    let direct = code[MAX_CALL_BYTES - 5] == 0xe8;
    let indirect = (2..=MAX_CALL_BYTES).any(|bytes| match &code[MAX_CALL_BYTES - bytes..] {
        [0xff, operand, rest @ ..] => {
            operand >> 3 & 7 == 2 && operand_bytes(*operand, rest.first().copied()) == bytes - 1
        }
        _ => false,
    });
    direct || indirect
}

/// How many bytes a `ModRM` byte and all that it asks for take, where `scaled` is the one that may come next.
fn operand_bytes(operand: u8, scaled: Option<u8>) -> usize {
    let (mode, register) = (operand >> 6, operand & 7);
    let has_scaled = mode != 3 && register == 4;
    // Without a base register.
    let is_absolute = register == 5 || (has_scaled && scaled.is_some_and(|byte| byte & 7 == 5));
    let displacement = match mode {
        0 if !is_absolute => 0,
        3 => 0,
        1 => 1,
        _ => 4,
    };
    1 + usize::from(has_scaled) + displacement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accuracy::{Ending, Frame};

    #[test]
    fn calls_are_known_by_their_bytes() {
        let check = |bytes: &[u8], expect: bool| {
            let mut code = [0x90; MAX_CALL_BYTES];
            code[MAX_CALL_BYTES - bytes.len()..].copy_from_slice(bytes);
            assert_eq!(ends_in_call(code), expect, "{bytes:x?}");
        };
        check(&[0xe8, 1, 2, 3, 4], true);
        check(&[0xff, 0xd0], true); // call rax
        check(&[0x41, 0xff, 0xd2], true); // call r10
        check(&[0xff, 0x17], true); // call [rdi]
        check(&[0xff, 0x15, 1, 2, 3, 4], true); // call [rip + …]
        check(&[0xff, 0x50, 8], true); // call [rax + 8]
        check(&[0xff, 0x54, 0x24, 8], true); // call [rsp + 8]
        check(&[0xff, 0x14, 0xc5, 1, 2, 3, 4], true); // call [rax * 8 + …]
        check(&[0xff, 0x94, 0x24, 1, 2, 3, 4], true); // call [rsp + …]
        check(&[0xff, 0xe0], false); // jmp rax
        check(&[0xe9, 1, 2, 3, 4], false); // jmp
        check(&[0xff, 0x50], false);
        check(&[0xff, 0x15, 1, 2, 3], false);
    }

    /// A stack whose words lie from 0x7000 on, with the frame pointer so many words above.
    fn caller(step: Step, words: &[u64], frame_pointer_words: u64) -> Option<u64> {
        let mut registers = [0; 32];
        registers[RSP] = 0x7000;
        registers[RBP] = 0x7000 + 8 * frame_pointer_words;
        let stack = CapturedStack {
            id: 1,
            mapping_set: 1,
            time_boot_ns: 0,
            tgid: 1,
            tid: 1,
            cpu: 0,
            architecture: 1,
            registers,
            ip: 0x1000,
            stack: words.iter().flat_map(|word| word.to_ne_bytes()).collect(),
        };
        let set = MappingSet { id: 1, tgid: 1, maps: "1000-2000 r-xp 0 00:00 0 //anon\n".into() };
        let frames = vec![Frame { avma: 0x1000, step }];
        caller_passed_over(&set, &stack, &Judgement { id: 1, ending: Ending::Complete, frames })
    }

    #[test]
    fn the_caller_is_the_first_return_address_below_the_frame_pointer() {
        let words = [5, 0x1234, 0x1777];
        assert_eq!(caller(Step::FramePointer, &words, 8), Some(0x1234));
        assert_eq!(caller(Step::FramePointer, &words, 2), Some(0x1234));
        assert_eq!(caller(Step::FramePointer, &words, 1), None, "it belongs to the caller's frame");
        assert_eq!(caller(Step::Information, &words, 8), None, "the judge knows the caller");
        let pushed_too_much = [[0; MAX_PUSHED_WORDS].as_slice(), &[0x1234]].concat();
        assert_eq!(caller(Step::FramePointer, &pushed_too_much, 99), None);
    }

    #[test]
    fn code_of_a_file_is_looked_at() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("code");
        std::fs::write(&path, [0x90, 0x90, 0x90, 0xe8, 0, 0, 0, 0, 0x90, 0x90]).unwrap();
        let code = [MappedCode { range: 0x1000..0x2000, offset: 0, path }];
        assert!(is_return_address(&code, 0x1008));
        assert!(!is_return_address(&code, 0x1009));
        assert!(!is_return_address(&code, 0x1003), "nothing comes before it");
        assert!(!is_return_address(&code, 0x2000), "no code");
    }
}
