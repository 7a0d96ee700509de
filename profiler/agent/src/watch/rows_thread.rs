//! The thread that turns counted stacks into rows: asks who each process is, names addresses, appends to the store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use pyrite_model::LabelSet;
use pyrite_sampling::{Comm, Event, ProcessKey, SampledStack, Second};
use pyrite_store::Store;

use crate::identity::{Certainty, Identity, Subject};
use crate::rows::RowMaker;
use crate::watch::node::Node;

/// How long a second waits for a container's name. A row must be queryable two seconds after its sample.
const HOLD: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(100);
const INVENTORY_EVERY: Duration = Duration::from_secs(10);
/// Soon after the start, so that the page can list idle services from its first look on.
const FIRST_INVENTORY: Duration = Duration::from_secs(1);
const WARN_EVERY: Duration = Duration::from_mins(1);

pub(super) struct RowsThread {
    maker: RowMaker,
    identity: Identity,
    store: Store,
    node: Arc<Node>,
    waiting: VecDeque<(Instant, Second)>,
    next_inventory: Instant,
    last_warning: Option<Instant>,
}

impl RowsThread {
    pub(super) fn new(maker: RowMaker, identity: Identity, store: Store, node: Arc<Node>) -> Self {
        let next_inventory = Instant::now() + FIRST_INVENTORY;
        Self { maker, identity, store, node, waiting: VecDeque::new(), next_inventory, last_warning: None }
    }

    /// Runs until the sampler is gone and all it told is stored.
    pub(super) fn run(mut self, events: &Receiver<Event>) {
        loop {
            match events.recv_timeout(TICK) {
                Ok(event) => self.on_event(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.store_waiting(HOLD);
            if Instant::now() >= self.next_inventory {
                self.next_inventory = Instant::now() + INVENTORY_EVERY;
                self.node.set_services(self.identity.inventory());
            }
        }
        self.store_waiting(Duration::ZERO);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::ProcessSeen { key, parent, comm, .. } => {
                // What it was before an exec no longer holds. Asking now reads /proc while the process lives.
                self.identity.forget(key.tgid);
                let parent = parent.map_or(0, |parent| parent.tgid);
                let subject = Subject { process: key, comm: &comm.to_string(), cgroup_id: 0, parent };
                self.identity.labels_for(&subject);
            }
            Event::NewMapping { process, file, start, end } => self.maker.open(process, &file, start, end),
            Event::ProcessGone { key } => self.identity.forget(key.tgid),
            Event::Second(second) => self.waiting.push_back((Instant::now(), second)),
        }
    }

    /// Stores every second whose labels are final or that has waited for `hold`.
    fn store_waiting(&mut self, hold: Duration) {
        while let Some((since, second)) = self.waiting.pop_front() {
            let (labels, certainty) = self.labels(&second);
            if certainty == Certainty::Pending && since.elapsed() < hold {
                self.waiting.push_front((since, second));
                return;
            }
            self.store(&second, &labels);
        }
    }

    /// The labels of every thread name of every process in a second, and whether all of them are final.
    fn labels(&mut self, second: &Second) -> (HashMap<(ProcessKey, Comm), LabelSet>, Certainty) {
        let mut labels = HashMap::new();
        let mut certainty = Certainty::Final;
        for SampledStack { process, comm, cgroup_id, .. } in second.stacks.iter().map(|counted| &counted.stack) {
            labels.entry((*process, *comm)).or_insert_with(|| {
                let comm = comm.to_string();
                let subject = Subject { process: *process, comm: &comm, cgroup_id: *cgroup_id, parent: 0 };
                let found = self.identity.labels_for(&subject);
                if found.certainty == Certainty::Pending {
                    certainty = Certainty::Pending;
                }
                found.set
            });
        }
        (labels, certainty)
    }

    fn store(&mut self, second: &Second, labels: &HashMap<(ProcessKey, Comm), LabelSet>) {
        let batch = self.maker.batch(second, |stack| labels[&(stack.process, stack.comm)].clone());
        let outcome = self.store.append_blocking(batch);
        self.node.count_ticks(second.ticks(), outcome.is_ok());
        self.node.set_row_stats(self.maker.stats(), self.identity.stats());
        let quiet = self.last_warning.is_some_and(|at| at.elapsed() < WARN_EVERY);
        if let Err(error) = outcome
            && !quiet
        {
            self.last_warning = Some(Instant::now());
            tracing::warn!("a second of samples was not stored: {error}");
        }
    }
}
