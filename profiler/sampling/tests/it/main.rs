//! Sampling from recorded input, by its public interface.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod tape;
