//! Runs call frame programs for the three things that rules are about, the CFA, FP and the return address; and for SP, which
//! is the CFA unless a program says otherwise.
//!
//! gimli decodes the instructions. Its own evaluation keeps every register and copies a row of all of them for each
//! function; this one does less, and leaves gimli's to the tests as a second opinion.

use gimli::{
    BaseAddresses, CallFrameInstruction, CallFrameInstructionIter, CfaRule, CommonInformationEntry,
    FrameDescriptionEntry, Register, RegisterRule, UnwindSection,
};

use crate::convert::Slice;

/// How many states may be remembered at once; compilers nest two.
const MAX_REMEMBERED: usize = 64;

/// What holds at a code position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// `None` as long as the program has not said.
    pub(crate) cfa: Option<CfaRule<usize>>,
    pub(crate) fp: Option<RegisterRule<usize>>,
    pub(crate) ra: Option<RegisterRule<usize>>,
    pub(crate) sp: Option<RegisterRule<usize>>,
}

/// The program says what makes no sense, or cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// The registers that are followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Followed {
    pub(crate) fp: Register,
    pub(crate) ra: Register,
    pub(crate) sp: Register,
}

/// The state that every function of a CIE begins with.
pub(crate) fn initial<'s, S: UnwindSection<Slice<'s>>>(
    section: &S,
    bases: &BaseAddresses,
    cie: &CommonInformationEntry<Slice<'s>>,
    followed: Followed,
) -> Result<State, Broken> {
    let mut program = Program {
        instructions: cie.instructions(section, bases),
        followed,
        code_factor: 0,
        data_factor: cie.data_alignment_factor(),
        state: State { cfa: None, fp: None, ra: None, sp: None },
        initial: None,
        remembered: Vec::new(),
        at: 0,
        next: Some(0),
    };
    while program.run_to_next_position()?.is_some() {}
    Ok(program.state)
}

/// A function's program in progress.
pub(crate) struct Program<'a, 's> {
    instructions: CallFrameInstructionIter<'a, Slice<'s>>,
    followed: Followed,
    code_factor: u64,
    data_factor: i64,
    state: State,
    /// What `DW_CFA_restore` goes back to; none while that is being found out.
    initial: Option<&'a State>,
    remembered: Vec<State>,
    at: u64,
    /// Where the state being built begins; none once the program has ended.
    next: Option<u64>,
}

impl<'a, 's> Program<'a, 's> {
    pub(crate) fn new<S: UnwindSection<Slice<'s>>>(
        section: &'a S,
        bases: &'a BaseAddresses,
        fde: &FrameDescriptionEntry<Slice<'s>>,
        initial: &'a State,
        followed: Followed,
    ) -> Self {
        Self {
            instructions: fde.instructions(section, bases),
            followed,
            code_factor: fde.cie().code_alignment_factor(),
            data_factor: fde.cie().data_alignment_factor(),
            state: initial.clone(),
            initial: Some(initial),
            remembered: Vec::new(),
            at: fde.initial_address(),
            next: Some(fde.initial_address()),
        }
    }

    /// The next state and the svma that it begins at; none at the program's end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &State)>, Broken> {
        match self.run_to_next_position()? {
            Some(start) => Ok(Some((start, &self.state))),
            None => Ok(None),
        }
    }

    /// Where the state that is now wanted begins, should the program turn out broken.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Completes the state that begins at `next`.
    fn run_to_next_position(&mut self) -> Result<Option<u64>, Broken> {
        let Some(start) = self.next else { return Ok(None) };
        self.at = start;
        loop {
            let Some(instruction) = self.instructions.next().map_err(|_undecodable| Broken)? else {
                self.next = None;
                return Ok(Some(start));
            };
            let position = match instruction {
                CallFrameInstruction::SetLoc { address } => address,
                CallFrameInstruction::AdvanceLoc { delta } => {
                    let bytes = u64::from(delta).checked_mul(self.code_factor).ok_or(Broken)?;
                    start.checked_add(bytes).ok_or(Broken)?
                }
                other => {
                    self.step(&other)?;
                    continue;
                }
            };
            if position < start {
                return Err(Broken);
            }
            self.next = Some(position);
            return Ok(Some(start));
        }
    }

    fn step(&mut self, instruction: &CallFrameInstruction<usize>) -> Result<(), Broken> {
        use CallFrameInstruction as I;
        use RegisterRule as Rule;
        match *instruction {
            I::DefCfa { register, offset } => self.def_cfa(register, offset as i64),
            I::DefCfaSf { register, factored_offset } => {
                self.def_cfa(register, self.factored(factored_offset));
            }
            I::DefCfaRegister { register } => {
                let (_, offset) = self.register_cfa()?;
                self.def_cfa(register, offset);
            }
            I::DefCfaOffset { offset } => {
                let (register, _) = self.register_cfa()?;
                self.def_cfa(register, offset as i64);
            }
            I::DefCfaOffsetSf { factored_offset } => {
                let (register, _) = self.register_cfa()?;
                self.def_cfa(register, self.factored(factored_offset));
            }
            I::DefCfaExpression { expression } => self.state.cfa = Some(CfaRule::Expression(expression)),
            I::Undefined { register } => self.set(register, Some(Rule::Undefined)),
            I::SameValue { register } => self.set(register, Some(Rule::SameValue)),
            I::Offset { register, factored_offset } => {
                self.set(register, Some(Rule::Offset(self.factored(factored_offset as i64))));
            }
            I::OffsetExtendedSf { register, factored_offset } => {
                self.set(register, Some(Rule::Offset(self.factored(factored_offset))));
            }
            I::ValOffset { register, factored_offset } => {
                self.set(register, Some(Rule::ValOffset(self.factored(factored_offset as i64))));
            }
            I::ValOffsetSf { register, factored_offset } => {
                self.set(register, Some(Rule::ValOffset(self.factored(factored_offset))));
            }
            I::Register { dest_register, src_register } => {
                self.set(dest_register, Some(Rule::Register(src_register)));
            }
            I::Expression { register, expression } => self.set(register, Some(Rule::Expression(expression))),
            I::ValExpression { register, expression } => {
                self.set(register, Some(Rule::ValExpression(expression)));
            }
            I::Restore { register } => self.restore(register)?,
            I::RememberState if self.remembered.len() < MAX_REMEMBERED => {
                self.remembered.push(self.state.clone());
            }
            I::RestoreState => self.state = self.remembered.pop().ok_or(Broken)?,
            // Whether the return address is signed makes no difference: its upper bits are masked wherever it is read.
            I::ArgsSize { .. } | I::NegateRaState | I::Nop => {}
            _ => return Err(Broken),
        }
        Ok(())
    }

    fn factored(&self, offset: i64) -> i64 {
        offset.wrapping_mul(self.data_factor)
    }

    fn def_cfa(&mut self, register: Register, offset: i64) {
        self.state.cfa = Some(CfaRule::RegisterAndOffset { register, offset });
    }

    /// The CFA as a register and an offset, of which the program is about to change one.
    fn register_cfa(&self) -> Result<(Register, i64), Broken> {
        match self.state.cfa {
            Some(CfaRule::RegisterAndOffset { register, offset }) => Ok((register, offset)),
            _ => Err(Broken),
        }
    }

    fn set(&mut self, register: Register, rule: Option<RegisterRule<usize>>) {
        if register == self.followed.fp {
            self.state.fp = rule;
        } else if register == self.followed.ra {
            self.state.ra = rule;
        } else if register == self.followed.sp {
            self.state.sp = rule;
        }
    }

    fn restore(&mut self, register: Register) -> Result<(), Broken> {
        let initial = self.initial.ok_or(Broken)?;
        if register == self.followed.fp {
            self.state.fp = initial.fp.clone();
        } else if register == self.followed.ra {
            self.state.ra = initial.ra.clone();
        } else if register == self.followed.sp {
            self.state.sp = initial.sp.clone();
        }
        Ok(())
    }
}
