//! Wall-clock instants and query windows. Kernel clocks never appear here: the agent converts at its edge.

use std::fmt;
use std::str::FromStr;

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

/// The text is no date, or no date and time in UTC, as RFC 3339 has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a date such as 2026-03-02 or 2026-03-02T09:00:00Z")]
pub struct TimeError;

impl FromStr for UnixMs {
    type Err = TimeError;

    /// Reads `2026-03-02T09:00:00Z`, with a fraction of seconds or without, and `2026-03-02`, which is when that day begins.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let (date, of_day) = match text.split_once(['T', 't', ' ']) {
            Some((date, time)) => (date, time.strip_suffix(['Z', 'z']).and_then(milliseconds_of_day)),
            None => (text, Some(0)),
        };
        let days = day_number(date).ok_or(TimeError)?;
        Ok(Self(days * DAY_MS + of_day.ok_or(TimeError)?))
    }
}

/// Numbers of so many digits each, and nothing between them but the separator.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        let is_number = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = part.parse().ok().filter(|_| is_number)?;
    }
    parts.next().is_none().then_some(numbers)
}

fn milliseconds_of_day(text: &str) -> Option<i64> {
    let (text, fraction) =
        text.split_once('.').map_or((text, None), |(text, fraction)| (text, Some(fraction)));
    let [hours, minutes, seconds] = numbers(text, ':', [2, 2, 2])?;
    let millis = match fraction {
        None => 0,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{digits:0<3}")[..3].parse().ok()?
        }
        Some(_) => return None,
    };
    let in_range = hours < 24 && minutes < 60 && seconds < 60;
    in_range.then_some(((hours * 60 + minutes) * 60 + seconds) * 1000 + millis)
}

/// The inverse of [`civil_date`].
fn day_number(text: &str) -> Option<i64> {
    let [year, month, day] = numbers(text, '-', [4, 2, 2])?;
    let before = |year: i64| year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // Days from 0000-03-01 to March of the year that the month belongs to, where years begin with March.
    let (from_march, year_of_march) = ((month + 9) % 12, if month < 3 { year - 1 } else { year });
    let days = before(year_of_march) + (153 * from_march + 2) / 5 + day - 1 - 719_468;
    (civil_date(days) == (year, month, day)).then_some(days)
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

    #[test]
    fn dates_read_as_instants() {
        for day in (-20_000..40_000).step_by(13) {
            let instant = UnixMs(day * DAY_MS + day.rem_euclid(977) * 88_001);
            assert_eq!(instant.to_string().parse(), Ok(instant));
        }
        for (text, ms) in [
            ("2000-02-29", 951_782_400_000),
            ("2000-02-29T00:00:01Z", 951_782_401_000),
            ("2000-02-29 00:00:00.5z", 951_782_400_500),
            ("2000-02-29T00:00:00.0049Z", 951_782_400_004),
        ] {
            assert_eq!(text.parse(), Ok(UnixMs(ms)), "{text}");
        }
        for bad in [
            "",
            "2000",
            "2001-02-29",
            "2000-13-01",
            "2000-00-01",
            "2000-01-00",
            "2000-1-1",
            "+200-01-01",
            "2000-02-29T00:00:00",
            "2000-02-29T24:00:00Z",
            "2000-02-29T00:60:00Z",
            "2000-02-29T00:00Z",
            "2000-02-29T00:00:00.Z",
            "2000-02-29T00:00:00.xZ",
            "2000-02-29T00:00:00é",
            "é000-02-29",
        ] {
            assert_eq!(bad.parse::<UnixMs>(), Err(TimeError), "{bad}");
        }
    }
}
