//! The programs compiled for this machine with stub helpers (`tests/host`), under `ASan` and `UBSan`, for either architecture.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use pyrite_bpf::abi::{self, pyrite_config, pyrite_executable};
use pyrite_unwind::{Chunk, Machine, Rule, RuleBytes as _, StackMemory, Tables};
use tempfile::TempDir;

use crate::record::{Record, decode};

/// What the program has before it: the tables, one process, one thread.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) executables: Vec<[u8; 16]>,
    pub(crate) rules: Vec<[u8; 16]>,
    pub(crate) regions: Vec<Region>,
    /// In place of the interrupted user mode, system call.
    pub(crate) in_kernel: bool,
    pub(crate) kernel_frames: u32,
    pub(crate) known: Known,
    pub(crate) is_kernel_thread: bool,
    pub(crate) config: pyrite_config,
    pub(crate) process: [u8; 24],
    /// By DWARF number.
    pub(crate) registers: [u64; 32],
    pub(crate) ip: u64,
}

/// Memory of the process.
#[derive(Clone, Default)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Which process is known.
#[derive(Clone, Copy, Default)]
pub(crate) enum Known {
    Nobody,
    #[default]
    Itself,
    Parent,
}

/// The compiled programs.
pub(crate) struct Host {
    directory: TempDir,
    pub(crate) machine: Machine,
}

/// What no user address of 48 bits has: pointer authentication and tags.
const TAG_MASK: u64 = !0 << 48;

impl Host {
    pub(crate) fn x86_64() -> Self {
        Self::build(Machine::X86_64, "-D__TARGET_ARCH_x86")
    }

    pub(crate) fn aarch64() -> Self {
        Self::build(Machine::Aarch64 { address_tag_mask: TAG_MASK }, "-D__TARGET_ARCH_arm64")
    }

    fn build(machine: Machine, define: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let mut cc = Command::new("cc");
        cc.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-DPYRITE_HOST", define, "-std=gnu11", "-O1", "-g"]);
        // BPF programs may load words from any address, as the window does where a stack pointer is odd.
        cc.args(["-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all"]);
        cc.args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-Iinclude",
            "-Iprog",
            "-Itests/host",
        ]);
        cc.arg("tests/host/host.c").arg("-o").arg(directory.path().join("host"));
        assert!(cc.status().expect("cc is installed").success());
        Self { directory, machine }
    }

    fn path(&self) -> std::path::PathBuf {
        Path::new(self.directory.path()).join("host")
    }

    /// Both ticks of every world; `None` where the program wrote no record.
    pub(crate) fn run(&self, worlds: &[World]) -> Vec<[Option<Record>; 2]> {
        let cases = worlds.iter().flat_map(|world| world.encode(self.machine)).collect();
        let answers = self.play(&[], cases);
        assert_eq!(answers.len(), 2 * worlds.len());
        let record = |bytes: &Vec<u8>| (!bytes.is_empty()).then(|| decode(bytes));
        answers.as_chunks::<2>().0.iter().map(|ticks| ticks.each_ref().map(record)).collect()
    }

    /// What the program writes at context switches, each a `struct context_switch` of `host.c`; the counters come last.
    pub(crate) fn run_switches(&self, config: &pyrite_config, switches: &[u8]) -> Vec<Vec<u8>> {
        self.play(&["switches"], [&pyrite_bpf::config_bytes(config)[..], switches].concat())
    }

    fn play(&self, arguments: &[&str], input: Vec<u8>) -> Vec<Vec<u8>> {
        let mut program = Command::new(self.path());
        let program = program.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = program.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let mut answer = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut answer).unwrap();
        assert!(child.wait().unwrap().success(), "the sanitizers or the clock stopped it, see above");
        writer.join().unwrap().unwrap();
        let mut answer = answer.as_slice();
        let mut answers = Vec::new();
        while let Some((length, rest)) = answer.split_first_chunk::<4>() {
            let (bytes, rest) = rest.split_at(u32::from_ne_bytes(*length) as usize);
            answers.push(bytes.to_vec());
            answer = rest;
        }
        answers
    }
}

impl World {
    fn encode(&self, machine: Machine) -> Vec<u8> {
        let known = match self.known {
            Known::Nobody => 0,
            Known::Itself => 1,
            Known::Parent => 2,
        };
        let counts = [self.chunks.len(), self.rules.len(), self.executables.len(), self.regions.len()];
        let head = counts.map(|count| count as u32).into_iter().chain([
            u32::from(!self.in_kernel),
            self.kernel_frames,
            known,
            u32::from(self.is_kernel_thread),
        ]);
        let mut bytes: Vec<u8> = head.flat_map(u32::to_ne_bytes).collect();
        let mask = if let Machine::Aarch64 { address_tag_mask } = machine { address_tag_mask } else { 0 };
        let config = pyrite_config { address_tag_mask: mask, ..self.config };
        bytes.extend(pyrite_bpf::config_bytes(&config));
        bytes.extend(self.process);
        bytes.extend(self.register_words(machine).into_iter().flat_map(u64::to_ne_bytes));
        bytes.extend(self.chunks.iter().flatten());
        bytes.extend(self.rules.iter().flatten());
        bytes.extend(self.executables.iter().flatten());
        for region in &self.regions {
            bytes.extend(region.start.to_ne_bytes());
            bytes.extend((region.bytes.len() as u64).to_ne_bytes());
            bytes.extend(&region.bytes);
        }
        bytes
    }

    /// As the kernel keeps them: `struct pt_regs` or `struct user_pt_regs`.
    fn register_words(&self, machine: Machine) -> Vec<u64> {
        const X86_64_ORDER: [usize; 16] = [10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0];
        match machine {
            Machine::X86_64 => {
                let mut words = vec![0; 21];
                for (number, at) in X86_64_ORDER.into_iter().enumerate() {
                    words[at] = self.registers[number];
                }
                (words[16], words[17]) = (self.ip, 0x33);
                words
            }
            Machine::Aarch64 { .. } => {
                let mut words = self.registers.to_vec();
                words.extend([self.ip, 0]);
                words
            }
        }
    }
}

impl Tables for World {
    fn chunk(&self, id: u32) -> Option<&Chunk> {
        self.chunks.get(id as usize)
    }

    fn executable(&self, index: u32) -> Option<pyrite_executable> {
        let bytes = self.executables.get(index as usize)?;
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        Some(pyrite_executable {
            root: word(0),
            first_pc: word(4),
            depth: bytes[8],
            state: bytes[9],
            ..pyrite_executable::default()
        })
    }

    fn rule(&self, id: u16) -> Option<Rule> {
        Rule::from_abi(&abi::pyrite_rule::from_bytes(self.rules.get(usize::from(id))?))
    }
}

impl StackMemory for World {
    fn read_u64(&self, avma: pyrite_model::Avma) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let at = usize::try_from(avma.0.checked_sub(region.start)?).ok()?;
            Some(u64::from_ne_bytes(*region.bytes.get(at..)?.first_chunk()?))
        })
    }
}
