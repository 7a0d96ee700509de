//! The files are open: programs that share no code with us read them by what our pages say of them.
//!
//! The SQL and the Python are taken out of `store/README.md` as they stand there, so that the page cannot promise what
//! does not work; what they find is what the store itself answers, and what the rows say that were written.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pyrite_model::{
    Batch, Function, LabelSet, Line, Location, LocationId, Mapping, ProfileType, Row, SeriesRows,
    SymbolTable, Tenants, TimeRange, UnixMs, frame_names,
};
use pyrite_store::Store;
use serde_json::{Value, json};

use super::python::python_with;
use super::{EVERYTHING, open, query};

const DUCKDB: &str = "duckdb==2.0.0";
const PANDAS: [&str; 2] = ["pandas==3.1.1", "pyarrow==26.0.1"];
const CHDB: &str = "chdb==4.4.0";
/// The hour that the page asks for: 2026-03-02, 9 to 10 o'clock.
const HOUR: TimeRange = TimeRange { start: UnixMs(1_772_442_000_000), end: UnixMs(1_772_445_600_000) };
const ODD_SERVICE: &str = "quotes \" ' \\ {=} ünï 🦀";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A block of code of the page on the store: the one that begins with this line.
fn from_page(language: &str, title: &str) -> String {
    let page = fs::read_to_string(repository("store/README.md")).unwrap();
    let start = format!("```{language}\n{title}\n");
    let (_, block) = page.split_once(&start).unwrap_or_else(|| panic!("no block {start:?}"));
    block.split_once("\n```").unwrap().0.to_owned()
}

/// Runs a script of `fixtures/clients`, or a text, in a data directory; gives what it prints.
fn run(python: &Path, data: &Path, args: &[&str], input: &str) -> String {
    let mut child = Command::new(python)
        .args(args)
        .current_dir(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The rows that each script answers, by an engine of `run_sql.py`.
fn run_sql(engine: &str, package: &str, data: &Path, scripts: &[String]) -> Vec<Vec<Vec<Value>>> {
    let python = python_with(Path::new(env!("CARGO_TARGET_TMPDIR")), &[package]);
    let script = repository("fixtures/clients/run_sql.py");
    let printed = run(&python, data, &[script.to_str().unwrap(), engine], &json!(scripts).to_string());
    serde_json::from_str(&printed).unwrap()
}

/// Stacks with every kind of frame, leaf first.
fn stacks(symbols: &mut SymbolTable) -> Vec<Vec<LocationId>> {
    let mut function = |name: &str, system_name: &str| {
        let [name, system_name] = [name, system_name].map(|text| symbols.intern_str(text));
        symbols.intern_function(Function { name, system_name, ..Function::default() })
    };
    let functions = [("main", ""), ("handle; ünï", "_Z6handle"), ("inner", ""), ("", "_Z6system"), ("", "")];
    let [main, handle, inner, system, nameless] = functions.map(|(name, system)| function(name, system));
    let [build_id, path] = ["5f1c", "/usr/lib/libshop.so.1"].map(|text| symbols.intern_str(text));
    let mapping = Some(symbols.intern_mapping(Mapping { build_id, path }));
    let mut location = |mapping, address, functions: &[_]| {
        let lines = functions.iter().map(|&function| Line { function, line: 7 }).collect();
        symbols.intern_location(Location { mapping, address, lines })
    };
    let main = location(None, 0, &[main]);
    let inlined = location(mapping, 0x10, &[inner, handle]);
    let [system, nameless] = [system, nameless].map(|function| location(None, 0, &[function]));
    let unresolved = [(mapping, 0xabc), (mapping, 0), (None, u64::MAX), (None, 0)];
    let unresolved = unresolved.map(|(mapping, address)| location(mapping, address, &[]));
    let mut stacks = vec![vec![main], vec![inlined, main], vec![system, inlined, main], vec![nameless, main]];
    stacks.extend(unresolved.map(|leaf| vec![leaf, main]));
    stacks.push(unresolved.to_vec());
    stacks.push(vec![inlined, inlined, inlined, main]);
    stacks
}

/// Rows of three services and two types; each stack has another value.
fn batch(start: UnixMs, seed: i64) -> Batch {
    let mut symbols = SymbolTable::new();
    let stacks = stacks(&mut symbols);
    let mut series = Vec::new();
    let labels =
        [vec![("service_name", "shop"), ("a", "b")], vec![("service_name", ODD_SERVICE)], Vec::new()];
    for (labels, i) in labels.into_iter().zip(1..) {
        for (profile_type, scale) in [(ProfileType::cpu_time(), 1_000_003), (ProfileType::cpu_samples(), 1)] {
            let row = |(locations, j): (&Vec<LocationId>, i64)| {
                let stack = symbols.intern_stack(locations).unwrap();
                Row { time: UnixMs(start.0 + j * 300_000), stack, value: (seed + i * 31 + j) * scale }
            };
            let rows = stacks.iter().zip(0..).map(row).collect();
            let labels = LabelSet::from_pairs(labels.clone());
            series.push(SeriesRows { labels, profile_type, rows });
        }
    }
    Batch { symbols, series, ..Batch::default() }
}

/// A closed data directory: two segments of one hour, which may be merged, and one of a later hour; and one whose rows
/// another holds already, as a reader may meet it.
fn write_data(dir: &Path) -> Store {
    let (store, _) = open(dir);
    let half_an_hour = 30 * 60_000;
    for (after_ms, seed) in [(0, 100), (half_an_hour, 2_000), (6 * half_an_hour, 30_000)] {
        store.append_blocking(batch(UnixMs(HOUR.start.0 + after_ms), seed)).unwrap();
        store.flush().unwrap();
    }
    store.close().unwrap();
    let segments = dir.join("segments");
    let replaced = manifests(dir).pop_last().unwrap().0;
    let merged = segments.join("0999999999999999-0999999999999999-l1");
    fs::create_dir(&merged).unwrap();
    for entry in fs::read_dir(segments.join(&replaced)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), merged.join(entry.file_name())).unwrap();
    }
    let manifest = fs::read_to_string(merged.join("segment.json")).unwrap();
    let (line, checksum) = manifest.split_once('\n').unwrap();
    let mut manifest: Value = serde_json::from_str(line).unwrap();
    manifest["replaces"] = json!([replaced]);
    fs::write(merged.join("segment.json"), format!("{manifest}\n{checksum}")).unwrap();
    store
}

/// The manifest of every segment, by name.
fn manifests(dir: &Path) -> BTreeMap<String, Value> {
    let read = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("segment.json")).unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, serde_json::from_str(text.lines().next().unwrap()).unwrap())
    };
    fs::read_dir(dir.join("segments")).unwrap().map(|entry| read(entry.unwrap())).collect()
}

/// What the store says of CPU time: value by whole stack, root first.
fn cpu_by_stack(store: &Store, selector: &str, range: TimeRange) -> BTreeMap<Vec<String>, i64> {
    let profile = store.merge_stacks(&query(selector, range)).unwrap();
    let mut sums = BTreeMap::new();
    for &(stack, value) in &profile.values {
        let names = frame_names(&profile.symbols, stack).into_iter().map(String::from).collect();
        *sums.entry(names).or_insert(0) += value;
    }
    assert_eq!(sums.values().sum::<i64>(), profile.total());
    sums
}

/// By service and leaf, in nanoseconds.
fn cpu_by_leaf(store: &Store) -> BTreeMap<(String, String), i64> {
    let mut sums = BTreeMap::new();
    let mut services = store.label_values(&Tenants::default(), "service_name", &[], EVERYTHING).unwrap();
    services.push(String::new());
    for service in services {
        let selector = format!("{{service_name={}}}", json!(service));
        for (names, value) in cpu_by_stack(store, &selector, EVERYTHING) {
            *sums.entry((service.clone(), names.last().unwrap().clone())).or_insert(0) += value;
        }
    }
    sums
}

/// Rows of service, leaf and seconds in the same form.
fn by_leaf(rows: &[Vec<Value>]) -> BTreeMap<(String, String), i64> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nanoseconds = |seconds: &Value| (seconds.as_f64().unwrap() * 1e9).round() as i64;
    let found: BTreeMap<_, _> =
        rows.iter().map(|row| ((text(&row[0]), text(&row[1])), nanoseconds(&row[2]))).collect();
    assert_eq!(found.len(), rows.len(), "each pair once");
    found
}

/// The sum over all rows that were written, for the store is asked by the same code that wrote them.
fn cpu_written() -> i64 {
    let rows = (1..=3).flat_map(|i| (0..10).map(move |j| i * 31 + j));
    rows.map(|value| (3 * value + 32_100) * 1_000_003).sum()
}

/// What the page's SQL for an engine answers is what the store answers: of all services, and stack by stack of one service
/// in one hour.
fn check_sql(title: &str, engine: &str, package: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = write_data(dir.path());
    let scripts = ["views", "services and leaves", "folded stacks"];
    let scripts = scripts.map(|part| from_page("sql", &format!("-- {title}: {part}")));
    let answers = run_sql(engine, package, dir.path(), &scripts);

    let expect = cpu_by_leaf(&store);
    assert_eq!(expect.values().sum::<i64>(), cpu_written());
    assert_eq!(by_leaf(&answers[1]), expect);

    let folded = cpu_by_stack(&store, r#"{service_name="shop"}"#, HOUR);
    let expect: BTreeMap<String, i64> =
        folded.iter().map(|(names, value)| (names.join(";"), *value)).collect();
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap();
    let row = |row: &Vec<Value>| (row[0].as_str().unwrap().to_owned(), number(&row[1]));
    let found: BTreeMap<String, i64> = answers[2].iter().map(row).collect();
    assert!(found.len() > 8, "{found:?}");
    assert_eq!(found, expect);
}

#[test]
fn duckdb_answers_what_the_store_answers() {
    check_sql("DuckDB", "duckdb", DUCKDB);
}

#[test]
fn clickhouse_answers_what_the_store_answers() {
    check_sql("ClickHouse", "chdb", CHDB);
}

#[test]
fn pandas_answers_what_the_store_answers() {
    let dir = tempfile::tempdir().unwrap();
    let store = write_data(dir.path());
    let python = python_with(Path::new(env!("CARGO_TARGET_TMPDIR")), &PANDAS);
    let printed =
        run(&python, dir.path(), &["-c", &from_page("python", "# pandas: CPU seconds by service")], "");
    let found: BTreeMap<String, f64> = serde_json::from_str(&printed).unwrap();
    let found = found.into_iter().map(|(service, seconds)| (service, (seconds * 1e9).round() as i64));
    let mut expect = BTreeMap::new();
    for ((service, _), value) in cpu_by_leaf(&store) {
        *expect.entry(service).or_insert(0) += value;
    }
    assert_eq!(expect.len(), 3);
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expect);
}

/// The tables that `store/FORMAT.md` names, each with every name that its description quotes.
fn catalogue_as_described() -> BTreeMap<String, Vec<String>> {
    let page = fs::read_to_string(repository("store/FORMAT.md")).unwrap();
    let (_, section) = page.split_once("\n## Catalogue\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let quoted = rows.map(|row| row.split('`').skip(1).step_by(2).map(str::to_owned).collect());
    quoted.map(|words: Vec<String>| (words[0].clone(), words[1..].to_vec())).collect()
}

#[test]
fn sqlite_finds_the_catalogue_as_it_is_described() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let first = batch(HOUR.start, 1);
    let mut second = batch(UnixMs(HOUR.start.0 - 100 * 3_600_000), 2);
    second.series.truncate(3);
    for batch in [first.clone(), second.clone()] {
        store.append_blocking(batch).unwrap();
        store.flush().unwrap();
    }
    store.close().unwrap();
    let script = repository("fixtures/clients/catalogue.py");
    let printed = run(Path::new("python3"), dir.path(), &[script.to_str().unwrap(), "catalogue.sqlite"], "");
    let found: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(found["integrity"], "ok");
    let page = fs::read_to_string(repository("store/FORMAT.md")).unwrap();
    assert!(page.contains(&format!("schema's version, {}.", found["version"])), "{}", found["version"]);

    let described = catalogue_as_described();
    let columns = found["columns"].as_object().unwrap();
    assert_eq!(columns.keys().collect::<Vec<_>>(), described.keys().collect::<Vec<_>>());
    for (table, columns) in columns {
        let missing =
            |column: &&Value| *column != "id" && described[table].iter().all(|word| word != *column);
        let missing: Vec<&Value> = columns.as_array().unwrap().iter().filter(missing).collect();
        assert!(missing.is_empty(), "{table}: {missing:?} are not described");
    }

    let manifests = manifests(dir.path());
    let segments = manifests.iter().map(|(name, manifest)| {
        let files = fs::read_dir(dir.path().join("segments").join(name)).unwrap();
        let sizes = files.map(|file| file.unwrap()).filter(|file| file.file_name() != "segment.json");
        let bytes: u64 = sizes.map(|file| file.metadata().unwrap().len()).sum();
        let of = |field: &str| manifest[field].clone();
        json!([name, of("level"), of("min_time_ms"), of("max_time_ms"), of("rows"), bytes])
    });
    assert_eq!(found["segments"], Value::from(segments.collect::<Vec<_>>()));
    let flushed_through =
        manifests.values().filter_map(|manifest| manifest["flushed_through"].as_u64()).max();
    assert_eq!(found["flushed_through"].as_u64(), flushed_through);

    let mut expect = Vec::new();
    for (name, batch) in manifests.keys().zip([&first, &second]) {
        let mut of_segment: Vec<Value> = batch.series.iter().map(|series| listed(name, series)).collect();
        of_segment.sort_by_key(ToString::to_string);
        expect.extend(of_segment);
    }
    let rows = found["series"].as_array().unwrap().iter();
    let mut series: Vec<Value> = rows.map(parse_labels).collect();
    series.sort_by_key(ToString::to_string);
    assert_eq!(series, expect);
}

/// A series as the catalogue lists it: segment, profile type, labels, first and last time.
fn listed(segment: &str, series: &SeriesRows) -> Value {
    let SeriesRows { labels, profile_type, rows } = series;
    let labels: BTreeMap<&str, &str> = labels.iter().map(|l| (l.name.as_str(), l.value.as_str())).collect();
    let times = || rows.iter().map(|row| row.time.0);
    json!([segment, profile_type.to_string(), labels, times().min(), times().max()])
}

/// The same row with its labels, which are JSON in a text, as what they say.
fn parse_labels(row: &Value) -> Value {
    let mut row = row.clone();
    row[2] = serde_json::from_str(row[2].as_str().unwrap()).unwrap();
    row
}
