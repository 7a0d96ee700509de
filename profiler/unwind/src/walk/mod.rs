//! The reference unwinder: from the registers and the stack of a thread to its frames, by the tables of `unwind.h`.
//!
//! It says the same as the BPF walker, frame by frame, and is what that one is compared with. It also finishes the stacks
//! that the BPF walker could only copy. One frame is left like this:
//!
//! 1. The rule is looked up at the pc itself at a leaf and at a frame interrupted by a signal ("exact" frames), else at
//!    pc - 1, which lies in the call.
//! 2. END completes the walk. NONE, UNSUPPORTED, `FRAME_POINTER`, no row, no ready table and no mapping lead to 6.
//! 3. SIGNAL reads ip, sp, fp and all other registers from the signal frame at SP; the frame behind is exact.
//! 4. Else the CFA comes from SP, FP, memory or, in an exact frame, from any register. It must be a multiple of 8 and lie
//!    above SP, or at SP in an exact frame of aarch64, whose leaf functions need no stack, and by `RETURN_REGISTER`.
//!    `FP_SWITCH` may lie anywhere.
//! 5. The return address lies at CFA + `ra_offset`, or in an exact frame in the register of `RETURN_REGISTER` or, on aarch64,
//!    in the link register; any other rule of it is `BAD_FRAME`. The caller's FP is in memory, or is FP itself, or is lost.
//! 6. The frame pointer step: FP is a multiple of 8, not below SP, and points to the caller's FP and the return address,
//!    which lies in code. Where that does not hold, the reason that led here is the outcome. On `x86_64` the caller's SP lies
//!    behind both; on aarch64 they are at the lower end of the frame, so that the caller's SP is lost.
//! 7. Where SP is lost, a rule by SP that has the caller's FP in memory holds nevertheless, for a function that has saved FP
//!    points FP to where it did. In any other function that is not left by FP, FP belongs to a frame further up, and a step by it would
//!    leave out those between: that is `UNSUPPORTED`.
//!
//! The leaf is given as the address of its instruction, every other frame as an address one byte before which its
//! instruction lies: a return address or, in frames that a signal interrupted and in its trampoline, one more than the
//! instruction's.
//!
//! A return address of zero, and an FP of zero at 6 in a frame that is not exact, end the chain. One frame more than the
//! limit ends the walk as `TOO_DEEP`. So every walk is finite, whatever registers, memory and tables say.

mod machine;
mod memory;
mod state;

pub use memory::{StackCopy, StackMemory};
pub use state::{Machine, Registers, Start};

use pyrite_bpf::StackOutcome;
use pyrite_model::Avma;

use crate::lookup::{NoTable, Tables, lookup};
use crate::rule::{Cfa, Rule, RuleId, Saved};

use self::state::{Cursor, LOST};

/// Code of an executable, mapped into a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedCode {
    /// Index of the executable; 0 for code without a file, such as a JIT compiler's.
    pub executable: u32,
    /// avma - bias = pc in the executable's table.
    pub bias: u64,
}

/// What a walk reads: the same tables as the BPF walker, one process's mappings, one thread's stack.
#[derive(Clone, Copy, Debug)]
pub struct Walker<'a, T, M, S> {
    /// How the process's code uses registers and stack.
    pub machine: Machine,
    /// Chunks, executables and rules.
    pub tables: &'a T,
    /// From an address to the code mapped there.
    pub mappings: &'a M,
    /// The stack's bytes.
    pub memory: &'a S,
    /// How many frames a stack may have, those found before the walk included.
    pub limit: usize,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Why there is no further frame.
    pub outcome: StackOutcome,
    /// How many of the frames were found by the frame pointer for want of unwind information.
    pub frame_pointer_frames: u16,
    /// Where it first met code whose table is still being made: the same walk may do better later.
    pub pending: Option<Pending>,
}

/// What is sure of a walk that met code whose unwind table is still being made: all up to that code. From there it went on by
/// the frame pointer, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Index of the executable.
    pub executable: u32,
    /// How many frames there were then, the one in that code being the last.
    pub frames: usize,
    /// How many of them the walk had found by the frame pointer.
    pub frame_pointer_frames: u16,
}

/// Why a frame cannot be left by its rule.
enum Stuck {
    /// Try the frame pointer, for want of something.
    FramePointer(Missing),
    /// The walk ends.
    Ended(StackOutcome),
}

/// What a frame lacks to be left by a rule.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Mapping,
    /// Of this executable.
    PendingTable(u32),
    TableOverBudget,
    Rule,
    ExpressibleRule,
}

impl Missing {
    /// How the walk ends if the frame pointer does not help either.
    fn outcome(self) -> StackOutcome {
        match self {
            Self::Mapping => StackOutcome::NoMapping,
            Self::PendingTable(_) | Self::Rule => StackOutcome::NoUnwindInfo,
            Self::TableOverBudget => StackOutcome::OverBudget,
            Self::ExpressibleRule => StackOutcome::Unsupported,
        }
    }
}

impl<T, M, S> Walker<'_, T, M, S>
where
    T: Tables,
    M: Fn(Avma) -> Option<MappedCode>,
    S: StackMemory,
{
    /// Appends the frame that `start` stands in and all its callers to `frames`, leaf first. Where there is no frame yet,
    /// that one is the leaf.
    pub fn walk(&self, start: &Start, frames: &mut Vec<Avma>) -> Walked {
        let mut cursor = Cursor::new(start, self.machine);
        let mut walked = Walked { outcome: StackOutcome::TooDeep, frame_pointer_frames: 0, pending: None };
        while frames.len() < self.limit {
            let (ip, is_exact) = (cursor.registers.ip, cursor.exact);
            let left = self.by_rule(&mut cursor);
            // Only a signal's trampoline leads to an exact frame.
            let follows_call = !is_exact && !cursor.exact;
            frames.push(Avma(if frames.is_empty() || follows_call { ip } else { ip.wrapping_add(1) }));
            let left = match left {
                Err(Stuck::FramePointer(missing)) => {
                    if let Missing::PendingTable(executable) = missing {
                        let frame_pointer_frames = walked.frame_pointer_frames;
                        let met = Pending { executable, frames: frames.len(), frame_pointer_frames };
                        walked.pending.get_or_insert(met);
                    }
                    let left = self.by_frame_pointer(&mut cursor, missing.outcome());
                    walked.frame_pointer_frames =
                        walked.frame_pointer_frames.saturating_add(left.is_ok().into());
                    left
                }
                Err(Stuck::Ended(outcome)) => Err(outcome),
                Ok(()) => Ok(()),
            };
            if let Err(outcome) = left {
                walked.outcome = outcome;
                break;
            }
        }
        walked
    }

    /// Goes to the caller by the rule that holds where the cursor stands.
    fn by_rule(&self, cursor: &mut Cursor) -> Result<(), Stuck> {
        let pc = cursor.lookup_pc();
        let rule = self.rule(pc).map_err(Stuck::FramePointer)?;
        match rule.cfa {
            Cfa::End => Err(Stuck::Ended(StackOutcome::Complete)),
            Cfa::Signal if cursor.sp_lost => Err(Stuck::Ended(StackOutcome::Unsupported)),
            Cfa::Signal => self.behind_signal(cursor),
            _ => {
                let cfa = self.cfa(cursor, rule, pc)?;
                self.check_growth(cursor, rule, cfa)?;
                let ip = self.return_address(cursor, rule, cfa)?;
                let fp = self.caller_fp(cursor, rule, cfa)?;
                cursor.enter_caller(ip, cfa, fp);
                Ok(())
            }
        }
    }

    /// The rule that holds at `pc`.
    fn rule(&self, pc: u64) -> Result<Rule, Missing> {
        let mapped = (self.mappings)(Avma(pc)).ok_or(Missing::Mapping)?;
        if mapped.executable == 0 {
            return Err(Missing::Rule);
        }
        let position = lookup(self.tables, mapped.executable, pc.wrapping_sub(mapped.bias));
        let position = position.map_err(|missing| match missing {
            NoTable::Pending => Missing::PendingTable(mapped.executable),
            NoTable::OverBudget => Missing::TableOverBudget,
            NoTable::Absent | NoTable::Broken => Missing::Rule,
        })?;
        let RuleId(id) = position.rule;
        Ok(self.tables.rule(id).ok_or(Missing::Rule)?.at(position.behind))
    }

    fn cfa(&self, cursor: &Cursor, rule: Rule, pc: u64) -> Result<u64, Stuck> {
        let Registers { sp, fp, .. } = cursor.registers;
        let by_number = |number| {
            cursor.register(number, self.machine).ok_or(Stuck::FramePointer(Missing::ExpressibleRule))
        };
        let load = |base: u64, offset, add| {
            Ok(self.read(base.wrapping_add_signed(i64::from(offset)))?.wrapping_add_signed(i64::from(add)))
        };
        match rule.cfa {
            Cfa::Sp(_) if let (true, Saved::AtCfa(offset)) = (cursor.sp_lost, rule.fp) => {
                Ok(fp.wrapping_sub(offset as u64))
            }
            Cfa::Sp(_)
            | Cfa::SpDeref { .. }
            | Cfa::Plt { .. }
            | Cfa::Register { .. }
            | Cfa::RegisterDeref { .. }
            | Cfa::ReturnRegister { .. }
                if cursor.sp_lost =>
            {
                Err(Stuck::Ended(StackOutcome::Unsupported))
            }
            Cfa::Sp(offset) => Ok(sp.wrapping_add_signed(offset.into())),
            Cfa::Fp(offset) | Cfa::FpSwitch(offset) => Ok(fp.wrapping_add_signed(offset.into())),
            Cfa::SpDeref { offset, add } => load(sp, offset, add),
            Cfa::FpDeref { offset, add } => load(fp, offset, add),
            Cfa::Register { register, offset } => Ok(by_number(register)?.wrapping_add_signed(offset.into())),
            Cfa::ReturnRegister { register, offset } => {
                by_number(register)?;
                Ok(sp.wrapping_add_signed(offset.into()))
            }
            Cfa::RegisterDeref { register, offset, add } => load(by_number(register)?, offset, add),
            Cfa::Plt { pushed_from } => {
                Ok(sp.wrapping_add(if pc & 15 >= u64::from(pushed_from) { 16 } else { 8 }))
            }
            Cfa::Unsupported => Err(Stuck::FramePointer(Missing::ExpressibleRule)),
            // END and SIGNAL have been dealt with.
            Cfa::None | Cfa::FramePointer | Cfa::End | Cfa::Signal => Err(Stuck::FramePointer(Missing::Rule)),
        }
    }

    fn check_growth(&self, cursor: &Cursor, rule: Rule, cfa: u64) -> Result<(), Stuck> {
        let may_be_frameless = self.links(cursor) || matches!(rule.cfa, Cfa::ReturnRegister { .. });
        let frameless = may_be_frameless && cfa == cursor.registers.sp;
        let grows = cfa > cursor.registers.sp || frameless || matches!(rule.cfa, Cfa::FpSwitch(_));
        if grows && cfa.is_multiple_of(8) { Ok(()) } else { Err(Stuck::Ended(StackOutcome::BadFrame)) }
    }

    /// Whether the link register holds a return address.
    fn links(&self, cursor: &Cursor) -> bool {
        cursor.exact && matches!(self.machine, Machine::Aarch64 { .. })
    }

    fn return_address(&self, cursor: &Cursor, rule: Rule, cfa: u64) -> Result<u64, Stuck> {
        let in_register = match rule.cfa {
            Cfa::ReturnRegister { register, .. } => cursor.register(register, self.machine),
            _ => None,
        };
        let raw = match (in_register, rule.ra) {
            (Some(raw), _) => raw,
            (None, Saved::AtCfa(offset)) => self.read(cfa.wrapping_add_signed(offset.into()))?,
            (None, Saved::Same) if self.links(cursor) => cursor.registers.lr,
            (None, Saved::Same | Saved::AtFp(_) | Saved::Unknown) => {
                return Err(Stuck::Ended(StackOutcome::BadFrame));
            }
        };
        match self.machine.strip(raw) {
            0 => Err(Stuck::Ended(StackOutcome::ChainEnd)),
            ip => Ok(ip),
        }
    }

    fn caller_fp(&self, cursor: &Cursor, rule: Rule, cfa: u64) -> Result<u64, Stuck> {
        let fp = cursor.registers.fp;
        match rule.fp {
            Saved::Same => Ok(fp),
            Saved::AtCfa(offset) => self.read(cfa.wrapping_add_signed(offset.into())),
            Saved::AtFp(offset) => self.read(fp.wrapping_add_signed(offset.into())),
            Saved::Unknown => Ok(LOST),
        }
    }

    /// Goes from a signal handler's return trampoline to what the signal interrupted. The handler may have run on a stack of
    /// its own, so the interrupted SP may lie anywhere.
    fn behind_signal(&self, cursor: &mut Cursor) -> Result<(), Stuck> {
        let frame = self.machine.signal_frame();
        let at = |offset: u64| self.read(cursor.registers.sp.wrapping_add(offset));
        let ip = self.machine.strip(at(frame.ip)?);
        let mut all = [0; Registers::COUNT];
        for (value, offset) in all.iter_mut().zip(frame.registers) {
            *value = at(*offset)?;
        }
        if ip == 0 {
            return Err(Stuck::Ended(StackOutcome::ChainEnd));
        }
        cursor.enter_interrupted(ip, all, self.machine);
        Ok(())
    }

    fn by_frame_pointer(&self, cursor: &mut Cursor, reason: StackOutcome) -> Result<(), StackOutcome> {
        let Registers { fp, sp, .. } = cursor.registers;
        if fp == 0 {
            return Err(if cursor.exact { reason } else { StackOutcome::ChainEnd });
        }
        if fp < sp || !fp.is_multiple_of(8) {
            return Err(reason);
        }
        let read = |avma: u64| {
            self.memory.read_u64(Avma(avma)).ok_or_else(|| match self.memory.unreadable(Avma(avma)) {
                StackOutcome::CopyEnded => StackOutcome::CopyEnded,
                _ => reason,
            })
        };
        let caller_fp = read(fp)?;
        let ip = self.machine.strip(read(fp.wrapping_add(8))?);
        if ip == 0 {
            return Err(StackOutcome::ChainEnd);
        }
        if (self.mappings)(Avma(ip.wrapping_sub(1))).is_none() {
            return Err(reason);
        }
        cursor.enter_caller(ip, fp.wrapping_add(16), caller_fp);
        cursor.sp_lost = matches!(self.machine, Machine::Aarch64 { .. });
        Ok(())
    }

    fn read(&self, avma: u64) -> Result<u64, Stuck> {
        self.memory.read_u64(Avma(avma)).ok_or_else(|| Stuck::Ended(self.memory.unreadable(Avma(avma))))
    }
}

#[cfg(test)]
mod tests;
