//! The symbolizer on real files, a live process and the running kernel.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "measured figures are shown by --nocapture")]

mod faults;
mod memory;
mod names;

use std::path::{Path, PathBuf};

use pyrite_model::{FileKey, FileOffset};
use pyrite_symbolizer::{Address, ExecutableRef, Executables};

/// One executable mapping of a process.
struct Mapped {
    start: u64,
    end: u64,
    offset: u64,
    key: FileKey,
    path: PathBuf,
    range: String,
}

fn executable_mappings(pid: u32) -> Vec<Mapped> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().filter_map(parse_mapping).collect()
}

fn parse_mapping(line: &str) -> Option<Mapped> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [range, "r-xp", offset, device, inode, path] = fields[..] else { return None };
    let hex = |text| u64::from_str_radix(text, 16).unwrap();
    let (start, end) = range.split_once('-').unwrap();
    let (major, minor) = device.split_once(':').unwrap();
    let key =
        FileKey { dev_major: hex(major) as u32, dev_minor: hex(minor) as u32, inode: inode.parse().unwrap() };
    let range = format!("{:x}-{:x}", hex(start), hex(end));
    Some(Mapped { start: hex(start), end: hex(end), offset: hex(offset), key, path: path.into(), range })
}

fn open_mapped(registry: &Executables, pid: u32, mapped: &Mapped) -> ExecutableRef {
    let candidates = [
        PathBuf::from(format!("/proc/{pid}/map_files/{}", mapped.range)),
        PathBuf::from(format!("/proc/{pid}/root{}", mapped.path.display())),
    ];
    registry.open(mapped.key, &mapped.path, &candidates)
}

fn own_address(registry: &Executables, avma: usize) -> Address {
    let avma = avma as u64;
    let pid = std::process::id();
    let mappings = executable_mappings(pid);
    let mapped = mappings.iter().find(|m| (m.start..m.end).contains(&avma)).unwrap();
    let executable = open_mapped(registry, pid, mapped);
    Address::File { executable, offset: FileOffset(avma - mapped.start + mapped.offset) }
}

fn key_of(path: &Path) -> FileKey {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).unwrap();
    let dev = meta.dev();
    FileKey { dev_major: libc::major(dev), dev_minor: libc::minor(dev), inode: meta.ino() }
}

fn open_path(registry: &Executables, path: &Path) -> ExecutableRef {
    registry.open(key_of(path), path, &[path.to_owned()])
}

fn in_file(executable: &ExecutableRef, offset: u64) -> Address {
    Address::File { executable: executable.clone(), offset: FileOffset(offset) }
}
