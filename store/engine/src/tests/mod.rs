//! Tests that need to see or break what lies under the store: its file operations and its clock.

mod answers;
mod bounds;
mod crash;
mod deltas;
mod dictionary;
mod disk;
mod durability;
mod faults;
mod golden;
mod labels;
mod offline;
mod profiles;
mod quarantine;
mod retention;
mod schedules;
mod sums;
mod tenants;
mod torn_log;
mod wall;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use pyrite_model::{
    Batch, LabelSet, ProfileType, Row, Selector, SeriesRows, StackProfile, SymbolTable, Tenants, TimeRange,
    UnixMs,
};

use crate::files::FileLayer;
use crate::{OpenReport, StackQuery, Store, StoreConfig, StoreError};

const EVERYTHING: TimeRange = TimeRange { start: UnixMs(i64::MIN), end: UnixMs(i64::MAX) };

/// A directory in memory where there is one: these tests sync thousands of times, and the disk is not what they test.
fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::new(dir)
}

fn open_on(dir: &Path, files: Arc<dyn FileLayer>) -> Result<(Store, OpenReport), StoreError> {
    Store::open_on(config(dir), files, Arc::new(|| UnixMs(0)))
}

/// One row of `service`: at a time, of a stack main → `leaf`, worth a value.
fn batch(service: &str, time: i64, leaf: &str, value: i64) -> Batch {
    let mut symbols = SymbolTable::new();
    let locations = [leaf, "main"].map(|name| symbols.intern_named_location(name));
    let stack = symbols.intern_stack(&locations).unwrap();
    let rows = vec![Row { time: UnixMs(time), stack, value }];
    let labels = LabelSet::from_pairs([("service_name", service)]);
    let series = vec![SeriesRows { labels, profile_type: ProfileType::cpu_time(), rows }];
    Batch { symbols, series, ..Batch::default() }
}

/// All CPU time there is.
fn everything() -> StackQuery {
    StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), EVERYTHING)
}

fn profile(store: &Store) -> StackProfile {
    store.merge_stacks(&everything()).unwrap()
}

fn total(store: &Store) -> i64 {
    profile(store).total()
}

/// Appends 150 batches one after the other, with flushes, merges and removals between, and has a thread ask meanwhile, which
/// is told how many are acknowledged.
fn ask_while_segments_come_and_go(
    store: &Store,
    batch: impl Fn(i64) -> Batch,
    ask: impl Fn(&Store, &dyn Fn() -> i64) + Send + 'static,
) {
    const BATCHES: i64 = 150;
    let acknowledged = Arc::new(AtomicI64::new(0));
    let asking = {
        let (store, acknowledged) = (store.clone(), Arc::clone(&acknowledged));
        std::thread::spawn(move || {
            let count = || acknowledged.load(Ordering::SeqCst);
            while count() < BATCHES {
                ask(&store, &count);
            }
        })
    };
    for i in 0..BATCHES {
        store.append_blocking(batch(i)).unwrap();
        acknowledged.fetch_add(1, Ordering::SeqCst);
        if i % 3 == 2 {
            store.flush().unwrap();
        }
        if i % 6 == 5 {
            store.maintenance().merge().unwrap();
            store.maintenance().shared().remove_doomed().unwrap();
        }
    }
    asking.join().unwrap();
}
