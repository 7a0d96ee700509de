//! What may happen in a schedule.

use std::io::ErrorKind;

use proptest::prelude::*;

use crate::tests::disk::{Kept, Trouble};

/// A row as a schedule states it; where it says how old, in milliseconds before the first moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewRow {
    pub(super) service: usize,
    pub(super) age_ms: i64,
    pub(super) path: usize,
}

/// What becomes of a file, or is done to it, by chance or by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Segment,
    /// With all that is in it.
    WholeSegment,
    Dictionary,
    /// Likewise.
    DictionaryPart,
    Log,
    Catalogue,
    Quarantine,
    Format,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Vec<NewRow>),
    Flush,
    Merge,
    Retain,
    /// Removes what nobody reads any more.
    Tidy,
    Clock(i64),
    Check(u64),
    Kill,
    PowerFails(Kept),
    Close,
    Trouble {
        after: u64,
        trouble: Trouble,
        then: Kept,
    },
    CatalogueRefuses,
    Heal,
    /// A bit flips in the file of so great a number.
    Flip {
        place: Place,
        file: usize,
        at: usize,
        closed: bool,
    },
    Delete {
        place: Place,
        file: usize,
        closed: bool,
    },
}

fn any_row() -> impl Strategy<Value = NewRow> {
    const MINUTE_MS: i64 = 60_000;
    let age = prop_oneof![
        4 => 0..5 * 60 * MINUTE_MS,
        2 => 0..3 * MINUTE_MS,
        1 => 24 * 60 * MINUTE_MS..60 * 24 * 60 * MINUTE_MS,
    ];
    (0..3_usize, age, 0..40_usize).prop_map(|(service, age_ms, path)| NewRow { service, age_ms, path })
}

fn any_place() -> impl Strategy<Value = Place> {
    prop_oneof![
        3 => Just(Place::Segment),
        2 => Just(Place::WholeSegment),
        2 => Just(Place::Dictionary),
        1 => Just(Place::DictionaryPart),
        2 => Just(Place::Log),
        2 => Just(Place::Catalogue),
        1 => Just(Place::Quarantine),
        1 => Just(Place::Format),
    ]
}

fn any_kept() -> impl Strategy<Value = Kept> {
    prop_oneof![1 => Just(Kept::Nothing), 1 => Just(Kept::Names), 2 => Just(Kept::Some)]
}

fn any_trouble() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        Just(ErrorKind::Other),
        Just(ErrorKind::StorageFull),
        Just(ErrorKind::ReadOnlyFilesystem)
    ];
    let times = prop_oneof![Just(1_u32), Just(2), Just(u32::MAX)];
    let fail = (kind, times, any::<bool>());
    let fail = fail.prop_map(|(kind, times, reads)| Trouble::Fail { kind, times, reads });
    let trouble = prop_oneof![2 => Just(Trouble::Crash), 1 => fail];
    (0..60_u64, trouble, any_kept()).prop_map(|(after, trouble, then)| Step::Trouble { after, trouble, then })
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    const HOUR_MS: i64 = 3_600_000;
    let clock = prop_oneof![2 => -30 * HOUR_MS..30 * HOUR_MS, 1 => Just(3 * 365 * 24 * HOUR_MS)];
    let flip = (any_place(), any::<usize>(), any::<usize>(), any::<bool>());
    let delete = (any_place(), any::<usize>(), any::<bool>());
    prop_oneof![
        16 => prop::collection::vec(any_row(), 1..16).prop_map(Step::Append),
        10 => Just(Step::Flush),
        5 => Just(Step::Merge),
        1 => Just(Step::Retain),
        4 => Just(Step::Tidy),
        1 => clock.prop_map(Step::Clock),
        3 => any::<u64>().prop_map(Step::Check),
        3 => Just(Step::Kill),
        3 => any_kept().prop_map(Step::PowerFails),
        1 => Just(Step::Close),
        8 => any_trouble(),
        1 => Just(Step::CatalogueRefuses),
        2 => Just(Step::Heal),
        2 => flip.prop_map(|(place, file, at, closed)| Step::Flip { place, file, at, closed }),
        2 => delete.prop_map(|(place, file, closed)| Step::Delete { place, file, closed }),
    ]
}
