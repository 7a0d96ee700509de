//! Series as files have them. There a tenant is a label: files need no place of its own for it, those of a store that
//! keeps one tenant are what they would be without, and whatever reads them can select by it. In memory it is none.

use std::borrow::Cow;

use pyrite_model::{LabelSet, ProfileType, SeriesKey, Tenant};

/// The label that names the tenant, unless it is the default one. No batch may bring it.
pub(crate) const TENANT_LABEL: &str = "__tenant__";

/// The labels to write.
pub(crate) fn stored_labels(key: &SeriesKey) -> Cow<'_, LabelSet> {
    if key.tenant.is_default() {
        return Cow::Borrowed(&key.labels);
    }
    let mut labels = key.labels.clone();
    labels.set(TENANT_LABEL, key.tenant.as_str());
    Cow::Owned(labels)
}

/// The series of labels that were read. A value that [`stored_labels`] cannot have written is any client's label, from
/// before there were tenants.
pub(crate) fn key_of_stored(mut labels: LabelSet, profile_type: ProfileType) -> SeriesKey {
    let tenant: Tenant = labels.get(TENANT_LABEL).and_then(|name| name.parse().ok()).unwrap_or_default();
    if !tenant.is_default() {
        labels.remove(TENANT_LABEL);
    }
    SeriesKey { labels, profile_type, tenant }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stored: &[(&str, &str)], tenant: &str, labels: &[(&str, &str)]) {
        let stored = LabelSet::from_pairs(stored.iter().copied());
        let key = key_of_stored(stored.clone(), ProfileType::cpu_time());
        assert_eq!(key.tenant.as_str(), tenant);
        assert_eq!(key.labels, LabelSet::from_pairs(labels.iter().copied()));
        assert_eq!(*stored_labels(&key), stored, "and back");
    }

    #[test]
    fn the_default_tenant_leaves_no_trace() {
        check(&[("a", "1")], "anonymous", &[("a", "1")]);
    }

    #[test]
    fn another_is_a_label_in_files_only() {
        check(&[("__tenant__", "team"), ("a", "1")], "team", &[("a", "1")]);
    }

    #[test]
    fn what_cannot_be_a_tenant_stays_a_label() {
        for value in ["a|b", "", "anonymous", ".."] {
            check(&[("__tenant__", value), ("a", "1")], "anonymous", &[("__tenant__", value), ("a", "1")]);
        }
    }
}
