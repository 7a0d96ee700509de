//! pprof: the format in which profiles are pushed to Pyrite and exported from it.
//!
//! ```text
//! bytes ──inflate──▶ Profile ──append──▶ Batch        a push: checked, named, split into series
//! StackProfile ──────encode──▶ proto::Profile         an answer
//! ```
//!
//! Pushes are read by a parser of their own that borrows from the bytes; the generated types of [`proto`] cost twice
//! the time for the same rows and serve the exports only.

mod encode;
mod error;
mod inflate;
mod names;
mod parse;
mod push;
mod symbols;
mod wire;

pub use encode::{ExportMeta, encode, gzip};
pub use error::PprofError;
pub use names::DisplayNames;
pub use push::{Appended, PushContext, PushLimits, append};

pub use self::inflate::{gunzip, inflate};

/// The format's messages, generated from `proto/google/v1/profile.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    reason = "generated code"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/google.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/google.v1.serde.rs"));
}
