//! The agent: where kernel, store and server meet. A library so that its parts can be tested; `main.rs` is thin.

#![deny(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod config;
pub mod freeze;
pub mod identity;
pub mod instant;
mod mapped_file;
pub mod privilege;
pub mod rows;
pub mod sampler;
#[expect(unsafe_code, reason = "system calls that no safe wrapper offers; each block says why it is sound")]
pub mod sys;
pub mod unwind;
pub mod watch;
