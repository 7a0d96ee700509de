//! Loads the BPF object and keeps of it only what sampling needs: the programs and some maps.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::{BtfTracePoint, PerfEvent as PerfEventProgram, ProgramError, ProgramFd};
use aya::util::nr_cpus;
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use pyrite_bpf::abi::{PYRITE_CONTEXTS, pyrite_config};

use crate::sampler::SamplerError;
use crate::sampler::switches::Switches;
use crate::sys::{self, CpuCounters};
use crate::unwind::UnwindMaps;

/// A program that runs at a tracepoint for as long as this lives.
#[derive(Debug)]
pub(crate) struct Attached {
    _link: BtfTracePointLink,
    /// Open so that whoever adds up what our programs take (`/proc/PID/fdinfo`) finds this one.
    _program: OwnedFd,
}

/// What is left of the object after loading.
pub(crate) struct Loaded {
    pub(crate) program: OwnedFd,
    pub(crate) ring: RingBuf<MapData>,
    pub(crate) cpus: PerCpuArray<MapData, CpuCounters>,
    pub(crate) unwind: UnwindMaps,
    /// Keeps the program attached that forgets a process's mappings at exec.
    pub(crate) on_exec: Option<Attached>,
    /// Where time off the CPU was asked for and the kernel lets us record it.
    pub(crate) switches: Option<Switches>,
}

/// Loads and verifies the sampler. The kernel's BTF (13 MB when parsed) is gone again afterwards.
pub(crate) fn load(config: &pyrite_config, ring_bytes: u32) -> Result<Loaded, SamplerError> {
    sys::raise_memlock_limit();
    let btf = Btf::from_sys_fs().map_err(|source| SamplerError::NoBtf { source })?;
    let wants_switches = config.off_cpu_per_second > 0;
    let config = pyrite_bpf::config_bytes(config);
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .override_global("config", config.as_slice(), true)
        .map_max_entries("ring", ring_bytes)
        .map_max_entries("walks", possible_cpus()? * PYRITE_CONTEXTS);
    if !wants_switches {
        loader.map_max_entries("threads", 1).map_max_entries("blocks", 1);
    }
    let mut object = loader.load(pyrite_bpf::object()).map_err(explain)?;
    let program = load_program(&mut object)?;
    let ring = RingBuf::try_from(take_map(&mut object, "ring")?).map_err(|error| explain(error.into()))?;
    let cpus =
        PerCpuArray::try_from(take_map(&mut object, "cpus")?).map_err(|error| explain(error.into()))?;
    let unwind = UnwindMaps::take(|name| take_map(&mut object, name))?;
    // Without it, a new program's stacks are walked by the mappings of the one before until user space says otherwise, and
    // are then cut for it.
    let on_exec = attach(&mut object, &btf, "on_exec", "sched_process_exec")
        .inspect_err(|error| tracing::warn!("the first samples of a new program may be cut short: {error}"));
    let switches = wants_switches.then(|| Switches::attach(&mut object, &btf)).and_then(|attached| {
        attached.inspect_err(|error| tracing::warn!("time off the CPU is not recorded: {error}")).ok()
    });
    Ok(Loaded { program, ring, cpus, unwind, on_exec: on_exec.ok(), switches })
}

/// CPUs that there may ever be, which is how many the kernel numbers.
fn possible_cpus() -> Result<u32, SamplerError> {
    let counted = nr_cpus().map_err(|(_, source)| SamplerError::Os { action: "count the CPUs", source })?;
    Ok(counted as u32)
}

fn load_program(object: &mut Ebpf) -> Result<OwnedFd, SamplerError> {
    let name = "on_tick";
    let program = object.program_mut(name).ok_or(SamplerError::Incomplete { name })?;
    let program: &mut PerfEventProgram =
        program.try_into().map_err(|error: ProgramError| explain(error.into()))?;
    program.load().map_err(|error| explain(error.into()))?;
    keep_open(program.fd())
}

/// Loads the program `name` and attaches it to a tracepoint. Minimum kernel: 5.10, with BTF.
pub(super) fn attach(
    object: &mut Ebpf,
    btf: &Btf,
    name: &'static str,
    tracepoint: &str,
) -> Result<Attached, SamplerError> {
    let program = object.program_mut(name).ok_or(SamplerError::Incomplete { name })?;
    let program: &mut BtfTracePoint =
        program.try_into().map_err(|error: ProgramError| explain(error.into()))?;
    program.load(tracepoint, btf).map_err(|error| explain(error.into()))?;
    let fd = keep_open(program.fd())?;
    let id = program.attach().map_err(|error| explain(error.into()))?;
    let link = program.take_link(id).map_err(|error| explain(error.into()))?;
    Ok(Attached { _link: link, _program: fd })
}

fn keep_open(program: Result<&ProgramFd, ProgramError>) -> Result<OwnedFd, SamplerError> {
    let fd = program.map_err(|error| explain(error.into()))?.as_fd().try_clone_to_owned();
    fd.map_err(|source| SamplerError::Os { action: "keep a program open", source })
}

pub(super) fn take_map(object: &mut Ebpf, name: &'static str) -> Result<Map, SamplerError> {
    object.take_map(name).ok_or(SamplerError::Incomplete { name })
}

/// The sentence that says what to do about a loader's error.
pub(super) fn explain(error: EbpfError) -> SamplerError {
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    SamplerError::of_load(error, &lockdown)
}
