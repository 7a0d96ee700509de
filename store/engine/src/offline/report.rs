//! What a check finds, in words and as what can be done about it.

use std::fmt;
use std::path::{Path, PathBuf};

use pyrite_model::TimeRange;

use crate::StoreError;
use crate::dictionary::EpochId;
use crate::lock::Holder;
use crate::quarantine::window_text;
use crate::segment::SegmentInfo;

/// The outcome of a check.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Who works on the directory meanwhile.
    pub running: Option<Holder>,
    /// Segments that were read.
    pub segments: u64,
    /// Rows in them and in the log.
    pub rows: u64,
    /// Parts of dictionaries that were read.
    pub parts: u64,
    /// Everything that is not as it must be, worst first.
    pub findings: Vec<Damage>,
    /// Files that the system did not read, each with what it said: nobody knows whether they are sound.
    pub unreadable: Vec<String>,
    /// What could not be looked at, and why.
    pub not_covered: Vec<String>,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file or directory.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// How many rows this concerns, where that is known.
    pub rows: Option<u64>,
    /// And when they were.
    pub range: Option<TimeRange>,
    /// What repair does about it.
    pub remedy: Remedy,
}

/// What repair does, the least first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// Nothing: what it would take cannot be read.
    Leave,
    /// Any start does it.
    Start(&'static str),
    /// The version of the layout is written anew.
    StateFormat,
    /// A segment is moved back from quarantine, where it has this name; its sound rows can be put in use again.
    BringBack(String),
    /// The constant bytes of a file are put back, and what follows its end is cut.
    Reframe {
        /// The file's length.
        bytes: u64,
    },
    /// The catalogue is made anew from the segments.
    RebuildCatalogue,
    /// Rows, series and stacks are sound: the segment is written anew from them.
    RewriteSegment(String),
    /// Some rows are sound: the segment is written anew from them, and a copy of it as it is goes to quarantine.
    SaveRows(String),
    /// The rows stay; those of their stacks that are lost are called so.
    RewriteDictionary(u32),
    /// The catalogue forgets the segment; its rows are lost.
    ForgetSegment(String),
    /// Beyond repair: the segment is moved to quarantine.
    QuarantineSegment(String),
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leave => write!(f, "leave it as it is, for not all of its segment can be read"),
            Self::Start(what) => write!(f, "{what}"),
            Self::StateFormat => write!(f, "state the version of the layout anew"),
            Self::BringBack(_) => write!(f, "move it back and put its sound rows in use again"),
            Self::Reframe { bytes } => write!(f, "put its first bytes back and cut it to {bytes} bytes"),
            Self::RebuildCatalogue => write!(f, "make the catalogue anew from the segments"),
            Self::RewriteSegment(name) => {
                write!(f, "write segment {name} anew from its rows, which are sound")
            }
            Self::SaveRows(name) => {
                write!(
                    f,
                    "write segment {name} anew from the rows that are sound; a copy as it is goes to quarantine"
                )
            }
            Self::RewriteDictionary(epoch) => {
                write!(f, "write dictionary {epoch} anew; rows stay, and stacks that are lost are called so")
            }
            Self::ForgetSegment(name) => write!(f, "forget segment {name}, whose rows are lost"),
            Self::QuarantineSegment(name) => write!(f, "move segment {name} to quarantine"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)?;
        if let Some(rows) = self.rows {
            write!(f, "; it concerns {rows} rows")?;
        }
        if self.range.is_some() {
            let (from, until) = window_text(self.range);
            write!(f, " from {from} to {until}")?;
        }
        Ok(())
    }
}

impl Damage {
    /// Of a file or directory of which nothing more is known.
    pub(super) fn new(file: &Path, what: impl Into<String>, remedy: Remedy) -> Self {
        Self { file: file.to_owned(), what: what.into(), rows: None, range: None, remedy }
    }

    /// Of all rows of a segment.
    pub(super) fn of(segment: &SegmentInfo, file: &Path, what: impl Into<String>, remedy: Remedy) -> Self {
        let (rows, range) = (Some(segment.rows), Some(segment.range));
        Self { rows, range, ..Self::new(file, what, remedy) }
    }
}

/// The file that an error is about.
pub(super) fn file_of(error: &StoreError) -> Option<&Path> {
    match error {
        StoreError::Corrupt { path, .. } | StoreError::Io { path, .. } | StoreError::Parquet { path, .. } => {
            Some(path)
        }
        _ => None,
    }
}

/// What an error says where it is the system that does not read a file. Any other error stays one: then nothing can be told.
pub(super) fn unreadable(error: StoreError) -> Result<String, StoreError> {
    match error {
        StoreError::Io { .. } | StoreError::Parquet { .. } | StoreError::Catalogue { .. } => {
            Ok(error.in_full())
        }
        error => Err(error),
    }
}

/// What an error says beside the file that it is about.
pub(super) fn in_words(error: &StoreError) -> String {
    match error {
        StoreError::Corrupt { what, .. } => (*what).to_owned(),
        StoreError::Io { source, .. } => source.to_string(),
        StoreError::Parquet { source, .. } => source.to_string(),
        StoreError::Catalogue { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

impl CheckReport {
    /// The remedies, each once, in the order in which they are to be applied: a segment has the strongest of its own.
    pub fn remedies(&self) -> Vec<(PathBuf, Remedy)> {
        let mut remedies: Vec<(PathBuf, Remedy)> = Vec::new();
        for Damage { file, remedy, .. } in &self.findings {
            let same = remedies.iter().position(|(_, known)| known == remedy && known.is_of_all());
            if same.is_none() {
                remedies.push((file.clone(), remedy.clone()));
            }
        }
        let all: Vec<Remedy> = remedies.iter().map(|(_, remedy)| remedy.clone()).collect();
        remedies.retain(|(file, remedy)| {
            !all.iter().any(|other| other > remedy && other.makes_up_for(remedy, file))
        });
        remedies.sort_by(|a, b| a.1.cmp(&b.1));
        remedies
    }
}

impl Remedy {
    /// Whether it is done once, however many files want it.
    fn is_of_all(&self) -> bool {
        !matches!(self, Self::Reframe { .. } | Self::Start(_) | Self::Leave)
    }

    /// The segment that is another one, or none, afterwards.
    fn segment(&self) -> Option<&str> {
        match self {
            Self::RewriteSegment(name)
            | Self::SaveRows(name)
            | Self::ForgetSegment(name)
            | Self::QuarantineSegment(name) => Some(name),
            _ => None,
        }
    }

    /// Whether what a weaker one would do to a file need not be done any more.
    fn makes_up_for(&self, weaker: &Self, file: &Path) -> bool {
        self.segment().is_some_and(|name| match weaker {
            Self::Reframe { .. } => file.iter().any(|part| part == name),
            _ => weaker.segment() == Some(name),
        })
    }

    pub(super) fn epoch(&self) -> Option<EpochId> {
        match self {
            Self::RewriteDictionary(id) => Some(EpochId(*id)),
            _ => None,
        }
    }
}
