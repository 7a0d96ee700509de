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

    /// Departures that were captured, or were to be, and of which all or a part is missing.
    pub fn lost(&self) -> u64 {
        let told = [OffFate::Sent, OffFate::Shed, OffFate::Closed, OffFate::Filtered];
        self.iter().filter(|(fate, _)| !told.contains(fate)).map(|(_, count)| count).sum()
    }

    /// Captured departures that user space has accounted for: all that it counts.
    pub fn settled(&self) -> u64 {
        let by_kernel =
            [OffFate::Sent, OffFate::Shed, OffFate::RingFull, OffFate::NoScratch, OffFate::NoSlot];
        self.iter().filter(|(fate, _)| !by_kernel.contains(fate)).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shed_departures_are_stood_for_and_filtered_ones_were_not_asked_for() {
        let lost: Vec<OffFate> = OffFate::ALL
            .into_iter()
            .filter(|fate| {
                let mut fates = OffFates::default();
                fates.count(*fate);
                fates.lost() == 1
            })
            .collect();
        let expect = [
            OffFate::RingFull,
            OffFate::NoScratch,
            OffFate::NoSlot,
            OffFate::EndLost,
            OffFate::Malformed,
            OffFate::PendingFull,
            OffFate::WaitingFull,
            OffFate::OpenFull,
        ];
        assert_eq!(lost, expect);
    }
}
