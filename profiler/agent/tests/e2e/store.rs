//! `pyrite store`: what it says of sound directories, of directories with every file damaged, and what goes out and in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::privileged;
use crate::pyrite::{CPU, Pyrite, command, int, now_ms};
use crate::support::{integer, message, read_with_pprof, stdout};

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

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("ours");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("inside");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("ours to write");
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

#[test]
fn exported_profiles_open_elsewhere_and_come_back_equal() {
    let data = Data::new();
    let out = TempDir::new().expect("a directory");
    let dir = format!("{}/profiles/", out.path().display());
    let ran =
        store("export", data.path(), &["-o", &dir, "--selector", r#"{service_name="cart"}"#]).succeeded();
    let written = files(&out.path().join("profiles"));
    assert_eq!(written.len(), 2, "{}", ran.all());
    let pyrite = Pyrite::server(data.path());
    let selector = r#"{service_name="cart"}"#;
    let graphs = [HEAP, CPU].map(|profile_type| data.flame_graph(&pyrite, profile_type, selector));
    assert!(pyrite.terminate().success());
    // Sorted: memory before process_cpu. Go reads times in their own unit.
    let read: BTreeMap<String, i64> =
        read_with_pprof(&written[1]).into_iter().map(|(name, value)| (name, value as i64)).collect();
    let known: BTreeMap<String, i64> = read.into_iter().filter(|(_, value)| *value != 0).collect();
    assert_eq!(known, graphs[1]);

    let other = TempDir::new().expect("a directory");
    assert!(Pyrite::server(other.path()).terminate().success());
    let written: Vec<&str> = written.iter().filter_map(|path| path.to_str()).collect();
    let more = [&["--label", "service_name=cart"], written.as_slice()].concat();
    store("import", other.path(), &more).succeeded();
    let pyrite = Pyrite::server(other.path());
    assert_eq!([HEAP, CPU].map(|profile_type| data.flame_graph(&pyrite, profile_type, selector)), graphs);
    assert!(pyrite.terminate().success());
}

#[test]
fn an_export_names_what_it_cannot_do() {
    let data = Data::new();
    let out = TempDir::new().expect("a directory");
    let file = out.path().join("one.pb.gz");
    let file = file.to_str().expect("UTF-8");
    for (more, why) in [
        (&["-o", file][..], "choose one with --type"),
        (&["-o", file, "--type", CPU, "--from", "2001-01-01", "--to", "2001-01-02"], "no rows"),
        (&["-o", file, "--type", CPU, "--from", "1h", "--to", "2h"], "is behind"),
        (&["-o", file, "--from", "yesterday"], "is not a time"),
        (&["-o", file, "--format", "segments", "--type", CPU], "exported whole"),
        (&["-o", file, "--format", "segments", "--to", "2001-01-01", "--from", "0"], "no segments"),
        (&["-o", "/nowhere/at/all.pb.gz", "--type", CPU], "/nowhere/at"),
    ] {
        let ran = store("export", data.path(), more);
        assert!(ran.code != Some(0) && ran.err.contains(why), "{more:?}: {}", ran.all());
    }
    assert!(files(out.path()).is_empty());
    let window =
        ["--from", &data.from.to_string(), "--to", &(data.from + 60_000).to_string()].map(str::to_owned);
    let mut more = vec!["-o", file, "--type", CPU];
    more.extend(window.iter().map(String::as_str));
    store("export", data.path(), &more).succeeded();
    // Pushes of the first two minutes: shared 10 + 20 + 30 in each, and three times 1 and 2.
    let read = read_with_pprof(Path::new(file));
    let sum: i64 = read.values().map(|value| *value as i64).sum();
    assert_eq!(sum, 2 * 60 + 3 + 6, "{read:?}");
}

#[test]
fn an_archive_of_segments_comes_back_equal_and_a_damaged_one_does_not_come_in() {
    let data = Data::new();
    let graphs = data.flame_graphs(data.copy().path());
    let out = TempDir::new().expect("a directory");
    let archive = out.path().join("all.tar");
    let file = archive.to_str().expect("UTF-8");
    let ran = store("export", data.path(), &["--format", "segments", "-o", file]).succeeded();
    assert!(ran.err.contains("with 1440 rows"), "{}", ran.all());
    // It is a tar archive for others, too.
    let listed = stdout(Command::new("tar").arg("-tf").arg(&archive));
    assert!(listed.lines().any(|line| line == "format"), "{listed}");

    let other = TempDir::new().expect("a directory");
    let pyrite = Pyrite::server(other.path());
    let cpu = pprof(["cpu", "nanoseconds", "cpu", "nanoseconds"], data.from, &[("there", 7)]);
    push_to(&pyrite, "process_cpu", "before", &cpu);
    assert!(pyrite.terminate().success());
    let ran = store("import", other.path(), &[file]).succeeded();
    assert!(ran.err.contains("1440 rows imported") && !ran.err.contains("are older"), "{}", ran.all());
    assert_eq!(data.flame_graphs(other.path()), graphs);
    store("check", other.path(), &[]).succeeded();
    assert!(!other.path().join("import.tmp").exists());

    let bytes = fs::read(&archive).expect("legible");
    let damaged = out.path().join("damaged.tar");
    // Behind the first header and the format: in a file of a dictionary or a segment.
    for at in [bytes.len() / 3, bytes.len() / 2, bytes.len() * 2 / 3] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        for content in [flipped, bytes[..at].to_vec()] {
            fs::write(&damaged, content).expect("ours");
            let ran = store("import", other.path(), &[damaged.to_str().expect("UTF-8")]);
            if ran.code == Some(0) {
                // The bit was in the padding between two files.
                continue;
            }
            assert!(ran.err.contains("damaged.tar") && ran.err.contains("0 rows imported"), "{}", ran.all());
        }
    }
    let graph = |selector: &str| {
        let pyrite = Pyrite::server(other.path());
        data.flame_graph(&pyrite, CPU, selector)
    };
    assert_eq!(graph(r#"{service_name="before"}"#), BTreeMap::from([("there".to_owned(), 7)]));
}

#[test]
fn old_profiles_come_in_and_it_is_said_how_long_they_stay() {
    let dir = TempDir::new().expect("a directory");
    assert!(Pyrite::server(dir.path()).terminate().success());
    let out = TempDir::new().expect("a directory");
    let write = |name: &str, time_ms: i64| {
        let path = out.path().join(name);
        fs::write(&path, pprof(["cpu", "nanoseconds", "cpu", "nanoseconds"], time_ms, &[("old", 5)]))
            .expect("ours");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (old, timeless) = (write("old.pb", now_ms() - 90 * 24 * HOUR_MS), write("timeless.pb", 0));
    let ran = store("import", dir.path(), &["--label", "service_name=old", &old]).succeeded();
    assert!(ran.err.contains("older than the 30.0 days") && ran.err.contains("max_age"), "{}", ran.all());
    let rows = || {
        let stats = store("stats", dir.path(), &["--json"]).succeeded().out;
        serde_json::from_str::<Value>(&stats).expect("JSON")["rows"].clone()
    };
    // Other tools do not remove it either.
    store("compact", dir.path(), &[]).succeeded();
    assert_eq!(rows(), json!(1));
    let ran = store("import", dir.path(), &[&timeless]);
    assert!(ran.code == Some(1) && ran.err.contains("--time"), "{}", ran.all());
    store("import", dir.path(), &["--time", "2001-09-09T01:46:40Z", &timeless]).succeeded();
    assert_eq!(rows(), json!(2));
    let config = dir.path().join("kept.toml");
    fs::write(&config, "[retention.profiles]\nmax_age = '36500d'\n").expect("ours");
    let config = config.to_str().expect("UTF-8");
    let ran = store("import", dir.path(), &["--config", config, &old]).succeeded();
    assert!(!ran.err.contains("older than"), "{}", ran.all());
    let text = out.path().join("text");
    fs::write(&text, "not a profile").expect("ours");
    let ran = store("import", dir.path(), &[text.to_str().expect("UTF-8")]);
    assert!(ran.code == Some(1) && ran.err.contains("not a pprof profile"), "{}", ran.all());
}

#[test]
fn an_import_of_several_files_says_which_of_them_came() {
    let (dir, out) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (sound, text) = (out.path().join("sound.pb"), out.path().join("text"));
    let profile = pprof(["cpu", "nanoseconds", "cpu", "nanoseconds"], now_ms(), &[("leaf", 5)]);
    fs::write(&sound, profile).and_then(|()| fs::write(&text, "not a profile")).expect("ours");
    let files = [&sound, &text].map(|path| path.to_str().expect("UTF-8"));
    let ran = store("import", dir.path(), &files);
    assert_eq!(ran.code, Some(1), "{}", ran.all());
    for said in ["1 rows imported", files[1], "1 files before it are stored"] {
        assert!(ran.err.contains(said), "{said} is not in {}", ran.all());
    }
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

/// What tenants are told of the last hours: flame graphs, values over time, series and labels.
fn told(pyrite: &Pyrite, from: i64) -> Vec<Value> {
    let window = |more: &[(&str, Value)]| {
        let mut request = json!({ "start": from - HOUR_MS, "end": from + HOUR_MS });
        for (name, value) in more {
            request[*name] = value.clone();
        }
        request
    };
    let of_type = [("profileTypeID", json!(CPU)), ("labelSelector", json!("{}"))];
    let over_time = [&of_type[..], &[("step", json!(15.0)), ("groupBy", json!(["service_name"]))]].concat();
    let questions = [
        ("SelectMergeStacktraces", window(&of_type)),
        ("SelectSeries", window(&over_time)),
        ("Series", window(&[("matchers", json!([])), ("labelNames", json!([]))])),
        ("LabelNames", window(&[("matchers", json!([]))])),
        ("LabelValues", window(&[("name", json!("service_name")), ("matchers", json!([]))])),
        ("ProfileTypes", window(&[])),
    ];
    let mut answers = Vec::new();
    for tenant in ["anonymous", "acme", "rival", "acme|rival"] {
        for (method, request) in &questions {
            let path = format!("/querier.v1.QuerierService/{method}");
            let body = request.to_string();
            let answer =
                pyrite.request_of(Some(tenant), "POST", &path, ("application/json", body.as_bytes()));
            assert_eq!(answer.status, 200, "{tenant}: {method}: {}", answer.text());
            answers.push(answer.json());
        }
    }
    answers
}

#[test]
fn an_archive_carries_every_tenant_into_a_directory_that_was_not_there() {
    let (from, out) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let log = out.path().join("log");
    let serve = |dir: &Path| Pyrite::server_with(dir, &log, &["--multitenancy"]);
    let time = now_ms() - HOUR_MS;
    let pyrite = serve(from.path());
    for (more, tenant) in (0..).zip(["anonymous", "acme", "rival"]) {
        for minute in 0..5 {
            let leaf = format!("leaf of {tenant}");
            let leaves = [("shared", 10 + more), (leaf.as_str(), minute + 1)];
            let cpu = pprof(["cpu", "nanoseconds", "cpu", "nanoseconds"], time + minute * 60_000, &leaves);
            let push = push_request("process_cpu", &format!("service-of-{tenant}"), &cpu);
            let content = ("application/proto", push.as_slice());
            let answer = pyrite.request_of(Some(tenant), "POST", "/push.v1.PusherService/Push", content);
            assert_eq!(answer.status, 200, "{tenant}: {}", answer.text());
        }
    }
    let before = told(&pyrite, time);
    for name in ["leaf of acme", "leaf of rival", "service-of-anonymous"] {
        assert!(before.iter().any(|answer| answer.to_string().contains(name)), "{name}: {before:?}");
    }
    assert!(pyrite.terminate().success());
    let archive = out.path().join("all.tar");
    let file = archive.to_str().expect("UTF-8");
    store("export", from.path(), &["--format", "segments", "-o", file]).succeeded();
    let to = out.path().join("not/there");
    // Nothing is made for a file that does not exist.
    let ran = store("import", &to, &["/nowhere.tar"]);
    assert!(ran.code == Some(1) && ran.err.contains("/nowhere.tar") && !to.exists(), "{}", ran.all());
    let ran = store("import", &to, &[file]).succeeded();
    assert!(ran.err.contains("30 rows imported"), "{}", ran.all());
    store("check", &to, &[]).succeeded();
    let stats: Value = serde_json::from_str(&store("stats", &to, &["--json"]).succeeded().out).expect("JSON");
    let tenants = stats["tenants"].as_array().into_iter().flatten();
    let tenants: Vec<_> = tenants.map(|it| (it["tenant"].as_str(), int(&it["rows"]))).collect();
    assert_eq!(tenants, [(Some("acme"), 10), (Some("anonymous"), 10), (Some("rival"), 10)]);
    let pyrite = serve(&to);
    assert_eq!(told(&pyrite, time), before);
    assert!(pyrite.terminate().success());
    // A directory with something else in it stays as it is.
    let other = out.path().join("other");
    fs::create_dir(&other).and_then(|()| fs::write(other.join("mine"), "mine")).expect("ours");
    let ran = store("import", &other, &[file]);
    assert!(ran.code == Some(1) && ran.err.contains("format"), "{}", ran.all());
    assert_eq!(files(&other), [other.join("mine")]);
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
