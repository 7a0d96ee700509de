//! Right names: own code, libc, the vDSO, the kernel, a process that is gone.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};

use pyrite_model::{Avma, SymbolTable};
use pyrite_symbolizer::{Address, Executables, Miss, Symbolizer, SymbolizerConfig};

use super::{executable_mappings, in_file, open_mapped, own_address};

#[inline(never)]
fn a_function_of_this_test(n: u64) -> u64 {
    std::hint::black_box(n) + 1
}

fn symbolizer() -> Symbolizer {
    Symbolizer::new(SymbolizerConfig::default())
}

#[test]
fn own_code_is_demangled_and_cached() {
    let registry = Executables::new(16);
    let address = own_address(&registry, a_function_of_this_test as *const () as usize);
    let mut symbolizer = symbolizer();
    let first = symbolizer.resolve(&[address.clone(), address.clone()]);
    assert_eq!(&*first[0].frames[0].name, "it::names::a_function_of_this_test");
    assert!(first[0].frames[0].system_name.starts_with('_'), "{:?}", first[0]);
    assert_eq!(first[0].miss, None);
    assert_eq!(symbolizer.resolve(&[address])[0], first[0]);
    let stats = symbolizer.stats();
    assert_eq!((stats.hits, stats.lookups, stats.cached), (1, 2, 1));
}

#[test]
fn every_function_of_this_program_is_named_as_nm_names_it() {
    let registry = Executables::new(16);
    let Address::File { executable, offset } =
        own_address(&registry, a_function_of_this_test as *const () as usize)
    else {
        unreachable!("own code lies in a file")
    };
    let bias = executable.svma(offset).unwrap() - offset.0;
    let own_path = std::env::current_exe().unwrap();
    let nm = Command::new("nm").args(["-S", "--defined-only"]).arg(own_path).output().unwrap();
    let mut by_start: BTreeMap<u64, (u64, Vec<String>)> = BTreeMap::new();
    for line in String::from_utf8(nm.stdout).unwrap().lines() {
        if let [start, size, "t" | "T" | "w" | "W", name] = line.split(' ').collect::<Vec<_>>()[..] {
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            let entry = by_start.entry(hex(start)).or_default();
            entry.0 = entry.0.max(hex(size));
            entry.1.push(name.to_owned());
        }
    }
    assert!(by_start.len() > 1000);
    let middles = by_start.iter().map(|(start, (size, _))| in_file(&executable, start + size / 2 - bias));
    let symbols = symbolizer().resolve(&middles.collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for (symbol, (start, (_, names))) in symbols.iter().zip(&by_start) {
        let frame = &symbol.frames[0];
        let own = if frame.system_name.is_empty() { &frame.name } else { &frame.system_name };
        if !names.iter().any(|name| **name == **own) {
            wrong.push((start, names, own));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {:x?}", wrong.len(), symbols.len(), &wrong[..wrong.len().min(5)]);
}

#[test]
fn debug_information_gives_lines() {
    let registry = Executables::new(16);
    let address = own_address(&registry, a_function_of_this_test as *const () as usize);
    let config = SymbolizerConfig { debug_info: true, ..SymbolizerConfig::default() };
    let symbol = Symbolizer::new(config).resolve(&[address]).remove(0);
    let outer = symbol.frames.last().unwrap();
    assert!(outer.name.ends_with("a_function_of_this_test"), "{symbol:?}");
    assert!(outer.file.ends_with("names.rs") && outer.line > 0, "{symbol:?}");
}

#[test]
fn shared_libraries_answer_from_their_dynamic_symbols() {
    let registry = Executables::new(16);
    let address = own_address(&registry, libc::getpid as *const () as usize);
    let symbol = symbolizer().resolve(&[address]).remove(0);
    assert!(symbol.frames[0].name.ends_with("getpid"), "{symbol:?}");
    assert!(symbol.path.contains("libc.so"), "{symbol:?}");
    assert_eq!(symbol.executable.as_str().len(), 40, "a GNU build id: {symbol:?}");
}

#[test]
fn code_without_a_name_shows_file_and_offset() {
    let registry = Executables::new(16);
    let shell = std::fs::canonicalize("/bin/sh").unwrap();
    let executable = super::open_path(&registry, &shell);
    let basename = shell.file_name().unwrap().to_str().unwrap().to_owned();
    let mut symbolizer = symbolizer();
    let symbol = symbolizer.resolve(&[in_file(&executable, 0x7001)]).remove(0);
    assert_eq!(*symbol.frames[0].name, *format!("[{basename}+0x7001]"));
    let miss = symbol.miss.unwrap();
    assert!(matches!(miss, Miss::NoSymbols | Miss::NoSymbolHere), "{miss:?}");
    assert_eq!(symbolizer.stats().unknown[miss.index()], 1);
}

#[test]
fn the_vdso_has_names() {
    let vdso = Executables::vdso();
    assert_eq!(vdso.miss(), None);
    let addresses: Vec<_> = (0..0x2000).step_by(16).map(|offset| in_file(&vdso, offset)).collect();
    let symbols = symbolizer().resolve(&addresses);
    let clock = symbols.iter().find(|s| s.frames[0].name.ends_with("clock_gettime")).expect("clock_gettime");
    assert_eq!(&*clock.path, "[vdso]");
}

#[test]
fn kernel_functions_have_names() {
    let table = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let line = table.lines().find(|line| line.ends_with(" T vfs_read")).expect("vfs_read is not a module");
    let start = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    let symbol = symbolizer().resolve(&[Address::Kernel(Avma(start + 5))]).remove(0);
    if start == 0 {
        assert_eq!(symbol.miss, Some(Miss::NoKernelSymbols), "kptr_restrict hides the table from this user");
        assert_eq!(&*symbol.frames[0].name, "[kernel]");
    } else {
        assert_eq!((&*symbol.frames[0].name, &*symbol.path), ("vfs_read", "[kernel]"));
    }
}

#[test]
fn a_process_that_is_gone_still_has_names() {
    let registry = Executables::new(16);
    let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"x").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let mappings = executable_mappings(child.id());
    let libc = mappings.iter().find(|m| m.path.to_string_lossy().contains("/libc.so")).unwrap();
    let executable = open_mapped(&registry, child.id(), libc);
    drop(stdin);
    child.wait().unwrap();
    let addresses: Vec<_> = (libc.offset..libc.offset + (libc.end - libc.start))
        .step_by(64)
        .map(|offset| in_file(&executable, offset))
        .collect();
    let symbols = symbolizer().resolve(&addresses);
    let named = symbols.iter().filter(|s| s.miss.is_none()).count();
    assert!(named * 3 > symbols.len(), "{named} of {}", symbols.len());
    assert!(symbols.iter().any(|s| s.frames[0].name.contains("printf")));
}

#[test]
fn one_answer_per_address_in_order_and_into_a_symbol_table() {
    let registry = Executables::new(16);
    let own = own_address(&registry, a_function_of_this_test as *const () as usize);
    let libc = own_address(&registry, libc::getpid as *const () as usize);
    let addresses = [libc.clone(), Address::Unknown(Miss::Anonymous), own.clone(), libc, own];
    let symbols = symbolizer().resolve(&addresses);
    let mut table = SymbolTable::new();
    let locations: Vec<_> = symbols.iter().map(|symbol| symbol.intern(&mut table)).collect();
    assert_eq!((locations[0], locations[2]), (locations[3], locations[4]));
    assert_eq!(table.locations().len(), 3);
    let name = |i: usize| table.str(table.function(table.location(locations[i]).lines[0].function).name);
    assert_eq!(name(1), "[anonymous_memory]");
    assert_eq!(name(2), "it::names::a_function_of_this_test");
    assert!(table.location(locations[1]).mapping.is_none());
    let mapping = table.mapping(table.location(locations[0]).mapping.unwrap());
    assert_eq!(table.str(mapping.build_id), symbols[0].executable.as_str());
}
