//! What goes out and comes in: profiles in files, and archives of segments.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Data, HEAP, HOUR_MS, files, pprof, push_request, push_to, store};
use crate::pyrite::{CPU, Pyrite, int, now_ms};
use crate::support::{read_with_pprof, stdout};

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
