//! Pushing: as fast as the server acknowledges, or so many a second whatever it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::task::JoinSet;

use crate::figures::quantile;
use crate::load::Spool;
use crate::load::client::Client;

const METHOD: &str = "push.v1.PusherService/Push";
/// A push that is refused for now is sent again after this time, as clients do.
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);
/// After a minute of refusals the server takes nothing any more.
const MAX_REFUSALS: u64 = 600;

/// How pushes are sent.
#[derive(Clone, Copy, Debug)]
pub struct PushOrders {
    /// Pushes on their way at once.
    pub in_flight: usize,
    /// Pushes that become due in a second; `None` where each is sent as soon as another is acknowledged.
    pub per_second: Option<f64>,
}

/// What became of all pushes.
#[derive(Clone, Debug)]
pub(super) struct Acknowledged {
    pub(super) pushes: usize,
    /// How long pushes took, from when each was due; refusals and the pauses after them are in it.
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) slowest: Duration,
    /// Answers that told to come back later.
    pub(super) refusals: u64,
    /// What one of them said.
    pub(super) refusal: Option<String>,
    /// From the first push to the last acknowledgement.
    pub(super) wall: Duration,
}

/// Pushes all that is in the spool and waits for every acknowledgement.
pub(super) async fn push_all(client: &Client, spool: &Arc<Spool>, how: PushOrders) -> Result<Acknowledged> {
    let begun = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..how.in_flight {
        let worker = Worker {
            client: client.clone(),
            spool: Arc::clone(spool),
            next: Arc::clone(&next),
            begun,
            per_second: how.per_second,
        };
        workers.spawn(worker.run());
    }
    let (mut waited, mut refusals, mut refusal) = (Vec::with_capacity(spool.pushes()), 0, None);
    while let Some(done) = workers.join_next().await {
        let part = done.context("a worker panicked")??;
        waited.extend(part.waited);
        refusals += part.refusals;
        refusal = refusal.or(part.refusal);
    }
    Ok(Acknowledged {
        wall: begun.elapsed(),
        pushes: waited.len(),
        p50: quantile(&mut waited, 0.5)?,
        p99: quantile(&mut waited, 0.99)?,
        slowest: quantile(&mut waited, 1.0)?,
        refusals,
        refusal,
    })
}

/// What one worker did.
#[derive(Default)]
struct Part {
    waited: Vec<Duration>,
    refusals: u64,
    /// What the last of them said.
    refusal: Option<String>,
}

/// Sends one push after the other.
struct Worker {
    client: Client,
    spool: Arc<Spool>,
    next: Arc<AtomicUsize>,
    begun: Instant,
    per_second: Option<f64>,
}

impl Worker {
    async fn run(self) -> Result<Part> {
        let mut done = Part::default();
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(body) = self.spool.request(n)? else { return Ok(done) };
            let due = self.per_second.map(|rate| self.begun + Duration::from_secs_f64(n as f64 / rate));
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
            let begun = due.unwrap_or_else(Instant::now);
            self.push(body, &mut done).await?;
            done.waited.push(begun.elapsed());
        }
    }

    /// Pushes until it is acknowledged.
    async fn push(&self, body: Bytes, done: &mut Part) -> Result<()> {
        let mut refusals = 0;
        loop {
            let answer = self.client.call(METHOD, body.clone()).await?;
            match answer.status {
                StatusCode::OK => return Ok(()),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
                    if refusals < MAX_REFUSALS =>
                {
                    refusals += 1;
                    done.refusals += 1;
                    done.refusal = Some(answer.text());
                    tokio::time::sleep(REFUSAL_PAUSE).await;
                }
                status => bail!("the server answers {status}: {}", answer.text()),
            }
        }
    }
}
