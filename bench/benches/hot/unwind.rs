//! What unwind tables cost: CPU time to make one from its file, and kernel memory per row of call frame information.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pyrite_unwind::{
    Arch, CHUNK_BYTES, RULE_BYTES, RawTable, ReadAt, RuleBook, build, decode, encode, extract,
};

use crate::harness::Report;

/// What a row may cost, with nodes, unused room and rules.
const MAX_BYTES_PER_ROW: f64 = 3.2;
/// What the table of a million rows may cost where it is not in the cache yet.
const LARGE: &str = "librustc_driver";
const MAX_LARGE: Duration = Duration::from_millis(100);
/// What `struct pyrite_executable` takes.
const EXECUTABLE_BYTES: usize = 16;

/// Of each name, the largest file that begins so counts.
const FILES: [&str; 8] = [
    "libc.so.6",
    "libcrypto.so.3",
    "libstdc++.so.6",
    "python3",
    "libLLVM",
    "node",
    "libjvm.so",
    "librustc_driver",
];

/// Besides the folders of Rust's compiler and of Java's machines.
const FOLDERS: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/bin"];

struct Input {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl ReadAt for Input {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }

    fn byte_count(&self) -> u64 {
        self.bytes
    }
}

/// Makes, caches and lays out the table of each large executable that this machine has.
pub(crate) fn tables_of_executables(report: &mut Report) -> Result<()> {
    let arch = if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Aarch64 };
    let mut book = RuleBook::new();
    let (mut all_bytes, mut all_rows) = (0, 0);
    for name in FILES {
        let Some(input) = largest(name)? else { continue };
        let raw = extract(&input, arch)?;
        let image = build(&raw, &mut book)?;
        let bytes = image.chunk_count() * CHUNK_BYTES + EXECUTABLE_BYTES;
        ensure!(image.rules_refused() == 0, "{name}: the book of rules is full");
        let input_rows = raw.report.input_rows as usize;
        report.note(
            &format!("{name}, {} functions", raw.report.functions),
            &format!(
                "{input_rows} rows, {} stored, {} rules, {:.2} bytes per row",
                raw.rows.len(),
                raw.rules.len(),
                bytes as f64 / input_rows as f64
            ),
        );
        (all_bytes, all_rows) = (all_bytes + bytes, all_rows + input_rows);
        let cost = costs(report, &input, &raw)?;
        ensure!(name != LARGE || cost <= MAX_LARGE, "the table of {name} took {cost:?}");
    }
    ensure!(all_rows > 0, "none of {FILES:?} is on this machine");
    let with_rules = all_bytes + book.count() * RULE_BYTES;
    let bytes_per_row = with_rules as f64 / all_rows as f64;
    report.note(
        &format!("all of them, with {} rules", book.count()),
        &format!("{all_rows} rows, {:.2} MB, {bytes_per_row:.2} bytes per row", with_rules as f64 / 1e6),
    );
    ensure!(bytes_per_row <= MAX_BYTES_PER_ROW, "{bytes_per_row:.2} bytes per row");
    Ok(())
}

/// What it takes until the chunks can be copied to the kernel, without a cached table, which is then written, and with
/// one. Returns the former.
fn costs(report: &mut Report, input: &Input, raw: &RawTable) -> Result<Duration> {
    let id = input.path.to_string_lossy();
    let directory = tempfile::tempdir()?;
    let cache = directory.path().join("table");
    let from_file = report.measure("  from the file", "tables", || {
        let made = extract(input, raw.arch)?;
        ensure!(made.rows.len() == raw.rows.len(), "another table than before");
        fs::write(&cache, encode(&made, &id))?;
        place(&made)
    })?;
    report.measure("  from the cache", "tables", || {
        let decoded = decode(&fs::read(&cache)?, &id, raw.arch)?;
        ensure!(decoded == *raw, "another table than was cached");
        place(&decoded)
    })?;
    report.note("  in the cache", &format!("{:.2} MB", fs::metadata(&cache)?.len() as f64 / 1e6));
    Ok(from_file)
}

fn place(raw: &RawTable) -> Result<u64> {
    let image = build(raw, &mut RuleBook::new())?;
    let ids: Vec<u32> = (0..image.chunk_count() as u32).collect();
    let placed = image.place(&ids).ok().context("as many ids as chunks")?;
    ensure!(placed.chunks.len() == ids.len(), "a chunk is missing");
    Ok(1)
}

/// The largest file whose name begins so, as large ones are what counts.
fn largest(name: &str) -> Result<Option<Input>> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().context("rustc did not run")?;
    let sysroot = String::from_utf8(sysroot.stdout)?;
    let mut folders = vec![Path::new(sysroot.trim()).join("lib")];
    folders.extend(FOLDERS.map(PathBuf::from));
    let machines = fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten();
    folders.extend(machines.map(|machine| machine.path().join("lib/server")));
    let mut found: Option<Input> = None;
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(name) {
            continue;
        }
        let Ok(path) = entry.path().canonicalize() else { continue };
        let bytes = path.metadata()?.len();
        if path.is_file() && found.as_ref().is_none_or(|found| found.bytes < bytes) && is_elf(&path)? {
            found = Some(Input { file: File::open(&path)?, path, bytes });
        }
    }
    Ok(found)
}

fn is_elf(path: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let file = File::open(path)?;
    Ok(file.read_at(&mut magic, 0)? == 4 && magic == *b"\x7fELF")
}
