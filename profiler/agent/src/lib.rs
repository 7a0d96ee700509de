//! The agent: where kernel, store and server meet. A library so that its parts can be tested; `main.rs` is thin.

pub mod cli;
pub mod commands;
pub mod config;
pub mod privilege;
pub mod rows;
pub mod watch;
