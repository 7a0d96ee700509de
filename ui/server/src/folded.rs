//! Text profiles sent to `/ingest`: one stack per line, root first, its frames divided by `;`.
//!
//! What is counted follows from the suffix of the application's name, as Pyroscope has it: `app.alloc_space`.

use pyrite_model::pprof::{Appended, PushLimits, inflate};
use pyrite_model::{Batch, LabelSet, ProfileType, Row, SeriesRows, UnixMs};

use crate::ApiError;

/// What every row of a text profile has in common.
#[derive(Debug)]
pub(crate) struct TextProfile<'a> {
    pub(crate) labels: LabelSet,
    pub(crate) kind: TextKind,
    pub(crate) time: UnixMs,
    /// Whether each line counts one, instead of ending in its count.
    pub(crate) lines: bool,
    pub(crate) limits: &'a PushLimits,
}

/// What a text profile counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextKind {
    profile_type: ProfileType,
    /// What one count is worth.
    scale: i64,
}

impl TextKind {
    /// Kind and name without suffix of an application that samples `rate` times a second.
    pub(crate) fn of(app: &str, rate: i64) -> Result<(Self, &str), ApiError> {
        let (app, suffix) = app.rsplit_once('.').unwrap_or((app, "cpu"));
        let (name, sample_type, sample_unit) = match suffix {
            "cpu" | "itimer" => ("process_cpu", "cpu", "nanoseconds"),
            "wall" | "seconds" | "milliseconds" | "microseconds" | "nanoseconds" => {
                ("wall", "wall", "nanoseconds")
            }
            "inuse_objects"
            | "alloc_objects"
            | "alloc_in_new_tlab_objects"
            | "alloc_outside_tlab_objects"
            | "live" => ("memory", suffix, "count"),
            "inuse_space" | "alloc_space" | "alloc_in_new_tlab_bytes" | "alloc_outside_tlab_bytes" => {
                ("memory", suffix, "bytes")
            }
            "bytes" => ("memory", "samples", "bytes"),
            "goroutines" => ("goroutine", "goroutines", "count"),
            "mutex_count" => ("mutex", "contentions", "count"),
            "mutex_duration" => ("mutex", "delay", "nanoseconds"),
            "block_count" | "lock_count" => ("block", "contentions", "count"),
            "block_duration" | "lock_duration" => ("block", "delay", "nanoseconds"),
            "exceptions" => ("exceptions", "samples", "count"),
            _ => return Err(ApiError::IngestFormat { what: format!("unknown profile type: {suffix}") }),
        };
        let timed = matches!(name, "process_cpu" | "wall");
        let (sample, period, scale) = match timed {
            true if rate > 0 => ((sample_type, sample_unit), ("cpu", "nanoseconds"), 1_000_000_000 / rate),
            true => (("samples", "count"), ("", ""), 1),
            false => ((sample_type, sample_unit), ("", ""), 1),
        };
        let profile_type = ProfileType {
            name: name.to_owned(),
            sample_type: sample.0.to_owned(),
            sample_unit: sample.1.to_owned(),
            period_type: period.0.to_owned(),
            period_unit: period.1.to_owned(),
        };
        Ok((Self { profile_type, scale }, app))
    }
}

/// The rows of a text profile, plain or gzip.
pub(crate) fn decode(body: &[u8], profile: TextProfile<'_>) -> Result<(Batch, Appended), ApiError> {
    let text = inflate(body, profile.limits.max_profile_bytes).map_err(ApiError::Ingest)?;
    let mut batch = Batch::default();
    let mut rows: Vec<Row> = Vec::new();
    let mut appended = Appended::default();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let (stack, count) = if profile.lines { (line, 1) } else { stack_and_count(line, index)? };
        let stack = String::from_utf8_lossy(stack);
        let mut frames: Vec<&str> = stack.split(';').collect();
        appended.truncated_stacks += usize::from(frames.len() > profile.limits.max_frames);
        frames.truncate(profile.limits.max_frames);
        let locations: Vec<_> =
            frames.iter().rev().map(|name| batch.symbols.intern_named_location(name)).collect();
        match batch.symbols.intern_stack(&locations) {
            Some(_) if count < 0 => appended.negative_samples += 1,
            Some(stack) if count > 0 => {
                let value = count.saturating_mul(profile.kind.scale);
                rows.push(Row { time: profile.time, stack, value });
            }
            _ => {}
        }
    }
    rows.sort_unstable_by_key(|row| row.stack);
    rows.dedup_by(|row, kept| {
        let same = row.stack == kept.stack;
        kept.value = if same { kept.value.saturating_add(row.value) } else { kept.value };
        same
    });
    appended.rows = rows.len();
    if !rows.is_empty() {
        let TextProfile { labels, kind: TextKind { profile_type, .. }, .. } = profile;
        batch.series.push(SeriesRows { labels, profile_type, rows });
    }
    Ok((batch, appended))
}

fn stack_and_count(line: &[u8], index: usize) -> Result<(&[u8], i64), ApiError> {
    let at = line.iter().rposition(|&byte| byte == b' ');
    let count = at.and_then(|at| str::from_utf8(&line[at + 1..]).ok()?.parse().ok());
    if let (Some(at), Some(count)) = (at, count) {
        return Ok((&line[..at], count));
    }
    Err(ApiError::IngestFormat { what: format!("line {}: no count after the stack", index + 1) })
}

#[cfg(test)]
mod tests {
    use pyrite_model::frame_names;

    use super::*;

    fn rows(body: &[u8], lines: bool) -> Result<Vec<(String, i64)>, ApiError> {
        let (kind, _) = TextKind::of("app", 100).unwrap();
        let limits = PushLimits { max_frames: 3, ..PushLimits::default() };
        let labels = LabelSet::default();
        let profile = TextProfile { labels, kind, time: UnixMs(1), lines, limits: &limits };
        let (batch, appended) = decode(body, profile)?;
        assert_eq!(appended.rows, batch.row_count());
        let text = |row: &Row| (frame_names(&batch.symbols, row.stack).join(";"), row.value);
        Ok(batch.series.iter().flat_map(|series| series.rows.iter().map(text)).collect())
    }

    #[test]
    fn counts_become_nanoseconds_and_equal_stacks_add_up() {
        let expected = [("a;b c".to_owned(), 30_000_000), ("a".to_owned(), 10_000_000)];
        let mut found = rows(b"a;b c 1\r\na 1\n\na;b c 2\nd 0\ne -1\n", false).unwrap();
        found.sort_by(|a, b| b.cmp(a));
        assert_eq!(found, expected);
        let packed = pyrite_model::pprof::gzip(b"a 1");
        assert_eq!(rows(&packed, false).unwrap(), [("a".to_owned(), 10_000_000)]);
    }

    #[test]
    fn lines_count_one_each() {
        assert_eq!(rows(b"a;b\na;b\n", true).unwrap(), [("a;b".to_owned(), 20_000_000)]);
    }

    #[test]
    fn deep_stacks_keep_their_root() {
        assert_eq!(rows(b"a;b;c;d 1", false).unwrap(), [("a;b;c".to_owned(), 10_000_000)]);
    }

    #[test]
    fn a_line_without_a_count_is_named() {
        for bad in [&b"a 1\na;b\n"[..], b"a 1\na x\n", b"a 1\n\xff\xff\n"] {
            let error = rows(bad, false).unwrap_err();
            assert_eq!(error.to_string(), "line 2: no count after the stack");
        }
    }

    #[test]
    fn the_suffix_says_what_is_counted() {
        for (app, rate, id, name) in [
            ("app", 100, "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "app"),
            ("my.app.cpu", 100, "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "my.app"),
            ("app.cpu", 0, "process_cpu:samples:count::", "app"),
            ("app.wall", 100, "wall:wall:nanoseconds:cpu:nanoseconds", "app"),
            ("app.inuse_space", 100, "memory:inuse_space:bytes::", "app"),
            ("app.lock_count", 100, "block:contentions:count::", "app"),
        ] {
            let (kind, found) = TextKind::of(app, rate).unwrap();
            assert_eq!((kind.profile_type.to_string().as_str(), found), (id, name));
        }
        assert!(TextKind::of("my.app", 100).is_err());
    }
}
