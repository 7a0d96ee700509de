//! The agent against the real kernel. Tests that need privilege are named `bpf_*`; where they cannot run they say so
//! loudly, and under CI they fail.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests, too")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/slow_tracepoint.rs"]
mod slow_tracepoint;
#[path = "../common/waits.rs"]
mod waits;

mod bpf_brief;
mod bpf_cost;
mod bpf_ledger;
mod bpf_lifecycle;
mod bpf_off_cpu;
mod bpf_running;
mod bpf_sampler;
mod bpf_tape;
mod bpf_unwind;
mod support;
