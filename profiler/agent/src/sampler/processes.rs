//! Reads processes from `/proc`: those that ran before us, and those whose events were lost.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use pyrite_sampling::{LoadFailure, LoadedProcess, ProcStat, parse_maps, parse_stat};

use crate::sys;

/// No `/proc` file is read further than this. A line of maps is about 100 bytes.
const READ_LIMIT_BYTES: u64 = 4 << 20;
/// Executable mappings taken from one process.
const MAPPING_LIMIT: usize = 4_096;
/// Processes read at the start; the rest are read when they are sampled.
const SCAN_LIMIT: usize = 8_192;

/// Every process there is now except kernel threads, oldest first, so that parents come before their children.
pub(crate) fn list() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let tgids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<_> = tgids
        .take(SCAN_LIMIT)
        .filter_map(|tgid| {
            read_stat(tgid).ok().filter(|stat| !stat.is_kernel_thread).map(|stat| (stat.start, tgid))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, tgid)| tgid).collect()
}

/// Reads one process.
pub(crate) fn load(tgid: u32) -> Result<LoadedProcess, LoadFailure> {
    // Taken first: events from before this moment are in what is read, later ones may not be.
    let read_at = sys::boot_now();
    let stat = read_stat(tgid)?;
    let maps = read(&Path::new("/proc").join(tgid.to_string()).join("maps"))?;
    let whole_lines = maps.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole_lines == 0 && !stat.is_kernel_thread {
        // A zombie, or on its way there: its memory is gone already.
        return Err(LoadFailure::Gone);
    }
    let ranges = parse_maps(&maps[..whole_lines], MAPPING_LIMIT).ok_or(LoadFailure::Malformed)?;
    Ok(LoadedProcess {
        tgid,
        parent_tgid: stat.parent_tgid,
        start: stat.start,
        comm: stat.comm,
        is_kernel_thread: stat.is_kernel_thread,
        threads: stat.threads,
        read_at,
        ranges,
    })
}

fn read_stat(tgid: u32) -> Result<ProcStat, LoadFailure> {
    let text = read(&Path::new("/proc").join(tgid.to_string()).join("stat"))?;
    parse_stat(&text, sys::clock_ticks_hz()).ok_or(LoadFailure::Malformed)
}

fn read(path: &Path) -> Result<Vec<u8>, LoadFailure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(READ_LIMIT_BYTES).read_to_end(&mut bytes))
        .map_err(|error| failure(&error))?;
    Ok(bytes)
}

fn failure(error: &io::Error) -> LoadFailure {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) | (_, Some(libc::ESRCH)) => LoadFailure::Gone,
        _ => LoadFailure::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_listed_after_its_parent_and_has_its_own_code_mapped() {
        let me = std::process::id();
        let listed = list();
        let position = |tgid| listed.iter().position(|listed| *listed == tgid);
        assert!(position(me) > position(std::os::unix::process::parent_id()));
        let loaded = load(me).unwrap();
        let code = (load as fn(u32) -> _ as *const ()).addr() as u64;
        assert!(loaded.ranges.iter().any(|range| range.start.0 <= code && code < range.end.0));
        assert!(sys::boot_now() >= loaded.read_at && loaded.read_at > loaded.start);
    }

    #[test]
    fn a_process_that_is_not_there_is_gone() {
        assert_eq!(load(u32::MAX), Err(LoadFailure::Gone));
    }
}
