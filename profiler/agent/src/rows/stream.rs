//! Events in, batches of rows out: learns of processes and files as they appear and holds a second back for as long as a
//! container's name may still come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use pyrite_model::{Batch, LabelSet, names};
use pyrite_sampling::{
    Comm, Event, HealthReport, ProcessKey, SampledStack, Second, StackCounts, ThreadState, UnwindHealth,
};
use pyrite_symbolizer::{ExecutablesStats, SymbolizerStats};

use crate::identity::{Certainty, Identity, IdentityStats, Service, Subject};
use crate::rows::RowMaker;
use crate::sampler::TickSource;

/// The label `event` of time off the CPU.
const SWITCH_EVENT: &str = "sched_switch";

/// One second's rows.
pub struct Ready {
    /// The rows.
    pub batch: Batch,
    /// How many ticks they stand for.
    pub ticks: u64,
}

/// Counters of everything a row passes through.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowStats {
    /// Names of addresses.
    pub symbolizer: SymbolizerStats,
    /// Files kept open.
    pub executables: ExecutablesStats,
    /// Who processes are.
    pub identity: IdentityStats,
    /// User stacks by how their walk ended.
    pub stacks: StackCounts,
}

/// Turns events into rows. Owned by one thread.
pub struct RowStream {
    maker: RowMaker,
    identity: Identity,
    source: TickSource,
    health: UnwindHealth,
    waiting: VecDeque<(Instant, Second)>,
}

type LabelsByThread = HashMap<(ProcessKey, Comm, ThreadState), LabelSet>;

impl RowStream {
    /// Nothing seen yet. Every row says by a label which event `source` its samples come from.
    pub fn new(maker: RowMaker, identity: Identity, source: TickSource) -> Self {
        Self { maker, identity, source, health: UnwindHealth::default(), waiting: VecDeque::new() }
    }

    /// Takes an event of the sampler.
    pub fn on_event(&mut self, event: Event) {
        match event {
            Event::ProcessSeen { key, parent, comm, is_kernel_thread } => {
                // What it was before an exec no longer holds. Asking now reads /proc while the process lives.
                self.identity.forget(key.tgid);
                let parent = parent.map_or(0, |parent| parent.tgid);
                let comm = comm.to_string();
                let subject = Subject { process: key, comm: &comm, cgroup_id: 0, parent, is_kernel_thread };
                self.identity.labels_for(&subject);
            }
            Event::NewMapping { process, file, start, end } => {
                self.identity.mapped(process, &file.path);
                self.maker.open(process, &file, start, end);
            }
            Event::ProcessGone { key } => self.identity.forget(key.tgid),
            Event::Second(second) => {
                self.health.on_second(&second);
                self.waiting.push_back((Instant::now(), second));
            }
        }
    }

    /// The next second whose labels are final or that has waited for `hold`.
    pub fn next_ready(&mut self, hold: Duration) -> Option<Ready> {
        let (since, second) = self.waiting.pop_front()?;
        let (labels, certainty) = self.labels(&second);
        if certainty == Certainty::Pending && since.elapsed() < hold {
            self.waiting.push_front((since, second));
            return None;
        }
        let batch = self.maker.batch(&second, |stack, state| &labels[&(stack.process, stack.comm, state)]);
        Some(Ready { batch, ticks: second.ticks() })
    }

    /// Every container and unit of this node, busy or idle.
    pub fn inventory(&mut self) -> Vec<Service> {
        self.identity.inventory()
    }

    /// How many stacks of the last minute are complete, and why others are not.
    pub fn health(&self) -> HealthReport {
        self.health.report()
    }

    /// Counters.
    pub fn stats(&self) -> RowStats {
        let (symbolizer, executables) = self.maker.stats();
        RowStats { symbolizer, executables, identity: self.identity.stats(), stacks: self.health.totals() }
    }

    /// The labels of every thread name of every process in a second, in each state it was in, and whether all of them are
    /// final.
    fn labels(&mut self, second: &Second) -> (LabelsByThread, Certainty) {
        let mut labels = LabelsByThread::new();
        let mut certainty = Certainty::Final;
        let running = second.stacks.iter().map(|counted| (&counted.stack, ThreadState::Running));
        let off_cpu = second.off_cpu.iter().map(|off| (&*off.stack, off.state));
        for (&SampledStack { process, comm, cgroup_id, is_kernel_thread, .. }, state) in
            running.chain(off_cpu)
        {
            labels.entry((process, comm, state)).or_insert_with(|| {
                let comm = comm.to_string();
                let subject = Subject { process, comm: &comm, cgroup_id, parent: 0, is_kernel_thread };
                let mut found = self.identity.labels_for(&subject);
                let is_running = state == ThreadState::Running;
                found.set.set(names::EVENT, if is_running { self.source.name() } else { SWITCH_EVENT });
                found.set.set(names::STATE, state.name());
                if found.certainty == Certainty::Pending {
                    certainty = Certainty::Pending;
                }
                found.set
            });
        }
        (labels, certainty)
    }
}
