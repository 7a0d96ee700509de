//! The columns of each file of segments and dictionaries, and how they are encoded.

use std::sync::Arc;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::schema::types::ColumnPath;

/// One file of a segment or dictionary.
pub(crate) struct Table {
    pub(crate) file: &'static str,
    pub(crate) schema: &'static str,
}

pub(crate) const SAMPLES: Table = Table {
    file: "samples.parquet",
    schema: "message samples {
        required int32 series (INTEGER(32,false));
        required int64 time_ms (TIMESTAMP(MILLIS,true));
        required int32 stack (INTEGER(32,false));
        required int64 value;
    }",
};

/// Of samples without their stacks.
pub(crate) const TOTALS_SCHEMA: &str = "message totals {
        required int32 series (INTEGER(32,false));
        required int64 time_ms (TIMESTAMP(MILLIS,true));
        required int64 value;
    }";

pub(crate) const SERIES: Table = Table {
    file: "series.parquet",
    schema: "message series {
        required int32 series (INTEGER(32,false));
        required binary profile_type (STRING);
        required binary labels (STRING);
        required int64 min_time_ms (TIMESTAMP(MILLIS,true));
        required int64 max_time_ms (TIMESTAMP(MILLIS,true));
        required int64 rows;
    }",
};

/// Of a segment.
pub(crate) const STACK_IDS: Table = Table {
    file: "stacks.parquet",
    schema: "message stacks {
        required int32 stack (INTEGER(32,false));
        required int32 dictionary_stack (INTEGER(32,false));
        required int32 rows (INTEGER(32,false));
        required int32 series (INTEGER(32,false));
    }",
};

/// Of a dictionary. Segments of format 1 have one in them, and a fourth column with the number of rows.
pub(crate) const STACKS: Table = Table {
    file: "stacks.parquet",
    schema: "message stacks {
        required int32 stack (INTEGER(32,false));
        optional int32 parent (INTEGER(32,false));
        required int32 location (INTEGER(32,false));
    }",
};

pub(crate) const LOCATIONS: Table = Table {
    file: "locations.parquet",
    schema: "message locations {
        required int32 location (INTEGER(32,false));
        required int32 inline (INTEGER(32,false));
        optional int32 mapping (INTEGER(32,false));
        required int64 address (INTEGER(64,false));
        optional int32 function (INTEGER(32,false));
        required int32 line (INTEGER(32,false));
    }",
};

pub(crate) const FUNCTIONS: Table = Table {
    file: "functions.parquet",
    schema: "message functions {
        required int32 function (INTEGER(32,false));
        required binary name (STRING);
        required binary system_name (STRING);
        required binary filename (STRING);
        required int32 start_line (INTEGER(32,false));
    }",
};

pub(crate) const MAPPINGS: Table = Table {
    file: "mappings.parquet",
    schema: "message mappings {
        required int32 mapping (INTEGER(32,false));
        required binary build_id (STRING);
        required binary path (STRING);
    }",
};

/// How the columns of a file are packed once they are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Zstandard level 3: 9 saves a twentieth for twice the time.
    Zstd,
    /// Not at all, where most of what long windows read is in little room.
    Plain,
}

/// How a file is written.
pub(crate) fn properties(packing: Packing) -> WriterPropertiesPtr {
    let compression = match packing {
        Packing::Zstd => Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a level of Zstandard")),
        Packing::Plain => Compression::UNCOMPRESSED,
    };
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("pyrite ", env!("CARGO_PKG_VERSION")).into())
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
    // Ids that count up and times that repeat are nothing but small steps; a dictionary only adds to them.
    for counting in
        ["time_ms", "stack", "dictionary_stack", "parent", "location", "function", "mapping", "address"]
    {
        let column = ColumnPath::from(counting);
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    Arc::new(properties.build())
}
