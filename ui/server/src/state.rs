//! What all handlers share: the store, the node, the bounds, the counters.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyrite_model::pprof::PushLimits;
use pyrite_model::{Tenants, UnixMs};
use pyrite_store::Stop;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::counters::Counters;
use crate::{ApiError, NodeView, ProfileStore, Tenancy};

/// Pushes that are decoded at the same time however many CPUs there are.
const MAX_DECODING: usize = 4;

/// Bounds on what clients may ask for.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections at the same time; more wait to be accepted.
    pub connections: usize,
    /// Time for the headers of a request to arrive, and for a connection to be without one.
    pub header_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub write_timeout: Duration,
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
    /// How long a query may wait until it is refused.
    pub query_wait: Duration,
    /// How long a query may run until it is ended without an answer.
    pub query_timeout: Duration,
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
            connections: 1024,
            // Longer than the interval at which agents push, so that they need not connect each time.
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            query_body_bytes: 1 << 20,
            push_body_bytes: 32 << 20,
            body_timeout: Duration::from_secs(30),
            push: PushLimits::default(),
            // Queries are CPU-bound; more at a time would only share the same CPUs and hold more memory.
            running_queries: 4,
            waiting_queries: 128,
            // Clients give up after 10 to 30 s.
            query_wait: Duration::from_secs(10),
            query_timeout: Duration::from_mins(1),
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
    pub(crate) connections: AtomicU64,
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
            connections: AtomicU64::new(0),
            limits,
        })
    }

    /// The node, where what runs on it is theirs to see.
    pub(crate) fn node_of(&self, tenants: &Tenants) -> Option<&dyn NodeView> {
        self.node.as_deref().filter(|_| self.tenancy.shows_node_to(tenants))
    }

    /// Runs a query on a thread that may block, when its turn comes. It ends soon after its client has gone.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        run: impl FnOnce(&dyn ProfileStore) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.turn().await?;
        let stop = Stop::after(self.limits.query_timeout);
        let store = Arc::clone(&self.store).on_behalf(stop.clone());
        let _wanted = Wanted(stop);
        blocking(move || {
            // The thread goes on for a while when the client leaves, so it is the thread that holds the permit.
            let _permit = permit;
            run(&*store)
        })
        .await
    }

    /// Waits until a query may run; not for long, and not behind too many. A client that goes away frees its place.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if let Ok(permit) = Arc::clone(&self.queries).try_acquire_owned() {
            return Ok(permit);
        }
        let refuse = |what, reason| {
            self.counters.refused_query(reason);
            ApiError::Overloaded { what }
        };
        let place = Waiting::enter(self).ok_or_else(|| refuse("queries are waiting", "too_many_waiting"))?;
        let turn =
            tokio::time::timeout(self.limits.query_wait, Arc::clone(&self.queries).acquire_owned()).await;
        drop(place);
        // The semaphore is never closed.
        let turn = turn.ok().and_then(Result::ok);
        turn.ok_or_else(|| refuse("queries are running, none of which ended in time", "waited_too_long"))
    }

    /// Queries that wait for their turn.
    pub(crate) fn waiting_queries(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Ends a query when whoever waits for its answer goes, which is when this is dropped.
struct Wanted(Stop);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.cancel();
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
    /// `None` where all places are taken.
    fn enter(state: &'a ServerState) -> Option<Self> {
        let place = Self(&state.waiting);
        // Counted before it is asked whether there is room, and given back with the place where there is none.
        (state.waiting.fetch_add(1, Ordering::Relaxed) < state.limits.waiting_queries).then_some(place)
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
