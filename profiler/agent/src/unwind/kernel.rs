//! The maps that the BPF programs read, as the publisher and the builder write them.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Array, ArrayOfMaps, HashMap, IterableMap as _, Map, MapData, MapError};
use pyrite_bpf::abi::{
    PYRITE_EXEC_SLOTS, PYRITE_SLAB_CHUNKS, PYRITE_STAMPS, pyrite_executable, pyrite_process,
};
use pyrite_sampling::BootNs;
use pyrite_unwind::{Rule, RuleId};

use crate::sys::{self, Chunk, ChunkMemory, ExecutableValue, ProcessValue, RuleValue};
use crate::unwind::chunks::{SLAB_CHUNKS, SlabMemory};

/// `BPF_F_MMAPABLE` of linux/bpf.h: the map may be mapped into memory. Minimum kernel: 5.5.
const MMAPABLE: u32 = 1 << 10;

/// What the publisher writes: never anything that waits for the programs to end.
pub(crate) trait Kernel {
    /// The memory of a slab.
    type Slab: SlabMemory;
    fn set_process(&mut self, tgid: u32, process: pyrite_process) -> io::Result<()>;
    /// Not an error where there is none.
    fn remove_process(&mut self, tgid: u32) -> io::Result<()>;
    fn set_executable(&mut self, index: u32, executable: pyrite_executable) -> io::Result<()>;
    /// When the process called exec for the last time, or another one did that is noted at the same place; the beginning of
    /// time where neither has.
    fn last_exec(&self, tgid: u32) -> BootNs;
}

/// The maps of the loaded object that the unwind tables are published by, by their names there.
pub struct UnwindMaps {
    pub(crate) slabs: Map,
    pub(crate) processes: Map,
    pub(crate) stamps: Map,
    pub(crate) executables: Map,
    pub(crate) rules: Map,
    pub(crate) execs: Map,
}

impl UnwindMaps {
    /// Takes the maps out of a loaded object by `take`, which is asked for each by its name; the name of the first that
    /// is missing where one is.
    ///
    /// # Errors
    /// The missing map's name.
    pub fn take<E>(mut take: impl FnMut(&'static str) -> Result<Map, E>) -> Result<Self, E> {
        Ok(Self {
            slabs: take("slabs")?,
            processes: take("processes")?,
            stamps: take("stamps")?,
            executables: take("executables")?,
            rules: take("rules")?,
            execs: take("execs")?,
        })
    }

    /// Both ends of the maps, with one slab in place, and what the maps cost without it.
    pub(crate) fn open(self) -> io::Result<(PublisherMaps, SlabMaps, FirstSlab)> {
        let fixed_bytes =
            [&self.slabs, &self.processes, &self.stamps, &self.executables, &self.rules, &self.execs]
                .into_iter()
                .filter_map(|map| sys::map_bytes(data(map)?.fd().as_fd()))
                .sum();
        let outer =
            data(&self.slabs).ok_or(io::ErrorKind::InvalidInput)?.fd().as_fd().try_clone_to_owned()?;
        let publisher = PublisherMaps {
            processes: HashMap::try_from(self.processes).map_err(other)?,
            stamps: Array::try_from(self.stamps).map_err(other)?,
            changes: 0,
            executables: Array::try_from(self.executables).map_err(other)?,
            execs: Array::try_from(self.execs).map_err(other)?,
        };
        let mut slabs = ArrayOfMaps::try_from(self.slabs).map_err(other)?;
        let (map, memory) = new_slab()?;
        slabs.set(0, &map, 0).map_err(other)?;
        let slab_bytes = sys::map_bytes(map.map().fd().as_fd());
        let first = FirstSlab {
            memory,
            fixed_bytes,
            slab_bytes: slab_bytes.unwrap_or((SLAB_CHUNKS * size_of::<Chunk>()) as u64),
        };
        let rules = Array::try_from(self.rules).map_err(other)?;
        Ok((publisher, SlabMaps { slabs, outer, first: map, rules }, first))
    }
}

/// The slab that is there from the start, and what maps cost.
#[derive(Debug)]
pub(crate) struct FirstSlab {
    pub(crate) memory: ChunkMemory,
    /// Of the maps that never grow.
    pub(crate) fixed_bytes: u64,
    pub(crate) slab_bytes: u64,
}

/// The publisher's end.
pub(crate) struct PublisherMaps {
    processes: HashMap<MapData, u32, ProcessValue>,
    stamps: Array<MapData, u64>,
    /// How many stamps were set.
    changes: u64,
    executables: Array<MapData, ExecutableValue>,
    execs: Array<MapData, u64>,
}

impl PublisherMaps {
    /// Has the programs look up the process again, which has just been changed.
    fn changed(&mut self, tgid: u32) -> io::Result<()> {
        self.changes += 1;
        // The lower half is for the programs to count in.
        self.stamps.set(tgid % PYRITE_STAMPS, self.changes << 32, 0).map_err(other)
    }
}

impl Kernel for PublisherMaps {
    type Slab = ChunkMemory;

    fn set_process(&mut self, tgid: u32, process: pyrite_process) -> io::Result<()> {
        self.processes.insert(tgid, ProcessValue(process), 0).map_err(other)?;
        self.changed(tgid)
    }

    fn remove_process(&mut self, tgid: u32) -> io::Result<()> {
        match self.processes.remove(&tgid).map_err(other) {
            // The programs themselves take a process out when it calls exec.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            removed => removed?,
        }
        self.changed(tgid)
    }

    fn set_executable(&mut self, index: u32, executable: pyrite_executable) -> io::Result<()> {
        self.executables.set(index, ExecutableValue(executable), 0).map_err(other)
    }

    fn last_exec(&self, tgid: u32) -> BootNs {
        // It can only fail where there is no such element.
        self.execs.get(&(tgid % PYRITE_EXEC_SLOTS), 0).map_or(BootNs::default(), BootNs)
    }
}

/// The builder's end: rules, and all that waits for the programs to end.
pub(crate) struct SlabMaps {
    slabs: ArrayOfMaps<MapData, Array<MapData, Chunk>>,
    outer: OwnedFd,
    first: Array<MapData, Chunk>,
    rules: Array<MapData, RuleValue>,
}

impl SlabMaps {
    /// Makes a slab and lets the programs find it. Waits for a grace period.
    pub(crate) fn make(&mut self, number: u32) -> io::Result<ChunkMemory> {
        let (map, memory) = new_slab()?;
        self.slabs.set(number, &map, 0).map_err(other)?;
        Ok(memory)
    }

    /// Takes a slab from the programs. Waits for a grace period.
    pub(crate) fn remove(&mut self, number: u32) -> io::Result<()> {
        sys::remove_inner_map(self.outer.as_fd(), number)
    }

    /// Returns when every program that ran at the call has ended: writing to an array of maps waits for that, also where
    /// nothing changes (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c).
    pub(crate) fn grace_period(&mut self) -> io::Result<()> {
        self.slabs.set(0, &self.first, 0).map_err(other)
    }

    /// Lets the programs know a rule.
    pub(crate) fn set_rule(&mut self, id: RuleId, rule: &Rule) -> io::Result<()> {
        self.rules.set(id.0.into(), RuleValue(rule.to_abi()), 0).map_err(other)
    }
}

/// A slab that the programs do not know yet. Its memory keeps it alive.
fn new_slab() -> io::Result<(Array<MapData, Chunk>, ChunkMemory)> {
    let map = Array::<MapData, Chunk>::create(PYRITE_SLAB_CHUNKS, MMAPABLE).map_err(other)?;
    let memory = ChunkMemory::map(map.map().fd().as_fd(), SLAB_CHUNKS)?;
    Ok((map, memory))
}

/// What the kernel said, out of what aya made of it.
fn other(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::CreateError { io_error, .. } => io_error,
        error => io::Error::other(error),
    }
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::ArrayOfMaps(data) | Map::HashMap(data) | Map::Array(data) => Some(data),
        _ => None,
    }
}
