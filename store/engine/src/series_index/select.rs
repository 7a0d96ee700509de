//! Selectors on the registry: which series meet every condition, cheapest condition first.
//!
//! A condition divides the values of its label in two: those on which it decides as on a series without the label, and
//! the others. The series that have one of the others are what it keeps, or what it takes out. A regular expression is
//! tried on values, each once: on those that begin as it does, and on none where it is a choice of literals.
//!
//! What a series answers to a condition on a part of its profile type is asked of the types, of which there are few.

use pyrite_model::{Candidates, Matcher, ProfileType, SYNTHETIC_LABELS, Selector, SeriesKey, Tenants, names};

use super::registry::{Registry, type_key};
use super::set::SeriesSet;

/// The synthetic label whose value is that of a stored one.
pub(super) const SERVICE_ALIAS: &str = "__service_name__";
/// Going through the labels of a series takes as long as trying an expression on some values.
const SERIES_COST: usize = 4;

/// What selectors chose, or what of that has rows in a window.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Of whom all of them are.
    pub(super) tenants: Tenants,
    /// As series of their own types.
    pub(super) stored: SeriesSet,
    /// As series of wall time, which theirs is a part of.
    pub(super) as_wall: SeriesSet,
}

/// Where a label's values are.
pub(super) enum Source<'a> {
    /// In the profile type.
    Type,
    /// Among the stored labels, under this name.
    Stored(&'a str),
}

/// Where [`SeriesKey::label`] takes a label from.
pub(super) fn source(name: &str) -> Source<'_> {
    match name {
        SERVICE_ALIAS => Source::Stored(names::SERVICE_NAME),
        name if SYNTHETIC_LABELS.contains(&name) => Source::Type,
        name => Source::Stored(name),
    }
}

/// Conditions, told apart by where the values are that they are about.
#[derive(Default)]
struct Conditions<'a> {
    on_types: Vec<&'a Matcher>,
    /// With the name of the stored label.
    on_labels: Vec<(&'a str, &'a Matcher)>,
}

impl<'a> Conditions<'a> {
    fn new(matchers: impl Iterator<Item = &'a Matcher>) -> Self {
        let mut conditions = Self::default();
        for matcher in matchers {
            match source(matcher.name()) {
                Source::Type => conditions.on_types.push(matcher),
                Source::Stored(name) => conditions.on_labels.push((name, matcher)),
            }
        }
        conditions
    }

    fn take_type(&self, key: &SeriesKey) -> bool {
        self.on_types.iter().all(|m| m.matches(key.label(m.name()).as_deref().unwrap_or_default()))
    }
}

impl Registry {
    /// The tenants' series that meet all of the selectors.
    pub(super) fn choose(&self, tenants: &Tenants, selectors: &[Selector]) -> Chosen {
        let conditions = Conditions::new(selectors.iter().flat_map(Selector::matchers));
        let (stored, as_wall) = Default::default();
        let mut chosen = Chosen { tenants: tenants.clone(), stored, as_wall };
        for entry in self.types_of(tenants).filter(|entry| conditions.take_type(entry.key())) {
            entry.series().add_to(&mut chosen.stored);
        }
        let wall = ProfileType::wall();
        if conditions.take_type(&type_key(&wall)) {
            chosen.as_wall = self.parts_of(tenants, &wall);
        }
        let mut all = chosen.stored.clone();
        all.add(&chosen.as_wall);
        self.narrow(&mut all, &conditions);
        chosen.stored.keep(&all);
        chosen.as_wall.keep(&all);
        chosen
    }

    /// The tenants' series that are of one profile type, or counted as of it, and as such meet the selector.
    pub(super) fn choose_of(
        &self,
        tenants: &Tenants,
        profile_type: &ProfileType,
        selector: &Selector,
    ) -> SeriesSet {
        let conditions = Conditions::new(selector.matchers().iter());
        let mut chosen = SeriesSet::default();
        if conditions.take_type(&type_key(profile_type)) {
            chosen = self.parts_of(tenants, profile_type);
            let of_type = tenants.iter().filter_map(|tenant| self.type_entry(tenant, profile_type));
            of_type.for_each(|entry| entry.series().add_to(&mut chosen));
            self.narrow(&mut chosen, &conditions);
        }
        chosen
    }

    /// The series that are counted as ones of `whole` too: those of the types it is made of that tell a state.
    pub(super) fn parts_of(&self, tenants: &Tenants, whole: &ProfileType) -> SeriesSet {
        let mut parts = SeriesSet::default();
        if let Some(state) = self.labels().find(names::STATE) {
            let mut with_state = SeriesSet::default();
            self.labels().label(state).series().add_to(&mut with_state);
            for part in whole.made_of() {
                let types = tenants.iter().filter_map(|tenant| self.type_entry(tenant, &part));
                types.for_each(|entry| entry.series().add_wanted_to(&with_state, &mut parts));
            }
        }
        parts
    }

    /// Takes out the series that fail a condition on a stored label.
    fn narrow(&self, series: &mut SeriesSet, conditions: &Conditions<'_>) {
        let on_labels = conditions.on_labels.iter();
        let mut planned: Vec<_> =
            on_labels.map(|(name, matcher)| (matcher.candidates(), *name, *matcher)).collect();
        planned.sort_by_key(|(candidates, ..)| match candidates {
            Candidates::Exactly(values) => (0, values.len()),
            Candidates::Every => (1, 0),
            Candidates::Prefixed(prefixes) => (2, prefixes.len()),
            Candidates::Any => (3, 0),
        });
        for (candidates, name, matcher) in planned {
            if series.is_empty() {
                return;
            }
            self.narrow_by(series, name, matcher, &candidates);
        }
    }

    fn narrow_by(&self, series: &mut SeriesSet, name: &str, matcher: &Matcher, candidates: &Candidates) {
        let without_label = matcher.matches("");
        let Some(name) = self.labels().find(name) else {
            if !without_label {
                series.clear();
            }
            return;
        };
        let label = self.labels().label(name);
        let mut others = SeriesSet::default();
        match candidates {
            Candidates::Every => label.series().add_to(&mut others),
            Candidates::Any if series.len() < label.values().len() / SERIES_COST => {
                for id in series.iter() {
                    let value = self.pair_of(id, name).map(|pair| self.labels().pair(pair).value());
                    if matcher.matches(value.unwrap_or_default()) != without_label {
                        others.insert(id);
                    }
                }
            }
            _ => label.for_each_among(candidates, |value, pair| {
                let certain = matches!(candidates, Candidates::Exactly(_));
                if certain || matcher.matches(value) != without_label {
                    self.labels().pair(pair).series().add_to(&mut others);
                }
            }),
        }
        if without_label {
            series.subtract(&others);
        } else {
            series.keep(&others);
        }
    }
}
