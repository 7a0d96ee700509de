//! What no checksum covers: a Parquet file begins with four constant bytes, and ends where its manifest says.

use std::path::Path;

use crate::StoreError;
use crate::files::FileLayer;
use crate::offline::report::{Damage, Remedy};
use crate::table::{Span, TableIndex};

/// What a Parquet file begins with; its footer ends so too, and has a checksum.
pub(in crate::offline) const MAGIC: &[u8] = b"PAR1";

/// Looks at the frame of a file; `None` where it is sound, or where the file cannot be read for a reason that whoever reads
/// its content meets as well.
pub(in crate::offline) fn check(
    files: &dyn FileLayer,
    path: &Path,
    index: &TableIndex,
) -> Result<Option<Damage>, StoreError> {
    let file = match files.open_read(path).map_err(StoreError::io("open", path)) {
        Err(error) if error.is_missing() => return Ok(None),
        file => file?,
    };
    let length = file.len().map_err(StoreError::io("read", path))?;
    if length < index.bytes || !adjoin(index) {
        return Ok(None);
    }
    let begin = file.read_at(0, MAGIC.len()).map_err(StoreError::io("read", path))?;
    let what = match () {
        () if begin != MAGIC => "it does not begin as a Parquet file does",
        () if length > index.bytes => "bytes follow its end",
        () => return Ok(None),
    };
    Ok(Some(Damage::new(path, what, Remedy::Reframe { bytes: index.bytes })))
}

/// Whether row groups and footer fill the file behind its first bytes, so that each byte has a checksum.
fn adjoin(index: &TableIndex) -> bool {
    let mut at = MAGIC.len() as u64;
    let spans = index.row_groups.iter().chain([&index.footer]);
    spans.into_iter().all(|Span { offset, bytes, .. }| {
        let adjoins = *offset == at;
        at += bytes;
        adjoins
    }) && at == index.bytes
}
