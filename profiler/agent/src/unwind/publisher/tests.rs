//! The publisher with a kernel of hash maps and threads that answer when the test says so.

mod changing;
mod passing;

use std::ops::RangeInclusive;

use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use pyrite_bpf::abi::{PYRITE_TABLE_OVER_BUDGET, PYRITE_TABLE_PENDING, PYRITE_TABLE_READY};
use pyrite_model::{Avma, FileOffset};
use pyrite_sampling::{BootNs, LoadedProcess, MappedRange, Sampling};
use pyrite_unwind::{
    Arch, Cfa, Layout, NoTable, RawRow, RawTable, Report as TableReport, Rule, RuleBook, Saved, Segment,
    build, lookup,
};

use super::*;
use crate::sys::Chunk;
use crate::unwind::chunks::SLAB_CHUNKS;
use crate::unwind::chunks::tests::slab_memory;
use crate::unwind::code::tests::find;
use crate::unwind::opener::tests::own_vdso;
use crate::unwind::rules::RuleNews;
use crate::unwind::stats::Absence;
use crate::unwind::tables::{TableIdentity, TableRows};
use crate::unwind::work::Report;

const SLAB_BYTES: u64 = 1 << 20;
const FIXED_BYTES: u64 = 1000;

#[derive(Default)]
struct FakeKernel {
    processes: HashMap<u32, pyrite_process>,
    executables: HashMap<u32, pyrite_executable>,
    execs: HashMap<u32, BootNs>,
    /// Calls exec at this time while its next set is being written.
    about_to_exec: Option<BootNs>,
}

impl FakeKernel {
    /// What the kernel's program does when a process calls exec.
    fn exec(&mut self, tgid: u32, time: BootNs) {
        self.execs.insert(tgid, time);
        self.processes.remove(&tgid);
    }
}

impl Kernel for FakeKernel {
    type Slab = Vec<Chunk>;

    fn set_process(&mut self, tgid: u32, process: pyrite_process) -> io::Result<()> {
        if let Some(time) = self.about_to_exec.take() {
            self.exec(tgid, time);
        }
        self.processes.insert(tgid, process);
        Ok(())
    }

    fn remove_process(&mut self, tgid: u32) -> io::Result<()> {
        self.processes.remove(&tgid);
        Ok(())
    }

    fn set_executable(&mut self, index: u32, executable: pyrite_executable) -> io::Result<()> {
        self.executables.insert(index, executable);
        Ok(())
    }

    fn last_exec(&self, tgid: u32) -> BootNs {
        self.execs.get(&tgid).copied().unwrap_or_default()
    }
}

/// A node: sampling that gives commands, and everything behind the publisher. A file's inode also says how large its
/// table is: inode / 1000 chunks of rows.
struct World {
    publisher: Publisher<FakeKernel>,
    sampling: Sampling,
    book: RuleBook,
    now: BootNs,
}

impl World {
    fn new(slabs: u64) -> Self {
        let room = Room::new(FIXED_BYTES + slabs * SLAB_BYTES, FIXED_BYTES, SLAB_BYTES);
        let kernel = FakeKernel::default();
        let mut publisher = Publisher::new(kernel, slab_memory(), room, BootNs(1)).unwrap();
        let mut book = RuleBook::new();
        publisher.rules.learn(rule_news(&mut book));
        let sampling = Sampling::new(pyrite_sampling::Filter::default(), pyrite_sampling::Limits::default());
        publisher.settle(BootNs(1));
        Self { publisher, sampling, book, now: BootNs(1) }
    }

    /// A process has these files mapped, each over 16 MiB from 16 MiB times its inode on.
    fn run(&mut self, tgid: u32, inodes: impl IntoIterator<Item = u64>) {
        let ranges = inodes.into_iter().map(|inode| MappedRange {
            start: Avma(inode << 24),
            end: Avma((inode + 1) << 24),
            file_offset: FileOffset(0x1000),
            file: pyrite_model::FileKey { dev_major: 8, dev_minor: 1, inode },
            name: format!("/{inode}").into(),
        });
        let loaded = LoadedProcess {
            tgid,
            parent_tgid: 1,
            start: BootNs(5),
            comm: pyrite_sampling::Comm::new(b"a"),
            is_kernel_thread: false,
            threads: 1,
            read_at: self.now,
            ranges: ranges.collect(),
        };
        self.sampling.process_loaded(tgid, Ok(loaded));
        self.carry_out();
    }

    fn carry_out(&mut self) {
        self.publisher.advance(self.now);
        for command in self.sampling.take_commands() {
            self.publisher.command(command, self.now);
        }
        self.publisher.settle(self.now);
    }

    fn end(&mut self, tgid: u32) {
        self.publisher.command(Command::Withdraw { tgid }, self.now);
        self.publisher.settle(self.now);
    }

    fn open_next(&mut self, outcome: impl FnOnce(&OpenRequest) -> Result<Found, Miss>) -> bool {
        let Some(request) = self.publisher.opens.pop_front() else { return false };
        let outcome = outcome(&request);
        self.publisher.report(Report::Opened { request, outcome }, self.now);
        self.publisher.settle(self.now);
        true
    }

    fn work_next(&mut self) -> bool {
        let Some(work) = self.publisher.work.pop_front() else { return false };
        let report = match work {
            WorkRequest::Build { index, identity, .. } => self.built(index, &identity),
            WorkRequest::MakeSlab { number } => Report::SlabMade { number, outcome: Ok(slab_memory()) },
            WorkRequest::GracePeriod => Report::GraceEnded { outcome: Ok(()) },
            WorkRequest::RemoveSlab { .. } => return true,
            WorkRequest::ReleaseRules { ids } => {
                for id in ids {
                    self.book.release(id);
                }
                Report::RulesReleased { rules: rule_news(&mut self.book) }
            }
        };
        self.publisher.report(report, self.now);
        self.publisher.settle(self.now);
        true
    }

    fn built(&mut self, index: ExecutableIndex, identity: &TableIdentity) -> Report<Vec<Chunk>> {
        let rows = table_of(identity);
        let image = build(&rows, &mut self.book).unwrap();
        let rows = TableRows { input: rows.rows.len() as u32, kept: rows.rows.len() as u32 };
        let rules = rule_news(&mut self.book);
        Report::Built { index, outcome: Ok(Box::new(BuiltTable { image, rows })), rules }
    }

    /// Lets the threads do everything there is to do.
    fn finish(&mut self) {
        while self.open_next(found) || self.work_next() {}
    }

    /// A second later.
    fn later(&mut self) {
        self.now = BootNs(self.now.0 + 1_100_000_000);
        self.publisher.advance(self.now);
        self.publisher.settle(self.now);
        self.finish();
    }

    /// The index of the executable that a program finds for the code of `inode` in a process.
    fn executable_of(&self, tgid: u32, inode: u64) -> Option<u32> {
        let process = self.publisher.kernel.processes.get(&tgid)?;
        let chunk = |id: u32| *self.publisher.chunks.get(ChunkId(id)).unwrap();
        find(&chunk(process.root), process.mappings as usize, (inode << 24) + 5, chunk)
    }

    fn state_of(&self, tgid: u32, inode: u64) -> u32 {
        let index = self.executable_of(tgid, inode).unwrap();
        u32::from(self.publisher.kernel.executables[&index].state)
    }

    fn states(&self, tgid: u32, inodes: &[u64]) -> Vec<u32> {
        inodes.iter().map(|inode| self.state_of(tgid, *inode)).collect()
    }
}

fn rule_news(book: &mut RuleBook) -> RuleNews {
    RuleNews { new: book.take_new(), count: book.count() }
}

fn rule(offset: i32) -> Rule {
    Rule::new(Cfa::Sp(offset), Saved::Same, Saved::AtCfa(-8))
}

/// An executable that says when it was changed has so many rules that no other has as the nanoseconds count, and all have
/// the first two.
fn table_of(identity: &TableIdentity) -> RawTable {
    let (first_own, own) = identity.modified.map_or((0, 0), |(number, own)| (3 + number * own, own));
    let offsets = [1, 2].into_iter().chain(first_own..first_own + own);
    let rules: Vec<Rule> = offsets.map(|words| rule(words as i32 * 8)).collect();
    let rows = 256 * (identity.bytes / 1000).max(1) as u32;
    let count = rules.len() as u32;
    RawTable {
        arch: Arch::X86_64,
        layout: Layout::default(),
        rows: (0..rows).map(|n| RawRow { pc: 0x100 + 16 * n, rule: n % count }).collect(),
        rules,
        report: TableReport::default(),
    }
}

/// Every file is an executable of its own, except that those of inodes 7000 to 7999 are all the same.
#[expect(clippy::unnecessary_wraps, reason = "what opening a file answers")]
fn found(request: &OpenRequest) -> Result<Found, Miss> {
    let CodeKey::File(key) = request.key else { return Ok(own_vdso()) };
    let bytes = if (7000..8000).contains(&key.inode) { 7000 } else { key.inode };
    let segment =
        Segment { offset: FileOffset(0x1000), svma: 0x40_1000, file_bytes: 1 << 24, executable: true };
    let layout = Layout { lowest_svma: 0x40_0000, segments: vec![segment] };
    let vdso = own_vdso();
    let identity = TableIdentity { bytes, ..(*vdso.identity).clone() };
    Ok(Found { identity: Arc::new(identity), layout: Arc::new(layout), ..vdso })
}

#[test]
fn a_process_is_known_at_once_and_its_code_as_soon_as_can_be() {
    let mut world = World::new(4);
    world.finish();
    world.run(42, [5]);
    assert_eq!(world.executable_of(42, 5), Some(ExecutableIndex::UNOPENED.0));
    assert_eq!(world.state_of(42, 5), PYRITE_TABLE_PENDING);
    assert!(world.open_next(found));
    let index = world.executable_of(42, 5).unwrap();
    assert!(index >= ExecutableIndex::FIRST.0, "the bias is known before the table");
    assert_eq!(lookup(&world.publisher, index, 0x100), Err(NoTable::Pending));
    world.finish();
    assert_eq!(world.state_of(42, 5), PYRITE_TABLE_READY);
    let position = lookup(&world.publisher, index, 0x125).unwrap();
    let found = world.publisher.rules.get(position.rule).unwrap();
    assert_eq!(found.at(position.behind).cfa, Cfa::Sp(8));
    let stats = world.publisher.stats();
    assert_eq!((stats.processes, stats.mapping_sets, stats.tables.ready), (1, 1, 2), "{stats:?}");
}

#[test]
fn files_with_equal_contents_share_a_table_and_the_other_one_stays_when_one_goes() {
    let mut world = World::new(4);
    world.run(1, [7001]);
    world.run(2, [7002]);
    world.finish();
    assert_eq!(world.executable_of(1, 7001), world.executable_of(2, 7002));
    assert_eq!(world.publisher.stats().tables_made, 2, "one, and that of the vDSO");
    world.end(1);
    world.later();
    assert_eq!(world.state_of(2, 7002), PYRITE_TABLE_READY);
    assert_eq!(world.publisher.kernel.processes.len(), 1);
}

#[test]
fn a_chunk_is_not_written_again_while_a_program_may_read_it() {
    let mut world = World::new(1);
    world.finish();
    world.run(1, [5]);
    let root = world.publisher.kernel.processes[&1].root;
    let before = *world.publisher.chunks.get(ChunkId(root)).unwrap();
    assert!(world.open_next(found), "which writes the set again");
    assert_ne!(world.publisher.kernel.processes[&1].root, root);
    for tgid in 2..200 {
        world.run(tgid, [5]);
    }
    assert_eq!(world.publisher.chunks.get(ChunkId(root)), Some(&before));
    world.finish();
    for tgid in 200..400 {
        world.run(tgid, [5]);
    }
    assert_ne!(world.publisher.chunks.get(ChunkId(root)), Some(&before), "free again");
}

#[test]
fn a_file_that_no_process_could_open_is_tried_through_the_next() {
    let mut world = World::new(1);
    world.finish();
    world.run(1, [5]);
    world.run(2, [5]);
    assert!(world.open_next(|_| Err(Miss::NotFound)), "the first process has ended");
    assert_eq!(world.executable_of(2, 5), Some(ExecutableIndex::UNOPENED.0));
    let tgid = world.publisher.opens[0].place.as_ref().unwrap().tgid;
    assert_eq!(tgid, 2);
    assert!(world.open_next(|_| Err(Miss::PermissionDenied)));
    assert_eq!(world.executable_of(2, 5), Some(ExecutableIndex::UNREADABLE.0));
    world.later();
    world.run(3, [5]);
    world.finish();
    assert_eq!(world.states(1, &[5]), [PYRITE_TABLE_READY], "for all that have it mapped");
}

#[test]
fn a_set_from_before_an_exec_is_not_published_behind_it() {
    let mut world = World::new(1);
    world.finish();
    let is_known = |world: &World| world.publisher.kernel.processes.contains_key(&9);
    // The exec comes before, or in the middle of, the publication of a round that does not know of it yet.
    for exec_first in [true, false] {
        let exec = BootNs(world.now.0 + 5);
        if exec_first {
            world.publisher.kernel.exec(9, exec);
        } else {
            world.publisher.kernel.about_to_exec = Some(exec);
        }
        world.run(9, if exec_first { 5..6 } else { 6..7 });
        assert!(!is_known(&world), "{exec_first}");
        world.finish();
        assert!(!is_known(&world), "not when its file is known either");
        world.later();
        assert!(is_known(&world), "once the exec is known, what is known of it counts");
    }
    world.publisher.kernel.exec(9, BootNs(world.now.0 + 5));
    world.run(9, [7]);
    world.end(9);
    world.later();
    assert!(!is_known(&world), "it has ended");
}

#[test]
fn a_process_that_the_kernel_has_lost_is_published_again_when_asked() {
    let mut world = World::new(1);
    world.run(9, [5]);
    world.publisher.kernel.processes.clear();
    let published = world.publisher.processes[&9];
    let mappings = Arc::clone(&world.publisher.sets[&published.generation].mappings);
    world.publisher.publish(9, published, &mappings, world.now);
    assert_eq!(world.executable_of(9, 5), Some(ExecutableIndex::UNOPENED.0));
    assert_eq!(world.publisher.stats().mapping_sets, 1);
}

#[test]
fn what_does_not_fit_takes_the_place_of_what_nobody_maps_or_is_refused_and_tries_again() {
    let slabs = 3;
    let mut world = World::new(slabs);
    let within_budget = |world: &World| {
        let stats = world.publisher.stats();
        assert!(stats.map_bytes <= stats.budget_bytes && stats.slabs <= slabs as usize, "{stats:?}");
    };
    // Of 3,072 chunks 512 are for mapping sets; each table takes about 1,000.
    world.run(1, [1_000_001, 1_000_002]);
    world.finish();
    world.run(2, [1_000_003]);
    world.finish();
    within_budget(&world);
    assert_eq!(world.states(1, &[1_000_001, 1_000_002]), [PYRITE_TABLE_READY; 2]);
    assert_eq!(world.states(2, &[1_000_003]), [PYRITE_TABLE_OVER_BUDGET]);
    assert_eq!(world.publisher.stats().tables_refused, 1);
    world.later();
    assert_eq!(world.publisher.stats().tables_refused, 1, "nothing has changed, so nothing is tried");

    world.end(1);
    world.later();
    world.later();
    within_budget(&world);
    assert_eq!(world.states(2, &[1_000_003]), [PYRITE_TABLE_READY]);
    assert_eq!(world.publisher.stats().tables_evicted, 1, "no more than had to go");
    world.run(3, [1_000_001, 1_000_002]);
    world.finish();
    assert_eq!(world.publisher.stats().tables_refused, 2);
    within_budget(&world);
}

#[test]
fn a_kernel_that_makes_no_slab_leaves_mapping_sets_their_room() {
    let mut world = World::new(50);
    world.run(1, [800_001]);
    while world.open_next(found) {}
    while let Some(work) = world.publisher.work.front() {
        if let WorkRequest::MakeSlab { number } = *work {
            world.publisher.work.pop_front();
            let outcome = Err(io::Error::from_raw_os_error(libc::ENOMEM));
            world.publisher.report(Report::SlabMade { number, outcome }, world.now);
            world.publisher.settle(world.now);
        } else {
            world.work_next();
        }
    }
    assert_eq!(world.states(1, &[800_001]), [PYRITE_TABLE_OVER_BUDGET]);
    let failures = world.publisher.stats().publish_failures;
    assert!(failures[PublishFailure::NoSlab as usize] > 0);
    world.run(2, 1..400);
    assert!(world.executable_of(2, 399).is_some(), "a set of 14 chunks");
}

#[test]
fn an_executable_without_a_table_says_so_and_why() {
    let mut world = World::new(1);
    world.finish();
    world.run(1, [5]);
    while world.open_next(found) {}
    let build = world.publisher.work.iter().find_map(|work| match work {
        WorkRequest::Build { index, .. } => Some(*index),
        _ => None,
    });
    let index = build.expect("its turn has come");
    let outcome = Err(Absence::NoUnwindInfo);
    let rules = rule_news(&mut world.book);
    world.publisher.report(Report::Built { index, outcome, rules }, world.now);
    world.publisher.settle(world.now);
    assert_eq!(world.states(1, &[5]), [PYRITE_TABLE_ABSENT]);
    assert_eq!(world.publisher.stats().absent[Absence::NoUnwindInfo as usize], 1);
}

#[derive(Clone, Debug)]
enum Step {
    Run(u32, Vec<u64>),
    End(u32),
    Open(bool),
    Work,
    Later,
}

fn step() -> impl Strategy<Value = Step> {
    let tgids: RangeInclusive<u32> = 1..=6;
    let inodes = proptest::collection::vec(
        prop_oneof![1_u64..9, 7000_u64..7003, (1_u64..5).prop_map(|n| 200_000 + n)],
        1..60,
    );
    prop_oneof![
        3 => (tgids.clone(), inodes).prop_map(|(tgid, inodes)| Step::Run(tgid, inodes)),
        2 => tgids.prop_map(Step::End),
        4 => (0_u8..8).prop_map(|luck| Step::Open(luck > 0)),
        4 => proptest::strategy::Just(Step::Work),
        1 => proptest::strategy::Just(Step::Later),
    ]
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(40))]
    /// Whatever happens in whatever order: every process that should be known is, every address in its mappings leads to
    /// its own executable or says that this is not known, every ready table can be searched, and the budget holds.
    #[test]
    fn programs_see_what_was_published(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new(1);
        let mut running: HashMap<u32, Vec<u64>> = HashMap::new();
        // A tgid is not used again: sampling would not publish again what it believes to be published.
        let mut lives = [0; 7];
        for step in steps {
            match step {
                Step::Run(slot, inodes) => {
                    let tgid = slot + 100 * lives[slot as usize];
                    world.run(tgid, inodes.iter().copied());
                    running.insert(tgid, inodes);
                }
                Step::End(slot) => {
                    let tgid = slot + 100 * lives[slot as usize];
                    lives[slot as usize] += 1;
                    world.end(tgid);
                    running.remove(&tgid);
                }
                Step::Open(true) => drop(world.open_next(found)),
                Step::Open(false) => drop(world.open_next(|_| Err(Miss::NotFound))),
                Step::Work => drop(world.work_next()),
                Step::Later => world.now = BootNs(world.now.0 + 1_100_000_000),
            }
            for (tgid, inodes) in &running {
                prop_assert!(world.publisher.kernel.processes.contains_key(tgid));
                for inode in inodes {
                    let index = world.executable_of(*tgid, *inode);
                    let known = index.and_then(|index| world.publisher.tables.get(ExecutableIndex(index)));
                    let is_own = known.map(|table| table.identity.bytes == *inode || (7000..8000).contains(inode));
                    prop_assert!(is_own.unwrap_or(index.is_some_and(|index| index == 1 || index == 2)));
                }
            }
            let entries: Vec<_> = world.publisher.tables.iter().map(|(index, table)| (index.0, table.entry())).collect();
            for (index, entry) in entries {
                prop_assert_eq!(world.publisher.kernel.executables[&index].state, entry.state);
                if u32::from(entry.state) == PYRITE_TABLE_READY {
                    prop_assert!(lookup(&world.publisher, index, 0x100).is_ok());
                }
            }
            let stats = world.publisher.stats();
            prop_assert!(stats.map_bytes <= stats.budget_bytes);
            let chunks = stats.table_chunks + stats.mapping_chunks + stats.retired_chunks + stats.free_chunks;
            prop_assert_eq!(chunks, stats.slabs * SLAB_CHUNKS);
        }
    }
}
