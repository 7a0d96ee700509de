//! Open segments kept for the next query, within a bound of memory and of open files.

use std::sync::{Arc, Mutex};

use crate::StoreError;
use crate::segment::read::SegmentReader;
use crate::sync::lock;

/// Files that are held open.
const MAX_FILES: usize = 256;

struct Entry {
    name: String,
    reader: Arc<SegmentReader>,
}

/// Least recently used first.
pub(crate) struct SegmentCache {
    max_bytes: usize,
    entries: Mutex<Vec<Entry>>,
}

impl SegmentCache {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, entries: Mutex::default() }
    }

    /// The segment of this name, opened if it is not here. Opening happens outside the lock.
    pub(crate) fn get(
        &self,
        name: &str,
        open: impl FnOnce() -> Result<SegmentReader, StoreError>,
    ) -> Result<Arc<SegmentReader>, StoreError> {
        {
            let mut entries = lock(&self.entries);
            if let Some(at) = entries.iter().position(|entry| entry.name == name) {
                let entry = entries.remove(at);
                let reader = Arc::clone(&entry.reader);
                entries.push(entry);
                return Ok(reader);
            }
        }
        let reader = Arc::new(open()?);
        lock(&self.entries).push(Entry { name: name.to_owned(), reader: Arc::clone(&reader) });
        self.trim();
        Ok(reader)
    }

    /// Drops what is over the bound; what was opened and read of them since the last call counts from now on.
    pub(crate) fn trim(&self) {
        let mut entries = lock(&self.entries);
        let (mut bytes, mut files) = (0, 0);
        let over = entries.iter().rposition(|entry| {
            bytes += entry.reader.bytes();
            files += entry.reader.open_files();
            bytes > self.max_bytes || files > MAX_FILES
        });
        if let Some(last) = over {
            entries.drain(..=last);
        }
    }

    pub(crate) fn remove(&self, name: &str) {
        lock(&self.entries).retain(|entry| entry.name != name);
    }

    /// Estimated memory.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.entries).iter().map(|entry| entry.reader.bytes()).sum()
    }
}
