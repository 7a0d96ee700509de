//! Accounting of blocks: what is exact, what is right on average, and that none is lost.

use std::collections::VecDeque;

use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use pyrite_bpf::StackOutcome;

use super::*;
use crate::offcpu::Probability;
use crate::{Comm, ProcessKey};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// The wall clock stands at 100.0 s when the boot clock stands at 0.
const CLOCK: WallClock = WallClock { boot_at_unix_ns: 100_000_000_000 };

fn stack(name: &[u8]) -> SampledStack {
    SampledStack {
        process: ProcessKey { tgid: 1, start: BootNs(1) },
        comm: Comm::new(name),
        cgroup_id: 1,
        is_kernel_thread: false,
        has_guessed_frames: false,
        kernel_outcome: StackOutcome::Absent,
        user_outcome: StackOutcome::Absent,
        kernel: vec![],
        user: vec![],
    }
}

fn blocks() -> Blocks {
    Blocks::new(BlockLimits { open: 64, stacks: 64 })
}

/// A departure that has its turn at once.
fn depart(blocks: &mut Blocks, (tid, start): (u32, u64), name: &[u8], left: Left) {
    blocks.expect((tid, BootNs(start)));
    blocks.left((tid, BootNs(start)), stack(name), left, CLOCK);
}

fn certain(is_preempted: bool) -> Left {
    Left { probability: Probability::CERTAIN, head_ns: 0, is_preempted }
}

fn end(tid: u32, start: u64, end: u64, runnable_ns: Option<u64>) -> OffCpuEnd {
    OffCpuEnd { tid, start: BootNs(start), end: BootNs(end), runnable_ns }
}

/// `(second, state, nanoseconds)` of everything that is over at `until`.
fn take(blocks: &mut Blocks, until: u64) -> Vec<(i64, ThreadState, u64)> {
    let until = BootNs(until);
    let now = CLOCK.second_of(until);
    let seconds = blocks.take_with(Vec::new(), until, CLOCK, Some(now));
    let values = seconds.into_iter().flat_map(|second| {
        second.off_cpu.into_iter().map(move |value| (second.start.0 / 1000, value.state, value.ns))
    });
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values
}

#[test]
fn a_block_is_accounted_where_it_ends_by_what_it_waited_for() {
    let mut blocks = blocks();
    depart(&mut blocks, (7, 300 * MS), b"a", certain(false));
    blocks.ended(end(7, 300 * MS, 1_500 * MS, Some(200 * MS)), CLOCK);
    depart(&mut blocks, (7, 1_600 * MS), b"a", certain(true));
    blocks.ended(end(7, 1_600 * MS, 1_700 * MS, Some(1)), CLOCK);
    depart(&mut blocks, (7, 1_800 * MS), b"a", certain(false));
    blocks.ended(end(7, 1_800 * MS, 1_801 * MS, None), CLOCK);
    let expect = [(101, ThreadState::Runnable, 300 * MS), (101, ThreadState::Blocked, 1_001 * MS)];
    assert_eq!(take(&mut blocks, 2_100 * MS), expect);
    assert_eq!((blocks.len(), blocks.fates.get(OffFate::Closed)), (0, 3));
}

#[test]
fn an_open_block_is_accounted_every_five_seconds_and_once_in_all() {
    let mut blocks = blocks();
    depart(&mut blocks, (7, 3 * SECOND), b"a", certain(false));
    assert_eq!(take(&mut blocks, 4_900 * MS), []);
    assert_eq!(take(&mut blocks, 5_000 * MS), [(104, ThreadState::Blocked, 2 * SECOND)]);
    assert_eq!(take(&mut blocks, 9_900 * MS), []);
    assert_eq!(take(&mut blocks, 10_100 * MS), [(109, ThreadState::Blocked, 5 * SECOND)]);
    blocks.ended(end(7, 3 * SECOND, 12_500 * MS, Some(500 * MS)), CLOCK);
    let expect = [(112, ThreadState::Runnable, 500 * MS), (112, ThreadState::Blocked, 2 * SECOND)];
    assert_eq!(take(&mut blocks, 13_000 * MS), expect);
    assert_eq!(take(&mut blocks, 20_000 * MS), []);
}

#[test]
fn stacks_that_nobody_sleeps_in_any_more_do_not_make_the_others_wait() {
    let mut blocks = Blocks::new(BlockLimits { open: 64, stacks: 1024 });
    take(&mut blocks, 0);
    for name in 0..600_u32 {
        depart(&mut blocks, (7, SECOND), name.to_string().as_bytes(), certain(false));
        blocks.ended(end(7, SECOND, 2 * SECOND, None), CLOCK);
    }
    depart(&mut blocks, (8, 3 * SECOND), b"a", certain(false));
    assert_eq!(blocks.stacks.len(), 601);
    let values = take(&mut blocks, 5_000 * MS);
    assert_eq!(values.last(), Some(&(104, ThreadState::Blocked, 2 * SECOND)));
    take(&mut blocks, 10_000 * MS);
    assert_eq!(blocks.stacks.len(), 1);
}

#[test]
fn an_end_may_come_before_the_turn_of_its_departure() {
    let mut blocks = blocks();
    for start in [10, 30, 50] {
        blocks.expect((7, BootNs(start)));
        blocks.ended(end(7, start, start + 10, None), CLOCK);
    }
    assert_eq!(blocks.fates.settled(), 0);
    for start in [10, 30, 50] {
        blocks.left((7, BootNs(start)), stack(b"a"), certain(false), CLOCK);
    }
    assert_eq!((blocks.len(), blocks.fates.get(OffFate::Closed)), (0, 3));
    // One that was held up leaves the one after it alone.
    blocks.expect((6, BootNs(100)));
    depart(&mut blocks, (6, 200), b"a", certain(false));
    blocks.ended(end(6, 100, 150, None), CLOCK);
    blocks.left((6, BootNs(100)), stack(b"a"), certain(false), CLOCK);
    assert_eq!((blocks.len(), blocks.fates.get(OffFate::Closed)), (1, 4));
    blocks.ended(end(6, 200, 250, None), CLOCK);
    // That of another departure ends nothing.
    blocks.ended(end(8, 10, 20, None), CLOCK);
    depart(&mut blocks, (8, 30), b"a", certain(false));
    assert_eq!((blocks.len(), blocks.under_way.len()), (1, 0));
}

#[test]
fn a_departure_that_is_given_up_leaves_nothing_behind() {
    let mut blocks = blocks();
    blocks.expect((7, BootNs(10)));
    blocks.ended(end(7, 10, 20, None), CLOCK);
    blocks.lose((7, BootNs(10)), TickFate::Filtered);
    assert_eq!((blocks.under_way.len(), blocks.fates.get(OffFate::Filtered)), (0, 1));
}

#[test]
fn once_an_end_was_lost_only_what_ended_before_is_believed() {
    let mut blocks = blocks();
    depart(&mut blocks, (5, 10), b"a", certain(false));
    for tid in [6, 7] {
        blocks.expect((tid, BootNs(10)));
    }
    blocks.ended(end(7, 10, 20, None), CLOCK);
    blocks.lose_end();
    for tid in [6, 7] {
        blocks.left((tid, BootNs(10)), stack(b"a"), certain(false), CLOCK);
    }
    let fates = [OffFate::EndLost, OffFate::Closed].map(|fate| blocks.fates.get(fate));
    assert_eq!((blocks.len(), fates), (0, [2, 1]));
}

#[test]
fn a_thread_that_has_ended_is_away_no_more() {
    let mut blocks = blocks();
    depart(&mut blocks, (7, 10), b"a", certain(false));
    blocks.ran_until(7, BootNs(20));
    assert_eq!((blocks.len(), blocks.fates.get(OffFate::EndLost)), (0, 1));
    depart(&mut blocks, (7, 30), b"a", certain(false));
    blocks.ran_until(7, BootNs(20));
    assert_eq!(blocks.len(), 1, "on its way out it can leave once more");
}

#[test]
fn a_weight_holds_for_the_head_alone() {
    let mut blocks = blocks();
    let left =
        Left { probability: Probability::new(1 << 30).unwrap(), head_ns: 10 * MS, is_preempted: false };
    depart(&mut blocks, (7, 0), b"a", left);
    blocks.ended(end(7, 0, 5 * MS, None), CLOCK);
    depart(&mut blocks, (7, 500 * MS), b"a", left);
    blocks.ended(end(7, 500 * MS, 600 * MS, None), CLOCK);
    let tail =
        Tail { probability: Probability::new(1 << 31).unwrap(), tail_ns: 7 * MS, runnable_ns: Some(MS) };
    blocks.tail(BootNs(700 * MS), stack(b"b"), tail, CLOCK);
    let expect = [
        (100, ThreadState::Runnable, 2 * MS),
        (100, ThreadState::Blocked, 12 * MS),
        (100, ThreadState::Blocked, (20 + 40 + 90) * MS),
    ];
    assert_eq!(take(&mut blocks, SECOND), expect);
}

#[test]
fn full_tables_refuse_and_count() {
    let mut blocks = Blocks::new(BlockLimits { open: 2, stacks: 2 });
    for tid in 1..=3 {
        depart(&mut blocks, (tid, 5), b"same", certain(false));
    }
    assert_eq!((blocks.len(), blocks.stacks.len()), (2, 1));
    assert_eq!(blocks.fates.get(OffFate::OpenFull), 1);
    blocks.ended(end(1, 5, 10, None), CLOCK);
    for (tid, name) in [(3, b"a"), (4, b"b")] {
        depart(&mut blocks, (tid, 20), name, certain(false));
        blocks.ended(end(tid, 20, 30, None), CLOCK);
    }
    assert_eq!(blocks.fates.get(OffFate::OpenFull), 2, "two stacks are known until the next round time");
    take(&mut blocks, 6 * SECOND);
    take(&mut blocks, 11 * SECOND);
    assert_eq!(blocks.stacks.len(), 1);
}

/// What a thread of a simulation does: so many short waits, then a long one.
#[derive(Clone, Copy)]
struct Habit {
    name: &'static [u8],
    short_ns: u64,
    /// One wait in so many is long.
    one_in: u64,
    long_ns: u64,
}

/// The decisions of `bpf/prog/offcpu.h` for one thread.
struct Dice {
    state: u64,
    foreseen: u64,
}

impl Dice {
    fn draw(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 32
    }

    /// The probability of something foreseen to last `eightfold / 8` units, as the records carry it.
    fn chance(scale: u64, eightfold: u64) -> u64 {
        ((u128::from(eightfold) * u128::from(scale)) >> 8).min(u128::from(u32::MAX)) as u64
    }
}

/// Plays a habit for `waits` waits and returns `(true, estimated)` nanoseconds.
fn play(habit: Habit, waits: u64, scale: u64, seed: u64) -> (f64, f64) {
    let mut blocks = Blocks::new(BlockLimits { open: 4, stacks: 1024 });
    let mut dice = Dice { state: seed, foreseen: 8 << 16 };
    let (mut now, mut really) = (0, 0);
    for nth in 0..waits {
        // Never in step with anything: lengths vary by half.
        let base = if nth % habit.one_in == habit.one_in - 1 { habit.long_ns } else { habit.short_ns };
        let ns = base / 2 + dice.draw() % base;
        let (foreseen, units) = (dice.foreseen, ns >> 8);
        let chance = Dice::chance(scale, foreseen);
        if dice.draw() < chance {
            let probability = Probability::new(chance as u32).unwrap();
            let left = Left { probability, head_ns: foreseen << 8, is_preempted: false };
            depart(&mut blocks, (1, now), habit.name, left);
            blocks.ended(end(1, now, now + ns, None), CLOCK);
        } else if units > foreseen {
            let chance = Dice::chance(scale, (units - foreseen) * 8);
            if dice.draw() < chance {
                let probability = Probability::new(chance as u32).unwrap();
                let tail = Tail { probability, tail_ns: (units - foreseen) << 8, runnable_ns: None };
                blocks.tail(BootNs(now + ns), stack(habit.name), tail, CLOCK);
            }
        }
        dice.foreseen = foreseen - (foreseen >> 3) + units.min((1 << 24) - 1);
        really += ns;
        now += ns + 1_000;
    }
    let seconds = blocks.take_with(Vec::new(), BootNs(now), CLOCK, None);
    let estimated: u64 = seconds.iter().flat_map(|second| &second.off_cpu).map(|value| value.ns).sum();
    (really as f64, estimated as f64)
}

#[test]
fn totals_are_right_on_average_whatever_the_mixture_and_never_far_off() {
    let habits = [
        Habit { name: b"steady", short_ns: 20_000, one_in: u64::MAX, long_ns: 1 },
        Habit { name: b"mixed", short_ns: 5_000, one_in: 100, long_ns: 2 * MS },
        Habit { name: b"surprise", short_ns: 3_000, one_in: 5_000, long_ns: 400 * MS },
    ];
    for habit in habits {
        // About one departure in 50 of the foreseen length is captured.
        let mean_ns = habit.short_ns + habit.long_ns / habit.one_in;
        let scale = (1 << 40) / 50 / (8 * (mean_ns >> 8));
        let errors: Vec<f64> = (1..=60)
            .map(|seed| {
                let (really, estimated) = play(habit, 20_000, scale, seed * 7_919);
                estimated / really - 1.0
            })
            .collect();
        let count = errors.len() as f64;
        let mean = errors.iter().sum::<f64>() / count;
        let variance = errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let (spread, standard_error) = (variance.sqrt(), (variance / count).sqrt());
        let name = String::from_utf8_lossy(habit.name);
        println!("{name}: mean error {mean:.4} ± {standard_error:.4}, of one run {spread:.3}");
        assert!(
            mean.abs() < 3.5 * standard_error,
            "{name}: biased by {mean}, standard error {standard_error}"
        );
        assert!(spread < 0.25, "{name}: one run is off by {spread}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Departs { tid: u32, at: u64, name: u8 },
    Left,
    GivenUp,
    Ended { tid: u32, at: u64 },
    Exited { tid: u32, at: u64 },
    Take { at: u64 },
    Gap,
}

fn step() -> impl Strategy<Value = Step> {
    let thread = || (0..6_u32, 0..1_000_u64);
    prop_oneof![
        4 => (thread(), 0..4_u8).prop_map(|((tid, at), name)| Step::Departs { tid, at, name }),
        3 => Just(Step::Left),
        1 => Just(Step::GivenUp),
        4 => thread().prop_map(|(tid, at)| Step::Ended { tid, at }),
        1 => thread().prop_map(|(tid, at)| Step::Exited { tid, at }),
        1 => (0..20_000_u64).prop_map(|at| Step::Take { at }),
        1 => Just(Step::Gap),
    ]
}

proptest! {
    /// I1, whatever comes in whatever order.
    #[test]
    fn every_departure_has_one_fate(steps in proptest::collection::vec(step(), 0..200)) {
        let mut blocks = Blocks::new(BlockLimits { open: 4, stacks: 3 });
        let mut waiting = VecDeque::new();
        let mut sent = 0;
        for step in steps {
            match step {
                Step::Departs { tid, at, name } => {
                    sent += 1;
                    blocks.expect((tid, BootNs(at)));
                    waiting.push_back(((tid, BootNs(at)), stack(&[b'a' + name])));
                }
                Step::Left => {
                    if let Some((departure, stack)) = waiting.pop_front() {
                        blocks.left(departure, stack, certain(false), CLOCK);
                    }
                }
                Step::GivenUp => {
                    if let Some((departure, _)) = waiting.pop_front() {
                        blocks.lose(departure, TickFate::WaitingFull);
                    }
                }
                Step::Ended { tid, at } => blocks.ended(end(tid, at / 2, at, Some(3)), CLOCK),
                Step::Exited { tid, at } => blocks.ran_until(tid, BootNs(at)),
                Step::Take { at } => drop(take(&mut blocks, at * MS)),
                Step::Gap => blocks.lose_end(),
            }
            prop_assert_eq!(blocks.fates.settled() + (blocks.len() + waiting.len()) as u64, sent);
            prop_assert!(blocks.under_way.len() <= waiting.len());
        }
    }
}
