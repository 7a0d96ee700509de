//! The timeline beside a rendered flame graph: whole steps, zeros where nothing was.

use pyrite_model::{TimeRange, UnixMs};
use serde::Serialize;

/// A timeline of this many steps is fine enough for any screen.
const RESOLUTION: i64 = 1500;
const MIN_STEP_S: i64 = 15;

/// Steps to round to, in seconds, each with the first interval that is too long for it.
const LADDER: [(i64, f64); 16] = [
    (15, 17.5),
    (20, 25.0),
    (30, 45.0),
    (60, 90.0),
    (120, 210.0),
    (300, 450.0),
    (600, 750.0),
    (900, 1_050.0),
    (1_200, 1_500.0),
    (1_800, 2_700.0),
    (3_600, 5_400.0),
    (7_200, 9_000.0),
    (10_800, 16_200.0),
    (21_600, 32_400.0),
    (43_200, 86_400.0),
    (86_400, 604_800.0),
];
const LONGEST_STEP_S: i64 = 604_800;

/// Values by step, as flamebearer JSON has them.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Timeline {
    /// Unix seconds of the first step.
    start_time: i64,
    samples: Vec<i64>,
    /// Seconds per step.
    duration_delta: i64,
    watermarks: (),
}

/// The step for a window, in seconds.
pub(crate) fn step_seconds(range: TimeRange) -> i64 {
    let interval = range.end.0.saturating_sub(range.start.0) as f64 / 1000.0 / RESOLUTION as f64;
    if interval < MIN_STEP_S as f64 {
        return MIN_STEP_S;
    }
    LADDER.into_iter().find(|(_, limit)| interval <= *limit).map_or(LONGEST_STEP_S, |(step, _)| step)
}

/// Lays points out over the window, whose ends snap down to whole steps; the end is outside.
pub(crate) fn timeline(points: &[(UnixMs, i64)], range: TimeRange, step_s: i64) -> Timeline {
    let step_of = |time: UnixMs| time.0.div_euclid(step_s * 1000);
    let (first, end) = (step_of(range.start), step_of(range.end));
    // A window of more steps than any client can draw only comes from a broken request.
    let len = end.saturating_sub(first).clamp(0, 10 * RESOLUTION) as usize;
    let mut samples = vec![0_i64; len];
    for &(time, value) in points {
        let step = usize::try_from(step_of(time).saturating_sub(first)).ok();
        if let Some(sample) = step.and_then(|step| samples.get_mut(step)) {
            *sample = sample.saturating_add(value);
        }
    }
    Timeline { start_time: first.saturating_mul(step_s), samples, duration_delta: step_s, watermarks: () }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(start: i64, end: i64) -> TimeRange {
        TimeRange::new(UnixMs(start * 1000), UnixMs(end * 1000))
    }

    #[test]
    fn steps_grow_with_the_window() {
        for (hours, step) in [(1, 15), (6, 15), (12, 30), (24, 60), (24 * 7, 300), (24 * 365, 21_600)] {
            assert_eq!(step_seconds(seconds(1, 1 + hours * 3600)), step, "{hours} h");
        }
        assert_eq!(step_seconds(TimeRange::new(UnixMs(i64::MIN), UnixMs(i64::MAX))), LONGEST_STEP_S);
    }

    #[test]
    fn gaps_are_zeros_and_ends_snap_down() {
        let points = [(UnixMs(25_000), 1), (UnixMs(55_000), 2), (UnixMs(100_000), 9)];
        let timeline = timeline(&points, seconds(20, 95), 15);
        let samples = vec![1, 0, 2, 0, 0];
        assert_eq!(timeline, Timeline { start_time: 15, samples, duration_delta: 15, watermarks: () });
    }

    #[test]
    fn absurd_windows_stay_small() {
        let all = TimeRange::new(UnixMs(i64::MIN), UnixMs(i64::MAX));
        assert_eq!(timeline(&[], all, 15).samples.len(), 15_000);
    }
}
