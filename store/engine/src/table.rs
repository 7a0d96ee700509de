//! Parquet files as the store uses them: flat tables whose row groups and footer carry checksums kept outside.
//!
//! The checksums are in the segment's manifest ([`TableIndex`]), since Parquet writers leave the format's own page
//! checksums out. A row group is read with one read and checked before a byte of it is decoded.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::files::{FileLayer, ReadFile, WriteFile};

/// Room is made beforehand for so many rows of a row group; larger ones are none of ours.
const MAX_ROWS_EXPECTED: usize = 1 << 20;

/// A range of bytes of a file and what they must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) crc32c: u32,
}

/// What is needed to read a Parquet file with confidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableIndex {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) row_groups: Vec<Span>,
    pub(crate) footer: Span,
}

/// The files of one directory, by name.
pub(crate) type TableIndexes = BTreeMap<String, TableIndex>;

/// The values of one column of one row group.
pub(crate) enum Column {
    U32(Vec<u32>),
    OptionU32(Vec<Option<u32>>),
    I64(Vec<i64>),
    Text(Vec<ByteArray>),
}

impl Column {
    /// A column of text.
    pub(crate) fn text<T: AsRef<[u8]>>(texts: impl Iterator<Item = T>) -> Self {
        Self::Text(texts.map(|text| ByteArray::from(text.as_ref().to_vec())).collect())
    }

    fn len(&self) -> usize {
        match self {
            Self::U32(values) => values.len(),
            Self::OptionU32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }
}

/// Where the Parquet writer's bytes go: to the file, hashed on the way.
struct HashingSink {
    file: Box<dyn WriteFile>,
    offset: u64,
    cut_at: u64,
    crc: u32,
}

impl HashingSink {
    /// The bytes since the last cut.
    fn cut(&mut self) -> Span {
        let span = Span { offset: self.cut_at, bytes: self.offset - self.cut_at, crc32c: self.crc };
        (self.cut_at, self.crc) = (self.offset, 0);
        span
    }
}

impl Write for HashingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.append(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one Parquet file.
pub(crate) struct TableWriter {
    path: PathBuf,
    inner: SerializedFileWriter<HashingSink>,
    row_groups: Vec<Span>,
    rows: u64,
}

impl TableWriter {
    /// Starts a file with the given schema, in Parquet's message syntax.
    pub(crate) fn create(
        files: &dyn FileLayer,
        path: PathBuf,
        schema: &str,
        properties: WriterPropertiesPtr,
    ) -> Result<Self, StoreError> {
        let file = files.create(&path).map_err(StoreError::io("create", &path))?;
        let sink = HashingSink { file, offset: 0, cut_at: 0, crc: 0 };
        let schema = parse_message_type(schema).map(Arc::new);
        let inner = schema.and_then(|schema| SerializedFileWriter::new(sink, schema, properties));
        // The file's magic is nobody's: a table without row groups must not find it in front of its footer.
        let inner = inner.and_then(|mut inner| {
            inner.flush()?;
            inner.inner_mut().cut();
            Ok(inner)
        });
        match inner {
            Ok(inner) => Ok(Self { path, inner, row_groups: Vec::new(), rows: 0 }),
            Err(source) => Err(StoreError::Parquet { path, source }),
        }
    }

    /// Writes one row group; columns in schema order, all of the same length.
    pub(crate) fn write(&mut self, columns: &[Column]) -> Result<(), StoreError> {
        self.write_row_group(columns)
            .map_err(|source| StoreError::Parquet { path: self.path.clone(), source })?;
        self.rows += columns.first().map_or(0, Column::len) as u64;
        Ok(())
    }

    fn write_row_group(&mut self, columns: &[Column]) -> ParquetResult<()> {
        let mut group = self.inner.next_row_group()?;
        for column in columns {
            write_column(&mut group, column)?;
        }
        group.close()?;
        // The Parquet writer keeps a buffer of its own in front of the sink.
        self.inner.flush()?;
        let span = self.inner.inner_mut().cut();
        self.row_groups.push(span);
        Ok(())
    }

    /// Writes the footer and syncs the file.
    pub(crate) fn finish(self) -> Result<TableIndex, StoreError> {
        let Self { path, inner, row_groups, rows } = self;
        let mut sink = match inner.into_inner() {
            Ok(sink) => sink,
            Err(source) => return Err(StoreError::Parquet { path, source }),
        };
        let footer = sink.cut();
        sink.file.sync().map_err(StoreError::io("sync", &path))?;
        Ok(TableIndex { rows, bytes: sink.offset, row_groups, footer })
    }
}

fn write_column<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    column: &Column,
) -> ParquetResult<()> {
    let Some(mut writer) = group.next_column()? else {
        return Err(ParquetError::General("more columns than the schema has".into()));
    };
    match column {
        Column::U32(values) => {
            let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
            writer.typed::<Int32Type>().write_batch(&values, None, None)?;
        }
        Column::OptionU32(values) => {
            let levels: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
            let values: Vec<i32> = values.iter().flatten().map(|&v| v as i32).collect();
            writer.typed::<Int32Type>().write_batch(&values, Some(&levels), None)?;
        }
        Column::I64(values) => {
            writer.typed::<Int64Type>().write_batch(values, None, None)?;
        }
        Column::Text(values) => {
            writer.typed::<ByteArrayType>().write_batch(values, None, None)?;
        }
    }
    writer.close()
}

/// Bytes of a file from `start` on, as the Parquet reader wants to see them.
struct Window {
    start: u64,
    bytes: Bytes,
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Window {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let at = start.checked_sub(self.start).map_or(usize::MAX, |at| at as usize);
        if at > self.bytes.len() {
            return Err(ParquetError::EOF("outside its row group".into()));
        }
        Ok(bytes::Buf::reader(self.bytes.slice(at..)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let at = start.checked_sub(self.start).map_or(usize::MAX, |at| at as usize);
        match at.checked_add(length) {
            Some(end) if end <= self.bytes.len() => Ok(self.bytes.slice(at..end)),
            _ => Err(ParquetError::EOF("outside its row group".into())),
        }
    }
}

/// What a row of four numbers takes in memory: two of 32 bits and two of 64.
const DECODED_ROW_BYTES: usize = 24;

/// An open Parquet file.
pub(crate) struct TableReader {
    path: PathBuf,
    file: Box<dyn ReadFile>,
    index: TableIndex,
    metadata: ParquetMetaData,
}

impl TableReader {
    /// Opens a file, checks and decodes its footer.
    pub(crate) fn open(files: &dyn FileLayer, path: PathBuf, index: TableIndex) -> Result<Self, StoreError> {
        const TRAILER: usize = 8;
        let file = files.open_read(&path).map_err(StoreError::io("open", &path))?;
        let footer = read_span(file.as_ref(), &path, index.footer)?;
        let body = footer.len().checked_sub(TRAILER).map(|end| &footer[..end]);
        let body = body.ok_or_else(|| StoreError::corrupt(&path, "the footer is too short"))?;
        let metadata = match ParquetMetaDataReader::decode_metadata(body) {
            Ok(metadata) => metadata,
            Err(source) => return Err(StoreError::Parquet { path, source }),
        };
        if metadata.num_row_groups() != index.row_groups.len() {
            return Err(StoreError::corrupt(&path, "the manifest lists another number of row groups"));
        }
        Ok(Self { path, file, index, metadata })
    }

    pub(crate) fn row_group_count(&self) -> usize {
        self.index.row_groups.len()
    }

    /// How many rows a row group has.
    pub(crate) fn rows_of(&self, i: usize) -> usize {
        self.metadata.row_group(i).num_rows() as usize
    }

    /// Memory that a row group takes with its columns decoded.
    pub(crate) fn bytes_of(&self, i: usize) -> usize {
        self.index.row_groups[i].bytes as usize + self.rows_of(i).saturating_mul(DECODED_ROW_BYTES)
    }

    /// The error for a file that contradicts the others of its directory.
    pub(crate) fn corrupt(&self, what: &'static str) -> StoreError {
        StoreError::corrupt(&self.path, what)
    }

    /// Reads and checks one row group.
    pub(crate) fn row_group(&self, i: usize) -> Result<RowGroup<'_>, StoreError> {
        let span = self.index.row_groups[i];
        let bytes = read_span(self.file.as_ref(), &self.path, span)?.into();
        let window = Arc::new(Window { start: span.offset, bytes });
        Ok(RowGroup { path: &self.path, window, metadata: self.metadata.row_group(i) })
    }
}

fn read_span(file: &dyn ReadFile, path: &Path, span: Span) -> Result<Vec<u8>, StoreError> {
    // Before memory is taken for it: a damaged length is not a reason to ask for terabytes.
    let len = file.len().map_err(StoreError::io("read", path))?;
    if span.offset.checked_add(span.bytes).is_none_or(|end| end > len) {
        return Err(StoreError::corrupt(path, "the file is shorter than its manifest says"));
    }
    let bytes = file.read_at(span.offset, span.bytes as usize).map_err(StoreError::io("read", path))?;
    if crc32c::crc32c(&bytes) != span.crc32c {
        return Err(StoreError::corrupt(path, "a checksum does not match"));
    }
    Ok(bytes)
}

/// A row group in memory, still encoded.
pub(crate) struct RowGroup<'a> {
    path: &'a Path,
    window: Arc<Window>,
    metadata: &'a RowGroupMetaData,
}

impl RowGroup<'_> {
    pub(crate) fn rows(&self) -> usize {
        self.metadata.num_rows() as usize
    }

    /// A column of 32-bit integers.
    pub(crate) fn u32s(&self, column: usize) -> Result<Vec<u32>, StoreError> {
        self.u32s_in(column, std::slice::from_ref(&(0..self.rows())))
    }

    /// A column of 64-bit integers.
    pub(crate) fn i64s(&self, column: usize) -> Result<Vec<i64>, StoreError> {
        self.i64s_in(column, std::slice::from_ref(&(0..self.rows())))
    }

    /// A column of 32-bit integers, of the given rows only; ranges ascend and do not overlap.
    pub(crate) fn u32s_in(&self, column: usize, ranges: &[Range<usize>]) -> Result<Vec<u32>, StoreError> {
        let values = self.read::<Int32Type>(column, ranges)?;
        Ok(values.into_iter().map(|v| v as u32).collect())
    }

    /// A column of 64-bit integers, likewise.
    pub(crate) fn i64s_in(&self, column: usize, ranges: &[Range<usize>]) -> Result<Vec<i64>, StoreError> {
        self.read::<Int64Type>(column, ranges)
    }

    /// A column of text.
    pub(crate) fn texts(&self, column: usize) -> Result<Vec<ByteArray>, StoreError> {
        self.read::<ByteArrayType>(column, std::slice::from_ref(&(0..self.rows())))
    }

    /// A column of 32-bit integers that may be absent.
    pub(crate) fn option_u32s(&self, column: usize) -> Result<Vec<Option<u32>>, StoreError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let mut reader = self.reader::<Int32Type>(column)?;
        reader.read_records(self.rows(), Some(&mut levels), None, &mut values).map_err(self.error())?;
        if levels.len() != self.rows() {
            return Err(StoreError::corrupt(self.path, "a column ends early"));
        }
        let mut values = values.into_iter();
        Ok(levels
            .into_iter()
            .map(|level| if level == 0 { None } else { values.next().map(|v| v as u32) })
            .collect())
    }

    fn read<T: DataType>(&self, column: usize, ranges: &[Range<usize>]) -> Result<Vec<T::T>, StoreError> {
        let mut reader = self.reader::<T>(column)?;
        let wanted: usize = ranges.iter().map(Range::len).sum();
        // What the footer says is not a reason to ask for terabytes.
        let mut values = Vec::with_capacity(wanted.min(MAX_ROWS_EXPECTED));
        let mut at = 0;
        for range in ranges {
            reader.skip_records(range.start - at).map_err(self.error())?;
            reader.read_records(range.len(), None, None, &mut values).map_err(self.error())?;
            at = range.end;
        }
        if values.len() == wanted {
            Ok(values)
        } else {
            Err(StoreError::corrupt(self.path, "a column ends early"))
        }
    }

    fn reader<T: DataType>(&self, column: usize) -> Result<ColumnReaderImpl<T>, StoreError> {
        let chunk = self.metadata.columns().get(column).filter(|c| c.column_type() == T::get_physical_type());
        let chunk = chunk.ok_or_else(|| StoreError::corrupt(self.path, "a column has another type"))?;
        let pages = SerializedPageReader::new(Arc::clone(&self.window), chunk, self.rows(), None);
        let reader = get_column_reader(chunk.column_descr_ptr(), Box::new(pages.map_err(self.error())?));
        Ok(get_typed_column_reader::<T>(reader))
    }

    fn error(&self) -> impl FnOnce(ParquetError) -> StoreError + use<> {
        let path = self.path.to_owned();
        move |source| StoreError::Parquet { path, source }
    }
}
