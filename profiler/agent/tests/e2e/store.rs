//! `pyrite store`: what it says of sound directories, of directories with every file damaged, and what goes out and in.

mod exchange;
mod mending;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::privileged;
use crate::pyrite::{CPU, Pyrite, command, int, now_ms};
use crate::support::{integer, message, stdout};

const HOUR_MS: i64 = 3_600_000;
const HEAP: &str = "memory:inuse_space:bytes:space:bytes";
/// Services, each with pushes of its own.
const SERVICES: [&str; 3] = ["shop", "cart", "mail"];
const PUSHES: i64 = 40;

/// A pprof profile of stacks `main;leaf` with their values, taken at a time, in seconds.
fn pprof(types: [&str; 4], time_ms: i64, leaves: &[(&str, i64)]) -> Vec<u8> {
    let mut texts = vec![""];
    texts.extend(types);
    texts.push("main");
    texts.extend(leaves.iter().map(|(leaf, _)| leaf));
    let pair = |first: i64| [integer(1, first), integer(2, first + 1)].concat();
    let mut profile = message(1, &pair(1));
    for (id, (_, value)) in (2..).zip(leaves) {
        profile.extend(message(2, &[message(1, &[id as u8, 1]), integer(2, *value)].concat()));
    }
    for id in 1..=leaves.len() as i64 + 1 {
        let line = message(4, &integer(1, id));
        profile.extend(message(4, &[integer(1, id), line].concat()));
        profile.extend(message(5, &[integer(1, id), integer(2, id + 4)].concat()));
    }
    for text in texts {
        profile.extend(message(6, text.as_bytes()));
    }
    profile.extend(integer(9, time_ms * 1_000_000));
    profile.extend(message(11, &pair(3)));
    profile.extend(integer(12, 1));
    profile
}

/// A directory that a server filled with pushes of two types from the last hours, and that nobody uses now.
struct Data {
    directory: TempDir,
    from: i64,
    until: i64,
}

impl Data {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let from = now_ms() / HOUR_MS * HOUR_MS - 80 * HOUR_MS;
        let mut until = from;
        for round in 0..3 {
            // Each server's end is a flush, and days are not merged with each other: three segments.
            let pyrite = Pyrite::server(directory.path());
            for push in 0..PUSHES {
                until = from + round * 25 * HOUR_MS + push * 60_000;
                for (i, service) in (1..).zip(SERVICES) {
                    let own = format!("leaf{round}{}", push % 7);
                    let leaves = [("shared", 10 * i), (own.as_str(), push + 1)];
                    let cpu = pprof(["cpu", "nanoseconds", "cpu", "nanoseconds"], until, &leaves);
                    push_to(&pyrite, "process_cpu", service, &cpu);
                    let heap = pprof(["inuse_space", "bytes", "space", "bytes"], until, &leaves);
                    push_to(&pyrite, "memory", service, &heap);
                }
            }
            assert!(pyrite.terminate().success());
        }
        Self { directory, from, until }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn copy(&self) -> TempDir {
        let copy = TempDir::new().expect("a directory");
        let from = self.path().join(".");
        stdout(Command::new("cp").arg("-a").arg(from).arg(copy.path()));
        copy
    }

    /// The flame graph of one type and service, as names and self values.
    fn flame_graph(&self, pyrite: &Pyrite, profile_type: &str, selector: &str) -> BTreeMap<String, i64> {
        let request = json!({
            "profileTypeID": profile_type, "labelSelector": selector,
            "start": self.from - HOUR_MS, "end": self.until + HOUR_MS, "maxNodes": 65536,
        });
        let answer = &pyrite.call("SelectMergeStacktraces", &request)["flamegraph"];
        let names: Vec<&str> =
            answer["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut own = BTreeMap::new();
        for level in answer["levels"].as_array().into_iter().flatten() {
            let numbers: Vec<i64> = level["values"].as_array().into_iter().flatten().map(int).collect();
            for node in numbers.chunks_exact(4).filter(|node| node[2] != 0) {
                let name = names[usize::try_from(node[3]).expect("an index")];
                *own.entry(name.to_owned()).or_default() += node[2];
            }
        }
        own
    }

    /// All flame graphs: by type and service.
    fn flame_graphs(&self, dir: &Path) -> Vec<BTreeMap<String, i64>> {
        let pyrite = Pyrite::server(dir);
        let mut graphs = Vec::new();
        for profile_type in [CPU, HEAP] {
            for service in SERVICES {
                let selector = format!("{{service_name={service:?}}}");
                graphs.push(self.flame_graph(&pyrite, profile_type, &selector));
            }
        }
        assert!(pyrite.terminate().success());
        graphs
    }
}

fn push_request(name: &str, service: &str, profile: &[u8]) -> Vec<u8> {
    let label = |name: &str, value: &str| {
        message(1, &[message(1, name.as_bytes()), message(2, value.as_bytes())].concat())
    };
    let sample = message(2, &message(1, profile));
    message(1, &[label("__name__", name), label("service_name", service), sample].concat())
}

fn push_to(pyrite: &Pyrite, name: &str, service: &str, profile: &[u8]) {
    let request = push_request(name, service, profile);
    let response = pyrite.post("/push.v1.PusherService/Push", "application/proto", &request);
    assert_eq!(response.status, 200, "{}", response.text());
}

/// What a `pyrite store` command printed, and its exit code.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn all(&self) -> String {
        format!("{:?}\n{}\n{}", self.code, self.out, self.err)
    }

    #[track_caller]
    fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.all());
        self
    }
}

fn store(subcommand: &str, dir: &Path, more: &[&str]) -> Ran {
    let mut command = command(&["store", subcommand, "--data"]);
    let output = command.arg(dir).args(more).output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Every file below a directory with its content, but for the lock.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut content = BTreeMap::new();
    for path in files(dir) {
        if path.file_name().is_some_and(|name| name != "lock") {
            content.insert(path.clone(), fs::read(&path).expect("legible"));
        }
    }
    content
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn a_sound_directory_is_described_and_found_clean_and_nothing_in_it_changes() {
    let data = Data::new();
    let before = content(data.path());
    let ran = store("check", data.path(), &[]).succeeded();
    assert!(ran.out.contains("0 findings"), "{}", ran.out);
    let text = store("stats", data.path(), &[]).succeeded().out;
    for word in ["profiles", "anonymous", "epoch 1", "generation ", "bytes/sample"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let stats = store("stats", data.path(), &["--json"]).succeeded().out;
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    // Two types, three services, two stacks.
    assert_eq!(stats["rows"], json!(3 * PUSHES * 3 * 2 * 2));
    assert_eq!((&stats["series"], &stats["format"]), (&json!(6), &json!(2)));
    let tenant = &stats["tenants"][0];
    assert_eq!((&tenant["tenant"], &tenant["rows"]), (&json!("anonymous"), &stats["rows"]));
    assert_eq!(stats["logs"][0]["version"], json!(2));
    assert_eq!((&stats["oldest_ms"], &stats["newest_ms"]), (&json!(data.from), &json!(data.until)));
    let on_disk: u64 = ["segments", "dictionaries", "wal"]
        .iter()
        .flat_map(|dir| files(&data.path().join(dir)))
        .chain([data.path().join("catalogue.sqlite")])
        .map(|file| fs::metadata(file).expect("a file").len())
        .sum();
    assert_eq!(stats["bytes"], json!(on_disk));
    let ran = store("repair", data.path(), &["--dry-run"]).succeeded();
    assert!(!ran.out.contains("would:"), "{}", ran.out);
    assert_eq!(content(data.path()), before);
    // A pipe is no terminal.
    for (subcommand, line) in [("check", "checking: 0 %, "), ("compact", "merging: 0 %, ")] {
        let ran = store(subcommand, data.path(), &[]).succeeded();
        assert!(!ran.err.contains('\u{1b}') && !ran.err.contains('█'), "{}", ran.all());
        assert!(ran.err.starts_with(line), "{}", ran.all());
    }
}

#[test]
fn a_terminal_shows_progress() {
    let data = Data::new();
    let binary = env!("CARGO_BIN_EXE_pyrite");
    let line = format!("{binary} store check --data {}", data.path().display());
    // `script` gives the command a terminal of its own.
    let shown = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
    let shown = shown.expect("script is part of util-linux");
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains("checking") && text.contains('%'), "{text}");
    assert!(shown.status.success() && text.contains("0 findings"), "{text}");
}

#[test]
fn a_directory_in_use_is_described_and_checked_but_not_changed() {
    let data = Data::new();
    let pyrite = Pyrite::server(data.path());
    let pid = pyrite.pid().to_string();
    for subcommand in ["check", "stats"] {
        let ran = store(subcommand, data.path(), &[]).succeeded();
        assert!(ran.out.contains(&format!("the process with pid {pid}")), "{}", ran.out);
    }
    assert!(store("check", data.path(), &[]).out.contains("not checked: the write-ahead log"));
    let file = data.path().join("x.tar");
    let file = file.to_str().expect("UTF-8");
    for (subcommand, more) in [
        ("repair", &[][..]),
        ("repair", &["--dry-run"]),
        ("compact", &[]),
        ("export", &["--format", "segments", "-o", file]),
        ("import", &["/dev/null"]),
    ] {
        let ran = store(subcommand, data.path(), more);
        assert_eq!(ran.code, Some(1), "{}", ran.all());
        assert!(ran.err.contains(&format!("in use by the process with pid {pid}")), "{}", ran.all());
        assert!(ran.err.contains("stop that Pyrite first"), "{}", ran.all());
    }
    assert!(pyrite.terminate().success());
}

#[test]
fn what_is_no_data_directory_or_a_newer_one_is_left_as_it_is() {
    let empty = TempDir::new().expect("a directory");
    let missing = empty.path().join("missing");
    let newer = Data::new();
    fs::write(newer.path().join("format"), "99\n").expect("ours");
    let before = content(newer.path());
    let file = empty.path().join("x.tar");
    let output = file.to_str().expect("UTF-8");
    for (dir, why) in
        [(empty.path(), "format"), (missing.as_path(), "format"), (newer.path(), "format version 99")]
    {
        for (subcommand, more, code) in [
            ("check", &[][..], 2),
            ("stats", &[], 1),
            ("repair", &[], 1),
            ("repair", &["--dry-run"], 1),
            ("compact", &[], 1),
            ("export", &["--format", "segments", "-o", output], 1),
            ("import", &["/dev/null"], 1),
        ] {
            // It may make one, where there is nothing.
            if subcommand == "import" && dir != newer.path() {
                continue;
            }
            let ran = store(subcommand, dir, more);
            assert_eq!(ran.code, Some(code), "{subcommand} {}: {}", dir.display(), ran.all());
            assert!(ran.err.contains(why), "{subcommand} {}: {}", dir.display(), ran.all());
        }
    }
    assert_eq!(content(newer.path()), before);
    assert!(files(empty.path()).is_empty() && !missing.exists());
}

#[test]
fn compaction_leaves_few_segments_that_answer_the_same() {
    let data = Data::new();
    let graphs = data.flame_graphs(data.copy().path());
    let count = |dir: &Path| {
        let stats = store("stats", dir, &["--json"]).succeeded().out;
        let stats: Value = serde_json::from_str(&stats).expect("JSON");
        stats["groups"].as_array().into_iter().flatten().map(|group| int(&group["segments"])).sum::<i64>()
    };
    let before = count(data.path());
    let ran = store("compact", data.path(), &[]).succeeded();
    assert!(ran.err.contains(&format!("{before} segments of ")), "{}", ran.all());
    assert!((1..=3).contains(&count(data.path())), "{}", ran.all());
    assert_eq!(data.flame_graphs(data.path()), graphs);
    store("check", data.path(), &[]).succeeded();
}

/// A directory seen at another place where nothing can be written.
struct ReadOnly(TempDir);

impl ReadOnly {
    fn of(dir: &Path) -> Self {
        let place = TempDir::new().expect("a directory");
        stdout(Command::new("mount").arg("--bind").arg(dir).arg(place.path()));
        stdout(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(place.path()));
        Self(place)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        stdout(Command::new("umount").arg(self.0.path()));
    }
}

#[test]
fn root_a_disk_that_cannot_be_written_is_described_and_checked() {
    let Some(_turn) = privileged("root_read_only_disk") else { return };
    let data = Data::new();
    // With rows in the log, and a catalogue that nobody has closed.
    let pyrite = Pyrite::server(data.path());
    let cpu = pprof(["cpu", "nanoseconds", "cpu", "nanoseconds"], data.until, &[("last", 5)]);
    push_to(&pyrite, "process_cpu", "shop", &cpu);
    pyrite.kill();
    let read_only = ReadOnly::of(data.path());
    let dir = read_only.0.path();
    let checked = store("check", dir, &[]).succeeded();
    assert!(checked.out.contains("1441 rows read; 0 findings"), "{}", checked.all());
    let text = store("stats", dir, &[]).succeeded().out;
    assert!(text.contains("1441 samples"), "{text}");
    store("repair", dir, &["--dry-run"]).succeeded();
    let file = data.directory.path().join("x.tar");
    let output = file.to_str().expect("UTF-8");
    for (subcommand, more) in [
        ("repair", &[][..]),
        ("compact", &[]),
        ("export", &["--format", "segments", "-o", output]),
        ("import", &["/dev/null"]),
    ] {
        let ran = store(subcommand, dir, more);
        let is_said = ran.err.contains("Read-only file system") && ran.err.contains("cannot be written");
        assert!(ran.code == Some(1) && is_said, "{subcommand}: {}", ran.all());
    }
    drop(read_only);
    assert!(!file.exists());
}
