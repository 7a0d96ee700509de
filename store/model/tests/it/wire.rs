//! A profile as bytes, written with every freedom that Protobuf leaves: fields in any order, repeated numbers packed or
//! not, numbers longer than they need to be, fields that nobody knows, fields that are there twice.

use prost::encoding::encode_varint;
use pyrite_model::pprof::proto;

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing.
    None,
    /// A group, which proto3 does not have.
    Group,
    /// A string that is no UTF-8.
    BadText,
}

/// A field number that no message of a profile has.
const UNKNOWN: u64 = 1000;

/// Writes a profile; the seed decides on the freedoms.
pub(crate) fn write(profile: &proto::Profile, flaw: Flaw, seed: u64) -> Vec<u8> {
    let mut writer = Writer { random: seed };
    let mut kinds: Vec<Vec<Vec<u8>>> = vec![
        profile.sample_type.iter().map(|t| writer.value_type(1, *t)).collect(),
        profile.sample.iter().map(|sample| writer.sample(sample)).collect(),
        profile.mapping.iter().map(|mapping| writer.mapping(mapping)).collect(),
        profile.location.iter().map(|location| writer.location(location)).collect(),
        profile.function.iter().map(|function| writer.function(function)).collect(),
        profile.string_table.iter().map(|text| writer.bytes(6, text.as_bytes())).collect(),
        vec![writer.uint(9, profile.time_nanos as u64), writer.uint(10, 60), writer.uint(12, 1)],
        profile.period_type.iter().map(|t| writer.period_type(*t)).collect(),
    ];
    match flaw {
        Flaw::None => {}
        Flaw::Group => {
            let (start, end) = (writer.varint(UNKNOWN << 3 | 3), writer.varint(UNKNOWN << 3 | 4));
            kinds.push(vec![[start, writer.uint(1, 7), end].concat()]);
        }
        Flaw::BadText => kinds.push(vec![writer.bytes(6, b"\xff")]),
    }
    for last in (1..kinds.len()).rev() {
        kinds.swap(last, writer.below(last as u64 + 1) as usize);
    }
    kinds.into_iter().flatten().flatten().collect()
}

struct Writer {
    random: u64,
}

impl Writer {
    fn below(&mut self, bound: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn varint(&mut self, value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode_varint(value, &mut out);
        while out.len() < 10 && self.one_in(8) {
            *out.last_mut().unwrap() |= 0x80;
            out.push(0);
        }
        out
    }

    /// A number, which may stay away if it is 0, and before which another may stand that does not count.
    fn uint(&mut self, field: u64, value: u64) -> Vec<u8> {
        let mut out = self.unknown();
        if self.one_in(10) {
            let other = self.below(1 << 20);
            out.extend([self.varint(field << 3), self.varint(other)].concat());
        } else if value == 0 && self.one_in(2) {
            return out;
        }
        out.extend([self.varint(field << 3), self.varint(value)].concat());
        out
    }

    fn bytes(&mut self, field: u64, content: &[u8]) -> Vec<u8> {
        [self.unknown(), self.varint(field << 3 | 2), self.varint(content.len() as u64), content.to_vec()]
            .concat()
    }

    /// A field that readers pass over, or nothing.
    fn unknown(&mut self) -> Vec<u8> {
        let number = UNKNOWN + self.below(3);
        match self.below(20) {
            0 => [self.varint(number << 3), self.varint(u64::MAX)].concat(),
            1 => [self.varint(number << 3 | 1), vec![0xff; 8]].concat(),
            2 => [self.varint(number << 3 | 2), self.varint(3), vec![0xff; 3]].concat(),
            3 => [self.varint(number << 3 | 5), vec![0xff; 4]].concat(),
            _ => Vec::new(),
        }
    }

    /// Numbers of a repeated field in runs, each packed or not.
    fn uints(&mut self, field: u64, mut values: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        while !values.is_empty() {
            let (run, rest) = values.split_at(1 + self.below(values.len() as u64) as usize);
            if self.one_in(3) {
                for value in run {
                    out.extend([self.varint(field << 3), self.varint(*value)].concat());
                }
            } else {
                let packed: Vec<u8> = run.iter().flat_map(|value| self.varint(*value)).collect();
                out.extend(self.bytes(field, &packed));
            }
            values = rest;
        }
        out
    }

    fn value_type(&mut self, field: u64, t: proto::ValueType) -> Vec<u8> {
        let content = [self.uint(1, t.r#type as u64), self.uint(2, t.unit as u64)].concat();
        self.bytes(field, &content)
    }

    /// In one piece or in two.
    fn period_type(&mut self, t: proto::ValueType) -> Vec<u8> {
        if self.one_in(2) {
            return self.value_type(11, t);
        }
        let (kind, unit) = (self.varint(t.r#type as u64), self.varint(t.unit as u64));
        [self.bytes(11, &[vec![1 << 3], kind].concat()), self.bytes(11, &[vec![2 << 3], unit].concat())]
            .concat()
    }

    fn sample(&mut self, sample: &proto::Sample) -> Vec<u8> {
        let values: Vec<u64> = sample.value.iter().map(|value| *value as u64).collect();
        let mut content = vec![self.uints(1, &sample.location_id), self.uints(2, &values)];
        for label in &sample.label {
            let label = [
                self.uint(1, label.key as u64),
                self.uint(2, label.str as u64),
                self.uint(3, label.num as u64),
            ];
            content.push(self.bytes(3, &label.concat()));
        }
        self.bytes(2, &content.concat())
    }

    fn mapping(&mut self, m: &proto::Mapping) -> Vec<u8> {
        let content = [
            self.uint(1, m.id),
            self.uint(2, m.memory_start),
            self.uint(3, m.memory_limit),
            self.uint(4, m.file_offset),
            self.uint(5, m.filename as u64),
            self.uint(6, m.build_id as u64),
            self.uint(7, 1),
        ];
        self.bytes(3, &content.concat())
    }

    fn location(&mut self, location: &proto::Location) -> Vec<u8> {
        let mut content = vec![
            self.uint(1, location.id),
            self.uint(2, location.mapping_id),
            self.uint(3, location.address),
        ];
        for line in &location.line {
            let line = [self.uint(1, line.function_id), self.uint(2, line.line as u64)].concat();
            content.push(self.bytes(4, &line));
        }
        self.bytes(4, &content.concat())
    }

    fn function(&mut self, function: &proto::Function) -> Vec<u8> {
        let content = [
            self.uint(1, function.id),
            self.uint(2, function.name as u64),
            self.uint(3, function.system_name as u64),
            self.uint(4, function.filename as u64),
            self.uint(5, function.start_line as u64),
        ];
        self.bytes(5, &content.concat())
    }
}
