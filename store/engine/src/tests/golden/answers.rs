//! What a data directory answers: the questions and their answers in one plain JSON file.

use std::collections::BTreeMap;

use pyrite_model::{
    Location, ProfileType, Selector, SeriesKey, StackId, SymbolTable, Tenants, TimeRange, UnixMs,
};
use serde::{Deserialize, Serialize};

use crate::tests::EVERYTHING;
use crate::{SeriesQuery, StackQuery, Store};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answers {
    pub(super) rows: u64,
    pub(super) profile_types: Vec<String>,
    pub(super) label_names: Vec<String>,
    pub(super) label_values: BTreeMap<String, Vec<String>>,
    pub(super) series: Vec<Series>,
    pub(super) stacks: Vec<Stacks>,
    pub(super) timelines: Vec<Timeline>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) profile_type: String,
    pub(super) labels: BTreeMap<String, String>,
}

/// Rows that are asked for: all times inside, both ends too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    pub(super) profile_type: String,
    pub(super) selector: String,
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
}

/// One value per stack; a stack is its frames, root first, separated by semicolons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stacks {
    pub(super) of: Window,
    pub(super) values: BTreeMap<String, i64>,
}

/// Values by time and group, groups with the largest sum first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timeline {
    pub(super) of: Window,
    pub(super) step_ms: i64,
    pub(super) group_by: Vec<String>,
    pub(super) call_site: Vec<String>,
    pub(super) groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) labels: BTreeMap<String, String>,
    /// Stamp and sum.
    pub(super) points: Vec<(i64, i64)>,
}

impl Series {
    pub(super) fn of(key: &SeriesKey) -> Self {
        let labels = key.labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect();
        Self { profile_type: key.profile_type.to_string(), labels }
    }
}

impl Window {
    pub(super) fn range(&self) -> TimeRange {
        TimeRange::new(UnixMs(self.start_ms), UnixMs(self.end_ms))
    }

    pub(super) fn profile_type(&self) -> ProfileType {
        self.profile_type.parse().unwrap()
    }

    pub(super) fn selector(&self) -> Selector {
        self.selector.parse().unwrap()
    }

    fn query(&self) -> StackQuery {
        StackQuery::new(Tenants::default(), self.profile_type(), self.selector(), self.range())
    }
}

impl Answers {
    /// Asks a store the questions that `asked` holds the answers to.
    pub(super) fn of_store(store: &Store, asked: &Self) -> Self {
        let types = store.profile_types(&Tenants::default(), EVERYTHING).unwrap();
        let values = |name: &String| {
            (name.clone(), store.label_values(&Tenants::default(), name, &[], EVERYTHING).unwrap())
        };
        let mut series: Vec<Series> =
            store.series(&Tenants::default(), &[], EVERYTHING).unwrap().iter().map(Series::of).collect();
        series.sort();
        Self {
            rows: store.stats().rows,
            profile_types: types.iter().map(ToString::to_string).collect(),
            label_names: store.label_names(&Tenants::default(), &[], EVERYTHING).unwrap(),
            label_values: asked.label_values.keys().map(values).collect(),
            series,
            stacks: asked.stacks.iter().map(|stacks| stacks.ask(store)).collect(),
            timelines: asked.timelines.iter().map(|timeline| timeline.ask(store)).collect(),
        }
    }
}

impl Stacks {
    fn ask(&self, store: &Store) -> Self {
        let profile = store.merge_stacks(&self.of.query()).unwrap();
        let mut values = BTreeMap::new();
        for &(stack, value) in &profile.values {
            let twice = values.insert(text_of(&profile.symbols, stack), value);
            assert_eq!(twice, None, "each stack is answered once");
        }
        Self { of: self.of.clone(), values }
    }
}

impl Timeline {
    fn ask(&self, store: &Store) -> Self {
        let stacks = StackQuery { call_site: self.call_site.clone(), ..self.of.query() };
        let query = SeriesQuery { stacks, step_ms: self.step_ms, group_by: self.group_by.clone() };
        let groups = store.select_series(&query).unwrap().into_iter().map(|series| Group {
            labels: series.labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect(),
            points: series.points.into_iter().map(|(time, value)| (time.0, value)).collect(),
        });
        Self { groups: groups.collect(), ..self.clone() }
    }
}

/// All that is known of a stack, as [`super::recipe`] writes it.
fn text_of(symbols: &SymbolTable, stack: StackId) -> String {
    let locations = symbols.stack_locations(stack);
    let mut frames: Vec<String> = locations.map(|id| frame_text(symbols, symbols.location(id))).collect();
    frames.reverse();
    frames.join(";")
}

/// A function as `name (system name) file:first line:line`, inlined ones before the function they are in, and then
/// `[build id path] address`; what is not known is left out.
fn frame_text(symbols: &SymbolTable, location: &Location) -> String {
    let mut words = Vec::new();
    for line in &location.lines {
        let function = symbols.function(line.function);
        let parts = [function.name, function.system_name, function.filename].map(|id| symbols.str(id));
        words.push(line_text(parts, [function.start_line, line.line]));
    }
    if let Some(mapping) = location.mapping {
        let mapping = symbols.mapping(mapping);
        words.push(format!("[{} {}]", symbols.str(mapping.build_id), symbols.str(mapping.path)));
    }
    if location.address != 0 {
        words.push(format!("{:#x}", location.address));
    }
    words.join(" ")
}

/// One line of a frame.
pub(super) fn line_text([name, system_name, file]: [&str; 3], [first_line, line]: [u32; 2]) -> String {
    let mut words = vec![name.to_owned()];
    words.extend((!system_name.is_empty()).then(|| format!("({system_name})")));
    words.extend(((file, first_line, line) != ("", 0, 0)).then(|| format!("{file}:{first_line}:{line}")));
    words.join(" ")
}
