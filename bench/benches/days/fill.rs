//! Making the data: all of a span appended, then flushed, merged and summed up until nothing is left to do.

use std::time::{Duration, Instant};

use anyhow::Result;
use pyrite_bench::process::cpu_time;
use pyrite_bench::recipe::{Recipe, Span};
use pyrite_model::{Batch, UnixMs};
use pyrite_store::{AppendError, Store};

use crate::Shape;
use crate::sampled::{add, sampled_second};

/// The store looks for something to merge once a minute.
const IDLE: Duration = Duration::from_secs(65);
const IDLE_SHARE: f64 = 0.02;
const POLL: Duration = Duration::from_secs(5);

/// Appends the whole span, in order of time.
pub(crate) fn fill(store: &Store, recipe: &Recipe, span: Span, shape: Shape) -> Result<()> {
    let (since, begin) = (Instant::now(), UnixMs(span.start_ms));
    let mut rows = 0;
    for minute in span.each_minute() {
        let batches: Vec<Batch> = match shape {
            Shape::Seconds => {
                minute.seconds().map(|second| sampled_second(recipe, second, begin)).collect::<Result<_>>()?
            }
            Shape::Minutes => {
                let containers = recipe.containers().iter();
                let pushed = containers.map(|container| {
                    let mut batch = Batch::default();
                    let time = UnixMs(begin.0 + container.pushed_at_ms(minute));
                    add(&mut batch, container, &container.minute(minute), time)?;
                    Ok(batch)
                });
                pushed.collect::<Result<_>>()?
            }
        };
        for batch in batches {
            rows += batch.row_count();
            append(store, &batch)?;
        }
    }
    let cpu = cpu_time(std::process::id())?;
    println!(
        "{rows} rows made and appended in {:.0} s, {:.0} s of CPU",
        since.elapsed().as_secs_f64(),
        cpu.as_secs_f64()
    );
    Ok(())
}

/// As clients do, again where it is refused for now.
fn append(store: &Store, batch: &Batch) -> Result<()> {
    loop {
        match store.append_blocking(batch.clone()) {
            Err(AppendError::Overloaded { .. }) => std::thread::sleep(Duration::from_millis(100)),
            outcome => return Ok(outcome?),
        }
    }
}

/// Waits until all is in segments and these are merged.
pub(crate) fn settle(store: &Store) -> Result<()> {
    let begun = Instant::now();
    store.flush()?;
    let mut since = (Instant::now(), cpu_time(std::process::id())?);
    loop {
        std::thread::sleep(POLL);
        let (now, cpu) = (Instant::now(), cpu_time(std::process::id())?);
        let waited = now - since.0;
        if cpu.saturating_sub(since.1).as_secs_f64() > IDLE_SHARE * waited.as_secs_f64() {
            since = (now, cpu);
        } else if waited > IDLE {
            println!("settled after {:.0} s", (since.0 - begun).as_secs_f64());
            return Ok(());
        }
    }
}
