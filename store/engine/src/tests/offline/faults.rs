//! A bit flipped anywhere is found, row groups that are sound outlive others that are not, and repair may stop between any
//! two file operations.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pyrite_model::{Row, Tenants, UnixMs};

use super::{HOUR_MS, TENANTS, checked, copy, fill_all, told, told_to};
use crate::catalogue::Retired;
use crate::files::{FileLayer, RealFiles};
use crate::offline::{Remedy, check, check_locked, compact, keeping_all, repair, repair_on, stats};
use crate::segment::manifest::Manifest;
use crate::segment::schema::{self, Packing, SAMPLES};
use crate::table::{Column, TableWriter};
use crate::tests::faults::{FaultyFiles, Op};
use crate::tests::{EVERYTHING, batch, memory_dir};
use crate::{Limits, Store, StoreConfig, StoreError};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn is_of(path: &Path, name: &str) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with(name)
}

/// Whether a check names the file, or the part of a dictionary that it is in.
fn is_named(dir: &Path, file: &Path) -> bool {
    let report = check(dir, &mut |_| {}).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    report.findings.iter().any(|damage| file.starts_with(&damage.file))
}

#[test]
fn a_flipped_bit_in_any_file_is_found() {
    /// Every byte would take minutes; this is prime to all lengths in the files.
    const STEP: usize = 97;
    let dir = memory_dir();
    fill_all(dir.path());
    assert_eq!(checked(dir.path()).findings, []);
    let mut names = BTreeSet::new();
    for file in files_below(dir.path()) {
        if is_of(&file, "catalogue") || is_of(&file, "lock") {
            continue;
        }
        let bytes = fs::read(&file).unwrap();
        for at in (0..bytes.len()).step_by(STEP).chain([bytes.len() - 1]) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fs::write(&file, flipped).unwrap();
            assert!(is_named(dir.path(), &file), "{} at {at}", file.display());
        }
        fs::write(&file, bytes).unwrap();
        names.insert(file.file_name().unwrap().to_str().unwrap().to_owned());
    }
    for name in [
        "0000000000000003.wal",
        "format",
        "functions.parquet",
        "locations.parquet",
        "mappings.parquet",
        "part.json",
        "rollup-60s.parquet",
        "samples.parquet",
        "segment.json",
        "series.parquet",
        "stacks.parquet",
        "totals-60s.parquet",
        "totals.parquet",
    ] {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
    assert_eq!(checked(dir.path()).findings, []);
}

/// Pages have room that nothing is in.
#[test]
fn a_flipped_bit_in_the_catalogue_is_found_or_means_nothing() {
    const STEP: usize = 331;
    let dir = memory_dir();
    fill_all(dir.path());
    let before = told(dir.path());
    let bytes = fs::read(dir.path().join("catalogue.sqlite")).unwrap();
    let mut found = 0;
    for at in (0..bytes.len()).step_by(STEP) {
        let damaged = copy(dir.path());
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(damaged.path().join("catalogue.sqlite"), flipped).unwrap();
        match check(damaged.path(), &mut |_| {}) {
            Ok(report) if report.findings.is_empty() => {}
            Ok(report) => {
                found += 1;
                let remedies = report.remedies();
                assert!(remedies.iter().all(|it| it.1 == Remedy::RebuildCatalogue), "{at}: {report:?}");
                let repaired = repair(damaged.path(), &mut |_| {}).unwrap();
                assert!(repaired.after.findings.is_empty(), "{at}: {repaired:?}");
            }
            // It looks like that of a newer release.
            Err(StoreError::Newer { .. }) => continue,
            Err(error) => panic!("{at}: {error}"),
        }
        assert_eq!(told(damaged.path()), before, "{at}");
    }
    assert!(found > 5, "{found} found");
}

/// Writes the samples of a segment anew as two row groups, the second from an instant on.
fn split(segment: &Path, at_ms: i64) {
    let mut manifest = Manifest::read(&RealFiles, segment).unwrap();
    let table = manifest.open_table(&RealFiles, segment, SAMPLES.file).unwrap();
    let group = table.row_group(0).unwrap();
    let (series, times) = (group.u32s(0).unwrap(), group.i64s(1).unwrap());
    let (stacks, values) = (group.u32s(2).unwrap(), group.i64s(3).unwrap());
    let path = segment.join(SAMPLES.file);
    let mut writer =
        TableWriter::create(&RealFiles, path, SAMPLES.schema, schema::properties(Packing::Zstd)).unwrap();
    let is_first = |i: &usize| times[*i] < at_ms;
    let (first, second): (Vec<usize>, Vec<usize>) = (0..times.len()).partition(is_first);
    manifest.windows.clear();
    for rows in [first, second] {
        let u32s = |column: &[u32]| Column::U32(rows.iter().map(|&i| column[i]).collect());
        let i64s = |column: &[i64]| Column::I64(rows.iter().map(|&i| column[i]).collect());
        writer.write(&[u32s(&series), i64s(&times), u32s(&stacks), i64s(&values)]).unwrap();
        let times = || rows.iter().map(|&i| times[i]);
        manifest.windows.push((times().min().unwrap(), times().max().unwrap()));
    }
    manifest.tables.insert(SAMPLES.file.to_owned(), writer.finish().unwrap());
    manifest.write(&RealFiles, segment).unwrap();
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// All of [`fill_all`], with a row group of the first segment damaged; says which file that is.
fn damage_one_of_two_row_groups(dir: &Path) -> PathBuf {
    fill_all(dir);
    let segment = &segments(dir)[0];
    split(segment, 200_000);
    // SQLite is told of the new length when it is made anew.
    fs::remove_file(dir.join("catalogue.sqlite")).unwrap();
    drop(super::open(dir));
    assert_eq!(checked(dir).findings, []);
    let manifest = Manifest::read(&RealFiles, segment).unwrap();
    let samples = segment.join(SAMPLES.file);
    flip(&samples, manifest.tables[SAMPLES.file].row_groups[1].offset as usize + 9);
    samples
}

#[test]
fn rows_that_are_sound_outlive_those_beside_them_that_are_not() {
    let dir = memory_dir();
    let samples = damage_one_of_two_row_groups(dir.path());
    let report = checked(dir.path());
    let [damage] = &report.findings[..] else { panic!("{report:?}") };
    assert!(damage.file == samples && matches!(damage.remedy, Remedy::SaveRows(_)), "{damage:?}");
    // From 200 to 300 s, every ten, of three tenants.
    let range = damage.range.unwrap();
    assert_eq!((damage.rows, range.start, range.end), (Some(33), UnixMs(200_000), UnixMs(300_000)));
    let damaged = fs::read(&samples).unwrap();
    let repaired = repair(dir.path(), &mut |_| {}).unwrap();
    assert!(repaired.after.findings.is_empty(), "{repaired:?}");
    let stats = stats(dir.path()).unwrap();
    assert_eq!(stats.rows, 270 - 33);
    let quarantine = stats.quarantine;
    assert_eq!((quarantine.segments, quarantine.rows), (1, 33));
    assert_eq!((quarantine.oldest_ms, quarantine.newest_ms), (Some(200_000), Some(300_000)));
    let kept = files_below(&dir.path().join("quarantine"));
    let kept = kept.iter().find(|path| is_of(path, SAMPLES.file)).unwrap();
    assert_eq!(fs::read(kept).unwrap(), damaged);
    // What is left of a minute is what its sums say.
    let left = told(dir.path());
    for (tenant, told) in TENANTS.iter().zip(left) {
        assert!(told.contains(&format!("main;leaf 0 of {tenant}")), "{told}");
    }
}

/// Names of segments and their rows, so that what is doubled or lost shows.
fn rows_of_tenants(dir: &Path) -> Vec<(String, u64)> {
    stats(dir).unwrap().tenants.into_iter().map(|it| (it.tenant, it.rows)).collect()
}

#[test]
fn repair_may_stop_between_any_two_operations() {
    let damaged = memory_dir();
    damage_one_of_two_row_groups(damaged.path());
    let second = &segments(damaged.path())[1];
    flip(&second.join("rollup-60s.parquet"), 40);
    flip(&second.join("series.parquet"), 40);
    let mended = copy(damaged.path());
    assert!(repair(mended.path(), &mut |_| {}).unwrap().after.findings.is_empty());
    let (expected, rows) = (told(mended.path()), rows_of_tenants(mended.path()));
    assert_eq!(rows.iter().map(|(_, rows)| rows).sum::<u64>(), 270 - 33);
    for power_fails in [false, true] {
        let mut operations = 0;
        loop {
            let dir = copy(damaged.path());
            let faulty = FaultyFiles::default();
            faulty.crash_after(operations);
            let files: Arc<dyn FileLayer> = Arc::new(faulty.clone());
            // That it fails is what the test is about.
            let _ = repair_on(&files, dir.path(), &mut |_| {});
            let crashed = faulty.crashed();
            if power_fails {
                faulty.lose_power();
            }
            let repaired = repair(dir.path(), &mut |_| {}).unwrap();
            let what = format!("{operations} operations, power fails: {power_fails}: {repaired:?}");
            assert!(repaired.after.findings.is_empty(), "{what}");
            assert_eq!(rows_of_tenants(dir.path()), rows, "{what}");
            assert_eq!(told(dir.path()), expected, "{what}");
            if !crashed {
                break;
            }
            operations += 1;
        }
        assert!(operations > 60, "repair is {operations} operations only");
    }
}

#[test]
fn a_dictionary_larger_than_any_is_damage_and_not_made_up() {
    let dir = memory_dir();
    fill_all(dir.path());
    let segment = &segments(dir.path())[0];
    let mut manifest = Manifest::read(&RealFiles, segment).unwrap();
    manifest.dictionary.as_mut().unwrap().stacks = usize::MAX / 2;
    manifest.write(&RealFiles, segment).unwrap();
    let report = checked(dir.path());
    assert!(report.findings.iter().any(|damage| damage.what.contains("larger than any")), "{report:?}");
    // What the catalogue knows of it says when its rows were.
    let damage = report.findings.iter().find(|damage| damage.file.ends_with("segment.json")).unwrap();
    assert!(damage.rows == Some(90) && damage.range.is_some_and(|range| range.end.0 < HOUR_MS), "{damage:?}");
}

/// Has queries meet damage of sums, so that they set the segment aside.
fn set_aside_by_queries(dir: &Path) {
    let totals = segments(dir)[0].join("totals-60s.parquet");
    let end = fs::read(&totals).unwrap().len();
    flip(&totals, end - 12);
    let before = rows_of_tenants(dir);
    told(dir);
    assert_ne!(rows_of_tenants(dir), before);
}

#[test]
fn what_queries_have_set_aside_is_in_use_again_as_far_as_it_is_sound() {
    let dir = memory_dir();
    fill_all(dir.path());
    let before = told(dir.path());
    set_aside_by_queries(dir.path());
    let report = checked(dir.path());
    let [damage] = &report.findings[..] else { panic!("{report:?}") };
    assert!(matches!(damage.remedy, Remedy::BringBack(_)) && damage.rows == Some(90), "{damage:?}");
    let repaired = repair(dir.path(), &mut |_| {}).unwrap();
    assert!(repaired.after.findings.is_empty(), "{repaired:?}");
    assert_eq!(told(dir.path()), before);
    assert_eq!(stats(dir.path()).unwrap().quarantine.segments, 0);

    let dir = memory_dir();
    damage_one_of_two_row_groups(dir.path());
    set_aside_by_queries(dir.path());
    assert_eq!(checked(dir.path()).findings[0].rows, Some(90 - 33));
    for _ in 0..2 {
        let repaired = repair(dir.path(), &mut |_| {}).unwrap();
        assert!(repaired.after.findings.is_empty(), "{repaired:?}");
        let stats = stats(dir.path()).unwrap();
        assert_eq!((stats.rows, stats.quarantine.segments, stats.quarantine.rows), (270 - 33, 1, 33));
    }
}

#[test]
fn what_a_damaged_segment_was_merged_from_takes_its_place_again() {
    let dir = memory_dir();
    fill_all(dir.path());
    let before = told(dir.path());
    let sources = segments(dir.path());
    let merged = copy(dir.path());
    compact(merged.path(), &mut |_| {}).unwrap();
    let [segment] = &segments(merged.path())[..] else { panic!("{sources:?}") };
    split(segment, HOUR_MS);
    let manifest = Manifest::read(&RealFiles, segment).unwrap();
    flip(&segment.join(SAMPLES.file), manifest.tables[SAMPLES.file].row_groups[0].offset as usize + 9);
    // Both are there, as when a crash comes between the name of the new one and the end of the old ones.
    let place = dir.path().join("segments").join(segment.file_name().unwrap());
    assert!(Command::new("cp").arg("-a").arg(segment).arg(&place).status().unwrap().success());
    let report = checked(dir.path());
    assert!(report.findings.iter().any(|damage| matches!(damage.remedy, Remedy::SaveRows(_))), "{report:?}");
    let repaired = repair(dir.path(), &mut |_| {}).unwrap();
    assert!(repaired.after.findings.is_empty(), "{repaired:?}");
    assert_eq!(segments(dir.path()), sources);
    assert_eq!(told(dir.path()), before);
}

/// Three segments, each of a dictionary of its own.
fn fill_with_dictionaries(dir: &Path) -> Store {
    let limits = Limits { sums_from_rows: 1, dictionary_stacks: 2, ..Limits::default() };
    let config = StoreConfig { limits, ..keeping_all(dir) };
    let (store, _) = Store::open_on(config, Arc::new(RealFiles), Arc::new(|| UnixMs(0))).unwrap();
    for part in 0..3 {
        let mut batch = batch("a", 0, &format!("leaf {part}"), 1);
        let stack = batch.series[0].rows[0].stack;
        let row = |i: i64| Row { time: UnixMs(part * HOUR_MS + i * 10_000), stack, value: i };
        batch.series[0].rows = (1..=30).map(row).collect();
        store.append_blocking(batch).unwrap();
        store.flush().unwrap();
    }
    store
}

#[test]
fn what_is_set_aside_keeps_its_names() {
    let dir = memory_dir();
    let store = fill_with_dictionaries(dir.path());
    let totals = segments(dir.path())[0].join("totals-60s.parquet");
    let end = fs::read(&totals).unwrap().len();
    flip(&totals, end - 12);
    told_to(&store, &Tenants::default());
    assert_eq!(stats(dir.path()).unwrap().quarantine.segments, 1);
    // When another segment goes, so do the dictionaries that nothing needs any more.
    let shared = store.maintenance().shared();
    let gone = shared.view().segments[1].name.clone();
    shared.catalogue.retire(&gone, Retired::Removed).unwrap();
    shared.doom(std::slice::from_ref(&gone));
    let dictionaries = dir.path().join("dictionaries");
    for _ in 0..100 {
        shared.remove_doomed().unwrap();
        if !dictionaries.join("00000003").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(!dictionaries.join("00000003").exists());
    store.close().unwrap();
    drop(store);
    let repaired = repair(dir.path(), &mut |_| {}).unwrap();
    assert!(repaired.after.findings.is_empty(), "{repaired:?}");
    let told = told(dir.path());
    for leaf in ["main;leaf 0", "main;leaf 1"] {
        assert!(told[0].contains(leaf), "{leaf} is not in {}", told[0]);
    }
}

/// Its other rows are in use elsewhere, and would be there twice.
#[test]
fn a_copy_is_known_for_one_without_its_note() {
    let dir = memory_dir();
    damage_one_of_two_row_groups(dir.path());
    repair(dir.path(), &mut |_| {}).unwrap();
    // Merged with others, so that nothing in use has the name of the one that it is a copy of.
    compact(dir.path(), &mut |_| {}).unwrap();
    let before = (told(dir.path()), rows_of_tenants(dir.path()));
    let notes = fs::read_dir(dir.path().join("quarantine")).unwrap().map(|entry| entry.unwrap().path());
    for note in notes.filter(|path| path.is_file()) {
        fs::remove_file(note).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(checked(dir.path()).findings, []);
        assert!(repair(dir.path(), &mut |_| {}).unwrap().done.is_empty());
        assert_eq!((told(dir.path()), rows_of_tenants(dir.path())), before);
    }
}

#[test]
fn what_was_merged_does_not_come_back_beside_what_it_was_made_of() {
    let dir = memory_dir();
    fill_all(dir.path());
    let before = (told(dir.path()), segments(dir.path()));
    let merged = copy(dir.path());
    compact(merged.path(), &mut |_| {}).unwrap();
    let [segment] = &segments(merged.path())[..] else { panic!("{before:?}") };
    let place = dir.path().join("quarantine").join(segment.file_name().unwrap());
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-a").arg(segment).arg(&place).status().unwrap().success());
    assert_eq!(checked(dir.path()).findings, []);
    repair(dir.path(), &mut |_| {}).unwrap();
    assert_eq!((told(dir.path()), segments(dir.path())), before);
    assert!(place.exists());
}

/// As a disk does with a bad sector.
fn no_reading(of: &Path) -> (Arc<dyn FileLayer>, String) {
    let (faulty, of) = (FaultyFiles::default(), of.to_owned());
    let named = of.display().to_string();
    faulty.set_read_rule(move |path| (path == of).then(|| std::io::Error::from_raw_os_error(EIO)));
    let files: Arc<dyn FileLayer> = Arc::new(faulty);
    (files, named)
}

const EIO: i32 = 5;

#[test]
fn what_the_system_does_not_read_is_named_and_the_rest_is_checked() {
    let dir = memory_dir();
    fill_all(dir.path());
    let [first, second] = &segments(dir.path())[..] else { panic!("two segments") };
    let damaged = second.join("rollup-60s.parquet");
    flip(&damaged, 40);
    let of_first = files_below(first).into_iter();
    let others = [dir.path().join("dictionaries"), dir.path().join("wal")];
    let mut looked_at = 0;
    for file in of_first.chain(others.iter().flat_map(|dir| files_below(dir))) {
        let (files, name) = no_reading(&file);
        let report = check_locked(&files, dir.path(), &mut |_| {}).unwrap();
        let [unreadable] = &report.unreadable[..] else { panic!("{name}: {report:?}") };
        assert!(unreadable.contains(&name) && unreadable.contains("Input/output error"), "{unreadable}");
        let [damage] = &report.findings[..] else { panic!("{name}: {report:?}") };
        assert_eq!(damage.file, damaged);
        looked_at += 1;
    }
    assert!(looked_at > 10, "{looked_at} files");
}

#[test]
fn a_segment_that_the_system_does_not_read_is_left_and_others_are_mended() {
    let dir = memory_dir();
    fill_all(dir.path());
    let before = told(dir.path());
    let [first, second] = &segments(dir.path())[..] else { panic!("two segments") };
    // Damage that could be mended with what cannot be read.
    for segment in [first, second] {
        flip(&segment.join("rollup-60s.parquet"), 40);
    }
    let (files, name) = no_reading(&first.join("stacks.parquet"));
    let repaired = repair_on(&files, dir.path(), &mut |_| {}).unwrap();
    let [left] = &repaired.after.findings[..] else { panic!("{repaired:?}") };
    assert_eq!((&left.file, &left.remedy), (&first.join("rollup-60s.parquet"), &Remedy::Leave));
    assert!(repaired.after.unreadable[0].contains(&name), "{repaired:?}");
    assert!(first.exists() && !second.exists(), "{repaired:?}");
    // Read again, as a disk does that was not plugged in well.
    assert!(repair(dir.path(), &mut |_| {}).unwrap().after.findings.is_empty());
    assert_eq!(told(dir.path()), before);
}

#[test]
fn what_the_system_does_not_read_does_not_go_out() {
    let dir = memory_dir();
    fill_all(dir.path());
    let (files, name) = no_reading(&segments(dir.path())[0].join("stacks.parquet"));
    let store = Store::open_on(keeping_all(dir.path()), files, Arc::new(|| UnixMs(0))).unwrap().0;
    let refused = store.export_archive(EVERYTHING, Vec::new(), &mut |_| {}).unwrap_err();
    assert!(refused.to_string().contains(&name), "{refused}");
}

#[test]
fn a_repair_that_has_no_room_makes_one_copy_however_often_it_is_tried() {
    let dir = memory_dir();
    damage_one_of_two_row_groups(dir.path());
    let faulty = FaultyFiles::default();
    faulty.set_rule(|op, path| {
        let is_new = op == Op::Create && path.parent().is_some_and(|parent| is_of(parent, "tmp-0"));
        let is_segment = path.components().any(|part| part.as_os_str() == "segments");
        (is_new && is_segment).then(|| std::io::ErrorKind::StorageFull.into())
    });
    let files: Arc<dyn FileLayer> = Arc::new(faulty);
    for _ in 0..3 {
        assert!(repair_on(&files, dir.path(), &mut |_| {}).unwrap_err().is_disk_full());
        let quarantine = stats(dir.path()).unwrap().quarantine;
        assert_eq!((quarantine.segments, quarantine.rows), (1, 33));
    }
    assert!(repair(dir.path(), &mut |_| {}).unwrap().after.findings.is_empty());
    assert_eq!(stats(dir.path()).unwrap().quarantine.segments, 1);
}
