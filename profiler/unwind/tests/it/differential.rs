//! Every row start of every function, and random addresses within functions: table and gimli must name the same caller.
//!
//! A difference is allowed only where the table says that it does not know; the share of those is bounded. A table
//! that claims something else than the call frame information fails at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gimli::{
    BaseAddresses, CieOrFde, EhFrame, FrameDescriptionEntry, LittleEndian, UnwindContext, UnwindSection,
};
use object::{Object, ObjectSection};
use pyrite_unwind::{Arch, Cfa, ReadAt, RuleId, Saved, Tables, extract, lookup};

use crate::files::{OneTable, OpenFile, installed, of_this_process};
use crate::truth::{Caller, Machine};

type Slice<'a> = gimli::EndianSlice<'a, LittleEndian>;

/// Addresses tried in each function besides its row starts.
const RANDOM_PER_FUNCTION: u64 = 3;
const WANTED_SHARE: f64 = 0.999;
const FEW: u64 = 8;

/// How many addresses of a file came out how.
#[derive(Debug, Default)]
struct Tally {
    tried: u64,
    agreed: u64,
    differ: BTreeMap<&'static str, u64>,
    wrong: Vec<String>,
}

impl Tally {
    fn note(&mut self, address: u64, truth: Caller, table: Caller, says: (Cfa, Saved)) {
        self.tried += 1;
        if truth == table {
            self.agreed += 1;
            return;
        }
        match (truth, table) {
            (_, Caller::Frame { cfa: None, .. }) => *self.differ.entry("unsupported").or_default() += 1,
            (Caller::Frame { cfa, ra, .. }, Caller::Frame { cfa: our_cfa, ra: our_ra, fp: None })
                if (cfa, ra) == (our_cfa, our_ra) =>
            {
                *self.differ.entry("frame pointer lost").or_default() += 1;
            }
            _ => self.wrong.push(format!("{address:#x}: {truth:x?}, but {says:x?} is {table:x?}")),
        }
    }
}

struct Comparison<'a> {
    arch: Arch,
    lowest_svma: u64,
    table: &'a OneTable,
    eh_frame: EhFrame<Slice<'a>>,
    bases: BaseAddresses,
}

impl<'a> Comparison<'a> {
    /// Sorted by start. Where functions begin alike, the first one counts, and each ends where the next begins.
    fn functions(&self) -> Vec<(u64, FrameDescriptionEntry<Slice<'a>>)> {
        let mut functions = Vec::new();
        let mut entries = self.eh_frame.entries(&self.bases);
        while let Some(entry) = entries.next().expect("well-formed CFI") {
            if let CieOrFde::Fde(partial) = entry {
                functions.push(partial.parse(EhFrame::cie_from_offset).expect("well-formed FDE"));
            }
        }
        functions.retain(|fde| fde.len() > 0);
        functions.sort_by_key(FrameDescriptionEntry::initial_address);
        functions.dedup_by_key(|fde| fde.initial_address());
        let starts: Vec<u64> = functions.iter().skip(1).map(FrameDescriptionEntry::initial_address).collect();
        let ends = starts.into_iter().chain([u64::MAX]);
        functions.into_iter().zip(ends).map(|(fde, next)| (fde.end_address().min(next), fde)).collect()
    }

    fn check(&self, tally: &mut Tally) {
        let mut context = UnwindContext::new();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for (end, fde) in self.functions() {
            let ra = fde.cie().return_address_register();
            let mut starts = Vec::new();
            let mut rows = fde.rows(&self.eh_frame, &self.bases, &mut context).expect("well-formed CIE");
            while let Some(row) = rows.next_row().expect("well-formed CFI program") {
                if row.start_address() < row.end_address() && row.start_address() < end {
                    starts.push((row.start_address(), self.truth(row, row.start_address(), ra)));
                }
            }
            for (address, truth) in starts {
                self.compare(address, truth, tally);
            }
            for _ in 0..RANDOM_PER_FUNCTION {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let address = fde.initial_address() + (random >> 32) % (end - fde.initial_address());
                let row = fde
                    .unwind_info_for_address(&self.eh_frame, &self.bases, &mut context, address)
                    .expect("a row");
                let truth = self.truth(row, address, ra);
                self.compare(address, truth, tally);
            }
        }
    }

    fn truth(&self, row: &gimli::UnwindTableRow<usize>, ip: u64, ra: gimli::Register) -> Caller {
        Machine { arch: self.arch, ip }.truth(&self.eh_frame, row, ra)
    }

    fn compare(&self, address: u64, truth: Caller, tally: &mut Tally) {
        let position = lookup(self.table, 1, address - self.lowest_svma).expect("the table is ready");
        let rule = self.table.rule(position.rule.0).expect("rows name rules that exist").at(position.behind);
        let ours = Machine { arch: self.arch, ip: address }.by_rule(rule);
        tally.note(address, truth, ours, (rule.cfa, rule.fp));
    }
}

/// Compares all of a file's `.eh_frame`.
pub(crate) fn check(path: &Path) {
    let file = OpenFile::open(path).expect("the file opens");
    let contents = fs::read(path).expect("the file is readable");
    let tally = compared(path, &file, &contents);
    assert!(tally.tried > 100, "{}", path.display());
}

fn compared(path: &Path, file: &impl ReadAt, contents: &[u8]) -> Tally {
    let elf = object::File::parse(contents).expect("the file is ELF");
    let arch = match elf.architecture() {
        object::Architecture::X86_64 => Arch::X86_64,
        object::Architecture::Aarch64 => Arch::Aarch64,
        other => panic!("{other:?}"),
    };
    let raw = extract(file, arch).expect("a table");
    let table = OneTable::new(&raw);
    let svma = |name| elf.section_by_name(name).map_or(0, |section| section.address());
    let section = elf.section_by_name(".eh_frame").expect("the file has .eh_frame");
    let mut eh_frame = EhFrame::new(section.data().expect("its bytes"), LittleEndian);
    eh_frame.set_address_size(8);
    let bases = BaseAddresses::default().set_eh_frame(svma(".eh_frame")).set_text(svma(".text"));
    let lowest_svma = raw.layout.lowest_svma;
    let mut tally = Tally::default();
    Comparison { arch, lowest_svma, table: &table, eh_frame, bases }.check(&mut tally);

    let share = tally.agreed as f64 / tally.tried as f64;
    println!(
        "{}: {} addresses, {:.4} % agree, {:?}",
        path.display(),
        tally.tried,
        share * 100.0,
        tally.differ
    );
    println!("  {:?}", raw.report);
    assert!(
        tally.wrong.is_empty(),
        "{} wrong: {:#?}",
        tally.wrong.len(),
        &tally.wrong[..tally.wrong.len().min(9)]
    );
    // Small files have a few rows of hand-written assembly, as every large one has.
    let allowed = (tally.tried as f64 * (1.0 - WANTED_SHARE)).max(FEW as f64);
    assert!((tally.tried - tally.agreed) as f64 <= allowed, "{}: {share}", path.display());
    gaps_have_no_rule(&raw, &table);
    tally
}

/// Behind the last function and before the first there is nothing.
fn gaps_have_no_rule(raw: &pyrite_unwind::RawTable, table: &OneTable) {
    let (first, last) = (raw.rows.first().expect("rows"), raw.rows.last().expect("rows"));
    for pc in [0, u64::from(first.pc) - 1, u64::from(last.pc), u64::from(last.pc) + 100_000, u64::MAX] {
        assert_eq!(lookup(table, 1, pc).expect("the table is ready").rule, RuleId::NONE, "{pc:#x}");
    }
}

#[test]
fn executables_of_this_process_agree_with_gimli() {
    for path in of_this_process() {
        check(&path);
    }
}

#[test]
fn the_kernels_own_shared_object_agrees_with_gimli() {
    let maps = fs::read_to_string("/proc/self/maps").expect("procfs is mounted");
    let Some(line) = maps.lines().find(|line| line.ends_with("[vdso]")) else {
        println!("SKIPPED: this kernel maps no vDSO");
        return;
    };
    let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
    let [start, end] = [range.0, range.1].map(|hex| u64::from_str_radix(hex, 16).expect("hexadecimal"));
    let mut image = vec![0; (end - start) as usize];
    let memory = fs::File::open("/proc/self/mem").expect("one's own memory");
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut image, start).expect("one's own memory");
    assert!(compared(Path::new("[vdso]"), &image, &image).tried > 10);
}

#[test]
fn libraries_and_programs_of_this_distribution_agree_with_gimli() {
    let found = installed(&[
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/lib/aarch64-linux-gnu/libcrypto.so.3",
        "/usr/lib/aarch64-linux-gnu/libstdc++.so.6",
        "/usr/bin/python3",
        "/usr/bin/perl",
        "/usr/bin/bash",
        "/usr/lib64/libcrypto.so.3",
        "/usr/lib64/libstdc++.so.6",
    ]);
    assert!(!found.is_empty(), "none of the usual libraries is installed");
    for path in &found {
        check(path);
    }
}

/// Minutes in a debug build; `make bench-unwind` runs it in a release build.
#[test]
#[ignore = "large files; run by make bench-unwind"]
fn large_executables_agree_with_gimli() {
    let mut found = installed(&[
        "/usr/lib/x86_64-linux-gnu/libLLVM*.1",
        "/usr/lib/llvm-14/lib/libclang-cpp.so*",
        "/usr/bin/node",
        "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so",
        "/usr/lib/jvm/default-java/lib/server/libjvm.so",
        "/usr/lib/chromium/chromium",
    ]);
    if let Some(sysroot) = rust_sysroot() {
        found.extend(installed(&[
            &format!("{sysroot}/lib/librustc_driver*.so"),
            &format!("{sysroot}/lib/libLLVM.so*"),
        ]));
    }
    assert!(!found.is_empty(), "none of the large executables is installed");
    for path in &found {
        check(path);
    }
}

fn rust_sysroot() -> Option<String> {
    let output = std::process::Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
