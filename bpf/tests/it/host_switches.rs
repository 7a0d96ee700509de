//! The program of context switches over made-up schedules of one CPU, whose times off the CPU are known: what it tells of a few
//! of them adds up to all of them, and every captured one is told to have ended, once, at its time.

use std::collections::HashMap;
use std::mem::offset_of;

use pyrite_bpf::OffFate;
use pyrite_bpf::abi::{
    self, pyrite_config, pyrite_off_cpu_end as End, pyrite_off_cpu_tail as Tail,
    pyrite_sample_header as Header, pyrite_switch_cpu as Counters,
};

use crate::host::Host;
use crate::random::Random;

const RUNNING: u32 = 0;
const BLOCKED: u32 = 1;
const DEAD: u32 = 0x80;
const IDLE: (u32, SchedInfo) = (0, SchedInfo { run_delay: 0, last_arrival: 0, last_queued: 0 });
const MS: u64 = 1_000_000;

/// How a thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Habit {
    /// A tenth of a millisecond at a time.
    Briefly,
    /// Some ten milliseconds.
    Long,
    /// Briefly, but one time in five hundred for half a second.
    Suddenly,
}

#[derive(Clone, Copy, Default)]
struct SchedInfo {
    run_delay: u64,
    last_arrival: u64,
    last_queued: u64,
}

struct Thread {
    tid: u32,
    habit: Habit,
    info: SchedInfo,
    left: u64,
    ready: u64,
}

/// A time off the CPU as it was.
#[derive(Clone, Copy, Debug)]
struct Absence {
    habit: Habit,
    end: u64,
    ns: u64,
    queued_ns: u64,
}

/// What the kernel leaves out.
#[derive(Clone, Copy, Default)]
struct Mishaps {
    /// Of a hundred arrivals so many are not traced.
    untraced_arrivals: u64,
    /// Of a hundred milliseconds the ring is full in so many.
    ring_full_ms: u64,
}

/// What is to come to pass, and what truly did.
struct Schedule {
    mishaps: Mishaps,
    /// Each a `struct context_switch`.
    switches: Vec<u8>,
    /// By what names a departure: thread and time.
    absences: HashMap<(u32, u64), Absence>,
}

impl Schedule {
    /// Four threads of each habit, for so long. Then all of them die.
    fn make(seed: u64, until: u64, mishaps: Mishaps) -> Self {
        let mut random = Random(seed);
        let habits = [Habit::Briefly, Habit::Long, Habit::Suddenly];
        let thread = |(tid, habit): (u32, &Habit)| Thread {
            tid,
            habit: *habit,
            info: SchedInfo::default(),
            left: 0,
            ready: u64::from(tid) * MS,
        };
        let mut threads: Vec<Thread> = (1..).zip(habits.iter().cycle().take(12)).map(thread).collect();
        let mut schedule = Self { mishaps, switches: Vec::new(), absences: HashMap::new() };
        let mut now = 0;
        while let Some(next) = (0..threads.len()).min_by_key(|thread| threads[*thread].ready) {
            let thread = &mut threads[next];
            now = now.max(thread.ready);
            schedule.arrive(thread, now, random.chance(mishaps.untraced_arrivals));
            now += 20_000 + random.below(180_000);
            let is_last = now >= until;
            let is_blocked = random.chance(90);
            thread.left = now;
            thread.ready = now + if is_blocked { thread.habit.sleep(&mut random) } else { 0 };
            let state = if is_last { DEAD } else { u32::from(is_blocked) * BLOCKED };
            schedule.switch(now, (thread.tid, thread.info), IDLE, state);
            if is_last {
                threads.swap_remove(next);
            }
        }
        schedule
    }

    fn arrive(&mut self, thread: &mut Thread, now: u64, is_untraced: bool) {
        if !is_untraced {
            let info = SchedInfo { last_queued: thread.ready, ..thread.info };
            self.switch(now, IDLE, (thread.tid, info), RUNNING);
        }
        let queued_ns = now - thread.ready;
        let run_delay = thread.info.run_delay + queued_ns;
        thread.info = SchedInfo { run_delay, last_arrival: now, last_queued: 0 };
        if thread.left != 0 {
            let absence = Absence { habit: thread.habit, end: now, ns: now - thread.left, queued_ns };
            self.absences.insert((thread.tid, thread.left), absence);
        }
    }

    fn switch(&mut self, now: u64, prev: (u32, SchedInfo), next: (u32, SchedInfo), prev_state: u32) {
        let is_ring_full = now / MS % 100 < self.mishaps.ring_full_ms;
        self.switches.extend(now.to_ne_bytes());
        for word in [prev.0, next.0, prev_state] {
            self.switches.extend(word.to_ne_bytes());
        }
        self.switches.extend([0, u8::from(is_ring_full), 0, 0]);
        for info in [prev.1, next.1] {
            for word in [info.run_delay, info.last_arrival, info.last_queued] {
                self.switches.extend(word.to_ne_bytes());
            }
        }
    }
}

impl Habit {
    fn sleep(self, random: &mut Random) -> u64 {
        match self {
            Self::Suddenly if random.below(500) == 0 => 500 * MS,
            Self::Briefly | Self::Suddenly => 50_000 + random.below(100_000),
            Self::Long => 5 * MS + random.below(10 * MS),
        }
    }
}

/// What a record stands for.
#[derive(Clone, Copy, Debug)]
struct Captured {
    probability: u32,
    head_ns: u64,
}

/// Everything the program said.
#[derive(Default)]
struct Told {
    departures: HashMap<(u32, u64), Captured>,
    /// By what they end: when, and how much of it in the run queue.
    ends: HashMap<(u32, u64), (u64, u64)>,
    /// Thread, nanoseconds, probability.
    tails: Vec<(u32, u64, u32)>,
    counters: Vec<u8>,
}

impl Told {
    fn decode(mut answers: Vec<Vec<u8>>) -> Self {
        let counters = answers.pop().unwrap();
        let mut told = Self { counters, ..Self::default() };
        for record in answers {
            let half = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap());
            let word = |at: usize| u64::from_ne_bytes(record[at..at + 8].try_into().unwrap());
            match half(0) {
                abi::PYRITE_RECORD_OFF_CPU => {
                    let key = (half(offset_of!(Header, tid)), word(offset_of!(Header, time_boot_ns)));
                    let captured = Captured {
                        probability: half(offset_of!(Header, probability)),
                        head_ns: u64::from(half(offset_of!(Header, head))) << abi::PYRITE_OFF_CPU_UNIT_SHIFT,
                    };
                    assert!(told.departures.insert(key, captured).is_none(), "{key:?} left twice");
                }
                abi::PYRITE_RECORD_OFF_CPU_END => {
                    let key = (half(offset_of!(End, tid)), word(offset_of!(End, start_boot_ns)));
                    let end = (word(offset_of!(End, end_boot_ns)), word(offset_of!(End, runnable_ns)));
                    assert!(told.departures.contains_key(&key), "{key:?} ended and never began");
                    assert!(told.ends.insert(key, end).is_none(), "{key:?} ended twice");
                }
                abi::PYRITE_RECORD_OFF_CPU_TAIL => told.tails.push((
                    half(offset_of!(Tail, tid)),
                    word(offset_of!(Tail, tail_ns)),
                    half(offset_of!(Tail, probability)),
                )),
                kind => panic!("a record of kind {kind}"),
            }
        }
        told
    }

    fn counter(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.counters[at..at + 8].try_into().unwrap())
    }

    fn fate(&self, fate: OffFate) -> u64 {
        self.counter(offset_of!(Counters, fates) + 8 * fate as usize)
    }
}

/// What is said of `ns` that were recorded with this probability.
fn weigh(ns: u64, probability: u32) -> f64 {
    let chance = if probability == u32::MAX { 1.0 } else { f64::from(probability) / 4_294_967_296.0 };
    ns as f64 / chance
}

fn config(off_cpu_per_second: u32) -> pyrite_config {
    pyrite_config { off_cpu_per_second, ring_wakeup_bytes: u64::MAX, ..pyrite_config::default() }
}

#[test]
fn host_switches_stand_for_all_time_off_the_cpu_and_keep_the_budget() {
    const SECONDS: u64 = 20;
    const PER_SECOND: u32 = 400;
    let schedule = Schedule::make(1, SECONDS * 1_000 * MS, Mishaps::default());
    let told = Told::decode(Host::x86_64().run_switches(&config(PER_SECOND), &schedule.switches));

    let mut truth = HashMap::<Habit, f64>::new();
    for absence in schedule.absences.values() {
        *truth.entry(absence.habit).or_default() += absence.ns as f64;
    }
    let mut found = HashMap::<Habit, f64>::new();
    for (key, captured) in &told.departures {
        let absence = schedule.absences[key];
        let head_ns = absence.ns.min(captured.head_ns);
        let ns = weigh(head_ns, captured.probability) + (absence.ns - head_ns) as f64;
        *found.entry(absence.habit).or_default() += ns;
    }
    let habits: HashMap<u32, Habit> =
        schedule.absences.iter().map(|((tid, _), absence)| (*tid, absence.habit)).collect();
    for (tid, ns, probability) in &told.tails {
        *found.entry(habits[tid]).or_default() += weigh(*ns, *probability);
    }
    let captured = told.departures.len() + told.tails.len();
    println!("{} departures, {captured} recorded", schedule.absences.len());
    for (habit, truth) in &truth {
        let times = found[habit] / truth;
        println!("{habit:?}: {:.3} s, told {times:.3} times as much", truth / 1e9);
        assert!((0.9..1.1).contains(&times), "{habit:?}: {times:.3}");
    }
    let budget = u64::from(PER_SECOND) * SECONDS;
    assert!((budget * 8 / 10..budget * 12 / 10).contains(&(captured as u64)), "{captured} of {budget}");
    assert_eq!(told.fate(OffFate::Sent), told.departures.len() as u64);
    let departures = told.fate(OffFate::Sent) + told.fate(OffFate::Shed);
    assert_eq!(departures, schedule.absences.len() as u64, "one fate each");
}

/// Every captured departure whose end was not lost has one, and it is the true one.
fn check_ends(mishaps: Mishaps) -> (Told, usize) {
    let schedule = Schedule::make(2, 5_000 * MS, mishaps);
    let told = Told::decode(Host::x86_64().run_switches(&config(4_000), &schedule.switches));
    let mut open = 0;
    for key in told.departures.keys() {
        let Some((end, runnable_ns)) = told.ends.get(key) else {
            open += 1;
            continue;
        };
        let absence = schedule.absences[key];
        assert_eq!((*end, *runnable_ns), (absence.end, absence.queued_ns), "{absence:?}");
    }
    println!("{} captured, {} ended", told.departures.len(), told.ends.len());
    assert!(told.ends.len() > 1_000, "{}", told.ends.len());
    (told, open)
}

#[test]
fn host_switches_tell_every_end_once() {
    let (told, open) = check_ends(Mishaps::default());
    assert_eq!((open, told.counter(offset_of!(Counters, ends_lost))), (0, 0));
}

#[test]
fn host_switches_tell_ends_that_the_kernel_did_not_trace() {
    let (_, open) = check_ends(Mishaps { untraced_arrivals: 5, ..Mishaps::default() });
    assert_eq!(open, 0);
}

#[test]
fn host_switches_tell_ends_that_met_a_full_ring_when_the_thread_leaves_again() {
    let (told, open) = check_ends(Mishaps { ring_full_ms: 30, ..Mishaps::default() });
    assert!(told.fate(OffFate::RingFull) > 100);
    // Those of threads that died while the ring was full, and of which user space is told by the counter.
    assert_eq!(open as u64, told.counter(offset_of!(Counters, ends_lost)));
}
