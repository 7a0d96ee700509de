//! What the agent on this node tells the server; there is none where the server runs alone.

use pyrite_model::{Exposition, LabelSet};

/// The agent as the server sees it. Calls return at once.
pub trait NodeView: Send + Sync + 'static {
    /// All that runs now, whether it used CPU or not.
    fn services(&self) -> Vec<KnownService>;
    /// Adds the agent's metrics.
    fn metrics(&self, out: &mut Exposition);
    /// What is sampled and how.
    fn info(&self) -> NodeInfo;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NodeInfo {
    /// The node's name.
    pub name: String,
    /// Samples per second and CPU.
    pub frequency_hz: u32,
    /// The perf event behind the samples, for example `cycles` or `cpu-clock`.
    pub event: String,
}
