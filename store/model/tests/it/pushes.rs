//! The reader of pushes against the plain reading.

use proptest::prelude::*;
use proptest::sample::Index;
use pyrite_model::pprof::{PushContext, PushLimits, append, gzip, proto};
use pyrite_model::{Batch, LabelSet};

use crate::profiles::{NOW, profile};
use crate::reading::{Reading, read};
use crate::wire::{Flaw, write};

/// Reads each profile both ways, all into one batch, and compares what there is after each.
fn check(profiles: &[Vec<u8>], small_limits: bool) -> Result<(), TestCaseError> {
    let labels = LabelSet::from_pairs([("__name__", "process_cpu"), ("service_name", "api")]);
    let limits = PushLimits::default();
    let small = PushLimits {
        max_frames: 5,
        max_symbol_bytes: 4,
        max_sample_labels: 3,
        max_labels: 4,
        max_label_value_bytes: 11,
        ..PushLimits::default()
    };
    let limits = if small_limits { &small } else { &limits };
    let context = PushContext { labels: &labels, display_names: None, now: NOW, limits };
    let mut batch = Batch::default();
    let mut expected = Reading::default();
    let mut sum = expected.appended;
    for bytes in profiles {
        let packed = if bytes.len().is_multiple_of(2) { gzip(bytes) } else { bytes.clone() };
        match (append(&mut batch, &packed, &context), read(bytes, &context)) {
            (Ok(appended), Ok(reading)) => {
                sum.rows += appended.rows;
                sum.negative_samples += appended.negative_samples;
                sum.truncated_stacks += appended.truncated_stacks;
                expected = expected.with(reading);
                prop_assert_eq!(&Reading::of(&batch, sum), &expected);
            }
            (Err(error), Err(reason)) => {
                prop_assert_eq!(error.reason(), reason, "{}", error);
                // What is left of it in the batch is not meant to be stored.
                return Ok(());
            }
            (found, expected) => {
                return Err(TestCaseError::fail(format!("{found:?}, but should be {expected:?}")));
            }
        }
    }
    Ok(())
}

fn flaw() -> impl Strategy<Value = Flaw> {
    prop_oneof![10 => Just(Flaw::None), 1 => Just(Flaw::Group), 1 => Just(Flaw::BadText)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_push_means_what_the_plain_reading_says(profile in profile(), seed: u64, small_limits: bool) {
        check(&[write(&profile, Flaw::None, seed)], small_limits)?;
    }

    #[test]
    fn profiles_in_one_batch_add_up(
        profiles in prop::collection::vec(profile(), 2..4),
        seed: u64,
    ) {
        let bytes: Vec<_> = profiles.iter().map(|profile| write(profile, Flaw::None, seed)).collect();
        check(&bytes, false)?;
    }

    #[test]
    fn a_push_cut_short_means_what_is_left(profile in profile(), seed: u64, at: Index) {
        let mut bytes = write(&profile, Flaw::None, seed);
        bytes.truncate(at.index(bytes.len() + 1));
        check(&[bytes], false)?;
    }

    #[test]
    fn flawed_bytes_are_refused(profile in profile(), flaw in flaw(), seed: u64) {
        let bytes = write(&profile, flaw, seed);
        if flaw == Flaw::None {
            return check(&[bytes], false);
        }
        let labels = LabelSet::from_pairs([("__name__", "process_cpu")]);
        let limits = PushLimits::default();
        let context = PushContext { labels: &labels, display_names: None, now: NOW, limits: &limits };
        let error = append(&mut Batch::default(), &bytes, &context).expect_err("flawed");
        prop_assert_eq!(error.reason(), "malformed");
    }

    /// What damage does depends on the reader, so only where both readers take the bytes they must agree.
    #[test]
    fn damage_that_both_readers_take_means_the_same(
        profile in profile(),
        seed: u64,
        hits in prop::collection::vec((any::<Index>(), any::<u8>()), 1..3),
    ) {
        let mut bytes = write(&profile, Flaw::None, seed);
        for (at, byte) in hits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let labels = LabelSet::from_pairs([("__name__", "process_cpu")]);
        let limits = PushLimits::default();
        let context = PushContext { labels: &labels, display_names: None, now: NOW, limits: &limits };
        let mut batch = Batch::default();
        if let (Ok(appended), Ok(expected)) = (append(&mut batch, &bytes, &context), read(&bytes, &context)) {
            prop_assert_eq!(Reading::of(&batch, appended), expected);
        }
    }
}

/// The made-up profiles are of use only if they are taken most of the time and hold what readers can get wrong.
#[test]
fn made_up_profiles_hold_what_matters() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let labels = LabelSet::from_pairs([("__name__", "process_cpu")]);
    let limits = PushLimits::default();
    let context = PushContext { labels: &labels, display_names: None, now: NOW, limits: &limits };
    let mut runner = TestRunner::deterministic();
    let (mut taken, mut rows, mut added_up, mut refused) = (0, 0, 0, std::collections::BTreeSet::new());
    for seed in 0..1000 {
        let profile: proto::Profile = profile().new_tree(&mut runner).unwrap().current();
        match read(&write(&profile, Flaw::None, seed), &context) {
            Ok(reading) => {
                taken += 1;
                rows += reading.appended.rows;
                let values: usize = profile.sample.iter().map(|sample| sample.value.len()).sum();
                added_up += usize::from(reading.appended.rows < values / 2);
            }
            Err(reason) => drop(refused.insert(reason)),
        }
    }
    assert!(taken > 300 && rows > 1000 && added_up > 50, "{taken} taken, {rows} rows, {added_up} added up");
    assert_eq!(
        refused.into_iter().collect::<Vec<_>>(),
        ["empty", "labels", "malformed", "profile_type", "time"]
    );
}
