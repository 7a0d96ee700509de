//! One state of a call frame program to one rule.

use gimli::{CfaRule, EndianSlice, Expression, LittleEndian, Register, RegisterRule};

use crate::expression::{Value, evaluate};
use crate::program::State;
use crate::rule::{Cfa, Rule, Saved};
use crate::table::{Arch, Unsupported};

pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// A rule, and whether the caller's FP is lost only because no rule can say where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Converted {
    pub(crate) rule: Rule,
    pub(crate) fp_lost: bool,
}

/// Turns states of one function into rules. `expression` gives the bytes of an expression of the section.
pub(crate) struct Converter<'a, G> {
    pub(crate) arch: Arch,
    /// The function is a signal trampoline.
    pub(crate) signal: bool,
    pub(crate) expression: &'a G,
}

impl Arch {
    pub(crate) const fn sp(self) -> Register {
        match self {
            Self::X86_64 => Register(7),
            Self::Aarch64 => Register(31),
        }
    }

    pub(crate) const fn fp(self) -> Register {
        match self {
            Self::X86_64 => Register(6),
            Self::Aarch64 => Register(29),
        }
    }

    /// How many registers, by DWARF number, the leaf's state has.
    const fn registers(self) -> u16 {
        match self {
            Self::X86_64 => 16,
            Self::Aarch64 => 32,
        }
    }
}

/// Where rsp lies in the `rt_sigframe` at SP that an x86 kernel leaves: behind `uc_flags`, `uc_link`,
/// `uc_stack` and fifteen registers of the machine context.
const X86_64_SIGFRAME_RSP: i64 = 160;

impl<'s, G> Converter<'_, G>
where
    G: Fn(&gimli::UnwindExpression<usize>) -> Option<Expression<Slice<'s>>>,
{
    pub(crate) fn convert(&self, state: &State) -> Result<Converted, Unsupported> {
        if state.ra == Some(RegisterRule::Undefined) {
            return Ok(Converted { rule: Rule::END, fp_lost: false });
        }
        let cfa = match &state.cfa {
            Some(CfaRule::RegisterAndOffset { register, offset }) => {
                Value::Register { register: register.0, offset: *offset }
            }
            Some(CfaRule::Expression(expression)) => {
                (self.expression)(expression).and_then(|e| evaluate(&e)).ok_or(Unsupported::CfaExpression)?
            }
            None => return Err(Unsupported::Malformed),
        };
        if self.signal && self.is_kernel_frame(cfa) {
            return Ok(Converted { rule: Rule::SIGNAL, fp_lost: false });
        }
        if state.sp.as_ref().is_some_and(|rule| *rule != RegisterRule::ValOffset(0)) {
            return Err(Unsupported::StackPointer);
        }
        let (cfa, ra) = self.return_address(state.ra.as_ref(), self.cfa(cfa)?)?;
        let (fp, fp_lost) = match self.saved(state.fp.as_ref(), cfa) {
            Some(saved) => (saved, false),
            None => (Saved::Unknown, true),
        };
        Ok(Converted { rule: Rule::new(cfa, fp, ra), fp_lost })
    }

    /// Whether a signal trampoline's CFA is where the kernel puts it. On aarch64 the kernel's own trampoline describes
    /// itself by the frame record beside the `rt_sigframe`, which is always at SP.
    fn is_kernel_frame(&self, cfa: Value) -> bool {
        let sp = self.arch.sp().0;
        self.arch == Arch::Aarch64
            || cfa == Value::Loaded { register: sp, offset: X86_64_SIGFRAME_RSP, add: 0 }
    }

    fn cfa(&self, value: Value) -> Result<Cfa, Unsupported> {
        let (sp, fp) = (self.arch.sp().0, self.arch.fp().0);
        let narrow = |offset: i64| i32::try_from(offset).map_err(|_wide| Unsupported::CfaRange);
        let known = |register: u16| {
            u8::try_from(register)
                .ok()
                .filter(|_| register < self.arch.registers())
                .ok_or(Unsupported::CfaRegister)
        };
        match value {
            Value::Register { register, offset } => {
                let offset = narrow(offset)?;
                Ok(match register {
                    _ if register == sp => Cfa::Sp(offset),
                    _ if register == fp => Cfa::Fp(offset),
                    _ => Cfa::Register { register: known(register)?, offset },
                })
            }
            Value::Loaded { register, offset, add } => {
                let offset = narrow(offset)?;
                let add = i16::try_from(add).map_err(|_wide| Unsupported::CfaRange)?;
                Ok(match register {
                    _ if register == sp => Cfa::SpDeref { offset, add },
                    _ if register == fp => Cfa::FpDeref { offset, add },
                    _ => Cfa::RegisterDeref { register: known(register)?, offset, add },
                })
            }
            Value::Plt { pushed_from } if self.arch == Arch::X86_64 => Ok(Cfa::Plt { pushed_from }),
            Value::Plt { .. } | Value::Constant(_) => Err(Unsupported::CfaExpression),
        }
    }

    /// Where the return address is; that it is in a register is said together with the CFA.
    fn return_address(
        &self,
        rule: Option<&RegisterRule<usize>>,
        cfa: Cfa,
    ) -> Result<(Cfa, Saved), Unsupported> {
        match (self.saved(rule, cfa), rule, cfa) {
            (Some(Saved::AtCfa(offset)), _, _) => Ok((cfa, Saved::AtCfa(offset))),
            (Some(Saved::Same), _, _) if self.arch == Arch::Aarch64 => Ok((cfa, Saved::Same)),
            (None, Some(RegisterRule::Register(Register(number))), Cfa::Sp(offset))
                if *number < self.arch.registers() =>
            {
                Ok((Cfa::ReturnRegister { register: *number as u8, offset }, Saved::Same))
            }
            _ => Err(Unsupported::ReturnAddress),
        }
    }

    /// Where a register is saved; `None` where that cannot be expressed.
    fn saved(&self, rule: Option<&RegisterRule<usize>>, cfa: Cfa) -> Option<Saved> {
        match rule {
            None | Some(RegisterRule::SameValue) => Some(Saved::Same),
            Some(RegisterRule::Undefined) => Some(Saved::Unknown),
            Some(RegisterRule::Offset(offset)) => i16::try_from(*offset).ok().map(Saved::AtCfa),
            Some(RegisterRule::Expression(expression)) => {
                let address = evaluate(&(self.expression)(expression)?)?;
                self.at_register(address, cfa)
            }
            Some(_) => None,
        }
    }

    /// The address of a saved register, relative to what a rule can name.
    fn at_register(&self, address: Value, cfa: Cfa) -> Option<Saved> {
        let Value::Register { register, offset } = address else { return None };
        let from_cfa = |cfa_offset: i32| {
            let offset = offset.checked_sub(i64::from(cfa_offset))?;
            i16::try_from(offset).ok().map(Saved::AtCfa)
        };
        match cfa {
            Cfa::Sp(cfa_offset) if register == self.arch.sp().0 => from_cfa(cfa_offset),
            Cfa::Fp(cfa_offset) if register == self.arch.fp().0 => from_cfa(cfa_offset),
            _ if register == self.arch.fp().0 => i16::try_from(offset).ok().map(Saved::AtFp),
            _ => None,
        }
    }
}
