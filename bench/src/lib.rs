//! What the harnesses share: the machinery that says whether a stack is right, the load of the store's benchmarks and its
//! driver, and how a process is read from outside.

#![forbid(unsafe_code)]

pub mod accuracy;
pub mod figures;
pub mod load;
pub mod process;
pub mod recipe;
