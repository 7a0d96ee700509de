//! Everything that sampling is fed with, saved as bytes and fed again: what the rings gave, what `/proc` and the unwind tables
//! answered, and when it was asked for what. A tape played back makes the same rows as the day it was recorded.
//!
//! A tape is a row of entries, numbers in the byte order of the machine that wrote it, as in the rings:
//!
//! ```text
//! kind u8 | length u32 | body
//!
//! 1 record     the bytes of a record of the BPF ring            2 sideband   the bytes of a record of a sideband ring
//! 3 gap                                                          4 read       tgid u32, what /proc answered, below
//! 5 advance    until u64, boot_at_unix_ns i64                    6 commands
//! 7 copies     now u64                                           8 walked     outcome, provisional u8, guessed u16, frames u64 …
//! 9 events     until u64                                        10 end       11 ends of times off the CPU were lost
//!
//! what /proc answered: failure u8, or 0 and
//!   parent_tgid, threads u32 | start, read_at u64 | comm 16 bytes | kernel thread u8, then for each mapping
//!   start, end, file_offset, inode u64 | dev_major, dev_minor, bytes of its name u32 | name
//! ```
//!
//! What the unwind tables answered follows the entry that asked them, in the order of the questions.

use std::collections::VecDeque;

use pyrite_bpf::StackOutcome;
use pyrite_model::{Avma, FileKey, FileOffset};

use crate::{
    BootNs, Comm, Command, Event, LoadFailure, LoadedProcess, MappedRange, Mappings, Sampling, StackCopy,
    Unwinder, Walked, WallClock,
};

/// One thing that sampling was fed with, or asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapeEntry<'a> {
    /// [`Sampling::on_record`].
    Record(&'a [u8]),
    /// [`Sampling::on_sideband`].
    Sideband(&'a [u8]),
    /// [`Sampling::sideband_gap`].
    Gap,
    /// [`Sampling::process_loaded`].
    Read(u32, Result<LoadedProcess, LoadFailure>),
    /// [`Sampling::advance`].
    Advance(BootNs, WallClock),
    /// [`Sampling::take_commands`].
    Commands,
    /// [`Sampling::finish_copies`].
    Copies(BootNs),
    /// What the unwinder answered, and the frames that it appended.
    Walked(Walked, Vec<Avma>),
    /// [`Sampling::take_events`].
    Events(BootNs),
    /// [`Sampling::finish`].
    End,
    /// [`Sampling::off_cpu_ends_lost`].
    EndsLost,
}

/// Why bytes are no tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapeError {
    /// It ends in the middle of an entry.
    #[error("tape ends within the entry at byte {at}")]
    Short {
        /// Where the entry begins.
        at: usize,
    },
    /// An entry of a kind that there is not, or whose body is not what its kind says.
    #[error("tape has an impossible entry at byte {at}")]
    Entry {
        /// Where the entry begins.
        at: usize,
    },
}

impl TapeEntry<'_> {
    /// Appends the entry to a tape.
    pub fn write(&self, tape: &mut Vec<u8>) {
        let mut body = Vec::new();
        let kind: u8 = match self {
            Self::Record(bytes) => body_of(&mut body, 1, &[bytes]),
            Self::Sideband(bytes) => body_of(&mut body, 2, &[bytes]),
            Self::Gap => 3,
            Self::Read(tgid, answer) => {
                body.extend(tgid.to_ne_bytes());
                write_answer(answer, &mut body);
                4
            }
            Self::Advance(until, clock) => {
                body_of(&mut body, 5, &[&until.0.to_ne_bytes(), &clock.boot_at_unix_ns.to_ne_bytes()])
            }
            Self::Commands => 6,
            Self::Copies(now) => body_of(&mut body, 7, &[&now.0.to_ne_bytes()]),
            Self::Walked(walked, frames) => {
                body.extend([walked.outcome as u8, u8::from(walked.is_provisional)]);
                body.extend(walked.frame_pointer_frames.to_ne_bytes());
                body.extend(frames.iter().flat_map(|frame| frame.0.to_ne_bytes()));
                8
            }
            Self::Events(until) => body_of(&mut body, 9, &[&until.0.to_ne_bytes()]),
            Self::End => 10,
            Self::EndsLost => 11,
        };
        tape.push(kind);
        tape.extend((body.len() as u32).to_ne_bytes());
        tape.extend(body);
    }
}

fn body_of(body: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) -> u8 {
    body.extend(parts.concat());
    kind
}

fn write_answer(answer: &Result<LoadedProcess, LoadFailure>, body: &mut Vec<u8>) {
    let loaded = match answer {
        Ok(loaded) => loaded,
        Err(failure) => return body.push(1 + *failure as u8),
    };
    body.push(0);
    body.extend(loaded.parent_tgid.to_ne_bytes());
    body.extend(loaded.threads.to_ne_bytes());
    body.extend(loaded.start.0.to_ne_bytes());
    body.extend(loaded.read_at.0.to_ne_bytes());
    let mut comm = [0; 16];
    comm[..loaded.comm.as_bytes().len()].copy_from_slice(loaded.comm.as_bytes());
    body.extend(comm);
    body.push(u8::from(loaded.is_kernel_thread));
    for range in &loaded.ranges {
        for long in [range.start.0, range.end.0, range.file_offset.0, range.file.inode] {
            body.extend(long.to_ne_bytes());
        }
        for word in [range.file.dev_major, range.file.dev_minor, range.name.len() as u32] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(range.name.as_bytes());
    }
}

/// Reads a tape, entry by entry. Ends at the first error.
#[derive(Clone, Debug)]
pub struct TapeReader<'a> {
    tape: &'a [u8],
    at: usize,
}

impl<'a> TapeReader<'a> {
    /// From the beginning.
    pub fn new(tape: &'a [u8]) -> Self {
        Self { tape, at: 0 }
    }
}

impl<'a> Iterator for TapeReader<'a> {
    type Item = Result<TapeEntry<'a>, TapeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let mut fields = Fields(self.tape.get(at..).filter(|rest| !rest.is_empty())?);
        let Some((kind, body)) = fields.entry() else {
            self.at = self.tape.len();
            return Some(Err(TapeError::Short { at }));
        };
        let entry = read_body(kind, body).ok_or(TapeError::Entry { at });
        self.at = if entry.is_ok() { self.tape.len() - fields.0.len() } else { self.tape.len() };
        Some(entry)
    }
}

/// Reads from the front; nothing where there is too little.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn bytes(&mut self, count: u32) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count as usize)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        self.u8().filter(|flag| *flag < 2).map(|flag| flag == 1)
    }

    fn entry(&mut self) -> Option<(u8, &'a [u8])> {
        let (kind, bytes) = (self.u8()?, self.u32()?);
        Some((kind, self.bytes(bytes)?))
    }
}

fn read_body(kind: u8, body: &[u8]) -> Option<TapeEntry<'_>> {
    let mut fields = Fields(body);
    let entry = match kind {
        1 => return Some(TapeEntry::Record(body)),
        2 => return Some(TapeEntry::Sideband(body)),
        3 => TapeEntry::Gap,
        4 => {
            let tgid = fields.u32()?;
            TapeEntry::Read(tgid, read_answer(tgid, &mut fields)?)
        }
        5 => {
            let until = BootNs(fields.u64()?);
            TapeEntry::Advance(until, WallClock { boot_at_unix_ns: fields.take().map(i64::from_ne_bytes)? })
        }
        6 => TapeEntry::Commands,
        7 => TapeEntry::Copies(BootNs(fields.u64()?)),
        8 => {
            let outcome = StackOutcome::from_code(fields.u8()?)?;
            let is_provisional = fields.flag()?;
            let frame_pointer_frames = fields.take().map(u16::from_ne_bytes)?;
            let mut frames = Vec::new();
            while !fields.0.is_empty() {
                frames.push(Avma(fields.u64()?));
            }
            TapeEntry::Walked(Walked { outcome, is_provisional, frame_pointer_frames }, frames)
        }
        9 => TapeEntry::Events(BootNs(fields.u64()?)),
        10 => TapeEntry::End,
        11 => TapeEntry::EndsLost,
        _ => return None,
    };
    fields.0.is_empty().then_some(entry)
}

fn read_answer(tgid: u32, fields: &mut Fields<'_>) -> Option<Result<LoadedProcess, LoadFailure>> {
    let failures = [LoadFailure::Gone, LoadFailure::Unreadable, LoadFailure::Malformed];
    match fields.u8()? {
        0 => {}
        failure => return failures.get(usize::from(failure) - 1).copied().map(Err),
    }
    let (parent_tgid, threads) = (fields.u32()?, fields.u32()?);
    let (start, read_at) = (BootNs(fields.u64()?), BootNs(fields.u64()?));
    let comm = Comm::new(&fields.take::<16>()?);
    let is_kernel_thread = fields.flag()?;
    let mut ranges = Vec::new();
    while !fields.0.is_empty() {
        ranges.push(read_range(fields)?);
    }
    Some(Ok(LoadedProcess { tgid, parent_tgid, start, comm, is_kernel_thread, threads, read_at, ranges }))
}

fn read_range(fields: &mut Fields<'_>) -> Option<MappedRange> {
    let (start, end) = (Avma(fields.u64()?), Avma(fields.u64()?));
    let (file_offset, inode) = (FileOffset(fields.u64()?), fields.u64()?);
    let (dev_major, dev_minor, name_bytes) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let name = std::str::from_utf8(fields.bytes(name_bytes)?).ok()?.into();
    let file = FileKey { dev_major, dev_minor, inode };
    (start < end).then_some(MappedRange { start, end, file_offset, file, name })
}

/// Asks another unwinder and writes down what it answered.
pub(crate) struct Taping<'a> {
    pub(crate) unwinder: &'a mut dyn Unwinder,
    pub(crate) tape: &'a mut Vec<u8>,
}

impl Unwinder for Taping<'_> {
    fn walk(
        &mut self,
        copy: &StackCopy,
        mappings: &Mappings,
        frames: &mut Vec<Avma>,
        limit: usize,
    ) -> Walked {
        let before = frames.len();
        let walked = self.unwinder.walk(copy, mappings, frames, limit);
        TapeEntry::Walked(walked, frames.get(before..).unwrap_or_default().to_vec()).write(self.tape);
        walked
    }
}

/// Answers what was answered when the tape was made.
#[derive(Debug, Default)]
struct Answers(VecDeque<(Walked, Vec<Avma>)>);

impl Unwinder for Answers {
    fn walk(&mut self, _: &StackCopy, _: &Mappings, frames: &mut Vec<Avma>, _: usize) -> Walked {
        let unasked =
            Walked { outcome: StackOutcome::UnknownProcess, is_provisional: false, frame_pointer_frames: 0 };
        let (walked, appended) = self.0.pop_front().unwrap_or((unasked, Vec::new()));
        frames.extend(appended);
        walked
    }
}

/// What came of a tape.
#[derive(Clone, Debug, Default)]
pub struct Played {
    /// What sampling told.
    pub events: Vec<Event>,
    /// What it would have had done.
    pub commands: Vec<Command>,
}

/// Feeds `sampling` with what is on the tape.
///
/// # Errors
/// Bytes that are no tape.
pub fn play(tape: &[u8], sampling: &mut Sampling) -> Result<Played, TapeError> {
    let entries: Vec<TapeEntry<'_>> = TapeReader::new(tape).collect::<Result<_, _>>()?;
    let mut played = Played::default();
    for (at, entry) in entries.iter().enumerate() {
        match entry {
            TapeEntry::Record(bytes) => sampling.on_record(bytes),
            TapeEntry::Sideband(bytes) => sampling.on_sideband(bytes),
            TapeEntry::Gap => sampling.sideband_gap(),
            TapeEntry::Read(tgid, answer) => sampling.process_loaded(*tgid, answer.clone()),
            // What it asks for was answered when the tape was made.
            TapeEntry::Advance(until, clock) => drop(sampling.advance(*until, *clock)),
            TapeEntry::Commands => played.commands.extend(sampling.take_commands()),
            TapeEntry::Copies(now) => sampling.finish_copies(&mut answers_behind(&entries[at + 1..]), *now),
            TapeEntry::Walked(..) => {}
            TapeEntry::Events(until) => played.events.extend(sampling.take_events(*until)),
            TapeEntry::End => played.events.extend(sampling.finish()),
            TapeEntry::EndsLost => sampling.off_cpu_ends_lost(),
        }
    }
    Ok(played)
}

fn answers_behind(entries: &[TapeEntry<'_>]) -> Answers {
    let answers = entries.iter().map_while(|entry| match entry {
        TapeEntry::Walked(walked, frames) => Some((*walked, frames.clone())),
        _ => None,
    });
    Answers(answers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sideband::tests::range;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    fn entries() -> Vec<TapeEntry<'static>> {
        let walked =
            Walked { outcome: StackOutcome::ChainEnd, is_provisional: true, frame_pointer_frames: 3 };
        let loaded = LoadedProcess {
            tgid: 7,
            parent_tgid: 1,
            start: BootNs(5),
            comm: Comm::new(b"fifteen bytes!!"),
            is_kernel_thread: false,
            threads: 2,
            read_at: BootNs(6),
            ranges: vec![range(0x1000, 0x2000, 9, "/usr/bin/a b"), range(0x3000, 0x4000, 0, "")],
        };
        vec![
            TapeEntry::Record(b"record"),
            TapeEntry::Sideband(b""),
            TapeEntry::Gap,
            TapeEntry::Read(7, Ok(loaded)),
            TapeEntry::Read(8, Err(LoadFailure::Gone)),
            TapeEntry::Read(8, Err(LoadFailure::Unreadable)),
            TapeEntry::Read(8, Err(LoadFailure::Malformed)),
            TapeEntry::Advance(BootNs(10), WallClock { boot_at_unix_ns: -3 }),
            TapeEntry::Commands,
            TapeEntry::Copies(BootNs(11)),
            TapeEntry::Walked(walked, vec![Avma(1), Avma(2)]),
            TapeEntry::Walked(walked, Vec::new()),
            TapeEntry::Events(BootNs(12)),
            TapeEntry::EndsLost,
            TapeEntry::End,
        ]
    }

    fn tape_of(entries: &[TapeEntry<'_>]) -> Vec<u8> {
        let mut tape = Vec::new();
        for entry in entries {
            entry.write(&mut tape);
        }
        tape
    }

    #[test]
    fn every_entry_survives() {
        let tape = tape_of(&entries());
        assert_eq!(TapeReader::new(&tape).collect::<Result<Vec<_>, _>>(), Ok(entries()));
    }

    #[test]
    fn what_is_no_tape_is_refused_where_it_begins_to_be_none() {
        let errors = |tape: &[u8]| TapeReader::new(tape).filter_map(Result::err).collect::<Vec<_>>();
        let gap = tape_of(&[TapeEntry::Gap]);
        let last = gap.len();
        let behind_gap = |bytes: &[u8]| errors(&[&gap, bytes].concat());
        assert_eq!(behind_gap(&[10, 0, 0]), [TapeError::Short { at: last }]);
        assert_eq!(behind_gap(&[1, 9, 0, 0, 0, 1]), [TapeError::Short { at: last }]);
        assert_eq!(behind_gap(&[99, 0, 0, 0, 0]), [TapeError::Entry { at: last }]);
        assert_eq!(behind_gap(&[6, 1, 0, 0, 0, 1]), [TapeError::Entry { at: last }], "too long");
        assert_eq!(behind_gap(&[9, 1, 0, 0, 0, 1]), [TapeError::Entry { at: last }], "too short");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut tape in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..500, byte: u8) {
            let mut mutated = tape_of(&entries());
            let at = at % mutated.len();
            mutated[at] = byte;
            tape.extend(&mutated);
            for tape in [&tape, &mutated] {
                let mut sampling = Sampling::new(crate::Filter::default(), crate::Limits::default());
                let is_tape = TapeReader::new(tape).all(|entry| entry.is_ok());
                prop_assert_eq!(play(tape, &mut sampling).is_ok(), is_tape);
            }
            prop_assert!(TapeReader::new(&mutated[..at]).count() <= entries().len());
        }
    }
}
