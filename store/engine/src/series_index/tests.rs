//! The index against a list of who holds which series, which is asked by trying every series.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use pyrite_model::{
    Batch, LabelSet, MatchOp, Matcher, ProfileType, Row, Selector, SeriesKey, SeriesRows, SymbolTable,
    Tenant, Tenants, TimeRange, UnixMs, names,
};

use super::{Filling, SeriesIndex};
use crate::dictionary::{Epoch, EpochId};
use crate::head::{Head, HeadState};
use crate::job::{Job, Jobs};
use crate::segment::SegmentInfo;
use crate::segment::series::SegmentSeries;
use crate::shared::View;
use crate::{AppendError, Limits, Stop};

/// A series and its first and last row.
type Held = (SeriesKey, TimeRange);

const NAMES: [&str; 13] = [
    "service_name",
    "pod",
    "state",
    "missing",
    "é",
    "__type__",
    "__name__",
    "__unit__",
    "__period_type__",
    "__period_unit__",
    "__profile_type__",
    "__service_name__",
    "",
];

fn memory() -> ProfileType {
    // Its parts may be empty.
    "memory:inuse:bytes::".parse().unwrap()
}

fn types() -> [ProfileType; 4] {
    [ProfileType::cpu_time(), ProfileType::off_cpu(), ProfileType::wall(), memory()]
}

fn tenant(name: &str) -> Tenant {
    name.parse().expect("a name")
}

fn any_tenant() -> impl Strategy<Value = Tenant> {
    prop::sample::select(vec![Tenant::default(), tenant("a"), tenant("b")])
}

fn any_tenants() -> impl Strategy<Value = Tenants> {
    let tenants = ["anonymous", "a", "b", "nobody", "a|b", "anonymous|b|nobody", "anonymous|a|b"];
    prop::sample::select(tenants.to_vec()).prop_map(|names| names.parse().expect("names"))
}

fn any_key() -> impl Strategy<Value = SeriesKey> {
    let value = |values: &'static [&'static str]| prop::sample::select(values);
    let service = value(&["api", "api-1", "api-2", "db", "db\nx", ""]);
    let state = value(&["", "running", "blocked"]);
    let odd = value(&["", "", "x", "cpu"]);
    let parts = (service, 0..8_u32, state, odd, 0..4_usize, any_tenant());
    parts.prop_map(|(service, pod, state, odd, of_type, tenant)| SeriesKey {
        tenant,
        labels: LabelSet::from_pairs([
            ("service_name", service),
            ("pod", &if pod < 6 { format!("pod-{pod}") } else { String::new() }),
            (names::STATE, state),
            // Stored under names that are synthetic, or that no Prometheus client could give.
            ("__type__", odd),
            ("__service_name__", odd),
            ("é", odd),
        ]),
        profile_type: types()[of_type].clone(),
    })
}

fn any_range() -> impl Strategy<Value = TimeRange> {
    (-50..100_i64, 0..60_i64).prop_map(|(start, len)| TimeRange::new(UnixMs(start), UnixMs(start + len)))
}

/// A few series of all kinds, or so many that lists become bits.
fn any_holding() -> impl Strategy<Value = BTreeMap<SeriesKey, TimeRange>> {
    let many = (
        (0..300_u32, 1..250_u32),
        0..4_usize,
        any_range(),
        prop::collection::vec(any_range(), 4),
        any_tenant(),
    );
    prop_oneof![
        3 => prop::collection::btree_map(any_key(), any_range(), 1..12),
        1 => many.prop_map(|((first, count), of_type, usual, unusual, tenant)| {
            let holding = (first..first + count).map(|pod| {
                let labels = LabelSet::from_pairs([("service_name", "many"), ("pod", &format!("pod-{pod}")), (names::STATE, "running")]);
                let key = SeriesKey { labels, profile_type: types()[of_type].clone(), tenant: tenant.clone() };
                (key, if pod % 50 == 0 { unusual[pod as usize / 50 % 4] } else { usual })
            });
            holding.collect()
        }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    AddHead(BTreeMap<SeriesKey, TimeRange>),
    AddSegment(BTreeMap<SeriesKey, TimeRange>),
    DropHead(prop::sample::Index),
    DropSegment(prop::sample::Index),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any_holding().prop_map(Step::AddHead),
        3 => any_holding().prop_map(Step::AddSegment),
        1 => any::<prop::sample::Index>().prop_map(Step::DropHead),
        2 => any::<prop::sample::Index>().prop_map(Step::DropSegment),
    ]
}

fn any_matcher() -> impl Strategy<Value = Matcher> {
    let op = prop::sample::select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]);
    let value = prop::sample::select(vec![
        "",
        "api",
        "db",
        "many",
        "pod-1",
        "running",
        "x",
        "cpu",
        "wall",
        "off_cpu",
        ".*",
        ".+",
        "api|db",
        "api-.*",
        "api.*|",
        "(pod-1|pod-2.*)",
        "pod-[0-9]",
        ".*1.*",
        "^api$",
        "(?i)API",
        "db.x",
        "[^a]+",
        "cpu|wall",
        "(off_)?cpu",
        "wall:wall:nanoseconds:wall:nanoseconds",
        "process_cpu:.*",
        "a{0}",
        "b|a{0}|run.*",
    ]);
    let name = prop::sample::select(NAMES.to_vec());
    (name, op, value).prop_map(|(name, op, value)| Matcher::new(name, op, value).expect("an expression"))
}

/// Whose series with rows when meet what.
#[derive(Clone, Debug)]
struct Question {
    tenants: Tenants,
    selectors: Vec<Selector>,
    window: TimeRange,
}

fn any_question() -> impl Strategy<Value = Question> {
    let selector = prop::collection::vec(any_matcher(), 0..4)
        .prop_map(|matchers| matchers.into_iter().fold(Selector::all(), Selector::with));
    let everything = TimeRange::new(UnixMs(i64::MIN), UnixMs(i64::MAX));
    let window = prop_oneof![any_range(), Just(everything)];
    let parts = (any_tenants(), prop::collection::vec(selector, 0..3), window);
    parts.prop_map(|(tenants, selectors, window)| Question { tenants, selectors, window })
}

fn limits(series: usize, tenants: usize) -> Limits {
    Limits { series, tenants, ..Limits::default() }
}

/// The index and the list.
struct World {
    index: SeriesIndex,
    heads: Vec<(Arc<Head>, Vec<Held>)>,
    segments: Vec<(Arc<SegmentInfo>, Vec<SegmentSeries>)>,
    made: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            index: SeriesIndex::with_limits(limits(1000, 3)),
            heads: Vec::new(),
            segments: Vec::new(),
            made: 0,
        };
        world.take(Step::AddHead(BTreeMap::new()));
        world
    }

    fn take(&mut self, step: Step) {
        self.made += 1;
        match step {
            Step::AddHead(holding) => {
                let state = head_state(&holding);
                self.index.add_to_head(self.made, state.series.keys());
                let head = Arc::new(Head::new(self.made, state));
                self.heads.push((head, holding.into_iter().collect()));
            }
            Step::AddSegment(holding) => {
                let series: Vec<SegmentSeries> = (0..)
                    .zip(holding)
                    // Ids in a segment may skip.
                    .map(|(i, (key, range))| SegmentSeries {
                        id: i * 3 + 1,
                        key: Arc::new(key),
                        range,
                        rows: 1,
                    })
                    .collect();
                let ranges = series.iter().map(|series| series.range);
                let range = ranges.reduce(|a, b| TimeRange::new(a.start.min(b.start), a.end.max(b.end)));
                let (name, range) = (format!("segment {}", self.made), range.expect("a series"));
                self.index.add_segment(&name, &series);
                let info = SegmentInfo { name, level: 0, range, rows: 1, bytes: 1, dictionary: None };
                self.segments.push((Arc::new(info), series));
            }
            Step::DropHead(at) if self.heads.len() > 1 => {
                let (head, _) = self.heads.remove(at.index(self.heads.len()));
                self.index.drop_head(head.generation());
            }
            Step::DropSegment(at) if !self.segments.is_empty() => {
                let (info, _) = self.segments.remove(at.index(self.segments.len()));
                self.index.drop_segment(&info.name);
            }
            Step::DropHead(_) | Step::DropSegment(_) => {}
        }
    }

    fn view(&self) -> View {
        let mut frozen: Vec<_> = self.heads.iter().map(|(head, _)| Arc::clone(head)).collect();
        let head = frozen.pop().expect("one stays");
        let segments = self.segments.iter().map(|(info, _)| Arc::clone(info)).collect();
        View { head, frozen, segments: Arc::new(segments) }
    }

    fn held(&self) -> impl Iterator<Item = (&SeriesKey, TimeRange)> {
        let in_heads = self.heads.iter().flat_map(|(_, holding)| holding).map(|(key, range)| (key, *range));
        let in_segments = self.segments.iter().flat_map(|(_, holding)| holding);
        in_heads.chain(in_segments.map(|series| (&*series.key, series.range)))
    }

    /// The answer by trying every series, as itself and as one of wall time.
    fn series(&self, Question { tenants, selectors, window }: &Question) -> BTreeSet<SeriesKey> {
        let mut all = BTreeSet::new();
        for tenant in tenants {
            let held = self.held().filter(|(key, range)| key.tenant == *tenant && range.overlaps(*window));
            let mut found: BTreeSet<SeriesKey> = held.map(|(key, _)| key.clone()).collect();
            if found.iter().any(|key| key.profile_type == ProfileType::off_cpu()) {
                let of_wall: Vec<_> =
                    found.iter().filter_map(|key| counted_as(key, &ProfileType::wall())).collect();
                found.extend(of_wall);
            }
            all.append(&mut found);
        }
        all.retain(|key| selectors.iter().all(|selector| selector.matches(key)));
        all
    }

    fn extent(&self, tenants: &Tenants) -> Option<TimeRange> {
        let held = self.held().filter(|(key, _)| tenants.contains(&key.tenant)).map(|(_, range)| range);
        held.reduce(|a, b| TimeRange::new(a.start.min(b.start), a.end.max(b.end)))
    }

    fn held_by(
        segment: &[SegmentSeries],
        selector: &Selector,
        Question { tenants, window, .. }: &Question,
    ) -> Vec<(u32, SeriesKey)> {
        let of_type = |key: &SeriesKey, wanted: &ProfileType| {
            if key.profile_type == *wanted { Some(key.clone()) } else { counted_as(key, wanted) }
        };
        let inside = segment.iter().filter(|series| series.range.overlaps(*window));
        let inside = inside.filter(|series| tenants.contains(&series.key.tenant));
        let mut found = Vec::new();
        for SegmentSeries { id, key, .. } in inside {
            let keys = types().into_iter().filter_map(|wanted| of_type(key, &wanted));
            found.extend(keys.filter(|key| selector.matches(key)).map(|key| (*id, key)));
        }
        found.sort();
        found
    }
}

fn counted_as(key: &SeriesKey, whole: &ProfileType) -> Option<SeriesKey> {
    let is_part = whole.made_of().contains(&key.profile_type) && key.labels.get(names::STATE).is_some();
    is_part.then(|| SeriesKey { profile_type: whole.clone(), ..key.clone() })
}

/// A query without an end.
fn job() -> Arc<Job> {
    Arc::new(Jobs::new(Limits::default())).begin(Stop::default())
}

/// A head with a first and last row of each series, and one series that has no rows.
fn head_state(holding: &BTreeMap<SeriesKey, TimeRange>) -> HeadState {
    let mut symbols = SymbolTable::new();
    let main = symbols.intern_named_location("main");
    let stack = symbols.intern_stack(&[main]).expect("a frame");
    let row = |time| Row { time, stack, value: 1 };
    let rows_of = |(key, range): (&SeriesKey, &TimeRange)| SeriesRows {
        labels: key.labels.clone(),
        profile_type: key.profile_type.clone(),
        rows: vec![row(range.end), row(range.start)],
    };
    let tenants: BTreeSet<&Tenant> = holding.keys().map(|key| &key.tenant).collect();
    let mut state = HeadState::new(Arc::new(Epoch::new(EpochId(1))));
    for tenant in tenants {
        let series = holding.iter().filter(|(key, _)| key.tenant == *tenant).map(rows_of).collect();
        let batch = Batch { tenant: tenant.clone(), symbols: symbols.clone(), series };
        let rows = state.take_in(batch).expect("rows");
        state.publish(rows);
    }
    let bare = SeriesRows { labels: bare().labels, profile_type: bare().profile_type, rows: Vec::new() };
    assert!(state.take_in(Batch { series: vec![bare], ..Batch::default() }).is_none());
    state
}

fn bare() -> SeriesKey {
    let labels = LabelSet::from_pairs([("service_name", "without rows")]);
    SeriesKey { labels, profile_type: ProfileType::cpu_time(), tenant: Tenant::default() }
}

/// Checks every answer of an index to one question.
fn check(index: &SeriesIndex, world: &World, question: &Question) -> Result<(), TestCaseError> {
    let Question { tenants, selectors, window } = question;
    let expected = world.series(question);
    let (view, job) = (|| world.view(), job());
    prop_assert_eq!(index.extent(view, tenants), world.extent(tenants));
    let series = index.find(view, tenants, selectors, *window).series(&job).unwrap();
    prop_assert_eq!(&series, &expected.iter().cloned().collect::<Vec<_>>());
    let type_ids: BTreeSet<String> = expected.iter().map(|key| key.profile_type.to_string()).collect();
    let found = index.find(view, tenants, selectors, *window).profile_types();
    prop_assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::from_iter(type_ids));
    let names: BTreeSet<&str> = expected.iter().flat_map(SeriesKey::label_names).collect();
    let found = index.find(view, tenants, selectors, *window).label_names(&job).unwrap();
    prop_assert_eq!(found, Vec::from_iter(names));
    for name in NAMES {
        let values: BTreeSet<_> = expected.iter().filter_map(|key| key.label(name)).collect();
        let found = index.find(view, tenants, selectors, *window).label_values(name, &job).unwrap();
        prop_assert_eq!(found, Vec::from_iter(values), "{}", name);
    }
    for selector in selectors {
        for (info, segment) in &world.segments {
            let mut found = Vec::new();
            for profile_type in types() {
                let mut wanted = index.choose(tenants, &profile_type, selector);
                let held = index.held_by(&info.name, &mut wanted, *window, &job).unwrap();
                found.extend(held.into_iter().map(|(id, key)| (id, SeriesKey::clone(&key))));
            }
            found.sort();
            prop_assert_eq!(found, World::held_by(segment, selector, question));
        }
    }
    Ok(())
}

/// The index that opening a store with the same segments and heads makes.
fn reopened(world: &World) -> SeriesIndex {
    let mut filling = Filling::default();
    let keys: BTreeSet<&SeriesKey> =
        world.segments.iter().flat_map(|(_, held)| held).map(|s| &*s.key).collect();
    let ids: BTreeMap<&SeriesKey, i64> = keys.into_iter().zip(7..).collect();
    for (key, id) in &ids {
        filling.series(*id, key);
    }
    // A series that no segment holds any more.
    filling.series(1, &bare());
    for (info, held) in &world.segments {
        let rows: Vec<_> = held.iter().map(|series| (series.id, ids[&*series.key], series.range)).collect();
        filling.segment(&info.name, &rows).expect("all series are named");
    }
    filling.finish(&world.view(), &limits(1000, 3))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_a_list_of_series(
        steps in prop::collection::vec((any_step(), any_question()), 1..12),
        questions in prop::collection::vec(any_question(), 4),
    ) {
        let mut world = World::new();
        for (step, question) in steps {
            world.take(step);
            check(&world.index, &world, &question)?;
        }
        let reopened = reopened(&world);
        for question in &questions {
            check(&world.index, &world, question)?;
            check(&reopened, &world, question)?;
        }
        let mut keys: BTreeSet<&SeriesKey> = world.held().map(|(key, _)| key).collect();
        let bare = bare();
        keys.insert(&bare);
        prop_assert_eq!(world.index.len(), keys.len());
        prop_assert_eq!(reopened.len(), keys.len());
    }
}

#[test]
fn what_nothing_holds_takes_no_room() {
    let mut world = World::new();
    let holding = |first: u32| {
        let keys = (first..first + 500).map(|pod| SeriesKey {
            labels: LabelSet::from_pairs([("pod", "x"), (&format!("only-{pod}"), "x")]),
            profile_type: format!("t{}:a:b:c:d", pod % 100).parse().unwrap(),
            tenant: tenant(&format!("tenant-{}", pod % 70)),
        });
        keys.map(|key| (key, TimeRange::new(UnixMs(0), UnixMs(1)))).collect::<BTreeMap<_, _>>()
    };
    world.take(Step::AddSegment(holding(0)));
    let full = world.index.bytes();
    for round in 1..20 {
        world.take(Step::AddSegment(holding(round * 500)));
        let oldest = world.segments.remove(0);
        world.index.drop_segment(&oldest.0.name);
    }
    assert_eq!(world.index.len(), 501);
    assert!(world.index.bytes() < full * 5 / 2, "{full} bytes became {}", world.index.bytes());
}

#[test]
fn a_segment_with_a_series_twice_gives_up_all_that_it_took() {
    let index = SeriesIndex::with_limits(limits(1000, 3));
    let key = Arc::new(bare());
    let range = TimeRange::new(UnixMs(0), UnixMs(1));
    let series = [0, 1].map(|id| SegmentSeries { id, key: Arc::clone(&key), range, rows: 1 });
    index.add_segment("twice", &series);
    let mut wanted = index.choose(&Tenants::default(), &ProfileType::cpu_time(), &Selector::all());
    assert_eq!(index.held_by("twice", &mut wanted, range, &job()).unwrap(), [(0, key)]);
    index.add_segment("twice", &series[..1]);
    assert_eq!(index.len(), 1);
    index.drop_segment("twice");
    assert_eq!(index.len(), 0);
}

#[test]
fn room_is_counted_in_distinct_new_series() {
    let index = SeriesIndex::with_limits(limits(3, 2));
    let batch = |services: &[&str]| Batch {
        series: services
            .iter()
            .map(|service| SeriesRows {
                labels: LabelSet::from_pairs([("service_name", *service)]),
                profile_type: ProfileType::cpu_time(),
                rows: Vec::new(),
            })
            .collect(),
        ..Batch::default()
    };
    let fits = |batch: &Batch| match index.room_for(batch) {
        Ok(()) => true,
        Err(AppendError::TooManySeries { limit: 3 }) => false,
        Err(other) => panic!("{other}"),
    };
    let key = |service| SeriesKey { labels: LabelSet::from_pairs([("service_name", service)]), ..bare() };
    index.add_to_head(1, &[Arc::new(key("a")), Arc::new(key("b"))]);
    assert!(fits(&batch(&["a", "b", "a", "b", "c", "c"])));
    assert!(!fits(&batch(&["c", "d"])));
    index.add_to_head(1, &[Arc::new(key("c"))]);
    assert!(fits(&batch(&["a", "b", "c", "c"])));
    assert!(!fits(&batch(&["d"])));
    index.drop_head(1);
    assert!(fits(&batch(&["d", "e", "f"])));
    index.add_to_head(2, &[Arc::new(key("a"))]);
    let of_another = Batch { tenant: tenant("a"), ..batch(&["a", "b"]) };
    assert!(fits(&of_another), "the same labels are other series there");
    assert!(!fits(&Batch { tenant: tenant("a"), ..batch(&["a", "b", "c"]) }));
}

#[test]
fn a_tenant_counts_for_as_long_as_it_has_series() {
    let index = SeriesIndex::with_limits(limits(10, 2));
    let key = |name| Arc::new(SeriesKey { tenant: tenant(name), ..bare() });
    let batch_of = |name| Batch { tenant: tenant(name), ..Batch::default() };
    index.add_to_head(1, &[key("a"), key("anonymous")]);
    assert!(index.room_for(&batch_of("a")).is_ok());
    assert!(index.room_for(&Batch::default()).is_ok());
    let refused = index.room_for(&batch_of("b"));
    assert!(matches!(refused, Err(AppendError::TooManyTenants { limit: 2 })), "{refused:?}");
    index.add_to_head(2, &[key("anonymous")]);
    index.drop_head(1);
    assert!(index.room_for(&batch_of("b")).is_ok());
}
