//! What the agent on this node tells the server; there is none where the server runs alone.

use pyrite_model::{Exposition, LabelSet};
use serde::{Deserialize, Serialize};

/// The agent as the server sees it. Calls return at once.
pub trait NodeView: Send + Sync + 'static {
    /// All that runs now, whether it used CPU or not.
    fn services(&self) -> Vec<KnownService>;
    /// Adds the agent's metrics.
    fn metrics(&self, out: &mut Exposition);
    /// What is sampled and how.
    fn info(&self) -> NodeInfo;
    /// How many of the sampled stacks are complete.
    fn unwind(&self) -> UnwindScore;
}

/// Something that runs on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownService {
    /// Its `service_name`.
    pub service_name: String,
    /// What kind of thing it is.
    pub kind: ServiceKind,
    /// What else identifies it: `container_id`, `container_name`, `image`, `pod`, `namespace`.
    pub labels: LabelSet,
}

/// What kind of thing a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// A container of any runtime.
    Container,
    /// A systemd unit or scope.
    Unit,
    /// A process that belongs to neither.
    Process,
    /// The kernel's own threads.
    Kernel,
    /// Profiles that something pushed; not seen on this node.
    Pushed,
}

/// How the node is sampled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeInfo {
    /// The node's name.
    pub name: String,
    /// Samples per second and CPU.
    pub frequency_hz: u32,
    /// The perf event behind the samples, for example `cycles` or `cpu-clock`.
    pub event: String,
}

/// User stacks sampled in the last minute, and why some of them are not complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwindScore {
    /// All of them.
    pub stacks: u64,
    /// Those whose walk came to the thread's outermost frame.
    pub complete: u64,
    /// Those in which frames were found by the frame pointer for want of unwind information.
    pub guessed: u64,
    /// Why the others stopped, the most frequent reason first.
    pub reasons: Vec<UnwindReason>,
    /// Executables at which the most of them stopped.
    pub executables: Vec<UnwindExecutable>,
    /// Processes with the most of them.
    pub processes: Vec<UnwindProcess>,
    /// How time off the CPU is recorded; absent where it is not.
    pub off_cpu: Option<OffCpuScore>,
}

/// What became of the times that threads left a CPU, since the agent's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffCpuScore {
    /// Captured with their stacks.
    pub captured: u64,
    /// Not captured, to keep the budget: the captured ones stand for them.
    pub shed: u64,
    /// Lost, all or in part.
    pub lost: u64,
}

/// Why walks stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwindReason {
    /// Its stable name, for example `no_unwind_info`.
    pub reason: String,
    /// What it means.
    pub help: String,
    /// Stacks.
    pub stacks: u64,
}

/// An executable at which walks stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwindExecutable {
    /// The file's base name.
    pub name: String,
    /// Stacks whose walk came through it.
    pub passed: u64,
    /// Stacks whose walk stopped in it.
    pub stopped: u64,
    /// The most frequent reason.
    pub reason: String,
}

/// A process whose stacks are not all complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwindProcess {
    /// The name of one of its threads.
    pub name: String,
    /// Its thread group id.
    pub tgid: u32,
    /// Its stacks.
    pub stacks: u64,
    /// Those that are complete.
    pub complete: u64,
    /// The most frequent reason why others are not.
    pub reason: String,
}

/// What `/api/v1/unwind` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwindAnswer {
    /// Absent where the server runs without an agent.
    pub unwind: Option<UnwindScore>,
}
