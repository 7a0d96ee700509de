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
    pub(crate) fn uint(self) -> Result<u64, WireError> {
        match self.content {
            Content::Varint(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    pub(crate) fn int(self) -> Result<i64, WireError> {
        self.uint().map(|value| value as i64)
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self.content {
            Content::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_type()),
        }
    }

    pub(crate) fn message(self) -> Result<Reader<'a>, WireError> {
        self.bytes().map(Reader::new)
    }

    /// Numbers of a repeated field, packed or not.
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
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let header = self.varint()?;
        let number = u32::try_from(header >> 3).ok().ok_or(WireError::Invalid)?;
        let content = match (number, header as u8 & 7) {
            (0, _) => return Err(WireError::Invalid),
            (_, 0) => Content::Varint(self.varint()?),
            (_, 1) => self.take(8).map(|_| Content::Fixed(1))?,
            (_, 2) => {
                let len = usize::try_from(self.varint()?).ok().ok_or(WireError::Truncated)?;
                Content::Bytes(self.take(len)?)
            }
            (_, 5) => self.take(4).map(|_| Content::Fixed(5))?,
            _ => return Err(WireError::Invalid),
        };
        Ok(Some(Field { number, content }))
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for (i, &byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { WireError::Truncated } else { WireError::Invalid })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}
