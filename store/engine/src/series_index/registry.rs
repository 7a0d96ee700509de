//! Which series there are: the profile type and labels of each, and who still needs it.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use pyrite_model::{LabelSet, ProfileType, SeriesKey, Tenant, Tenants};

use super::labels::{Labels, NameId, PairId};
use super::set::{Postings, SeriesId};
use super::slab::Slab;

/// A series, by what its parts are numbered.
#[derive(Debug)]
struct Entry {
    /// Of its key.
    hash: u64,
    /// Heads and segments that have rows of it.
    holders: u32,
    /// With the tenant.
    profile_type: u32,
    /// In order of the names.
    pairs: Box<[PairId]>,
}

/// A profile type of a tenant and the series that are of it.
#[derive(Debug)]
pub(super) struct TypeEntry {
    tenant: Tenant,
    /// A series of this type without labels: what any series of it answers to a question about its type.
    key: SeriesKey,
    series: Postings,
}

impl TypeEntry {
    pub(super) fn key(&self) -> &SeriesKey {
        &self.key
    }

    pub(super) fn series(&self) -> &Postings {
        &self.series
    }
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    series: Slab<Entry>,
    by_key: HashTable<SeriesId>,
    hasher: DefaultHashBuilder,
    types: Slab<TypeEntry>,
    /// Those of tenants that have series.
    by_tenant: HashMap<Tenant, HashMap<ProfileType, u32>>,
    labels: Labels,
}

/// A slot of a hash table, some of which are free.
const SLOT_BYTES: usize = 8;

impl Registry {
    /// The id of a series, which is new if nothing held it; it has one holder more now.
    pub(super) fn take(&mut self, key: &SeriesKey) -> SeriesId {
        let SeriesKey { labels, profile_type, tenant } = key;
        let hash = self.hash(tenant, labels, profile_type);
        if let Some(id) = self.find_hashed(hash, tenant, labels, profile_type) {
            self.take_again(id);
            return id;
        }
        let pairs: Box<[PairId]> = labels.iter().map(|l| self.labels.intern(&l.name, &l.value)).collect();
        let profile_type = self.intern_type(tenant, profile_type);
        let id = SeriesId(self.series.insert(Entry { hash, holders: 1, profile_type, pairs }));
        self.types[profile_type].series.insert(id);
        let Self { series, by_key, labels, .. } = self;
        series[id.0].pairs.iter().for_each(|pair| labels.add(*pair, id));
        by_key.insert_unique(hash, id, |id| series[id.0].hash);
        id
    }

    /// One holder more of a series that has one.
    pub(super) fn take_again(&mut self, id: SeriesId) {
        self.series[id.0].holders += 1;
    }

    /// One holder less; with the last the series goes, and its id may become another's.
    pub(super) fn release(&mut self, id: SeriesId) {
        let entry = &mut self.series[id.0];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        let Some(Entry { hash, profile_type, pairs, .. }) = self.series.remove(id.0) else { return };
        if let Ok(slot) = self.by_key.find_entry(hash, |other| *other == id) {
            slot.remove();
        }
        pairs.iter().for_each(|pair| self.labels.remove(*pair, id));
        let of_type = &mut self.types[profile_type].series;
        of_type.remove(id);
        if of_type.is_empty()
            && let Some(TypeEntry { tenant, key, .. }) = self.types.remove(profile_type)
            && let Some(types) = self.by_tenant.get_mut(&tenant)
        {
            types.remove(&key.profile_type);
            if types.is_empty() {
                self.by_tenant.remove(&tenant);
            }
        }
    }

    /// The series with this key, where something holds it.
    pub(super) fn find(
        &self,
        tenant: &Tenant,
        labels: &LabelSet,
        profile_type: &ProfileType,
    ) -> Option<SeriesId> {
        self.find_hashed(self.hash(tenant, labels, profile_type), tenant, labels, profile_type)
    }

    /// The key of a series.
    pub(super) fn key(&self, id: SeriesId) -> SeriesKey {
        let profile_type = &self.types[self.series[id.0].profile_type].key.profile_type;
        self.key_as(id, profile_type)
    }

    /// The key that a series has where it is counted as one of another type.
    pub(super) fn key_as(&self, id: SeriesId, profile_type: &ProfileType) -> SeriesKey {
        let entry = &self.series[id.0];
        let labels = LabelSet::from_pairs(entry.pairs.iter().map(|pair| self.labels.text(*pair)));
        let tenant = self.types[entry.profile_type].tenant.clone();
        SeriesKey { labels, profile_type: profile_type.clone(), tenant }
    }

    /// What a series has of a label.
    pub(super) fn pair_of(&self, id: SeriesId, name: NameId) -> Option<PairId> {
        self.labels.of_name(&self.series[id.0].pairs, name)
    }

    pub(super) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The profile types of some tenants. All that is found of series is found by way of these.
    pub(super) fn types_of(&self, tenants: &Tenants) -> impl Iterator<Item = &TypeEntry> {
        let types = tenants.iter().filter_map(|tenant| self.by_tenant.get(tenant));
        types.flat_map(HashMap::values).map(|id| &self.types[*id])
    }

    pub(super) fn type_entry(&self, tenant: &Tenant, profile_type: &ProfileType) -> Option<&TypeEntry> {
        self.by_tenant.get(tenant)?.get(profile_type).map(|id| &self.types[*id])
    }

    /// Number of tenants that have series.
    pub(super) fn tenants(&self) -> usize {
        self.by_tenant.len()
    }

    pub(super) fn has_tenant(&self, tenant: &Tenant) -> bool {
        self.by_tenant.contains_key(tenant)
    }

    /// Number of series.
    pub(super) fn len(&self) -> usize {
        self.series.len()
    }

    /// Estimated memory.
    pub(super) fn bytes(&self) -> usize {
        let types = self.types.iter().map(|entry| entry.series.bytes()).sum::<usize>();
        self.series.bytes() + self.len() * SLOT_BYTES + types + self.labels.bytes()
    }

    fn hash(&self, tenant: &Tenant, labels: &LabelSet, profile_type: &ProfileType) -> u64 {
        self.hasher.hash_one((tenant, labels, profile_type))
    }

    fn find_hashed(
        &self,
        hash: u64,
        tenant: &Tenant,
        labels: &LabelSet,
        profile_type: &ProfileType,
    ) -> Option<SeriesId> {
        let same = |id: &SeriesId| {
            let entry = &self.series[id.0];
            let of_type = &self.types[entry.profile_type];
            let texts = || entry.pairs.iter().map(|pair| self.labels.text(*pair));
            entry.hash == hash
                && of_type.tenant == *tenant
                && of_type.key.profile_type == *profile_type
                && texts().eq(labels.iter().map(|label| (label.name.as_str(), label.value.as_str())))
        };
        self.by_key.find(hash, same).copied()
    }

    fn intern_type(&mut self, tenant: &Tenant, profile_type: &ProfileType) -> u32 {
        if let Some(id) = self.by_tenant.get(tenant).and_then(|types| types.get(profile_type)) {
            return *id;
        }
        let (key, series) = (type_key(profile_type), Postings::default());
        let id = self.types.insert(TypeEntry { tenant: tenant.clone(), key, series });
        self.by_tenant.entry(tenant.clone()).or_default().insert(profile_type.clone(), id);
        id
    }
}

/// A series of a type without labels, whose it is left aside.
pub(super) fn type_key(profile_type: &ProfileType) -> SeriesKey {
    let (labels, tenant) = (LabelSet::default(), Tenant::default());
    SeriesKey { labels, profile_type: profile_type.clone(), tenant }
}
