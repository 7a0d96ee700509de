//! Watching this node: what the sampler tells becomes rows of the store.
//!
//! ```text
//! sampler thread ──events──▶ bounded queue ──▶ rows thread: identity + names ──batch──▶ store
//!       │                                          │
//!       └──────────── stats ───────▶ Node ◀────────┘ what runs here, counters
//! ```
//!
//! The sampler's thread never waits for a disk or a symbol table: a full queue loses rows, counted, not ticks unseen.

mod node;
mod rows_thread;

use std::sync::Arc;
use std::sync::mpsc::{TrySendError, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use pyrite_server::NodeView;
use pyrite_store::Store;

use crate::identity::{Identity, IdentityConfig};
use crate::rows::RowMaker;
use crate::sampler::{Delivery, Sampler, SamplerConfig};
use crate::watch::node::Node;
use crate::watch::rows_thread::RowsThread;

/// Events between the two threads: a process start makes about ten, a second is one.
const QUEUE_EVENTS: usize = 8192;

/// A node being watched. Ends with [`Watch::stop`].
pub struct Watch {
    rows: JoinHandle<()>,
    node: Arc<Node>,
}

impl Watch {
    /// Starts sampling into `store`.
    pub fn start(frequency_hz: u32, store: Store) -> Result<Self> {
        let identity = Identity::new(IdentityConfig::default()).context("failed to start the runtimes' thread")?;
        let (sender, events) = sync_channel(QUEUE_EVENTS);
        let config = SamplerConfig { frequency_hz: u64::from(frequency_hz), ..SamplerConfig::default() };
        let sampler = Sampler::start(config, move |event| match sender.try_send(event) {
            Ok(()) => Delivery::Taken,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Delivery::QueueFull,
        })
        .context("failed to start the sampler")?;
        let node = Arc::new(Node::new(sampler, identity.node().to_owned(), frequency_hz));
        let maker = RowMaker::new(frequency_hz, pyrite_symbolizer::SymbolizerConfig::default());
        let thread = RowsThread::new(maker, identity, store, Arc::clone(&node));
        let rows = std::thread::Builder::new()
            .name("pyrite-rows".into())
            .spawn(move || thread.run(&events))
            .context("failed to start the rows thread")?;
        Ok(Self { rows, node })
    }

    /// The node as the server sees it.
    pub fn node(&self) -> Arc<dyn NodeView> {
        Arc::clone(&self.node) as Arc<dyn NodeView>
    }

    /// Stops sampling and stores everything that was sampled until now.
    pub fn stop(self) {
        // The sampler holds the queue's only sender: without it the rows thread drains the queue and ends.
        self.node.stop_sampler();
        if self.rows.join().is_err() {
            tracing::error!("the rows thread ended early; its last rows are lost");
        }
    }
}
