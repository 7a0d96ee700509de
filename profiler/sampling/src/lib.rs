//! From what the kernel says to counted stacks: records and mapping events in, rows per second out.
//!
//! Pure: no files, sockets, threads or clocks. The agent reads rings, `/proc` and clocks and feeds [`Sampling`]; whatever
//! it fed can be saved and fed again in a test.
//!
//! ```text
//! BPF ring bytes ──▶ Sample ─┐                                  ┌─▶ Event::ProcessSeen, NewMapping, ProcessGone
//! perf sideband  ──▶ Change ─┼▶ sorted by time ─▶ process table ┼─▶ Event::Second (counted stacks)
//! /proc (asked)  ──▶ LoadedProcess ─────────────────┘           └─▶ tgids to read from /proc
//! ```
//!
//! Invariant I1 is kept here for its part: every record that came in is part of a counted stack, or still held, or
//! counted under a fate of its own ([`Sampling::fates`]).

#![forbid(unsafe_code)]

mod files;
mod filter;
mod ledger;
mod mappings;
mod pipeline;
mod processes;
mod procfs;
mod record;
mod second;
mod sideband;
mod types;

pub use filter::Filter;
pub use ledger::{CpuBooks, Fates, Ledger, Notes};
pub use mappings::{MappedFile, Mapping, MappingTarget, Mappings};
pub use pipeline::{Event, Limits, Sampling};
pub use processes::{LoadFailure, LoadedProcess};
pub use procfs::{ProcStat, parse_maps, parse_stat};
pub use record::{RecordError, Sample, decode_sample};
pub use second::{CountedStack, SampledStack, Second, UserFrame};
pub use sideband::{Change, ChangeKind, MappedRange, SidebandError, decode_change};
pub use types::{BootNs, Comm, ProcessKey, WallClock};
