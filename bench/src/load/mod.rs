//! Drives servers that speak Pyroscope's API with one load, and says what each of them made of it.
//!
//! ```text
//! Load (recipe, span) ─▶ Spool ─ push ─▶ server ─ settle ─▶ CPU, memory, bytes at rest ─┐
//!      └ ledger ─▶ what each answer must be ─ check ◀─ ask ─▶ server ─▶ times ──────────┴▶ Comparison
//! ```
//!
//! Pushes are made before the first is sent, so that making them costs the server no CPU, and every server gets the same
//! bytes. Every answer is checked against what the recipe says was pushed; a wrong one ends the run.

mod check;
mod client;
mod comparison;
mod meter;
mod push;
mod question;
mod server;
mod spool;
mod wire;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::load::client::Client;
use crate::load::question::{QUESTIONS, Timing};
use crate::recipe::{Container, Ledger, Recipe, Span, StackNo, TICK_MS, Window};

pub use comparison::Comparison;
pub use meter::Meter;
pub use push::PushOrders;
pub use server::{Server, Started, disk_bytes};
pub use spool::Spool;

/// A label of all that is pushed, so that a server may hold other data as well.
const LOAD_LABEL: &str = "bench_load";

/// What is pushed, and so what the answers must be.
pub struct Load {
    recipe: Recipe,
    span: Span,
    ledger: Ledger,
    /// The value of [`LOAD_LABEL`].
    name: String,
}

impl Load {
    /// The load of so many containers over a span.
    pub fn new(seed: u64, containers: u32, span: Span) -> Self {
        let recipe = Recipe::new(seed, containers);
        let ledger = Ledger::new(&recipe, span);
        let name = format!("{seed}-{containers}-{}-{}", span.start_ms / 1000, span.minutes);
        Self { recipe, span, ledger, name }
    }

    /// Nearly the whole span, aligned to nothing. No push is at its ends, so that it does not matter whether a server
    /// takes them for inside; each `repetition` has another, so that no answer can be kept from the one before.
    fn window(&self, repetition: u32) -> Window {
        let (start, end) = (17_230, 23_420 + TICK_MS * i64::from(repetition));
        let between_ticks = TICK_MS / 2;
        Window {
            start_ms: self.span.start_ms + start + between_ticks,
            end_ms: self.span.end_ms() - end + between_ticks,
        }
    }

    /// The container that is asked for by itself: one of middling size that does not drift.
    fn one(&self) -> (usize, &Container) {
        let containers = self.recipe.containers();
        let middle = containers.len() / 2;
        let found = (middle..containers.len()).find(|n| !containers[*n].drifts()).unwrap_or(middle);
        (found, &containers[found])
    }

    fn selector(&self, of: Option<&Container>) -> String {
        let load = format!("{LOAD_LABEL}={:?}", self.name);
        match of {
            None => format!("{{{load}}}"),
            Some(container) => format!("{{service_name={:?},{load}}}", container.service()),
        }
    }

    /// CPU time by stack trace, written as function names, leaf first, with line feeds between.
    fn stacks_of(&self, n: usize, window: Window) -> HashMap<String, i64> {
        let container = &self.recipe.containers()[n];
        let mut by_number: HashMap<StackNo, i64> = HashMap::new();
        for push in self.ledger.pushes(n, window) {
            for row in container.minute(push.minute) {
                *by_number.entry(row.stack).or_default() += row.value_ns();
            }
        }
        let mut by_name: HashMap<String, i64> = HashMap::new();
        for (stack, value) in by_number {
            let frames = container.frames(stack);
            let names: Vec<&str> =
                frames.iter().rev().map(|frame| container.function(frame.function).name.as_str()).collect();
            *by_name.entry(names.join("\n")).or_default() += value;
        }
        by_name
    }
}

/// What is done to each server.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    /// How to push; `None` where all is there from an earlier run.
    pub pushes: Option<PushOrders>,
    /// How long a server must have been idle to be settled.
    pub idle: Duration,
    /// How often each query is repeated after the first time; `None` for no queries.
    pub repeats: Option<u32>,
}

/// What became of one server.
pub struct Outcome {
    name: String,
    ingest: Option<Ingest>,
    answers: Vec<Timing>,
    at_rest_bytes: Option<u64>,
    peak_bytes: Option<u64>,
}

/// What taking in the load cost.
struct Ingest {
    acknowledged: push::Acknowledged,
    /// CPU time from the first push until it had settled.
    cost: Option<(Duration, meter::Settled)>,
    at_rest_bytes: Option<u64>,
}

/// Pushes the load to a server and asks it.
///
/// # Errors
/// A server that fails, or whose answer is wrong.
pub fn drive(server: &Server, load: &Load, spool: Option<&Arc<Spool>>, orders: &Orders) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(&server.url);
        let ingest = match (spool, orders.pushes) {
            (Some(spool), Some(how)) => Some(take_in(server, &client, spool, how, orders.idle).await?),
            _ => None,
        };
        let mut answers = Vec::new();
        if let Some(repeats) = orders.repeats {
            for question in QUESTIONS {
                let asked = question::ask(&client, load, question, repeats).await;
                answers.push(asked.with_context(|| format!("{}: {}", server.name, question.describe(load)))?);
            }
        }
        let usage = server.meter.as_ref().map(Meter::read).transpose()?;
        Ok(Outcome {
            name: server.name.clone(),
            ingest,
            answers,
            at_rest_bytes: at_rest(server.data.as_deref())?,
            peak_bytes: usage.map(|usage| usage.peak_bytes),
        })
    })
}

async fn take_in(
    server: &Server,
    client: &Client,
    spool: &Arc<Spool>,
    how: PushOrders,
    idle: Duration,
) -> Result<Ingest> {
    let before = server.meter.as_ref().map(Meter::read).transpose()?;
    let acknowledged = push::push_all(client, spool, how).await;
    let acknowledged = acknowledged.with_context(|| format!("pushing to {}", server.name))?;
    let cost = if let (Some(meter), Some(before)) = (&server.meter, before) {
        let settled = meter.settle(idle).await?;
        Some((settled.usage.cpu.saturating_sub(before.cpu), settled))
    } else {
        tokio::time::sleep(idle).await;
        None
    };
    Ok(Ingest { acknowledged, cost, at_rest_bytes: at_rest(server.data.as_deref())? })
}

fn at_rest(data: Option<&Path>) -> Result<Option<u64>> {
    data.map(disk_bytes).transpose()
}
