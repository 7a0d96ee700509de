//! Protobuf's wire format, read field by field without copying.

/// Why bytes are not a Protobuf message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end within a field.
    #[error("message ends within a field")]
    Truncated,
    /// A varint of more than 64 bits, a field number 0 or a wire type that proto3 lacks.
    #[error("field with an invalid header or number")]
    Invalid,
    /// A known field in a form that its type cannot have.
    #[error("field {field} has wire type {wire_type}")]
    WrongType {
        /// The field's number.
        field: u32,
        /// The wire type found.
        wire_type: u8,
    },
}

/// What can be wrong before it is known which field it is. It is so small that what was read travels in registers: beside an
/// error with numbers in it the compiler kept fields in memory, and each cost a store that its load had to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    Truncated,
    Invalid,
}

impl From<Broken> for WireError {
    #[cold]
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Truncated => Self::Truncated,
            Broken::Invalid => Self::Invalid,
        }
    }
}

/// Set in every byte of a varint but its last.
const MORE: u8 = 0x80;

/// A field's content as the wire has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content<'a> {
    Varint(u64),
    Fixed(u8),
    Bytes(&'a [u8]),
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    content: Content<'a>,
}

impl<'a> Field<'a> {
    #[inline]
    pub(crate) fn uint(self) -> Result<u64, WireError> {
        match self.content {
            Content::Varint(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn int(self) -> Result<i64, WireError> {
        self.uint().map(|value| value as i64)
    }

    #[inline]
    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self.content {
            Content::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_type()),
        }
    }

    #[inline]
    pub(crate) fn message(self) -> Result<Reader<'a>, WireError> {
        self.bytes().map(Reader::new)
    }

    /// No more numbers of a repeated field than this are in it.
    pub(crate) fn max_uints(self) -> usize {
        match self.content {
            Content::Bytes(bytes) => bytes.len(),
            _ => 1,
        }
    }

    /// So many are in it: each ends with a byte below 0x80.
    pub(crate) fn count_uints(self) -> usize {
        match self.content {
            Content::Bytes(bytes) => bytes.iter().filter(|byte| **byte < MORE).count(),
            _ => 1,
        }
    }

    /// Numbers of a repeated field, packed or not.
    #[inline]
    pub(crate) fn each_uint(self, mut push: impl FnMut(u64)) -> Result<(), WireError> {
        match self.content {
            Content::Varint(value) => push(value),
            Content::Bytes(bytes) => {
                let mut packed = Reader::new(bytes);
                while !packed.rest.is_empty() {
                    push(packed.varint()?);
                }
            }
            Content::Fixed(_) => return Err(self.wrong_type()),
        }
        Ok(())
    }

    fn wrong_type(self) -> WireError {
        let wire_type = match self.content {
            Content::Varint(_) => 0,
            Content::Fixed(wire_type) => wire_type,
            Content::Bytes(_) => 2,
        };
        WireError::WrongType { field: self.number, wire_type }
    }
}

/// What is left to read of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field; `None` at the end.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "where it is read, most of what a field can be is known not to matter"
    )]
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, Broken> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let header = self.varint()?;
        let number = u32::try_from(header >> 3).ok().ok_or(Broken::Invalid)?;
        let content = match (number, header as u8 & 7) {
            (0, _) => return Err(Broken::Invalid),
            (_, 0) => Content::Varint(self.varint()?),
            (_, 1) => self.take(8).map(|_| Content::Fixed(1))?,
            (_, 2) => {
                let len = usize::try_from(self.varint()?).ok().ok_or(Broken::Truncated)?;
                Content::Bytes(self.take(len)?)
            }
            (_, 5) => self.take(4).map(|_| Content::Fixed(5))?,
            _ => return Err(Broken::Invalid),
        };
        Ok(Some(Field { number, content }))
    }

    /// A number of up to ten bytes. Nearly all ids and indexes take one or two.
    #[inline]
    fn varint(&mut self) -> Result<u64, Broken> {
        let (value, rest) = match self.rest {
            [low, rest @ ..] if *low < MORE => (u64::from(*low), rest),
            [low, high, rest @ ..] if *high < MORE => (u64::from(low & !MORE) | u64::from(*high) << 7, rest),
            _ => return self.long_varint(),
        };
        self.rest = rest;
        Ok(value)
    }

    fn long_varint(&mut self) -> Result<u64, Broken> {
        if let Some(bytes) = self.rest.first_chunk() {
            let word = u64::from_le_bytes(*bytes);
            let ends = !word & 0x8080_8080_8080_8080;
            if ends != 0 {
                self.rest = &self.rest[ends.trailing_zeros() as usize / 8 + 1..];
                // All bits up to the first one set in `ends`.
                return Ok(joined(word & (ends ^ (ends - 1))));
            }
        }
        let mut value = 0;
        for (i, &byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & !MORE) << (7 * i);
            if byte < MORE {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { Broken::Truncated } else { Broken::Invalid })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Broken::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// The low seven bits of each byte, pushed together: by pairs of bytes, then of those, then of the halves.
fn joined(bytes: u64) -> u64 {
    let pairs = (bytes & 0x007f_007f_007f_007f) | (bytes & 0x7f00_7f00_7f00_7f00) >> 1;
    let quads = (pairs & 0x0000_3fff_0000_3fff) | (pairs & 0x3fff_0000_3fff_0000) >> 2;
    (quads & 0x0fff_ffff) | (quads & 0x0fff_ffff_0000_0000) >> 4
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding::encode_varint;

    use super::*;

    /// The numbers of one packed field, read from bytes that end where it ends.
    fn read_packed(bytes: &[u8]) -> Result<Vec<u64>, WireError> {
        let mut found = Vec::new();
        let field = Field { number: 1, content: Content::Bytes(bytes) };
        field.each_uint(|value| found.push(value))?;
        assert_eq!(field.count_uints(), found.len());
        assert!(field.max_uints() >= found.len());
        Ok(found)
    }

    proptest! {
        #[test]
        fn numbers_of_every_length_are_read(
            numbers in prop::collection::vec((any::<u64>(), 0..64_u32, 0..10_usize), 0..20),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (number, shift, padding) in numbers {
                let mut own = Vec::new();
                encode_varint(number >> shift, &mut own);
                // A varint may be longer than it needs to be.
                for _ in 0..padding.min(10 - own.len()) {
                    *own.last_mut().unwrap() |= MORE;
                    own.push(0);
                }
                bytes.extend(own);
                expected.push(number >> shift);
            }
            prop_assert_eq!(read_packed(&bytes), Ok(expected));
        }

        #[test]
        fn a_number_that_does_not_end_is_an_error(number: u64, ones in 1..20_usize) {
            let mut bytes = Vec::new();
            encode_varint(number, &mut bytes);
            bytes.extend(vec![0xff; ones]);
            let error = if ones < 10 { WireError::Truncated } else { WireError::Invalid };
            prop_assert_eq!(read_packed(&bytes), Err(error));
        }
    }
}
