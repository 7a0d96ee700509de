//! CPU and memory on the largest binaries of this machine: prints a table and holds the bound.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use pyrite_model::Avma;
use pyrite_symbolizer::{Address, Executables, Symbolizer, SymbolizerConfig};

use super::{in_file, open_path};

/// What symbolization may hold in all, the kernel's table included.
const BUDGET_KB: usize = 25 << 10;
const ADDRESSES: u64 = 10_000;

fn rss_kb(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn big_binaries() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        ["/usr/bin/node", "/usr/bin/podman", "/usr/lib/chromium/chromium"].map(PathBuf::from).into();
    let toolchain = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let toolchain = String::from_utf8(toolchain).unwrap();
    for dir in [Path::new(toolchain.trim_end()).join("lib"), "/usr/lib/x86_64-linux-gnu".into()] {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        found.extend(entries.map(|e| e.path()).filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("librustc_driver") || name.starts_with("libLLVM-1")
        }));
    }
    found.retain(|path| std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() > 10 << 20));
    found
}

#[test]
fn big_binaries_stay_within_the_budget() {
    let registry = Executables::new(16);
    let mut symbolizer = Symbolizer::new(SymbolizerConfig::default());
    let before = rss_kb("RssAnon");
    let started = Instant::now();
    let kernel: Vec<_> =
        (0..ADDRESSES).map(|i| Address::Kernel(Avma(0xffff_ffff_8100_0000 + i * 997))).collect();
    let named = symbolizer.resolve(&kernel).iter().filter(|s| s.miss.is_none()).count();
    report("kernel", started, before, named);
    for path in big_binaries() {
        let started = Instant::now();
        let executable = open_path(&registry, &path);
        let bytes = std::fs::metadata(&path).unwrap().len();
        let addresses: Vec<_> = (0..ADDRESSES).map(|i| in_file(&executable, bytes / ADDRESSES * i)).collect();
        let named = symbolizer.resolve(&addresses).iter().filter(|s| s.miss.is_none()).count();
        report(&path.to_string_lossy(), started, before, named);
    }
    println!("{:?}", symbolizer.stats());
    let grown = rss_kb("RssAnon").saturating_sub(before);
    assert!(grown < BUDGET_KB, "{grown} kB");
    let stats = symbolizer.stats();
    assert!(stats.cached_bytes <= 8 << 20 && stats.index_bytes <= 12 << 20);
}

fn report(what: &str, started: Instant, before: usize, named: usize) {
    let grown = rss_kb("RssAnon").saturating_sub(before);
    let ms = started.elapsed().as_millis();
    println!(
        "{what}: {ADDRESSES} addresses, {named} named, {ms} ms, anon +{grown} kB, file {} kB",
        rss_kb("RssFile")
    );
}
