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
mod fingerprint;
mod inspect;
mod part;
mod recall;

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use pyrite_model::{CallTree, SymbolTable};

pub(crate) use self::additions::Additions;
pub(crate) use self::copy::Copier;
pub(crate) use self::entries::Entries;
pub(crate) use self::epoch::{Epoch, EpochId, LostPart, MAX_STACKS};
pub(crate) use self::epochs::{EpochLimits, Epochs};
pub(crate) use self::inspect::{EpochState, disk_use, inspect, rewrite};
pub(crate) use self::part::Lens;
pub(crate) use self::recall::{Placed, Recall};
use crate::sync::{read, write};

/// Stacks that are added to a call tree before those who wait for the symbols have a turn.
const ADDED_AT_ONCE: usize = 4096;

/// How much a dictionary holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) stacks: usize,
    /// Estimated memory, without the call tree.
    pub(crate) bytes: usize,
}

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

    /// The call tree of at least the first `stacks` stacks, which must be there.
    pub(crate) fn calls(&self, stacks: usize) -> RwLockReadGuard<'_, CallTree> {
        loop {
            let calls = read(&self.calls);
            if calls.stack_count() >= stacks {
                return calls;
            }
            drop(calls);
            // The tree first: whoever waits until others have drawn from it must not hold the symbols meanwhile, for which
            // appends wait. And those only for a while at a time.
            let mut calls = write(&self.calls);
            while calls.stack_count() < stacks {
                calls.extend(&read(&self.symbols), ADDED_AT_ONCE);
            }
        }
    }

    pub(crate) fn size(&self) -> Size {
        let symbols = self.read();
        let entries = symbols.estimated_bytes();
        // Tables that double have a quarter to spare on average.
        Size { stacks: symbols.stack_nodes().len(), bytes: entries + entries / 4 }
    }

    /// Estimated memory.
    pub(crate) fn bytes(&self) -> usize {
        self.size().bytes + read(&self.calls).bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_waits_for_the_call_tree_keeps_nobody_from_the_symbols() {
        let dictionary = Arc::new(Dictionary::default());
        let add = |dictionary: &Dictionary, name| {
            let mut symbols = dictionary.write();
            let location = symbols.intern_named_location(name);
            symbols.intern_stack(&[location]);
        };
        add(&dictionary, "a");
        let drawing = dictionary.calls(1);
        add(&dictionary, "b");
        let waiting = std::thread::spawn({
            let dictionary = Arc::clone(&dictionary);
            move || dictionary.calls(2).stack_count()
        });
        // Time for it to get there.
        std::thread::sleep(Duration::from_millis(100));
        let (added, done) = channel();
        let adding = std::thread::spawn({
            let dictionary = Arc::clone(&dictionary);
            move || {
                add(&dictionary, "c");
                added.send(()).unwrap();
            }
        });
        done.recv_timeout(Duration::from_secs(10)).expect("the symbols are free");
        drop(drawing);
        assert!(waiting.join().unwrap() >= 2);
        adding.join().unwrap();
    }
}
