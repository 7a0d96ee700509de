//! Which resolutions of a segment to read for a window: the coarsest whose buckets fit inside, finer ones at the borders.
//!
//! A bucket of length L is closed on the right: the one stamped b holds b − L < time ≤ b, and stamps are multiples of L. So
//! a row that is stamped with the end of its second is in the bucket that ends with it, and the buckets of Pyroscope's
//! series are unions of ours.

use pyrite_model::{TimeRange, UnixMs};

/// A resolution of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// The rows as they were appended.
    Rows,
    /// The rollup with this index, counted from the finest.
    Rollup(usize),
}

/// Part of a window, and what to read it from: rows whose time, or buckets whose stamp, lies in the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) from: Resolution,
    pub(crate) range: TimeRange,
}

/// Pieces that together are the window, from the lengths of the rollups' buckets, finest first.
pub(crate) fn cover(window: TimeRange, bucket_ms: &[i64]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    add(window, bucket_ms, &mut pieces);
    pieces
}

fn add(window: TimeRange, bucket_ms: &[i64], pieces: &mut Vec<Piece>) {
    let TimeRange { start, end } = window;
    if start > end {
        return;
    }
    let Some((&length, finer)) = bucket_ms.split_last() else {
        return pieces.push(Piece { from: Resolution::Rows, range: window });
    };
    // The first bucket that begins at or behind the start, and the last that ends at or before the end.
    let first = ceil(start.0.saturating_sub(1), length).and_then(|begin| begin.checked_add(length));
    let last = end.0.checked_sub(end.0.rem_euclid(length));
    let Some((first, last)) = first.zip(last).filter(|(first, last)| first <= last) else {
        return add(window, finer, pieces);
    };
    add(TimeRange::new(start, UnixMs(first - length)), finer, pieces);
    let range = TimeRange::new(UnixMs(first), UnixMs(last));
    pieces.push(Piece { from: Resolution::Rollup(finer.len()), range });
    if let Some(behind) = last.checked_add(1) {
        add(TimeRange::new(UnixMs(behind), end), finer, pieces);
    }
}

/// The stamp of the bucket that holds an instant; `None` where there is none so late.
pub(crate) fn ceil(time: i64, length: i64) -> Option<i64> {
    match time.rem_euclid(length) {
        0 => Some(time),
        behind => time.checked_add(length - behind),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: i64, end: i64) -> TimeRange {
        TimeRange::new(UnixMs(start), UnixMs(end))
    }

    #[test]
    fn the_coarsest_is_taken_that_fits() {
        let piece = |from, start, end| Piece { from, range: range(start, end) };
        let (rows, minute, hour) = (Resolution::Rows, Resolution::Rollup(0), Resolution::Rollup(1));
        assert_eq!(
            cover(range(55, 320), &[10, 100]),
            [piece(rows, 55, 60), piece(minute, 70, 100), piece(hour, 200, 300), piece(minute, 310, 320),]
        );
        assert_eq!(cover(range(101, 200), &[10, 100]), [piece(hour, 200, 200)]);
        assert_eq!(cover(range(100, 109), &[10, 100]), [piece(rows, 100, 109)]);
        assert_eq!(cover(range(7, 7), &[]), [piece(rows, 7, 7)]);
        assert!(cover(range(8, 7), &[10]).is_empty());
        // The ends of time have no buckets, and are rows like others.
        let all = cover(range(i64::MIN, i64::MAX), &[10, 100]);
        assert_eq!((all[0].range.start, all[all.len() - 1].range.end), (UnixMs(i64::MIN), UnixMs(i64::MAX)));
    }

    proptest! {
        /// Every instant of the window is in one piece, by its own time or by the stamp of its bucket, and no other is.
        #[test]
        fn pieces_are_the_window(start in -500..500_i64, length in 0..700_i64, time in -600..1300_i64) {
            let levels = [10, 60, 120];
            let window = range(start, start + length);
            let pieces = cover(window, &levels);
            let holding = pieces.iter().filter(|piece| {
                let stamp = match piece.from {
                    Resolution::Rows => time,
                    Resolution::Rollup(level) => ceil(time, levels[level]).unwrap(),
                };
                piece.range.contains(UnixMs(stamp))
            });
            prop_assert_eq!(holding.count(), usize::from(window.contains(UnixMs(time))));
            prop_assert!(pieces.len() <= 7);
        }
    }
}
