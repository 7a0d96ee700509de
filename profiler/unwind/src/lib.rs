//! Unwind information of executables as compact tables, made from `.eh_frame` and its kin and read by the BPF walker.
//!
//! Pure: files come in through [`ReadAt`], tables go out as chunks of bytes. The way of an executable:
//! [`extract`] → [`RawTable`] (kept by the disk cache: [`encode`], [`decode`]) → [`build`] with the host's
//! [`RuleBook`] → [`TableImage`] → placed into the kernel's slabs. [`lookup()`] reads what was placed.

#![forbid(unsafe_code)]

mod augmentation;
mod book;
mod cfi;
mod codec;
mod convert;
mod draft;
mod elf;
mod expression;
mod extract;
mod flow;
mod fold;
mod go;
mod image;
mod intern;
mod lookup;
mod program;
mod read;
mod rule;
mod synthetic;
mod table;
mod walk;

pub use book::RuleBook;
pub use codec::{BadCache, decode, encode};
pub use extract::extract;
pub use go::{GoFunction, GoRefusal, GoReport, go_functions};
pub use image::{PlacedTable, TableImage, TooManyLeaves, build};
pub use lookup::{CHUNK_BYTES, Chunk, NoTable, Position, Tables, lookup, search};
pub use read::{ReadAt, Unreadable};
pub use rule::{Cfa, RULE_BYTES, Rule, RuleBytes, RuleId, Run, Saved};
pub use table::{Arch, Layout, RawRow, RawTable, Report, Segment, Unsupported};
pub use walk::{Machine, MappedCode, Pending, Registers, StackCopy, StackMemory, Start, Walked, Walker};
