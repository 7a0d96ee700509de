//! The stream of captured stacks, read and written. Layout: `bench/judge/case.h`.

use std::io::{self, Read};

/// Registers by DWARF number; `x86_64` has 16 of them.
const REGISTERS: usize = 32;
const MAPPINGS: u32 = 1;
const STACK: u32 = 2;
const LOST: u32 = 3;
const SET_BYTES: usize = 16;
const STACK_HEAD_BYTES: usize = 40 + 8 * REGISTERS + 16;
/// Far above the largest perf record.
const MAX_MESSAGE_BYTES: u32 = 1 << 26;

/// The executable mappings of a process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingSet {
    /// Counted from 1.
    pub id: u64,
    /// Whose.
    pub tgid: u32,
    /// Lines of `/proc/PID/maps`, newest mapping first.
    pub maps: String,
}

/// A thread's registers and stack at a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedStack {
    /// Counted from 1.
    pub id: u64,
    /// The mappings of the moment.
    pub mapping_set: u64,
    /// When, on `CLOCK_BOOTTIME`.
    pub time_boot_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// Where it ran.
    pub cpu: u32,
    /// 1 for `x86_64`, 2 for aarch64.
    pub architecture: u32,
    /// By DWARF number.
    pub registers: [u64; REGISTERS],
    /// Address of the interrupted instruction.
    pub ip: u64,
    /// The stack's bytes, from the stack pointer on.
    pub stack: Vec<u8>,
}

/// One message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Comes before the first stack that names it.
    Mappings(MappingSet),
    /// A case.
    Stack(Box<CapturedStack>),
    /// Comes last: how many records met a full ring.
    Lost(u64),
}

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The stream's source failed, or ended within a message.
    #[error("the stream of cases cannot be read")]
    Read {
        /// What happened.
        #[from]
        source: io::Error,
    },
    /// The bytes are none of `case.h`.
    #[error("message of kind {kind} and {bytes} bytes does not follow case.h")]
    Malformed {
        /// Kind of the message.
        kind: u32,
        /// Its length.
        bytes: u32,
    },
}

/// Reads messages until the stream ends.
#[derive(Debug)]
pub struct Cases<R>(R);

impl<R: Read> Cases<R> {
    /// Reads `stream` from its start.
    pub fn new(stream: R) -> Self {
        Self(stream)
    }

    fn read(&mut self) -> Result<Option<Message>, CaseError> {
        let mut head = [0; 8];
        match self.0.read(&mut head[..1])? {
            0 => return Ok(None),
            _ => self.0.read_exact(&mut head[1..])?,
        }
        let (kind, bytes) = (u32_at(&head, 0), u32_at(&head, 4));
        let malformed = CaseError::Malformed { kind, bytes };
        if bytes > MAX_MESSAGE_BYTES {
            return Err(malformed);
        }
        let mut body = vec![0; bytes as usize];
        self.0.read_exact(&mut body)?;
        let message = match kind {
            MAPPINGS => decode_set(&body).map(Message::Mappings),
            STACK => decode_stack(&body).map(|stack| Message::Stack(Box::new(stack))),
            LOST => body.first_chunk().map(|count| Message::Lost(u64::from_ne_bytes(*count))),
            _ => None,
        };
        message.map(Some).ok_or(malformed)
    }
}

impl<R: Read> Iterator for Cases<R> {
    type Item = Result<Message, CaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

impl MappingSet {
    /// The bytes of its message.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(SET_BYTES + self.maps.len() + 8);
        body.extend(self.id.to_ne_bytes());
        body.extend(self.tgid.to_ne_bytes());
        body.extend((self.maps.len() as u32).to_ne_bytes());
        body.extend(self.maps.as_bytes());
        message(MAPPINGS, body)
    }
}

impl CapturedStack {
    /// The bytes of its message.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(STACK_HEAD_BYTES + self.stack.len() + 8);
        for word in [self.id, self.mapping_set, self.time_boot_ns] {
            body.extend(word.to_ne_bytes());
        }
        for half in [self.tgid, self.tid, self.cpu, self.architecture] {
            body.extend(half.to_ne_bytes());
        }
        for word in self.registers.iter().chain([&self.ip, &(self.stack.len() as u64)]) {
            body.extend(word.to_ne_bytes());
        }
        body.extend(&self.stack);
        message(STACK, body)
    }
}

fn message(kind: u32, mut body: Vec<u8>) -> Vec<u8> {
    body.resize(body.len().next_multiple_of(8), 0);
    let mut bytes = Vec::with_capacity(8 + body.len());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((body.len() as u32).to_ne_bytes());
    bytes.extend(body);
    bytes
}

fn decode_set(body: &[u8]) -> Option<MappingSet> {
    let (head, text) = body.split_at_checked(SET_BYTES)?;
    let text = text.get(..u32_at(head, 12) as usize)?;
    let maps = String::from_utf8_lossy(text).into_owned();
    Some(MappingSet { id: u64_at(head, 0), tgid: u32_at(head, 8), maps })
}

fn decode_stack(body: &[u8]) -> Option<CapturedStack> {
    let (head, stack) = body.split_at_checked(STACK_HEAD_BYTES)?;
    let mut registers = [0; REGISTERS];
    for (number, register) in registers.iter_mut().enumerate() {
        *register = u64_at(head, 40 + 8 * number);
    }
    let stack_bytes = usize::try_from(u64_at(head, STACK_HEAD_BYTES - 8)).ok()?;
    Some(CapturedStack {
        id: u64_at(head, 0),
        mapping_set: u64_at(head, 8),
        time_boot_ns: u64_at(head, 16),
        tgid: u32_at(head, 24),
        tid: u32_at(head, 28),
        cpu: u32_at(head, 32),
        architecture: u32_at(head, 36),
        registers,
        ip: u64_at(head, STACK_HEAD_BYTES - 16),
        stack: stack.get(..stack_bytes)?.to_vec(),
    })
}

/// Callers have checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_ne_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |eight| u64::from_ne_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> CapturedStack {
        let mut registers = [0; REGISTERS];
        registers[7] = 0x7ffc_0000;
        registers[31] = 5;
        CapturedStack {
            id: 3,
            mapping_set: 2,
            time_boot_ns: 99,
            tgid: 10,
            tid: 11,
            cpu: 1,
            architecture: 1,
            registers,
            ip: 0x40_1000,
            stack: vec![1, 2, 3],
        }
    }

    #[test]
    fn messages_survive_and_are_padded_to_eight_bytes() {
        let set = MappingSet { id: 2, tgid: 10, maps: "1000-2000 r-xp 0 00:00 5 /bin/x\n".into() };
        let bytes = [set.encode(), stack().encode(), message(LOST, vec![7, 0, 0, 0, 0, 0, 0, 0])].concat();
        let messages = [Message::Mappings(set), Message::Stack(Box::new(stack())), Message::Lost(7)];
        assert_eq!(bytes.len() % 8, 0);
        let read: Result<Vec<_>, _> = Cases::new(&*bytes).collect();
        assert_eq!(read.unwrap(), messages);
    }

    #[test]
    fn what_is_cut_short_or_lies_about_its_length_is_an_error() {
        let bytes = stack().encode();
        let first = |bytes: &[u8]| Cases::new(bytes).next().unwrap();
        assert!(matches!(first(&bytes[..bytes.len() - 1]), Err(CaseError::Read { .. })));
        let mut lies = bytes.clone();
        let length_at = 8 + STACK_HEAD_BYTES - 8;
        lies[length_at] = 200;
        assert!(matches!(first(&lies), Err(CaseError::Malformed { kind: STACK, .. })));
        lies[0] = 9;
        assert!(matches!(first(&lies), Err(CaseError::Malformed { kind: 9, .. })));
    }
}
