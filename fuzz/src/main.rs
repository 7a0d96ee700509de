//! The fuzz targets: each a function of any bytes, which must neither panic nor hang nor eat memory.
//!
//! `PYRITE_FUZZ_TARGET` chooses one by name. With `PYRITE_FUZZ_SEEDS=DIR` the process only writes every target's seeds to
//! `DIR/NAME` and ends; `run.sh` does both.

#![no_main]

mod elf_file;
mod seeds;
mod targets;

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// A parser under test, and inputs to start from.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

const TARGETS: [Target; 19] = [
    Target { name: "archive", run: targets::archive, seeds: seeds::archive },
    Target { name: "elf", run: targets::elf, seeds: seeds::elf },
    Target { name: "ingest", run: targets::ingest, seeds: seeds::ingest },
    Target { name: "maps", run: targets::maps, seeds: seeds::maps },
    Target { name: "pprof", run: targets::pprof, seeds: seeds::pprof },
    Target { name: "push", run: targets::push, seeds: seeds::push },
    Target { name: "sample", run: targets::sample, seeds: seeds::sample },
    Target { name: "segment", run: targets::segment, seeds: seeds::segment },
    Target { name: "selector", run: targets::selector, seeds: seeds::selector },
    Target { name: "sideband", run: targets::sideband, seeds: seeds::sideband },
    Target { name: "stat", run: targets::stat, seeds: seeds::stat },
    Target { name: "unwind_cache", run: targets::unwind_cache, seeds: seeds::unwind_cache },
    Target { name: "unwind_cfi", run: targets::unwind_cfi, seeds: seeds::unwind_cfi },
    Target { name: "unwind_elf", run: targets::unwind_elf, seeds: seeds::elf },
    Target { name: "unwind_go", run: targets::unwind_go, seeds: seeds::unwind_go },
    Target { name: "unwind_lookup", run: targets::unwind_lookup, seeds: seeds::unwind_lookup },
    Target { name: "unwind_walk", run: targets::unwind_walk, seeds: seeds::unwind_walk },
    Target { name: "wal_file", run: targets::wal_file, seeds: seeds::wal_file },
    Target { name: "wal_record", run: targets::wal_record, seeds: seeds::wal_record },
];

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(init: {
    if let Some(directory) = std::env::var_os("PYRITE_FUZZ_SEEDS") {
        write_seeds(Path::new(&directory));
        std::process::exit(0);
    }
    let name = std::env::var("PYRITE_FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|target| target.name == name);
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    CHOSEN.get_or_init(|| target.unwrap_or_else(|| panic!("PYRITE_FUZZ_TARGET is {name:?}, not one of {names:?}")).run);
}, |data: &[u8]| {
    CHOSEN.get().expect("set before the first input")(data);
});

fn write_seeds(directory: &Path) {
    for target in &TARGETS {
        let directory = directory.join(target.name);
        std::fs::create_dir_all(&directory).expect("seeds can be written");
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(directory.join(number.to_string()), seed).expect("seeds can be written");
        }
    }
}
