//! What an instruction does to the frame it runs in: how far SP and FP lie below the CFA, and where the caller's FP is.

use iced_x86::{
    Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
};

use crate::rule::{Cfa, Rule, Saved};

/// The code moves the stack in a way that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// The frame as it is before an instruction. Distances are in bytes below the CFA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// None where SP was moved by a number that only the running code knows.
    sp: Option<i32>,
    /// None where FP does not point into the frame.
    fp: Option<i32>,
    /// The slot that the caller's FP was put into.
    saved_fp: Option<i32>,
    /// FP still is, or again is, the caller's.
    fp_is_callers: bool,
}

const RETURN_ADDRESS_BYTES: i32 = 8;

impl Frame {
    /// A function's first instruction.
    pub(super) const ENTRY: Self =
        Self { sp: Some(RETURN_ADDRESS_BYTES), fp: None, saved_fp: None, fp_is_callers: true };

    /// Whether a function may return, or jump to another one, from here.
    pub(super) fn may_leave(&self) -> bool {
        self.sp == Self::ENTRY.sp && self.fp_is_callers
    }

    /// What holds where two ways meet; none where they contradict each other.
    pub(super) fn meet(self, other: Self) -> Option<Self> {
        let agreed = |a: Option<i32>, b: Option<i32>| a.filter(|_| a == b);
        let met = Self {
            sp: agreed(self.sp, other.sp),
            fp: agreed(self.fp, other.fp),
            saved_fp: agreed(self.saved_fp, other.saved_fp),
            fp_is_callers: self.fp_is_callers && other.fp_is_callers,
        };
        met.is_known().then_some(met)
    }

    /// How the caller is found from here.
    pub(super) fn rule(&self) -> Rule {
        // Functions that take arguments off the stack when they return, as V8's do, move their caller's SP, not its FP.
        let cfa = match (self.sp, self.fp) {
            (_, Some(fp)) => Cfa::Fp(fp),
            (Some(sp), None) => Cfa::Sp(sp),
            (None, None) => return Rule::UNSUPPORTED,
        };
        let slot = self.saved_fp.and_then(|slot| i16::try_from(-slot).ok());
        let fp = match slot {
            Some(slot) => Saved::AtCfa(slot),
            None if self.fp_is_callers => Saved::Same,
            None => Saved::Unknown,
        };
        Rule::new(cfa, fp, Saved::AtCfa(-8))
    }

    /// The frame behind an instruction that goes on to the next.
    pub(super) fn behind(
        mut self,
        instruction: &Instruction,
        info: &mut InstructionInfoFactory,
    ) -> Result<Self, Refused> {
        match instruction.mnemonic() {
            Mnemonic::Push => self.push(instruction)?,
            Mnemonic::Pop => self.pop(instruction)?,
            Mnemonic::Leave => {
                self.set_sp(self.fp)?;
                self.pop_fp()?;
            }
            Mnemonic::Enter => return Err(Refused),
            Mnemonic::Mov | Mnemonic::Lea | Mnemonic::Add | Mnemonic::Sub => {
                self.assign(instruction, info)?;
            }
            _ => self.clobber(instruction, info)?,
        }
        if self.is_known() { Ok(self) } else { Err(Refused) }
    }

    fn is_known(&self) -> bool {
        self.sp.is_some() || self.fp.is_some()
    }

    fn push(&mut self, instruction: &Instruction) -> Result<(), Refused> {
        self.move_sp(instruction.stack_pointer_increment())?;
        if instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RBP {
            self.save_fp(self.sp);
        }
        Ok(())
    }

    fn pop(&mut self, instruction: &Instruction) -> Result<(), Refused> {
        let target = (instruction.op0_kind() == OpKind::Register).then(|| instruction.op0_register());
        match target {
            Some(Register::RBP) => self.pop_fp(),
            Some(Register::RSP) => Err(Refused),
            _ => self.move_sp(instruction.stack_pointer_increment()),
        }
    }

    fn pop_fp(&mut self) -> Result<(), Refused> {
        self.load_fp(self.sp);
        self.move_sp(8)
    }

    /// Adds to SP; only whole words are pushed and popped.
    fn move_sp(&mut self, bytes: i32) -> Result<(), Refused> {
        if bytes % 8 != 0 {
            return Err(Refused);
        }
        match self.sp {
            Some(sp) => self.set_sp(sp.checked_sub(bytes)),
            None => Ok(()),
        }
    }

    /// Moves SP; never above the return address. What lies below SP counts no more.
    fn set_sp(&mut self, sp: Option<i32>) -> Result<(), Refused> {
        let sp = sp.filter(|sp| *sp >= RETURN_ADDRESS_BYTES).ok_or(Refused)?;
        self.sp = Some(sp);
        self.saved_fp = self.saved_fp.filter(|slot| *slot <= sp);
        Ok(())
    }

    fn save_fp(&mut self, slot: Option<i32>) {
        if self.fp_is_callers && slot.is_some_and(|slot| slot > RETURN_ADDRESS_BYTES) {
            self.saved_fp = slot;
        }
    }

    /// Where the caller's FP is restored, the slot counts no more: the function may put something else there.
    fn load_fp(&mut self, slot: Option<i32>) {
        self.fp = None;
        self.fp_is_callers = slot.is_some() && slot == self.saved_fp;
        if self.fp_is_callers {
            self.saved_fp = None;
        }
    }

    /// `mov`, `lea`, `add` and `sub`, of which those of SP and FP can be followed.
    fn assign(
        &mut self,
        instruction: &Instruction,
        info: &mut InstructionInfoFactory,
    ) -> Result<(), Refused> {
        if instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Memory
            && instruction.op1_kind() == OpKind::Register
            && instruction.op1_register() == Register::RBP
        {
            self.save_fp(self.place(instruction));
            return Ok(());
        }
        let target = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register(),
            _ => return Ok(()),
        };
        match target {
            Register::RSP => {
                if let value @ Some(_) = self.value(instruction) {
                    return self.set_sp(value);
                }
                self.sp = None;
                Ok(())
            }
            Register::RBP if is_load(instruction) => {
                self.load_fp(self.place(instruction));
                Ok(())
            }
            Register::RBP => {
                self.fp = self.value(instruction);
                self.fp_is_callers = false;
                Ok(())
            }
            _ => self.clobber(instruction, info),
        }
    }

    /// What the instruction makes of its target, if that is a place in the frame.
    fn value(&self, instruction: &Instruction) -> Option<i32> {
        let immediate = || {
            let is_immediate = !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory);
            is_immediate.then(|| i32::try_from(instruction.immediate(1) as i64).ok()).flatten()
        };
        let target = self.register(instruction.op0_register());
        match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op1_kind() == OpKind::Register => {
                self.register(instruction.op1_register())
            }
            Mnemonic::Lea => self.place(instruction),
            Mnemonic::Add => target?.checked_sub(immediate()?),
            Mnemonic::Sub => target?.checked_add(immediate()?),
            _ => None,
        }
    }

    /// The place that the memory operand names, if that is in the frame.
    fn place(&self, instruction: &Instruction) -> Option<i32> {
        if instruction.memory_index() != Register::None || instruction.has_segment_prefix() {
            return None;
        }
        let displacement = i32::try_from(instruction.memory_displacement64() as i64).ok()?;
        self.register(instruction.memory_base())?.checked_sub(displacement)
    }

    fn register(&self, register: Register) -> Option<i32> {
        match register {
            Register::RSP => self.sp,
            Register::RBP => self.fp,
            _ => None,
        }
    }

    /// Any other instruction: what it writes is not known any more.
    fn clobber(
        &mut self,
        instruction: &Instruction,
        info: &mut InstructionInfoFactory,
    ) -> Result<(), Refused> {
        if instruction.is_stack_instruction() {
            return self.move_sp(instruction.stack_pointer_increment());
        }
        let options = InstructionInfoOptions::NO_MEMORY_USAGE;
        for used in info.info_options(instruction, options).used_registers() {
            if matches!(used.access(), OpAccess::Read | OpAccess::CondRead) {
                continue;
            }
            match used.register().full_register() {
                Register::RSP => self.sp = None,
                Register::RBP => {
                    self.fp = None;
                    self.fp_is_callers = false;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_load(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov && instruction.op1_kind() == OpKind::Memory
}
