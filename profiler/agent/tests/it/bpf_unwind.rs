//! Unwind tables in the kernel: what real processes run, read back through the maps as the BPF programs read them.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData, loaded_maps};
use aya::{Btf, Ebpf, EbpfLoader};
use pyrite::sys::{self, Chunk, ExecutableValue, ProcessValue, RuleValue};
use pyrite::unwind::{CacheOutcome, PublishFailure, Unwind, UnwindConfig, UnwindMaps};
use pyrite_bpf::abi::{
    PYRITE_MAX_SLABS, PYRITE_SLAB_CHUNKS, pyrite_config, pyrite_executable, pyrite_mapping, pyrite_process,
};
use pyrite_model::{Avma, FileKey, FileOffset};
use pyrite_sampling::{BootNs, Comm, Filter, Limits, LoadedProcess, MappedRange, Sampling, parse_maps};
use pyrite_symbolizer::{Executables, Miss};
use pyrite_unwind::{Arch, RawTable, ReadAt, Rule, Tables, extract, lookup};

use crate::common::privileged;
use crate::support::{PATIENCE, Running, Workload};

const ARCH: Arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };

/// The maps of an object of which no program is loaded, the publisher, and a second handle on every map.
struct Node {
    unwind: Unwind,
    sampling: Sampling,
    slabs: ArrayOfMaps<MapData, Array<MapData, Chunk>>,
    processes: HashMap<MapData, u32, ProcessValue>,
    executables: Array<MapData, ExecutableValue>,
    rules: Array<MapData, RuleValue>,
    /// Kernel memory of maps before this node had any.
    bytes_before: u64,
}

impl Node {
    fn start(config: UnwindConfig) -> Self {
        sys::raise_memlock_limit();
        let bytes_before = all_map_bytes();
        let mut object = load();
        let mut take = |name| object.take_map(name).unwrap();
        let maps = ["slabs", "processes", "stamps", "executables", "rules", "execs"].map(&mut take);
        let [slabs, processes, _, executables, rules, _] = maps.each_ref().map(second_handle);
        let mut maps = maps.into_iter();
        let maps = UnwindMaps::take(|_| maps.next().ok_or(())).unwrap();
        Self {
            unwind: Unwind::start(maps, config).unwrap(),
            sampling: Sampling::new(Filter::default(), Limits::default()),
            slabs: Map::ArrayOfMaps(slabs).try_into().unwrap(),
            processes: Map::HashMap(processes).try_into().unwrap(),
            executables: Map::Array(executables).try_into().unwrap(),
            rules: Map::Array(rules).try_into().unwrap(),
            bytes_before,
        }
    }

    fn round(&mut self) {
        let now = sys::boot_now();
        self.unwind.carry_out(self.sampling.take_commands(), now, now);
    }

    /// Rounds until nothing is left to be made.
    fn settle(&mut self) {
        // Without optimization the tables of two hundred executables take a minute of CPU time, at nice 6.
        let deadline = Instant::now() + 5 * PATIENCE;
        let mut quiet = 0;
        while quiet < 5 {
            self.round();
            let is_done = self.unwind.stats().tables.pending == 0;
            quiet = if is_done { quiet + 1 } else { 0 };
            assert!(Instant::now() < deadline, "{:?}", self.unwind.stats());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn process_loaded(&mut self, tgid: u32, ranges: Vec<MappedRange>) {
        let loaded = LoadedProcess {
            tgid,
            parent_tgid: 1,
            start: BootNs(1),
            comm: Comm::new(b"test"),
            is_kernel_thread: false,
            threads: 1,
            read_at: sys::boot_now(),
            ranges,
        };
        self.sampling.process_loaded(tgid, Ok(loaded));
    }

    fn process(&self, tgid: u32) -> pyrite_process {
        self.processes.get(&tgid, 0).unwrap().0
    }

    /// Everything in the maps, copied by one system call each.
    fn snapshot(&self) -> Snapshot {
        let mut chunks = Vec::new();
        for number in 0..PYRITE_MAX_SLABS {
            let slab = self.slabs.get(&number, 0).ok();
            let slab = slab.map(|slab| slab.iter().map(Result::unwrap).collect::<Vec<_>>());
            chunks.push(slab.unwrap_or_default());
        }
        Snapshot {
            chunks,
            executables: self.executables.iter().map(|value| value.unwrap().0).collect(),
            rules: self.rules.iter().map(|value| Rule::from_abi(&value.unwrap().0)).collect(),
        }
    }
}

struct Snapshot {
    chunks: Vec<Vec<Chunk>>,
    executables: Vec<pyrite_executable>,
    rules: Vec<Option<Rule>>,
}

impl Tables for Snapshot {
    fn chunk(&self, id: u32) -> Option<&Chunk> {
        self.chunks.get((id / PYRITE_SLAB_CHUNKS) as usize)?.get((id % PYRITE_SLAB_CHUNKS) as usize)
    }

    fn executable(&self, index: u32) -> Option<pyrite_executable> {
        self.executables.get(index as usize).copied()
    }

    fn rule(&self, id: u16) -> Option<Rule> {
        *self.rules.get(usize::from(id))?
    }
}

impl Snapshot {
    /// The mapping of a process that holds `avma`. For processes of one chunk of mappings.
    fn mapping(&self, process: &pyrite_process, avma: u64) -> Option<pyrite_mapping> {
        assert!(process.mappings <= 32);
        let slots = self.chunk(process.root)?.as_chunks::<32>().0;
        let mappings = slots.iter().take(process.mappings as usize).map(|slot| {
            let word = |at: usize| u64::from_ne_bytes(slot.as_chunks::<8>().0[at]);
            let (start, end, bias, executable) = (word(0), word(1), word(2), word(3) as u32);
            pyrite_mapping { start, end, bias, executable, reserved: 0 }
        });
        mappings.into_iter().find(|mapping| mapping.start <= avma && avma < mapping.end)
    }
}

fn load() -> Ebpf {
    let btf = Btf::from_sys_fs().unwrap();
    let config = pyrite_bpf::config_bytes(&pyrite_config::default());
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf)).override_global("config", config.as_slice(), true);
    loader.map_max_entries("ring", 4096).load(pyrite_bpf::object()).unwrap()
}

fn second_handle(map: &Map) -> MapData {
    let (Map::ArrayOfMaps(data) | Map::HashMap(data) | Map::Array(data)) = map else { panic!("{map:?}") };
    MapData::from_fd(data.fd().as_fd().try_clone_to_owned().unwrap()).unwrap()
}

/// Kernel memory of every map there is, as the kernel states it.
fn all_map_bytes() -> u64 {
    let maps = loaded_maps().filter_map(Result::ok);
    maps.filter_map(|map| sys::map_bytes(map.fd().ok()?.as_fd())).sum()
}

struct OnDisk(File, u64);

impl OnDisk {
    fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let bytes = file.metadata().unwrap().len();
        Self(file, bytes)
    }
}

impl ReadAt for OnDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn byte_count(&self) -> u64 {
        self.1
    }
}

impl Running {
    fn ranges(&self) -> Vec<MappedRange> {
        let maps = fs::read(format!("/proc/{}/maps", self.tgid())).unwrap();
        parse_maps(&maps, 1000).unwrap()
    }

    /// The mapping of the file of this name, once the process has it.
    fn wait_for(&self, name: &str) -> MappedRange {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(range) = self.ranges().into_iter().find(|range| range.name.contains(name)) {
                return range;
            }
            assert!(Instant::now() < deadline, "{name} is not mapped");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Asserts that the programs find, for every row of the file at `path`, the rule of that row, as a process has it mapped.
fn check_rules(node: &Node, tgid: u32, range: &MappedRange, path: &Path) -> usize {
    let raw = extract(&OnDisk::open(path), ARCH).unwrap();
    let snapshot = node.snapshot();
    let process = node.process(tgid);
    let bias = raw.layout.bias(range.start, range.file_offset, range.end.0 - range.start.0).unwrap();
    let mut checked = 0;
    for (row, next) in raw.rows.iter().zip(&raw.rows[1..]) {
        let avma = bias + u64::from(row.pc);
        if !(range.start.0..range.end.0).contains(&avma) {
            continue;
        }
        let mapping = snapshot.mapping(&process, avma).expect("the mapping is published");
        for within in [0, (next.pc - row.pc) / 2, next.pc - row.pc - 1] {
            let pc = avma + u64::from(within) - mapping.bias;
            let found = lookup(&snapshot, mapping.executable, pc).unwrap();
            assert_eq!(snapshot.rule(found.rule.0), Some(raw.rules[row.rule as usize]), "{row:?} + {within}");
        }
        checked += 1;
    }
    checked
}

#[test]
fn bpf_unwind_tables_of_a_real_process_can_be_read_back() {
    let Some(_guard) = privileged("bpf_unwind_read_back") else { return };
    let shares = Workload::build("shares");
    let running = Running::start(shares.command().arg("60000"));
    let (own, libc) = (running.wait_for("shares"), running.wait_for("libc"));
    let mut node = Node::start(UnwindConfig::default());
    let tgid = running.tgid();
    node.process_loaded(tgid, running.ranges());
    node.settle();
    let stats = node.unwind.stats();
    assert_eq!((stats.processes, stats.tables.absent, stats.tables.over_budget), (1, 0, 0), "{stats:?}");
    assert!(stats.tables.ready >= 4, "program, libc, ld.so, vDSO: {stats:?}");
    assert!(check_rules(&node, tgid, &own, &shares.path()) > 10);
    let rows = check_rules(&node, tgid, &libc, Path::new(&*libc.name));
    println!("{rows} rows of {} agree", libc.name);
    assert!(rows > 10_000);
    let vdso = running.wait_for("[vdso]");
    let snapshot = node.snapshot();
    let mapping = snapshot.mapping(&node.process(tgid), vdso.start.0 + 0x10).unwrap();
    assert_eq!(u32::from(snapshot.executables[mapping.executable as usize].state), 1, "the vDSO has a table");
}

#[test]
fn bpf_unwind_a_deleted_binary_still_gets_its_table() {
    let Some(_guard) = privileged("bpf_unwind_deleted") else { return };
    let shares = Workload::build("shares");
    let running = Running::start(shares.command().arg("60000"));
    running.wait_for("shares");
    let copy = shares.path().with_extension("copy");
    fs::copy(shares.path(), &copy).unwrap();
    fs::remove_file(shares.path()).unwrap();
    // Another program takes the name over.
    fs::copy("/bin/true", shares.path()).unwrap();
    let own = running.wait_for("(deleted)");
    let mut node = Node::start(UnwindConfig::default());
    node.process_loaded(running.tgid(), running.ranges());
    node.settle();
    assert!(check_rules(&node, running.tgid(), &own, &copy) > 10);
}

#[test]
fn bpf_unwind_a_file_in_another_mount_namespace_is_found() {
    let Some(_guard) = privileged("bpf_unwind_namespace") else { return };
    let shares = Workload::build("shares");
    let hidden = tempfile::TempDir::new().unwrap();
    let script = "mount -t tmpfs none \"$1\" && cp \"$0\" \"$1/hidden\" && exec \"$1/hidden\" 60000";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(shares.path()).arg(hidden.path());
    let running = Running::start(&mut command);
    let own = running.wait_for("/hidden");
    assert!(!Path::new(&*own.name).exists(), "it is there for this process alone");
    for split in [false, true] {
        let mut node = Node::start(UnwindConfig::default());
        let mut ranges = running.ranges();
        if split {
            // As after a part of it was mapped over: no link in map_files has these addresses.
            for range in &mut ranges {
                range.end.0 = range.end.0.min(range.start.0 + 0x800);
            }
        }
        node.process_loaded(running.tgid(), ranges);
        node.settle();
        let own =
            MappedRange { end: Avma(if split { own.start.0 + 0x800 } else { own.end.0 }), ..own.clone() };
        assert!(check_rules(&node, running.tgid(), &own, &shares.path()) > 10, "{split}");
    }
}

#[test]
fn bpf_unwind_a_link_that_leads_to_another_file_by_now_is_not_taken() {
    let shares = Workload::build("shares");
    let running = Running::start(shares.command().arg("60000"));
    let own = running.wait_for("shares");
    let link = format!("/proc/{}/map_files/{:x}-{:x}", running.tgid(), own.start.0, own.end.0);
    let Some(_guard) = privileged("bpf_unwind_link") else { return };
    let open = |key: FileKey, name: &str| {
        Executables::new(1).open(key, Path::new(name), &[PathBuf::from(&link)]).miss()
    };
    assert_eq!(open(own.file, &own.name), None);
    assert_eq!(open(FileKey { inode: own.file.inode + 1, ..own.file }, &own.name), Some(Miss::OtherFile));
    let stacked = FileKey { dev_major: 0, dev_minor: own.file.dev_minor + 1, inode: own.file.inode + 1 };
    assert_eq!(open(stacked, &own.name), None, "on a stacked file system the name has to do");
    assert_eq!(open(stacked, "/usr/bin/other"), Some(Miss::OtherFile));
}

/// ELF files under /usr with unwind information, those with most of it first, until there are enough.
fn executables(count: usize, rows: u64) -> Vec<(PathBuf, RawTable)> {
    let mut found = Vec::new();
    let toolchain = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let toolchain = String::from_utf8(toolchain).unwrap();
    let mut folders = ["/usr/bin", "/usr/lib", toolchain.trim_end()].map(PathBuf::from).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let mut magic = [0; 4];
                let bytes = entry.metadata().map_or(0, |meta| meta.len());
                let is_elf = File::open(entry.path()).and_then(|file| file.read_exact_at(&mut magic, 0));
                if is_elf.is_ok() && magic == *b"\x7fELF" && bytes > 30_000 {
                    found.push((bytes, entry.path()));
                }
            }
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    let (mut taken, mut sum) = (Vec::new(), 0);
    for (_, path) in found {
        if taken.len() == count {
            break;
        }
        let Ok(raw) = extract(&OnDisk::open(&path), ARCH) else { continue };
        // Large ones until there are rows enough, then whatever comes: no more than the bound speaks of.
        let is_needed = sum < rows || raw.report.input_rows < 20_000;
        if is_needed && raw.layout.segments.iter().any(|segment| segment.executable) {
            sum += u64::from(raw.report.input_rows);
            taken.push((path, raw));
        }
    }
    assert!(taken.len() == count && sum >= rows, "only {} files with {sum} rows", taken.len());
    taken
}

#[test]
fn bpf_unwind_two_thousand_processes_share_two_hundred_executables_in_sixty_megabytes() {
    const PROCESSES: u32 = 2000;
    const FIRST_TGID: u32 = 5_000_000;
    let Some(_guard) = privileged("bpf_unwind_budget") else { return };
    let files = executables(200, 5_000_000);
    let cache = tempfile::TempDir::new().unwrap();
    let config = || UnwindConfig { cache: Some(cache.path().to_owned()), ..UnwindConfig::default() };
    for outcome in [CacheOutcome::Written, CacheOutcome::Hit] {
        let mut node = Node::start(config());
        let mut slowest = Duration::ZERO;
        let started = Instant::now();
        for n in 0..PROCESSES {
            // Each maps 20 of the 200, and all of them map all.
            let own = (0..20).map(|k| &files[(n as usize * 7 + k * 10) % files.len()]);
            node.process_loaded(FIRST_TGID + n, own.enumerate().map(mapped).collect());
            if n % 32 == 31 {
                let round = Instant::now();
                node.round();
                slowest = slowest.max(round.elapsed());
            }
        }
        let published = started.elapsed();
        node.settle();
        let stats = node.unwind.stats();
        let map_bytes = all_map_bytes() - node.bytes_before;
        println!(
            "{outcome:?}: {} processes published in {published:?}, slowest round of 32 {slowest:?}, {} sets waited for a slab; {} tables of {} rows ({} kept), \
             {} rules; {map_bytes} bytes of maps, {} by our own account, {:.2} bytes per row in table chunks; \
             ready after {:?}; builder {:?}, opener {:?} of CPU; {:?}",
            stats.processes,
            stats.publish_failures[PublishFailure::NoChunk as usize],
            stats.tables.ready,
            stats.input_rows,
            stats.rows,
            stats.rules,
            stats.map_bytes,
            stats.table_chunks as f64 * 1024.0 / stats.input_rows as f64,
            started.elapsed(),
            stats.builder_cpu,
            stats.opener_cpu,
            stats.cache,
        );
        assert_eq!(stats.processes, PROCESSES as usize);
        // A set may have to wait for the next slab, and then is there after all.
        let failures: u64 = stats.publish_failures[1..].iter().sum();
        assert_eq!((stats.tables.over_budget, failures), (0, 0), "{stats:?}");
        assert!((FIRST_TGID..FIRST_TGID + PROCESSES).all(|tgid| node.processes.get(&tgid, 0).is_ok()));
        assert!(stats.tables.ready >= 195 && stats.input_rows >= 4_900_000, "{stats:?}");
        assert!(map_bytes <= 60_000_000 && stats.map_bytes <= 60_000_000);
        assert!(stats.cache[outcome as usize] > 20, "{stats:?}");
        let snapshot = node.snapshot();
        for n in [0, 999, 1999] {
            let (_, raw) = &files[(n as usize * 7) % files.len()];
            let range = mapped((0, &files[(n as usize * 7) % files.len()]));
            let bias = raw.layout.bias(range.start, range.file_offset, range.end.0 - range.start.0).unwrap();
            let row = raw.rows.iter().find(|row| bias + u64::from(row.pc) >= range.start.0).unwrap();
            let avma = bias + u64::from(row.pc);
            let mapping = snapshot.mapping(&node.process(FIRST_TGID + n), avma).unwrap();
            let found = lookup(&snapshot, mapping.executable, avma - mapping.bias).unwrap();
            assert_eq!(snapshot.rule(found.rule.0), Some(raw.rules[row.rule as usize]));
        }
    }
}

/// The code of a file, mapped as the `at`th of a made-up process.
fn mapped((at, (path, raw)): (usize, &(PathBuf, RawTable))) -> MappedRange {
    let code = raw.layout.segments.iter().find(|segment| segment.executable).unwrap();
    let offset = code.offset.0 & !(sys::page_bytes() - 1);
    let start = 0x5000_0000_0000 + ((at as u64) << 32);
    let bytes = code.offset.0 + code.file_bytes - offset;
    let meta = fs::metadata(path).unwrap();
    let file =
        FileKey { dev_major: libc::major(meta.dev()), dev_minor: libc::minor(meta.dev()), inode: meta.ino() };
    MappedRange {
        start: Avma(start),
        end: Avma(start + bytes.next_multiple_of(sys::page_bytes())),
        file_offset: FileOffset(offset),
        file,
        name: path.to_string_lossy().into(),
    }
}
