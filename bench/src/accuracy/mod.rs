//! How often a stack is right, said by others than its maker.
//!
//! ```text
//! workload ─▶ capture (C, perf) ─▶ cases: registers, stack bytes, mappings ─▶ judge (C, libdwfl) ─▶ judgements ─┐
//!        └─▶ Pyrite's sampler, at the same ticks ─▶ its stacks ───────────────────────────────▶ verdict ◀───────┘
//! ```
//!
//! A stack is identical when every frame is the judge's, down to the thread's root. A truncated stack is wrong. One that goes
//! further than the judge can see is counted by itself, and must be what else is known of it. What the judge cannot follow to
//! the root is no verdict, and counted. The judge itself is checked by chains of calls that are
//! known beforehand ([`Workload::planted`]) and by a second opinion ([`SecondJudge`]).

mod case;
mod client;
mod leaf;
mod second;
mod symbols;
mod trial;
mod verdict;
mod workloads;

pub use case::{CapturedStack, CaseError, Cases, MappingSet, Message};
pub use client::{Capture, Ending, Frame, Judge, Judgement, Step, Tools, open_cases};
pub use second::SecondJudge;
pub use symbols::{Place, Symbols};
pub use trial::{Reference, Trial};
pub use verdict::{Allowance, ObservedStack, Tally, Verdict};
pub use workloads::{Language, Root, WORKLOADS, Workload};
