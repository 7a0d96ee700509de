//! One container: how busy it is, which of its stacks are on the CPU in a second, what it pushes for a minute.
//!
//! Stacks are drawn by rank, rank r (from 1) with a weight of 1/(r + 12): Zipf's law with a flattened head. In a program
//! that drifts each rank goes to a new stack every twelve hours, each at a moment of its own.

use std::borrow::Cow;

use crate::recipe::code::{Function, FunctionNo, Language};
use crate::recipe::random::{Random, hash};
use crate::recipe::stacks::{Frame, StackNo, Stacks};

/// CPU time that one sample stands for.
pub const PERIOD_NS: i64 = 10_000_000;

/// Containers take turns in size; this many have all sizes.
const SIZES: u32 = 50;
const LEAST_STACKS: u32 = 500;
const MOST_STACKS: u32 = 3_000;
/// Samples a second, averaged over a day.
const LEAST_LOAD: u32 = 15;
const MOST_LOAD: u32 = 40;
const HEAD: u64 = 12;
const DRIFTING_EVERY: u32 = 5;
const STACK_LIFE_S: u32 = 12 * 3600;
const DAY_S: u32 = 24 * 3600;

/// Pushes are stamped with multiples of this, so that the ends of windows can be where no push is.
pub const TICK_MS: i64 = 10;
const MINUTE_MS: i64 = 60_000;
/// No two pushes of a container are exactly a minute apart.
const JITTER_TICKS: i64 = 10;

/// What the hashes of this file are for.
const LOAD: u64 = 3;
const DRAWS: u64 = 4;
const BIRTH: u64 = 5;
const PHASE: u64 = 6;
const JITTER: u64 = 7;
const ID: u64 = 8;

/// A second since the load began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Second(pub u32);

/// A minute since the load began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minute(pub u32);

impl Minute {
    /// Its seconds.
    pub fn seconds(self) -> impl Iterator<Item = Second> {
        (self.0 * 60..(self.0 + 1) * 60).map(Second)
    }
}

/// How often a stack was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The stack.
    pub stack: StackNo,
    /// How often, at least once.
    pub samples: u32,
}

impl Counted {
    /// The CPU time that it stands for.
    pub fn value_ns(self) -> i64 {
        i64::from(self.samples) * PERIOD_NS
    }
}

/// A container and the program in it.
pub struct Container {
    service: String,
    /// By number.
    functions: Vec<Function>,
    /// All that is random about it follows from this.
    key: u64,
    samples_per_second: u32,
    day_begins_s: u32,
    drifts: bool,
    stacks: Stacks,
    /// By rank, the sum of all weights up to its own.
    weights: Vec<u64>,
}

impl Container {
    pub(super) fn new(seed: u64, n: u32) -> Self {
        let key = hash(&[seed, n.into()]);
        let in_turn = |least: u32, most: u32, turn: u32| least + (most - least) * turn / (SIZES - 1);
        let count = in_turn(LEAST_STACKS, MOST_STACKS, n % SIZES);
        let weights = (1..=u64::from(count)).scan(0, |sum, rank| {
            *sum += (1 << 40) / (rank + HEAD);
            Some(*sum)
        });
        let service = service_name(n);
        let function = |no| Language::of(n).function(&service, no);
        Self {
            functions: FunctionNo::all().map(function).collect(),
            service,
            key,
            // 17 and 50 have no common factor: every load is there, whatever the size.
            samples_per_second: in_turn(LEAST_LOAD, MOST_LOAD, n * 17 % SIZES),
            day_begins_s: n % SIZES * (DAY_S / SIZES),
            drifts: n % DRIFTING_EVERY == 2,
            stacks: Stacks::new(key, count),
            weights: weights.collect(),
        }
    }

    /// The service's name, unlike that of any other.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// How many stacks it may have on the CPU at any moment.
    pub fn stack_count(&self) -> u32 {
        self.stacks.count()
    }

    /// Whether its stacks are others after half a day.
    pub fn drifts(&self) -> bool {
        self.drifts
    }

    /// The labels of all that it pushes, the profile's name apart.
    pub fn labels(&self) -> [(&'static str, String); 7] {
        let part = |part| hash(&[self.key, ID, part]);
        let id = format!("{:016x}{:016x}{:016x}{:016x}", part(0), part(1), part(2), part(3));
        [
            ("service_name", self.service.clone()),
            ("container_name", self.service.clone()),
            ("container_id", id),
            ("image", format!("registry.example/shop/{}:1.2.3", self.service)),
            ("namespace", "shop".to_owned()),
            ("pod", format!("{}-{:05x}", self.service, self.key & 0xf_ffff)),
            ("node", format!("node-{}", self.key % 8)),
        ]
    }

    /// How many samples it has in a second: a day's rise and fall of 30 %, and 25 % of noise on top.
    pub fn samples_in(&self, second: Second) -> u32 {
        let of_day = (second.0 + self.day_begins_s) % DAY_S;
        let tide_per_mille = 700 + 600 * of_day.abs_diff(DAY_S / 2) / (DAY_S / 2);
        let noise_percent = 75 + (hash(&[self.key, LOAD, second.0.into()]) % 51) as u32;
        (self.samples_per_second * tide_per_mille * noise_percent / 100_000).max(1)
    }

    /// CPU time of a minute.
    pub fn minute_ns(&self, minute: Minute) -> i64 {
        minute.seconds().map(|second| i64::from(self.samples_in(second)) * PERIOD_NS).sum()
    }

    /// The stacks of a second, each once, in order.
    pub fn second(&self, second: Second) -> Vec<Counted> {
        self.counted(std::iter::once(second))
    }

    /// The stacks of a minute, each once, in order: the sum of its seconds.
    pub fn minute(&self, minute: Minute) -> Vec<Counted> {
        self.counted(minute.seconds())
    }

    /// When the profile of a minute is taken, in milliseconds since the load began: within that minute, and the next
    /// one about a minute later.
    pub fn pushed_at_ms(&self, minute: Minute) -> i64 {
        let ticks = MINUTE_MS / TICK_MS - JITTER_TICKS;
        let phase = (hash(&[self.key, PHASE]) % ticks as u64) as i64;
        let jitter = (hash(&[self.key, JITTER, minute.0.into()]) % JITTER_TICKS as u64) as i64;
        i64::from(minute.0) * MINUTE_MS + (phase + jitter) * TICK_MS
    }

    /// The frames of a stack, root first.
    pub fn frames(&self, stack: StackNo) -> Cow<'_, [Frame]> {
        self.stacks.frames(stack)
    }

    /// A function of its program.
    pub fn function(&self, no: FunctionNo) -> &Function {
        &self.functions[no.index()]
    }

    fn counted(&self, seconds: impl Iterator<Item = Second>) -> Vec<Counted> {
        let mut drawn = Vec::new();
        for second in seconds {
            self.draw(second, &mut drawn);
        }
        drawn.sort_unstable();
        let runs = drawn.chunk_by(|left, right| left == right);
        runs.map(|run| Counted { stack: run[0], samples: run.len() as u32 }).collect()
    }

    fn draw(&self, second: Second, drawn: &mut Vec<StackNo>) {
        let Some(&all) = self.weights.last() else { return };
        let mut random = Random(hash(&[self.key, DRAWS, second.0.into()]));
        for _ in 0..self.samples_in(second) {
            let at = random.below(all);
            let rank = self.weights.partition_point(|&sum| sum <= at) as u32;
            drawn.push(self.stack_at(rank, second));
        }
    }

    fn stack_at(&self, rank: u32, second: Second) -> StackNo {
        if !self.drifts {
            return StackNo(rank);
        }
        let age_s = second.0 + (hash(&[self.key, BIRTH, rank.into()]) % u64::from(STACK_LIFE_S)) as u32;
        StackNo(rank + age_s / STACK_LIFE_S * self.stack_count())
    }
}

fn service_name(n: u32) -> String {
    const SUBJECTS: [&str; 10] = [
        "cart",
        "catalog",
        "checkout",
        "identity",
        "inventory",
        "orders",
        "payments",
        "pricing",
        "search",
        "shipping",
    ];
    const ROLES: [&str; 5] = ["api", "worker", "cache", "gateway", "batch"];
    let (subject, role) = (SUBJECTS[n as usize % 10], ROLES[n as usize / 10 % 5]);
    match n / SIZES {
        0 => format!("{subject}-{role}"),
        copy => format!("{subject}-{role}-{copy}"),
    }
}
