//! Loads the BPF object and keeps of it only what sampling needs: the program and two maps.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{PerfEvent as PerfEventProgram, ProgramError};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use pyrite_bpf::abi::pyrite_config;

use crate::sampler::SamplerError;
use crate::sys::{self, CpuCounters};

/// What is left of the object after loading.
pub(crate) struct Loaded {
    pub(crate) program: OwnedFd,
    pub(crate) ring: RingBuf<MapData>,
    pub(crate) cpus: PerCpuArray<MapData, CpuCounters>,
}

/// Loads and verifies the sampler. The kernel's BTF (13 MB when parsed) is gone again afterwards.
pub(crate) fn load(config: &pyrite_config, ring_bytes: u32) -> Result<Loaded, SamplerError> {
    sys::raise_memlock_limit();
    let btf = Btf::from_sys_fs().map_err(|source| SamplerError::NoBtf { source })?;
    let config = pyrite_bpf::config_bytes(config);
    let mut object = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("config", config.as_slice(), true)
        .map_max_entries("ring", ring_bytes)
        .load(pyrite_bpf::object())
        .map_err(explain)?;
    let program = load_program(&mut object)?;
    let ring = RingBuf::try_from(take_map(&mut object, "ring")?).map_err(|error| explain(error.into()))?;
    let cpus =
        PerCpuArray::try_from(take_map(&mut object, "cpus")?).map_err(|error| explain(error.into()))?;
    Ok(Loaded { program, ring, cpus })
}

fn load_program(object: &mut Ebpf) -> Result<OwnedFd, SamplerError> {
    let program =
        object.program_mut("on_tick").ok_or(SamplerError::Incomplete { name: "program on_tick" })?;
    let program: &mut PerfEventProgram =
        program.try_into().map_err(|error: ProgramError| explain(error.into()))?;
    program.load().map_err(|error| explain(error.into()))?;
    let fd = program.fd().map_err(|error| explain(error.into()))?;
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|source| SamplerError::Os { action: "keep the sampler's program open", source })
}

fn take_map(object: &mut Ebpf, name: &'static str) -> Result<Map, SamplerError> {
    object.take_map(name).ok_or(SamplerError::Incomplete { name })
}

/// The sentence that says what to do about a loader's error.
fn explain(error: EbpfError) -> SamplerError {
    if let EbpfError::ProgramError(ProgramError::LoadError { io_error, verifier_log }) = &error
        && io_error.kind() != std::io::ErrorKind::PermissionDenied
    {
        let log = verifier_log.to_string();
        let tail = log.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
        return SamplerError::Rejected { log: format!("{io_error}: {}", &log[tail..]) };
    }
    if is_permission_denied(&error) {
        return SamplerError::NoPrivilege;
    }
    SamplerError::Load { source: Box::new(error) }
}

fn is_permission_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied)
    })
}
