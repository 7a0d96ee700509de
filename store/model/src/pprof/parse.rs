//! A pprof profile as flat tables: parsed in one pass, text borrowed from the bytes, one allocation per table.
//!
//! Only the shape is checked here; whether ids and indexes lead anywhere is checked where they are followed.

use std::ops::Range;
use std::str;

use crate::pprof::PprofError;
use crate::pprof::wire::{Field, Reader, WireError};

/// What the tables may take in memory: an entry of two bytes on the wire can take fifty here.
const MAX_TABLE_BYTES: usize = 64 << 20;

/// A parsed profile. Fields are named as in `profile.proto`.
#[derive(Debug, Default)]
pub(crate) struct Profile<'a> {
    pub(crate) sample_types: Vec<ValueType>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) locations: Vec<Location>,
    pub(crate) functions: Vec<Function>,
    pub(crate) strings: Vec<&'a str>,
    pub(crate) time_nanos: i64,
    pub(crate) period_type: Option<ValueType>,
    /// Location ids of all samples; each sample has a range of them, leaf first.
    pub(crate) location_ids: Vec<u64>,
    /// Values of all samples.
    pub(crate) values: Vec<i64>,
    /// Labels of all samples that have text; numeric ones are not kept.
    pub(crate) labels: Vec<Label>,
    /// Lines of all locations.
    pub(crate) lines: Vec<Line>,
    /// What the tables take so far.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ValueType {
    pub(crate) kind: i64,
    pub(crate) unit: i64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) locations: Range<usize>,
    pub(crate) values: Range<usize>,
    pub(crate) labels: Range<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Label {
    pub(crate) key: i64,
    pub(crate) text: i64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mapping {
    pub(crate) id: u64,
    pub(crate) memory_start: u64,
    pub(crate) memory_limit: u64,
    pub(crate) file_offset: u64,
    pub(crate) filename: i64,
    pub(crate) build_id: i64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Location {
    pub(crate) id: u64,
    pub(crate) mapping_id: u64,
    pub(crate) address: u64,
    pub(crate) lines: Range<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Line {
    pub(crate) function_id: u64,
    pub(crate) line: i64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Function {
    pub(crate) id: u64,
    pub(crate) name: i64,
    pub(crate) system_name: i64,
    pub(crate) filename: i64,
    pub(crate) start_line: i64,
}

impl<'a> Profile<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, PprofError> {
        let mut profile = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next()? {
            profile.field(field)?;
        }
        Ok(profile)
    }

    /// Counts entries that are about to be added to a table.
    fn hold<T>(&mut self, entries: usize) -> Result<(), PprofError> {
        self.bytes = self.bytes.saturating_add(entries.saturating_mul(size_of::<T>()));
        let limit = MAX_TABLE_BYTES;
        if self.bytes > limit { Err(PprofError::TooLarge { limit }) } else { Ok(()) }
    }

    /// Refuses a field of more numbers than there may be. They are counted only where the limit is near.
    fn foresee_uints(&self, field: Field<'_>) -> Result<(), PprofError> {
        let room = (MAX_TABLE_BYTES - self.bytes) / size_of::<u64>();
        let fits = field.max_uints() <= room || field.count_uints() <= room;
        if fits { Ok(()) } else { Err(PprofError::TooLarge { limit: MAX_TABLE_BYTES }) }
    }

    /// The text at an index that a message holds.
    pub(crate) fn text(&self, index: i64, what: &'static str) -> Result<&'a str, PprofError> {
        let text = usize::try_from(index).ok().and_then(|i| self.strings.get(i));
        text.copied().ok_or(PprofError::StringIndex { what, index })
    }

    fn field(&mut self, field: Field<'a>) -> Result<(), PprofError> {
        match field.number {
            1 => {
                self.hold::<ValueType>(1)?;
                self.sample_types.push(value_type(field, ValueType::default())?);
            }
            2 => self.sample(field)?,
            3 => {
                self.hold::<Mapping>(1)?;
                self.mappings.push(mapping(field)?);
            }
            4 => self.location(field)?,
            5 => {
                self.hold::<Function>(1)?;
                self.functions.push(function(field)?);
            }
            6 => {
                self.hold::<&str>(1)?;
                let not_utf8 = |source| PprofError::NotUtf8 { index: self.strings.len(), source };
                let text = str::from_utf8(field.bytes()?).map_err(not_utf8)?;
                self.strings.push(text);
            }
            9 => self.time_nanos = field.int()?,
            // A message that is there twice is one whose fields add up.
            11 => self.period_type = Some(value_type(field, self.period_type.unwrap_or_default())?),
            _ => {}
        }
        Ok(())
    }

    fn sample(&mut self, field: Field<'a>) -> Result<(), PprofError> {
        self.hold::<Sample>(1)?;
        let (locations, values, labels) = (self.location_ids.len(), self.values.len(), self.labels.len());
        let mut reader = field.message()?;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => {
                    let known = self.location_ids.len();
                    self.foresee_uints(field)?;
                    field.each_uint(|id| self.location_ids.push(id))?;
                    self.hold::<u64>(self.location_ids.len() - known)?;
                }
                2 => {
                    let known = self.values.len();
                    self.foresee_uints(field)?;
                    field.each_uint(|value| self.values.push(value as i64))?;
                    self.hold::<i64>(self.values.len() - known)?;
                }
                3 => {
                    if let Some(label) = label(field)? {
                        self.hold::<Label>(1)?;
                        self.labels.push(label);
                    }
                }
                _ => {}
            }
        }
        self.samples.push(Sample {
            locations: locations..self.location_ids.len(),
            values: values..self.values.len(),
            labels: labels..self.labels.len(),
        });
        Ok(())
    }

    fn location(&mut self, field: Field<'a>) -> Result<(), PprofError> {
        self.hold::<Location>(1)?;
        let first_line = self.lines.len();
        let mut location = Location::default();
        let mut reader = field.message()?;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => location.id = field.uint()?,
                2 => location.mapping_id = field.uint()?,
                3 => location.address = field.uint()?,
                4 => {
                    self.hold::<Line>(1)?;
                    self.lines.push(line(field)?);
                }
                _ => {}
            }
        }
        location.lines = first_line..self.lines.len();
        self.locations.push(location);
        Ok(())
    }
}

/// A type, its fields added to those that were found before.
fn value_type(field: Field<'_>, mut found: ValueType) -> Result<ValueType, WireError> {
    let mut reader = field.message()?;
    while let Some(field) = reader.next()? {
        match field.number {
            1 => found.kind = field.int()?,
            2 => found.unit = field.int()?,
            _ => {}
        }
    }
    Ok(found)
}

/// A label with text; `None` for one with a number.
fn label(field: Field<'_>) -> Result<Option<Label>, WireError> {
    let mut found = Label::default();
    let mut reader = field.message()?;
    while let Some(field) = reader.next()? {
        match field.number {
            1 => found.key = field.int()?,
            2 => found.text = field.int()?,
            _ => {}
        }
    }
    Ok((found.text != 0).then_some(found))
}

fn mapping(field: Field<'_>) -> Result<Mapping, WireError> {
    let mut found = Mapping::default();
    let mut reader = field.message()?;
    while let Some(field) = reader.next()? {
        match field.number {
            1 => found.id = field.uint()?,
            2 => found.memory_start = field.uint()?,
            3 => found.memory_limit = field.uint()?,
            4 => found.file_offset = field.uint()?,
            5 => found.filename = field.int()?,
            6 => found.build_id = field.int()?,
            _ => {}
        }
    }
    Ok(found)
}

fn line(field: Field<'_>) -> Result<Line, WireError> {
    let mut found = Line::default();
    let mut reader = field.message()?;
    while let Some(field) = reader.next()? {
        match field.number {
            1 => found.function_id = field.uint()?,
            2 => found.line = field.int()?,
            _ => {}
        }
    }
    Ok(found)
}

fn function(field: Field<'_>) -> Result<Function, WireError> {
    let mut found = Function::default();
    let mut reader = field.message()?;
    while let Some(field) = reader.next()? {
        match field.number {
            1 => found.id = field.uint()?,
            2 => found.name = field.int()?,
            3 => found.system_name = field.int()?,
            4 => found.filename = field.int()?,
            5 => found.start_line = field.int()?,
            _ => {}
        }
    }
    Ok(found)
}
