//! `tidy`: the house rules that rustfmt and clippy cannot see.
//!
//! Each rule is one function from the tree to its findings; the list in [`RULES`] is the whole of it. Run from the
//! repository's root; it prints every finding and fails if there is one.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const MAX_FILE_LINES: usize = 500;

/// Workspace crates that hold no IO, and the names that would bring it in.
const PURE: [&str; 3] = ["profiler/sampling", "profiler/unwind", "store/model"];
const IO_NAMES: [&str; 7] =
    ["std::fs", "std::net", "std::process", "std::thread", "SystemTime::now", "Instant::now", "tokio::"];

/// The import table: which workspace crates each crate may name in its `[dependencies]`.
const MAY_IMPORT: [(&str, &[&str]); 9] = [
    ("pyrite-model", &[]),
    ("pyrite-bpf", &[]),
    ("pyrite-sampling", &["pyrite-model", "pyrite-bpf"]),
    ("pyrite-unwind", &["pyrite-model", "pyrite-bpf"]),
    ("pyrite-symbolizer", &["pyrite-model"]),
    ("pyrite-store", &["pyrite-model"]),
    ("pyrite-server", &["pyrite-model", "pyrite-store"]),
    (
        "pyrite",
        &[
            "pyrite-bpf",
            "pyrite-model",
            "pyrite-sampling",
            "pyrite-server",
            "pyrite-store",
            "pyrite-symbolizer",
            "pyrite-unwind",
        ],
    ),
    ("pyrite-bench", &[]),
];

/// The only places where `unsafe` may stand.
const UNSAFE_ALLOWED: [&str; 3] = ["bpf/src", "profiler/agent/src/sys", "profiler/agent/tests"];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn is_under(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    fn has_extension(&self, extensions: &[&str]) -> bool {
        self.path.extension().is_some_and(|have| extensions.iter().any(|want| have == *want))
    }

    fn is_test(&self) -> bool {
        self.path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "test" | "e2e")))
    }

    /// The text before the unit tests, which stand last in a file.
    fn without_unit_tests(&self) -> &str {
        self.text.split("\n#[cfg(test)]").next().unwrap_or(&self.text)
    }
}

type Rule = fn(&[Source], &mut Vec<String>);

const RULES: [Rule; 6] =
    [opens_with_purpose, stays_small, pure_crates_do_no_io, unsafe_stays_home, no_loose_ends, links_resolve];

fn main() -> Result<()> {
    let sources = read_tree()?;
    let mut findings = Vec::new();
    for rule in RULES {
        rule(&sources, &mut findings);
    }
    import_table_holds(&mut findings)?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} findings", findings.len()) }
}

fn read_tree() -> Result<Vec<Source>> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("git ls-files did not run")?;
    let listed = String::from_utf8(listed.stdout).context("a file name is not UTF-8")?;
    let paths = listed.lines().map(PathBuf::from);
    // Binary fixtures are not text and none of the rules speaks of them.
    Ok(paths.filter_map(|path| fs::read_to_string(&path).ok().map(|text| Source { path, text })).collect())
}

fn opens_with_purpose(sources: &[Source], findings: &mut Vec<String>) {
    for source in sources {
        let opening = match () {
            () if source.has_extension(&["rs"]) => "//!",
            () if source.has_extension(&["c", "h", "def"]) => "/",
            () if source.has_extension(&["ts", "tsx"]) && !source.is_test() => "/",
            () => continue,
        };
        if !source.text.starts_with(opening) {
            findings.push(format!("{}: must open by saying what it is ({opening})", source.path.display()));
        }
    }
}

fn stays_small(sources: &[Source], findings: &mut Vec<String>) {
    for source in sources {
        if source.is_test() || !source.has_extension(&["rs", "c", "h", "ts", "tsx"]) {
            continue;
        }
        let lines = source.without_unit_tests().lines().count();
        if lines > MAX_FILE_LINES {
            findings.push(format!("{}: {lines} lines, at most {MAX_FILE_LINES}", source.path.display()));
        }
    }
}

fn pure_crates_do_no_io(sources: &[Source], findings: &mut Vec<String>) {
    for source in sources {
        let pure = PURE.iter().any(|root| source.is_under(&format!("{root}/src")));
        if !pure || !source.has_extension(&["rs"]) {
            continue;
        }
        for name in IO_NAMES.iter().filter(|name| source.without_unit_tests().contains(**name)) {
            findings.push(format!("{}: a pure crate may not use {name}", source.path.display()));
        }
    }
}

fn unsafe_stays_home(sources: &[Source], findings: &mut Vec<String>) {
    for source in sources {
        if !source.has_extension(&["rs"]) || UNSAFE_ALLOWED.iter().any(|folder| source.is_under(folder)) {
            continue;
        }
        let code = source.text.lines().map(|line| line.split("//").next().unwrap_or(line));
        if code
            .into_iter()
            .any(|line| line.contains(concat!("unsafe", " {")) || line.contains(concat!("unsafe", " impl")))
        {
            findings.push(format!("{}: unsafe code outside {UNSAFE_ALLOWED:?}", source.path.display()));
        }
    }
}

fn no_loose_ends(sources: &[Source], findings: &mut Vec<String>) {
    const LOOSE: [&str; 4] =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("/wo", "rk/")];
    for source in sources {
        for word in LOOSE.iter().filter(|word| source.text.contains(**word)) {
            findings.push(format!("{}: contains {word:?}", source.path.display()));
        }
    }
}

fn links_resolve(sources: &[Source], findings: &mut Vec<String>) {
    for source in sources.iter().filter(|source| source.has_extension(&["md"])) {
        for link in source.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or(link);
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let folder = source.path.parent().unwrap_or(Path::new(""));
            if !folder.join(target).exists() {
                findings.push(format!("{}: links to {target}, which is not there", source.path.display()));
            }
        }
    }
}

fn import_table_holds(findings: &mut Vec<String>) -> Result<()> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--locked"])
        .output()
        .context("cargo metadata did not run")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata.stdout).context("cargo metadata is not JSON")?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(known, _)| *known == name) else {
            findings.push(format!("{name}: not in the import table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let imported = dependency["name"].as_str().unwrap_or_default();
            // Development dependencies do not ship.
            if dependency["kind"].is_null() && imported.starts_with("pyrite") && !allowed.contains(&imported)
            {
                findings.push(format!("{name}: may not import {imported}"));
            }
        }
    }
    Ok(())
}
