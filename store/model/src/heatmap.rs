//! Heat maps: how many profiles of which size there were when.
//!
//! Steps are closed on the right and stamped with their end, as those of series over time are; the first is the one that ends
//! with the start of the window, and the last may reach beyond its end. Sizes are in buckets of equal width from the
//! smallest profile of all groups to the largest. Both rules are Pyroscope's.

use std::collections::BTreeMap;

use crate::{LabelSet, TimeRange, UnixMs};

/// How many buckets of sizes there are.
pub const SIZE_BUCKETS: usize = 20;

/// The steps that a window is divided into, each closed on the right.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    start: i64,
    end: i64,
    step_ms: i64,
}

/// A profile as a heat map sees it. `of` is the caller's, to know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizedProfile<T> {
    /// Which one it is.
    pub of: T,
    /// When it was.
    pub time: UnixMs,
    /// The sum of its values.
    pub total: i64,
}

/// Profiles counted by time and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heatmap<T> {
    /// Where the buckets of sizes begin; the same for all groups.
    pub edges: [i64; SIZE_BUCKETS],
    /// The groups with the most profiles first, equal ones in order of their labels.
    pub groups: Vec<HeatmapGroup<T>>,
}

/// One group of profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatmapGroup<T> {
    /// What its profiles have in common.
    pub labels: LabelSet,
    /// In order of time; steps without profiles are left out.
    pub slots: Vec<HeatmapSlot<T>>,
}

/// A step of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatmapSlot<T> {
    /// When it ends.
    pub stamp: UnixMs,
    /// In order of size; empty ones are left out.
    pub cells: Vec<HeatmapCell<T>>,
}

/// The profiles of one bucket in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatmapCell<T> {
    /// Which of the buckets.
    pub bucket: usize,
    /// How many profiles there are in it.
    pub count: u32,
    /// The largest of them; of equal ones the first.
    pub largest: SizedProfile<T>,
}

impl Steps {
    /// Steps of at least a millisecond over a window; `None` where they are shorter.
    pub fn new(window: TimeRange, step_ms: i64) -> Option<Self> {
        (step_ms > 0).then_some(Self { start: window.start.0, end: window.end.0, step_ms })
    }

    /// The instants of all steps, as far as they lie in the window or before it; both ends are inside.
    pub fn window(self) -> TimeRange {
        let first = self.start.saturating_sub(self.step_ms).saturating_add(1);
        TimeRange::new(UnixMs(first), UnixMs(self.end))
    }

    /// The end of the step that an instant belongs to.
    pub fn stamp(self, time: UnixMs) -> UnixMs {
        let (start, step) = (i128::from(self.start), i128::from(self.step_ms));
        let behind = i128::from(time.0) - start;
        // Rounded up.
        let stamp = start - (-behind).div_euclid(step) * step;
        UnixMs(stamp.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
    }
}

impl<T: Copy> Heatmap<T> {
    /// Counts the profiles of groups, each of which lies in the steps' window; `None` where that would make more than
    /// `max_slots` slots.
    pub fn new(
        groups: BTreeMap<LabelSet, Vec<SizedProfile<T>>>,
        steps: Steps,
        max_slots: usize,
    ) -> Option<Self> {
        let sizes = || groups.values().flatten().map(|profile| profile.total);
        let edges = edges(sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
        let (mut counted, mut slots) = (Vec::new(), 0);
        for (labels, mut profiles) in groups {
            profiles.sort_by_key(|profile| profile.time);
            let count = profiles.len();
            let group = HeatmapGroup { labels, slots: in_slots(&profiles, steps, &edges) };
            slots += group.slots.len();
            if slots > max_slots {
                return None;
            }
            if count > 0 {
                counted.push((count, group));
            }
        }
        // Stable: equal ones stay in the order of their labels, which the map gave.
        counted.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        Some(Self { edges, groups: counted.into_iter().map(|(_, group)| group).collect() })
    }
}

/// Where the buckets of sizes begin, whole numbers all. Where all sizes are the same, they are in the last one.
fn edges(smallest: i64, largest: i64) -> [i64; SIZE_BUCKETS] {
    let width = (i128::from(largest) - i128::from(smallest)).max(1);
    std::array::from_fn(|bucket| {
        let offset = width * bucket as i128 / SIZE_BUCKETS as i128;
        (i128::from(smallest) + offset) as i64
    })
}

/// Counts profiles that are in order of time.
fn in_slots<T: Copy>(
    profiles: &[SizedProfile<T>],
    steps: Steps,
    edges: &[i64; SIZE_BUCKETS],
) -> Vec<HeatmapSlot<T>> {
    let of_step = profiles.chunk_by(|a, b| steps.stamp(a.time) == steps.stamp(b.time));
    let slot = |profiles: &[SizedProfile<T>]| {
        let mut cells: BTreeMap<usize, HeatmapCell<T>> = BTreeMap::new();
        for profile in profiles {
            let bucket = edges.partition_point(|edge| *edge <= profile.total) - 1;
            let first = HeatmapCell { bucket, count: 0, largest: *profile };
            let cell = cells.entry(bucket).or_insert(first);
            cell.count = cell.count.saturating_add(1);
            if profile.total > cell.largest.total {
                cell.largest = *profile;
            }
        }
        HeatmapSlot { stamp: steps.stamp(profiles[0].time), cells: cells.into_values().collect() }
    };
    of_step.map(slot).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn groups(rows: &[(&str, i64, i64)]) -> BTreeMap<LabelSet, Vec<SizedProfile<usize>>> {
        let mut groups: BTreeMap<LabelSet, Vec<SizedProfile<usize>>> = BTreeMap::new();
        for (of, (pod, time, total)) in rows.iter().enumerate() {
            let profile = SizedProfile { of, time: UnixMs(*time), total: *total };
            groups.entry(LabelSet::from_pairs([("pod", *pod)])).or_default().push(profile);
        }
        groups
    }

    fn steps(start: i64, end: i64, step_ms: i64) -> Steps {
        Steps::new(TimeRange::new(UnixMs(start), UnixMs(end)), step_ms).unwrap()
    }

    /// Pod, stamp, bucket, count and the largest, of every cell.
    fn cells(map: &Heatmap<usize>) -> Vec<(String, i64, usize, u32, usize)> {
        let mut cells = Vec::new();
        for group in &map.groups {
            let pod = group.labels.get("pod").unwrap_or_default();
            for slot in &group.slots {
                let cell =
                    |c: &HeatmapCell<usize>| (pod.to_owned(), slot.stamp.0, c.bucket, c.count, c.largest.of);
                cells.extend(slot.cells.iter().map(cell));
            }
        }
        cells
    }

    #[test]
    fn profiles_are_counted_by_step_and_size() {
        let rows = [
            ("a", 1, 0),    // the step that ends with the start
            ("a", 1000, 9), // likewise, the same bucket
            ("a", 1001, 10),
            ("b", 2000, 200), // the last bucket holds its end
            ("b", 2100, 190), // behind the last stamp inside the window
            ("b", 1999, 200),
        ];
        let map = Heatmap::new(groups(&rows), steps(1000, 2500, 1000), 10).unwrap();
        assert_eq!(map.edges[..3], [0, 10, 20]);
        assert_eq!(map.edges[19], 190);
        let cell = |pod: &str, stamp, bucket, count, largest| (pod.to_owned(), stamp, bucket, count, largest);
        let expected = [
            cell("a", 1000, 0, 2, 1),
            cell("a", 2000, 1, 1, 2),
            cell("b", 2000, 19, 2, 5),
            cell("b", 3000, 19, 1, 4),
        ];
        assert_eq!(cells(&map), expected);
        assert_eq!(Heatmap::new(groups(&rows), steps(1000, 2500, 1000), 3), None);
        assert!(Steps::new(TimeRange::new(UnixMs(0), UnixMs(1)), 0).is_none());
    }

    #[test]
    fn sizes_without_a_range_are_in_the_last_bucket() {
        let map = Heatmap::new(groups(&[("a", 5, 7), ("a", 6, 7)]), steps(1, 10, 10), 10).unwrap();
        assert_eq!(map.edges, [7; SIZE_BUCKETS]);
        assert_eq!(cells(&map), [("a".to_owned(), 11, 19, 2, 0)]);
        let none = Heatmap::new(groups(&[]), steps(1, 10, 10), 10).unwrap();
        assert!(none.groups.is_empty());
    }

    #[test]
    fn the_ends_of_time_and_of_numbers_do_not_overflow() {
        let rows = [("a", i64::MIN, i64::MIN), ("a", i64::MAX, i64::MAX), ("a", 0, 0)];
        for step_ms in [1, 7, i64::MAX] {
            let steps = steps(i64::MIN, i64::MAX, step_ms);
            assert_eq!(steps.window(), TimeRange::new(UnixMs(i64::MIN + 1), UnixMs(i64::MAX)));
            let map = Heatmap::new(groups(&rows), steps, 10).unwrap();
            let counted: u32 = cells(&map).iter().map(|cell| cell.3).sum();
            assert_eq!(counted, 3);
        }
    }

    proptest! {
        #[test]
        fn every_profile_is_in_the_cell_that_holds_it(
            rows in prop::collection::vec((0..2_usize, -50..100_i64, 0..500_i64), 0..40),
            step_ms in 1..60_i64,
        ) {
            let pods = ["a", "b"];
            let rows: Vec<_> = rows.iter().map(|(pod, time, total)| (pods[*pod], *time, *total)).collect();
            let (start, end) = (step_ms - 51, 99);
            let map = Heatmap::new(groups(&rows), steps(start, end, step_ms), 1000).unwrap();
            let found = cells(&map);
            prop_assert_eq!(found.iter().map(|cell| cell.3 as usize).sum::<usize>(), rows.len());
            for (pod, stamp, bucket, count, largest) in found {
                prop_assert_eq!((stamp - start) % step_ms, 0);
                let ends = map.edges.get(bucket + 1).copied().unwrap_or(i64::MAX);
                let inside: Vec<_> = rows.iter().enumerate().filter(|(_, (of, time, total))| {
                    *of == pod && stamp - step_ms < *time && *time <= stamp && map.edges[bucket] <= *total && *total < ends
                }).collect();
                prop_assert_eq!(inside.len(), count as usize);
                prop_assert_eq!(inside.iter().map(|(_, row)| row.2).max(), Some(rows[largest].2));
            }
        }
    }
}
