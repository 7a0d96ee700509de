//! The words of a selector: names, operators and quoted strings, each with its position.

use crate::selector::{MatchOp, SelectorError};

/// A place in a selector's text. Every reader skips white space first and moves only when it finds its word.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, position: 0 }
    }

    /// Byte offset of what comes next.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn skip_space(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_start().len();
    }

    pub(crate) fn at_end(&mut self) -> bool {
        self.skip_space();
        self.rest().is_empty()
    }

    /// Takes `wanted` if it is next.
    pub(crate) fn take(&mut self, wanted: char) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(wanted);
        if found {
            self.position += wanted.len_utf8();
        }
        found
    }

    pub(crate) fn expect(&mut self, wanted: char, expected: &'static str) -> Result<(), SelectorError> {
        if self.take(wanted) { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    /// A label name outside quotes.
    pub(crate) fn identifier(&mut self) -> Option<&'a str> {
        self.word(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    /// A metric name, which may also hold colons.
    pub(crate) fn metric_name(&mut self) -> Option<&'a str> {
        self.word(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> Option<&'a str> {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        if word.is_empty() || word.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        self.position += end;
        Some(word)
    }

    pub(crate) fn operator(&mut self) -> Option<MatchOp> {
        self.skip_space();
        // Longest first: "=" begins "=~".
        let all = [MatchOp::Regex, MatchOp::NotRegex, MatchOp::NotEqual, MatchOp::Equal];
        let op = all.into_iter().find(|op| self.rest().starts_with(op.as_str()))?;
        self.position += op.as_str().len();
        Some(op)
    }

    /// A string in quotes, its escapes resolved; `None` where no quote is next.
    pub(crate) fn quoted(&mut self) -> Result<Option<String>, SelectorError> {
        self.skip_space();
        let start = self.position;
        let Some(quote @ ('"' | '\'' | '`')) = self.rest().chars().next() else { return Ok(None) };
        self.position += 1;
        let mut bytes = Vec::new();
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(SelectorError::Unterminated { position: start, quote });
            };
            match c {
                c if c == quote => break,
                '\\' if quote != '`' => self.escape(quote, &mut bytes)?,
                c => {
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    self.position += c.len_utf8();
                }
            }
        }
        self.position += 1;
        let not_utf8 = |_| SelectorError::NotUtf8 { position: start };
        String::from_utf8(bytes).map(Some).map_err(not_utf8)
    }

    /// One escape sequence; the next byte is its backslash.
    fn escape(&mut self, quote: char, out: &mut Vec<u8>) -> Result<(), SelectorError> {
        let bad = SelectorError::BadEscape { position: self.position };
        let escape = &self.rest()[1..];
        let Some(kind) = escape.chars().next() else { return Err(bad) };
        let simple = match kind {
            'a' => Some(0x07),
            'b' => Some(0x08),
            'f' => Some(0x0c),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(0x0b),
            '\\' => Some(b'\\'),
            c if c == quote => Some(quote as u8),
            _ => None,
        };
        if let Some(byte) = simple {
            out.push(byte);
            self.position += 2;
            return Ok(());
        }
        let (skip, len, radix) = match kind {
            'x' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='7' => (0, 3, 8),
            _ => return Err(bad),
        };
        let digits = escape.get(skip..skip + len).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(code) = digits.and_then(|d| u32::from_str_radix(d, radix).ok()) else { return Err(bad) };
        match (kind, u8::try_from(code), char::from_u32(code)) {
            ('u' | 'U', _, Some(c)) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            ('x' | '0'..='7', Ok(byte), _) => out.push(byte),
            _ => return Err(bad),
        }
        self.position += 1 + skip + len;
        Ok(())
    }

    /// The error for finding something else than `expected` here.
    pub(crate) fn unexpected(&mut self, expected: &'static str) -> SelectorError {
        self.skip_space();
        let found = match self.rest().chars().next() {
            Some(c) => format!("{:?}", c.to_string()),
            None => "the end".to_owned(),
        };
        SelectorError::Unexpected { position: self.position, expected, found }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.position..]
    }
}
