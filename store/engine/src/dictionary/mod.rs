//! Dictionaries: what stacks are made of, in memory and on the disk.
//!
//! ```text
//! head ── stack ids ──▶ the current epoch ◀── stack ids ── segments
//!  │                      │ when the head is flushed: parts, Parquet, each a range of ids
//!  │ what each batch adds ▼
//!  └──▶ log       dictionaries/EPOCH/FIRST-END/
//! ```
//!
//! An epoch is a dictionary that heads and many segments share, so that a stack is stored once and rows of a month can be added up
//! by its id. It only grows; once it is large the next one begins, and one that no segment needs any more is removed.

mod additions;
mod copy;
mod entries;
mod epoch;
mod epochs;
mod inspect;
mod part;

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use pyrite_model::{CallTree, SymbolTable, TableLens};

pub(crate) use self::additions::Additions;
pub(crate) use self::copy::Copier;
pub(crate) use self::entries::Entries;
pub(crate) use self::epoch::{Epoch, EpochId, LostPart, MAX_STACKS};
pub(crate) use self::epochs::{EpochLimits, Epochs};
pub(crate) use self::inspect::{EpochState, disk_use, inspect, rewrite};
pub(crate) use self::part::Lens;
use crate::sync::{read, write};

/// Estimated memory of entries, with their slots in indexes and the slack of growing tables.
const STRING_BYTES: usize = 96;
const FUNCTION_BYTES: usize = 32;
const LOCATION_BYTES: usize = 88;
const STACK_BYTES: usize = 40;

/// A symbol table that grows, and the call tree of its stacks.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    symbols: RwLock<SymbolTable>,
    /// Brought up to date when it is asked for.
    calls: RwLock<CallTree>,
}

impl Dictionary {
    pub(crate) fn new(symbols: SymbolTable) -> Self {
        Self { symbols: RwLock::new(symbols), calls: RwLock::default() }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, SymbolTable> {
        read(&self.symbols)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, SymbolTable> {
        write(&self.symbols)
    }

    /// The call tree of at least the first `stacks` stacks.
    pub(crate) fn calls(&self, stacks: usize) -> RwLockReadGuard<'_, CallTree> {
        loop {
            let calls = read(&self.calls);
            if calls.stack_count() >= stacks {
                return calls;
            }
            drop(calls);
            let symbols = read(&self.symbols);
            write(&self.calls).extend(&symbols);
        }
    }

    /// Estimated memory.
    pub(crate) fn bytes(&self) -> usize {
        let TableLens { strings, mappings, functions, locations, stacks } = self.read().lens();
        let symbols = strings * STRING_BYTES + (mappings + functions) * FUNCTION_BYTES;
        symbols + locations * LOCATION_BYTES + stacks * STACK_BYTES + read(&self.calls).bytes()
    }
}
