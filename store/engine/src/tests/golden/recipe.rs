//! The recipe of a golden data directory: rows of every kind, written so that segments of each level and a log with rows
//! result, and what must be answered, worked out from the list of rows without any of the store's code.
//!
//! ```text
//! 2026-03-02, hours 9, 10, 11   two flushes each   merged by the hour, then one segment of the day
//! 2026-03-03, hour 7            two flushes        one segment of the hour
//! 2026-03-04, hour 5            one flush          a segment as flushed, and two batches that are in the log alone
//! 1969-12-31, hour 23           one flush          a segment as flushed; times below 0
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pyrite_model::{
    Batch, Function, LabelSet, Line, Location, LocationId, Mapping, Matcher, ProfileType, Row, Selector,
    SeriesKey, SeriesRows, StackId, SymbolTable, Tenant, UnixMs, names,
};

use super::answers::{Answers, Group, Series, Stacks, Timeline, Window, line_text};
use super::open;
use crate::Store;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 2026-03-02, midnight in UTC.
const FIRST_DAY_MS: i64 = 1_772_409_600_000;

/// A line: name, system name and file of its function, the function's first line, the line.
type SourceLine = ([&'static str; 3], [u32; 2]);

/// A frame as it is stored.
struct Frame {
    /// Build id and path.
    binary: Option<[&'static str; 2]>,
    address: u64,
    /// The innermost inlined function first; none where the address was not resolved.
    lines: &'static [SourceLine],
}

const fn named(lines: &'static [SourceLine]) -> Frame {
    Frame { binary: None, address: 0, lines }
}

const SHOP: Option<[&str; 2]> = Some(["5f1c0ffee5f1c0ffee5f1c0ffee5f1c0ffee5f1c", "/usr/bin/shop"]);

const MAIN: Frame = named(&[(["main", "", ""], [0, 0])]);
const HANDLE: Frame = Frame {
    binary: SHOP,
    address: 0x1234,
    lines: &[(["shop::handle<T>", "_ZN4shop6handleE", "src/handle.rs"], [10, 17])],
};
/// Two functions inlined into a third.
const INLINED: Frame = Frame {
    binary: SHOP,
    address: 0x2000,
    lines: &[
        (["inner", "_Z5inner", "src/inner.rs"], [3, 4]),
        (["middle", "", "src/inner.rs"], [20, 21]),
        (["outer", "_Z5outer", "src/outer.rs"], [100, 1_000_000]),
    ],
};
const WITHOUT_NAME: Frame = Frame { binary: SHOP, address: 0xdead_beef, lines: &[] };
const WITHOUT_ANYTHING: Frame = Frame { binary: None, address: u64::MAX, lines: &[] };
const KERNEL: Frame =
    Frame { binary: Some(["", "[kernel]"]), address: 0, lines: &[(["schedule", "", ""], [0, 0])] };
const ODD: Frame =
    named(&[(["операция→\"quoted\" \\ 名前\t🦀", "", "C:\\src\\a b.c"], [u32::MAX, u32::MAX])]);

/// Stacks, root first. Some are the beginning of others, one goes round in circles.
const STACKS: [&[&Frame]; 12] = [
    &[&MAIN],
    &[&MAIN, &HANDLE],
    &[&MAIN, &HANDLE, &INLINED],
    &[&MAIN, &HANDLE, &WITHOUT_NAME],
    &[&MAIN, &HANDLE, &KERNEL],
    &[&MAIN, &ODD],
    &[&MAIN, &ODD, &INLINED, &ODD, &INLINED, &ODD],
    &[&WITHOUT_ANYTHING],
    &[&WITHOUT_ANYTHING, &WITHOUT_NAME, &MAIN],
    &[&HANDLE, &HANDLE, &HANDLE, &HANDLE, &HANDLE, &HANDLE, &HANDLE, &HANDLE],
    &[&INLINED],
    &[&KERNEL],
];

fn frame_text(frame: &Frame) -> String {
    let mut words: Vec<String> = frame.lines.iter().map(|(names, at)| line_text(*names, *at)).collect();
    words.extend(frame.binary.map(|[build_id, path]| format!("[{build_id} {path}]")));
    words.extend((frame.address != 0).then(|| format!("{:#x}", frame.address)));
    words.join(" ")
}

fn stack_text(stack: usize) -> String {
    STACKS[stack].iter().map(|frame| frame_text(frame)).collect::<Vec<_>>().join(";")
}

fn profile_type(id: &str) -> ProfileType {
    id.parse().unwrap()
}

/// Bytes in use, as a heap profile has them.
fn memory() -> ProfileType {
    profile_type("memory:inuse_space:bytes:space:bytes")
}

/// Series of many kinds; rows name them by their place here.
fn series() -> Vec<SeriesKey> {
    let container = "0123456789abcdef".repeat(4);
    let on_node = |state: &'static str| {
        let labels = [
            ("service_name", "shop"),
            ("container_id", container.as_str()),
            ("node", "n1"),
            ("state", state),
        ];
        LabelSet::from_pairs(labels)
    };
    let long = "x".repeat(1000);
    let odd = LabelSet::from_pairs([
        ("service_name", "quotes \" \\ and {braces}, =~ commas"),
        ("name with spaces.and-dots/ünï", "Größe 名前 🦀 \u{202e}right to left"),
        ("control", "tab\tnewline\nbell\u{7}"),
        ("long", long.as_str()),
    ]);
    let pushed = LabelSet::from_pairs([("service_name", "pushed"), ("region", "eu-1")]);
    let key = |labels: &LabelSet, profile_type| SeriesKey {
        labels: labels.clone(),
        profile_type,
        tenant: Tenant::default(),
    };
    vec![
        key(&on_node("running"), ProfileType::cpu_time()),
        key(&on_node("running"), ProfileType::cpu_samples()),
        key(&on_node("blocked"), ProfileType::off_cpu()),
        key(&on_node("runnable"), ProfileType::off_cpu()),
        key(&pushed, ProfileType::cpu_time()),
        key(&pushed, memory()),
        key(&odd, ProfileType::cpu_time()),
        key(&odd, profile_type("名前:sample type:µs::")),
        key(&LabelSet::default(), ProfileType::cpu_time()),
        key(&LabelSet::default(), memory()),
    ]
}

/// Of memory: values that no clock reaches are rows of these.
const PUSHED_MEMORY: usize = 5;
const ODD_TYPE: usize = 7;
const BARE_MEMORY: usize = 9;

#[derive(Clone, Copy, Debug)]
struct GoldenRow {
    series: usize,
    time_ms: i64,
    stack: usize,
    value: i64,
}

/// A few dozen rows from `start_ms` on, within ten minutes.
fn usual_rows(start_ms: i64, seed: u64) -> Vec<GoldenRow> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |n: u64| {
        // The multiplier of Knuth's MMIX, the upper bits of the state.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let series = [0, 0, 0, 1, 2, 3, 4, 6, 8];
    let row = |_| GoldenRow {
        series: series[below(series.len() as u64) as usize],
        time_ms: start_ms + below(600) as i64 * 1000 + below(2) as i64 * 7,
        // A heavy tail: the first stacks far more often than the last.
        stack: below(STACKS.len() as u64).min(below(STACKS.len() as u64)) as usize,
        value: 1 + below(5) as i64 * 10_309_278,
    };
    (0..48).map(row).collect()
}

/// The rows of every flush, in order, and those that stay in the log.
struct Steps {
    day: Vec<Vec<GoldenRow>>,
    hour: Vec<Vec<GoldenRow>>,
    flushed: Vec<Vec<GoldenRow>>,
    logged: Vec<Vec<GoldenRow>>,
}

fn steps() -> Steps {
    let row = |series, time_ms, stack, value| GoldenRow { series, time_ms, stack, value };
    let at = |day: i64, hour: i64| FIRST_DAY_MS + day * DAY_MS + hour * HOUR_MS;
    let mut day: Vec<_> =
        (0..6).map(|i| usual_rows(at(0, 9 + i / 2) + i % 2 * HOUR_MS / 2, i as u64)).collect();
    // What a heap holds may fall, and may be of any size.
    day[0].extend([
        row(PUSHED_MEMORY, at(0, 9), 1, 5_000),
        row(PUSHED_MEMORY, at(0, 9), 2, -3_000),
        row(BARE_MEMORY, at(0, 9) + 1, 5, i64::MAX),
    ]);
    day[3].extend([
        row(PUSHED_MEMORY, at(0, 10), 1, 250),
        row(PUSHED_MEMORY, at(0, 10), 2, 3_000),
        row(BARE_MEMORY, at(0, 10), 6, i64::MIN),
        row(ODD_TYPE, at(0, 10), 9, 77),
    ]);
    // The same row twice counts twice.
    day[5].extend([row(4, at(0, 11), 10, 1), row(4, at(0, 11), 10, 1)]);
    let hour = (0..2).map(|i| usual_rows(at(1, 7) + i * HOUR_MS / 2, 10 + i as u64)).collect();
    let before_1970 = vec![row(8, -1, 0, 3), row(8, -HOUR_MS, 11, 4), row(0, -1_000, 7, 5)];
    let flushed = vec![before_1970, usual_rows(at(2, 5), 20)];
    let mut logged = vec![usual_rows(at(2, 5) + HOUR_MS / 2, 21), usual_rows(at(2, 5) + HOUR_MS / 3, 22)];
    logged[1].push(row(ODD_TYPE, at(2, 5), 6, -77));
    Steps { day, hour, flushed, logged }
}

impl Steps {
    fn rows(&self) -> Vec<GoldenRow> {
        let Self { day, hour, flushed, logged } = self;
        [day, hour, flushed, logged].into_iter().flatten().flatten().copied().collect()
    }
}

/// Rows as a producer hands them over.
fn batch(rows: &[GoldenRow]) -> Batch {
    let mut symbols = SymbolTable::new();
    let mut series = Vec::new();
    for (id, SeriesKey { labels, profile_type, .. }) in series_of(rows) {
        let mut of_series = Vec::new();
        for row in rows.iter().filter(|row| row.series == id) {
            let stack = intern_stack(&mut symbols, STACKS[row.stack]);
            of_series.push(Row { time: UnixMs(row.time_ms), stack, value: row.value });
        }
        series.push(SeriesRows { labels, profile_type, rows: of_series });
    }
    Batch { symbols, series, ..Batch::default() }
}

fn series_of(rows: &[GoldenRow]) -> Vec<(usize, SeriesKey)> {
    let used: BTreeSet<usize> = rows.iter().map(|row| row.series).collect();
    series().into_iter().enumerate().filter(|(id, _)| used.contains(id)).collect()
}

fn intern_stack(symbols: &mut SymbolTable, root_first: &[&Frame]) -> StackId {
    let leaf_first = root_first.iter().rev();
    let locations: Vec<LocationId> = leaf_first.map(|frame| intern_frame(symbols, frame)).collect();
    symbols.intern_stack(&locations).unwrap()
}

fn intern_frame(symbols: &mut SymbolTable, frame: &Frame) -> LocationId {
    let mapping = frame.binary.map(|binary| {
        let [build_id, path] = binary.map(|text| symbols.intern_str(text));
        symbols.intern_mapping(Mapping { build_id, path })
    });
    let mut lines = Vec::new();
    for (texts, [start_line, line]) in frame.lines {
        let [name, system_name, filename] = texts.map(|text| symbols.intern_str(text));
        let function = Function { name, system_name, filename, start_line: *start_line };
        lines.push(Line { function: symbols.intern_function(function), line: *line });
    }
    symbols.intern_location(Location { mapping, address: frame.address, lines: lines.into() })
}

/// Writes `data/` and `expected.json` into a directory.
pub(super) fn write(version: &Path) {
    let data = version.join("data");
    let now = Arc::new(AtomicI64::new(i64::MIN));
    let (store, _) = open(&data, &now);
    let steps = steps();
    let flush = |batches: &[Vec<GoldenRow>]| {
        for rows in batches {
            store.append_blocking(batch(rows)).unwrap();
            store.flush().unwrap();
        }
    };
    flush(&steps.day);
    merge_at(&store, &now, FIRST_DAY_MS + DAY_MS + HOUR_MS);
    flush(&steps.hour);
    merge_at(&store, &now, FIRST_DAY_MS + 2 * DAY_MS + HOUR_MS);
    flush(&steps.flushed);
    steps.logged.iter().for_each(|rows| store.append_blocking(batch(rows)).unwrap());
    let levels: Vec<u32> = store.maintenance().shared().view().segments.iter().map(|s| s.level).collect();
    assert_eq!(levels, [0, 2, 1, 0]);
    drop(store);
    let text = serde_json::to_string_pretty(&Rows(steps.rows()).answers()).unwrap();
    std::fs::write(version.join("expected.json"), text + "\n").unwrap();
}

/// Merges what is over at that time, and waits until what was replaced is off the disk.
fn merge_at(store: &Store, now: &AtomicI64, time_ms: i64) {
    now.store(time_ms, Ordering::SeqCst);
    store.maintenance().merge().unwrap();
    let shared = store.maintenance().shared();
    for _ in 0..100 {
        shared.remove_doomed().unwrap();
        let on_disk = shared.files.list(&shared.layout.segments).unwrap().len();
        if on_disk == shared.view().segments.len() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("segments that were replaced stay");
}

/// The naive model: a list.
struct Rows(Vec<GoldenRow>);

impl Rows {
    fn answers(&self) -> Answers {
        let keys = self.keys();
        let of_keys = |of: &dyn Fn(&SeriesKey) -> Vec<String>| -> Vec<String> {
            keys.iter().flat_map(of).collect::<BTreeSet<_>>().into_iter().collect()
        };
        let label_names = of_keys(&|key| key.label_names().map(str::to_owned).collect());
        let values = |name: &String| {
            (name.clone(), of_keys(&|key| key.label(name).into_iter().map(String::from).collect()))
        };
        let mut series: Vec<Series> = keys.iter().map(Series::of).collect();
        series.sort();
        Answers {
            rows: self.0.len() as u64,
            profile_types: of_keys(&|key| vec![key.profile_type.to_string()]),
            label_values: label_names.iter().map(values).collect(),
            label_names,
            series,
            stacks: windows(&keys).into_iter().map(|of| self.stacks(of)).collect(),
            timelines: timelines().into_iter().map(|timeline| self.timeline(timeline)).collect(),
        }
    }

    /// Every series that can be asked for, those of wall time among them.
    fn keys(&self) -> Vec<SeriesKey> {
        let stored = series_of(&self.0);
        let wall = stored.iter().filter_map(|(_, key)| as_wall(key));
        let keys: BTreeSet<SeriesKey> = wall.chain(stored.iter().map(|(_, key)| key.clone())).collect();
        keys.into_iter().collect()
    }

    /// The rows of a window, each with the series as which it is asked for.
    fn inside(&self, of: &Window) -> Vec<(SeriesKey, GoldenRow)> {
        let (series, wanted, selector) = (series(), of.profile_type(), of.selector());
        let as_wanted = |key: &SeriesKey| match () {
            () if key.profile_type == wanted => Some(key.clone()),
            () if wanted == ProfileType::wall() => as_wall(key),
            () => None,
        };
        let inside = self.0.iter().filter(|row| (of.start_ms..=of.end_ms).contains(&row.time_ms));
        let keyed = inside.filter_map(|row| Some((as_wanted(&series[row.series])?, *row)));
        keyed.filter(|(key, _)| selector.matches(key)).collect()
    }

    fn stacks(&self, of: Window) -> Stacks {
        let mut values: BTreeMap<String, i64> = BTreeMap::new();
        for (_, row) in self.inside(&of) {
            let sum = values.entry(stack_text(row.stack)).or_insert(0);
            *sum = sum.checked_add(row.value).expect("no stack has two rows of an extreme value");
        }
        values.retain(|_, value| *value != 0);
        Stacks { of, values }
    }

    fn timeline(&self, asked: Timeline) -> Timeline {
        let Window { start_ms, end_ms, .. } = asked.of;
        let step = asked.step_ms;
        let last_stamp = start_ms + (end_ms - start_ms) / step * step;
        let all = Window { start_ms: start_ms - step + 1, end_ms: last_stamp, ..asked.of.clone() };
        let mut groups: BTreeMap<LabelSet, BTreeMap<i64, i64>> = BTreeMap::new();
        for (key, row) in self.inside(&all) {
            if !begins_with(row.stack, &asked.call_site) {
                continue;
            }
            // The first stamp that is not before the row.
            let stamp = (start_ms..=last_stamp).step_by(step as usize).find(|stamp| *stamp >= row.time_ms);
            let label = |name: &String| Some((name.clone(), key.label(name)?.into_owned()));
            let group = LabelSet::from_pairs(asked.group_by.iter().filter_map(label));
            *groups.entry(group).or_default().entry(stamp.unwrap()).or_insert(0) += row.value;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, points)| std::cmp::Reverse(points.values().sum::<i64>()));
        let group = |(labels, points): (LabelSet, BTreeMap<i64, i64>)| Group {
            labels: labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect(),
            points: points.into_iter().collect(),
        };
        Timeline { groups: groups.into_iter().map(group).collect(), ..asked }
    }
}

/// Wall time is made of the series that tell a state, on the CPU and off it.
fn as_wall(key: &SeriesKey) -> Option<SeriesKey> {
    key.labels.get(names::STATE)?;
    let is_part = [ProfileType::cpu_time(), ProfileType::off_cpu()].contains(&key.profile_type);
    is_part.then(|| SeriesKey { profile_type: ProfileType::wall(), ..key.clone() })
}

/// Whether the functions of a stack, from the root on, begin with these; a frame without a name begins nothing.
fn begins_with(stack: usize, call_site: &[String]) -> bool {
    let mut names = Vec::new();
    for frame in STACKS[stack] {
        if frame.lines.is_empty() {
            names.push("");
        }
        names.extend(frame.lines.iter().rev().map(|([name, ..], _)| *name));
    }
    names.len() >= call_site.len() && names.iter().zip(call_site).all(|(name, wanted)| name == wanted)
}

fn window(profile_type: &ProfileType, selector: &Selector, (start_ms, end_ms): (i64, i64)) -> Window {
    Window { profile_type: profile_type.to_string(), selector: selector.to_string(), start_ms, end_ms }
}

const ALWAYS: (i64, i64) = (i64::MIN, i64::MAX);

/// Every series by itself, every profile type, and CPU time in windows that begin and end anywhere.
fn windows(keys: &[SeriesKey]) -> Vec<Window> {
    let exactly = |key: &SeriesKey| {
        let labels = key.labels.iter();
        labels.fold(Selector::all(), |s, label| s.with(Matcher::equal(&label.name, &label.value)))
    };
    let mut windows: Vec<Window> =
        keys.iter().map(|key| window(&key.profile_type, &exactly(key), ALWAYS)).collect();
    let types: BTreeSet<&ProfileType> = keys.iter().map(|key| &key.profile_type).collect();
    windows.extend(types.into_iter().map(|of| window(of, &Selector::all(), ALWAYS)));
    for selector in
        [r#"{service_name=~"sh.*|pushed",region!="eu-1"}"#, r#"{service_name=""}"#, r#"{state!~".+"}"#]
    {
        windows.push(window(&ProfileType::cpu_time(), &selector.parse().unwrap(), ALWAYS));
    }
    let at = |hour: i64, ms: i64| FIRST_DAY_MS + hour * HOUR_MS + ms;
    let cut = [
        (i64::MIN, -1),
        (-999, 0),
        (at(9, 123_456), at(10, 123_455)),
        (at(10, 0), at(11, -1)),
        (at(11, 0), at(2 * 24 + 5, 30 * 60_000)),
        (at(24 + 7, 300_007), at(24 + 7, 300_007)),
        (at(2 * 24 + 5, 20 * 60_000), i64::MAX),
    ];
    windows.extend(cut.map(|cut| window(&ProfileType::cpu_time(), &Selector::all(), cut)));
    windows.push(window(&ProfileType::wall(), &Selector::all(), (at(9, 1), at(24 + 7, 400_000))));
    windows
}

fn timelines() -> Vec<Timeline> {
    let timeline = |of: Window, step_ms, group_by: &[&str], call_site: &[&str]| Timeline {
        of,
        step_ms,
        group_by: group_by.iter().map(ToString::to_string).collect(),
        call_site: call_site.iter().map(ToString::to_string).collect(),
        groups: Vec::new(),
    };
    let (cpu, wall, all) = (ProfileType::cpu_time(), ProfileType::wall(), Selector::all());
    let whole = (FIRST_DAY_MS, FIRST_DAY_MS + 3 * DAY_MS);
    let morning = (FIRST_DAY_MS + 9 * HOUR_MS + 7, FIRST_DAY_MS + 11 * HOUR_MS + 1);
    vec![
        timeline(window(&cpu, &all, whole), HOUR_MS, &["service_name"], &[]),
        timeline(window(&cpu, &all, morning), 5 * 60_000, &[], &["main", "shop::handle<T>"]),
        timeline(window(&cpu, &all, morning), 5 * 60_000, &["service_name", "node"], &["main"]),
        timeline(window(&wall, &all, whole), DAY_MS / 2, &["state"], &[]),
        timeline(window(&ProfileType::off_cpu(), &all, whole), 37 * 60_001, &["state", "absent"], &[]),
    ]
}
