//! Follows every way through one function.

use std::ops::Range;

use hashbrown::HashMap;
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind,
    Register,
};

use super::frame::{Frame, Refused};
use crate::rule::Rule;

/// A quarter of a megabyte of code; compilers make no such functions.
const MAX_FUNCTION_INSTRUCTIONS: usize = 1 << 16;

/// Code that one rule holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// svmas.
    pub(super) code: Range<u64>,
    pub(super) rule: Rule,
}

/// Code without information, all of it up to the next that has some.
pub(super) struct Gap {
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
}

impl Gap {
    pub(super) fn holds(&self, svma: u64) -> bool {
        self.decoder_at(svma).is_some()
    }

    fn decoder_at(&self, svma: u64) -> Option<Decoder<'_>> {
        let at = usize::try_from(svma.checked_sub(self.start)?).ok()?;
        let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
        Some(Decoder::with_ip(64, rest, svma, DecoderOptions::NONE))
    }

    /// The instruction at `svma`.
    pub(super) fn instruction(&self, svma: u64) -> Option<Instruction> {
        Some(self.decoder_at(svma)?.decode()).filter(|instruction| !instruction.is_invalid())
    }
}

/// Where a function begins and, where that is known, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) svma: u64,
    pub(super) end: Option<u64>,
    /// Nothing says that this is where one begins. Code that comes from here to a return with SP as it was has the return
    /// address at SP all the same.
    pub(super) is_hole: bool,
}

/// The walk through functions, one after the other.
pub(super) struct Explorer {
    /// The instructions of the function at hand. Made anew for each: to clear a map takes as long as its largest function did.
    seen: HashMap<u64, Seen>,
    /// Ways still to be followed.
    ways: Vec<(u64, Frame)>,
    /// Ways that begin behind a call. Calls that never return have none, and what lies behind them may be code that has
    /// nothing to do with them: so these come last, and what contradicts the others is left.
    behind_calls: Vec<(u64, Frame)>,
    /// Frames at jumps to addresses out of a table.
    switches: Vec<Frame>,
    /// The function was seen to return.
    returns: bool,
    /// Where functions are called that no symbol names.
    pub(super) callees: Vec<u64>,
    /// How many instructions may still be looked at.
    pub(super) budget: usize,
    info: InstructionInfoFactory,
}

#[derive(Clone, Copy)]
struct Seen {
    frame: Frame,
    end: u64,
}

impl Explorer {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            seen: HashMap::new(),
            ways: Vec::new(),
            behind_calls: Vec::new(),
            switches: Vec::new(),
            returns: false,
            callees: Vec::new(),
            budget,
            info: InstructionInfoFactory::new(),
        }
    }

    /// Appends what holds in the function. One that cannot be followed says nothing, where its end is known.
    pub(super) fn explore(&mut self, gap: &Gap, entry: Entry, pieces: &mut Vec<Piece>) {
        self.seen = HashMap::new();
        self.switches.clear();
        self.ways.clear();
        self.behind_calls.clear();
        self.returns = false;
        let callees_before = self.callees.len();
        self.ways.push((entry.svma, Frame::ENTRY));
        let followed = self.follow_all(gap, entry);
        if followed == Err(Refused) || (entry.is_hole && !self.returns) {
            self.callees.truncate(callees_before);
            let code = entry.svma..entry.end.unwrap_or(entry.svma);
            pieces.push(Piece { code, rule: Rule::NONE });
            return;
        }
        let first = pieces.len();
        let mut found: Vec<Piece> = self.seen.iter().map(|(svma, seen)| seen.piece(*svma)).collect();
        found.sort_unstable_by_key(|piece| piece.code.start);
        for piece in found {
            match pieces[first..].last_mut() {
                Some(last) if last.code.end == piece.code.start && last.rule == piece.rule => {
                    last.code.end = piece.code.end;
                }
                _ => pieces.push(piece),
            }
        }
    }

    fn follow_all(&mut self, gap: &Gap, entry: Entry) -> Result<(), Refused> {
        let mut unseen_from = entry.svma;
        loop {
            while let Some((at, frame)) = self.ways.pop() {
                self.follow(gap, entry, at, frame)?;
            }
            if let Some((at, frame)) = self.behind_calls.pop() {
                let seen = self.seen.get(&at);
                if seen.is_none_or(|seen| seen.frame.meet(frame).is_some()) {
                    self.ways.push((at, frame));
                }
            } else if let Some(way) = self.behind_switch(gap, entry, &mut unseen_from) {
                self.ways.push(way);
            } else {
                return Ok(());
            }
        }
    }

    /// Follows one way to its end; what branches off is put aside.
    fn follow(&mut self, gap: &Gap, entry: Entry, mut at: u64, mut frame: Frame) -> Result<(), Refused> {
        let mut before = Instruction::default();
        loop {
            if let Some(seen) = self.seen.get(&at) {
                let met = seen.frame.meet(frame).ok_or(Refused)?;
                if met == seen.frame {
                    return Ok(());
                }
                frame = met;
            }
            self.budget = self.budget.checked_sub(1).ok_or(Refused)?;
            if self.seen.len() >= MAX_FUNCTION_INSTRUCTIONS {
                return Err(Refused);
            }
            let instruction = gap.instruction(at).ok_or(Refused)?;
            let next = instruction.next_ip();
            self.seen.insert(at, Seen { frame, end: next });
            match instruction.flow_control() {
                FlowControl::Next if instruction.mnemonic() == Mnemonic::Hlt => return Ok(()),
                FlowControl::Next => frame = frame.behind(&instruction, &mut self.info)?,
                FlowControl::ConditionalBranch => {
                    self.jump(gap, entry, instruction.near_branch_target(), frame)?;
                }
                FlowControl::UnconditionalBranch => {
                    return self.jump(gap, entry, instruction.near_branch_target(), frame);
                }
                FlowControl::IndirectBranch => {
                    // Where the function may leave, the jump may be a call by a pointer.
                    if !frame.may_leave() || is_switch(&before, &instruction) {
                        self.switches.push(frame);
                    }
                    return Ok(());
                }
                FlowControl::Call | FlowControl::IndirectCall => {
                    self.call(gap, entry, &instruction, frame);
                    return Ok(());
                }
                FlowControl::Return if instruction.code() == Code::Retnq && frame.may_leave() => {
                    self.returns = true;
                    return Ok(());
                }
                FlowControl::Return | FlowControl::XbeginXabortXend => return Err(Refused),
                FlowControl::Interrupt | FlowControl::Exception => return Ok(()),
            }
            (at, before) = (next, instruction);
        }
    }

    /// A jump within the function, or to a part of it that lies elsewhere, or to another function.
    fn jump(&mut self, gap: &Gap, entry: Entry, target: u64, frame: Frame) -> Result<(), Refused> {
        let is_within = entry.end.is_none_or(|end| (entry.svma..end).contains(&target));
        if gap.holds(target) && (is_within || !frame.may_leave()) {
            self.ways.push((target, frame));
            return Ok(());
        }
        if frame.may_leave() { Ok(()) } else { Err(Refused) }
    }

    fn call(&mut self, gap: &Gap, entry: Entry, instruction: &Instruction, frame: Frame) {
        let next = instruction.next_ip();
        if instruction.is_call_near() && gap.holds(instruction.near_branch_target()) {
            self.callees.push(instruction.near_branch_target());
        }
        let goes_on = match entry.end {
            Some(end) => (entry.svma..end).contains(&next),
            // Behind a last call that does not return comes padding, or another function. Parts of functions that were
            // put before all others are too many and too short to be told apart by that.
            None => next > entry.svma && gap.instruction(next).is_some_and(|next| !is_padding(&next)),
        };
        if goes_on {
            self.behind_calls.push((next, frame));
        }
    }

    /// Code that only a jump out of a table leads to is what nothing else has led to; it begins with the frame of that jump.
    fn behind_switch(&mut self, gap: &Gap, entry: Entry, unseen_from: &mut u64) -> Option<(u64, Frame)> {
        let frame =
            *self.switches.first().filter(|first| self.switches.iter().all(|other| other == *first))?;
        while *unseen_from < entry.end? {
            if let Some(seen) = self.seen.get(unseen_from) {
                *unseen_from = seen.end;
                continue;
            }
            self.budget = self.budget.checked_sub(1)?;
            let instruction = gap.instruction(*unseen_from)?;
            if !is_padding(&instruction) {
                return Some((*unseen_from, frame));
            }
            *unseen_from = instruction.next_ip();
        }
        None
    }
}

/// Whether a jump is to an address out of a table for sure: one that the instruction before added up, or one that the
/// processor is told not to track (by a prefix that once chose DS).
fn is_switch(before: &Instruction, jump: &Instruction) -> bool {
    let is_sum = before.mnemonic() == Mnemonic::Add
        && jump.op0_kind() == OpKind::Register
        && before.op0_kind() == OpKind::Register
        && before.op0_register() == jump.op0_register();
    is_sum || jump.segment_prefix() == Register::DS
}

fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}

impl Seen {
    fn piece(&self, svma: u64) -> Piece {
        Piece { code: svma..self.end, rule: self.frame.rule() }
    }
}
