//! One damaged segment of ten: the rest answers, and what is missing is named in the log and in `/metrics`.

use std::fs;
use std::path::{Path, PathBuf};

use pyrite_model::{Batch, LabelSet, ProfileType, Row, SeriesRows, SymbolTable, UnixMs};
use pyrite_store::{Store, StoreConfig};
use serde_json::json;
use tempfile::TempDir;

use crate::pyrite::{CPU, Pyrite, eventually, int, now_ms};
use crate::support::metric;

const DAY_MS: i64 = 24 * 3_600_000;
/// From one segment to the next.
const SPACING_MS: i64 = 2 * DAY_MS;
/// All of them.
const SPAN_MS: i64 = SPACING_MS * SEGMENTS as i64;
const SEGMENTS: u32 = 10;
/// The one that is damaged.
const DAMAGED: u32 = 4;
const VALUE_OF_ALL: i64 = 1_111_111_111;
const VALUE_OF_THE_REST: i64 = VALUE_OF_ALL - 10_i64.pow(DAMAGED);

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    BitFlipped,
    Cut,
    Missing,
}

impl Damage {
    fn befall(self, file: &Path) {
        let mut bytes = fs::read(file).expect("a file of the segment");
        let middle = bytes.len() / 2;
        match self {
            Self::BitFlipped => bytes[middle] ^= 0x10,
            Self::Cut => bytes.truncate(middle),
            Self::Missing => return fs::remove_file(file).expect("ours to remove"),
        }
        fs::write(file, bytes).expect("ours to write");
    }
}

/// Ten segments worth 1, 10, 100, …, on days of their own, so that none is merged with another; and when they begin.
struct Data {
    directory: TempDir,
    start_ms: i64,
}

impl Data {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let start_ms = now_ms() / DAY_MS * DAY_MS - SPAN_MS;
        let (store, _) = Store::open(StoreConfig::new(directory.path())).expect("a new store");
        for i in 0..SEGMENTS {
            let mut symbols = SymbolTable::new();
            let main = symbols.intern_named_location("main");
            let stack = symbols.intern_stack(&[main]).expect("a frame");
            let time = UnixMs(start_ms + i64::from(i) * SPACING_MS);
            let rows = vec![Row { time, stack, value: 10_i64.pow(i) }];
            let labels = LabelSet::from_pairs([("service_name", "damaged")]);
            let series = vec![SeriesRows { labels, profile_type: ProfileType::cpu_time(), rows }];
            store.append_blocking(Batch { symbols, series, ..Batch::default() }).expect("stored");
            store.flush().expect("flushed");
        }
        store.close().expect("closed");
        assert_eq!(files(&directory.path().join("segments")).len(), SEGMENTS as usize);
        Self { directory, start_ms }
    }

    /// The only time in the damaged segment, as people read it.
    fn lost_time(&self) -> String {
        UnixMs(self.start_ms + i64::from(DAMAGED) * SPACING_MS).to_string()
    }

    fn copy(&self) -> TempDir {
        let copy = TempDir::new().expect("a directory");
        copy_dir(self.directory.path(), copy.path());
        copy
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn copy_dir(from: &Path, to: &Path) {
    for path in files(from) {
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            fs::create_dir(&to).expect("ours to write");
            copy_dir(&path, &to);
        } else {
            fs::copy(&path, &to).expect("ours to write");
        }
    }
}

/// What the flame graph of everything sums up to.
fn flame_graph_total(pyrite: &Pyrite, data: &Data) -> i64 {
    let request = json!({
        "profileTypeID": CPU, "labelSelector": r#"{service_name="damaged"}"#,
        "start": data.start_ms, "end": data.start_ms + SPAN_MS, "maxNodes": 8192,
    });
    int(&pyrite.call("SelectMergeStacktraces", &request)["flamegraph"]["total"])
}

/// The series over the same time, one point a segment.
fn points(pyrite: &Pyrite, data: &Data) -> usize {
    let request = json!({
        "profileTypeID": CPU, "labelSelector": "{}", "start": data.start_ms, "end": data.start_ms + SPAN_MS,
        "step": 86400.0, "groupBy": ["service_name"],
    });
    let answer = pyrite.call("SelectSeries", &request);
    answer["series"][0]["points"].as_array().map_or(0, Vec::len)
}

/// Checks what is said of the damaged segment: its file in the log, its time, where that is known, in log and metrics.
fn check_said(pyrite: &Pyrite, log: &str, file: &str, time: &str) {
    let name = format!("{:016}-", DAMAGED + 1);
    let said = |line: &&str| line.contains("quarantine") && line.contains(&name) && line.contains(time);
    let line = log.lines().find(said).unwrap_or_else(|| panic!("{name} {time} is not in\n{log}"));
    assert!(line.contains(file), "{line}");
    let metrics = pyrite.get("/metrics").text();
    assert!((metric(&metrics, "pyrite_store_quarantine_segments") - 1.0).abs() < f64::EPSILON, "{metrics}");
    assert!(metric(&metrics, "pyrite_store_quarantine_bytes") > 1000.0, "{metrics}");
    let window = format!("from=\"{time}\",until=\"{time}\"");
    let named = |line: &str| line.starts_with("pyrite_store_quarantine_rows{") && line.contains(&window);
    assert!(metrics.lines().any(named), "{window} is not in\n{metrics}");
}

fn start(data: &Path) -> (Pyrite, PathBuf) {
    let log = data.join("log");
    (Pyrite::server_with(data, &log, &[]), log)
}

#[test]
fn one_damaged_segment_is_named_and_the_other_nine_answer() {
    let data = Data::new();
    let segment = &files(&data.directory.path().join("segments"))[DAMAGED as usize];
    for file in files(segment) {
        let file = file.strip_prefix(data.directory.path()).expect("inside");
        let name = file.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        for damage in [Damage::BitFlipped, Damage::Cut, Damage::Missing] {
            let what = format!("{name} {damage:?}");
            let copy = data.copy();
            damage.befall(&copy.path().join(file));
            let (pyrite, log) = start(copy.path());
            let totals = [flame_graph_total(&pyrite, &data), flame_graph_total(&pyrite, &data)];
            if name == "series.parquet" {
                // Only a merge reads it, or a start without the catalogue, which has the same.
                assert_eq!((totals, points(&pyrite, &data)), ([VALUE_OF_ALL; 2], 10), "{what}");
                continue;
            }
            assert_eq!((totals, points(&pyrite, &data)), ([VALUE_OF_THE_REST; 2], 9), "{what}");
            check_said(&pyrite, &fs::read_to_string(&log).expect("a log"), name, &data.lost_time());
            assert!(pyrite.terminate().success(), "{what}");
            let again = Pyrite::server(copy.path());
            assert_eq!(flame_graph_total(&again, &data), VALUE_OF_THE_REST, "{what}");
            let metrics = again.get("/metrics").text();
            assert!(metrics.contains(&data.lost_time()), "still named after a restart: {metrics}");
        }
    }
}

#[test]
fn damage_that_is_met_at_the_start_is_named_as_far_as_it_is_known() {
    let data = Data::new();
    let segment = &files(&data.directory.path().join("segments"))[DAMAGED as usize];
    let known = data.lost_time();
    for (name, time) in [("series.parquet", known.as_str()), ("segment.json", "unknown")] {
        let copy = data.copy();
        // Without the catalogue each segment has to say itself what is in it.
        fs::remove_file(copy.path().join("catalogue.sqlite")).expect("ours to remove");
        let file = segment.strip_prefix(data.directory.path()).expect("inside").join(name);
        Damage::BitFlipped.befall(&copy.path().join(file));
        let (pyrite, log) = start(copy.path());
        assert_eq!(flame_graph_total(&pyrite, &data), VALUE_OF_THE_REST, "{name}");
        check_said(&pyrite, &fs::read_to_string(&log).expect("a log"), name, time);
    }
}

#[test]
fn the_first_damaged_segments_go_when_the_configured_room_is_used_up() {
    let data = Data::new();
    let copy = data.copy();
    let segment = &files(&copy.path().join("segments"))[DAMAGED as usize];
    Damage::BitFlipped.befall(&segment.join("samples.parquet"));
    let config = copy.path().join("pyrite.toml");
    fs::write(&config, "[quarantine]\nmax_size = '1000'\n").expect("ours to write");
    let (pyrite, _log) = start(copy.path());
    assert_eq!(flame_graph_total(&pyrite, &data), VALUE_OF_THE_REST);
    assert!(pyrite.terminate().success());
    assert!(copy.path().join("quarantine").join(segment.file_name().expect("a name")).is_dir());
    let log = copy.path().join("log");
    let more = ["--config", config.to_str().expect("UTF-8")];
    let pyrite = Pyrite::server_with(copy.path(), &log, &more);
    eventually("the room is kept", || {
        let metrics = pyrite.get("/metrics").text();
        let removed = metric(&metrics, r#"pyrite_store_quarantine_removed_total{reason="size"}"#);
        (removed > 0.0 && metric(&metrics, "pyrite_store_quarantine_segments") < 1.0).then_some(())
    });
    let log = fs::read_to_string(&log).expect("a log");
    let said = |line: &str| line.contains("removed from quarantine") && line.contains(&data.lost_time());
    assert!(log.lines().any(said), "{log}");
    assert!(files(&copy.path().join("quarantine")).is_empty());
}
