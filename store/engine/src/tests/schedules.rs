//! Random schedules on a disk that crashes, fails, rots and loses files: what was acknowledged is there or named as lost.
//!
//! A schedule is a list of steps; a list of rows is the model. After each reopening, and whenever a schedule asks, all rows
//! are read one by one and compared with the model, and what queries answer over windows is compared with what the rows add
//! up to. A row that is missing must be of a segment or log that the schedule has harmed, all of that must be missing, and
//! what the store says of itself must name it.

mod steps;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};

use self::steps::{NewRow, Step, any_step};
use self::world::World;
use super::disk::Kept;

/// So many schedules run unless the environment asks for more.
const SCHEDULES: u32 = 300;
const SCHEDULES_VARIABLE: &str = "PYRITE_FAULT_SCHEDULES";
const SEED_VARIABLE: &str = "PYRITE_FAULT_SEED";

fn run(steps: &[Step], seed: u64) -> Result<World, TestCaseError> {
    let mut world = World::new(seed)?;
    for step in steps {
        world.take(step)?;
    }
    world.end()?;
    Ok(world)
}

fn number(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Schedules of steps that are enough to lose what can be lost.
fn check_schedules(seed: u32) {
    let cases = number(SCHEDULES_VARIABLE, SCHEDULES);
    let seed = seed + number(SEED_VARIABLE, 0) * 1000;
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let schedules = (prop::collection::vec(any_step(), 1..40), any::<u64>());
    let result = runner.run(&schedules, |(steps, seed)| run(&steps, seed).map(drop));
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn random_schedules_lose_nothing_that_is_not_named() {
    check_schedules(0);
}

/// Rows of one hour, some of stacks that are new.
fn append(from: usize) -> Step {
    let row = |n: usize| NewRow { service: n % 3, age_ms: 7_200_000 - n as i64 * 1_000, path: n };
    Step::Append((from..from + 6).map(row).collect())
}

/// Whether a workload that writes, merges and removes came as far as the crash. After it comes a power failure, for what
/// the next process does builds on names that the first may have left unsynced.
fn check_crash(operations: u64, power_fails: bool, kept: Kept) -> Result<bool, TestCaseError> {
    let mut world = World::new(operations)?;
    world.crash_after(operations, power_fails, kept);
    let merged = [append(0), Step::Flush, append(4), Step::Flush, Step::Merge, Step::Tidy];
    for step in merged.iter().chain(&[append(8), Step::Flush, append(12)]) {
        world.take(step)?;
    }
    let has_crashed = world.has_crashed();
    world.take(&Step::PowerFails(Kept::Nothing))?;
    world.end()?;
    Ok(has_crashed)
}

#[test]
fn a_crash_at_any_operation_and_a_power_failure_after_it() {
    for (power_fails, kept) in [(false, Kept::Nothing), (true, Kept::Nothing), (true, Kept::Names)] {
        let mut operations = 0;
        let crashes = |operations| {
            check_crash(operations, power_fails, kept)
                .unwrap_or_else(|error| panic!("{operations} operations, {kept:?}: {error}"))
        };
        while crashes(operations) {
            operations += 1;
        }
        assert!(operations > 150, "the workload is {operations} operations only");
    }
}
