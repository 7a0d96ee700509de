//! One unwind rule: how a frame's caller is found. [`Rule`] is `struct pyrite_rule` of `bpf/include/unwind.h` with its
//! cases spelled out; `to_abi` and `from_abi` are exact inverses for every rule that can be expressed.

use pyrite_bpf::abi::{self, pyrite_rule};

/// Index into the host-wide rule table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u16);

impl RuleId {
    /// [`Rule::NONE`] has this id in every book.
    pub const NONE: Self = Self(0);
    /// [`Rule::UNSUPPORTED`] has this id in every book.
    pub const UNSUPPORTED: Self = Self(1);
}

/// How the canonical frame address is found: the stack pointer of the caller after the return.
///
/// SP and FP are rsp and rbp, or sp and x29. Registers have DWARF numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cfa {
    /// No unwind information: try the frame pointer.
    None,
    /// The outermost frame of a thread.
    End,
    /// SP + offset.
    Sp(i32),
    /// FP + offset.
    Fp(i32),
    /// `*(SP + offset) + add`.
    SpDeref {
        /// From SP.
        offset: i32,
        /// To what was read.
        add: i16,
    },
    /// `*(FP + offset) + add`.
    FpDeref {
        /// From FP.
        offset: i32,
        /// To what was read.
        add: i16,
    },
    /// Register + offset; only at the leaf are all registers known.
    Register {
        /// DWARF number.
        register: u8,
        /// From the register.
        offset: i32,
    },
    /// `*(register + offset) + add`; likewise.
    RegisterDeref {
        /// DWARF number.
        register: u8,
        /// From the register.
        offset: i32,
        /// To what was read.
        add: i16,
    },
    /// SP + 8, and 8 more from byte `pushed_from` of each 16-byte entry on.
    Plt {
        /// 1 to 15: how long the entry's instructions are up to its push, and with it.
        pushed_from: u8,
    },
    /// A signal handler's return trampoline: the interrupted registers lie in the `rt_sigframe` at SP.
    Signal,
    /// Code that keeps a frame pointer chain and has no other information.
    FramePointer,
    /// There is a rule that this format cannot express.
    Unsupported,
    /// FP + offset, where the code has left its caller's stack for another one: the CFA may lie below SP.
    FpSwitch(i32),
    /// SP + offset, which may be SP itself; the return address is in the register, so this can be at the leaf alone.
    ReturnRegister {
        /// DWARF number.
        register: u8,
        /// From SP.
        offset: i32,
    },
}

/// Where the caller's value of a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Saved {
    /// Still in the register; for the return address on aarch64: in the link register.
    Same,
    /// In memory, at CFA + offset.
    AtCfa(i16),
    /// In memory, at FP + offset; the frame pointer alone.
    AtFp(i16),
    /// Lost.
    Unknown,
}

/// A run of push or pop instructions folded into the rule at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// Bit k: from k + 1 bytes behind the row on, the CFA offset is 8 larger, or 8 smaller where `pop` is set.
    pub pushes: u16,
    /// Pops instead.
    pub pop: bool,
    /// The rule of FP holds from so many bytes behind the row on; before that FP is [`Saved::Same`].
    pub fp_from: u8,
}

/// How the caller of a frame is found, from a row's start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The caller's stack pointer.
    pub cfa: Cfa,
    /// The caller's frame pointer.
    pub fp: Saved,
    /// The return address.
    pub ra: Saved,
    /// What changes within the row.
    pub run: Run,
}

/// How far behind its start a run may change a rule, in bytes.
pub(crate) const RUN_BYTES: u32 = 16;

impl Rule {
    /// No unwind information.
    pub const NONE: Self = Self::bare(Cfa::None);
    /// The outermost frame.
    pub const END: Self = Self::bare(Cfa::End);
    /// A signal trampoline.
    pub const SIGNAL: Self = Self::bare(Cfa::Signal);
    /// Frame pointer code.
    pub const FRAME_POINTER: Self = Self::bare(Cfa::FramePointer);
    /// Cannot be expressed.
    pub const UNSUPPORTED: Self = Self::bare(Cfa::Unsupported);

    /// A rule that says all there is to say by its kind.
    const fn bare(cfa: Cfa) -> Self {
        Self::new(cfa, Saved::Same, Saved::Same)
    }

    /// A rule that holds unchanged throughout its row.
    pub const fn new(cfa: Cfa, fp: Saved, ra: Saved) -> Self {
        Self { cfa, fp, ra, run: Run { pushes: 0, pop: false, fp_from: 0 } }
    }

    /// What holds `behind` bytes behind the row's start: a rule without a run.
    #[must_use]
    pub fn at(self, behind: u16) -> Self {
        let passed = if u32::from(behind) >= RUN_BYTES { u16::MAX } else { (1 << behind) - 1 };
        let pushes = (self.run.pushes & passed).count_ones() as i32;
        let change = if self.run.pop { -8 * pushes } else { 8 * pushes };
        let cfa = match self.cfa {
            Cfa::Sp(offset) => Cfa::Sp(offset.wrapping_add(change)),
            other => other,
        };
        let fp = if behind >= u16::from(self.run.fp_from) { self.fp } else { Saved::Same };
        Self::new(cfa, fp, self.ra)
    }

    /// The rule as the BPF programs read it.
    pub fn to_abi(self) -> pyrite_rule {
        let (cfa, reg, cfa_offset, cfa_add) = match self.cfa {
            Cfa::None => (abi::PYRITE_CFA_NONE, 0, 0, 0),
            Cfa::End => (abi::PYRITE_CFA_END, 0, 0, 0),
            Cfa::Sp(offset) => (abi::PYRITE_CFA_SP, 0, offset, 0),
            Cfa::Fp(offset) => (abi::PYRITE_CFA_FP, 0, offset, 0),
            Cfa::SpDeref { offset, add } => (abi::PYRITE_CFA_SP_DEREF, 0, offset, add),
            Cfa::FpDeref { offset, add } => (abi::PYRITE_CFA_FP_DEREF, 0, offset, add),
            Cfa::Register { register, offset } => (abi::PYRITE_CFA_REGISTER, register, offset, 0),
            Cfa::RegisterDeref { register, offset, add } => {
                (abi::PYRITE_CFA_REGISTER_DEREF, register, offset, add)
            }
            Cfa::Plt { pushed_from } => (abi::PYRITE_CFA_PLT, 0, 8, i16::from(pushed_from)),
            Cfa::Signal => (abi::PYRITE_CFA_SIGNAL, 0, 0, 0),
            Cfa::FramePointer => (abi::PYRITE_CFA_FRAME_POINTER, 0, 0, 0),
            Cfa::Unsupported => (abi::PYRITE_CFA_UNSUPPORTED, 0, 0, 0),
            Cfa::FpSwitch(offset) => (abi::PYRITE_CFA_FP_SWITCH, 0, offset, 0),
            Cfa::ReturnRegister { register, offset } => {
                (abi::PYRITE_CFA_RETURN_REGISTER, register, offset, 0)
            }
        };
        let (fp, fp_offset) = saved_to_abi(self.fp);
        let (ra, ra_offset) = saved_to_abi(self.ra);
        pyrite_rule {
            cfa: cfa as u8,
            reg,
            saved: fp | ra << 2 | u8::from(self.run.pop) << 4,
            fp_from: self.run.fp_from,
            cfa_offset,
            cfa_add,
            fp_offset,
            ra_offset,
            pushes: self.run.pushes,
        }
    }

    /// The rule that the BPF programs would follow; `None` where there is no such rule.
    pub fn from_abi(raw: &pyrite_rule) -> Option<Self> {
        let (offset, add, register) = (raw.cfa_offset, raw.cfa_add, raw.reg);
        let cfa = match u32::from(raw.cfa) {
            abi::PYRITE_CFA_NONE => Cfa::None,
            abi::PYRITE_CFA_END => Cfa::End,
            abi::PYRITE_CFA_SP => Cfa::Sp(offset),
            abi::PYRITE_CFA_FP => Cfa::Fp(offset),
            abi::PYRITE_CFA_SP_DEREF => Cfa::SpDeref { offset, add },
            abi::PYRITE_CFA_FP_DEREF => Cfa::FpDeref { offset, add },
            abi::PYRITE_CFA_REGISTER => Cfa::Register { register, offset },
            abi::PYRITE_CFA_REGISTER_DEREF => Cfa::RegisterDeref { register, offset, add },
            abi::PYRITE_CFA_PLT => Cfa::Plt { pushed_from: u8::try_from(add).ok()? },
            abi::PYRITE_CFA_SIGNAL => Cfa::Signal,
            abi::PYRITE_CFA_FRAME_POINTER => Cfa::FramePointer,
            abi::PYRITE_CFA_UNSUPPORTED => Cfa::Unsupported,
            abi::PYRITE_CFA_FP_SWITCH => Cfa::FpSwitch(offset),
            abi::PYRITE_CFA_RETURN_REGISTER => Cfa::ReturnRegister { register, offset },
            _ => return None,
        };
        let rule = Self {
            cfa,
            fp: saved_from_abi(raw.saved & 3, raw.fp_offset)?,
            ra: saved_from_abi(raw.saved >> 2 & 3, raw.ra_offset)?,
            run: Run { pushes: raw.pushes, pop: raw.saved & 16 != 0, fp_from: raw.fp_from },
        };
        // Bits that the rule's kind does not use must be zero, or two encodings would mean one rule.
        (rule.to_abi().to_bytes() == raw.to_bytes()).then_some(rule)
    }
}

fn saved_to_abi(saved: Saved) -> (u8, i16) {
    match saved {
        Saved::Same => (abi::PYRITE_SAVED_SAME as u8, 0),
        Saved::AtCfa(offset) => (abi::PYRITE_SAVED_AT_CFA as u8, offset),
        Saved::AtFp(offset) => (abi::PYRITE_SAVED_AT_FP as u8, offset),
        Saved::Unknown => (abi::PYRITE_SAVED_UNKNOWN as u8, 0),
    }
}

fn saved_from_abi(code: u8, offset: i16) -> Option<Saved> {
    match u32::from(code) {
        abi::PYRITE_SAVED_SAME => Some(Saved::Same),
        abi::PYRITE_SAVED_AT_CFA => Some(Saved::AtCfa(offset)),
        abi::PYRITE_SAVED_AT_FP => Some(Saved::AtFp(offset)),
        abi::PYRITE_SAVED_UNKNOWN => Some(Saved::Unknown),
        _ => None,
    }
}

/// How many bytes a rule has in the kernel's table and in the cache.
pub const RULE_BYTES: usize = size_of::<pyrite_rule>();

/// A rule's bytes, little-endian, as they lie in the kernel's table and in the cache.
pub trait RuleBytes: Sized {
    /// The bytes.
    fn to_bytes(&self) -> [u8; RULE_BYTES];
    /// Their inverse.
    fn from_bytes(bytes: &[u8; RULE_BYTES]) -> Self;
}

impl RuleBytes for pyrite_rule {
    fn to_bytes(&self) -> [u8; RULE_BYTES] {
        let mut bytes = [self.cfa, self.reg, self.saved, self.fp_from, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..8].copy_from_slice(&self.cfa_offset.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.cfa_add.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.fp_offset.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.ra_offset.to_le_bytes());
        bytes[14..].copy_from_slice(&self.pushes.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; RULE_BYTES]) -> Self {
        let [cfa, reg, saved, fp_from, o0, o1, o2, o3, a0, a1, f0, f1, r0, r1, p0, p1] = *bytes;
        Self {
            cfa,
            reg,
            saved,
            fp_from,
            cfa_offset: i32::from_le_bytes([o0, o1, o2, o3]),
            cfa_add: i16::from_le_bytes([a0, a1]),
            fp_offset: i16::from_le_bytes([f0, f1]),
            ra_offset: i16::from_le_bytes([r0, r1]),
            pushes: u16::from_le_bytes([p0, p1]),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_saved() -> impl Strategy<Value = Saved> {
        prop_oneof![
            Just(Saved::Same),
            any::<i16>().prop_map(Saved::AtCfa),
            any::<i16>().prop_map(Saved::AtFp),
            Just(Saved::Unknown),
        ]
    }

    fn any_cfa() -> impl Strategy<Value = Cfa> {
        prop_oneof![
            Just(Cfa::None),
            Just(Cfa::End),
            any::<i32>().prop_map(Cfa::Sp),
            any::<i32>().prop_map(Cfa::Fp),
            any::<(i32, i16)>().prop_map(|(offset, add)| Cfa::SpDeref { offset, add }),
            any::<(i32, i16)>().prop_map(|(offset, add)| Cfa::FpDeref { offset, add }),
            any::<(u8, i32)>().prop_map(|(register, offset)| Cfa::Register { register, offset }),
            any::<(u8, i32, i16)>().prop_map(|(register, offset, add)| Cfa::RegisterDeref {
                register,
                offset,
                add
            }),
            (1..16u8).prop_map(|pushed_from| Cfa::Plt { pushed_from }),
            Just(Cfa::Signal),
            Just(Cfa::FramePointer),
            Just(Cfa::Unsupported),
            any::<i32>().prop_map(Cfa::FpSwitch),
            any::<(u8, i32)>().prop_map(|(register, offset)| Cfa::ReturnRegister { register, offset }),
        ]
    }

    pub(crate) fn any_rule() -> impl Strategy<Value = Rule> {
        let run = any::<(u16, bool, u8)>().prop_map(|(pushes, pop, fp_from)| Run { pushes, pop, fp_from });
        (any_cfa(), any_saved(), any_saved(), run).prop_map(|(cfa, fp, ra, run)| Rule { cfa, fp, ra, run })
    }

    proptest! {
        #[test]
        fn a_rule_survives_the_kernels_form(rule in any_rule()) {
            let raw = rule.to_abi();
            prop_assert_eq!(Rule::from_abi(&raw), Some(rule));
            prop_assert_eq!(pyrite_rule::from_bytes(&raw.to_bytes()).to_bytes(), raw.to_bytes());
        }

        #[test]
        fn bytes_are_a_rule_in_one_way_or_none(bytes in any::<[u8; RULE_BYTES]>()) {
            if let Some(rule) = Rule::from_abi(&pyrite_rule::from_bytes(&bytes)) {
                prop_assert_eq!(rule.to_abi().to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn a_rule_of_zeros_is_none() {
        assert_eq!(Rule::from_abi(&pyrite_rule::from_bytes(&[0; RULE_BYTES])), Some(Rule::NONE));
    }

    #[test]
    fn a_run_changes_the_rule_byte_by_byte() {
        // push %rbp (1 byte), push %r15 (2 bytes), push %rbx (1 byte)
        let run = Run { pushes: 0b1101, pop: false, fp_from: 1 };
        let rule = Rule { run, ..Rule::new(Cfa::Sp(8), Saved::AtCfa(-16), Saved::AtCfa(-8)) };
        let at = |behind| (rule.at(behind).cfa, rule.at(behind).fp);
        assert_eq!(at(0), (Cfa::Sp(8), Saved::Same));
        assert_eq!(at(1), (Cfa::Sp(16), Saved::AtCfa(-16)));
        assert_eq!(at(2), (Cfa::Sp(16), Saved::AtCfa(-16)));
        assert_eq!(at(3), (Cfa::Sp(24), Saved::AtCfa(-16)));
        assert_eq!(at(4), (Cfa::Sp(32), Saved::AtCfa(-16)));
        assert_eq!(at(u16::MAX), (Cfa::Sp(32), Saved::AtCfa(-16)));
        let pops = Rule { run: Run { pushes: 0x8001, pop: true, fp_from: 0 }, ..rule };
        assert_eq!(pops.at(15).cfa, Cfa::Sp(0));
        assert_eq!(pops.at(16).cfa, Cfa::Sp(-8));
    }
}
