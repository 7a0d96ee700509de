//! Small JSON files that say what other files hold: one line of JSON, and on the second line its crc32c in hex.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::files::{FileLayer, read_all};

/// Only this much of such a file is understood whatever its version.
#[derive(Deserialize)]
struct AnyVersion {
    format: u64,
}

/// Writes `content` to a new file and syncs it.
pub(crate) fn write<T: Serialize>(files: &dyn FileLayer, path: &Path, content: &T) -> Result<(), StoreError> {
    let line = serde_json::to_string(content).expect("what is sealed has string keys and finite numbers");
    let text = format!("{line}\n{:08x}\n", crc32c::crc32c(line.as_bytes()));
    let mut file = files.create(path).map_err(StoreError::io("create", path))?;
    file.append(text.as_bytes()).and_then(|()| file.sync()).map_err(StoreError::io("write", path))
}

/// Reads what [`write`] wrote, up to the `newest` format.
pub(crate) fn read<T: DeserializeOwned>(
    files: &dyn FileLayer,
    path: &Path,
    newest: u64,
) -> Result<T, StoreError> {
    let bytes = read_all(files, path).map_err(StoreError::io("read", path))?;
    let bad = |what| move || StoreError::corrupt(path, what);
    let text = std::str::from_utf8(&bytes).ok().ok_or_else(bad("it is not text"))?;
    let (line, rest) = text.split_once('\n').ok_or_else(bad("it has no checksum"))?;
    let crc = u32::from_str_radix(rest.trim_end(), 16).ok().ok_or_else(bad("it has no checksum"))?;
    if crc32c::crc32c(line.as_bytes()) != crc {
        return Err(bad("its checksum does not match")());
    }
    let version: AnyVersion = serde_json::from_str(line).ok().ok_or_else(bad("it states no format"))?;
    if version.format > newest {
        return Err(StoreError::Newer { path: path.to_owned(), found: version.format, supported: newest });
    }
    serde_json::from_str(line).ok().ok_or_else(bad("a field is missing"))
}
