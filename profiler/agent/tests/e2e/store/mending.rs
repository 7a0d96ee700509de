//! Damage to every kind of file: it is named, mended as far as it can be, and the rest answers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Data, HOUR_MS, content, files, pprof, push_to, store};
use crate::pyrite::{Pyrite, now_ms};

/// What becomes of a file, and what of the data after repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing is lost.
    Whole,
    /// The rows of a segment, or the names of stacks.
    Less,
}

/// Every kind of file, where it is, and what losing the middle of one means.
const KINDS: [(&str, Fate); 11] = [
    ("segments/*/samples.parquet", Fate::Less),
    ("segments/*/stacks.parquet", Fate::Less),
    ("segments/*/segment.json", Fate::Less),
    ("segments/*/series.parquet", Fate::Whole),
    ("dictionaries/*/*/stacks.parquet", Fate::Less),
    ("dictionaries/*/*/functions.parquet", Fate::Less),
    ("dictionaries/*/*/locations.parquet", Fate::Less),
    ("dictionaries/*/*/mappings.parquet", Fate::Less),
    ("dictionaries/*/*/part.json", Fate::Less),
    ("catalogue.sqlite", Fate::Whole),
    ("format", Fate::Whole),
];

/// The first file that a pattern names; its stars are whole names.
fn find(dir: &Path, pattern: &str) -> PathBuf {
    let matches = |path: &PathBuf| {
        let relative = path.strip_prefix(dir).expect("below it");
        let parts: Vec<_> = relative.iter().filter_map(|part| part.to_str()).collect();
        let wanted: Vec<&str> = pattern.split('/').collect();
        parts.len() == wanted.len()
            && wanted.iter().zip(&parts).all(|(want, part)| want == part || *want == "*")
    };
    files(dir).into_iter().find(matches).unwrap_or_else(|| panic!("no {pattern}"))
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("ours");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("inside");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("ours to write");
}

#[test]
fn every_damaged_file_is_named_and_mended_and_the_rest_answers() {
    let data = Data::new();
    let graphs = data.flame_graphs(data.copy().path());
    let total = |graphs: &[BTreeMap<String, i64>]| graphs.iter().flat_map(BTreeMap::values).sum::<i64>();
    for (pattern, fate) in KINDS {
        for damage in ["flipped", "cut", "missing"] {
            let copy = data.copy();
            let file = find(copy.path(), pattern);
            let length = fs::metadata(&file).expect("a file").len();
            // Of two bytes, the first is as good as both.
            let middle = if length > 2 { length / 2 } else { 0 };
            match damage {
                // SQLite keeps free space in the middle of pages; the header of a page is used for sure.
                "flipped" if pattern.ends_with("sqlite") => (0..8).for_each(|at| flip(&file, 4096 + at)),
                "flipped" => flip(&file, middle),
                "cut" => fs::OpenOptions::new()
                    .write(true)
                    .open(&file)
                    .and_then(|f| f.set_len(middle))
                    .expect("ours"),
                _ => fs::remove_file(&file).expect("ours"),
            }
            let what = format!("{pattern} {damage}");
            let found = store("check", copy.path(), &[]);
            assert_eq!(found.code, Some(1), "{what}: {}", found.all());
            let named =
                if pattern.starts_with("dictionaries") { file.parent().expect("a part") } else { &file };
            assert!(found.out.contains(named.to_str().expect("UTF-8")), "{what}: {}", found.all());
            if pattern.starts_with("segments") {
                assert!(found.out.contains(" rows from 20"), "{what}: {}", found.all());
            }
            let before = content(copy.path());
            let plan = store("repair", copy.path(), &["--dry-run"]);
            assert!(plan.code == Some(1) && plan.out.contains("would: "), "{what}: {}", plan.all());
            assert_eq!(content(copy.path()), before, "{what}");
            let repaired = store("repair", copy.path(), &[]).succeeded();
            assert!(repaired.out.contains("done: "), "{what}: {}", repaired.all());
            let clean = store("check", copy.path(), &[]);
            assert_eq!(clean.code, Some(0), "{what}: {}{}", repaired.all(), clean.all());
            let left = data.flame_graphs(copy.path());
            let same_total = total(&left) == total(&graphs);
            match fate {
                Fate::Whole => assert_eq!(left, graphs, "{what}: {}", repaired.all()),
                // Names are lost, and no value.
                Fate::Less if pattern.starts_with("dictionaries") => {
                    assert!(same_total && left != graphs, "{what}: {left:?}");
                }
                Fate::Less => assert!(total(&left) > 0 && !same_total, "{what}: {left:?}"),
            }
        }
    }
}

#[test]
fn bytes_that_have_no_checksum_are_looked_at_too() {
    let data = Data::new();
    let before = content(data.path());
    for pattern in ["segments/*/samples.parquet", "dictionaries/*/*/locations.parquet"] {
        let file = find(data.path(), pattern);
        flip(&file, 1);
        let mut bytes = fs::read(&file).expect("legible");
        bytes.extend_from_slice(b"more");
        fs::write(&file, bytes).expect("ours");
        let found = store("check", data.path(), &[]);
        assert!(
            found.code == Some(1) && found.out.contains(file.to_str().expect("UTF-8")),
            "{}",
            found.all()
        );
    }
    let repaired = store("repair", data.path(), &[]).succeeded();
    let mut after = content(data.path());
    let is_table = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
    after.retain(|path, _| is_table(path));
    let mut before = before;
    before.retain(|path, _| is_table(path));
    assert_eq!(after, before, "{}", repaired.all());
}

#[test]
fn a_damaged_log_is_named_and_what_is_whole_in_it_stays() {
    let dir = TempDir::new().expect("a directory");
    let pyrite = Pyrite::server(dir.path());
    let time = now_ms() - HOUR_MS;
    for _ in 0..2 {
        let cpu = pprof(["cpu", "nanoseconds", "cpu", "nanoseconds"], time, &[("leaf", 5)]);
        push_to(&pyrite, "process_cpu", "shop", &cpu);
    }
    pyrite.kill();
    let sound = store("check", dir.path(), &[]).succeeded();
    assert!(sound.out.contains("2 rows read"), "{}", sound.out);
    let log = find(dir.path(), "wal/*");
    flip(&log, fs::metadata(&log).expect("a file").len() - 2);
    let found = store("check", dir.path(), &[]);
    let named = found.out.contains(log.to_str().expect("UTF-8")) && found.out.contains("checksum");
    assert!(found.code == Some(1) && named, "{}", found.all());
    assert!(found.out.contains("the 1 rows before it, up to 20"), "{}", found.all());
    store("repair", dir.path(), &[]).succeeded();
    let stats: Value =
        serde_json::from_str(&store("stats", dir.path(), &["--json"]).succeeded().out).expect("JSON");
    assert_eq!((&stats["rows"], stats["cut_bytes"].as_u64() > Some(0)), (&json!(1), true), "{stats}");
}

#[test]
fn a_segment_deleted_by_hand_is_named_with_its_rows() {
    let data = Data::new();
    let segment = find(data.path(), "segments/*/segment.json");
    let segment = segment.parent().expect("a segment");
    fs::remove_dir_all(segment).expect("ours");
    let name = segment.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    let found = store("check", data.path(), &[]);
    let said = format!("segment {name} is gone; it concerns ");
    assert!(found.code == Some(1) && found.out.contains(&said), "{}", found.all());
    store("repair", data.path(), &[]).succeeded();
    store("check", data.path(), &[]).succeeded();
}
