//! The parts of the agent that tests and other binaries use.

#![forbid(unsafe_code)]

pub mod identity;
