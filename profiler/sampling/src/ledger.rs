//! The books of the sampling clock: every tick owed has one fate (invariant I1).
//!
//! ```text
//! owed      = Σ over CPUs of (time the event ran × frequency)          from the event's own file descriptor
//! delivered = idle + ring_full + no_scratch + sent                     counted by the BPF program, per CPU
//! missed    = owed − delivered                                         ticks that never reached the program
//! sent      = stored + filtered + malformed + … + held                 counted by user space
//! ```
//!
//! What is missed is told apart by three facts: how long the CPU idled (`/proc/stat`), how many ticks came late by more
//! than a period (seen by the program as a gap that is no multiple of the period), and the rest, which the kernel
//! skipped because another BPF program was running: `bpf_overflow_handler` returns at once when `bpf_prog_active` is set.

use pyrite_bpf::{Note, TickFate};

/// Ticks by fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates([u64; TickFate::COUNT]);

impl Fates {
    /// Takes counts in the order of the fates' codes.
    pub fn from_counts(counts: [u64; TickFate::COUNT]) -> Self {
        Self(counts)
    }

    /// How many ticks had this fate.
    pub fn get(&self, fate: TickFate) -> u64 {
        self.0[fate as usize]
    }

    /// Counts `ticks` more.
    pub fn add(&mut self, fate: TickFate, ticks: u64) {
        self.0[fate as usize] += ticks;
    }

    /// Moves `ticks` from one fate to another; the books stay balanced.
    pub fn move_to(&mut self, from: TickFate, to: TickFate, ticks: u64) {
        let moved = self.take(from, ticks);
        self.add(to, moved);
    }

    /// Takes at most `ticks` out of a fate and returns how many there were.
    pub fn take(&mut self, fate: TickFate, ticks: u64) -> u64 {
        let taken = ticks.min(self.get(fate));
        self.0[fate as usize] -= taken;
        taken
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// What `self` has more than `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].saturating_sub(earlier.0[i])))
    }

    /// Every fate with its count.
    pub fn iter(&self) -> impl Iterator<Item = (TickFate, u64)> + '_ {
        TickFate::ALL.into_iter().zip(self.0)
    }

    /// Ticks that are accounted for: all but those that were merely sent on.
    pub fn total(&self) -> u64 {
        self.iter().filter(|(fate, _)| *fate != TickFate::Sent).map(|(_, ticks)| ticks).sum()
    }
}

/// Counters of things that lose no tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes([u64; Note::COUNT]);

impl Notes {
    /// How often.
    pub fn get(&self, note: Note) -> u64 {
        self.0[note as usize]
    }

    /// Counts `times` more, which may be any number that the kernel tells.
    pub fn add(&mut self, note: Note, times: u64) {
        let count = &mut self.0[note as usize];
        *count = count.saturating_add(times);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Every note with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Note, u64)> + '_ {
        Note::ALL.into_iter().zip(self.0)
    }
}

/// What is known of one CPU's event between its opening and now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuBooks {
    /// How long the event ran.
    pub running_ns: u64,
    /// How long the CPU idled meanwhile.
    pub idle_ns: u64,
    /// What the BPF program counted. Its `MissedLate` is an upper bound, cut here to what is really missing.
    pub counted: Fates,
}

/// The whole of the books at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Ticks owed.
    pub owed: u64,
    /// Ticks delivered beyond those owed: the timer and the clock drift apart, or the rate of the event adapts.
    pub surplus: u64,
    /// What became of them.
    pub fates: Fates,
    /// Sent by the BPF program but not yet read, or held until their second is complete.
    pub held: u64,
}

impl Ledger {
    /// Enters one CPU. What the program sent enters as held, until [`Self::settle`] says what became of it.
    pub fn enter(&mut self, cpu: &CpuBooks, frequency_hz: u64) {
        let ticks = |ns: u64| (u128::from(ns) * u128::from(frequency_hz) / 1_000_000_000) as u64;
        let owed = ticks(cpu.running_ns);
        let delivered = [TickFate::Sent, TickFate::Idle, TickFate::RingFull, TickFate::NoScratch];
        for fate in delivered {
            self.fates.add(fate, cpu.counted.get(fate));
        }
        let delivered: u64 = delivered.into_iter().map(|fate| cpu.counted.get(fate)).sum();
        let missed = owed.saturating_sub(delivered);
        let idle = ticks(cpu.idle_ns).saturating_sub(cpu.counted.get(TickFate::Idle)).min(missed);
        let late = cpu.counted.get(TickFate::MissedLate).min(missed - idle);
        self.owed += owed;
        self.surplus += delivered.saturating_sub(owed);
        self.fates.add(TickFate::MissedIdle, idle);
        self.fates.add(TickFate::MissedLate, late);
        self.fates.add(TickFate::MissedSkipped, missed - idle - late);
        self.held += cpu.counted.get(TickFate::Sent);
    }

    /// Enters what user space did with the ticks that were sent.
    pub fn settle(&mut self, user: &Fates) {
        self.fates.merge(user);
        self.held = self.held.saturating_sub(user.total());
    }

    /// Enters what the store did with what was handed on to it: the rest is still on its way.
    pub fn settle_store(&mut self, stored: u64, refused: u64) {
        let handed_on = self.fates.get(TickFate::Stored);
        let stored = stored.min(handed_on);
        let refused = refused.min(handed_on - stored);
        self.fates.move_to(TickFate::Stored, TickFate::StoreRefused, refused);
        self.held += self.fates.take(TickFate::Stored, handed_on - stored - refused);
    }

    /// Ticks that met a running task and are not stored, for whatever reason but that nobody asked for them.
    pub fn lost(&self) -> u64 {
        let kept =
            [TickFate::Sent, TickFate::Idle, TickFate::MissedIdle, TickFate::Stored, TickFate::Filtered];
        self.fates.iter().filter(|(fate, _)| !kept.contains(fate)).map(|(_, ticks)| ticks).sum()
    }

    /// Ticks owed that no fate explains; 0 when the books are right.
    pub fn unexplained(&self) -> i64 {
        (self.owed + self.surplus) as i64 - (self.fates.total() + self.held) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    fn counted(pairs: &[(TickFate, u64)]) -> Fates {
        let mut fates = Fates::default();
        for (fate, ticks) in pairs {
            fates.add(*fate, *ticks);
        }
        fates
    }

    fn check(idle_ms: u64, delivered: &[(TickFate, u64)], expect: &[(TickFate, u64)]) {
        let mut ledger = Ledger::default();
        let cpu =
            CpuBooks { running_ns: 1_000_000_000, idle_ns: idle_ms * 1_000_000, counted: counted(delivered) };
        ledger.enter(&cpu, 100);
        for (fate, ticks) in expect {
            assert_eq!(ledger.fates.get(*fate), *ticks, "{}", fate.name());
        }
        assert_eq!(ledger.unexplained(), 0);
    }

    #[test]
    fn what_is_missing_gets_the_reason_that_explains_it() {
        use TickFate::{Idle, MissedIdle, MissedLate, MissedSkipped, Sent};
        check(0, &[(Sent, 100)], &[(MissedSkipped, 0)]);
        check(0, &[(Sent, 60)], &[(MissedSkipped, 40)]);
        check(500, &[(Sent, 50), (Idle, 10)], &[(MissedIdle, 40), (MissedSkipped, 0)]);
        check(500, &[(Sent, 40), (Idle, 50), (MissedLate, 3)], &[(MissedLate, 3), (MissedSkipped, 7)]);
        check(0, &[(Sent, 99), (MissedLate, 50)], &[(MissedLate, 1), (MissedSkipped, 0)]);
        check(0, &[(Sent, 103)], &[(MissedSkipped, 0)]);
    }

    proptest! {
        #[test]
        fn the_books_always_balance(running in 0..1_u64 << 50, idle in 0..1_u64 << 50, sent in 0..1_u64 << 40, idles in 0..1_u64 << 40, late in any::<u32>(), stored in 0..1_u64 << 40) {
            let stored = stored.min(sent);
            let mut ledger = Ledger::default();
            let counted = counted(&[(TickFate::Sent, sent), (TickFate::Idle, idles), (TickFate::MissedLate, u64::from(late))]);
            ledger.enter(&CpuBooks { running_ns: running, idle_ns: idle, counted }, 97);
            ledger.settle(&super::tests::counted(&[(TickFate::Stored, stored)]));
            prop_assert_eq!(ledger.unexplained(), 0);
            prop_assert!(ledger.surplus == 0 || ledger.fates.get(TickFate::MissedSkipped) == 0);
            prop_assert_eq!(ledger.held, sent - stored);
            ledger.settle_store(stored / 2, stored / 4);
            prop_assert_eq!(ledger.unexplained(), 0);
            prop_assert_eq!(ledger.held, sent - stored / 2 - stored / 4);
        }
    }
}
