//! Times as the render and ingest endpoints take them: digits, or now plus or minus an offset. Never an error.

use pyrite_model::UnixMs;

/// The instant that `text` names. Eight digits that are a date are that day's start; other digits are Unix time, in
/// milliseconds, microseconds or nanoseconds if there are 13, 16 or 19 of them, else in seconds. All else is `now`
/// with the offset that follows the first sign, for example `now-1h30min`; what comes before the sign is not read.
pub(crate) fn parse(text: &str, now: UnixMs) -> UnixMs {
    let text: String = text.trim().chars().filter(|c| !matches!(c, '_' | ',' | ' ')).collect();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return date(&text).unwrap_or_else(|| unix_time(&text));
    }
    let sign = text.find('+').or_else(|| text.find('-'));
    let offset = sign.map_or(0, |at| offset_ms(&text[at..]));
    UnixMs(now.0.saturating_add(offset))
}

fn unix_time(digits: &str) -> UnixMs {
    let value: i64 = digits.parse().unwrap_or(i64::MAX);
    UnixMs(match digits.len() {
        13 => value,
        16 => value / 1000,
        19 => value / 1_000_000,
        _ => value.saturating_mul(1000),
    })
}

/// `YYYYMMDD` as the start of that day in UTC.
fn date(digits: &str) -> Option<UnixMs> {
    if digits.len() != 8 {
        return None;
    }
    let number = |from: usize, to: usize| digits[from..to].parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let month_days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let in_month = *month_days.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if year <= 1900 || !(1..=in_month).contains(&day) {
        return None;
    }
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400;
    let year_days: i64 = month_days[..month as usize - 1].iter().sum();
    let days_since_year_1 = before * 365 + leap_days + year_days + day - 1;
    Some(UnixMs((days_since_year_1 - 719_162) * 86_400_000))
}

/// A signed offset such as `-1h30min`, in milliseconds; units that are none count nothing.
fn offset_ms(text: &str) -> i64 {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let mut rest = &text[1..];
    let mut sum = 0_i64;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let count: i64 = rest[..unit_at].parse().unwrap_or(0);
        let after = &rest[unit_at..];
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        sum = sum.saturating_add(count.saturating_mul(unit_seconds(&after[..end]) * 1000));
        rest = &after[end..];
    }
    sum.saturating_mul(sign)
}

fn unit_seconds(unit: &str) -> i64 {
    match unit {
        u if u.starts_with('s') => 1,
        u if u.starts_with("mon") || u.starts_with('M') => 30 * 86_400,
        u if u.starts_with('m') => 60,
        u if u.starts_with('h') => 3600,
        u if u.starts_with('d') => 86_400,
        u if u.starts_with('w') => 7 * 86_400,
        u if u.starts_with('y') => 365 * 86_400,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_123;

    #[track_caller]
    fn check(text: &str, expected: i64) {
        assert_eq!(parse(text, UnixMs(NOW)), UnixMs(expected), "{text}");
    }

    #[test]
    fn digits_are_dates_or_unix_times() {
        check("20240229", 1_709_164_800_000);
        check("19700101", 0);
        check("20230229", 20_230_229_000);
        check("1700000000", 1_700_000_000_000);
        check("1_700,000 000", 1_700_000_000_000);
        check("1700000000123", NOW);
        check("1700000000123000", NOW);
        check("1700000000123000000", NOW);
        check("0", 0);
        check("99999999999999999999", i64::MAX);
    }

    #[test]
    fn offsets_count_from_now() {
        check("now", NOW);
        check("garbage", NOW);
        check("", NOW);
        check("now-15m", NOW - 900_000);
        check("now-1h30min", NOW - 5_400_000);
        check("now+2d", NOW + 172_800_000);
        check("whatever-1w", NOW - 604_800_000);
        check("now-1mon", NOW - 2_592_000_000);
        check("now-1M", NOW - 2_592_000_000);
        check("now-5x", NOW);
        check("now-99999999999999999999y", NOW);
        check("now-é1h", NOW - 3_600_000);
    }
}
