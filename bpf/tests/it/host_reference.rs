//! The BPF walk and the reference unwinder over the same made-up worlds: the same frames, the same end. And over worlds that
//! make no sense at all, in which the walk must neither read out of bounds nor go on for ever.

use pyrite_bpf::StackOutcome;
use pyrite_bpf::abi::{self, pyrite_config, pyrite_executable};
use pyrite_model::Avma;
use pyrite_unwind::{
    CHUNK_BYTES, Cfa, Machine, MappedCode, Registers, Rule, RuleBytes as _, Run, Saved, StackCopy,
    StackMemory, Start, Walked, Walker,
};

use crate::host::{Host, Known, Region, World};
use crate::random::Random;
use crate::record::Record;
use crate::tables::{Mapping, Published};

const CODE: u64 = 0x5000_0000;
const CODE_BYTES: u64 = 0x3_0000;
const STACK: u64 = 0x7fff_0000;
const STACK_BYTES: u64 = 3 * 4096;

impl Random {
    fn word(&mut self) -> u64 {
        match self.below(20) {
            0 => 0,
            1 => self.next(),
            2 => CODE + CODE_BYTES + self.below(64),
            3..8 => STACK + self.below(STACK_BYTES / 8 + 2) * 8,
            _ => CODE + self.below(CODE_BYTES),
        }
    }

    fn offset(&mut self) -> i32 {
        if self.chance(5) { self.next() as i32 } else { self.below(40) as i32 * 8 - 40 }
    }

    fn small_offset(&mut self) -> i16 {
        if self.chance(5) { self.next() as i16 } else { -(self.below(12) as i16 * 8) }
    }

    fn saved(&mut self, same: u64) -> Saved {
        match self.below(100) {
            percent if percent < same => Saved::Same,
            97 => Saved::Unknown,
            98 | 99 => Saved::AtFp(self.small_offset()),
            _ => Saved::AtCfa(self.small_offset()),
        }
    }

    fn rule(&mut self) -> Rule {
        // Those that both machines have, and one that neither has.
        let register = if self.chance(95) { self.below(16) as u8 } else { 33 };
        let (offset, add) = (self.offset(), self.small_offset());
        let cfa = match self.below(41) {
            0 => Cfa::None,
            1 => Cfa::End,
            2 => Cfa::Plt { pushed_from: 1 + self.below(15) as u8 },
            3 => Cfa::Signal,
            4 => Cfa::FramePointer,
            5 => Cfa::Unsupported,
            6 => Cfa::FpSwitch(offset),
            7 | 8 => Cfa::SpDeref { offset, add },
            9 => Cfa::FpDeref { offset, add },
            10 | 11 => Cfa::Register { register, offset },
            12 => Cfa::RegisterDeref { register, offset, add },
            13 => Cfa::ReturnRegister { register, offset },
            14..19 => Cfa::Fp(offset),
            _ => Cfa::Sp(offset),
        };
        let ra = if self.chance(85) { Saved::AtCfa(-8) } else { self.saved(50) };
        let run = if self.chance(30) {
            Run { pushes: self.next() as u16, pop: self.chance(50), fp_from: self.below(20) as u8 }
        } else {
            Run::default()
        };
        Rule { cfa, fp: self.saved(60), ra, run }
    }

    /// Tables of one executable: rows all over the code, in a tree of depth 0, 1 or 2.
    fn add_tree(&mut self, published: &mut Published, rules: u64) -> u32 {
        let depth = self.below(3) as u8;
        let leaves = [1, 3, 6][usize::from(depth)];
        let bytes_of_leaf = CODE_BYTES as u32 / leaves;
        let first_pc = if self.chance(10) { self.below(4096) as u32 } else { 0 };
        let nodes: Vec<(u32, u32)> = (0..leaves)
            .map(|leaf| (first_pc + leaf * bytes_of_leaf, self.add_leaf(published, bytes_of_leaf, rules)))
            .collect();
        let root = match depth {
            0 => nodes[0].1,
            1 => add_node(published, &nodes),
            _ => {
                let halves: Vec<(u32, u32)> =
                    nodes.chunks(3).map(|half| (half[0].0, add_node(published, half))).collect();
                add_node(published, &halves)
            }
        };
        let state = match self.below(30) {
            0 => abi::PYRITE_TABLE_PENDING,
            1 => abi::PYRITE_TABLE_ABSENT,
            2 => abi::PYRITE_TABLE_OVER_BUDGET,
            _ => abi::PYRITE_TABLE_READY,
        };
        let executable =
            pyrite_executable { root, first_pc, depth, state: state as u8, ..pyrite_executable::default() };
        published.add_executable(&executable)
    }

    fn add_leaf(&mut self, published: &mut Published, bytes: u32, rules: u64) -> u32 {
        let rows = 1 + self.below(256) as usize;
        let mut pcs: Vec<u16> = (0..rows).map(|_| self.below(u64::from(bytes.min(0xffff))) as u16).collect();
        pcs[0] = 0;
        pcs.sort_unstable();
        pcs.dedup();
        let mut rows: Vec<(u16, u16)> = pcs.into_iter().map(|pc| (pc, self.below(rules) as u16)).collect();
        rows.resize(256, (0xffff, 0));
        published.add_chunk(&rows, |(pc, rule)| {
            let mut bytes = [0; 4];
            bytes[..2].copy_from_slice(&pc.to_ne_bytes());
            bytes[2..].copy_from_slice(&rule.to_ne_bytes());
            bytes
        })
    }

    /// A world in which the tables are well formed, but neither they nor the stack were made by a compiler.
    fn world(&mut self, generation: u32) -> (World, Vec<Mapping>) {
        let rules = 2 + self.below(30);
        let mut published = Published::new();
        let executable = self.add_tree(&mut published, rules);
        let mut mappings = self.mappings(executable);
        mappings.sort_by_key(|mapping| mapping.start);
        let mut process = published.add_mappings(&mappings);
        process[8..12].copy_from_slice(&generation.to_ne_bytes());
        let mut rule_bytes: Vec<[u8; 16]> = (0..rules).map(|_| self.rule().to_abi().to_bytes()).collect();
        rule_bytes[0] = Rule::NONE.to_abi().to_bytes();
        let stack: Vec<u8> = (0..STACK_BYTES / 8).flat_map(|_| self.word().to_ne_bytes()).collect();
        let mut registers = [0; 32];
        registers.fill_with(|| self.word());
        for sp in [7, 31] {
            registers[sp] = STACK + self.below(STACK_BYTES / 32) * 8;
        }
        let world = World {
            chunks: published.chunks,
            executables: published.executables,
            rules: rule_bytes,
            regions: vec![Region { start: STACK, bytes: stack }],
            in_kernel: self.chance(20),
            kernel_frames: if self.chance(20) { self.below(128) as u32 } else { 0 },
            config: pyrite_config {
                copies_per_second: u32::from(self.chance(30)),
                ..pyrite_config::default()
            },
            process,
            registers,
            ip: self.word(),
            ..World::default()
        };
        (world, mappings)
    }

    /// The code, and so many other mappings that they fill one chunk or several.
    fn mappings(&mut self, executable: u32) -> Vec<Mapping> {
        let others = if self.chance(30) { self.below(300) } else { self.below(30) };
        let code = Mapping { start: CODE, end: CODE + CODE_BYTES, bias: CODE, executable };
        let other = |number: u64| {
            // As many below the code as above it.
            let side = if number.is_multiple_of(2) { CODE - 0x100_0000 } else { CODE + 0x100_0000 };
            let start = side + number * 0x2000;
            Mapping { start, end: start + 0x1000, bias: start, executable: 0 }
        };
        std::iter::once(code).chain((0..others).map(other)).collect()
    }

    /// A world without sense.
    fn chaos(&mut self) -> World {
        let (mut world, _) = self.world(1);
        for _ in 0..self.below(200) {
            let chunk = self.below(world.chunks.len() as u64) as usize;
            let at = self.below(CHUNK_BYTES as u64) as usize;
            world.chunks[chunk][at] = self.next() as u8;
        }
        for byte in world.rules.iter_mut().chain(&mut world.executables).flatten() {
            if self.chance(10) {
                *byte = self.next() as u8;
            }
        }
        if self.chance(20) {
            let at = 8 + self.below(16) as usize;
            world.process[at] = self.next() as u8;
        }
        for register in &mut world.registers {
            if self.chance(20) {
                *register = self.next();
            }
        }
        world.known = match self.below(10) {
            0 => Known::Nobody,
            1 => Known::Parent,
            _ => Known::Itself,
        };
        world.is_kernel_thread = self.chance(5);
        world
    }
}

fn add_node(published: &mut Published, entries: &[(u32, u32)]) -> u32 {
    let mut entries = entries.to_vec();
    entries.resize(128, (u32::MAX, 0));
    published.add_chunk(&entries, |(pc, chunk)| {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&pc.to_ne_bytes());
        bytes[4..].copy_from_slice(&chunk.to_ne_bytes());
        bytes
    })
}

/// What the reference unwinder says of a world.
pub(crate) fn reference(machine: Machine, world: &World, mappings: &[Mapping]) -> (Vec<u64>, Walked) {
    let (sp, fp) = if machine == Machine::X86_64 { (7, 6) } else { (31, 29) };
    let registers =
        Registers { ip: world.ip, sp: world.registers[sp], fp: world.registers[fp], lr: world.registers[30] };
    let mut all = world.registers;
    if machine == Machine::X86_64 {
        all[16..].fill(0);
    }
    let start = Start { all: Some(all), ..Start::leaf(registers) };
    let mut frames = Vec::new();
    let end = walk(machine, (world, mappings, world), &start, &mut frames);
    (frames, end)
}

/// Appends to the frames what the reference unwinder finds from `start` on.
fn walk(
    machine: Machine,
    (tables, mappings, memory): (&World, &[Mapping], &impl StackMemory),
    start: &Start,
    frames: &mut Vec<u64>,
) -> Walked {
    let find = |avma: Avma| {
        let mapping = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&avma.0))?;
        Some(MappedCode { executable: mapping.executable, bias: mapping.bias })
    };
    let limit = abi::PYRITE_MAX_USER_FRAMES as usize;
    let unwinder = Walker { machine, tables, mappings: &find, memory, limit };
    let mut avmas: Vec<Avma> = frames.iter().copied().map(Avma).collect();
    let walked = unwinder.walk(start, &mut avmas);
    *frames = avmas.into_iter().map(|avma| avma.0).collect();
    walked
}

/// Goes on where the record's copy of the stack starts, as user space does. Returns whether that led as far as the walk.
fn finishes(machine: Machine, world: &World, mappings: &[Mapping], record: &Record) -> bool {
    let Some((copy, bytes)) = &record.copy else { return false };
    let from = abi::pyrite_stack_copy {
        registers: copy.registers,
        ip: copy.ip,
        frames_before: copy.frames_before,
        all_registers: copy.all_registers.into(),
        sp_lost: copy.sp_lost.into(),
        ..abi::pyrite_stack_copy::default()
    };
    let start = Start::from_copy(&from, machine);
    let memory = StackCopy::new(Avma(start.registers.sp), bytes);
    let mut frames = record.user[..usize::from(copy.frames_before)].to_vec();
    walk(machine, (world, mappings, &memory), &start, &mut frames);
    // Shorter where the registers lead out of what was copied.
    assert!(record.user.starts_with(&frames), "{:x?} is not {frames:x?}", record.user);
    frames.len() == record.user.len()
}

fn check(seed: u64, machine: Machine, world: &World, mappings: &[Mapping], record: &Record) {
    let (frames, walked) = reference(machine, world, mappings);
    assert_eq!((&record.user, record.outcome), (&frames, walked.outcome), "world {seed}");
    assert_eq!(record.frame_pointer_frames, walked.frame_pointer_frames, "world {seed}");
    if let Some((copy, bytes)) = &record.copy {
        let sp = copy.registers[if machine == Machine::X86_64 { 7 } else { 31 }];
        let region = &world.regions[0];
        let there =
            sp.checked_sub(region.start).and_then(|at| region.bytes.get(at as usize..)).unwrap_or_default();
        assert_eq!(bytes, there, "world {seed}");
        let is_interrupted = copy.frames_before > 0 && copy.all_registers;
        let told = copy.ip.wrapping_add(is_interrupted.into());
        assert_eq!(frames.get(usize::from(copy.frames_before)), Some(&told), "world {seed}");
    }
}

fn agree(host: &Host, first_seed: u64) {
    const WORLDS: u64 = 2500;
    let made: Vec<(World, Vec<Mapping>)> =
        (0..WORLDS).map(|number| Random(first_seed + number).world(number as u32 + 1)).collect();
    let worlds: Vec<World> = made.iter().map(|(world, _)| world.clone()).collect();
    let records = host.run(&worlds);
    let (mut deep, mut copies, mut finished) = (0, 0, 0);
    let mut outcomes = std::collections::BTreeMap::new();
    for ((number, (world, mappings)), [cold, warm]) in made.iter().enumerate().zip(&records) {
        let cold = cold.as_ref().expect("a record");
        assert_eq!(Some(cold), warm.as_ref(), "world {number}: the trail leads elsewhere than the tables");
        check(first_seed + number as u64, host.machine, world, mappings, cold);
        deep += usize::from(cold.user.len() > 4);
        copies += usize::from(cold.copy.is_some());
        finished += usize::from(finishes(host.machine, world, mappings, cold));
        *outcomes.entry(cold.outcome.name()).or_insert(0) += 1;
    }
    println!("{deep} of {WORLDS} deeper than 4 frames, {finished} of {copies} copies finished, {outcomes:?}");
    assert!(deep > 20 && copies > 50 && outcomes.len() > 6, "the worlds are too alike");
    assert!(finished * 10 > copies * 9, "{finished} of {copies}");
}

#[test]
fn host_walks_are_the_reference_unwinders_on_x86_64() {
    agree(&Host::x86_64(), 1);
}

#[test]
fn host_walks_are_the_reference_unwinders_on_aarch64() {
    agree(&Host::aarch64(), 1_000_000);
}

/// Whatever was never written looks like a zero: on a CPU that has just begun, too, a jump to nowhere is no stack.
#[test]
fn host_walks_of_unknown_processes_end_where_nothing_leads_on() {
    for host in [Host::x86_64(), Host::aarch64()] {
        let world = World { known: Known::Nobody, rules: vec![[0; 16]], ..World::default() };
        for record in host.run(&[world])[0].each_ref() {
            let record = record.as_ref().unwrap();
            assert_eq!((record.outcome, &record.user[..]), (StackOutcome::UnknownProcess, &[0][..]));
        }
    }
}

#[test]
fn host_walks_survive_tables_and_stacks_without_sense() {
    for host in [Host::x86_64(), Host::aarch64()] {
        let worlds: Vec<World> = (0..3000).map(|seed| Random(5_000_000 + seed).chaos()).collect();
        let records = host.run(&worlds);
        assert!(records.iter().all(|[cold, warm]| cold.is_some() && warm.is_some()));
    }
}
