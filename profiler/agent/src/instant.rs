//! Instants as people write them on a command line.

use std::time::{SystemTime, UNIX_EPOCH};

use pyrite_model::UnixMs;

use crate::config::parse_duration;

/// Reads `now`, `2h` or `now-2h` for two hours ago, Unix seconds or milliseconds, a date, or a date and time in UTC.
pub fn parse(text: &str) -> Result<UnixMs, String> {
    parse_at(text, now())
}

/// The wall clock.
pub fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn parse_at(text: &str, now: UnixMs) -> Result<UnixMs, String> {
    /// As seconds these would be in the year 5138.
    const FIRST_MILLISECONDS: i64 = 100_000_000_000;
    if text == "now" {
        return Ok(now);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: i64 = text.parse().map_err(|_out_of_range| format!("{text} is too late"))?;
        return Ok(UnixMs(if number < FIRST_MILLISECONDS { number * 1000 } else { number }));
    }
    if let Ok(ago) = parse_duration(text.strip_prefix("now-").unwrap_or(text)) {
        return Ok(UnixMs(now.0.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))));
    }
    text.parse().map_err(|_not_a_date| {
        format!("{text:?} is not a time: write 2026-03-02T09:00:00Z, 2026-03-02, Unix time, now, or 2h for two hours ago")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        const NOW: i64 = 1_700_000_000_123;
        for (text, ms) in [
            ("now", NOW),
            ("2h", NOW - 7_200_000),
            ("now-15m", NOW - 900_000),
            ("1700000000", 1_700_000_000_000),
            ("1700000000123", NOW),
            ("0", 0),
            ("2000-02-29", 951_782_400_000),
            ("2000-02-29T00:00:01Z", 951_782_401_000),
        ] {
            assert_eq!(parse_at(text, UnixMs(NOW)), Ok(UnixMs(ms)), "{text}");
        }
        for bad in ["", "yesterday", "now+1h", "-5", "2h ago", "99999999999999999999", "2000-02-30"] {
            assert!(parse_at(bad, UnixMs(NOW)).is_err(), "{bad}");
        }
    }
}
