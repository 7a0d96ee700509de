//! From the sampler's events to rows with names and labels; the daemon stores them, `record` writes them to a file.

mod maker;
mod marker;
mod stream;

pub use maker::RowMaker;
pub use stream::{Ready, RowStats, RowStream};
