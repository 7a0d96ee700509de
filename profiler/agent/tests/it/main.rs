//! The agent against the real kernel. Tests that need privilege are named `bpf_*`; where they cannot run they say so
//! loudly, and under CI they fail.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests, too")]

mod bpf_brief;
mod bpf_cost;
mod bpf_ledger;
mod bpf_running;
mod bpf_sampler;
mod bpf_unwind;
mod support;
