//! The books of context switches: every time a thread left a CPU has one fate.

use pyrite_bpf::OffFate;

/// Departures by fate. Those up to [`OffFate::NoSlot`] are counted by the BPF program, the others by user space, which
/// says what became of [`OffFate::Sent`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffFates([u64; OffFate::COUNT]);

impl OffFates {
    /// Takes counts in the order of the fates' codes.
    pub fn from_counts(counts: [u64; OffFate::COUNT]) -> Self {
        Self(counts)
    }

    /// How many departures had this fate.
    pub fn get(&self, fate: OffFate) -> u64 {
        self.0[fate as usize]
    }

    /// Counts one more.
    pub fn count(&mut self, fate: OffFate) {
        self.0[fate as usize] += 1;
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Every fate with its count.
    pub fn iter(&self) -> impl Iterator<Item = (OffFate, u64)> + '_ {
        OffFate::ALL.into_iter().zip(self.0)
    }

    /// Captured departures that user space has accounted for: all that it counts.
    pub fn settled(&self) -> u64 {
        let by_kernel =
            [OffFate::Sent, OffFate::Shed, OffFate::RingFull, OffFate::NoScratch, OffFate::NoSlot];
        self.iter().filter(|(fate, _)| !by_kernel.contains(fate)).map(|(_, count)| count).sum()
    }
}
