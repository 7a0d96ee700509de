//! Pushed profiles become rows: checked, named, split by sample type and by the labels on their samples.
//!
//! What Pyroscope does on ingest holds here too: samples with a negative value are left out (and counted), numeric
//! labels and the addresses of named functions are dropped, stacks that are then alike add up, very deep stacks
//! lose their leaf side.

use std::borrow::Cow;

use hashbrown::HashMap;

use crate::pprof::PprofError;
use crate::pprof::inflate::inflate;
use crate::pprof::names::{DisplayNames, name_of_types, series_identity};
use crate::pprof::parse::{Label, Profile, Sample, ValueType};
use crate::pprof::symbols::Symbols;
use crate::{
    Batch, LabelSet, Location, LocationId, ProfileType, Row, SeriesRows, StackId, StackNode, UnixMs, names,
};

/// Labels on samples that point at a span or a single profile; series of their own would be one per request.
const EXEMPLAR_LABELS: [&str; 3] = ["profile_id", "span_id", "trace_id"];

/// What names and labels of a profile's groups and series may take in memory: they are as long as clients like, and
/// every group of samples and every series has its own copy.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// How large and how far from now a profile may be.
#[derive(Clone, Debug)]
pub struct PushLimits {
    /// Size of one profile after unpacking, in bytes.
    pub max_profile_bytes: usize,
    /// Labels of a series, the labels of its samples included.
    pub max_labels: usize,
    /// Labels with text on one sample.
    pub max_sample_labels: usize,
    /// Length of a label name in bytes.
    pub max_label_name_bytes: usize,
    /// Length of a label value in bytes.
    pub max_label_value_bytes: usize,
    /// Frames of a stack trace; deeper ones lose their leaf side.
    pub max_frames: usize,
    /// Length of a symbol in bytes; longer ones lose their beginning.
    pub max_symbol_bytes: usize,
    /// How long ago a profile may have been taken, in milliseconds.
    pub max_age_ms: i64,
    /// How far in the future it may seem to be, in milliseconds.
    pub max_ahead_ms: i64,
}

impl Default for PushLimits {
    fn default() -> Self {
        Self {
            max_profile_bytes: 16 << 20,
            max_labels: 30,
            max_sample_labels: 100,
            max_label_name_bytes: 1024,
            max_label_value_bytes: 2048,
            max_frames: 1000,
            max_symbol_bytes: 65_535,
            max_age_ms: 30 * 24 * 3_600_000,
            max_ahead_ms: 10 * 60_000,
        }
    }
}

impl PushLimits {
    /// Refuses a profile that was taken too long ago, or has not been taken yet.
    pub fn check_time(&self, time: UnixMs, now: UnixMs) -> Result<(), PprofError> {
        let (from_ms, until_ms) =
            (now.0.saturating_sub(self.max_age_ms), now.0.saturating_add(self.max_ahead_ms));
        if (from_ms..=until_ms).contains(&time.0) {
            Ok(())
        } else {
            Err(PprofError::Time { time_ms: time.0, from_ms, until_ms })
        }
    }
}

/// All that a profile's rows depend on besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct PushContext<'a> {
    /// The labels it was pushed with; `__name__` is the first part of its profile type id.
    pub labels: &'a LabelSet,
    /// Where given, a profile without `__name__` is named by its sample types as they are called here, not rejected.
    pub display_names: Option<&'a DisplayNames>,
    /// The time of a profile that states none.
    pub now: UnixMs,
    /// The bounds it must keep.
    pub limits: &'a PushLimits,
}

/// What became of a profile's samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Rows added to the batch.
    pub rows: usize,
    /// Samples left out because a value was negative.
    pub negative_samples: usize,
    /// Stack traces that lost their leaf side.
    pub truncated_stacks: usize,
}

/// Adds a pprof profile, plain or gzip, to a batch.
///
/// # Errors
/// A profile that is malformed or beyond a limit; the batch may then hold parts of it and must not be stored.
pub fn append(batch: &mut Batch, profile: &[u8], context: &PushContext<'_>) -> Result<Appended, PprofError> {
    let bytes = inflate(profile, context.limits.max_profile_bytes)?;
    let profile = Profile::parse(&bytes)?;
    let types = sample_types(&profile)?;
    let labels = named(context, &types);
    let context = &PushContext { labels: &labels, ..*context };
    check_labels(&labels, context.limits)?;
    let mut push = Push {
        profile: &profile,
        time: row_time(&profile, context)?,
        symbols: Symbols::intern(&profile, &mut batch.symbols, context.limits.max_symbol_bytes)?,
        groups: Vec::new(),
        group_ids: HashMap::new(),
        text_bytes: 0,
        before: Before::default(),
        path: Vec::new(),
        callees: Vec::new(),
        appended: Appended::default(),
    };
    for (i, sample) in profile.samples.iter().enumerate() {
        if sample.values.len() != types.len() {
            let (found, expected) = (sample.values.len(), types.len());
            return Err(PprofError::ValueCount { sample: i, found, expected });
        }
        push.sample(sample, batch, context)?;
    }
    push.finish(&types, batch)
}

/// A sample or period type with its unit.
type NamedType<'a> = (&'a str, &'a str);

/// The types of a profile's values and, last, of its period.
struct Types<'a> {
    values: Vec<NamedType<'a>>,
    period: NamedType<'a>,
}

impl Types<'_> {
    fn len(&self) -> usize {
        self.values.len()
    }
}

fn sample_types<'a>(profile: &Profile<'a>) -> Result<Types<'a>, PprofError> {
    if profile.sample_types.is_empty() {
        return Err(PprofError::Empty);
    }
    if profile.strings.first() != Some(&"") {
        return Err(PprofError::StringTable);
    }
    let named = |t: &ValueType| Ok((profile.text(t.kind, "a type")?, profile.text(t.unit, "a unit")?));
    let values: Vec<NamedType<'a>> =
        profile.sample_types.iter().map(named).collect::<Result<_, PprofError>>()?;
    let period = profile.period_type.as_ref().map_or(Ok(("", "")), named)?;
    let bad_kind =
        values.iter().map(|(kind, _)| *kind).find(|kind| kind.is_empty() || kind.contains(['-', ':']));
    let mut others = values.iter().map(|(_, unit)| *unit).chain([period.0, period.1]);
    match bad_kind.or_else(|| others.find(|text| text.contains(':'))) {
        Some(name) => Err(PprofError::SampleType { name: name.chars().take(100).collect() }),
        None => Ok(Types { values, period }),
    }
}

fn named<'a>(context: &PushContext<'a>, types: &Types<'_>) -> Cow<'a, LabelSet> {
    match context.display_names {
        Some(shown_as) if context.labels.get(names::PROFILE_NAME).is_none() => {
            let kinds: Vec<&str> = types.values.iter().map(|(kind, _)| *kind).collect();
            let mut labels = context.labels.clone();
            labels.set(names::PROFILE_NAME, name_of_types(&kinds, shown_as));
            Cow::Owned(labels)
        }
        _ => Cow::Borrowed(context.labels),
    }
}

fn check_labels(labels: &LabelSet, limits: &PushLimits) -> Result<(), PprofError> {
    let name = labels.get(names::PROFILE_NAME).unwrap_or_default();
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err(PprofError::ProfileName { name: name.chars().take(100).collect() });
    }
    if labels.len() > limits.max_labels {
        return Err(PprofError::TooManyLabels { found: labels.len(), limit: limits.max_labels });
    }
    for label in labels {
        let short_name = || label.name.chars().take(100).collect();
        if label.name.is_empty() || label.name.len() > limits.max_label_name_bytes {
            return Err(PprofError::LabelName { name: short_name(), limit: limits.max_label_name_bytes });
        }
        if label.value.len() > limits.max_label_value_bytes {
            return Err(PprofError::LabelValue { name: short_name(), limit: limits.max_label_value_bytes });
        }
    }
    Ok(())
}

fn row_time(profile: &Profile<'_>, context: &PushContext<'_>) -> Result<UnixMs, PprofError> {
    if profile.time_nanos == 0 {
        return Ok(context.now);
    }
    let time = UnixMs::from_unix_ns(profile.time_nanos);
    context.limits.check_time(time, context.now)?;
    Ok(time)
}

/// A profile on its way into a batch.
struct Push<'a> {
    profile: &'a Profile<'a>,
    time: UnixMs,
    symbols: Symbols,
    groups: Vec<Group>,
    group_ids: HashMap<Vec<Label>, usize>,
    /// What names and labels of groups and series take so far.
    text_bytes: usize,
    before: Before<'a>,
    /// The stack of the sample before, root first.
    path: Vec<StackId>,
    /// What a stack does not share with the one before, root first.
    callees: Vec<LocationId>,
    appended: Appended,
}

/// The sample before: neighbours share most of their callers, and nearly always their labels.
#[derive(Default)]
struct Before<'a> {
    /// Leaf first.
    locations: &'a [u64],
    group: Option<(&'a [Label], usize)>,
}

/// Samples with the same labels.
struct Group {
    labels: LabelSet,
    /// Stack and where the sample's values begin.
    samples: Vec<(StackId, usize)>,
}

impl<'a> Push<'a> {
    fn sample(
        &mut self,
        sample: &Sample,
        batch: &mut Batch,
        context: &PushContext<'_>,
    ) -> Result<(), PprofError> {
        let ids = &self.profile.location_ids[sample.locations.clone()];
        let kept = &ids[ids.len().saturating_sub(context.limits.max_frames)..];
        let stack = self.stack(kept, batch)?;
        let group = self.group(&self.profile.labels[sample.labels.clone()], context)?;
        let values = &self.profile.values[sample.values.clone()];
        if values.iter().any(|value| *value < 0) {
            self.appended.negative_samples += 1;
        } else if values.iter().any(|value| *value > 0) {
            self.appended.truncated_stacks += usize::from(kept.len() < ids.len());
            self.groups[group].samples.push((stack, sample.values.start));
        }
        Ok(())
    }

    fn stack(&mut self, leaf_first: &'a [u64], batch: &mut Batch) -> Result<StackId, PprofError> {
        let callers = leaf_first.iter().rev().zip(self.before.locations.iter().rev());
        let shared = callers.take_while(|(id, before)| id == before).count();
        self.before.locations = leaf_first;
        self.path.truncate(shared);
        self.callees.clear();
        for &id in leaf_first[..leaf_first.len() - shared].iter().rev() {
            self.callees.push(self.symbols.location(id)?);
        }
        batch.symbols.intern_callees(&mut self.path, &self.callees);
        if let Some(stack) = self.path.last() {
            return Ok(*stack);
        }
        // A value without a stack still counts towards the total.
        let location = batch.symbols.intern_location(Location::default());
        Ok(batch.symbols.intern_stack_node(StackNode { parent: None, location }))
    }

    fn group(&mut self, found: &'a [Label], context: &PushContext<'_>) -> Result<usize, PprofError> {
        if let Some((labels, group)) = self.before.group
            && labels == found
        {
            return Ok(group);
        }
        let limit = context.limits.max_sample_labels;
        if found.len() > limit {
            return Err(PprofError::TooManyLabels { found: found.len(), limit });
        }
        let mut key = found.to_vec();
        key.sort_unstable();
        let group = match self.group_ids.get(&key) {
            Some(&group) => group,
            None => self.new_group(key, context)?,
        };
        self.before.group = Some((found, group));
        Ok(group)
    }

    fn new_group(&mut self, key: Vec<Label>, context: &PushContext<'_>) -> Result<usize, PprofError> {
        let mut labels = LabelSet::default();
        for Label { key, text } in &key {
            let name = self.profile.text(*key, "a sample label")?;
            let value = self.profile.text(*text, "a sample label")?;
            if !EXEMPLAR_LABELS.contains(&name) {
                labels.set(name, value);
            }
        }
        context.labels.iter().for_each(|label| labels.set(&label.name, &label.value));
        check_labels(&labels, context.limits)?;
        self.hold(labels.bytes())?;
        self.groups.push(Group { labels, samples: Vec::new() });
        self.group_ids.insert(key, self.groups.len() - 1);
        Ok(self.groups.len() - 1)
    }

    /// Counts bytes of names and labels that are about to be kept.
    fn hold(&mut self, bytes: usize) -> Result<(), PprofError> {
        self.text_bytes += bytes;
        let limit = MAX_TEXT_BYTES;
        if self.text_bytes > limit { Err(PprofError::TooLarge { limit }) } else { Ok(()) }
    }

    fn finish(mut self, types: &Types<'_>, batch: &mut Batch) -> Result<Appended, PprofError> {
        for mut group in std::mem::take(&mut self.groups) {
            group.samples.sort_unstable();
            for (i, (sample_type, sample_unit)) in types.values.iter().enumerate() {
                let rows = self.rows(&group.samples, i);
                if rows.is_empty() {
                    continue;
                }
                let type_parts = [sample_type, sample_unit, &types.period.0, &types.period.1];
                let type_bytes: usize = type_parts.iter().map(|part| part.len()).sum();
                self.hold(group.labels.bytes() + type_bytes)?;
                self.appended.rows += rows.len();
                let (name, labels) = series_identity(&group.labels, sample_type);
                let profile_type = ProfileType {
                    name,
                    sample_type: (*sample_type).to_owned(),
                    sample_unit: (*sample_unit).to_owned(),
                    period_type: types.period.0.to_owned(),
                    period_unit: types.period.1.to_owned(),
                };
                batch.series.push(SeriesRows { labels, profile_type, rows });
            }
        }
        Ok(self.appended)
    }

    /// The rows of sorted samples for one of their values.
    fn rows(&self, samples: &[(StackId, usize)], value: usize) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for &(stack, first) in samples {
            let value = self.profile.values[first + value];
            match rows.last_mut() {
                _ if value == 0 => {}
                Some(row) if row.stack == stack => row.value = row.value.saturating_add(value),
                _ => rows.push(Row { time: self.time, stack, value }),
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests;
