//! What the container runtimes know of a container: its name, image and pod.
//!
//! Asked by a thread of its own ([`worker`]), so that a runtime that hangs costs a name for a while and nothing else.
//!
//! * [`docker`]: the Docker-compatible HTTP API, by Docker and Podman
//! * [`cri`]: the Kubernetes CRI and containerd's own API, both gRPC ([`grpc`])
//! * [`podman`]: conmon's arguments and Podman's storage files, for Podman has no socket by default

mod cri;
mod docker;
mod grpc;
mod podman;
mod worker;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

pub use worker::{Answer, Question, RuntimeWorker};

/// What a runtime said of a container. Empty strings mean it did not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The container's name as its user gave it.
    pub name: String,
    /// The image reference it was started from.
    pub image: String,
    /// The Kubernetes pod.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
}

/// Labels by which Kubernetes runtimes mark what belongs to which pod.
const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
const POD_CONTAINER_LABEL: &str = "io.kubernetes.container.name";

impl Metadata {
    /// Takes pod, namespace and the container's name within its pod from the labels of a container, where present.
    fn with_pod_labels<'a>(mut self, label: impl Fn(&str) -> Option<&'a str>) -> Self {
        let own = |name| label(name).unwrap_or_default().to_owned();
        (self.pod, self.namespace) = (own(POD_NAME_LABEL), own(POD_NAMESPACE_LABEL));
        if let Some(name) = label(POD_CONTAINER_LABEL) {
            name.clone_into(&mut self.name);
        }
        self
    }
}

/// Why no runtime named a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RuntimeMiss {
    /// No runtime listens where one could be.
    #[error("no runtime socket")]
    NoSocket,
    /// The runtime's socket may not be opened.
    #[error("runtime socket is not accessible")]
    Denied,
    /// The runtimes that answered do not know the container.
    #[error("container is unknown to its runtime")]
    NotFound,
    /// The runtime did not answer in time.
    #[error("runtime did not answer in time")]
    Timeout,
    /// The answer made no sense.
    #[error("runtime's answer is malformed")]
    Malformed,
    /// More containers were asked for at once than the queue holds.
    #[error("too many questions at once")]
    QueueFull,
}

impl RuntimeMiss {
    /// Every reason, from the least telling to the most.
    pub const ALL: [Self; 6] =
        [Self::NoSocket, Self::Denied, Self::NotFound, Self::Malformed, Self::Timeout, Self::QueueFull];

    /// Stable short name: the metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSocket => "no_runtime_socket",
            Self::Denied => "runtime_socket_denied",
            Self::NotFound => "container_not_found",
            Self::Timeout => "runtime_timeout",
            Self::Malformed => "runtime_answer_malformed",
            Self::QueueFull => "runtime_queue_full",
        }
    }

    /// Position in [`RuntimeMiss::ALL`].
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|miss| *miss == self).unwrap_or_default()
    }
}

/// Where runtimes listen and how long they may take.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Docker-compatible sockets.
    pub docker: Vec<PathBuf>,
    /// CRI sockets; containerd serves its own API on the same ones.
    pub cri: Vec<PathBuf>,
    /// How long one runtime may take to answer one question.
    pub timeout: Duration,
    /// How long a runtime that did not answer in time is left alone.
    pub pause_after_timeout: Duration,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        let mut docker: Vec<PathBuf> =
            ["/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from).into();
        for user in std::fs::read_dir("/run/user").into_iter().flatten().flatten() {
            docker.extend(["docker.sock", "podman/podman.sock"].map(|socket| user.path().join(socket)));
        }
        let cri = [
            "/run/containerd/containerd.sock",
            "/run/crio/crio.sock",
            "/run/k3s/containerd/containerd.sock",
            "/run/k0s/containerd.sock",
            "/var/snap/microk8s/common/run/containerd.sock",
        ];
        Self {
            docker,
            cri: cri.map(PathBuf::from).into(),
            timeout: Duration::from_secs(1),
            pause_after_timeout: Duration::from_secs(30),
        }
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, RuntimeMiss> {
    UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => RuntimeMiss::Denied,
        _ => RuntimeMiss::NoSocket,
    })
}
