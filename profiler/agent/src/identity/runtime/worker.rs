//! The thread that asks the runtimes. Questions and answers pass through bounded queues; nobody waits for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use hashbrown::HashMap;

use super::{Metadata, RuntimeConfig, RuntimeMiss, cri, docker, podman};
use crate::identity::cgroup::{Container, Runtime};

/// A node has some hundred containers; all of them may be asked for at the start.
const QUEUE: usize = 1024;

/// Which container is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// The container.
    pub container: Container,
    /// One of its processes, where one is known.
    pub tgid: Option<u32>,
}

/// What the runtimes said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The container.
    pub container: Container,
    /// What is known of it, or why nothing is.
    pub result: Result<Metadata, RuntimeMiss>,
}

/// The asking side of the thread. The thread ends when this is dropped.
#[derive(Debug)]
pub struct RuntimeWorker {
    questions: SyncSender<Question>,
    answers: Receiver<Answer>,
}

impl RuntimeWorker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread or no event loop.
    pub fn spawn(config: RuntimeConfig) -> io::Result<Self> {
        let (questions, to_ask) = sync_channel::<Question>(QUEUE);
        let (answer, answers) = sync_channel::<Answer>(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("pyrite-runtimes".into()).spawn(move || {
            let mut runtimes = Runtimes { config, paused: HashMap::new() };
            while let Ok(question) = to_ask.recv() {
                let result = runtime.block_on(runtimes.ask(&question));
                // A full queue means the asking side has given up on old questions; it will ask again.
                let _dropped = answer.try_send(Answer { container: question.container, result });
            }
        })?;
        Ok(Self { questions, answers })
    }

    /// Asks; `false` when the queue is full.
    pub fn ask(&self, question: Question) -> bool {
        self.questions.try_send(question).is_ok()
    }

    /// The next answer, if there is one.
    pub fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

#[derive(Clone, Copy)]
enum Api {
    Docker,
    Cri,
    Containerd,
}

struct Runtimes {
    config: RuntimeConfig,
    /// Sockets that did not answer in time, until when they are left alone.
    paused: HashMap<PathBuf, Instant>,
}

impl Runtimes {
    async fn ask(&mut self, question: &Question) -> Result<Metadata, RuntimeMiss> {
        let Question { container, tgid } = question;
        let mut miss = RuntimeMiss::NoSocket;
        if matches!(container.runtime, Runtime::Podman | Runtime::Unknown) {
            match podman::inspect(*tgid, &container.id) {
                Ok(metadata) => return Ok(metadata),
                Err(other) => miss = more_telling(miss, other),
            }
        }
        for (api, socket) in self.places(container) {
            match self.ask_one(api, &socket, container).await {
                Ok(metadata) => return Ok(metadata),
                Err(other) => miss = more_telling(miss, other),
            }
        }
        Err(miss)
    }

    /// Where to ask, most likely first.
    fn places(&self, container: &Container) -> Vec<(Api, PathBuf)> {
        let apis: &[Api] = match container.runtime {
            Runtime::Docker | Runtime::Podman | Runtime::BuildKit => &[Api::Docker],
            Runtime::Containerd if container.containerd_namespace.is_some() => &[Api::Containerd],
            Runtime::Containerd | Runtime::CriO => &[Api::Cri],
            Runtime::Kubernetes => &[Api::Cri, Api::Docker],
            Runtime::Unknown => &[Api::Docker, Api::Cri],
            Runtime::Lxc | Runtime::Machine => &[],
        };
        let sockets = |api: &Api| match api {
            Api::Docker => &self.config.docker,
            Api::Cri | Api::Containerd => &self.config.cri,
        };
        apis.iter().flat_map(|api| sockets(api).iter().map(|socket| (*api, socket.clone()))).collect()
    }

    async fn ask_one(
        &mut self,
        api: Api,
        socket: &Path,
        container: &Container,
    ) -> Result<Metadata, RuntimeMiss> {
        if self.paused.get(socket).is_some_and(|until| Instant::now() < *until) {
            return Err(RuntimeMiss::Timeout);
        }
        let id = container.id.as_str();
        let answer = async {
            match api {
                Api::Docker => docker::inspect(socket, id).await,
                Api::Cri => cri::status(socket, id).await,
                Api::Containerd => {
                    let namespace = container.containerd_namespace.as_deref().unwrap_or_default();
                    cri::containerd(socket, namespace, id).await
                }
            }
        };
        if let Ok(answer) = tokio::time::timeout(self.config.timeout, answer).await {
            return answer;
        }
        self.paused.insert(socket.to_owned(), Instant::now() + self.config.pause_after_timeout);
        tracing::warn!(socket = %socket.display(), "container runtime did not answer in time");
        Err(RuntimeMiss::Timeout)
    }
}

fn more_telling(a: RuntimeMiss, b: RuntimeMiss) -> RuntimeMiss {
    if b.index() > a.index() { b } else { a }
}
