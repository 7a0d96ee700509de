//! The vocabulary of Pyrite: what a sample, a stack trace, a label set and a profile type are.
//!
//! Pure: no files, sockets, threads or clocks. Every other crate imports this one and it imports none of them.
//!
//! * [`SymbolTable`] holds everything that stacks are made of, each thing once; a stack is a [`StackId`] in it.
//! * [`Batch`] is what producers hand to the store: a symbol table and rows that refer to it.
//! * [`StackProfile`] is what the store hands to readers: a symbol table and one value per stack.

#![forbid(unsafe_code)]

mod address;
mod batch;
mod call_tree;
mod exposition;
mod flame;
mod frames;
mod heatmap;
mod interner;
mod labels;
mod lines;
mod literals;
pub mod pprof;
mod profile_id;
mod profile_type;
mod selector;
mod selector_scan;
mod symbols;
mod tenant;
mod time;

pub use address::{Avma, FileKey, FileOffset};
pub use batch::{Batch, Row, SeriesRows, StackProfile};
pub use call_tree::CallTree;
pub use exposition::{Exposition, MetricLabels};
pub use flame::{
    CallValues, Comparison, FlameTree, Flamebearer, FunctionChange, FunctionValues, Measure, OtherFunctions,
    PathValues, RankBy, TopFunctions,
};
pub use frames::frame_names;
pub use heatmap::{Heatmap, HeatmapCell, HeatmapGroup, HeatmapSlot, SIZE_BUCKETS, SizedProfile, Steps};
pub use labels::{Label, LabelSet, names};
pub use lines::Lines;
pub use literals::Candidates;
pub use profile_id::{ProfileId, ProfileIdError};
pub use profile_type::{ProfileType, ProfileTypeError};
pub use selector::{MatchOp, Matcher, SYNTHETIC_LABELS, Selector, SelectorError, SeriesKey};
pub use symbols::{
    Function, FunctionId, Line, Location, LocationId, Mapping, MappingId, Remap, StackId, StackNode,
    StringId, SymbolTable, TableLens,
};
pub use tenant::{Tenant, TenantError, Tenants};
pub use time::{TimeError, TimeRange, UnixMs};
