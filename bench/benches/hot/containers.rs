//! The sampler's shape of the load that benchmarks of stores share: a batch for each second of fifty containers.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use pyrite_bench::recipe::{Container, Counted, Frame, Minute, Recipe, Second};
use pyrite_model::{
    Batch, Function, LabelSet, Line, Location, LocationId, ProfileType, Row, Selector, SeriesRows, StackId,
    SymbolTable, Tenants, TimeRange, UnixMs,
};
use pyrite_store::{StackQuery, Store, StoreConfig};

use crate::harness::Report;

const CONTAINERS: u32 = 50;
const SEED: u64 = 1;

/// Each second of a minute appended by itself, then all of it asked for.
pub(crate) fn append_a_minute(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(StoreConfig::new(dir.path()))?;
    let recipe = Recipe::new(SEED, CONTAINERS);
    let minute = Minute(0);
    // Not so long ago that retention would take it.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    let begin = UnixMs(now - 120_000).floor_to_second();
    let batches: Vec<Batch> =
        minute.seconds().map(|second| sampled_second(&recipe, second, begin)).collect::<Result<_>>()?;
    let rows: usize = batches.iter().map(Batch::row_count).sum();
    report.once("append 60 s of 50 containers as sampled", "rows", || {
        for batch in batches {
            store.append_blocking(batch)?;
        }
        Ok(rows as u64)
    })?;
    let range = TimeRange::new(UnixMs(begin.0 + 1), UnixMs(begin.0 + 60_000));
    let query = StackQuery::new(Tenants::default(), ProfileType::cpu_time(), Selector::all(), range);
    let (total, expect): (i64, i64) =
        (store.merge_stacks(&query)?.total(), recipe.containers().iter().map(|c| c.minute_ns(minute)).sum());
    ensure!(total == expect, "{total} of {expect}");
    Ok(store.close()?)
}

/// What the sampler would store for a second of a load that began at `begin`: self-contained, stamped with its end.
fn sampled_second(recipe: &Recipe, second: Second, begin: UnixMs) -> Result<Batch> {
    let time = UnixMs(begin.0 + (i64::from(second.0) + 1) * 1_000);
    let mut symbols = SymbolTable::new();
    let mut series = Vec::new();
    for container in recipe.containers() {
        let mut program = Program { container, symbols: &mut symbols, locations: HashMap::new() };
        let row = |counted: Counted| {
            let stack = program.stack(&container.frames(counted.stack))?;
            Ok(Row { time, stack, value: counted.value_ns() })
        };
        let rows = container.second(second).into_iter().map(row).collect::<Result<_>>()?;
        let labels = LabelSet::from_pairs(container.labels());
        series.push(SeriesRows { labels, profile_type: ProfileType::cpu_time(), rows });
    }
    Ok(Batch { symbols, series, ..Batch::default() })
}

/// A container's frames on their way into a batch's symbols.
struct Program<'a> {
    container: &'a Container,
    symbols: &'a mut SymbolTable,
    locations: HashMap<Frame, LocationId>,
}

impl Program<'_> {
    fn stack(&mut self, root_first: &[Frame]) -> Result<StackId> {
        let leaf_first: Vec<LocationId> =
            root_first.iter().rev().map(|frame| self.location(*frame)).collect();
        self.symbols.intern_stack(&leaf_first).context("a stack has frames")
    }

    fn location(&mut self, frame: Frame) -> LocationId {
        if let Some(known) = self.locations.get(&frame) {
            return *known;
        }
        let function = self.container.function(frame.function);
        let line = function.first_line + frame.line_in_function();
        let function = Function {
            name: self.symbols.intern_str(&function.name),
            filename: self.symbols.intern_str(&function.file),
            start_line: function.first_line,
            ..Function::default()
        };
        let function = self.symbols.intern_function(function);
        let lines = vec![Line { function, line }];
        let location = self.symbols.intern_location(Location { lines, ..Location::default() });
        self.locations.insert(frame, location);
        location
    }
}
