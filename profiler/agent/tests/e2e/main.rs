//! End to end: the real binary, real processes and containers, real clients. Tests named `bpf_*` and `root_*` need
//! root; without it they say so and stop, and under CI that is a failure.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "skips and measured figures are shown")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/podman.rs"]
mod podman;
#[path = "../../../../fixtures/clients/python.rs"]
mod python;
#[path = "../common/slow_tracepoint.rs"]
mod slow_tracepoint;
#[path = "../common/waits.rs"]
mod waits;

mod clients;
mod command_line;
mod containers;
mod damage;
mod durability;
mod faults;
mod ledger;
mod off_cpu;
mod profiles;
mod pushes;
mod pyrite;
mod recordings;
mod store;
mod support;
mod tenants;
