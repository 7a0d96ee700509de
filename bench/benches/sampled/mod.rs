//! The shared load as the store takes it: batches with symbols of their own, as the sampler or a push makes them.

use std::collections::HashMap;

use anyhow::{Context, Result};
use pyrite_bench::recipe::{Container, Counted, Frame, Recipe, Second};
use pyrite_model::{
    Batch, Function, LabelSet, Line, Location, LocationId, ProfileType, Row, SeriesRows, StackId,
    SymbolTable, UnixMs,
};

/// What the sampler would store for a second of a load that began at `begin`: stamped with its end.
pub(crate) fn sampled_second(recipe: &Recipe, second: Second, begin: UnixMs) -> Result<Batch> {
    let time = UnixMs(begin.0 + (i64::from(second.0) + 1) * 1_000);
    let mut batch = Batch::default();
    for container in recipe.containers() {
        add(&mut batch, container, &container.second(second), time)?;
    }
    Ok(batch)
}

/// Adds what a container had on the CPU, all of it stamped with one time.
pub(crate) fn add(batch: &mut Batch, container: &Container, counted: &[Counted], time: UnixMs) -> Result<()> {
    let mut program = Program { container, symbols: &mut batch.symbols, locations: HashMap::new() };
    let row = |counted: &Counted| {
        let stack = program.stack(&container.frames(counted.stack))?;
        Ok(Row { time, stack, value: counted.value_ns() })
    };
    let rows = counted.iter().map(row).collect::<Result<_>>()?;
    let labels = LabelSet::from_pairs(container.labels());
    batch.series.push(SeriesRows { labels, profile_type: ProfileType::cpu_time(), rows });
    Ok(())
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
        let lines = Line { function, line }.into();
        let location = self.symbols.intern_location(Location { lines, ..Location::default() });
        self.locations.insert(frame, location);
        location
    }
}
