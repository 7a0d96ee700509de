//! Segments of format 1, each with a dictionary of its own in it.

use std::path::Path;
use std::sync::Arc;

use super::manifest::Manifest;
use super::read::StackIds;
use super::schema::STACKS;
use crate::StoreError;
use crate::dictionary::{Dictionary, Entries, Lens};
use crate::files::FileLayer;

/// What the stack ids of such a segment mean.
pub(crate) fn read_stacks(
    files: &dyn FileLayer,
    dir: &Path,
    manifest: &Manifest,
) -> Result<StackIds, StoreError> {
    let entries = Entries::read(files, dir, &manifest.tables, Lens::default())?;
    let table = entries.into_table();
    let (symbols, stacks) =
        table.ok_or_else(|| StoreError::corrupt(dir, "a stack has no root or is there twice"))?;
    if manifest.tables.get(STACKS.file).map(|table| table.rows) != Some(stacks.len() as u64) {
        return Err(StoreError::corrupt(dir, "the manifest lists another number of stacks"));
    }
    Ok(StackIds { dictionary: Arc::new(Dictionary::new(symbols)), stacks: stacks.into() })
}
