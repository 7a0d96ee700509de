//! What a tenant is told is made of its own rows, whatever others push and whatever became of the files; and several
//! are told what each is, added up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use pyrite_model::{
    Batch, Exposition, FlameTree, LabelSet, Matcher, ProfileType, Row, Selector, SeriesKey, SeriesRows,
    SymbolTable, Tenant, Tenants, TimeRange, UnixMs, frame_names, names,
};

use super::{EVERYTHING, config, memory_dir};
use crate::files::RealFiles;
use crate::stored_key::TENANT_LABEL;
use crate::{AppendError, Limits, SeriesQuery, StackQuery, Store, StoreConfig};

const TENANTS: [&str; 3] = ["anonymous", "a", "b"];
const ASKERS: [&str; 7] = ["anonymous", "a", "b", "nobody", "a|b", "anonymous|b", "anonymous|a|b|nobody"];
const HOUR_MS: i64 = 3_600_000;
/// After all rows, so that every segment may be merged.
const NOW: UnixMs = UnixMs(100 * HOUR_MS);

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn tenants(names: &str) -> Tenants {
    names.parse().unwrap()
}

fn types() -> [ProfileType; 3] {
    [ProfileType::cpu_time(), ProfileType::off_cpu(), ProfileType::wall()]
}

fn open(dir: &Path) -> Store {
    let limits = Limits { sums_from_rows: 1, tenants: TENANTS.len(), ..Limits::default() };
    let config = StoreConfig { limits, ..config(dir) };
    Store::open_on(config, Arc::new(RealFiles), Arc::new(|| NOW)).unwrap().0
}

/// A row; all tenants have services and functions of the same names, and one of each that is their own.
#[derive(Clone, Copy, Debug)]
struct Stored {
    tenant: usize,
    off_cpu: bool,
    own_service: bool,
    own_leaf: bool,
    time: i64,
    value: i64,
}

impl Stored {
    fn key(&self) -> SeriesKey {
        let name = TENANTS[self.tenant];
        let service = if self.own_service { format!("service-of-{name}") } else { "api".to_owned() };
        let state = if self.off_cpu { "blocked" } else { "running" };
        let mut labels = LabelSet::from_pairs([(names::SERVICE_NAME, &*service), (names::STATE, state)]);
        if self.own_service {
            labels.set(format!("label-of-{name}"), "1");
        }
        let profile_type = if self.off_cpu { ProfileType::off_cpu() } else { ProfileType::cpu_time() };
        SeriesKey { labels, profile_type, tenant: tenant(name) }
    }

    fn leaf(&self) -> String {
        if self.own_leaf { format!("function-of-{}", TENANTS[self.tenant]) } else { "work".to_owned() }
    }

    fn batch(&self) -> Batch {
        let mut symbols = SymbolTable::new();
        let locations = [&*self.leaf(), "main"].map(|name| symbols.intern_named_location(name));
        let stack = symbols.intern_stack(&locations).unwrap();
        let rows = vec![Row { time: UnixMs(self.time), stack, value: self.value }];
        let SeriesKey { labels, profile_type, tenant } = self.key();
        Batch { tenant, symbols, series: vec![SeriesRows { labels, profile_type, rows }] }
    }
}

/// All that there is to be told. Labels are asked for at all times: inside a window the store knows series by their
/// first and last rows.
#[derive(Debug, PartialEq)]
struct Told {
    extent: Option<(i64, i64)>,
    profile_types: BTreeSet<String>,
    label_names: BTreeSet<String>,
    label_values: BTreeMap<String, BTreeSet<String>>,
    series: BTreeSet<String>,
    /// By type and leaf, in the window.
    stacks: BTreeMap<(String, String), i64>,
    /// Names in flame graphs, in the window.
    frames: BTreeSet<String>,
    /// By type, service and the label that names tenants in files, in the window.
    groups: BTreeMap<(String, String), i64>,
}

fn asked_labels() -> Vec<String> {
    let of_tenants = TENANTS.iter().map(|name| format!("label-of-{name}"));
    let others = [names::SERVICE_NAME, names::STATE, names::PROFILE_TYPE, "__type__", TENANT_LABEL, ""];
    of_tenants.chain(others.map(str::to_owned)).collect()
}

fn set<T: Into<String>>(all: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    all.into_iter().map(Into::into).collect()
}

fn told(store: &Store, of: &Tenants, selector: &Selector, window: TimeRange) -> Told {
    let selectors = std::slice::from_ref(selector);
    let values = |name: String| (set(store.label_values(of, &name, selectors, EVERYTHING).unwrap()), name);
    let (mut stacks, mut frames, mut groups) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    for kind in types() {
        let query = StackQuery::new(of.clone(), kind.clone(), selector.clone(), window);
        let profile = store.merge_stacks(&query).unwrap();
        for (stack, value) in &profile.values {
            let leaf = frame_names(&profile.symbols, *stack).last().unwrap().to_string();
            stacks.insert((kind.to_string(), leaf), *value);
        }
        let tree: FlameTree = store.flame_tree([Some(&query)], 0).unwrap();
        assert_eq!(tree.totals(), [profile.total()]);
        let diff = store.flame_tree([Some(&query), Some(&query)], 0).unwrap();
        assert_eq!(diff.totals(), [profile.total(); 2]);
        frames.append(&mut set(tree.flamebearer().names));
        let in_table = profile.symbols.strings().filter(|text| text.contains("-of-"));
        frames.append(&mut set(in_table));
        let group_by = vec![names::SERVICE_NAME.to_owned(), TENANT_LABEL.to_owned()];
        // One bucket for the whole window.
        let stacks = StackQuery { range: TimeRange::new(window.end, window.end), ..query };
        let query = SeriesQuery { stacks, step_ms: window.end.0 - window.start.0 + 1, group_by };
        for group in store.select_series(&query).unwrap() {
            assert_eq!(group.points.len(), 1);
            groups.insert((kind.to_string(), group.labels.to_string()), group.points[0].1);
        }
    }
    let found = store.series(of, selectors, EVERYTHING).unwrap();
    Told {
        extent: store.extent(of).map(|range| (range.start.0, range.end.0)),
        profile_types: set(store.profile_types(of, EVERYTHING).unwrap().iter().map(ToString::to_string)),
        label_names: set(store.label_names(of, selectors, EVERYTHING).unwrap()),
        label_values: asked_labels().into_iter().map(values).map(|(values, name)| (name, values)).collect(),
        series: set(found.iter().map(|key| format!("{} {} {}", key.tenant, key.profile_type, key.labels))),
        stacks,
        frames,
        groups,
    }
}

/// The keys that a row counts under.
fn keys(row: &Stored) -> [SeriesKey; 2] {
    let key = row.key();
    [SeriesKey { profile_type: ProfileType::wall(), ..key.clone() }, key]
}

fn expected(rows: &[Stored], names: &str, selector: &Selector, window: TimeRange) -> Told {
    let names: Vec<&str> = names.split('|').collect();
    let rows: Vec<&Stored> = rows.iter().filter(|row| names.contains(&TENANTS[row.tenant])).collect();
    let waits = |tenant: usize| rows.iter().any(|row| row.tenant == tenant && row.off_cpu);
    let all: BTreeSet<SeriesKey> = rows
        .iter()
        .flat_map(|row| {
            keys(row).into_iter().filter(|key| key.profile_type != ProfileType::wall() || waits(row.tenant))
        })
        .collect();
    let selected: Vec<&SeriesKey> = all.iter().filter(|key| selector.matches(key)).collect();
    let (mut stacks, mut frames, mut groups) = (BTreeMap::new(), set(["total"]), BTreeMap::new());
    for row in rows.iter().filter(|row| window.contains(UnixMs(row.time))) {
        for key in keys(row).iter().filter(|key| selector.matches(key)) {
            let kind = key.profile_type.to_string();
            *stacks.entry((kind.clone(), row.leaf())).or_insert(0) += row.value;
            frames.extend(["main".to_owned(), row.leaf()]);
            let service = key.labels.get(names::SERVICE_NAME).unwrap();
            let group = LabelSet::from_pairs([(names::SERVICE_NAME, service)]);
            *groups.entry((kind, group.to_string())).or_insert(0) += row.value;
        }
    }
    let values =
        |name: &String| selected.iter().filter_map(|key| Some(key.label(name)?.into_owned())).collect();
    let times = || rows.iter().map(|row| row.time);
    Told {
        extent: times().min().zip(times().max()),
        profile_types: set(all.iter().map(|key| key.profile_type.to_string())),
        label_names: set(selected.iter().flat_map(|key| key.label_names())),
        label_values: asked_labels().into_iter().map(|name| (name.clone(), values(&name))).collect(),
        series: set(selected.iter().map(|key| format!("{} {} {}", key.tenant, key.profile_type, key.labels))),
        stacks,
        frames,
        groups,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Stored>),
    Flush,
    Merge,
    Reopen { close: bool },
}

fn any_step() -> impl Strategy<Value = Step> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let row = (0..TENANTS.len(), flags, 0..3 * HOUR_MS, 1..100_i64).prop_map(
        |(tenant, (off_cpu, own_service, own_leaf), time, value)| Stored {
            tenant,
            off_cpu,
            own_service,
            own_leaf,
            time,
            value,
        },
    );
    prop_oneof![
        5 => prop::collection::vec(row, 1..8).prop_map(Step::Append),
        2 => Just(Step::Flush),
        1 => Just(Step::Merge),
        1 => any::<bool>().prop_map(|close| Step::Reopen { close }),
    ]
}

fn selectors() -> [Selector; 5] {
    let written = [
        "{}",
        r#"{__tenant__="a"}"#,
        r#"{__tenant__=~".+"}"#,
        r#"{__tenant__!="b"}"#,
        r#"{service_name=~".*-of-a"}"#,
    ];
    written.map(|text| text.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn nobody_is_told_of_another(
        steps in prop::collection::vec(any_step(), 1..12),
        questions in prop::collection::vec((0..ASKERS.len(), 0..5_usize, 0..3 * HOUR_MS, 1..3 * HOUR_MS), 8),
    ) {
        let dir = memory_dir();
        let mut store = open(dir.path());
        let mut rows = Vec::new();
        for step in steps {
            match step {
                Step::Append(new) => {
                    for row in &new {
                        store.append_blocking(row.batch()).unwrap();
                    }
                    rows.extend(new);
                }
                Step::Flush => store.flush().unwrap(),
                Step::Merge => store.maintenance().merge().unwrap(),
                Step::Reopen { close } => {
                    if close {
                        store.close().unwrap();
                    }
                    drop(store);
                    store = open(dir.path());
                }
            }
        }
        for (asker, selector, start, length) in questions {
            let window = TimeRange::new(UnixMs(start), UnixMs(start + length));
            let (asker, selector) = (ASKERS[asker], &selectors()[selector]);
            let found = told(&store, &tenants(asker), selector, window);
            prop_assert_eq!(found, expected(&rows, asker, selector, window), "{} {:?}", asker, selector);
        }
    }
}

fn row(tenant: usize, value: i64) -> Stored {
    Stored { tenant, off_cpu: false, own_service: false, own_leaf: false, time: 1, value }
}

#[test]
fn each_is_there_after_flush_merge_and_a_lost_catalogue() {
    let dir = memory_dir();
    let store = open(dir.path());
    let check = |store: &Store| {
        for (asker, total) in [("anonymous", 11), ("a", 22), ("b", 33), ("a|b", 55), ("nobody", 0)] {
            let kind = ProfileType::cpu_time();
            let query = StackQuery::new(tenants(asker), kind, Selector::all(), EVERYTHING);
            assert_eq!(store.merge_stacks(&query).unwrap().total(), total, "{asker}");
        }
    };
    for value in [1, 10] {
        (0..3).for_each(|i| store.append_blocking(row(i, value * (i as i64 + 1)).batch()).unwrap());
        store.flush().unwrap();
    }
    check(&store);
    store.maintenance().merge().unwrap();
    assert_eq!(store.stats().segments, 1);
    check(&store);
    store.close().unwrap();
    drop(store);
    for file in ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"] {
        match std::fs::remove_file(dir.path().join(file)) {
            Err(error) if file.len() == "catalogue.sqlite".len() => panic!("{error}"),
            _ => {}
        }
    }
    check(&open(dir.path()));
}

#[test]
fn no_batch_brings_the_label_that_names_tenants_in_files() {
    let dir = memory_dir();
    let store = open(dir.path());
    for of in [0, 1] {
        let mut batch = row(of, 1).batch();
        batch.series[0].labels.set(TENANT_LABEL, "b");
        let refused = store.append_blocking(batch).unwrap_err();
        assert!(matches!(refused, AppendError::Invalid { .. }), "{refused}");
        assert!(refused.to_string().contains(TENANT_LABEL), "{refused}");
    }
    assert_eq!(store.stats().rows, 0);
}

#[test]
fn a_tenant_too_many_is_refused_and_counted() {
    let dir = memory_dir();
    let store = open(dir.path());
    (0..3).for_each(|i| store.append_blocking(row(i, 1).batch()).unwrap());
    let of_fourth = || Batch { tenant: tenant("fourth"), ..row(0, 1).batch() };
    let refused = store.append_blocking(of_fourth()).unwrap_err();
    assert!(matches!(refused, AppendError::TooManyTenants { limit: 3 }), "{refused}");
    let mut out = Exposition::new();
    store.metrics(&mut out);
    let counted = r#"pyrite_store_rejected_batches_total{reason="too_many_tenants"} 1"#;
    assert!(out.to_string().contains(counted), "{out}");
    store.append_blocking(row(1, 1).batch()).unwrap();
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(store.append_blocking(of_fourth()).is_err(), "those on the disk count");
    let only = Selector::all().with(Matcher::equal(names::SERVICE_NAME, "api"));
    let found = store.series(&tenants("fourth"), &[only], EVERYTHING).unwrap();
    assert_eq!(found, []);
}
