//! Loads the programs into the running kernel, fills their maps, and reads their records.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::{BtfTracePoint, PerfEvent};
use aya::util::{nr_cpus, online_cpus};
use aya::{Btf, Ebpf, EbpfLoader};
use pyrite_bpf::OffFate;
use pyrite_bpf::abi::{self, pyrite_config};

use crate::record::{Record, decode};
use crate::tables::Published;

const MMAPABLE: u32 = 1 << 10;

/// One privileged test at a time: two samplers disturb each other's ticks.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The right to run a privileged test, or `None` where it cannot run, which fails under CI.
pub(crate) fn privileged(test: &str) -> Option<MutexGuard<'static, ()>> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        return Some(guard);
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root and must not be skipped under CI");
    eprintln!("\n*** SKIPPED {test}: it needs root ***\n");
    None
}

/// The loaded programs.
pub(crate) struct Walker {
    object: Ebpf,
    pub(crate) btf: Btf,
    /// How many processes were set.
    changes: u64,
}

pub(crate) fn config() -> pyrite_config {
    pyrite_config { ring_wakeup_bytes: u64::MAX, period_ns: 10_309_278, ..pyrite_config::default() }
}

impl Walker {
    pub(crate) fn load(config: &pyrite_config) -> Self {
        Self::load_bytes(config, pyrite_bpf::object())
    }

    pub(crate) fn load_bytes(config: &pyrite_config, bytes: &[u8]) -> Self {
        let btf = Btf::from_sys_fs().unwrap();
        let config = pyrite_bpf::config_bytes(config);
        let mut object = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("config", config.as_slice(), true)
            .map_max_entries("ring", 4 << 20)
            .map_max_entries("walks", nr_cpus().unwrap() as u32 * abi::PYRITE_CONTEXTS)
            .load(bytes)
            .unwrap();
        let tick: &mut PerfEvent = object.program_mut("on_tick").unwrap().try_into().unwrap();
        tick.load().unwrap();
        let exec: &mut BtfTracePoint = object.program_mut("on_exec").unwrap().try_into().unwrap();
        exec.load("sched_process_exec", &btf).unwrap();
        exec.attach().unwrap();
        let switches: &mut BtfTracePoint = object.program_mut("on_switch").unwrap().try_into().unwrap();
        switches.load("sched_switch", &btf).unwrap();
        Self { object, btf, changes: 0 }
    }

    pub(crate) fn program(&mut self) -> &mut PerfEvent {
        self.object.program_mut("on_tick").unwrap().try_into().unwrap()
    }

    /// The program that runs at every switch once it is attached.
    pub(crate) fn switches(&mut self) -> &mut BtfTracePoint {
        self.object.program_mut("on_switch").unwrap().try_into().unwrap()
    }

    /// How many departures had this fate, on all CPUs.
    pub(crate) fn departures(&mut self, fate: OffFate) -> u64 {
        const BYTES: usize = size_of::<abi::pyrite_switch_cpu>();
        let at = std::mem::offset_of!(abi::pyrite_switch_cpu, fates) + 8 * fate as usize;
        let cpus = PerCpuArray::<_, [u8; BYTES]>::try_from(self.object.map("switch_cpus").unwrap()).unwrap();
        let of_cpu = |cpu: &[u8; BYTES]| u64::from_ne_bytes(cpu[at..at + 8].try_into().unwrap());
        cpus.get(&0, 0).unwrap().iter().map(of_cpu).sum()
    }

    /// Writes all tables.
    pub(crate) fn publish(&mut self, published: &Published) {
        let mut rules = Array::<_, [u8; 16]>::try_from(self.object.map_mut("rules").unwrap()).unwrap();
        for (index, rule) in (0..).zip(published.rules()) {
            rules.set(index, rule, 0).unwrap();
        }
        let mut slabs =
            ArrayOfMaps::<_, Array<MapData, [u8; 1024]>>::try_from(self.object.map_mut("slabs").unwrap())
                .unwrap();
        for (slab, chunks) in (0..).zip(published.chunks.chunks(abi::PYRITE_SLAB_CHUNKS as usize)) {
            let mut inner = Array::<MapData, [u8; 1024]>::create(abi::PYRITE_SLAB_CHUNKS, MMAPABLE).unwrap();
            for (index, chunk) in (0..).zip(chunks) {
                inner.set(index, chunk, 0).unwrap();
            }
            slabs.set(slab, &inner, 0).unwrap();
        }
        let mut executables =
            Array::<_, [u8; 16]>::try_from(self.object.map_mut("executables").unwrap()).unwrap();
        for (index, executable) in (0..).zip(&published.executables) {
            executables.set(index, executable, 0).unwrap();
        }
    }

    /// Lets the programs know a process.
    pub(crate) fn set_process(&mut self, tgid: u32, process: [u8; 24]) {
        let mut processes =
            HashMap::<_, u32, [u8; 24]>::try_from(self.object.map_mut("processes").unwrap()).unwrap();
        processes.insert(tgid, process, 0).unwrap();
        let mut stamps = Array::<_, u64>::try_from(self.object.map_mut("stamps").unwrap()).unwrap();
        self.changes += 1;
        stamps.set(tgid % abi::PYRITE_STAMPS, self.changes << 32, 0).unwrap();
    }

    /// Throws away what waits in the ring.
    pub(crate) fn discard(&mut self) {
        let mut ring = RingBuf::try_from(self.object.map_mut("ring").unwrap()).unwrap();
        while ring.next().is_some() {}
    }

    /// The records of one process that wait in the ring; all others are thrown away.
    pub(crate) fn records(&mut self, tgid: u32) -> Vec<Record> {
        let mut ring = RingBuf::try_from(self.object.map_mut("ring").unwrap()).unwrap();
        let mut records = Vec::new();
        while let Some(item) = ring.next() {
            records.push(decode(&item));
        }
        records.retain(|record| record.tgid == tgid);
        records
    }
}

/// Runs the program at so many ticks a second on every CPU, until the links are dropped.
pub(crate) fn attach(program: &mut PerfEvent, frequency: u64) -> Vec<PerfEventLinkId> {
    let cpus = online_cpus().unwrap();
    let attach = |cpu| {
        let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
        let scope = PerfEventScope::AllProcessesOneCpu { cpu };
        program.attach(clock, scope, SamplePolicy::Frequency(frequency), true).unwrap()
    };
    cpus.into_iter().map(attach).collect()
}

pub(crate) fn detach(program: &mut PerfEvent, links: Vec<PerfEventLinkId>) {
    for link in links {
        program.detach(link).unwrap();
    }
}
