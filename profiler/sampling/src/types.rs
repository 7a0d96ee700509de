//! Small types that every module here shares: the boot clock, process identity, thread names.

use std::fmt;

use pyrite_model::UnixMs;

/// Nanoseconds on `CLOCK_BOOTTIME`: the clock of samples, of mapping events and of process start times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootNs(pub u64);

impl BootNs {
    /// Later than every real instant.
    pub const MAX: Self = Self(u64::MAX);

    /// The distance between two instants, whichever is first.
    pub fn abs_diff(self, other: Self) -> u64 {
        self.0.abs_diff(other.0)
    }

    /// This instant, `later_ns` behind.
    #[must_use]
    pub fn saturating_add(self, later_ns: u64) -> Self {
        Self(self.0.saturating_add(later_ns))
    }

    /// This instant, `earlier_ns` before.
    #[must_use]
    pub fn saturating_sub(self, earlier_ns: u64) -> Self {
        Self(self.0.saturating_sub(earlier_ns))
    }
}

/// Where the wall clock stands relative to the boot clock; changes when the wall clock is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// Unix time of the boot clock's zero, in nanoseconds.
    pub boot_at_unix_ns: i64,
}

impl WallClock {
    /// The start of the wall-clock second that `time` lies in.
    pub fn second_of(self, time: BootNs) -> UnixMs {
        let unix_ns = self.boot_at_unix_ns.saturating_add_unsigned(time.0);
        UnixMs::from_unix_ns(unix_ns).floor_to_second()
    }
}

/// One life of a process: a tgid may be used again, the pair is not.
///
/// `start` is the start time as it was first learnt: exact from a sample, up to 10 ms early from `/proc/PID/stat`, a
/// little late from a fork event. It stays the same for as long as the process is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// When the thread group's leader started.
    pub start: BootNs,
}

/// How far two sources may disagree about the start of one process. Far below the time in which a tgid comes round again.
const START_SLACK_NS: u64 = 500_000_000;

impl ProcessKey {
    /// Whether a start time from another source means the same life of this tgid.
    pub fn started_at(self, start: BootNs) -> bool {
        self.start.abs_diff(start) <= START_SLACK_NS
    }
}

/// A thread's name as the kernel keeps it: at most 15 bytes, cut at the first zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Comm([u8; 16]);

impl Comm {
    /// Takes the bytes up to the first zero, at most 15.
    pub fn new(bytes: &[u8]) -> Self {
        let mut comm = [0; 16];
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()).min(15);
        comm[..len].copy_from_slice(&bytes[..len]);
        Self(comm)
    }

    /// The name's bytes; programs may set any.
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        &self.0[..len]
    }
}

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comm_is_cut_at_zero_and_at_fifteen_bytes() {
        assert_eq!(Comm::new(b"sh\0junk").to_string(), "sh");
        assert_eq!(Comm::new(b"0123456789abcdefgh").to_string(), "0123456789abcde");
        assert_eq!(Comm::new(b"\xff").to_string(), "\u{fffd}");
    }

    #[test]
    fn seconds_follow_the_wall_clock() {
        let clock = WallClock { boot_at_unix_ns: 1_000_900_000_000 };
        assert_eq!(clock.second_of(BootNs(99_999_999)), UnixMs(1_000_000));
        assert_eq!(clock.second_of(BootNs(100_000_000)), UnixMs(1_001_000));
        assert_eq!(clock.second_of(BootNs::MAX).0 % 1000, 0);
    }
}
