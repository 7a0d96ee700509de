//! Wall-clock instants and query windows. Kernel clocks never appear here: the agent converts at its edge.

use std::fmt;

const DAY_MS: i64 = 86_400_000;

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

impl fmt::Display for UnixMs {
    /// As RFC 3339 has it, in UTC: `2026-03-02T09:00:00.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_date(self.0.div_euclid(DAY_MS));
        let of_day = self.0.rem_euclid(DAY_MS);
        let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
        let (second, millisecond) = (of_day / 1000 % 60, of_day % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// Years are counted from March, so that a leap day is a year's last, and in eras of 400 years, which all have the same
/// number of days; see "chrono-Compatible Low-Level Date Algorithms" by Howard Hinnant.
fn civil_date(days: i64) -> (i64, i64, i64) {
    const ERA_DAYS: i64 = 146_097;
    const TO_MARCH_OF_YEAR_0: i64 = 719_468;
    let days = days + TO_MARCH_OF_YEAR_0;
    let (era, of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA_DAYS - 1)) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_read_as_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(UnixMs(ms).to_string(), text, "{ms}");
        }
        for edge in [i64::MIN, i64::MAX] {
            assert!(UnixMs(edge).to_string().ends_with('Z'));
        }
    }
}
