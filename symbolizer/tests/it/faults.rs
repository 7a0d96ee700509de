//! Files that are torn, replaced, truncated, special or hostile: a reason, never a panic or a hang.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pyrite_symbolizer::{Executables, Miss, Symbolizer, SymbolizerConfig};

use super::{in_file, key_of, open_path};

fn check_open(path: &Path, expect: Miss) {
    let registry = Executables::new(4);
    let executable = open_path(&registry, path);
    assert_eq!(executable.miss(), Some(expect), "{}", path.display());
    assert_eq!(registry.stats().failed[expect.index()], 1);
    let symbol =
        Symbolizer::new(SymbolizerConfig::default()).resolve(&[in_file(&executable, 0x10)]).remove(0);
    assert_eq!(symbol.miss, Some(expect));
    let basename = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(*symbol.frames[0].name, *format!("[{basename}+0x10]"));
}

#[test]
fn special_files_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    check_open(&fifo, Miss::NotRegular);
    check_open(Path::new("/dev/zero"), Miss::NotRegular);
    check_open(dir.path(), Miss::NotRegular);
    let text = dir.path().join("text");
    fs::write(&text, "#!/bin/sh\n").unwrap();
    check_open(&text, Miss::NotElf);
    let sparse = dir.path().join("sparse");
    fs::File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
    check_open(&sparse, Miss::NotElf);
}

#[test]
fn another_file_under_the_old_name_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    fs::copy("/bin/sh", &path).unwrap();
    let key = key_of(&path);
    let keep_inode_in_use = dir.path().join("old");
    fs::rename(&path, keep_inode_in_use).unwrap();
    fs::copy("/bin/cat", &path).unwrap();
    let registry = Executables::new(4);
    let gone = PathBuf::from("/nonexistent/program");
    assert_eq!(registry.open(key, &path, &[path.clone(), gone.clone()]).miss(), Some(Miss::OtherFile));
    assert_eq!(registry.open(key, &path, &[gone]).miss(), Some(Miss::NotFound));
    assert_eq!(registry.stats().open, 0);
}

#[test]
fn a_file_changed_in_place_loses_its_names_until_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    fs::copy("/proc/self/exe", &path).unwrap();
    let registry = Executables::new(4);
    let executable = open_path(&registry, &path);
    assert_eq!(executable.miss(), None);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2000).unwrap();
    let mut symbolizer = Symbolizer::new(SymbolizerConfig::default());
    let symbol = symbolizer.resolve(&[in_file(&executable, 0x50000)]).remove(0);
    assert_eq!(symbol.miss, Some(Miss::Changed));
    let reopened = open_path(&registry, &path);
    assert_ne!(reopened.id().as_str(), "");
    assert_eq!(registry.stats().replaced, 1);
    let symbol = symbolizer.resolve(&[in_file(&reopened, 0x50000)]).remove(0);
    assert_eq!(symbol.miss, Some(Miss::NoSymbols), "the section table was cut off");
}

#[test]
fn an_unlinked_file_keeps_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libc.so");
    fs::copy(libc_path(), &path).unwrap();
    let registry = Executables::new(4);
    let executable = open_path(&registry, &path);
    fs::remove_file(&path).unwrap();
    let addresses: Vec<_> = (0x28000..0x100_000).step_by(64).map(|at| in_file(&executable, at)).collect();
    let symbols = Symbolizer::new(SymbolizerConfig::default()).resolve(&addresses);
    assert!(symbols.iter().any(|s| s.miss.is_none()));
}

#[test]
fn torn_and_mutated_files_never_panic() {
    let original = fs::read(libc_path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let sections_at = original.len() - 4096;
    for round in 0..300 {
        let mut bytes = original.clone();
        let cut = if round % 3 == 0 { next(bytes.len()) } else { bytes.len() };
        for _ in 0..=round % 8 {
            let at = if next(2) == 0 { next(1024) } else { sections_at + next(4096) };
            bytes[at] = next(256) as u8;
        }
        // Spare the magic often enough that the parser behind it is reached.
        bytes[..6].copy_from_slice(&original[..6]);
        let path = dir.path().join(format!("mutant{round}"));
        fs::write(&path, &bytes[..cut]).unwrap();
        let executable = open_path(&Executables::new(4), &path);
        let addresses: Vec<_> = (0..0x1d0_000).step_by(0x10000).map(|at| in_file(&executable, at)).collect();
        let symbols = Symbolizer::new(SymbolizerConfig::default()).resolve(&addresses);
        assert!(symbols.iter().all(|s| s.frames.len() == 1));
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn open_files_stay_within_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Executables::new(8);
    let executables: Vec<_> = (0..40)
        .map(|i| {
            let path = dir.path().join(format!("copy{i}"));
            fs::copy("/bin/cat", &path).unwrap();
            open_path(&registry, &path)
        })
        .collect();
    let stats = registry.stats();
    assert_eq!((stats.opened, stats.open, stats.evicted), (40, 8, 32));
    assert_eq!(executables.iter().filter(|e| e.miss() == Some(Miss::Closed)).count(), 32);
    assert_eq!(executables[39].miss(), None);
    assert!(executables.iter().all(|e| e.id() == executables[0].id()), "equal bytes, equal id");
}

fn libc_path() -> PathBuf {
    let mappings = super::executable_mappings(std::process::id());
    mappings.into_iter().find(|m| m.path.to_string_lossy().contains("/libc.so")).unwrap().path
}
