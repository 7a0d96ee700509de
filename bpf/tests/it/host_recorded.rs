//! The BPF walk over the memory of an aarch64 program (`fixtures/aarch64`), recorded at random instants below calls that are
//! known beforehand: the link register at a leaf, signed return addresses, prologues and epilogues, frames that only FP
//! tells, code with nothing but a frame pointer, a signal's handler.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use object::read::elf::{ElfFile64, ElfSegment64, ElfSymbol64};
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
use pyrite_bpf::StackOutcome;
use pyrite_model::{Avma, FileOffset};
use pyrite_unwind::Arch;

use crate::host::{Host, Region, World};
use crate::host_reference::reference;
use crate::tables::{Mapping, Published};

/// Every function with its only caller.
const CALLERS: [(&str, &str); 15] = [
    ("spins", "handles"),
    ("handles", "on_signal"),
    ("on_signal", "restorer"),
    ("restorer", "raises"),
    ("leaf", "last"),
    ("last", "unknown"),
    ("unknown", "raises"),
    ("raises", "recurs"),
    ("recurs", "grows"),
    ("grows", "is_large"),
    ("is_large", "saves"),
    ("saves", "signs"),
    ("signs", "chain"),
    ("chain", "start"),
    ("start", "_start"),
];
/// How often the function that calls itself stands below what it calls.
const RECURSIONS: usize = 6;
const PAGE: usize = 4096;
/// A recording is of use where at least so many of its instants lie at different instructions.
const DIFFERENT_INSTANTS: usize = 30;

/// One function of the program.
struct Function {
    start: u64,
    end: u64,
    name: String,
}

/// The program: its one mapping and its functions.
struct Program {
    published: Published,
    mapping: Mapping,
    functions: Vec<Function>,
}

impl Program {
    fn load() -> Self {
        let bytes = fs::read(fixture("calls")).unwrap();
        let file: ElfFile64<'_> = ElfFile64::parse(&*bytes).unwrap();
        let holds = |segment: &ElfSegment64<'_, '_>| {
            (segment.address()..segment.address() + segment.size()).contains(&file.entry())
        };
        let code = file.segments().find(holds).unwrap();
        let mut published = Published::of(Arch::Aarch64);
        let (executable, layout) = published.add_file(&bytes);
        let (start, bytes_mapped) = (code.address(), code.size());
        let bias = layout.bias(Avma(start), FileOffset(code.file_range().0), bytes_mapped).unwrap();
        let function = |symbol: ElfSymbol64<'_, '_>| Function {
            start: symbol.address(),
            end: symbol.address() + symbol.size(),
            name: symbol.name().unwrap().to_owned(),
        };
        let functions = file.symbols().filter(|symbol| symbol.size() > 0).map(function).collect();
        let mapping = Mapping { start, end: start + bytes_mapped, bias, executable };
        Self { published, mapping, functions }
    }

    fn name(&self, address: u64) -> &str {
        let function =
            self.functions.iter().find(|function| (function.start..function.end).contains(&address));
        function.map_or("nothing", |function| &function.name)
    }

    /// The functions on the stack while `leaf` runs, each once.
    fn truth(leaf: &str) -> Vec<&str> {
        let caller =
            |name: &&str| CALLERS.iter().find(|(callee, _)| callee == name).map(|(_, caller)| *caller);
        std::iter::successors(Some(leaf), caller).collect()
    }

    /// One world for each instant of the recording.
    fn worlds(&mut self) -> Vec<World> {
        let process = self.published.add_mappings(&[self.mapping]);
        let mut recording = Vec::new();
        let file = fs::File::open(fixture("calls.memory.gz")).unwrap();
        flate2::read::GzDecoder::new(file).read_to_end(&mut recording).unwrap();
        let mut rest = recording.as_slice();
        let word = |rest: &mut &[u8]| {
            let (word, behind) = rest.split_first_chunk::<8>().unwrap();
            *rest = behind;
            u64::from_le_bytes(*word)
        };
        let mut worlds = Vec::new();
        while !rest.is_empty() {
            let registers: [u64; 32] = std::array::from_fn(|_| word(&mut rest));
            let (ip, bytes) = (word(&mut rest), word(&mut rest) as usize);
            let (stack, behind) = rest.split_at(bytes);
            rest = behind;
            // Behind it lay the program's arguments and environment, which were left out, up to the end of a page at least.
            let mut stack = stack.to_vec();
            stack.resize((registers[31] as usize + bytes).next_multiple_of(PAGE) - registers[31] as usize, 0);
            worlds.push(World {
                chunks: self.published.chunks.clone(),
                executables: self.published.executables.clone(),
                rules: self.published.rules().collect(),
                regions: vec![Region { start: registers[31], bytes: stack }],
                process,
                registers,
                ip,
                ..World::default()
            });
        }
        worlds
    }
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/aarch64").join(name)
}

#[test]
fn host_walks_of_recorded_aarch64_memory_are_the_calls_that_were_made() {
    let mut program = Program::load();
    let worlds = program.worlds();
    let host = Host::aarch64();
    let mut instants = BTreeSet::new();
    for (world, [cold, warm]) in worlds.iter().zip(host.run(&worlds)) {
        let record = cold.unwrap();
        assert_eq!(Some(&record), warm.as_ref(), "{:x}", world.ip);
        // Every frame but the leaf is told by an address behind its instruction.
        let names: Vec<&str> = record
            .user
            .iter()
            .enumerate()
            .map(|(depth, address)| program.name(address - u64::from(depth > 0)))
            .collect();
        let truth = Program::truth(names[0]);
        let mut distinct = names.clone();
        distinct.dedup();
        assert_eq!(distinct, truth, "{:x}: {:?}", world.ip, record.outcome);
        assert_eq!(record.outcome, StackOutcome::Complete, "{:x}", world.ip);
        let recursions = names.iter().filter(|name| **name == "recurs").count();
        match names[0] {
            "recurs" => assert!((1..=RECURSIONS).contains(&recursions), "{names:?}"),
            _ if truth.contains(&"recurs") => assert_eq!(recursions, RECURSIONS, "{names:?}"),
            _ => assert_eq!(recursions, 0),
        }
        let (frames, walked) = reference(host.machine, world, &[program.mapping]);
        assert_eq!((&record.user, record.outcome), (&frames, walked.outcome), "{:x}", world.ip);
        instants.insert(world.ip);
    }
    let leaves: BTreeSet<&str> = instants.iter().map(|&ip| program.name(ip)).collect();
    println!("{} instants, {} different ones in {leaves:?}", worlds.len(), instants.len());
    assert!(instants.len() >= DIFFERENT_INSTANTS, "only {} different instants", instants.len());
}
