//! A raw table as bytes, for the cache on disk.
//!
//! ```text
//! "PYUW"            magic
//! u16               VERSION
//! u16               machine: 62 x86_64, 183 aarch64 (as in ELF)
//! u32               CRC-32C of everything behind it
//! u16, bytes        the executable's id
//! u64, u32          lowest svma, number of segments
//!   u64 u64 u64 u8    each: file offset, svma, bytes in the file, 1 if executable
//! u32 × 13          the report, in the order of its fields
//! u32               number of rules
//!   16 bytes          each: struct pyrite_rule
//! u32               number of rows
//!   varint varint     each: pc minus the pc of the row before, rule
//! ```
//!
//! Little-endian; varints are LEB128. A change of anything here, or of what tables say, is a new version: an old file is
//! then as good as none.

use pyrite_bpf::abi::pyrite_rule;
use pyrite_model::FileOffset;
use thiserror::Error;

use crate::rule::{RULE_BYTES, Rule, RuleBytes};
use crate::table::{Arch, Layout, RawRow, RawTable, Report, Segment, Unsupported};

const MAGIC: [u8; 4] = *b"PYUW";
const VERSION: u16 = 3;
/// Where the part begins that the checksum covers.
const BODY_AT: usize = 12;
const SEGMENT_BYTES: usize = 25;
const SMALLEST_ROW_BYTES: usize = 2;

/// Why cached bytes are of no use. The remedy is always to make the table again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadCache {
    /// Not a cached table, or one of another version.
    #[error("not a cached unwind table of this version")]
    OtherVersion,
    /// The bytes are not those that were written.
    #[error("a cached unwind table is damaged")]
    Damaged,
    /// A table of another executable or machine.
    #[error("a cached unwind table of another executable")]
    OtherExecutable,
}

impl BadCache {
    /// The stable short name, used as the metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::OtherVersion => "other_version",
            Self::Damaged => "damaged",
            Self::OtherExecutable => "other_executable",
        }
    }
}

/// The table of the executable with this id, as bytes.
pub fn encode(table: &RawTable, executable_id: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(table.rows.len() * 3 + table.rules.len() * RULE_BYTES + 256);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&machine(table.arch).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let id = &executable_id.as_bytes()[..executable_id.len().min(usize::from(u16::MAX))];
    bytes.extend_from_slice(&(id.len() as u16).to_le_bytes());
    bytes.extend_from_slice(id);
    encode_layout(&mut bytes, &table.layout);
    for count in report_fields(&table.report) {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    bytes.extend_from_slice(&(table.rules.len() as u32).to_le_bytes());
    for rule in &table.rules {
        bytes.extend_from_slice(&rule.to_abi().to_bytes());
    }
    bytes.extend_from_slice(&(table.rows.len() as u32).to_le_bytes());
    let mut last = 0;
    for row in &table.rows {
        put_varint(&mut bytes, row.pc - last);
        put_varint(&mut bytes, row.rule);
        last = row.pc;
    }
    let checksum = crc32c::crc32c(&bytes[BODY_AT..]);
    bytes[BODY_AT - 4..BODY_AT].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The table that `bytes` hold, if they are whole and of this executable.
pub fn decode(bytes: &[u8], executable_id: &str, arch: Arch) -> Result<RawTable, BadCache> {
    let mut input = Input(bytes);
    if input.array::<4>() != Ok(MAGIC) || input.u16() != Ok(VERSION) {
        return Err(BadCache::OtherVersion);
    }
    let stored_machine = input.u16()?;
    let checksum = input.u32()?;
    if crc32c::crc32c(input.0) != checksum {
        return Err(BadCache::Damaged);
    }
    let id_bytes = input.u16()?;
    if input.take(usize::from(id_bytes))? != executable_id.as_bytes() || stored_machine != machine(arch) {
        return Err(BadCache::OtherExecutable);
    }
    let layout = decode_layout(&mut input)?;
    let report = decode_report(&mut input)?;
    let rule_count = input.count(RULE_BYTES)?;
    let rules = (0..rule_count).map(|_| input.rule()).collect::<Result<Vec<_>, _>>()?;
    let rows = decode_rows(&mut input, rules.len())?;
    if input.0.is_empty() {
        Ok(RawTable { arch, layout, rows, rules, report })
    } else {
        Err(BadCache::Damaged)
    }
}

const fn machine(arch: Arch) -> u16 {
    match arch {
        Arch::X86_64 => object::elf::EM_X86_64.0,
        Arch::Aarch64 => object::elf::EM_AARCH64.0,
    }
}

fn encode_layout(bytes: &mut Vec<u8>, layout: &Layout) {
    bytes.extend_from_slice(&layout.lowest_svma.to_le_bytes());
    bytes.extend_from_slice(&(layout.segments.len() as u32).to_le_bytes());
    for segment in &layout.segments {
        for value in [segment.offset.0, segment.svma, segment.file_bytes] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.push(u8::from(segment.executable));
    }
}

fn decode_layout(input: &mut Input<'_>) -> Result<Layout, BadCache> {
    let lowest_svma = input.u64()?;
    let count = input.count(SEGMENT_BYTES)?;
    let segments = (0..count).map(|_| {
        Ok(Segment {
            offset: FileOffset(input.u64()?),
            svma: input.u64()?,
            file_bytes: input.u64()?,
            executable: input.array::<1>()? == [1],
        })
    });
    Ok(Layout { lowest_svma, segments: segments.collect::<Result<_, BadCache>>()? })
}

fn report_fields(report: &Report) -> impl Iterator<Item = u32> {
    let Report { functions, input_rows, rows, malformed, outside_code, overlapping, fp_lost, unsupported } =
        report.clone();
    [functions, input_rows, rows, malformed, outside_code, overlapping, fp_lost]
        .into_iter()
        .chain(unsupported)
}

fn decode_report(input: &mut Input<'_>) -> Result<Report, BadCache> {
    let mut report = Report {
        functions: input.u32()?,
        input_rows: input.u32()?,
        rows: input.u32()?,
        malformed: input.u32()?,
        outside_code: input.u32()?,
        overlapping: input.u32()?,
        fp_lost: input.u32()?,
        unsupported: [0; Unsupported::COUNT],
    };
    for count in &mut report.unsupported {
        *count = input.u32()?;
    }
    Ok(report)
}

fn decode_rows(input: &mut Input<'_>, rules: usize) -> Result<Vec<RawRow>, BadCache> {
    let count = input.count(SMALLEST_ROW_BYTES)?;
    let mut rows = Vec::with_capacity(count);
    let mut pc = 0_u32;
    for index in 0..count {
        let step = input.varint()?;
        let rule = input.varint()?;
        if (step == 0 && index > 0) || rule as usize >= rules {
            return Err(BadCache::Damaged);
        }
        pc = pc.checked_add(step).ok_or(BadCache::Damaged)?;
        rows.push(RawRow { pc, rule });
    }
    Ok(rows)
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// What is left to decode.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadCache> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BadCache::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadCache> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BadCache::Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, BadCache> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadCache> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadCache> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of things of at least `bytes_each` bytes, no more than there can be.
    fn count(&mut self, bytes_each: usize) -> Result<usize, BadCache> {
        let count = self.u32()? as usize;
        if count <= self.0.len() / bytes_each { Ok(count) } else { Err(BadCache::Damaged) }
    }

    fn rule(&mut self) -> Result<Rule, BadCache> {
        let bytes = self.array::<RULE_BYTES>()?;
        Rule::from_abi(&pyrite_rule::from_bytes(&bytes)).ok_or(BadCache::Damaged)
    }

    fn varint(&mut self) -> Result<u32, BadCache> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array::<1>()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0xf {
                return Err(BadCache::Damaged);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BadCache::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::tests::any_rule;
    use proptest::prelude::*;

    const ID: &str = "5f2c91aa";

    fn any_table() -> impl Strategy<Value = RawTable> {
        let rows =
            proptest::collection::vec((1..=u32::from(u16::MAX), any::<proptest::sample::Index>()), 0..200);
        let segment = any::<(u64, u64, u64, bool)>().prop_map(|(offset, svma, file_bytes, executable)| {
            Segment { offset: FileOffset(offset), svma, file_bytes, executable }
        });
        let layout = (any::<u64>(), proptest::collection::vec(segment, 0..4));
        let report = any::<([u32; 7], [u32; Unsupported::COUNT])>();
        (rows, proptest::collection::vec(any_rule(), 1..20), layout, report).prop_map(
            |(steps, rules, (lowest_svma, segments), (counts, unsupported))| {
                let mut pc = 0;
                let rows = steps.iter().map(|(step, rule)| {
                    pc += step;
                    RawRow { pc, rule: rule.index(rules.len()) as u32 }
                });
                let rows = rows.collect();
                let [functions, input_rows, table_rows, malformed, outside_code, overlapping, fp_lost] =
                    counts;
                let report = Report {
                    functions,
                    input_rows,
                    rows: table_rows,
                    malformed,
                    outside_code,
                    overlapping,
                    fp_lost,
                    unsupported,
                };
                RawTable { arch: Arch::X86_64, layout: Layout { lowest_svma, segments }, rows, rules, report }
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(table in any_table()) {
            prop_assert_eq!(decode(&encode(&table, ID), ID, Arch::X86_64), Ok(table));
        }

        #[test]
        fn any_damage_is_noticed(table in any_table(), at in any::<proptest::sample::Index>(), flip in 1..=255_u8) {
            let mut bytes = encode(&table, ID);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes, ID, Arch::X86_64).is_err());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes[..at], ID, Arch::X86_64).is_err());
            bytes.push(flip);
            prop_assert!(decode(&bytes, ID, Arch::X86_64).is_err());
        }

        #[test]
        fn damage_behind_a_right_checksum_is_an_error_or_a_sound_table(
            table in any_table(),
            at in any::<proptest::sample::Index>(),
            value in any::<u8>(),
        ) {
            let mut bytes = encode(&table, ID);
            let at = BODY_AT + at.index(bytes.len() - BODY_AT);
            bytes[at] = value;
            let checksum = crc32c::crc32c(&bytes[BODY_AT..]);
            bytes[BODY_AT - 4..BODY_AT].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(table) = decode(&bytes, ID, Arch::X86_64) {
                prop_assert!(table.rows.is_sorted_by(|one, next| one.pc < next.pc));
                prop_assert!(table.rows.iter().all(|row| (row.rule as usize) < table.rules.len()));
            }
        }
    }

    fn smallest() -> Vec<u8> {
        let table = RawTable {
            arch: Arch::X86_64,
            layout: Layout::default(),
            rows: vec![RawRow { pc: 0x1000, rule: 0 }],
            rules: vec![Rule::END],
            report: Report::default(),
        };
        encode(&table, ID)
    }

    #[test]
    fn the_layout_is_the_one_that_is_drawn() {
        let bytes = smallest();
        assert_eq!(&bytes[..8], b"PYUW\x03\0\x3e\0");
        assert_eq!(&bytes[12..22], b"\x08\x005f2c91aa");
        // Behind id, layout and report: one rule, one row whose pc is a varint of two bytes.
        assert_eq!(
            &bytes[22 + 12 + 13 * 4..],
            [&[1, 0, 0, 0, 1], [0; 15].as_slice(), &[1, 0, 0, 0, 0x80, 0x20, 0]].concat()
        );
    }

    #[test]
    fn tables_of_others_are_refused() {
        let bytes = smallest();
        assert!(decode(&bytes, ID, Arch::X86_64).is_ok());
        assert_eq!(decode(&bytes, "5f2c91ab", Arch::X86_64), Err(BadCache::OtherExecutable));
        assert_eq!(decode(&bytes, ID, Arch::Aarch64), Err(BadCache::OtherExecutable));
        let mut newer = bytes.clone();
        newer[4] = VERSION as u8 + 1;
        assert_eq!(decode(&newer, ID, Arch::X86_64), Err(BadCache::OtherVersion));
        assert_eq!(decode(b"", ID, Arch::X86_64), Err(BadCache::OtherVersion));
        assert_eq!(decode(&bytes[..11], ID, Arch::X86_64), Err(BadCache::Damaged));
    }
}
