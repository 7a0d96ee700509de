//! What call frame information says, evaluated by gimli alone: every address of a caller's registers in numbers, over a
//! machine whose registers and memory are made up. Two ways to unwind that agree over it say the same.

use std::hash::{DefaultHasher, Hash, Hasher};

use gimli::{
    CfaRule, EndianSlice, EvaluationResult, Expression, LittleEndian, Location, Register, RegisterRule,
    UnwindSection, UnwindTableRow, Value,
};
use pyrite_unwind::{Arch, Cfa, Rule, Saved};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// A frame's caller; `None` for a register whose value is lost or cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// There is none: the outermost frame.
    End,
    /// No unwind information.
    NoInfo,
    /// Stack pointer, which is the CFA but for a few instructions; return address; frame pointer.
    Frame { cfa: Option<u64>, ra: Option<u64>, fp: Option<u64> },
}

/// Registers and memory that hold anything but zeros, and the instruction pointer.
pub(crate) struct Machine {
    pub(crate) arch: Arch,
    pub(crate) ip: u64,
}

impl Machine {
    fn register(&self, register: u16) -> u64 {
        let mut hasher = DefaultHasher::new();
        ("register", register).hash(&mut hasher);
        match (self.arch, register) {
            (Arch::X86_64, 16) => self.ip,
            _ => hasher.finish() >> 16 & !7,
        }
    }

    fn memory(address: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        ("memory", address).hash(&mut hasher);
        hasher.finish()
    }

    fn sp(&self) -> u16 {
        if self.arch == Arch::X86_64 { 7 } else { 31 }
    }

    fn fp(&self) -> u16 {
        if self.arch == Arch::X86_64 { 6 } else { 29 }
    }

    /// By gimli.
    pub(crate) fn truth<'a, S: UnwindSection<Slice<'a>>>(
        &self,
        section: &S,
        row: &UnwindTableRow<usize>,
        ra: Register,
    ) -> Caller {
        if row.register(ra) == Some(RegisterRule::Undefined) {
            return Caller::End;
        }
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                Some(self.register(register.0).wrapping_add_signed(*offset))
            }
            CfaRule::Expression(expression) => {
                expression.get(section).ok().and_then(|expression| self.evaluate(expression, None))
            }
        };
        let value = |register: Register| match row.register(register) {
            None | Some(RegisterRule::SameValue) => Some(self.register(register.0)),
            Some(RegisterRule::Offset(offset)) => Some(Self::memory(cfa?.wrapping_add_signed(offset))),
            Some(RegisterRule::ValOffset(offset)) => Some(cfa?.wrapping_add_signed(offset)),
            Some(RegisterRule::Register(other)) => Some(self.register(other.0)),
            Some(RegisterRule::Expression(e)) => self.evaluate(e.get(section).ok()?, cfa).map(Self::memory),
            Some(RegisterRule::ValExpression(e)) => self.evaluate(e.get(section).ok()?, cfa),
            _ => None,
        };
        let sp = row.register(Register(self.sp())).map_or(cfa, |_| value(Register(self.sp())));
        Caller::Frame { cfa: sp, ra: value(ra), fp: value(Register(self.fp())) }
    }

    fn evaluate(&self, expression: Expression<Slice<'_>>, initial: Option<u64>) -> Option<u64> {
        let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
        let mut evaluation = expression.evaluation(encoding);
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut state = evaluation.evaluate().ok()?;
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.register(register.0))).ok()?
                }
                EvaluationResult::RequiresMemory { address, .. } => {
                    evaluation.resume_with_memory(Value::Generic(Self::memory(address))).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result().first()?.location {
            Location::Address { address } => Some(address),
            Location::Value { value: Value::Generic(value) } => Some(value),
            _ => None,
        }
    }

    /// By one of our rules, as an unwinder follows it.
    pub(crate) fn by_rule(&self, rule: Rule) -> Caller {
        let load = |address: u64, add: i16| Self::memory(address).wrapping_add_signed(i64::from(add));
        let plus =
            |register: u16, offset: i32| self.register(register).wrapping_add_signed(i64::from(offset));
        let (sp, fp) = (self.sp(), self.fp());
        let cfa = match rule.cfa {
            Cfa::None => return Caller::NoInfo,
            Cfa::End => return Caller::End,
            Cfa::Signal => return self.interrupted(),
            Cfa::FramePointer | Cfa::Unsupported => {
                return Caller::Frame { cfa: None, ra: None, fp: None };
            }
            Cfa::Sp(offset) | Cfa::ReturnRegister { offset, .. } => plus(sp, offset),
            Cfa::Fp(offset) | Cfa::FpSwitch(offset) => plus(fp, offset),
            Cfa::SpDeref { offset, add } => load(plus(sp, offset), add),
            Cfa::FpDeref { offset, add } => load(plus(fp, offset), add),
            Cfa::Register { register, offset } => plus(u16::from(register), offset),
            Cfa::RegisterDeref { register, offset, add } => load(plus(u16::from(register), offset), add),
            Cfa::Plt { pushed_from } => plus(sp, if self.ip & 15 >= u64::from(pushed_from) { 16 } else { 8 }),
        };
        let value = |saved: Saved, register: u16| match saved {
            Saved::Same => Some(self.register(register)),
            Saved::AtCfa(offset) => Some(Self::memory(cfa.wrapping_add_signed(i64::from(offset)))),
            Saved::AtFp(offset) => Some(Self::memory(plus(fp, i32::from(offset)))),
            Saved::Unknown => None,
        };
        let ra_register = match rule.cfa {
            Cfa::ReturnRegister { register, .. } => u16::from(register),
            _ if self.arch == Arch::X86_64 => 16,
            _ => 30,
        };
        Caller::Frame { cfa: Some(cfa), ra: value(rule.ra, ra_register), fp: value(rule.fp, fp) }
    }

    /// From the kernel's `rt_sigframe` at SP.
    fn interrupted(&self) -> Caller {
        let (sp_at, ip_at, fp_at) = match self.arch {
            Arch::X86_64 => (160, 168, 120),
            Arch::Aarch64 => (560, 568, 312 + 29 * 8),
        };
        let load = |offset: u64| Some(Self::memory(self.register(self.sp()).wrapping_add(offset)));
        Caller::Frame { cfa: load(sp_at), ra: load(ip_at), fp: load(fp_at) }
    }
}
