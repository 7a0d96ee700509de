//! Watching this node: what the sampler tells becomes rows of the store.
//!
//! ```text
//! sampler thread ──events──▶ bounded queue ──▶ rows thread: identity + names ──batch──▶ store
//!       │                                          │
//!       └──────────── stats ───────▶ Node ◀────────┘ what runs here, counters
//! ```
//!
//! The sampler's thread never waits for a disk or a symbol table: a full queue loses rows, counted, not ticks unseen.

mod lasting;
mod metrics;
mod node;
mod queue;
mod score;
mod tables;

use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pyrite_model::{Batch, ProfileType, Tenant};
use pyrite_server::NodeView;
use pyrite_store::{AppendError, Store};
use pyrite_symbolizer::SymbolizerConfig;

use crate::config::Config;
use crate::identity::{Identity, IdentityConfig};
use crate::rows::{RowMaker, RowStream};
use crate::sampler::{OffCpuBudget, Sampler, SamplerConfig};
use crate::unwind::UnwindConfig;
use crate::watch::lasting::Lasting;
use crate::watch::node::Node;
use crate::watch::queue::{EventReceiver, event_queue};

/// How long a second waits for a container's name. A row must be queryable two seconds after its sample.
const HOLD: Duration = Duration::from_millis(400);
/// How often is looked whether the name that a second waits for has come.
const TICK: Duration = Duration::from_millis(100);
const INVENTORY_EVERY: Duration = Duration::from_secs(10);
const HEALTH_EVERY: Duration = Duration::from_secs(2);
/// Soon after the start, so that the page can list idle services from its first look on.
const FIRST_INVENTORY: Duration = Duration::from_secs(1);
const WARN_EVERY: Duration = Duration::from_mins(1);

pub(crate) use score::unwind_score;

/// A node being watched. Ends with [`Watch::stop`].
pub struct Watch {
    /// Ends as well when the sampler's thread does, which holds the queue's only sender.
    rows: Lasting,
    node: Arc<Node>,
}

impl Watch {
    /// Starts sampling into `store`.
    pub fn start(config: &Config, store: Store) -> Result<Self> {
        let frequency_hz = config.frequency_hz;
        let identity =
            Identity::new(IdentityConfig::default()).context("failed to start the runtimes' thread")?;
        let name = identity.node().to_owned();
        let (sender, events) = event_queue();
        let unwind = UnwindConfig { cache: Some(config.data.join("unwind")), ..UnwindConfig::default() };
        let executables = Arc::clone(&unwind.executables);
        let tenant = config.tenancy.of_node();
        let config = SamplerConfig {
            frequency_hz: u64::from(frequency_hz),
            allow_freezing_kernel: config.allow_freezing_kernel,
            off_cpu: if config.off_cpu { OffCpuBudget::Node } else { OffCpuBudget::Off },
            unwind,
            ..SamplerConfig::default()
        };
        let sampler = Sampler::start(config, move |event| sender.send(event))?;
        let source = sampler.stats().source;
        let node = Arc::new(Node::new(sampler, name, frequency_hz, events.gauge()));
        let shared = Arc::clone(&node);
        let rows = Lasting::spawn("pyrite-rows", move || {
            // The symbolizer belongs to one thread and cannot be handed over.
            let maker = RowMaker::new(frequency_hz, SymbolizerConfig::default(), executables);
            let stream = RowStream::new(maker, identity, source);
            Rows { stream, store, tenant, node: shared, warned: None }.run(&events);
        });
        let rows = rows.context("failed to start the rows thread")?;
        Ok(Self { rows, node })
    }

    /// The node as the server sees it.
    pub fn node(&self) -> Arc<dyn NodeView> {
        Arc::clone(&self.node) as Arc<dyn NodeView>
    }

    /// Resolves when nothing is watched any more: as long as nobody has called [`Watch::stop`], because a thread failed.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.rows.ended()
    }

    /// Stops sampling and stores everything that was sampled until now.
    ///
    /// # Errors
    /// When sampling, or the storing of what it tells, had ended before.
    pub fn stop(self) -> Result<()> {
        self.rows.end(|| self.node.stop_sampler())
    }
}

/// The rows thread.
struct Rows {
    stream: RowStream,
    store: Store,
    /// Whose rows they are.
    tenant: Tenant,
    node: Arc<Node>,
    warned: Option<Instant>,
}

impl Rows {
    /// Runs until the sampler is gone and all it told is stored.
    fn run(mut self, events: &EventReceiver) {
        let mut next_inventory = Instant::now() + FIRST_INVENTORY;
        let mut next_look = Instant::now();
        let mut next_health = Instant::now();
        loop {
            let idle_until = next_inventory.min(next_health);
            let due = if self.stream.is_waiting() { next_look.min(idle_until) } else { idle_until };
            match events.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(event) => self.stream.on_event(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Looking at a second that waits for a name asks for the labels of all its processes anew, so not for
            // every event of a burst of process starts.
            if Instant::now() >= next_look {
                next_look = Instant::now() + TICK;
                self.store_ready(HOLD);
            }
            if Instant::now() >= next_inventory {
                next_inventory = Instant::now() + INVENTORY_EVERY;
                self.node.set_services(self.stream.inventory());
            }
            if Instant::now() >= next_health {
                next_health = Instant::now() + HEALTH_EVERY;
                self.node.set_health(self.stream.health());
            }
        }
        self.store_ready(Duration::ZERO);
    }

    fn store_ready(&mut self, hold: Duration) {
        while let Some(ready) = self.stream.next_ready(hold) {
            let off_cpu = off_cpu_rows(&ready.batch);
            let batch = Batch { tenant: self.tenant.clone(), ..ready.batch };
            match self.store.append_blocking(batch) {
                Ok(()) => self.node.count_stored(ready.ticks),
                Err(error) => {
                    self.node.count_refused(ready.ticks, off_cpu);
                    self.warn(&error);
                }
            }
            self.node.set_row_stats(&self.stream.stats());
        }
    }

    fn warn(&mut self, error: &AppendError) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!("a second of samples was not stored: {error}");
        }
    }
}

fn off_cpu_rows(batch: &Batch) -> u64 {
    let off_cpu = batch.series.iter().filter(|series| series.profile_type == ProfileType::off_cpu());
    off_cpu.map(|series| series.rows.len() as u64).sum()
}
