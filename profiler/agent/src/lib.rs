//! Pyrite's agent: the only place where kernel, files, clocks and the pure crates meet.

pub mod sampler;
pub mod sys;
