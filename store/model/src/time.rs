//! Wall-clock instants and query windows. Kernel clocks never appear here: the agent converts at its edge.

/// Milliseconds since the Unix epoch. Negative values are legal (clients probe with them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// The instant at the start of this instant's second.
    #[must_use]
    pub fn floor_to_second(self) -> Self {
        Self(self.0.div_euclid(1000) * 1000)
    }

    /// Converts from the nanoseconds that pprof uses.
    pub fn from_unix_ns(unix_ns: i64) -> Self {
        Self(unix_ns.div_euclid(1_000_000))
    }
}

/// A query window, inclusive at both ends, as the Pyroscope API defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// First instant inside the window.
    pub start: UnixMs,
    /// Last instant inside the window.
    pub end: UnixMs,
}

impl TimeRange {
    /// A window from `start` to `end`, both inside it.
    pub fn new(start: UnixMs, end: UnixMs) -> Self {
        Self { start, end }
    }

    /// Whether `time` lies inside the window.
    pub fn contains(self, time: UnixMs) -> bool {
        self.start <= time && time <= self.end
    }

    /// Whether the two windows share an instant.
    pub fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}
