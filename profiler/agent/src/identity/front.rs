//! The labels of a process, at once from what is known and better once its runtime has answered.
//!
//! One owner: the thread that turns samples into rows. Nothing here waits for a runtime.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use pyrite_model::{LabelSet, names};
use pyrite_sampling::ProcessKey;

use super::cardinality::{Cardinality, CardinalityLimits};
use super::cgroup::{Container, Unit, unit_of};
use super::containers::Containers;
use super::inventory::{CgroupMounts, Inventory};
use super::process::{self, ProcessFacts, ProcessMiss};
use super::runtime::{Metadata, RuntimeConfig, RuntimeMiss, RuntimeWorker};
use crate::mapped_file;

/// Processes remembered; a node with more has many short-lived ones, which are read again if they sample again.
const MAX_PROCESSES: usize = 16_384;
/// Processes move between groups without notice, mostly right after their start. One that did not is looked at again after
/// twice the time, up to the longest that a move may go unseen where samples do not tell of it.
const REREAD_AFTER: Duration = Duration::from_secs(30);
const REREAD_LATEST: Duration = Duration::from_mins(4);
/// Walking the tree for one unknown group is allowed this often.
const RESCAN_AFTER: Duration = Duration::from_secs(1);
/// A label value that has not occurred for this long makes room for others.
const VALUES_PERIOD: Duration = Duration::from_hours(1);
const SHORT_ID_BYTES: usize = 12;
/// The service of kernel threads and of the idle task.
const KERNEL: &str = "kernel";

/// Settings of [`Identity`].
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// Name of this node; its host name if empty.
    pub node: String,
    /// Where runtimes listen.
    pub runtimes: RuntimeConfig,
    /// Bounds on label values.
    pub cardinality: CardinalityLimits,
    /// How long labels stay [`Certainty::Pending`] while a runtime has not answered.
    pub hold: Duration,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            node: String::new(),
            runtimes: RuntimeConfig::default(),
            cardinality: CardinalityLimits::default(),
            hold: Duration::from_millis(1_500),
        }
    }
}

/// What a sample says of its process.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Which process.
    pub process: ProcessKey,
    /// The sampled thread's command name.
    pub comm: &'a str,
    /// The cgroup v2 id that the sample carried; 0 where unknown.
    pub cgroup_id: u64,
    /// The parent, where known. Only used for a process that is gone.
    pub parent: Option<ProcessKey>,
    /// Whether the sample met it as a kernel thread; those that `/proc` calls so are found without it.
    pub is_kernel_thread: bool,
}

/// Whether better labels may soon be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// A runtime has been asked and its answer is worth waiting for.
    Pending,
    /// These are the labels. A runtime that answers late may still improve those of later samples.
    Final,
}

/// A process's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The labels.
    pub set: LabelSet,
    /// Whether to wait for better ones.
    pub certainty: Certainty,
}

/// A container or unit that exists on this node, busy or idle.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its labels, without those of a process (`comm`, `exe`).
    pub labels: LabelSet,
    /// What it is.
    pub unit: Arc<Unit>,
    /// CPU time it has used since its cgroup was made, in nanoseconds.
    pub cpu_ns: u64,
}

/// Counters and gauges of [`Identity`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdentityStats {
    /// Processes remembered now.
    pub processes: usize,
    /// Containers remembered now.
    pub containers: usize,
    /// Processes that `/proc` did not tell of, in the order of [`ProcessMiss::ALL`].
    pub process_misses: [u64; ProcessMiss::ALL.len()],
    /// Of those, how many were placed by the cgroup id of their sample.
    pub placed_by_cgroup: u64,
    /// Of those, how many were placed by their parent, be it only until a sample told their cgroup.
    pub placed_by_parent: u64,
    /// Containers that no runtime named, in the order of [`RuntimeMiss::ALL`].
    pub runtime_misses: [u64; RuntimeMiss::ALL.len()],
    /// Label values replaced by `other`.
    pub values_replaced: u64,
}

struct Known {
    /// The group it was placed in; 0 until a sample has told it.
    cgroup_id: u64,
    unit: Arc<Unit>,
    exe: Option<String>,
    is_kernel: bool,
    /// `None` for a process that is gone: there is nothing to read again.
    read: Option<Reading>,
    used_at: Instant,
}

/// When a process was read, and for how long that is believed.
struct Reading {
    at: Instant,
    holds_for: Duration,
}

/// Tells who a process is.
pub struct Identity {
    node: String,
    /// By life, not by tgid: rows of a life may still come when its tgid is used again.
    processes: HashMap<ProcessKey, Known>,
    containers: Containers,
    inventory: Inventory,
    last_scan: Option<Instant>,
    cardinality: Cardinality,
    period_began: Instant,
    stats: IdentityStats,
}

impl Identity {
    /// Starts the thread that asks the runtimes.
    ///
    /// # Errors
    /// When the system gives no thread or no event loop.
    pub fn new(config: IdentityConfig) -> io::Result<Self> {
        let worker = RuntimeWorker::spawn(config.runtimes)?;
        let node = if config.node.is_empty() { host_name() } else { config.node };
        Ok(Self {
            node,
            processes: HashMap::new(),
            containers: Containers::new(worker, config.hold),
            inventory: Inventory::new(CgroupMounts::find()),
            last_scan: None,
            cardinality: Cardinality::new(config.cardinality),
            period_began: Instant::now(),
            stats: IdentityStats::default(),
        })
    }

    /// The name of this node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The labels of a sample's process as they are known now.
    pub fn labels_for(&mut self, subject: &Subject<'_>) -> Labels {
        self.containers.drain();
        let (unit, exe, is_kernel) = self.process(subject);
        let mut pairs = vec![(names::NODE, self.node.clone()), (names::COMM, subject.comm.to_owned())];
        if is_kernel {
            pairs.push((names::SERVICE_NAME, KERNEL.to_owned()));
            return Labels { set: self.admit(&pairs), certainty: Certainty::Final };
        }
        let program = exe.as_deref().map_or(subject.comm, basename).to_owned();
        pairs.extend(exe.map(|exe| (names::EXE, exe)));
        let certainty = self.describe(&unit, || Some(subject.process.tgid), &mut pairs);
        if *unit == Unit::Plain {
            pairs.push((names::SERVICE_NAME, program));
        }
        Labels { set: self.admit(&pairs), certainty }
    }

    /// Every container and unit of this node with the CPU time it has used. Meant for every ten seconds or so.
    pub fn inventory(&mut self) -> Vec<Service> {
        self.containers.drain();
        let found = self.scan();
        let mut services = Vec::with_capacity(found.len());
        for usage in found {
            let mut pairs = vec![(names::NODE, self.node.clone())];
            self.describe(&usage.unit, || first_process(&usage.cgroup), &mut pairs);
            services.push(Service { labels: self.admit(&pairs), unit: usage.unit, cpu_ns: usage.cpu_ns });
        }
        services
    }

    /// Learns of a file that a process has mapped. The first is the program itself, which names a process that had ended
    /// before `/proc` was asked.
    pub fn mapped(&mut self, process: ProcessKey, path: &str) {
        if let Some(known) = self.processes.get_mut(&process).filter(|known| !known.is_kernel) {
            known.exe.get_or_insert_with(|| mapped_file::without_note(path).to_owned());
        }
    }

    /// Forgets a process: it executed another program, or exited and its rows are done.
    pub fn forget(&mut self, process: ProcessKey) {
        self.processes.remove(&process);
    }

    /// Counters and gauges.
    pub fn stats(&self) -> IdentityStats {
        IdentityStats {
            processes: self.processes.len(),
            containers: self.containers.len(),
            runtime_misses: self.containers.misses,
            values_replaced: self.cardinality.replaced(),
            ..self.stats
        }
    }

    fn process(&mut self, subject: &Subject<'_>) -> (Arc<Unit>, Option<String>, bool) {
        let (key, now) = (subject.process, Instant::now());
        // Workers come and go so fast that /proc seldom still tells what they were.
        if key.tgid == 0 || subject.is_kernel_thread {
            return (Arc::new(Unit::Plain), None, true);
        }
        if let Some(known) = self.processes.get_mut(&key).filter(|known| known.holds_for(subject, now)) {
            known.used_at = now;
            return (Arc::clone(&known.unit), known.exe.clone(), known.is_kernel);
        }
        let earlier = self.processes.remove(&key);
        let known = match process::read(key) {
            Ok(facts) => Known::alive(subject, facts, earlier, now),
            Err(miss) => self.gone(subject, miss, earlier, now),
        };
        let answer = (Arc::clone(&known.unit), known.exe.clone(), known.is_kernel);
        self.make_room();
        self.processes.insert(key, known);
        answer
    }

    /// Places a process that `/proc` no longer tells of: by what was known of it, its cgroup, or its parent.
    fn gone(
        &mut self,
        subject: &Subject<'_>,
        miss: ProcessMiss,
        earlier: Option<Known>,
        now: Instant,
    ) -> Known {
        let cgroup_id = subject.cgroup_id;
        let was_gone = earlier.as_ref().is_some_and(|known| known.read.is_none());
        self.stats.process_misses[miss as usize] += u64::from(!was_gone);
        let (placed, exe) = match earlier {
            Some(known) if !was_gone => return Known { cgroup_id, read: None, used_at: now, ..known },
            Some(known) => (Some(known.unit), known.exe),
            None => (None, None),
        };
        let unit = if let Some(unit) = self.owner_of_group(cgroup_id, now) {
            self.stats.placed_by_cgroup += 1;
            unit
        } else if let Some(unit) = placed {
            unit
        } else if let Some(unit) = self.unit_of_parent(subject.parent) {
            self.stats.placed_by_parent += 1;
            unit
        } else {
            Arc::new(Unit::Plain)
        };
        Known { cgroup_id, unit, exe, is_kernel: false, read: None, used_at: now }
    }

    fn owner_of_group(&mut self, cgroup_id: u64, now: Instant) -> Option<Arc<Unit>> {
        /// The root group: where every process is that no v2 manager has placed.
        const ROOT: u64 = 1;
        if cgroup_id <= ROOT {
            return None;
        }
        if self.inventory.owner_of(cgroup_id).is_none()
            && self.last_scan.is_none_or(|at| now - at > RESCAN_AFTER)
        {
            self.scan();
        }
        self.inventory.owner_of(cgroup_id).filter(|unit| **unit != Unit::Plain)
    }

    fn unit_of_parent(&self, parent: Option<ProcessKey>) -> Option<Arc<Unit>> {
        let parent = parent?;
        if let Some(known) = self.processes.get(&parent) {
            return Some(Arc::clone(&known.unit));
        }
        let facts = process::read(parent).ok()?;
        Some(Arc::new(unit_of(&facts.cgroup)))
    }

    fn scan(&mut self) -> Vec<super::inventory::UnitUsage> {
        self.last_scan = Some(Instant::now());
        self.inventory.scan()
    }

    /// Adds the labels that a unit brings.
    fn describe(&mut self, unit: &Unit, tgid: impl FnOnce() -> Option<u32>, pairs: &mut Pairs) -> Certainty {
        match unit {
            Unit::Container(container) => {
                let known = self.containers.get(container, tgid);
                describe_container(container, known.metadata, pairs);
                if known.is_final { Certainty::Final } else { Certainty::Pending }
            }
            Unit::Systemd(unit) => {
                pairs.push((names::SERVICE_NAME, unit.name.clone()));
                Certainty::Final
            }
            Unit::Plain => Certainty::Final,
        }
    }

    fn admit(&mut self, pairs: &Pairs) -> LabelSet {
        if self.period_began.elapsed() > VALUES_PERIOD {
            self.period_began = Instant::now();
            self.cardinality.next_period();
        }
        let admitted = pairs.iter().map(|(name, value)| (*name, self.cardinality.admit(name, value)));
        LabelSet::from_pairs(admitted.collect::<Vec<_>>())
    }

    fn make_room(&mut self) {
        if self.processes.len() < MAX_PROCESSES {
            return;
        }
        let mut uses: Vec<Instant> = self.processes.values().map(|known| known.used_at).collect();
        let (_, &mut cutoff, _) = uses.select_nth_unstable(MAX_PROCESSES / 4);
        self.processes.retain(|_, known| known.used_at > cutoff);
    }
}

type Pairs = Vec<(&'static str, String)>;

impl Known {
    fn alive(subject: &Subject<'_>, facts: ProcessFacts, earlier: Option<Self>, now: Instant) -> Self {
        let unit = unit_of(&facts.cgroup);
        let stayed = |known: &&Self| known.cgroup_id == subject.cgroup_id && *known.unit == unit;
        let before = earlier.as_ref().filter(stayed).and_then(|known| known.read.as_ref());
        let holds_for = before.map_or(REREAD_AFTER, |read| (read.holds_for * 2).min(REREAD_LATEST));
        Self {
            cgroup_id: subject.cgroup_id,
            unit: Arc::new(unit),
            // One that has ended and is not reaped yet has no program any more.
            exe: facts.exe.or(earlier.and_then(|known| known.exe)),
            is_kernel: facts.is_kernel,
            read: Some(Reading { at: now, holds_for }),
            used_at: now,
        }
    }

    /// Whether it need not be looked at again for this sample. One that is gone is placed anew once, by its group.
    fn holds_for(&self, subject: &Subject<'_>, now: Instant) -> bool {
        let is_same_group = self.cgroup_id == subject.cgroup_id;
        match &self.read {
            Some(read) => is_same_group && now - read.at < read.holds_for,
            None => is_same_group || self.cgroup_id != 0,
        }
    }
}

fn describe_container(container: &Container, metadata: Metadata, pairs: &mut Pairs) {
    let service = if metadata.name.is_empty() { short_id(&container.id) } else { &metadata.name };
    pairs.push((names::SERVICE_NAME, service.to_owned()));
    let pod_uid = || container.pod_uid.clone().unwrap_or_default();
    let pod = if metadata.pod.is_empty() { pod_uid() } else { metadata.pod };
    pairs.push((names::CONTAINER_ID, container.id.clone()));
    pairs.push((names::CONTAINER_NAME, metadata.name));
    pairs.push((names::IMAGE, metadata.image));
    pairs.push((names::POD, pod));
    pairs.push((names::NAMESPACE, metadata.namespace));
}

/// What runtimes print for an id.
fn short_id(id: &str) -> &str {
    let is_long_hex = id.len() > SHORT_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_long_hex { &id[..SHORT_ID_BYTES] } else { id }
}

fn basename(path: &str) -> &str {
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

fn first_process(cgroup: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).ok()?;
    text.lines().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use pyrite_sampling::BootNs;

    use super::*;

    #[test]
    fn a_process_that_stays_where_it_is_is_read_less_and_less_often() {
        let process = ProcessKey { tgid: 1, start: BootNs(1) };
        let of_group =
            |cgroup_id| Subject { process, comm: "a", cgroup_id, parent: None, is_kernel_thread: false };
        let in_unit =
            |unit| ProcessFacts { cgroup: format!("0::/system.slice/{unit}\n"), ..ProcessFacts::default() };
        let believed = |known: &Known| known.read.as_ref().unwrap().holds_for.as_secs();
        let now = Instant::now();
        let mut known = Known::alive(&of_group(7), in_unit("a.service"), None, now);
        let mut times = Vec::new();
        for _ in 0..5 {
            let believed_for = believed(&known);
            assert!(known.holds_for(&of_group(7), now + Duration::from_secs(believed_for - 1)));
            assert!(!known.holds_for(&of_group(7), now + Duration::from_secs(believed_for)));
            assert!(!known.holds_for(&of_group(8), now), "a sample of another group tells that it moved");
            times.push(believed_for);
            known = Known::alive(&of_group(7), in_unit("a.service"), Some(known), now);
        }
        assert_eq!(times, [30, 60, 120, 240, 240]);
        let moved = Known::alive(&of_group(7), in_unit("b.service"), Some(known), now);
        assert_eq!(believed(&moved), 30);
    }
}
