//! What the harnesses share: the machinery that says whether a stack is right.

#![forbid(unsafe_code)]

pub mod accuracy;
