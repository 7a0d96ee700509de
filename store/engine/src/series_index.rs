//! The series index: every series of the store in memory, those in heads included, found by label and by time.
//!
//! ```text
//! series (id) ─▶ tenant and profile type, label values          registry, labels: each text once
//! tenant and profile type ─▶ the series that are of them        so that no answer is made of another tenant's
//! label value ─▶ the series that have it              set: lists, or bits where that is less
//! segment ─▶ its series, their ids in it, first and last row        held: a bitmap and packed columns
//! head ─▶ its series; their first and last rows are in the head
//! ```
//!
//! The catalogue on disk is the durable form, from which the index is filled when the store opens. A series stays for as
//! long as a head or a segment holds it. Its id is given to another after that, so ids are good only while something
//! keeps their holders: the lock, within one answer, or a view, whose segments are not forgotten before it goes.

mod answers;
mod column;
mod held;
mod labels;
mod registry;
mod select;
mod set;
mod slab;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, RwLock};

use hashbrown::HashMap;
use pyrite_model::{Batch, ProfileType, Selector, SeriesKey, SeriesRows, Tenant, Tenants, TimeRange};

pub(crate) use self::answers::Answers;
use self::held::{Held, HeldSeries};
use self::registry::Registry;
use self::select::Chosen;
use self::set::{SeriesId, SeriesSet};
use crate::job::{Job, key_bytes};
use crate::segment::series::SegmentSeries;
use crate::shared::View;
use crate::sync::{read, write};
use crate::{AppendError, Limits, QueryError};

/// Series that are taken or given up under one lock: a query may have to wait for so many, not for all of a segment.
const AT_ONCE: usize = 1024;

#[derive(Debug)]
pub(crate) struct SeriesIndex {
    /// The most series and tenants that appends may lead to.
    limits: Limits,
    contents: RwLock<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    registry: Registry,
    /// By generation, in the order of the ids in the head.
    heads: HashMap<u64, Vec<SeriesId>>,
    /// By name.
    segments: HashMap<String, Held>,
}

/// The series that a query for rows is about, and the keys of those that it met.
pub(crate) struct Selection {
    profile_type: ProfileType,
    series: SeriesSet,
    keys: HashMap<SeriesId, Arc<SeriesKey>>,
}

impl SeriesIndex {
    #[cfg(test)]
    fn with_limits(limits: Limits) -> Self {
        Self { limits, contents: RwLock::default() }
    }

    /// Whether tenant and series of a batch fit within the limits. Only the writer brings new ones, so it stays true for
    /// it.
    pub(crate) fn room_for(&self, batch: &Batch) -> Result<(), AppendError> {
        let Limits { series: limit, tenants, .. } = self.limits;
        let registry = &read(&self.contents).registry;
        if registry.tenants() >= tenants && !registry.has_tenant(&batch.tenant) {
            return Err(AppendError::TooManyTenants { limit: tenants });
        }
        let room = limit.saturating_sub(registry.len());
        if batch.series.len() <= room {
            return Ok(());
        }
        let mut new = HashSet::new();
        for SeriesRows { labels, profile_type, .. } in &batch.series {
            if registry.find(&batch.tenant, labels, profile_type).is_none() {
                new.insert((labels, profile_type));
            }
            if new.len() > room {
                return Err(AppendError::TooManySeries { limit });
            }
        }
        Ok(())
    }

    /// Adds the next series of a head, in the order of their ids there; before rows of them can be seen.
    pub(crate) fn add_to_head(&self, generation: u64, keys: &[Arc<SeriesKey>]) {
        for keys in keys.chunks(AT_ONCE) {
            write(&self.contents).add_to_head(generation, keys);
        }
    }

    /// Forgets a head that no view has any more.
    pub(crate) fn drop_head(&self, generation: u64) {
        let held = write(&self.contents).heads.remove(&generation);
        self.release(&held.unwrap_or_default());
    }

    /// Adds a segment; before it comes into the view.
    pub(crate) fn add_segment(&self, name: &str, series: &[SegmentSeries]) {
        let mut rows = Vec::with_capacity(series.len());
        for series in series.chunks(AT_ONCE) {
            let mut contents = write(&self.contents);
            rows.extend(series.iter().map(|SegmentSeries { id, key, range, .. }| HeldSeries {
                series: contents.registry.take(key),
                local: *id,
                range: *range,
            }));
        }
        let again = set_repeated_aside(&mut rows);
        let held = Held::new(rows);
        let replaced = write(&self.contents).segments.insert(name.to_owned(), held);
        self.release(&again);
        self.release_held(replaced);
    }

    /// Forgets a segment that no query reads any more, or that nobody can.
    pub(crate) fn drop_segment(&self, name: &str) {
        let held = write(&self.contents).segments.remove(name);
        self.release_held(held);
    }

    /// Number of series.
    pub(crate) fn len(&self) -> usize {
        read(&self.contents).registry.len()
    }

    /// Estimated memory.
    pub(crate) fn bytes(&self) -> usize {
        let contents = read(&self.contents);
        let heads: usize = contents.heads.values().map(|ids| ids.capacity() * size_of::<SeriesId>()).sum();
        let segments: usize = contents.segments.values().map(Held::bytes).sum();
        contents.registry.bytes() + heads + segments
    }

    /// Chooses the tenants' series of one profile type, counted as of it where they are a part of it.
    pub(crate) fn choose(
        &self,
        tenants: &Tenants,
        profile_type: &ProfileType,
        selector: &Selector,
    ) -> Selection {
        let series = read(&self.contents).registry.choose_of(tenants, profile_type, selector);
        Selection { profile_type: profile_type.clone(), series, keys: HashMap::new() }
    }

    /// The selected series that a segment holds within a window, by the id they have in it. A series is named if its
    /// first and last row leave room for one inside. The segment must be in a view that was taken before the choice.
    pub(crate) fn held_by(
        &self,
        segment: &str,
        selection: &mut Selection,
        window: TimeRange,
        job: &Job,
    ) -> Result<Vec<(u32, Arc<SeriesKey>)>, QueryError> {
        let contents = read(&self.contents);
        let Some(held) = contents.segments.get(segment) else { return Ok(Vec::new()) };
        let Selection { profile_type, series, keys } = selection;
        let (mut found, mut checked) = (Vec::new(), Ok(()));
        held.for_each(window, series, |id, at| {
            if checked.is_ok() {
                let key = keys.entry(id).or_insert_with(|| {
                    let key = contents.registry.key_as(id, profile_type);
                    job.keep(size_of::<SeriesKey>() + key_bytes(&key));
                    Arc::new(key)
                });
                found.push((held.local(at), Arc::clone(key)));
                checked = job.check_at(found.len());
            }
        });
        checked.map(|()| found)
    }

    /// The tenants' series with rows in the window, as far as first and last rows tell, that meet every selector.
    pub(crate) fn find(
        &self,
        view: impl FnOnce() -> View,
        tenants: &Tenants,
        selectors: &[Selector],
        window: TimeRange,
    ) -> Answers<'_> {
        let contents = read(&self.contents);
        // Taken under the lock: what a view holds is added before it and dropped after it, so all of it is here.
        let found = contents.find(&view(), tenants, selectors, window);
        Answers::new(contents, found)
    }

    /// First and last row of the tenants; `None` where they have none.
    pub(crate) fn extent(&self, view: impl FnOnce() -> View, tenants: &Tenants) -> Option<TimeRange> {
        let contents = read(&self.contents);
        // Under the lock, as above.
        contents.extent(&view(), tenants)
    }

    fn release_held(&self, held: Option<Held>) {
        let mut ids = Vec::new();
        if let Some(held) = held {
            held.series().for_each(|id| ids.push(id));
        }
        self.release(&ids);
    }

    fn release(&self, ids: &[SeriesId]) {
        for ids in ids.chunks(AT_ONCE) {
            let mut contents = write(&self.contents);
            for id in ids {
                contents.registry.release(*id);
            }
        }
    }
}

impl Contents {
    fn add_to_head(&mut self, generation: u64, keys: &[Arc<SeriesKey>]) {
        let ids = self.heads.entry(generation).or_default();
        ids.extend(keys.iter().map(|key| self.registry.take(key)));
    }

    fn find(&self, view: &View, tenants: &Tenants, selectors: &[Selector], window: TimeRange) -> Chosen {
        let mut chosen = self.registry.choose(tenants, selectors);
        let mut wanted = chosen.stored.clone();
        wanted.add(&chosen.as_wall);
        let found = self.present(view, window, &wanted);
        chosen.stored.keep(&found);
        chosen.as_wall.keep(&found);
        for tenant in tenants {
            if !chosen.as_wall.is_empty() && !self.has_off_cpu(view, tenant, window, &found) {
                let parts = self.registry.parts_of(&tenant.clone().into(), &ProfileType::wall());
                chosen.as_wall.subtract(&parts);
            }
        }
        chosen
    }

    fn extent(&self, view: &View, tenants: &Tenants) -> Option<TimeRange> {
        let mut wanted = SeriesSet::default();
        self.registry.types_of(tenants).for_each(|entry| entry.series().add_to(&mut wanted));
        let in_segments = view.segments.iter().filter_map(|segment| self.segments.get(&segment.name));
        let mut ranges: Vec<TimeRange> = in_segments.filter_map(|held| held.extent_of(&wanted)).collect();
        for head in view.heads() {
            let Some(ids) = self.heads.get(&head.generation()) else { continue };
            let head = head.read();
            let inside = ids.iter().zip(head.series_ranges()).filter(|(id, _)| wanted.contains(**id));
            ranges.extend(inside.filter_map(|(_, range)| *range));
        }
        ranges.into_iter().reduce(|a, b| TimeRange::new(a.start.min(b.start), a.end.max(b.end)))
    }

    /// Whether threads of a tenant were recorded off the CPU, seen in what was found or not: it has no wall time else.
    fn has_off_cpu(&self, view: &View, tenant: &Tenant, window: TimeRange, found: &SeriesSet) -> bool {
        let Some(entry) = self.registry.type_entry(tenant, &ProfileType::off_cpu()) else { return false };
        if entry.series().intersects(found) {
            return true;
        }
        let mut off_cpu = SeriesSet::default();
        entry.series().add_to(&mut off_cpu);
        !self.present(view, window, &off_cpu).is_empty()
    }

    /// Those of the series that have rows in the window, as far as first and last rows tell.
    fn present(&self, view: &View, window: TimeRange, wanted: &SeriesSet) -> SeriesSet {
        let mut found = SeriesSet::default();
        if wanted.is_empty() {
            return found;
        }
        for segment in view.segments.iter().filter(|segment| segment.range.overlaps(window)) {
            if let Some(held) = self.segments.get(&segment.name) {
                held.add_wanted_to(window, wanted, &mut found);
            }
        }
        for head in view.heads() {
            let Some(ids) = self.heads.get(&head.generation()) else { continue };
            let head = head.read();
            let inside = ids
                .iter()
                .zip(head.series_ranges())
                .filter(|(_, range)| range.is_some_and(|range| range.overlaps(window)));
            inside.filter(|(id, _)| wanted.contains(**id)).for_each(|(id, _)| found.insert(*id));
        }
        found
    }
}

/// Sorts the rows and takes out those of a series that has one already: what it has under a second id is not found.
fn set_repeated_aside(rows: &mut Vec<HeldSeries>) -> Vec<SeriesId> {
    rows.sort_unstable_by_key(|row| (row.series, row.local));
    let mut again = Vec::new();
    rows.dedup_by(|row, before| {
        let same = row.series == before.series;
        if same {
            again.push(row.series);
        }
        same
    });
    if !again.is_empty() {
        tracing::warn!(
            series = again.len(),
            "a segment names series twice; rows under the second name are not found"
        );
    }
    again
}

/// An index while it is filled from what is on disk.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    contents: Contents,
    /// By the ids of the catalogue.
    ids: HashMap<i64, SeriesId>,
}

impl Filling {
    /// A series, before the segments that hold it.
    pub(crate) fn series(&mut self, id: i64, key: &SeriesKey) {
        let series = self.contents.registry.take(key);
        if let Some(replaced) = self.ids.insert(id, series) {
            self.contents.registry.release(replaced);
        }
    }

    /// A segment: the id of each series in it and in the catalogue, and its first and last row. `None` where one of
    /// them was not named before.
    pub(crate) fn segment(&mut self, name: &str, series: &[(u32, i64, TimeRange)]) -> Option<()> {
        let rows = series.iter().map(|&(local, id, range)| {
            let series = *self.ids.get(&id)?;
            Some(HeldSeries { series, local, range })
        });
        let mut rows = rows.collect::<Option<Vec<_>>>()?;
        set_repeated_aside(&mut rows);
        for row in &rows {
            self.contents.registry.take_again(row.series);
        }
        self.contents.segments.insert(name.to_owned(), Held::new(rows));
        Some(())
    }

    /// The index of what was named, with what heads hold; series that nothing holds are left out.
    pub(crate) fn finish(mut self, view: &View, limits: &Limits) -> SeriesIndex {
        for head in view.heads() {
            self.contents.add_to_head(head.generation(), head.read().series.keys());
        }
        self.ids.values().for_each(|id| self.contents.registry.release(*id));
        SeriesIndex { limits: *limits, contents: RwLock::new(self.contents) }
    }
}
