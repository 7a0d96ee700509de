//! Variable-length integers as Protocol Buffers writes them: seven bits a byte, low bits first, signed ones zigzag.
//!
//! The WAL and the rows of the head are made of these.

/// The bytes end early or a number is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    put_u64(out, u64::from(value));
}

pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    put_u64(out, len as u64);
}

pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(crate) fn put_str(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Reads what the functions above wrote.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.u64()?.try_into().or(Err(Malformed))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        let raw = self.u64()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A count of things that take at least a byte each, so that a bad count cannot ask for memory.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.u64()?;
        if count <= self.rest.len() as u64 { Ok(count as usize) } else { Err(Malformed) }
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, Malformed> {
        let len = self.count()?;
        let (text, rest) = self.rest.split_at(len);
        self.rest = rest;
        std::str::from_utf8(text).or(Err(Malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_come_back() {
        let mut out = Vec::new();
        for value in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            put_i64(&mut out, value);
        }
        put_u64(&mut out, u64::MAX);
        put_str(&mut out, "é");
        let mut cursor = Cursor::new(&out);
        for value in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            assert_eq!(cursor.i64(), Ok(value));
        }
        assert_eq!(cursor.u64(), Ok(u64::MAX));
        assert_eq!(cursor.str(), Ok("é"));
        assert!(cursor.is_empty());
    }

    #[test]
    fn short_or_absurd_input_is_malformed() {
        assert_eq!(Cursor::new(&[]).u64(), Err(Malformed));
        assert_eq!(Cursor::new(&[0x80]).u64(), Err(Malformed));
        assert_eq!(Cursor::new(&[0xff; 11]).u64(), Err(Malformed));
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x7f]).u32(), Err(Malformed));
        assert_eq!(Cursor::new(&[5, b'a']).str(), Err(Malformed));
        assert_eq!(Cursor::new(&[1, 0xff]).str(), Err(Malformed));
    }
}
