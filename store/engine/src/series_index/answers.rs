//! Answers to label queries, from the registry and the set of series that a query found.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::RwLockReadGuard;

use pyrite_model::{ProfileType, SYNTHETIC_LABELS, SeriesKey, names};

use super::Contents;
use super::labels::Label;
use super::registry::{Registry, type_key};
use super::select::{Chosen, SERVICE_ALIAS, Source, source};
use super::set::SeriesSet;
use crate::QueryError;
use crate::job::{Job, key_bytes};

/// Finding a value by way of its series takes as long as looking whether some values have one of them.
const SERIES_COST: usize = 4;

/// The series that a query found, and what there is to say of them; the index does not change meanwhile.
pub(crate) struct Answers<'a> {
    contents: RwLockReadGuard<'a, Contents>,
    found: Chosen,
    /// Either way.
    all: SeriesSet,
}

impl<'a> Answers<'a> {
    pub(super) fn new(contents: RwLockReadGuard<'a, Contents>, found: Chosen) -> Self {
        let mut all = found.stored.clone();
        all.add(&found.as_wall);
        Self { contents, found, all }
    }

    fn registry(&self) -> &Registry {
        &self.contents.registry
    }

    /// Their profile types, sorted by id.
    pub(crate) fn profile_types(&self) -> Vec<ProfileType> {
        let mut types: Vec<_> = self.types().into_iter().map(|key| key.profile_type.clone()).collect();
        types.sort_by_cached_key(ToString::to_string);
        types
    }

    /// The names of the labels that they have, sorted.
    pub(crate) fn label_names(&self, job: &Job) -> Result<Vec<String>, QueryError> {
        let mut names = BTreeSet::new();
        for key in self.types() {
            names.extend(key.label_names().map(str::to_owned));
        }
        let labels = self.registry().labels().iter().filter(|label| label.series().intersects(&self.all));
        for name in labels.map(Label::name) {
            // What a series answers for these is not what it stores.
            if !SYNTHETIC_LABELS.contains(&name) {
                names.insert(name.to_owned());
            }
            if name == names::SERVICE_NAME {
                names.insert(SERVICE_ALIAS.to_owned());
            }
        }
        job.collect(names, String::len)
    }

    /// The values that they have of a label, sorted.
    pub(crate) fn label_values(&self, name: &str, job: &Job) -> Result<Vec<String>, QueryError> {
        let name = match source(name) {
            Source::Stored(name) => name,
            Source::Type => {
                let types = self.types();
                let values = types.iter().filter_map(|key| key.label(name).map(Cow::into_owned));
                return job.collect(values.collect::<BTreeSet<_>>(), String::len);
            }
        };
        let labels = self.registry().labels();
        let Some(id) = labels.find(name) else { return Ok(Vec::new()) };
        let label = labels.label(id);
        let values = label.values();
        if label.series().is_within(&self.all) {
            return job.collect(values.map(|(value, _)| value.to_owned()), String::len);
        }
        if self.all.len() < values.len() / SERIES_COST {
            let pairs = self.all.iter().filter_map(|series| self.registry().pair_of(series, id));
            let values: BTreeSet<&str> = pairs.map(|pair| labels.pair(pair).value()).collect();
            return job.collect(values.into_iter().map(str::to_owned), String::len);
        }
        let found = values.filter(|(_, pair)| labels.pair(*pair).series().intersects(&self.all));
        job.collect(found.map(|(value, _)| value.to_owned()), String::len)
    }

    /// Themselves, sorted.
    pub(crate) fn series(&self, job: &Job) -> Result<Vec<SeriesKey>, QueryError> {
        let wall = ProfileType::wall();
        let stored = self.found.stored.iter().map(|id| self.registry().key(id));
        let as_wall = self.found.as_wall.iter().map(|id| self.registry().key_as(id, &wall));
        let mut series = job.collect(stored.chain(as_wall), key_bytes)?;
        series.sort_unstable();
        // Parts of wall time differ in nothing but their types, and what was pushed as wall time may be the same again.
        series.dedup();
        Ok(series)
    }

    /// A series without labels of each of their types.
    fn types(&self) -> BTreeSet<SeriesKey> {
        let types = self
            .registry()
            .types_of(&self.found.tenants)
            .filter(|entry| entry.series().intersects(&self.found.stored));
        let mut types: BTreeSet<SeriesKey> = types.map(|entry| entry.key().clone()).collect();
        if !self.found.as_wall.is_empty() {
            types.insert(type_key(&ProfileType::wall()));
        }
        types
    }
}
