//! The rows of one batch as bytes: what the WAL logs and what the head keeps.
//!
//! ```text
//! block := { series uvarint, count uvarint, row × count } …
//! row   := time − time of the row before (zigzag, ms; the first from 0), stack uvarint, value zigzag
//! ```
//!
//! About nine bytes a row where a struct takes 24; queries decode what they need on the way.

use std::sync::Arc;

use pyrite_model::{TimeRange, UnixMs};

use crate::varint::{Cursor, Malformed, put_i64, put_len, put_u32};

/// One stored value. Ids are those of the head or segment that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredRow {
    pub(crate) series: u32,
    pub(crate) time: UnixMs,
    pub(crate) stack: u32,
    pub(crate) value: i64,
}

/// Rows of one series, column by column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) series: u32,
    /// In ms; empty where nobody asked for them.
    pub(crate) times: &'a [i64],
    /// Likewise.
    pub(crate) stacks: &'a [u32],
    pub(crate) values: &'a [i64],
}

/// Encoded rows and the window they lie in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RowBlock {
    bytes: Arc<[u8]>,
    rows: usize,
    range: TimeRange,
}

/// The largest ids that rows may refer to, exclusive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdBounds {
    pub(crate) series: usize,
    pub(crate) stacks: usize,
}

/// Writes rows one run of a series after the other.
#[derive(Debug, Default)]
pub(crate) struct BlockEncoder {
    bytes: Vec<u8>,
    rows: usize,
    range: Option<TimeRange>,
}

impl BlockEncoder {
    /// Adds rows of one series as (time, stack, value).
    pub(crate) fn run(&mut self, series: u32, rows: impl ExactSizeIterator<Item = (UnixMs, u32, i64)>) {
        if rows.len() == 0 {
            return;
        }
        put_u32(&mut self.bytes, series);
        put_len(&mut self.bytes, rows.len());
        self.rows += rows.len();
        let mut last = 0_i64;
        for (time, stack, value) in rows {
            put_i64(&mut self.bytes, time.0.wrapping_sub(last));
            put_u32(&mut self.bytes, stack);
            put_i64(&mut self.bytes, value);
            last = time.0;
            self.range = Some(widen(self.range, time));
        }
    }

    /// The block; `None` without rows.
    pub(crate) fn finish(self) -> Option<RowBlock> {
        let Self { bytes, rows, range } = self;
        Some(RowBlock { bytes: bytes.into(), rows, range: range? })
    }
}

impl RowBlock {
    /// Takes bytes from a log after checking that they decode and that their ids exist.
    pub(crate) fn decode(bytes: &[u8], bounds: IdBounds) -> Result<Option<Self>, Malformed> {
        let (mut rows, mut range) = (0, None);
        for row in RowIter::new(bytes) {
            let row = row?;
            if row.series as usize >= bounds.series || row.stack as usize >= bounds.stacks {
                return Err(Malformed);
            }
            rows += 1;
            range = Some(widen(range, row.time));
        }
        Ok(range.map(|range| Self { bytes: bytes.into(), rows, range }))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    pub(crate) fn range(&self) -> TimeRange {
        self.range
    }

    /// The rows in the order they were encoded.
    pub(crate) fn iter(&self) -> impl Iterator<Item = StoredRow> + '_ {
        RowIter::new(&self.bytes).map(|row| row.expect("blocks are encoded here or checked when decoded"))
    }
}

/// The window that includes `time` too.
pub(crate) fn widen(range: Option<TimeRange>, time: UnixMs) -> TimeRange {
    range.map_or(TimeRange::new(time, time), |r| TimeRange::new(r.start.min(time), r.end.max(time)))
}

struct RowIter<'a> {
    cursor: Cursor<'a>,
    series: u32,
    left: usize,
    last: i64,
}

impl<'a> RowIter<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(bytes), series: 0, left: 0, last: 0 }
    }

    fn row(&mut self) -> Result<StoredRow, Malformed> {
        while self.left == 0 {
            self.series = self.cursor.u32()?;
            self.left = self.cursor.count()?;
            self.last = 0;
        }
        self.left -= 1;
        self.last = self.last.wrapping_add(self.cursor.i64()?);
        let (stack, value) = (self.cursor.u32()?, self.cursor.i64()?);
        Ok(StoredRow { series: self.series, time: UnixMs(self.last), stack, value })
    }
}

impl Iterator for RowIter<'_> {
    type Item = Result<StoredRow, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 && self.cursor.is_empty() {
            return None;
        }
        let row = self.row();
        if row.is_err() {
            *self = RowIter::new(&[]);
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_row() -> impl Strategy<Value = StoredRow> {
        (0..3_u32, any::<i64>(), 0..9_u32, any::<i64>()).prop_map(|(series, time, stack, value)| StoredRow {
            series,
            time: UnixMs(time),
            stack,
            value,
        })
    }

    fn encode(rows: &[StoredRow]) -> RowBlock {
        let mut encoder = BlockEncoder::default();
        for row in rows {
            encoder.run(row.series, [(row.time, row.stack, row.value)].into_iter());
        }
        encoder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn rows_come_back(rows in prop::collection::vec(any_row(), 1..50)) {
            let block = encode(&rows);
            let bounds = IdBounds { series: 3, stacks: 9 };
            let again = RowBlock::decode(block.bytes(), bounds).unwrap().unwrap();
            prop_assert_eq!(again.iter().collect::<Vec<_>>(), rows.clone());
            prop_assert_eq!(again.range(), block.range());
            prop_assert_eq!(again.len(), rows.len());
        }

        #[test]
        fn any_bytes_decode_or_are_malformed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = RowBlock::decode(&bytes, IdBounds { series: 100, stacks: 100 });
        }
    }

    #[test]
    fn ids_past_the_end_are_malformed() {
        let row = StoredRow { series: 1, time: UnixMs(5), stack: 4, value: 1 };
        let block = encode(&[row]);
        assert!(RowBlock::decode(block.bytes(), IdBounds { series: 2, stacks: 5 }).is_ok());
        assert!(RowBlock::decode(block.bytes(), IdBounds { series: 1, stacks: 5 }).is_err());
        assert!(RowBlock::decode(block.bytes(), IdBounds { series: 2, stacks: 4 }).is_err());
        assert!(RowBlock::decode(&block.bytes()[..2], IdBounds { series: 2, stacks: 5 }).is_err());
    }
}
