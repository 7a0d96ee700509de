//! From what the kernel says to counted stacks: records and mapping events in, rows per second out.
//!
//! Pure: no files, sockets, threads or clocks. The agent reads rings, `/proc` and clocks and feeds [`Sampling`]; whatever
//! it fed can be saved and fed again in a test ([`TapeEntry`]).
//!
//! ```text
//! BPF ring bytes ──▶ Sample ─┐                                  ┌─▶ Event::ProcessSeen, NewMapping, ProcessGone
//! perf sideband  ──▶ Change ─┼▶ sorted by time ─▶ process table ┼─▶ Event::Second (counted stacks)
//! /proc (asked)  ──▶ LoadedProcess ─────────────────┘           ├─▶ tgids to read from /proc
//! unwind tables (Unwinder) ──▶ stack copies finished ───────────┴─▶ Command: mapping sets to publish
//! ```
//!
//! A user stack ends in a known end or says why it does not; [`UnwindHealth`] keeps the score.
//!
//! Invariant I1 is kept here for its part: every record that came in is part of a counted stack, or still held, or
//! counted under a fate of its own ([`Sampling::fates`]).

#![forbid(unsafe_code)]

mod commands;
mod copies;
mod event;
mod files;
mod filter;
mod health;
mod ledger;
mod limits;
mod mappings;
mod offcpu;
mod pipeline;
mod process;
mod processes;
mod procfs;
mod publication;
mod record;
mod second;
mod sideband;
mod tape;
mod trust;
mod types;
mod unwinder;

pub use commands::{Command, Generation};
pub use event::Event;
pub use filter::Filter;
pub use health::{CodeOrigin, ExecutableScore, HealthReport, ProcessScore, StackCounts, UnwindHealth};
pub use ledger::{CpuBooks, Fates, Ledger, Notes};
pub use limits::Limits;
pub use mappings::{Insertion, MappedFile, Mapping, MappingTarget, Mappings};
pub use offcpu::{Left, OffCpu, OffCpuEnd, OffCpuStack, OffFates, Probability, Tail, ThreadState};
pub use pipeline::Sampling;
pub use process::{LoadFailure, LoadedProcess};
pub use procfs::{ProcStat, parse_maps, parse_stat};
pub use record::{COPIED_REGISTERS, RecordError, Sample, StackCopy, decode_sample};
pub use second::{CountedStack, SampledStack, Second, UserFrame};
pub use sideband::{Change, ChangeKind, MappedRange, SidebandError, decode_change};
pub use tape::{Played, TapeEntry, TapeError, TapeReader, play};
pub use types::{BootNs, Comm, ProcessKey, WallClock};
pub use unwinder::{Unwinder, Walked};
