//! The sampler: opens the events, loads the program, and runs the thread that turns ticks into counted stacks.
//!
//! Used by the daemon and by `pyrite record` alike. What comes out goes to a sink, in order, on the sampler's own thread;
//! see [`pyrite_sampling::Event`].

mod cpus;
mod drain;
mod error;
mod load;
mod processes;
mod switches;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyrite_bpf::abi::pyrite_config;
use pyrite_sampling::{Event, Fates, Filter, Ledger, Limits, Notes, OffFates, Sample, Sampling};

use crate::freeze::{self, Verdict};
use crate::sampler::cpus::{Cpus, EventSettings};
use crate::sampler::drain::{Drain, Shared};
use crate::sys::{Alarm, PerfEvent};
use crate::unwind::{self, Unwind, UnwindConfig, UnwindStats};

pub use crate::sampler::error::SamplerError;
pub use crate::sampler::switches::OffCpuBudget;
pub use crate::sys::TickSource;

const MAX_SAMPLE_RATE: &str = "/proc/sys/kernel/perf_event_max_sample_rate";
/// At the frequencies in use this is every tick, so that a rush of new processes is told in full.
const MOST_COPIES_PER_SECOND: u64 = 1024;
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

/// How to sample.
#[derive(Clone, Debug)]
pub struct SamplerConfig {
    /// Ticks per second and CPU.
    pub frequency_hz: u64,
    /// Which processes.
    pub filter: Filter,
    /// Bounds of the tables in user space.
    pub limits: Limits,
    /// How often the rings are emptied.
    pub drain_interval: Duration,
    /// Size of the ring for samples, a power of two of at least a page; `None` chooses by the number of CPUs.
    pub ring_bytes: Option<u32>,
    /// Whether time off the CPU is recorded as well, and how many stacks may be captured for it. A kernel that does not let
    /// us is warned of and sampled all the same.
    pub off_cpu: OffCpuBudget,
    /// What to count; `None` takes cycles where there is a counter for them.
    pub source: Option<TickSource>,
    /// Whether to sample on a kernel that this can freeze; see [`crate::freeze`].
    pub allow_freezing_kernel: bool,
    /// Who sees each sample as it is counted.
    pub witness: Option<Witness>,
    /// Where everything goes that sampling is fed with, to be played again by [`pyrite_sampling::play`]. Ends where a part of
    /// it finds no room.
    pub tape: Option<SyncSender<Vec<u8>>>,
    /// How user stacks are unwound.
    pub unwind: UnwindConfig,
}

/// A harness that compares samples with what the kernel's own perf saw at the same tick.
#[derive(Clone, Debug)]
pub struct Witness {
    /// Takes the samples. What finds no room is dropped.
    pub samples: SyncSender<Sample>,
    /// How often a second and CPU the harness runs the program by an event of its own. So many more stacks may be copied,
    /// or every tick of the harness would take a copy from one of the sampler.
    pub frequency_hz: u64,
}

impl Default for SamplerConfig {
    /// All processes, on the CPU alone, at 97 Hz: a prime, so that it does not run in step with what programs do at round intervals.
    fn default() -> Self {
        Self {
            frequency_hz: 97,
            filter: Filter::default(),
            limits: Limits::default(),
            drain_interval: Duration::from_millis(250),
            ring_bytes: None,
            off_cpu: OffCpuBudget::Off,
            source: None,
            allow_freezing_kernel: false,
            witness: None,
            tape: None,
            unwind: UnwindConfig::default(),
        }
    }
}

/// What the sink did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is on its way.
    Taken,
    /// There was no room; its ticks are counted as lost there.
    QueueFull,
}

/// How sampling goes; at most about a second old.
#[derive(Clone, Copy, Debug)]
pub struct SamplerStats {
    /// What the ticks count.
    pub source: TickSource,
    /// Ticks per second and CPU.
    pub frequency_hz: u64,
    /// What became of every tick.
    pub ledger: Ledger,
    /// Counters of what lost no tick.
    pub notes: Notes,
    /// CPUs being sampled.
    pub cpus: usize,
    /// Processes known.
    pub processes: usize,
    /// Executable mappings known, each counted in every process that has it.
    pub mappings: usize,
    /// Memory of the rings that the kernel writes to.
    pub ring_bytes: usize,
    /// Memory of copied stacks that are to be finished.
    pub copy_bytes: usize,
    /// CPU time that the sampler's thread has used.
    pub drain_cpu: Duration,
    /// How unwinding goes.
    pub unwind: UnwindStats,
    /// Time off the CPU; `None` where it is not recorded.
    pub off_cpu: Option<OffCpuStats>,
}

/// How the recording of time off the CPU goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct OffCpuStats {
    /// What became of every time that a thread left a CPU.
    pub fates: OffFates,
    /// Captured threads that are off the CPU.
    pub open: usize,
}

/// A running sampler. Dropping it stops it.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts sampling. From then on `sink` is called on the sampler's thread and must not block. It is dropped when sampling
    /// ends, be it that a thread failed.
    ///
    /// # Errors
    /// Whatever keeps the kernel from sampling for us; each says what to do.
    pub fn start<S>(config: SamplerConfig, sink: S) -> Result<Self, SamplerError>
    where
        S: FnMut(Event) -> Delivery + Send + 'static,
    {
        let os = |action| move |source| SamplerError::Os { action, source };
        refuse_to_freeze(&config)?;
        let online = cpus::online().map_err(os("read which CPUs are online"))?;
        let source = choose_source(&config, online.first().copied().unwrap_or(0))?;
        let ring_bytes = config.ring_bytes.unwrap_or_else(|| ring_bytes(online.len()));
        let off_cpu_per_second = config.off_cpu.per_cpu(online.len());
        let bpf_config = pyrite_config {
            ring_wakeup_bytes: u64::from(ring_bytes / 2),
            period_ns: period_ns(source, config.frequency_hz),
            address_tag_mask: unwind::ADDRESS_TAG_MASK,
            copies_per_second: copies_per_second(&config),
            perf_samples: u32::from(config.witness.is_some()),
            off_cpu_per_second,
            ..pyrite_config::default()
        };
        let loaded = load::load(&bpf_config, ring_bytes)?;
        let settings = EventSettings {
            source,
            frequency_hz: config.frequency_hz,
            sideband_bytes: sideband_bytes(online.len()),
        };
        let shared = Arc::new(Shared {
            alarm: Alarm::new().map_err(os("create an eventfd"))?,
            stop: AtomicBool::new(false),
            stats: Mutex::new(SamplerStats {
                off_cpu: loaded.switches.is_some().then(OffCpuStats::default),
                ..SamplerStats::new(source, config.frequency_hz)
            }),
        });
        let mut sampling = Sampling::new(config.filter, config.limits);
        if config.witness.is_some() {
            sampling.witness();
        }
        if config.tape.is_some() {
            sampling.tape();
        }
        let drain = Drain {
            sampling,
            _on_exec: loaded.on_exec,
            witness: config.witness.map(|witness| witness.samples),
            tape: config.tape,
            unwind: Unwind::start(loaded.unwind, config.unwind).map_err(os("set up unwind tables"))?,
            ring: loaded.ring,
            counters: loaded.cpus,
            switches: loaded.switches,
            cpus: Cpus::open(settings, loaded.program, &online)?,
            interval: config.drain_interval,
            sink,
            shared: Arc::clone(&shared),
            ring_bytes: ring_bytes as usize,
            told: Fates::default(),
            notes: Notes::default(),
            tails_lost_in_kernel: 0,
            to_load: VecDeque::new(),
        };
        let thread = std::thread::Builder::new().name("pyrite-sampler".to_owned());
        let thread = thread.spawn(move || drain.run()).map_err(os("start the sampler's thread"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How it goes.
    pub fn stats(&self) -> SamplerStats {
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops: the clocks first, then everything that is still held goes to the sink. The ledger is then closed: nothing
    /// is held any more.
    pub fn stop(mut self) -> SamplerStats {
        self.join();
        self.stats()
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.alarm.set_off();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sampler's thread panicked; what it had not handed on is lost");
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.join();
    }
}

impl SamplerStats {
    fn new(source: TickSource, frequency_hz: u64) -> Self {
        Self {
            source,
            frequency_hz,
            ledger: Ledger::default(),
            notes: Notes::default(),
            cpus: 0,
            processes: 0,
            mappings: 0,
            ring_bytes: 0,
            copy_bytes: 0,
            drain_cpu: Duration::ZERO,
            unwind: UnwindStats::default(),
            off_cpu: None,
        }
    }
}

fn copies_per_second(config: &SamplerConfig) -> u32 {
    let harness_hz = config.witness.as_ref().map_or(0, |witness| witness.frequency_hz);
    config.frequency_hz.saturating_add(harness_hz).min(MOST_COPIES_PER_SECOND) as u32
}

/// 0 where ticks do not come at even times.
fn period_ns(source: TickSource, frequency_hz: u64) -> u64 {
    match source {
        TickSource::CpuClock => 1_000_000_000 / frequency_hz,
        TickSource::Cycles => 0,
    }
}

fn refuse_to_freeze(config: &SamplerConfig) -> Result<(), SamplerError> {
    if config.allow_freezing_kernel {
        return Ok(());
    }
    let evidence = freeze::look();
    match evidence.verdict() {
        Verdict::MayFreeze => Err(SamplerError::FreezingKernel { version: evidence.version_text() }),
        Verdict::SafeVersion | Verdict::Mended | Verdict::NotHardened => Ok(()),
    }
}

/// Cycles where the hardware can count them, else the clock; the answer is what `cpu` says.
fn choose_source(config: &SamplerConfig, cpu: u32) -> Result<TickSource, SamplerError> {
    let frequency_hz = config.frequency_hz;
    let max_hz = read_setting(MAX_SAMPLE_RATE).parse().unwrap_or(u64::MAX);
    if frequency_hz == 0 || frequency_hz > max_hz {
        return Err(SamplerError::Frequency { frequency_hz, max_hz });
    }
    let candidates =
        config.source.map_or_else(|| vec![TickSource::Cycles, TickSource::CpuClock], |one| vec![one]);
    let mut failure = io::ErrorKind::Unsupported.into();
    for source in candidates {
        match PerfEvent::open_ticks(cpu, source, frequency_hz) {
            Ok(_) => return Ok(source),
            Err(error) => failure = error,
        }
    }
    Err(SamplerError::of_perf(cpu, failure, || read_setting(PARANOID)))
}

fn read_setting(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unreadable".to_owned(), |text| text.trim().to_owned())
}

/// A busy CPU at 97 Hz makes about 10 KB of records in a drain interval. Where it runs nothing but new processes and every
/// stack is copied it makes 400 KB, and the ring calls when it is half full.
fn ring_bytes(cpus: usize) -> u32 {
    let bytes = (cpus * (256 << 10)).next_power_of_two().clamp(512 << 10, 8 << 20);
    bytes as u32
}

/// A program start makes about 2 KB of mapping events. All CPUs together stay under 8 MB.
fn sideband_bytes(cpus: usize) -> usize {
    ((8 << 20) / cpus.next_power_of_two()).clamp(16 << 10, 128 << 10)
}
