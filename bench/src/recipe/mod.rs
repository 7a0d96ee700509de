//! The load that benchmarks of stores share: profiles of containers as a pure function of a seed.
//!
//! ```text
//! Recipe ─▶ Container ─ second(s) ─▶ [Counted]                 shape (a): what a sampler stores, a row per stack and second
//!                     └ minute(m) ─▶ [Counted] ─ encode ─▶ pprof   shape (b): the sum of its seconds, as a client pushes it
//! Ledger ─ window ─▶ totals of shape (b), without drawing one stack
//! ```
//!
//! Fifty containers have 500 to 3,000 stacks each, about 25 of them on the CPU in a second and 660 in a minute. All is
//! done in integers, so that every machine and every version of the compiler makes the same bytes.

mod code;
mod container;
mod ledger;
mod pprof;
mod random;
mod stacks;

pub use code::{Function, FunctionNo};
pub use container::{Container, Counted, Minute, PERIOD_NS, Second, TICK_MS};
pub use ledger::{Ledger, Pushed, Span, Window};
pub(crate) use pprof::Profile;
pub use pprof::{encode, gzip};
pub use random::Random;
pub use stacks::{Frame, StackNo};

/// A number of containers.
pub struct Recipe {
    containers: Vec<Container>,
}

impl Recipe {
    /// The containers that follow from a seed. Sizes, loads and drift go by their number alone: every fifty in order have
    /// the whole spread.
    pub fn new(seed: u64, containers: u32) -> Self {
        Self { containers: (0..containers).map(|n| Container::new(seed, n)).collect() }
    }

    /// The containers, always in the same order.
    pub fn containers(&self) -> &[Container] {
        &self.containers
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    const SEED: u64 = 1;
    const HOUR_S: u32 = 3_600;

    fn stacks_of(rows: &[Counted]) -> HashSet<StackNo> {
        rows.iter().map(|row| row.stack).collect()
    }

    /// The checksum of some minutes, first seen when the recipe was made: figures of different days are of the same bytes.
    #[test]
    fn the_same_seed_makes_the_same_bytes_and_another_others() {
        let checksum = |seed| {
            let recipe = Recipe::new(seed, 4);
            let mut all = flate2::Crc::new();
            for (container, minute) in recipe.containers().iter().zip([0, 59, 1_439, 43_199].map(Minute)) {
                all.update(&encode(container, &container.minute(minute), container.pushed_at_ms(minute)));
                container.labels().iter().for_each(|(_, value)| all.update(value.as_bytes()));
            }
            all.sum()
        };
        assert_eq!(checksum(SEED), 1_319_909_416);
        assert_ne!(checksum(SEED), checksum(SEED + 1));
    }

    #[test]
    fn fifty_containers_spread_over_all_sizes() {
        let recipe = Recipe::new(SEED, 50);
        let mut sizes: Vec<u32> = recipe.containers().iter().map(Container::stack_count).collect();
        sizes.sort_unstable();
        assert_eq!((sizes[0], sizes[49]), (500, 3_000));
        assert!(sizes.windows(2).all(|pair| (1..=52).contains(&(pair[1] - pair[0]))), "evenly: {sizes:?}");
        let services: HashSet<&str> = recipe.containers().iter().map(Container::service).collect();
        assert_eq!(services.len(), 50);
        assert_eq!(recipe.containers().iter().filter(|container| container.drifts()).count(), 10);
    }

    /// About 76,000 rows a minute of shape (a), about 660 of shape (b) in each push, whatever the time of day.
    #[test]
    fn rows_per_second_and_per_push_are_as_stated() {
        let recipe = Recipe::new(SEED, 50);
        let hours = [0, 7, 13, 22];
        let (mut by_second, mut by_minute) = (0, 0);
        for minute in hours.map(|hour| Minute(hour * 60 + 31)) {
            for container in recipe.containers() {
                by_second += minute.seconds().map(|second| container.second(second).len()).sum::<usize>();
                by_minute += container.minute(minute).len();
            }
        }
        let (by_second, by_minute) = (by_second / hours.len(), by_minute / (50 * hours.len()));
        assert!((72_000..80_000).contains(&by_second), "{by_second} rows a minute");
        assert!((640..680).contains(&by_minute), "{by_minute} stacks a push");
    }

    #[test]
    fn a_minute_is_the_sum_of_its_seconds() {
        let recipe = Recipe::new(SEED, 8);
        for container in recipe.containers() {
            let minute = Minute(12 * 60 - 1);
            let mut sums: HashMap<StackNo, u32> = HashMap::new();
            for row in minute.seconds().flat_map(|second| container.second(second)) {
                *sums.entry(row.stack).or_default() += row.samples;
            }
            let rows = container.minute(minute);
            assert_eq!(rows.iter().map(|row| (row.stack, row.samples)).collect::<HashMap<_, _>>(), sums);
            assert_eq!(rows.len(), sums.len(), "each stack once");
        }
    }

    /// A tenth of the stacks takes half of the samples or more, and yet nearly every stack is seen within the hour.
    #[test]
    fn the_tail_is_heavy() {
        let recipe = Recipe::new(SEED, 50);
        for container in recipe.containers().iter().filter(|container| !container.drifts()).step_by(9) {
            let mut samples: HashMap<StackNo, u64> = HashMap::new();
            for row in (0..60).flat_map(|minute| container.minute(Minute(minute))) {
                *samples.entry(row.stack).or_default() += u64::from(row.samples);
            }
            let mut counts: Vec<u64> = samples.into_values().collect();
            counts.sort_unstable_by(|left, right| right.cmp(left));
            let all: u64 = counts.iter().sum();
            let count = container.stack_count() as usize;
            let share = |stacks: &[u64]| stacks.iter().sum::<u64>() as f64 / all as f64;
            let name = container.service();
            assert!(share(&counts[..1]) < 0.05, "{name}: no stack has most of it");
            assert!((0.40..0.70).contains(&share(&counts[..count / 10])), "{name}");
            assert!((0.08..0.30).contains(&share(&counts[count / 2..])), "{name}: the rarer half");
            assert!(counts.len() * 100 > count * 97, "{name}: {} of {count}", counts.len());
        }
    }

    #[test]
    fn some_programs_change_in_a_day_and_others_do_not() {
        let recipe = Recipe::new(SEED, 10);
        for container in recipe.containers() {
            let at = |hour: u32| {
                let seconds = (0..HOUR_S).map(|second| Second(hour * HOUR_S + second));
                stacks_of(&seconds.flat_map(|second| container.second(second)).collect::<Vec<_>>())
            };
            let first = at(0);
            let kept = |hour| at(hour).intersection(&first).count() as f64 / first.len() as f64;
            let name = container.service();
            if container.drifts() {
                assert!((0.80..0.98).contains(&kept(1)), "{name}: {} after an hour", kept(1));
                assert!((0.40..0.70).contains(&kept(6)), "{name}: {} after six", kept(6));
                assert!(kept(14) < 0.01, "{name}: {} after fourteen", kept(14));
            } else {
                assert!(kept(14) > 0.9, "{name}: {}", kept(14));
            }
        }
    }

    #[test]
    fn the_load_goes_up_and_down_with_the_day() {
        let recipe = Recipe::new(SEED, 50);
        for container in recipe.containers().iter().step_by(7) {
            let by_hour: Vec<i64> = (0..24)
                .map(|hour| (0..60).map(|minute| container.minute_ns(Minute(hour * 60 + minute))).sum())
                .collect();
            let (least, most) = (by_hour.iter().min().unwrap(), by_hour.iter().max().unwrap());
            let swing = *most as f64 / *least as f64;
            assert!((1.5..2.0).contains(&swing), "{}: {swing}", container.service());
        }
    }

    #[test]
    fn totals_are_exact_in_any_window() {
        let recipe = Recipe::new(SEED, 5);
        let span = Span { start_ms: 1_700_000_000_000, minutes: 30 };
        let ledger = Ledger::new(&recipe, span);
        let mut pushes = Vec::new();
        for (n, container) in recipe.containers().iter().enumerate() {
            for minute in span.each_minute() {
                let value: i64 = container.minute(minute).iter().map(|row| row.value_ns()).sum();
                pushes.push((n, span.start_ms + container.pushed_at_ms(minute), value));
            }
        }
        assert!(
            pushes
                .iter()
                .all(|(_, time, _)| time % TICK_MS == 0 && (span.start_ms..span.end_ms()).contains(time))
        );
        let mut random = Random(9);
        let mut check = |window: Window| {
            let inside = |time: i64| window.start_ms <= time && time <= window.end_ms;
            let total = |wanted: Option<usize>| -> i64 {
                let of = |n: usize, time| wanted.is_none_or(|wanted| wanted == n) && inside(time);
                pushes.iter().filter(|(n, time, _)| of(*n, *time)).map(|(_, _, value)| value).sum()
            };
            assert_eq!(ledger.grand_total_ns(window), total(None), "{window:?}");
            let n = random.below(5) as usize;
            assert_eq!(ledger.total_ns(n, window), total(Some(n)), "{window:?}");
        };
        check(Window { start_ms: 0, end_ms: i64::MAX });
        check(Window { start_ms: span.end_ms(), end_ms: span.start_ms });
        let mut ends = Random(10);
        for _ in 0..500 {
            let mut end = || span.start_ms - 60_000 + ends.below(32 * 60_000) as i64;
            check(Window { start_ms: end(), end_ms: end() });
        }
        // On a push to the millisecond: both ends are inside.
        for (_, time, _) in pushes.iter().step_by(17) {
            check(Window { start_ms: *time, end_ms: *time });
            check(Window { start_ms: *time + 1, end_ms: *time + 60_000 });
        }
    }

    #[test]
    fn pushes_are_a_minute_apart_and_never_exactly() {
        let recipe = Recipe::new(SEED, 50);
        let mut offsets = HashSet::new();
        for container in recipe.containers() {
            let times: Vec<i64> = (0..100).map(|minute| container.pushed_at_ms(Minute(minute))).collect();
            let gaps: HashSet<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(gaps.len() > 5 && gaps.iter().all(|gap| (59_900..=60_100).contains(gap)), "{gaps:?}");
            offsets.insert(times[0] / 1_000);
        }
        assert!(offsets.len() > 20, "containers push at moments of their own: {offsets:?}");
    }
}
