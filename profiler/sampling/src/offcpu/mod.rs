//! Time off the CPU: captured departures and returns of threads, joined and accounted.
//!
//! ```text
//! OFF_CPU record ──▶ Sample with OffCpu::Left  ─┐ mapped like a tick ─▶ a block is open
//! OFF_CPU_END    ──▶ OffCpuEnd                 ─┼─ at once ────────────▶ the block is accounted and closed
//! OFF_CPU_TAIL   ──▶ Sample with OffCpu::Tail  ─┘ mapped like a tick ─▶ accounted at once, without a stack
//! ```
//!
//! How a departure is chosen and why values are weighted as they are: `bpf/prog/offcpu.h`. Invariant I1 for this part:
//! `sent = closed + open + Σ of the other fates`, see [`OffFates`].

mod blocks;
mod ledger;
mod record;

pub(crate) use blocks::{BlockLimits, Blocks};
pub use blocks::{OffCpuStack, ThreadState};
pub use ledger::OffFates;
pub(crate) use record::{Broken, RingRecord, decode_record};
pub use record::{Left, OffCpu, OffCpuEnd, Probability, Tail};

#[cfg(test)]
pub(crate) use record::tests;
