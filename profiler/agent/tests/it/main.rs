//! The agent against the real kernel. Tests that need privilege are named `bpf_*`; where they cannot run they say so
//! loudly, and under CI they fail.

mod bpf_ledger;
mod bpf_sampler;
mod support;
