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
    waiting: VecDeque<Waiting>,
}

/// What is done in the order in which it was told.
enum Waiting {
    /// To be labelled; since when it waits.
    Second(Instant, Second),
    /// A process to be forgotten once the seconds before its end are out.
    End(ProcessKey),
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
                self.identity.forget(key);
                let comm = comm.to_string();
                let subject = Subject { process: key, comm: &comm, cgroup_id: 0, parent, is_kernel_thread };
                self.identity.labels_for(&subject);
            }
            Event::NewMapping { process, file, start, end } => {
                self.identity.mapped(process, &file.path);
                self.maker.open(process, &file, start, end);
            }
            Event::ProcessGone { key } => self.waiting.push_back(Waiting::End(key)),
            Event::Second(second) => {
                self.health.on_second(&second);
                self.waiting.push_back(Waiting::Second(Instant::now(), second));
            }
        }
    }

    /// The next second whose labels are final or that has waited for `hold`.
    pub fn next_ready(&mut self, hold: Duration) -> Option<Ready> {
        let (since, second) = loop {
            match self.waiting.pop_front()? {
                Waiting::Second(since, second) => break (since, second),
                Waiting::End(process) => self.identity.forget(process),
            }
        };
        let (labels, certainty) = self.labels(&second);
        if certainty == Certainty::Pending && since.elapsed() < hold {
            self.waiting.push_front(Waiting::Second(since, second));
            return None;
        }
        let batch = self.maker.batch(&second, |stack, state| &labels[&(stack.process, stack.comm, state)]);
        Some(Ready { batch, ticks: second.ticks() })
    }

    /// Whether [`Self::next_ready`] has anything to look at.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
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
                let subject = Subject { process, comm: &comm, cgroup_id, parent: None, is_kernel_thread };
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::sync::Arc;

    use pyrite_model::{Avma, FileKey, UnixMs};
    use pyrite_sampling::{BootNs, CountedStack, MappedFile};
    use pyrite_symbolizer::{Executables, SymbolizerConfig};

    use super::*;
    use crate::identity::IdentityConfig;
    use crate::identity::runtime::RuntimeConfig;
    use crate::rows::empty_stack;

    const PROGRAM: &str = "/opt/brief";

    fn stream() -> RowStream {
        let runtimes = RuntimeConfig { docker: Vec::new(), cri: Vec::new(), ..RuntimeConfig::default() };
        let identity = Identity::new(IdentityConfig { runtimes, ..IdentityConfig::default() }).unwrap();
        let maker = RowMaker::new(97, SymbolizerConfig::default(), Arc::new(Executables::new(1)));
        RowStream::new(maker, identity, TickSource::CpuClock)
    }

    fn seen(key: ProcessKey) -> Event {
        Event::ProcessSeen { key, parent: None, comm: Comm::new(b"worker"), is_kernel_thread: false }
    }

    fn mapped(process: ProcessKey, path: &str) -> Event {
        let key = FileKey { dev_major: 0, dev_minor: 0, inode: 1 };
        let file = Arc::new(MappedFile { key, path: path.into() });
        Event::NewMapping { process, file, start: Avma(0x1000), end: Avma(0x2000) }
    }

    fn second(process: ProcessKey) -> Event {
        let stack = empty_stack(process, b"worker");
        Event::Second(Second {
            start: UnixMs(0),
            stacks: vec![CountedStack { stack, count: 1 }],
            off_cpu: vec![],
        })
    }

    /// A process that nobody finds in `/proc` any more.
    fn dead(start: u64) -> ProcessKey {
        ProcessKey { tgid: u32::MAX, start: BootNs(start) }
    }

    /// The executable that the rows of these events are labelled with.
    fn check(stream: &mut RowStream, events: impl IntoIterator<Item = Event>, expect: Option<&str>) {
        for event in events {
            stream.on_event(event);
        }
        let ready = stream.next_ready(Duration::ZERO).unwrap();
        for series in &ready.batch.series {
            assert_eq!(series.labels.get(names::EXE), expect, "{}", series.labels);
        }
    }

    #[test]
    fn a_process_that_has_ended_has_the_program_that_it_mapped() {
        let key = dead(1);
        check(&mut stream(), [seen(key), mapped(key, PROGRAM), second(key)], Some(PROGRAM));
        let removed = format!("{PROGRAM} (deleted)");
        check(&mut stream(), [seen(key), mapped(key, &removed), second(key)], Some(PROGRAM));
        // An exec, of which this is the news as well.
        let executes = [seen(key), mapped(key, "/bin/sh"), seen(key), mapped(key, PROGRAM), second(key)];
        check(&mut stream(), executes, Some(PROGRAM));
    }

    #[test]
    fn a_process_that_has_ended_and_is_not_reaped_has_the_program_that_it_mapped() {
        let child: &mut Child = &mut Command::new("true").spawn().unwrap();
        let key = ProcessKey { tgid: child.id(), start: BootNs(0) };
        let maps = format!("/proc/{}/maps", key.tgid);
        while std::fs::read(&maps).is_ok_and(|maps| !maps.is_empty()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        check(&mut stream(), [seen(key), mapped(key, PROGRAM), second(key)], Some(PROGRAM));
        child.wait().unwrap();
    }

    #[test]
    fn the_end_of_a_process_does_not_overtake_its_rows() {
        let key = dead(1);
        let gone = || Event::ProcessGone { key };
        let mut stream = stream();
        check(&mut stream, [seen(key), mapped(key, PROGRAM), second(key), gone()], Some(PROGRAM));
        assert!(stream.next_ready(Duration::ZERO).is_none());
        assert_eq!(stream.stats().identity.processes, 0, "it is forgotten once they are out");
        check(&mut stream, [seen(key), mapped(key, PROGRAM), second(key)], Some(PROGRAM));
    }

    #[test]
    fn a_pid_used_again_takes_no_program_from_the_process_before_or_after() {
        let (old, new) = (dead(1_000_000_000), dead(9_000_000_000));
        let mut stream = stream();
        let lives = [seen(old), mapped(old, PROGRAM), second(old), Event::ProcessGone { key: old }];
        for event in lives {
            stream.on_event(event);
        }
        check(&mut stream, [seen(new), mapped(new, "/bin/new")], Some(PROGRAM));
        check(&mut stream, [second(new)], Some("/bin/new"));
    }
}
