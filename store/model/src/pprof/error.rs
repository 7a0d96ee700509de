//! Why a pushed profile is not stored. Each reason has a short stable name, which labels the metric that counts it.

use crate::pprof::wire::{Broken, WireError};

/// Why a pushed profile is not stored.
#[derive(Debug, thiserror::Error)]
pub enum PprofError {
    /// It says nothing about what it measured.
    #[error("empty profile: it has no sample types")]
    Empty,
    /// It begins like gzip but is not.
    #[error("profile is not valid gzip")]
    Gzip {
        /// What the unpacker met.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than a profile may be, packed or unpacked.
    #[error("profile is larger than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// It is no Protobuf message.
    #[error("profile is not valid protobuf: {0}")]
    Wire(#[from] WireError),
    /// A string that is no UTF-8.
    #[error("string {index} is not valid UTF-8")]
    NotUtf8 {
        /// Its index in the string table.
        index: usize,
        /// Where it goes wrong.
        #[source]
        source: std::str::Utf8Error,
    },
    /// The string table breaks the rule that lets 0 mean "no text".
    #[error("string table does not begin with the empty string")]
    StringTable,
    /// An index that leads past the string table.
    #[error("{what} has string index {index}, which is not in the string table")]
    StringIndex {
        /// Which field of which message.
        what: &'static str,
        /// The index.
        index: i64,
    },
    /// An id that means "none" where one is needed.
    #[error("{what} has id 0")]
    ZeroId {
        /// Which message.
        what: &'static str,
    },
    /// An id given twice.
    #[error("{what} id {id} is defined twice")]
    DuplicateId {
        /// Which message.
        what: &'static str,
        /// The id.
        id: u64,
    },
    /// An id that leads nowhere.
    #[error("{what} id {id} is used but not defined")]
    UnknownId {
        /// Which message.
        what: &'static str,
        /// The id.
        id: u64,
    },
    /// A sample whose values do not pair with the sample types.
    #[error("sample {sample} has {found} values, the profile has {expected} sample types")]
    ValueCount {
        /// Its position.
        sample: usize,
        /// How many values it has.
        found: usize,
        /// How many it should have.
        expected: usize,
    },
    /// A type or unit that no profile type id can hold.
    #[error("sample type {name:?} must not be empty or contain \"-\" or \":\"")]
    SampleType {
        /// The rejected text.
        name: String,
    },
    /// No usable name for the profile type.
    #[error("label __name__ is {name:?}, it must match [a-zA-Z_][a-zA-Z0-9_]*")]
    ProfileName {
        /// The rejected text, empty where the label is missing.
        name: String,
    },
    /// More labels than a series or a sample may have.
    #[error("{found} labels, at most {limit} are allowed")]
    TooManyLabels {
        /// How many there are.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// A label name that is empty or too long.
    #[error("label name {name:?} is empty or longer than {limit} bytes")]
    LabelName {
        /// The name, cut to what fits a message.
        name: String,
        /// The bound.
        limit: usize,
    },
    /// A label value that is too long.
    #[error("value of label {name:?} is longer than {limit} bytes")]
    LabelValue {
        /// The label's name.
        name: String,
        /// The bound.
        limit: usize,
    },
    /// A time outside what is accepted.
    #[error("profile time {time_ms} ms is outside the accepted range {from_ms} to {until_ms} ms")]
    Time {
        /// The profile's time, Unix milliseconds.
        time_ms: i64,
        /// Oldest accepted time.
        from_ms: i64,
        /// Newest accepted time.
        until_ms: i64,
    },
}

impl From<Broken> for PprofError {
    #[cold]
    fn from(broken: Broken) -> Self {
        Self::Wire(broken.into())
    }
}

impl PprofError {
    /// The reason's stable name, as metrics have it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Gzip { .. } => "gzip",
            Self::TooLarge { .. } => "too_large",
            Self::Time { .. } => "time",
            Self::TooManyLabels { .. } | Self::LabelName { .. } | Self::LabelValue { .. } => "labels",
            Self::ProfileName { .. } | Self::SampleType { .. } => "profile_type",
            Self::Wire(_)
            | Self::NotUtf8 { .. }
            | Self::StringTable
            | Self::StringIndex { .. }
            | Self::ZeroId { .. }
            | Self::DuplicateId { .. }
            | Self::UnknownId { .. }
            | Self::ValueCount { .. } => "malformed",
        }
    }
}
