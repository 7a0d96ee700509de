//! What the file behind a mapping is called, and where it can be opened by whoever reads its symbols or its unwind
//! information.

use std::path::{Path, PathBuf};

use pyrite_model::Avma;

/// Where the file may be that process `tgid` has mapped at `start..end` and calls `path`: by the mapping itself, which also
/// leads to a file that was deleted; by its path as the process sees it; by its path as we see it, which is all that is left
/// when the process has ended.
pub(crate) fn candidates(tgid: u32, path: &str, start: Avma, end: Avma) -> [PathBuf; 3] {
    let name = Path::new(without_note(path));
    let process = PathBuf::from(format!("/proc/{tgid}"));
    // The kernel names these links without leading zeros, unlike the lines of /proc/PID/maps.
    let by_mapping = process.join(format!("map_files/{:x}-{:x}", start.0, end.0));
    let in_root = process.join("root").join(name.strip_prefix("/").unwrap_or(name));
    [by_mapping, in_root, name.to_path_buf()]
}

/// A path without what the kernel appends to the name of a file that was replaced or removed, as upgrades do.
pub(crate) fn without_note(path: &str) -> &str {
    path.strip_suffix(" (deleted)").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_sought_by_its_mapping_then_in_the_root_of_its_process_then_in_ours() {
        let paths = candidates(42, "/usr/bin/app (deleted)", Avma(0x40_0000), Avma(0x40_1000));
        let paths = paths.map(|path| path.to_string_lossy().into_owned());
        assert_eq!(paths, ["/proc/42/map_files/400000-401000", "/proc/42/root/usr/bin/app", "/usr/bin/app"]);
    }
}
