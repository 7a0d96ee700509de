//! The server as its clients see it: requests in, statuses and bodies out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::too_many_lines, reason = "a table of cases is one function however many cases it has")]

mod bounds;
mod engine;
mod exemplars;
mod memory;
mod native;
mod push;
mod query;
mod rest;
mod socket;
mod status;
mod support;
mod tenancy;
