//! Pushed profiles through the public interface: whatever is pushed means what the plainest reading of it says.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod profiles;
mod pushes;
mod reading;
mod wire;
