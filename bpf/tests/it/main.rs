//! The BPF programs against recorded memory, compiled for this machine (`host_*`), and against the running kernel (`bpf_*`,
//! which need root).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests, too")]

mod bpf_cost;
mod bpf_switch_cost;
mod bpf_walk;
mod host;
mod host_recorded;
mod host_reference;
mod host_switches;
mod kernel;
mod random;
mod record;
mod tables;
mod workload;
