//! This node as the server sees it: what runs here, how it is sampled, and the agent's counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyrite_model::{Exposition, names};
use pyrite_sampling::Ledger;
use pyrite_server::{KnownService, NodeInfo, NodeView, ServiceKind};
use pyrite_symbolizer::{ExecutablesStats, Miss, SymbolizerStats};

use crate::identity::cgroup::Unit;
use crate::identity::process::ProcessMiss;
use crate::identity::runtime::RuntimeMiss;
use crate::identity::{IdentityStats, Service};
use crate::sampler::{Sampler, SamplerStats};

pub(super) struct Node {
    name: String,
    frequency_hz: u32,
    sampler: Mutex<SamplerState>,
    services: Mutex<Vec<KnownService>>,
    row_stats: Mutex<RowStats>,
    stored_ticks: AtomicU64,
    refused_ticks: AtomicU64,
}

enum SamplerState {
    Running(Sampler),
    Stopped(SamplerStats),
}

#[derive(Clone, Copy, Default)]
struct RowStats {
    symbolizer: SymbolizerStats,
    executables: ExecutablesStats,
    identity: IdentityStats,
}

impl Node {
    pub(super) fn new(sampler: Sampler, name: String, frequency_hz: u32) -> Self {
        Self {
            name,
            frequency_hz,
            sampler: Mutex::new(SamplerState::Running(sampler)),
            services: Mutex::default(),
            row_stats: Mutex::default(),
            stored_ticks: AtomicU64::new(0),
            refused_ticks: AtomicU64::new(0),
        }
    }

    pub(super) fn stop_sampler(&self) {
        let mut state = lock(&self.sampler);
        let stats = state.stats();
        if let SamplerState::Running(sampler) = std::mem::replace(&mut *state, SamplerState::Stopped(stats)) {
            *state = SamplerState::Stopped(sampler.stop());
        }
    }

    pub(super) fn count_ticks(&self, ticks: u64, stored: bool) {
        let counter = if stored { &self.stored_ticks } else { &self.refused_ticks };
        counter.fetch_add(ticks, Ordering::Relaxed);
    }

    pub(super) fn set_services(&self, found: Vec<Service>) {
        *lock(&self.services) = found.into_iter().map(known_service).collect();
    }

    pub(super) fn set_row_stats(
        &self,
        (symbolizer, executables): (SymbolizerStats, ExecutablesStats),
        identity: IdentityStats,
    ) {
        *lock(&self.row_stats) = RowStats { symbolizer, executables, identity };
    }

    /// The sampler's books, closed with what the store did with the rows.
    fn ledger(&self, stats: &SamplerStats) -> Ledger {
        let mut ledger = stats.ledger;
        let (stored, refused) = (&self.stored_ticks, &self.refused_ticks);
        ledger.settle_store(stored.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        ledger
    }
}

impl SamplerState {
    fn stats(&self) -> SamplerStats {
        match self {
            Self::Running(sampler) => sampler.stats(),
            Self::Stopped(stats) => *stats,
        }
    }
}

impl NodeView for Node {
    fn services(&self) -> Vec<KnownService> {
        lock(&self.services).clone()
    }

    fn info(&self) -> NodeInfo {
        let event = lock(&self.sampler).stats().source.name().to_owned();
        NodeInfo { name: self.name.clone(), frequency_hz: self.frequency_hz, event }
    }

    fn metrics(&self, out: &mut Exposition) {
        let stats = lock(&self.sampler).stats();
        sampler_metrics(&stats, &self.ledger(&stats), out);
        let rows = *lock(&self.row_stats);
        symbol_metrics(&rows.symbolizer, &rows.executables, out);
        identity_metrics(&rows.identity, out);
    }
}

fn known_service(service: Service) -> KnownService {
    let kind = match *service.unit {
        Unit::Container(_) => ServiceKind::Container,
        Unit::Systemd(_) => ServiceKind::Unit,
        Unit::Plain => ServiceKind::Process,
    };
    let mut labels = service.labels;
    let service_name = labels.remove(names::SERVICE_NAME).unwrap_or_default();
    KnownService { service_name, kind, labels }
}

fn sampler_metrics(stats: &SamplerStats, ledger: &Ledger, out: &mut Exposition) {
    let help = "Ticks of the sampling clock by what became of them; see the ledger in ARCHITECTURE.md.";
    for (fate, ticks) in ledger.fates.iter() {
        out.counter("pyrite_sampler_ticks_total", help, &[("fate", fate.name())], ticks as f64);
    }
    let help = "Ticks owed: time the perf events ran times frequency.";
    out.counter("pyrite_sampler_ticks_owed_total", help, &[], ledger.owed as f64);
    let help = "Ticks delivered beyond those owed: timer and clock drift apart.";
    out.counter("pyrite_sampler_ticks_surplus_total", help, &[], ledger.surplus as f64);
    out.gauge("pyrite_sampler_ticks_held", "Ticks on their way to the store.", &[], ledger.held as f64);
    out.gauge("pyrite_sampler_cpus", "CPUs being sampled.", &[], stats.cpus as f64);
    out.gauge("pyrite_sampler_processes", "Processes known to the sampler.", &[], stats.processes as f64);
    let help = "CPU time of the thread that empties the rings.";
    out.counter("pyrite_sampler_drain_cpu_seconds_total", help, &[], stats.drain_cpu.as_secs_f64());
    for (note, count) in stats.notes.iter() {
        let help = "Incidents of sampling that lose no tick, by kind.";
        out.counter("pyrite_sampler_notes_total", help, &[("note", note.name())], count as f64);
    }
}

fn symbol_metrics(symbols: &SymbolizerStats, executables: &ExecutablesStats, out: &mut Exposition) {
    out.counter("pyrite_symbols_hits_total", "Addresses named from the cache.", &[], symbols.hits as f64);
    out.counter("pyrite_symbols_lookups_total", "Addresses looked up.", &[], symbols.lookups as f64);
    out.counter("pyrite_symbols_evictions_total", "Names dropped to keep the bound.", &[], symbols.evictions as f64);
    out.gauge("pyrite_symbols_cache_bytes", "Size of the name cache.", &[], symbols.cached_bytes as f64);
    out.gauge("pyrite_symbols_index_bytes", "Size of the symbol indexes.", &[], symbols.index_bytes as f64);
    for (miss, count) in Miss::ALL.iter().zip(symbols.unknown) {
        let help = "Addresses without a name, by reason.";
        out.counter("pyrite_symbols_unknown_total", help, &[("reason", miss.name())], count as f64);
    }
    out.gauge("pyrite_executables_open", "Executables kept open.", &[], executables.open as f64);
    out.counter("pyrite_executables_opened_total", "Executables opened.", &[], executables.opened as f64);
    let help = "Executables closed to keep the bound.";
    out.counter("pyrite_executables_evicted_total", help, &[], executables.evicted as f64);
    for (miss, count) in Miss::ALL.iter().zip(executables.failed) {
        let help = "Executables that could not be opened or read, by reason.";
        out.counter("pyrite_executables_failed_total", help, &[("reason", miss.name())], count as f64);
    }
}

fn identity_metrics(identity: &IdentityStats, out: &mut Exposition) {
    out.gauge("pyrite_identity_processes", "Processes remembered.", &[], identity.processes as f64);
    out.gauge("pyrite_identity_containers", "Containers remembered.", &[], identity.containers as f64);
    for (miss, count) in ProcessMiss::ALL.iter().zip(identity.process_misses) {
        let help = "Processes that /proc did not tell of, by reason.";
        out.counter("pyrite_identity_process_misses_total", help, &[("reason", miss.name())], count as f64);
    }
    for (miss, count) in RuntimeMiss::ALL.iter().zip(identity.runtime_misses) {
        let help = "Containers that no runtime named, by reason.";
        out.counter("pyrite_identity_runtime_misses_total", help, &[("reason", miss.name())], count as f64);
    }
    let help = "Label values replaced by \"other\" to bound their number.";
    out.counter("pyrite_identity_label_values_replaced_total", help, &[], identity.values_replaced as f64);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not hide the counters that would tell of it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
