//! Keeping the budget: when slabs are made and given back, which tables go, which are refused.
//!
//! Tables may use everything but a reserve, which is for mapping sets: a process that is not published has no stacks at
//! all. A table that does not fit takes the place of those that no process maps; where that is not enough it is refused,
//! until there may be room again.

use pyrite_sampling::BootNs;
use pyrite_unwind::RuleBook;

use crate::unwind::chunks::{ChunkCounts, MAX_SLABS, SLAB_CHUNKS};
use crate::unwind::code::ExecutableIndex;
use crate::unwind::kernel::Kernel;
use crate::unwind::publisher::Publisher;
use crate::unwind::stats::{Absence, PublishFailure};
use crate::unwind::tables::TableState;
use crate::unwind::work::{BuiltTable, Report, WorkRequest};

/// Free chunks that tables leave for mapping sets.
const RESERVE: usize = 512;
/// Free chunks below which the next slab is made: a burst of so many process starts passes while it is on its way.
const AHEAD: usize = RESERVE + SLAB_CHUNKS;
/// A slab is given back only where so many chunks stay free, so that none is made again soon.
const KEEP_FREE: usize = AHEAD + SLAB_CHUNKS / 2;
/// How often what was refused is tried again.
const RETRY_NS: u64 = 1_000_000_000;
/// How long no slab is asked for after the kernel refused one.
const REFUSAL_NS: u64 = 10_000_000_000;
/// Tables that wait for their turn: each keeps its file open.
const MAX_QUEUED: usize = 512;
/// Tables on their way through the builder and into chunks: it need not wait for the sampler's next round between two.
const MAX_BUILDING: usize = 2;
/// Free chunks made beyond what a table needs where others have to go for it, and executables that may come without one
/// having to go: looking for the least used is a walk through all of them.
const SPARE_CHUNKS: usize = 64;
const SPARE_EXECUTABLES: usize = 1024;
/// Rules that may come without a table having to go, and how many tables go at a time where more have come.
const SPARE_RULES: usize = 2048;
const TABLES_FOR_RULES: usize = 64;

/// The budget, and what of it is asked for.
#[derive(Debug)]
pub(crate) struct Room {
    budget_bytes: u64,
    fixed_bytes: u64,
    slab_bytes: u64,
    /// Slabs asked for and not there yet.
    coming: Vec<u32>,
    refused_at: Option<BootNs>,
    retried_at: BootNs,
}

impl Room {
    /// `fixed_bytes` is what the maps take that never grow, `slab_bytes` what each slab takes.
    pub(crate) fn new(budget_bytes: u64, fixed_bytes: u64, slab_bytes: u64) -> Self {
        Self {
            budget_bytes,
            fixed_bytes,
            slab_bytes: slab_bytes.max(1),
            coming: Vec::new(),
            refused_at: None,
            retried_at: BootNs::default(),
        }
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    pub(crate) fn map_bytes(&self, slabs: usize) -> u64 {
        self.fixed_bytes + slabs as u64 * self.slab_bytes
    }

    /// How many slabs there may be; the first is there whatever the budget.
    fn slab_limit(&self) -> usize {
        let bytes = self.budget_bytes.saturating_sub(self.fixed_bytes);
        ((bytes / self.slab_bytes) as usize).clamp(1, MAX_SLABS)
    }
}

impl<K: Kernel> Publisher<K> {
    /// Takes what a thread has done.
    pub(crate) fn report(&mut self, report: Report<K::Slab>, now: BootNs) {
        match report {
            Report::Opened { request, outcome } => self.opened(&request, outcome, now),
            Report::Built { index, outcome, rules } => {
                self.building = self.building.saturating_sub(1);
                self.rules.learn(rules);
                match outcome {
                    Ok(built) => self.parked.push_back((index, built)),
                    Err(absence) => {
                        self.stats.absent[absence as usize] += 1;
                        let may_pass = matches!(absence, Absence::Io | Absence::Changed);
                        let state = if may_pass { TableState::Unread } else { TableState::Absent };
                        self.set_table_state(index, state);
                    }
                }
            }
            Report::SlabMade { number, outcome } => {
                self.room.coming.retain(|coming| *coming != number);
                if let Ok(memory) = outcome {
                    self.chunks.add_slab(number, memory);
                } else {
                    self.room.refused_at = Some(now);
                    self.count(PublishFailure::NoSlab);
                }
            }
            Report::GraceEnded { outcome } => self.grace_ended(outcome.is_ok()),
            Report::RulesReleased { rules } => self.rules.learn(rules),
        }
    }

    /// Places what waits for chunks, and asks for what is missing.
    pub(super) fn manage_room(&mut self, now: BootNs) {
        self.place_parked(now);
        self.grow(now);
        self.shrink();
        if now.abs_diff(self.room.retried_at) >= RETRY_NS {
            self.room.retried_at = now;
            self.retry_refused(now);
            self.files.ask_postponed(now);
            self.spare_executables();
            self.spare_rules();
        }
        while self.building + self.parked.len() < MAX_BUILDING && self.build_next() {}
        if !self.is_in_grace
            && (self.chunks.begin_grace() | self.tables.begin_grace() | self.rules.begin_grace())
        {
            self.is_in_grace = true;
            self.work.push_back(WorkRequest::GracePeriod);
        }
    }

    /// Whether more files may be opened: each keeps its file until its table is made.
    pub(crate) fn has_room_for_files(&self) -> bool {
        self.tables.queued() < MAX_QUEUED
    }

    /// Takes tables out. Their executables are as unknown as before they were first met.
    fn evict(&mut self, mut indexes: Vec<ExecutableIndex>) {
        for index in &indexes {
            if let Some(table) = self.tables.remove(*index) {
                self.announce_table(*index);
                self.chunks.retire(table.chunks);
                self.rules.retire(table.rules);
                self.stats.tables_evicted += 1;
            }
        }
        indexes.sort_unstable();
        self.files.forget(&indexes);
    }

    /// Lets the executables go that were not met for longest, where soon there might be no index for a new one.
    fn spare_executables(&mut self) {
        let missing = SPARE_EXECUTABLES.saturating_sub(self.tables.vacancies());
        if missing > 0 {
            let unused = self.tables.unused(|_| true);
            self.evict(unused.iter().take(missing).map(|(index, _)| *index).collect());
        }
    }

    /// Lets tables go that no process maps, where soon there might be no id for a new rule. How many rules go with them is
    /// not known before, for others may share them.
    fn spare_rules(&mut self) {
        if self.rules.count() + SPARE_RULES > RuleBook::CAPACITY {
            let unused = self.tables.unused(|table| !table.rules.is_empty());
            self.evict(unused.iter().take(TABLES_FOR_RULES).map(|(index, _)| *index).collect());
        }
    }

    fn grace_ended(&mut self, has_ended: bool) {
        self.is_in_grace = false;
        if has_ended {
            self.chunks.end_grace();
            self.tables.end_grace();
            let ids = self.rules.end_grace();
            if !ids.is_empty() {
                self.work.push_back(WorkRequest::ReleaseRules { ids });
            }
        } else {
            // Nothing may be used again on a guess; the next grace period tries for these too.
            self.count(PublishFailure::Refused);
            self.chunks.extend_grace();
            self.tables.extend_grace();
            self.rules.extend_grace();
        }
    }

    /// Returns whether there was one.
    fn build_next(&mut self) -> bool {
        let Some((index, reader)) = self.tables.next_to_build() else { return false };
        let Some(table) = self.tables.get(index) else { return false };
        let identity = table.identity.clone();
        self.building += 1;
        self.work.push_back(WorkRequest::Build { index, identity, reader });
        true
    }

    fn place_parked(&mut self, now: BootNs) {
        while let Some((index, built)) = self.parked.pop_front() {
            let chunks = built.image.chunk_count();
            if self.chunks.counts().free >= chunks + RESERVE {
                self.place(index, *built);
            } else if self.make_obtainable(chunks + RESERVE, now) {
                return self.parked.push_front((index, built));
            } else {
                self.stats.tables_refused += 1;
                self.rules.retire(built.image.into_rules());
                self.set_table_state(index, TableState::OverBudget { chunks });
            }
        }
    }

    /// Takes tables out until so many chunks can be free. Only what no process maps goes: anything else would be read anew
    /// at once. Returns whether that is enough; where it is not, whatever could go has gone.
    fn make_obtainable(&mut self, chunks: usize, now: BootNs) -> bool {
        let obtainable = self.obtainable(now);
        if obtainable >= chunks {
            return true;
        }
        let (mut gained, mut indexes) = (0, Vec::new());
        for (index, table) in self.tables.unused(|table| !table.chunks.is_empty()) {
            if obtainable + gained >= chunks + SPARE_CHUNKS {
                break;
            }
            gained += table.chunks.len();
            indexes.push(index);
        }
        self.evict(indexes);
        obtainable + gained >= chunks
    }

    fn place(&mut self, index: ExecutableIndex, built: BuiltTable) {
        let rows = built.rows;
        self.stats.rules_refused += u64::from(built.image.rules_refused());
        let ids = self.chunks.allocate(built.image.chunk_count()).unwrap_or_default();
        let numbers: Vec<u32> = ids.iter().map(|id| id.0).collect();
        let placed = match built.image.place(&numbers) {
            Ok(placed) => placed,
            Err(image) => {
                // A table without a chunk says nothing.
                self.chunks.retire(ids);
                self.rules.retire(image.into_rules());
                self.stats.absent[Absence::NoUnwindInfo as usize] += 1;
                return self.set_table_state(index, TableState::Absent);
            }
        };
        for (id, chunk) in ids.iter().zip(&placed.chunks) {
            self.chunks.write(*id, chunk);
        }
        if let Some(table) = self.tables.get_mut(index) {
            table.chunks = ids;
            table.rules = placed.rules;
            table.rows = rows;
        }
        self.stats.tables_made += 1;
        self.set_table_state(index, TableState::Ready(placed.executable));
    }

    fn set_table_state(&mut self, index: ExecutableIndex, state: TableState) {
        if let Some(table) = self.tables.get_mut(index) {
            table.state = state;
        }
        self.announce_table(index);
    }

    /// Free chunks that there can be without taking anything out.
    fn obtainable(&self, now: BootNs) -> usize {
        let ChunkCounts { free, retired, .. } = self.chunks.counts();
        let is_refused = self.room.refused_at.is_some_and(|at| now.abs_diff(at) < REFUSAL_NS);
        let slabs = self.chunks.slab_count();
        let limit = if is_refused { slabs } else { self.room.slab_limit() };
        free + retired + limit.saturating_sub(slabs) * SLAB_CHUNKS
    }

    fn grow(&mut self, now: BootNs) {
        if self.room.refused_at.is_some_and(|at| now.abs_diff(at) < REFUSAL_NS) {
            return;
        }
        let parked: usize = self.parked.iter().map(|(_, built)| built.image.chunk_count()).sum();
        let want = AHEAD + parked + self.sets_without_room();
        let coming = self.room.coming.len();
        let missing = want.saturating_sub(self.chunks.counts().free + coming * SLAB_CHUNKS);
        let may = self.room.slab_limit().saturating_sub(self.chunks.slab_count() + coming);
        for _ in 0..missing.div_ceil(SLAB_CHUNKS).min(may) {
            let Some(number) = self.chunks.vacant_slab(&self.room.coming) else { return };
            self.room.coming.push(number);
            self.work.push_back(WorkRequest::MakeSlab { number });
        }
    }

    fn shrink(&mut self) {
        if self.parked.is_empty()
            && self.room.coming.is_empty()
            && let Some(number) = self.chunks.take_empty_slab(KEEP_FREE)
        {
            // The builder does one thing after another, so a slab of the same number can be made meanwhile.
            self.work.push_back(WorkRequest::RemoveSlab { number });
        }
    }

    /// Lets one table that was refused try again, where there may be room for it now.
    fn retry_refused(&mut self, now: BootNs) {
        let room = self.obtainable(now).saturating_sub(RESERVE) + self.evictable_chunks();
        let fits = self.tables.iter().find_map(|(index, table)| match table.state {
            TableState::OverBudget { chunks } if table.sets > 0 && chunks <= room => Some((index, chunks)),
            _ => None,
        });
        let Some((index, chunks)) = fits else { return };
        if self.files.ask_for(index, now)
            && let Some(table) = self.tables.get_mut(index)
        {
            table.state = TableState::Reopening { chunks };
        }
    }

    fn evictable_chunks(&self) -> usize {
        self.tables
            .iter()
            .filter(|(_, table)| table.is_evictable())
            .map(|(_, table)| table.chunks.len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_on_no_more_slabs_than_the_programs_can_tell_apart() {
        let limit = |budget_bytes| Room::new(budget_bytes, 1000, 1 << 20).slab_limit();
        assert_eq!([0, 1000 + (3 << 20), 1 << 40].map(limit), [1, 3, MAX_SLABS]);
    }
}
