//! Rows of real Go programs against the `.debug_frame` that Go's linker writes for debuggers, evaluated by gimli.
//!
//! That section says where CFA and return address are and nothing of the frame pointer. Where the runtime changes stacks or
//! a stack ends, our rows differ on purpose; those are counted apart and must be few.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gimli::{BaseAddresses, CieOrFde, DebugFrame, LittleEndian, UnwindContext, UnwindSection};
use object::{Object, ObjectSection, ObjectSymbol};
use pyrite_unwind::{Arch, Cfa, Saved, Tables, extract, lookup};

use crate::differential;
use crate::files::OneTable;
use crate::truth::{Caller, Machine};

const PROGRAM: &str = r#"package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

type item struct {
	Name string
	Sums map[string][32]byte
}

func main() {
	i := item{Name: strings.Join(os.Args, " "), Sums: map[string][32]byte{}}
	for n := 0; n < 100; n++ {
		i.Sums[fmt.Sprint(n)] = sha256.Sum256([]byte(i.Name))
	}
	json.NewEncoder(os.Stdout).Encode(i)
}
"#;

/// Builds `source` with Go, or says that there is no Go and gives nothing.
pub(crate) fn build(
    name: &str,
    source: &str,
    environment: &[(&str, &str)],
    flags: &[&str],
) -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).expect("the directory can be made");
    fs::write(directory.join("go.mod"), "module fixture\n\ngo 1.20\n").expect("go.mod can be written");
    fs::write(directory.join("main.go"), source).expect("main.go can be written");
    let output = directory.join("program");
    let run = Command::new("go")
        .current_dir(&directory)
        .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache"))
        .envs([("GOTOOLCHAIN", "local"), ("GOFLAGS", "-mod=mod")])
        .envs(environment.iter().copied())
        .args(["build", "-o"])
        .arg(&output)
        .args(flags)
        .output();
    let Ok(run) = run else {
        eprintln!("SKIPPED: no go toolchain, so no Go program is looked at");
        return None;
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Some(output)
}

/// The file without its section headers, as the most thorough strippers leave it.
fn without_sections(file: &[u8]) -> Vec<u8> {
    let mut stripped = file.to_vec();
    stripped[40..48].fill(0);
    stripped[60..64].fill(0);
    stripped
}

#[derive(Debug, Default)]
struct Tally {
    agreed: u64,
    /// Where our rows differ on purpose.
    meant: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

struct Comparison<'a> {
    arch: Arch,
    lowest_svma: u64,
    table: &'a OneTable,
    tally: Tally,
}

impl Comparison<'_> {
    fn compare(&mut self, address: u64, truth: Caller) {
        let position = lookup(self.table, 1, address - self.lowest_svma).expect("the table is ready");
        let rule = self.table.rule(position.rule.0).expect("rows name rules that exist").at(position.behind);
        match (truth, Machine { arch: self.arch, ip: address }.by_rule(rule)) {
            (Caller::Frame { cfa, ra, .. }, Caller::Frame { cfa: our_cfa, ra: our_ra, .. })
                if (cfa, ra) == (our_cfa, our_ra) =>
            {
                self.tally.agreed += 1;
            }
            (Caller::End, Caller::End) => self.tally.agreed += 1,
            // `sigtramp`: the outermost frame to the linker, but the interrupted code called it in a way.
            (Caller::End, _) => *self.tally.meant.entry("behind a signal".to_owned()).or_default() += 1,
            (truth, ours) => match rule.cfa {
                Cfa::FpSwitch(_) | Cfa::End | Cfa::Signal | Cfa::FramePointer | Cfa::Unsupported => {
                    *self.tally.meant.entry(format!("{:?}", rule.cfa)).or_default() += 1;
                }
                // The linker assumes the return address at the bottom of every frame, also of those of assembly code that
                // keeps it elsewhere or never saves it.
                _ if self.arch == Arch::Aarch64 && rule.ra != Saved::AtCfa(0) && same_cfa(truth, ours) => {
                    *self.tally.meant.entry("saved elsewhere".to_owned()).or_default() += 1;
                }
                _ => self.tally.wrong.push(format!("{address:#x}: {truth:x?}, but {rule:x?}")),
            },
        }
    }
}

fn same_cfa(truth: Caller, ours: Caller) -> bool {
    matches!((truth, ours), (Caller::Frame { cfa: a, .. }, Caller::Frame { cfa: b, .. }) if a == b)
}

fn check(arch: Arch, path: &Path) {
    let file = fs::read(path).expect("the program can be read");
    let parsed = object::File::parse(file.as_slice()).expect("an ELF file");
    let data = parsed.section_by_name(".debug_frame").expect(".debug_frame").data().expect("its bytes");
    let mut section = DebugFrame::new(data, LittleEndian);
    section.set_address_size(8);
    let mut counts = Vec::new();
    for (kind, bytes) in [("whole", file.clone()), ("no sections", without_sections(&file))] {
        let raw = extract(&bytes, arch).expect("Go programs have a function table");
        let table = OneTable::new(&raw);
        let mut comparison =
            Comparison { arch, lowest_svma: raw.layout.lowest_svma, table: &table, tally: Tally::default() };
        let functions = check_all(&section, &mut comparison);
        let Tally { agreed, meant, wrong } = comparison.tally;
        let other = meant.values().sum::<u64>() + wrong.len() as u64;
        println!(
            "{} ({kind}): {functions} functions, {agreed} agreed, {meant:?}, {} wrong",
            path.display(),
            wrong.len()
        );
        assert!(functions > 1000 && agreed > 10_000, "{functions} functions, {agreed} agreed");
        assert!(wrong.len() as u64 * 1000 <= agreed, "{:#?}", &wrong[..wrong.len().min(8)]);
        assert!(other * 200 <= agreed, "{other} of {agreed} differ");
        counts.push(raw.report.rows);
    }
    assert!(parsed.symbols().any(|symbol| symbol.name() == Ok("main.main")));
    // Sections show some rows more, such as those of the procedure linkage table and of the compiler's own functions.
    assert!(counts[0].abs_diff(counts[1]) < 64, "the table is found without sections: {counts:?}");
}

/// Compares at each row's start, at its last byte and at one in between. Says how many functions there were.
fn check_all(
    section: &DebugFrame<gimli::EndianSlice<'_, LittleEndian>>,
    comparison: &mut Comparison<'_>,
) -> u64 {
    let bases = BaseAddresses::default();
    let mut context = UnwindContext::new();
    let mut entries = section.entries(&bases);
    let mut functions = 0;
    while let Some(entry) = entries.next().expect("well-formed CFI") {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(DebugFrame::cie_from_offset).expect("a well-formed FDE");
        functions += 1;
        let ra = fde.cie().return_address_register();
        let mut rows = fde.rows(section, &bases, &mut context).expect("a well-formed CIE");
        while let Some(row) = rows.next_row().expect("well-formed CFI") {
            let (first, end) = (row.start_address(), row.end_address());
            for address in [first, first + (end - first) / 2, end - 1] {
                // The linker lets the last row of a function end a byte early, and of one byte vanish.
                if first < end && address + 1 < fde.end_address() {
                    let machine = Machine { arch: comparison.arch, ip: address };
                    comparison.compare(address, machine.truth(section, row, ra));
                }
            }
        }
    }
    functions
}

const WITH_DEBUG_FRAME: &str = "-ldflags=-compressdwarf=false";

#[test]
fn rows_of_a_go_program_agree_with_its_debug_frame() {
    if let Some(path) = build("go-static", PROGRAM, &[("CGO_ENABLED", "0")], &[WITH_DEBUG_FRAME]) {
        check(Arch::X86_64, &path);
    }
}

#[test]
fn rows_of_a_position_independent_go_program_agree_with_its_debug_frame() {
    let flags = [WITH_DEBUG_FRAME, "-buildmode=pie"];
    if let Some(path) = build("go-pie", PROGRAM, &[("CGO_ENABLED", "0")], &flags) {
        check(Arch::X86_64, &path);
    }
}

#[test]
fn rows_of_a_go_program_with_c_code_agree_with_its_debug_frame() {
    let source = PROGRAM
        .replace("import (", "// int twice(int n) { return 2 * n; }\nimport \"C\"\n\nimport (")
        .replace("n < 100;", "n < int(C.twice(50));");
    for (name, mode) in [("go-cgo", "-buildmode=exe"), ("go-cgo-pie", "-buildmode=pie")] {
        let flags = ["-ldflags=-compressdwarf=false -linkmode=external", mode];
        if let Some(path) = build(name, &source, &[("CGO_ENABLED", "1")], &flags) {
            check(Arch::X86_64, &path);
        }
    }
}

/// Functions of C in it have `.eh_frame`, those of Go have none.
#[test]
fn rows_of_a_library_of_go_and_c_agree_with_its_debug_frame_and_its_eh_frame() {
    let source = PROGRAM
        .replace("import (", "// static int twice(int n) { return 2 * n; }\nimport \"C\"\n\nimport (")
        .replace("func main() {", "//export run\nfunc run() {")
        .replace("n < 100;", "n < int(C.twice(50));")
        + "\nfunc main() { run() }\n";
    let flags = ["-ldflags=-compressdwarf=false -linkmode=external", "-buildmode=c-shared"];
    if let Some(path) = build("go-library", &source, &[("CGO_ENABLED", "1")], &flags) {
        check(Arch::X86_64, &path);
        differential::check(&path);
    }
}

#[test]
fn rows_of_a_go_program_for_aarch64_agree_with_its_debug_frame() {
    let environment = [("CGO_ENABLED", "0"), ("GOARCH", "arm64")];
    if let Some(path) = build("go-arm64", PROGRAM, &environment, &[WITH_DEBUG_FRAME]) {
        check(Arch::Aarch64, &path);
    }
}
