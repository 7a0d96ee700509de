//! What the publisher and the threads that help it say to each other.

use std::io;
use std::sync::Arc;

use pyrite_symbolizer::{ExecutableReader, Miss};
use pyrite_unwind::{RuleId, TableImage};

use crate::unwind::code::ExecutableIndex;
use crate::unwind::files::{Found, OpenRequest};
use crate::unwind::rules::RuleNews;
use crate::unwind::stats::Absence;
use crate::unwind::tables::{TableIdentity, TableRows};

/// Something that takes long: for the builder.
#[derive(Debug)]
pub(crate) enum WorkRequest {
    /// Make the table of an executable.
    Build { index: ExecutableIndex, identity: Arc<TableIdentity>, reader: ExecutableReader },
    /// Make a slab.
    MakeSlab { number: u32 },
    /// Take an empty slab from the programs.
    RemoveSlab { number: u32 },
    /// Wait until every program that runs now has ended.
    GracePeriod,
    /// Tables have gone that used these rules, each listed once for every such table.
    ReleaseRules { ids: Vec<RuleId> },
}

/// A table whose chunks have no place yet. Its rules are in the kernel already.
#[derive(Debug)]
pub(crate) struct BuiltTable {
    pub(crate) image: TableImage,
    pub(crate) rows: TableRows,
}

/// What a thread has done.
#[derive(Debug)]
pub(crate) enum Report<M> {
    Opened {
        request: OpenRequest,
        outcome: Result<Found, Miss>,
    },
    /// `rules` holds whatever became of the table.
    Built {
        index: ExecutableIndex,
        outcome: Result<Box<BuiltTable>, Absence>,
        rules: RuleNews,
    },
    RulesReleased {
        rules: RuleNews,
    },
    SlabMade {
        number: u32,
        outcome: io::Result<M>,
    },
    GraceEnded {
        outcome: io::Result<()>,
    },
}
