//! Shape (b): a container's minute as the pprof profile that a client would push.
//!
//! Written and read by message types of our own, not by those of the store that is measured.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message as _;

use crate::recipe::container::{Container, Counted, PERIOD_NS};
use crate::recipe::stacks::Frame;

const MINUTE_NS: i64 = 60_000_000_000;
/// Where the program seems to be mapped, and how much room each function and each place in it seems to take.
const TEXT: u64 = 0x40_0000;
const SITE_BYTES: u64 = 0x40;

/// `perftools.profiles.Profile`; the numbers are those of github.com/google/pprof.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Profile {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub(crate) string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    pub(crate) time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub(crate) duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    pub(crate) period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    pub(crate) period: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct ValueType {
    #[prost(int64, tag = "1")]
    pub(crate) kind: i64,
    #[prost(int64, tag = "2")]
    pub(crate) unit: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Sample {
    /// Leaf first.
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(crate) value: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Mapping {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) memory_start: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) memory_limit: u64,
    #[prost(int64, tag = "5")]
    pub(crate) filename: i64,
    #[prost(bool, tag = "7")]
    pub(crate) has_functions: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Location {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) mapping_id: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) address: u64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Line {
    #[prost(uint64, tag = "1")]
    pub(crate) function_id: u64,
    #[prost(int64, tag = "2")]
    pub(crate) line: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Function {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(int64, tag = "2")]
    pub(crate) name: i64,
    #[prost(int64, tag = "3")]
    pub(crate) system_name: i64,
    #[prost(int64, tag = "4")]
    pub(crate) filename: i64,
    #[prost(int64, tag = "5")]
    pub(crate) start_line: i64,
}

/// The rows as pprof, not packed, stamped with `time_ms` (Unix).
pub fn encode(container: &Container, rows: &[Counted], time_ms: i64) -> Vec<u8> {
    Writer::new(container).profile(rows, time_ms).encode_to_vec()
}

/// Packs bytes as Go's runtime packs its profiles: with gzip, for speed.
///
/// # Panics
/// Never: writing to a vector cannot fail.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::with_capacity(bytes.len() / 3), Compression::fast());
    packer.write_all(bytes).and_then(|()| packer.finish()).expect("writing to a vector cannot fail")
}

/// Gives functions and locations ids in order of first appearance.
struct Writer<'a> {
    container: &'a Container,
    out: Profile,
    /// By [`Frame::index`]; 0 for none yet.
    locations: Vec<u64>,
    /// By number; 0 for none yet.
    functions: Vec<u64>,
}

impl<'a> Writer<'a> {
    fn new(container: &'a Container) -> Self {
        Self {
            container,
            out: Profile { string_table: vec![String::new()], ..Profile::default() },
            locations: vec![0; Frame::COUNT],
            functions: vec![0; Frame::COUNT],
        }
    }

    fn profile(mut self, rows: &[Counted], time_ms: i64) -> Profile {
        let cpu = ValueType { kind: self.text("cpu"), unit: self.text("nanoseconds") };
        let filename = self.text(&format!("/app/bin/{}", self.container.service()));
        let memory_limit = TEXT + Frame::COUNT as u64 * SITE_BYTES;
        let mapping = Mapping { id: 1, memory_start: TEXT, memory_limit, filename, has_functions: true };
        self.out.mapping.push(mapping);
        for row in rows {
            let frames = self.container.frames(row.stack);
            let location_id = frames.iter().rev().map(|frame| self.location(*frame)).collect();
            self.out.sample.push(Sample { location_id, value: vec![row.value_ns()] });
        }
        self.out.sample_type.push(cpu);
        Profile {
            period_type: Some(cpu),
            period: PERIOD_NS,
            time_nanos: time_ms * 1_000_000,
            duration_nanos: MINUTE_NS,
            ..self.out
        }
    }

    fn location(&mut self, frame: Frame) -> u64 {
        let known = self.locations[frame.index()];
        if known != 0 {
            return known;
        }
        let (function_id, first_line) = self.function(frame);
        let line = vec![Line { function_id, line: first_line + i64::from(frame.line_in_function()) }];
        let id = self.out.location.len() as u64 + 1;
        let address = TEXT + frame.index() as u64 * SITE_BYTES;
        self.out.location.push(Location { id, mapping_id: 1, address, line });
        self.locations[frame.index()] = id;
        id
    }

    /// The function's id and its first line.
    fn function(&mut self, frame: Frame) -> (u64, i64) {
        let known = self.functions[frame.function.index()];
        if let Some(at) = known.checked_sub(1) {
            return (known, self.out.function[at as usize].start_line);
        }
        let function = self.container.function(frame.function);
        let (name, filename) = (self.text(&function.name), self.text(&function.file));
        let (id, start_line) = (self.out.function.len() as u64 + 1, function.first_line.into());
        self.out.function.push(Function { id, name, system_name: name, filename, start_line });
        self.functions[frame.function.index()] = id;
        (id, start_line)
    }

    fn text(&mut self, text: &str) -> i64 {
        self.out.string_table.push(text.to_owned());
        self.out.string_table.len() as i64 - 1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::recipe::{Minute, Recipe};

    #[test]
    fn a_profile_says_what_its_rows_say() {
        let recipe = Recipe::new(1, 3);
        for container in recipe.containers() {
            let rows = container.minute(Minute(3));
            let profile = Profile::decode(&encode(container, &rows, 1_700_000_000_000)[..]).unwrap();
            assert_eq!(profile.time_nanos, 1_700_000_000_000_000_000);
            assert_eq!(profile.sample.len(), rows.len());
            let text = |at: i64| profile.string_table[at as usize].as_str();
            assert_eq!(
                (text(profile.sample_type[0].kind), text(profile.sample_type[0].unit)),
                ("cpu", "nanoseconds")
            );
            for (sample, row) in profile.sample.iter().zip(&rows) {
                assert_eq!(sample.value, [i64::from(row.samples) * 10_000_000]);
                let names = sample.location_id.iter().rev().map(|id| {
                    let location = &profile.location[*id as usize - 1];
                    text(profile.function[location.line[0].function_id as usize - 1].name).to_owned()
                });
                let frames = container.frames(row.stack);
                assert!(names.eq(frames.iter().map(|frame| container.function(frame.function).name.clone())));
            }
            let lines: HashSet<_> = profile
                .location
                .iter()
                .map(|location| (location.line[0].function_id, location.line[0].line))
                .collect();
            assert_eq!(lines.len(), profile.location.len(), "each place once");
        }
    }
}
