//! What all handlers share: the store, the node, the bounds, the counters.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyrite_model::pprof::PushLimits;
use pyrite_model::{Tenants, UnixMs};
use tokio::sync::Semaphore;

use crate::counters::Counters;
use crate::{ApiError, NodeView, ProfileStore, Tenancy};

/// Pushes that are decoded at the same time however many CPUs there are.
const MAX_DECODING: usize = 4;

/// Bounds on what clients may ask for.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Body of a query in bytes, unpacked.
    pub query_body_bytes: usize,
    /// Body of a push in bytes, packed and unpacked.
    pub push_body_bytes: usize,
    /// Time for a body to arrive.
    pub body_timeout: Duration,
    /// Bounds on one profile.
    pub push: PushLimits,
    /// Queries that run at the same time; others wait.
    pub running_queries: usize,
    /// Queries that wait; one more is refused.
    pub waiting_queries: usize,
    /// Memory for the bodies of pushes being taken in, in bytes; a push that does not fit is refused for now.
    pub push_bytes_in_flight: usize,
    /// What the profiles of one push may take in memory once they are decoded, in bytes.
    pub push_batch_bytes: usize,
    /// Pushes that are unpacked and decoded at the same time; others wait.
    pub decoding_pushes: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            query_body_bytes: 1 << 20,
            push_body_bytes: 32 << 20,
            body_timeout: Duration::from_secs(30),
            push: PushLimits::default(),
            // Queries are CPU-bound; more at a time would only share the same CPUs and hold more memory.
            running_queries: 4,
            waiting_queries: 128,
            push_bytes_in_flight: 128 << 20,
            push_batch_bytes: 64 << 20,
            // Decoding is CPU-bound and short; an unpacked profile takes far more memory than its body.
            decoding_pushes: available_parallelism().map_or(1, NonZero::get).min(MAX_DECODING),
        }
    }
}

/// Everything [`app`](crate::app) needs.
pub struct ServerState {
    pub(crate) store: Arc<dyn ProfileStore>,
    pub(crate) node: Option<Arc<dyn NodeView>>,
    pub(crate) tenancy: Tenancy,
    pub(crate) limits: ServerLimits,
    pub(crate) counters: Counters,
    /// Counted in KiB.
    pub(crate) pushes: Semaphore,
    pub(crate) decoding: Arc<Semaphore>,
    /// One self-profile at a time: the signal handler behind it exists once per process.
    pub(crate) self_profile: Semaphore,
    queries: Arc<Semaphore>,
    waiting: AtomicUsize,
    pub(crate) in_flight: AtomicU64,
}

/// The state as handlers hold it.
pub(crate) type Shared = Arc<ServerState>;

impl ServerState {
    /// A server over `store`; `node` is the agent where one runs in the same process.
    pub fn new(
        store: Arc<dyn ProfileStore>,
        node: Option<Arc<dyn NodeView>>,
        tenancy: Tenancy,
        limits: ServerLimits,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            node,
            tenancy,
            counters: Counters::default(),
            pushes: Semaphore::new(limits.push_bytes_in_flight >> 10),
            decoding: Arc::new(Semaphore::new(limits.decoding_pushes)),
            self_profile: Semaphore::new(1),
            queries: Arc::new(Semaphore::new(limits.running_queries)),
            waiting: AtomicUsize::new(0),
            in_flight: AtomicU64::new(0),
            limits,
        })
    }

    /// The node, where what runs on it is theirs to see.
    pub(crate) fn node_of(&self, tenants: &Tenants) -> Option<&dyn NodeView> {
        self.node.as_deref().filter(|_| self.tenancy.shows_node_to(tenants))
    }

    /// Runs a query on a thread that may block. A client that goes away while its query waits frees its place.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        run: impl FnOnce(&dyn ProfileStore) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = Waiting::enter(self)?;
        let permit = Arc::clone(&self.queries).acquire_owned().await;
        drop(place);
        let store = Arc::clone(&self.store);
        blocking(move || {
            // The work goes on when the client leaves, so it is the work that holds the permit.
            let _permit = permit;
            run(&*store)
        })
        .await
    }
}

/// Runs CPU-bound or blocking work off the threads that serve connections.
pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let panicked = |error: tokio::task::JoinError| ApiError::Internal { reason: error.to_string() };
    tokio::task::spawn_blocking(run).await.map_err(panicked)?
}

/// A place among the queries that wait; given back when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(state: &'a ServerState) -> Result<Self, ApiError> {
        let limit = state.limits.waiting_queries;
        if state.waiting.fetch_add(1, Ordering::Relaxed) >= limit {
            state.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(ApiError::Overloaded { what: "queries are waiting" });
        }
        Ok(Self(&state.waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The wall clock.
pub(crate) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(since.as_millis() as i64)
}
