//! What a pushed profile means, read in the plainest way: generated types, one frame after the other, nothing
//! remembered, nothing shared with the reader under test but label sets and limits.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use pyrite_model::pprof::{Appended, PushContext, proto};
use pyrite_model::{Batch, LabelSet, Location, ProfileType, SYNTHETIC_LABELS, StackId, SymbolTable, UnixMs};

/// Build id and path, address, and of each line: name, system name, file, first line, line.
pub(crate) type Frame = (Option<(String, String)>, u64, Vec<(String, String, String, u32, u32)>);

/// Profile type, labels, time, frames from the leaf on.
type Key = (String, String, UnixMs, Vec<Frame>);

/// The labels with text of a sample, as indexes of their strings, in order.
type Group = Vec<(i64, i64)>;

/// A profile's rows, and what became of its samples. Rows of series with the same labels are one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) rows: BTreeMap<Key, i64>,
    pub(crate) appended: Appended,
}

impl Reading {
    fn add(&mut self, key: Key, value: i64) {
        let sum = self.rows.entry(key).or_default();
        *sum = sum.saturating_add(value);
    }

    /// What a batch holds.
    pub(crate) fn of(batch: &Batch, appended: Appended) -> Self {
        let mut reading = Self { appended, ..Self::default() };
        for series in &batch.series {
            for row in &series.rows {
                let frames = frames(&batch.symbols, row.stack);
                let key = (series.profile_type.to_string(), series.labels.to_string(), row.time, frames);
                reading.add(key, row.value);
            }
        }
        reading
    }

    /// Both in one.
    pub(crate) fn with(mut self, other: Self) -> Self {
        other.rows.into_iter().for_each(|(key, value)| self.add(key, value));
        self.appended.rows += other.appended.rows;
        self.appended.negative_samples += other.appended.negative_samples;
        self.appended.truncated_stacks += other.appended.truncated_stacks;
        self
    }
}

fn frames(symbols: &SymbolTable, stack: StackId) -> Vec<Frame> {
    let text = |id| symbols.str(id).to_owned();
    let frame = |location: &Location| {
        let lines = location.lines.iter().map(|line| {
            let function = symbols.function(line.function);
            let (name, system_name) = (text(function.name), text(function.system_name));
            (name, system_name, text(function.filename), function.start_line, line.line)
        });
        let mapping = location.mapping.map(|id| symbols.mapping(id));
        (mapping.map(|m| (text(m.build_id), text(m.path))), location.address, lines.collect())
    };
    symbols.stack_locations(stack).map(|id| frame(symbols.location(id))).collect()
}

/// Reads a profile that is not packed, or says why it is refused, by the reason's name.
pub(crate) fn read(bytes: &[u8], context: &PushContext<'_>) -> Result<Reading, &'static str> {
    let profile = proto::Profile::decode(bytes).map_err(|_error| "malformed")?;
    let types = types(&profile)?;
    let time = time(&profile, context)?;
    let frames = Frames::read(&profile, context.limits.max_symbol_bytes)?;
    let mut reading = Reading::default();
    let mut rows = BTreeSet::new();
    for sample in &profile.sample {
        if sample.value.len() != types.len() {
            return Err("malformed");
        }
        let ids = &sample.location_id;
        let deeper = ids.len().saturating_sub(context.limits.max_frames);
        let mut stack = Vec::new();
        for id in &ids[deeper..] {
            stack.push(frames.0.get(id).ok_or("malformed")?.clone());
        }
        if stack.is_empty() {
            stack.push(Frame::default());
        }
        let (group, labels) = labels(&profile, sample, context)?;
        if sample.value.iter().any(|value| *value < 0) {
            reading.appended.negative_samples += 1;
            continue;
        }
        reading.appended.truncated_stacks +=
            usize::from(deeper > 0 && sample.value.iter().any(|value| *value > 0));
        for (i, value) in sample.value.iter().enumerate().filter(|(_, value)| **value > 0) {
            let mut labels = labels.clone();
            for name in SYNTHETIC_LABELS {
                labels.remove(name);
            }
            rows.insert((group.clone(), i, stack.clone()));
            reading.add((types[i].clone(), labels.to_string(), time, stack.clone()), *value);
        }
    }
    reading.appended.rows = rows.len();
    Ok(reading)
}

fn text(profile: &proto::Profile, index: i64) -> Result<&str, &'static str> {
    let text = usize::try_from(index).ok().and_then(|index| profile.string_table.get(index));
    text.map(String::as_str).ok_or("malformed")
}

fn types(profile: &proto::Profile) -> Result<Vec<String>, &'static str> {
    if profile.sample_type.is_empty() {
        return Err("empty");
    }
    if !text(profile, 0)?.is_empty() {
        return Err("malformed");
    }
    let pair = |t: &proto::ValueType| -> Result<(String, String), &'static str> {
        Ok((text(profile, t.r#type)?.to_owned(), text(profile, t.unit)?.to_owned()))
    };
    let types: Vec<(String, String)> = profile.sample_type.iter().map(pair).collect::<Result<_, _>>()?;
    let (period_type, period_unit) = profile.period_type.as_ref().map_or(Ok(Default::default()), pair)?;
    let bad_kind = |kind: &str| kind.is_empty() || kind.contains(['-', ':']);
    let bad = types.iter().any(|(kind, unit)| bad_kind(kind) || unit.contains(':'));
    if bad || period_type.contains(':') || period_unit.contains(':') {
        return Err("profile_type");
    }
    let named = types.into_iter().map(|(sample_type, sample_unit)| ProfileType {
        name: "process_cpu".to_owned(),
        sample_type,
        sample_unit,
        period_type: period_type.clone(),
        period_unit: period_unit.clone(),
    });
    Ok(named.map(|profile_type| profile_type.to_string()).collect())
}

fn time(profile: &proto::Profile, context: &PushContext<'_>) -> Result<UnixMs, &'static str> {
    let UnixMs(now) = context.now;
    let ms = profile.time_nanos.div_euclid(1_000_000);
    match profile.time_nanos {
        0 => Ok(context.now),
        _ if ms < now - context.limits.max_age_ms || ms > now + context.limits.max_ahead_ms => Err("time"),
        _ => Ok(UnixMs(ms)),
    }
}

/// The group that a sample belongs to, and the labels of that group.
fn labels(
    profile: &proto::Profile,
    sample: &proto::Sample,
    context: &PushContext<'_>,
) -> Result<(Group, LabelSet), &'static str> {
    let limits = context.limits;
    let mut group: Group =
        sample.label.iter().filter(|label| label.str != 0).map(|label| (label.key, label.str)).collect();
    group.sort_unstable();
    if group.len() > limits.max_sample_labels {
        return Err("labels");
    }
    let mut labels = LabelSet::default();
    for (key, value) in &group {
        let (name, value) = (text(profile, *key)?, text(profile, *value)?);
        if !["profile_id", "span_id", "trace_id"].contains(&name) {
            labels.set(name, value);
        }
    }
    for label in context.labels {
        labels.set(&label.name, &label.value);
    }
    let fits = |label: &pyrite_model::Label| {
        !label.name.is_empty()
            && label.name.len() <= limits.max_label_name_bytes
            && label.value.len() <= limits.max_label_value_bytes
    };
    if labels.len() > limits.max_labels || !labels.iter().all(fits) {
        return Err("labels");
    }
    Ok((group, labels))
}

/// Frames by location id.
struct Frames(BTreeMap<u64, Frame>);

impl Frames {
    fn read(profile: &proto::Profile, max_symbol_bytes: usize) -> Result<Self, &'static str> {
        let symbol = |index: i64| -> Result<String, &'static str> {
            let mut rest = text(profile, index)?.chars();
            while rest.as_str().len() > max_symbol_bytes {
                rest.next();
            }
            Ok(rest.as_str().to_owned())
        };
        let number = |number: i64| u32::try_from(number).unwrap_or(0);
        let mut mappings = BTreeMap::new();
        for mapping in &profile.mapping {
            let names = (symbol(mapping.build_id)?, symbol(mapping.filename)?);
            define(&mut mappings, mapping.id, (names, mapping))?;
        }
        let mut functions = BTreeMap::new();
        for function in &profile.function {
            let (name, mut system_name) = (symbol(function.name)?, symbol(function.system_name)?);
            if system_name == name {
                system_name.clear();
            }
            let found = (name, system_name, symbol(function.filename)?, number(function.start_line));
            define(&mut functions, function.id, found)?;
        }
        let mut frames = BTreeMap::new();
        for location in &profile.location {
            let mapping = match location.mapping_id {
                0 => None,
                id => Some(mappings.get(&id).ok_or("malformed")?),
            };
            let mut lines = Vec::new();
            for line in &location.line {
                let (name, system_name, file, start) =
                    functions.get(&line.function_id).ok_or("malformed")?.clone();
                lines.push((name, system_name, file, start, number(line.line)));
            }
            let address = match mapping {
                _ if !lines.is_empty() => 0,
                Some((_, m)) if location.address >= m.memory_start && location.address < m.memory_limit => {
                    (location.address - m.memory_start).wrapping_add(m.file_offset)
                }
                _ => location.address,
            };
            define(&mut frames, location.id, (mapping.map(|(names, _)| names.clone()), address, lines))?;
        }
        Ok(Self(frames))
    }
}

fn define<T>(things: &mut BTreeMap<u64, T>, id: u64, thing: T) -> Result<(), &'static str> {
    let twice = things.insert(id, thing).is_some();
    if id == 0 || twice { Err("malformed") } else { Ok(()) }
}
