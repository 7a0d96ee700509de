//! Compiles the BPF programs, generates the Rust bindings of the ABI header and the Rust enums of the reason list.
//!
//! Needs clang 14 or newer (`PYRITE_CLANG` overrides the search) and libclang; writes only to `OUT_DIR`.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const OLDEST_CLANG: u32 = 14;
const NEWEST_CLANG: u32 = 30;
const INSTALL: &str = "install it with: apt-get install clang llvm libclang-dev linux-libc-dev (or set PYRITE_CLANG to clang >= 14)";

/// Where the kernel's UAPI headers differ by architecture.
struct Target {
    define: &'static str,
    include: PathBuf,
}

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={error}");
    }
}

fn build() -> Result<()> {
    for input in ["include", "prog", "build.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::rerun-if-env-changed=PYRITE_CLANG");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let (clang, version) = find_clang()?;
    let target = target()?;
    compile(&clang, &target, &out.join("sampler.bpf.o"))?;
    strip(version, &out.join("sampler.bpf.o"));
    bind(&target, &out.join("abi.rs"))?;
    fs::write(out.join("reasons.rs"), reason_enums(&fs::read_to_string("include/reasons.def")?)?)?;
    Ok(())
}

/// The newest clang there is, and its major version.
fn find_clang() -> Result<(String, u32)> {
    let candidates: Vec<String> = match env::var("PYRITE_CLANG") {
        Ok(named) => vec![named],
        Err(_) => std::iter::once("clang".to_owned())
            .chain((OLDEST_CLANG..=NEWEST_CLANG).map(|version| format!("clang-{version}")))
            .collect(),
    };
    let newest = candidates
        .into_iter()
        .filter_map(|name| clang_version(&name).map(|version| (name, version)))
        .max_by_key(|(_, version)| *version);
    match newest {
        Some((name, version)) if version >= OLDEST_CLANG => Ok((name, version)),
        Some((name, version)) => {
            Err(format!("{name} is version {version}, too old for the BPF programs: {INSTALL}").into())
        }
        None => Err(format!("no clang found, which the BPF programs need: {INSTALL}").into()),
    }
}

fn clang_version(clang: &str) -> Option<u32> {
    let output = Command::new(clang).arg("--version").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = text.split("clang version ").nth(1)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn target() -> Result<Target> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let (define, multiarch) = match arch.as_str() {
        "x86_64" => ("-D__TARGET_ARCH_x86", "x86_64-linux-gnu"),
        "aarch64" => ("-D__TARGET_ARCH_arm64", "aarch64-linux-gnu"),
        other => return Err(format!("no BPF programs for {other}: only x86_64 and aarch64").into()),
    };
    // Debian keeps asm/ under the multiarch name; distributions without multiarch have it in /usr/include itself.
    let include = Path::new("/usr/include").join(multiarch);
    if !include.join("asm/ptrace.h").exists() && !Path::new("/usr/include/asm/ptrace.h").exists() {
        return Err(format!("no kernel headers in {}: {INSTALL}", include.display()).into());
    }
    Ok(Target { define, include })
}

fn compile(clang: &str, target: &Target, object: &Path) -> Result<()> {
    let output = Command::new(clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"])
        .args([target.define, "-Iinclude", "-Iprog", "-isystem"])
        .arg(&target.include)
        .args(["-c", "prog/sampler.bpf.c", "-o"])
        .arg(object)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).replace('\n', " | ");
    Err(format!("{clang} could not compile prog/sampler.bpf.c: {said}").into())
}

/// Removes DWARF, which nothing reads (BTF stays). Only the size of the binary depends on it, so no llvm-strip is fine.
fn strip(version: u32, object: &Path) {
    for name in [format!("llvm-strip-{version}"), "llvm-strip".to_owned()] {
        if let Ok(status) = Command::new(name).arg("-g").arg(object).stderr(Stdio::null()).status()
            && status.success()
        {
            return;
        }
    }
}

fn bind(target: &Target, bindings: &Path) -> Result<()> {
    let builder = bindgen::Builder::default()
        .header("include/bindings.h")
        .clang_args(["-Iinclude", "-isystem"])
        .clang_arg(target.include.to_string_lossy())
        .allowlist_type(
            "pyrite_.*|perf_event_(attr|header|mmap_page|type|sample_format|read_format)|perf_(type|hw|sw)_ids?",
        )
        .allowlist_var("PYRITE_.*")
        .prepend_enum_name(false)
        .derive_default(true)
        .layout_tests(true)
        .use_core()
        .rust_target(bindgen::RustTarget::stable(82, 0).map_err(|error| error.to_string())?);
    // bindgen panics where it finds no libclang, which Debian's clang package does not bring along.
    let generated = std::panic::catch_unwind(AssertUnwindSafe(|| builder.generate()))
        .ok()
        .ok_or_else(|| format!("libclang, which reads the ABI header, could not be loaded: {INSTALL}"))??;
    generated.write_to_file(bindings)?;
    Ok(())
}

/// One Rust enum per kind of reason, each with the stable name and the help text of every variant.
fn reason_enums(list: &str) -> Result<String> {
    let mut code = String::new();
    for (kind, name, doc) in [
        ("TICK", "TickFate", "What became of one tick of the sampling clock."),
        ("STACK", "StackOutcome", "How the walk of one stack ended."),
        ("OFF", "OffFate", "What became of one time that a thread left a CPU."),
        ("NOTE", "Note", "Things counted that lose no tick."),
    ] {
        let reasons = parse_reasons(list, kind)?;
        let mut variants = String::new();
        let mut table = String::new();
        for (id, label, help) in &reasons {
            let variant = camel_case(id);
            writeln!(variants, "    /// {help}.\n    {variant},")?;
            writeln!(table, "        (Self::{variant}, {label:?}, {help:?}),")?;
        }
        let count = reasons.len();
        writeln!(
            code,
            "reasons! {{\n    /// {doc}\n    {name}, {count};\n    variants {{\n{variants}    }}\n    table {{\n{table}    }}\n}}\n"
        )?;
    }
    Ok(code)
}

/// The `(id, name, help)` of each line that starts with `kind(`.
fn parse_reasons(list: &str, kind: &str) -> Result<Vec<(String, String, String)>> {
    let lines = list.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix('('));
    lines
        .map(|line| {
            let quoted: Vec<&str> = line.split('"').collect();
            match quoted[..] {
                [id, name, _, help, _] => {
                    Ok((id.trim_end_matches([',', ' ']).to_owned(), name.to_owned(), help.to_owned()))
                }
                _ => Err(format!("include/reasons.def: cannot read the line {kind}({line}").into()),
            }
        })
        .collect()
}

fn camel_case(id: &str) -> String {
    id.split('_').map(|word| word[..1].to_owned() + &word[1..].to_lowercase()).collect()
}
