//! Wall time is never stored: it is what the rows of time on and off the CPU are, asked for together.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use pyrite_model::{
    Batch, LabelSet, Matcher, ProfileType, Row, Selector, SeriesRows, SymbolTable, Tenants, TimeRange,
    UnixMs, names,
};

use super::{EVERYTHING, config, memory_dir};
use crate::{SeriesQuery, StackQuery, Store};

/// The same moment throughout, which retention leaves alone.
fn recently() -> UnixMs {
    static RECENTLY: OnceLock<UnixMs> = OnceLock::new();
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    *RECENTLY.get_or_init(|| UnixMs(now_ms()))
}

/// A row a type and state; without a state the row comes from a push.
fn batch(rows: &[(ProfileType, &str, i64)]) -> Batch {
    let mut symbols = SymbolTable::new();
    let main = symbols.intern_named_location("main");
    let stack = symbols.intern_stack(&[main]).unwrap();
    let series = rows.iter().map(|(profile_type, state, value)| SeriesRows {
        labels: LabelSet::from_pairs([("service_name", "a"), (names::STATE, state)]),
        profile_type: profile_type.clone(),
        rows: vec![Row { time: recently(), stack, value: *value }],
    });
    Batch { series: series.collect(), symbols, ..Batch::default() }
}

fn total(store: &Store, profile_type: ProfileType, selector: Selector) -> i64 {
    store
        .merge_stacks(&StackQuery::new(Tenants::default(), profile_type, selector, EVERYTHING))
        .unwrap()
        .total()
}

fn check(store: &Store) {
    let wall = ProfileType::wall();
    let of_state = |state: &str| Selector::all().with(Matcher::equal(names::STATE, state));
    assert_eq!(total(store, wall.clone(), Selector::all()), 1 + 20 + 300 + 4_000);
    assert_eq!(total(store, wall.clone(), of_state("running")), 1);
    assert_eq!(total(store, wall.clone(), of_state("blocked")), 20);
    assert_eq!(total(store, ProfileType::off_cpu(), Selector::all()), 320);
    assert_eq!(total(store, ProfileType::cpu_time(), Selector::all()), 50_001);
    let of_type = Selector::all().with(Matcher::equal(names::PROFILE_TYPE, wall.to_string()));
    assert_eq!(total(store, wall.clone(), of_type.clone()), 4_321);
    assert_eq!(
        store.profile_types(&Tenants::default(), EVERYTHING).unwrap(),
        [ProfileType::off_cpu(), ProfileType::cpu_time(), wall.clone()]
    );
    let states = store.label_values(&Tenants::default(), names::STATE, &[of_type], EVERYTHING).unwrap();
    assert_eq!(states, ["blocked", "runnable", "running"]);
    let query = SeriesQuery {
        stacks: StackQuery::new(Tenants::default(), wall, Selector::all(), EVERYTHING),
        step_ms: 1_000,
        group_by: vec![names::STATE.to_owned()],
    };
    let bounded = TimeRange::new(recently(), recently());
    let query = SeriesQuery { stacks: StackQuery { range: bounded, ..query.stacks }, ..query };
    let groups = store.select_series(&query).unwrap();
    let sums: Vec<i64> =
        groups.iter().map(|group| group.points.iter().map(|(_, value)| value).sum()).collect();
    assert_eq!(sums, [4_000, 300, 20, 1]);
}

#[test]
fn wall_time_is_the_sum_of_what_tells_a_state_and_of_what_was_pushed_as_such() {
    let dir = memory_dir();
    let (store, _) = Store::open(config(dir.path())).unwrap();
    let rows = [
        (ProfileType::cpu_time(), "running", 1),
        (ProfileType::off_cpu(), "blocked", 20),
        (ProfileType::off_cpu(), "runnable", 300),
        (ProfileType::wall(), "", 4_000),
        (ProfileType::cpu_time(), "", 50_000),
    ];
    store.append_blocking(batch(&rows)).unwrap();
    check(&store);
    // And the same of a segment.
    store.flush().unwrap();
    check(&store);
}

#[test]
fn there_is_no_wall_time_where_nothing_was_recorded_off_the_cpu() {
    let dir = memory_dir();
    let (store, _) = Store::open(config(dir.path())).unwrap();
    store.append_blocking(batch(&[(ProfileType::cpu_time(), "running", 1)])).unwrap();
    assert_eq!(store.profile_types(&Tenants::default(), EVERYTHING).unwrap(), [ProfileType::cpu_time()]);
}
