//! Where a walk reads the stack: a seam, and the copied top of a stack behind it.

use pyrite_bpf::StackOutcome;
use pyrite_model::Avma;

/// The memory of a thread that does not run meanwhile.
pub trait StackMemory {
    /// The eight bytes at this address, in the machine's order.
    fn read_u64(&self, avma: Avma) -> Option<u64>;

    /// What it means for the walk that this address cannot be read.
    fn unreadable(&self, avma: Avma) -> StackOutcome {
        let _ = avma;
        StackOutcome::Fault
    }
}

/// The copied top of a stack, from its stack pointer on.
#[derive(Clone, Copy, Debug)]
pub struct StackCopy<'a> {
    sp: u64,
    bytes: &'a [u8],
}

impl<'a> StackCopy<'a> {
    /// How far behind the copy an address may lie and still be of the same stack: the usual `RLIMIT_STACK`.
    const STACK_BYTES: u64 = 8 << 20;

    /// The copy of the stack at `sp`.
    pub fn new(sp: Avma, bytes: &'a [u8]) -> Self {
        Self { sp: sp.0, bytes }
    }
}

impl StackMemory for StackCopy<'_> {
    fn read_u64(&self, avma: Avma) -> Option<u64> {
        let at = usize::try_from(avma.0.checked_sub(self.sp)?).ok()?;
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }

    fn unreadable(&self, avma: Avma) -> StackOutcome {
        let distance = avma.0.wrapping_sub(self.sp);
        if distance < Self::STACK_BYTES { StackOutcome::CopyEnded } else { StackOutcome::Fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_reads_what_it_holds_and_says_where_it_ended() {
        let bytes: Vec<u8> = (0..20).collect();
        let copy = StackCopy::new(Avma(0x7000), &bytes);
        assert_eq!(copy.read_u64(Avma(0x7000)), Some(0x0706_0504_0302_0100));
        assert_eq!(copy.read_u64(Avma(0x700c)), Some(0x1312_1110_0f0e_0d0c));
        assert_eq!(copy.read_u64(Avma(0x700d)), None);
        assert_eq!(copy.read_u64(Avma(0x6fff)), None);
        assert_eq!(copy.read_u64(Avma(u64::MAX)), None);
        assert_eq!(copy.unreadable(Avma(0x700d)), StackOutcome::CopyEnded);
        assert_eq!(copy.unreadable(Avma(0x6fff)), StackOutcome::Fault);
        assert_eq!(copy.unreadable(Avma(0x7000 + (8 << 20))), StackOutcome::Fault);
    }
}
