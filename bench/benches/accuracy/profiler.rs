//! Pyrite under test: its sampler as the daemon runs it, each sample seen as it is counted.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use pyrite::sampler::{Delivery, Sampler, SamplerConfig, SamplerStats, Witness};
use pyrite_bench::accuracy::{CapturedStack, ObservedStack};
use pyrite_bpf::StackOutcome;
use pyrite_sampling::Sample;

/// Far more than the ticks of one workload.
const ROOM: usize = 1 << 18;
/// perf takes its time before the BPF program runs, before Linux 6.3 after it. Ticks are further apart.
const MAX_APART_NS: u64 = 1_000_000;
/// Every process of the node has been read by then.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long the tables of what runs already are waited for. Beside builds there is always another.
const PATIENCE: Duration = Duration::from_secs(30);
/// The sampler's own name for its program.
const PROGRAM: &str = "on_tick";

/// A running sampler.
pub(crate) struct Profiler {
    sampler: Sampler,
    witnessed: Receiver<Sample>,
    program: u32,
}

/// What it recorded.
pub(crate) struct Observed {
    /// The samples of each thread in order of time.
    threads: HashMap<u32, Vec<(u64, ObservedStack)>>,
    /// Its closed books, which say what became of ticks that are missing.
    pub(crate) stats: SamplerStats,
}

impl Profiler {
    /// Starts the sampler and waits until it knows the node. `capture_hz` more ticks a second are to run its program.
    pub(crate) fn start(capture_hz: u32) -> Result<Self> {
        let before = programs();
        let (tell, witnessed) = sync_channel(ROOM);
        let witness = Some(Witness { samples: tell, frequency_hz: capture_hz.into() });
        let config = SamplerConfig { witness, ..SamplerConfig::default() };
        let sampler = Sampler::start(config, |_| Delivery::Taken).context("Pyrite does not sample")?;
        let mut new = programs().into_iter().filter(|id| !before.contains(id));
        let program = new.next().context("the sampler's program is not among those loaded")?;
        std::thread::sleep(WARM_UP);
        let begun = Instant::now();
        while sampler.stats().unwind.tables.pending > 0 && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Self { sampler, witnessed, program })
    }

    /// Id of the program that runs at each tick.
    pub(crate) fn program(&self) -> u32 {
        self.program
    }

    /// Stops it; nothing is held back any more.
    pub(crate) fn stop(self) -> Observed {
        let stats = self.sampler.stop();
        let mut threads: HashMap<u32, Vec<(u64, ObservedStack)>> = HashMap::new();
        for sample in self.witnessed {
            let stack = ObservedStack {
                frames: sample.user.iter().map(|frame| frame.0).collect(),
                is_complete: matches!(sample.user_outcome, StackOutcome::Complete | StackOutcome::ChainEnd),
                outcome: sample.user_outcome.name().to_owned(),
            };
            threads.entry(sample.tid).or_default().push((sample.time.0, stack));
        }
        for samples in threads.values_mut() {
            samples.sort_by_key(|(time, _)| *time);
        }
        Observed { threads, stats }
    }
}

impl Observed {
    /// The sample of the tick at which a stack was captured: the thread's nearest in time.
    pub(crate) fn find(&self, captured: &CapturedStack) -> Option<&ObservedStack> {
        let samples = self.threads.get(&captured.tid)?;
        let apart = |sample: &&(u64, ObservedStack)| sample.0.abs_diff(captured.time_boot_ns);
        let behind = samples.partition_point(|(time, _)| *time < captured.time_boot_ns);
        let nearest = samples[behind.saturating_sub(1)..].iter().take(2).min_by_key(apart)?;
        (apart(&nearest) <= MAX_APART_NS).then_some(&nearest.1)
    }
}

fn programs() -> Vec<u32> {
    let loaded = loaded_programs().filter_map(Result::ok);
    loaded.filter(|program| program.name_as_str() == Some(PROGRAM)).map(|program| program.id()).collect()
}
