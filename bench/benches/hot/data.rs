//! Made-up profiles that look like real ones: call paths of a common root that branch towards the leaf.

use anyhow::{Context, Result};
use pyrite_bench::recipe::Random;
use pyrite_model::{Batch, LabelSet, LocationId, ProfileType, Row, SeriesRows, StackId, SymbolTable, UnixMs};

/// How many stacks there are and how deep they are.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Distinct stacks.
    pub(crate) stacks: usize,
    /// Frames of each.
    pub(crate) frames: usize,
    /// Functions they are made of.
    pub(crate) functions: u64,
}

/// Stacks whose first half is shared with others and whose rest is drawn at random.
pub(crate) fn stacks(shape: Shape, seed: u64) -> Result<(SymbolTable, Vec<StackId>)> {
    let mut random = Random(seed);
    let mut symbols = SymbolTable::new();
    let functions: Vec<LocationId> = (0..shape.functions)
        .map(|n| {
            symbols.intern_named_location(&format!("service{}::module{}::function{n}", seed % 97, n / 40))
        })
        .collect();
    let draw = |random: &mut Random| functions[random.below(shape.functions) as usize];
    let trunks: Vec<Vec<LocationId>> =
        (0..8).map(|_| (0..shape.frames / 2).map(|_| draw(&mut random)).collect()).collect();
    let mut ids = Vec::with_capacity(shape.stacks);
    for _ in 0..shape.stacks {
        let trunk = &trunks[random.below(trunks.len() as u64) as usize];
        let mut leaf_first: Vec<LocationId> =
            (trunk.len()..shape.frames).map(|_| draw(&mut random)).collect();
        leaf_first.extend(trunk);
        ids.push(symbols.intern_stack(&leaf_first).context("a stack has frames")?);
    }
    Ok((symbols, ids))
}

/// The labels that the agent gives to a container's process.
pub(crate) fn labels(service: usize) -> LabelSet {
    let id = format!("{service:064x}");
    LabelSet::from_pairs([
        ("service_name", format!("service-{service}").as_str()),
        ("container_name", &format!("service-{service}")),
        ("container_id", &id),
        ("image", "registry.example/team/service:1.2.3"),
        ("node", "node-1"),
        ("comm", "worker"),
        ("exe", "/usr/local/bin/service"),
    ])
}

/// One agent second: every stack once, as CPU time and as a count, so two rows per stack.
pub(crate) fn agent_second(symbols: SymbolTable, stacks: &[StackId], time: UnixMs) -> Batch {
    let types = [(ProfileType::cpu_time(), 10_309_278), (ProfileType::cpu_samples(), 1)];
    let services = 10;
    let mut series = Vec::new();
    for (service, part) in stacks.chunks(stacks.len().div_ceil(services)).enumerate() {
        for (profile_type, value) in &types {
            let rows = part.iter().map(|&stack| Row { time, stack, value: *value }).collect();
            let profile_type = profile_type.clone();
            series.push(SeriesRows { labels: labels(service), profile_type, rows });
        }
    }
    Batch { symbols, series, ..Batch::default() }
}
