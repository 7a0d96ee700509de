//! The server as its clients see it: requests in, statuses and bodies out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod memory;
mod push;
mod query;
mod rest;
mod socket;
mod status;
mod support;
