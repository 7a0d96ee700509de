//! This node as the server sees it: what runs here, how it is sampled, and the agent's counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyrite_bpf::Note;
use pyrite_model::{Exposition, names};
use pyrite_sampling::{HealthReport, Ledger};
use pyrite_server::{KnownService, NodeInfo, NodeView, ServiceKind, UnwindScore};

use crate::identity::Service;
use crate::identity::cgroup::Unit;
use crate::rows::RowStats;
use crate::sampler::{Sampler, SamplerStats};
use crate::watch::score::unwind_score;
use crate::watch::{metrics, tables};

pub(super) struct Node {
    name: String,
    frequency_hz: u32,
    sampler: Mutex<SamplerState>,
    services: Mutex<Vec<KnownService>>,
    row_stats: Mutex<RowStats>,
    health: Mutex<HealthReport>,
    stored_ticks: AtomicU64,
    refused_ticks: AtomicU64,
    refused_off_cpu: AtomicU64,
    queued_bytes: Arc<AtomicUsize>,
}

enum SamplerState {
    Running(Sampler),
    Stopped(Box<SamplerStats>),
}

impl Node {
    /// `queued_bytes` is what waits between the sampler and the rows thread.
    pub(super) fn new(
        sampler: Sampler,
        name: String,
        frequency_hz: u32,
        queued_bytes: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            name,
            frequency_hz,
            sampler: Mutex::new(SamplerState::Running(sampler)),
            services: Mutex::default(),
            row_stats: Mutex::default(),
            health: Mutex::default(),
            stored_ticks: AtomicU64::new(0),
            refused_ticks: AtomicU64::new(0),
            refused_off_cpu: AtomicU64::new(0),
            queued_bytes,
        }
    }

    pub(super) fn stop_sampler(&self) {
        let mut state = lock(&self.sampler);
        let until_now = SamplerState::Stopped(Box::new(state.stats()));
        if let SamplerState::Running(sampler) = std::mem::replace(&mut *state, until_now) {
            *state = SamplerState::Stopped(Box::new(sampler.stop()));
        }
    }

    /// The store took a second of so many ticks.
    pub(super) fn count_stored(&self, ticks: u64) {
        self.stored_ticks.fetch_add(ticks, Ordering::Relaxed);
    }

    /// The store did not take a second of so many ticks and so many stacks of threads off the CPU.
    pub(super) fn count_refused(&self, ticks: u64, off_cpu: u64) {
        self.refused_ticks.fetch_add(ticks, Ordering::Relaxed);
        self.refused_off_cpu.fetch_add(off_cpu, Ordering::Relaxed);
    }

    pub(super) fn set_services(&self, found: Vec<Service>) {
        *lock(&self.services) = found.into_iter().map(known_service).collect();
    }

    pub(super) fn set_row_stats(&self, stats: &RowStats) {
        *lock(&self.row_stats) = *stats;
    }

    pub(super) fn set_health(&self, report: HealthReport) {
        *lock(&self.health) = report;
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
            Self::Stopped(stats) => **stats,
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
        let mut stats = lock(&self.sampler).stats();
        stats.notes.add(Note::OffCpuStackLost, self.refused_off_cpu.load(Ordering::Relaxed));
        metrics::sampler(&stats, &self.ledger(&stats), out);
        tables::metrics(&stats.unwind, out);
        let queued_bytes = self.queued_bytes.load(Ordering::Relaxed) as f64;
        out.gauge("pyrite_rows_queue_bytes", "Seconds that wait for names and labels.", &[], queued_bytes);
        metrics::rows(&lock(&self.row_stats), out);
        metrics::unwind(&lock(&self.health), out);
    }

    fn unwind(&self) -> UnwindScore {
        let off_cpu = lock(&self.sampler).stats().off_cpu;
        unwind_score(&lock(&self.health), off_cpu.as_ref())
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not hide the counters that would tell of it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
