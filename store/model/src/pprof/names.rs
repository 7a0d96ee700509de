//! What a pushed profile is called: the first part of its profile type id.

use std::collections::BTreeMap;

use crate::labels::names::{DELTA, NAME_REPLACED, PROFILE_NAME};
use crate::profile_type::is_cumulative;
use crate::selector::DELTA_PROFILER;
use crate::{LabelSet, SYNTHETIC_LABELS};

/// What a client calls its sample types, by the types' own names.
pub type DisplayNames = BTreeMap<String, String>;

/// Labels by which clients steer a Pyroscope server; they do not describe what was profiled.
const CONTROL_LABELS: [&str; 3] = ["__order__", "__otel__", "__session_id__"];

/// Name and stored labels of the series that one sample type of a profile belongs to: profiles of Go's delta
/// profiler lose their prefix, and CPU time found in a wall-clock profile counts as CPU profile. `__delta__` stays where it
/// says that values which others accumulate are none such, and says nothing anywhere else.
pub(crate) fn series_identity(pushed: &LabelSet, sample_type: &str) -> (String, LabelSet) {
    let pushed_name = pushed.get(PROFILE_NAME).unwrap_or_default();
    let name = match pushed_name.strip_prefix(DELTA_PROFILER).unwrap_or(pushed_name) {
        "wall" if sample_type == "cpu" => "process_cpu",
        name => name,
    };
    let mut labels = pushed.clone();
    for dropped in SYNTHETIC_LABELS.iter().chain(&CONTROL_LABELS) {
        labels.remove(dropped);
    }
    if labels.get(DELTA) != Some("false") || !is_cumulative(name, sample_type) {
        labels.remove(DELTA);
    }
    if name != pushed_name {
        labels.set(NAME_REPLACED, pushed_name);
    }
    (name.to_owned(), labels)
}

/// The name of a profile that came without one, from its sample types; Pyroscope's rule for `/ingest`.
pub(crate) fn name_of_types<'a>(sample_types: &[&'a str], shown_as: &'a DisplayNames) -> &'a str {
    if sample_types.contains(&"wall") {
        return "wall";
    }
    let known = |kind: &&'a str| {
        let kind = shown_as.get(*kind).map_or(*kind, String::as_str);
        let has = |part: &str| kind.contains(part);
        match () {
            () if has("cpu") => Some("process_cpu"),
            () if has("alloc_") || has("inuse_") || has("space") || has("objects") => Some("memory"),
            () if has("mutex_") => Some("mutex"),
            () if has("block_") => Some("block"),
            () if has("goroutines") => Some("goroutines"),
            () => None,
        }
    };
    sample_types.iter().find_map(known).or(sample_types.last().copied()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_renames() {
        for (pushed, sample_type, name, replaced) in [
            ("process_cpu", "cpu", "process_cpu", None),
            ("godeltaprof_memory", "alloc_space", "memory", Some("godeltaprof_memory")),
            ("wall", "cpu", "process_cpu", Some("wall")),
            ("wall", "wall", "wall", None),
        ] {
            let set = LabelSet::from_pairs([
                (PROFILE_NAME, pushed),
                ("service_name", "api"),
                ("__session_id__", "1"),
                ("__profile_type__", "x"),
            ]);
            let (found, labels) = series_identity(&set, sample_type);
            assert_eq!(found, name);
            assert_eq!(labels.get(NAME_REPLACED), replaced);
            assert_eq!(labels.len(), 1 + usize::from(replaced.is_some()), "{labels}");
        }
    }

    #[test]
    fn values_since_the_profile_before_are_told_from_those_since_the_start() {
        for (pushed, sample_type, delta, kept) in [
            ("memory", "alloc_space", "false", Some("false")),
            ("memory", "alloc_objects", "true", None),
            ("memory", "inuse_space", "false", None),
            ("process_cpu", "cpu", "false", None),
            ("godeltaprof_memory", "alloc_space", "false", Some("false")),
        ] {
            let set = LabelSet::from_pairs([(PROFILE_NAME, pushed), (DELTA, delta)]);
            assert_eq!(series_identity(&set, sample_type).1.get(DELTA), kept, "{pushed} {sample_type}");
        }
    }

    #[test]
    fn nameless_profiles_are_named_by_their_types() {
        let shown_as = DisplayNames::from([("contentions".into(), "mutex_count".into())]);
        for (types, name) in [
            (&["samples", "cpu"][..], "process_cpu"),
            (&["cpu", "wall"], "wall"),
            (&["inuse_space"], "memory"),
            (&["contentions", "delay"], "mutex"),
            (&["block_duration"], "block"),
            (&["goroutines"], "goroutines"),
            (&["goroutine"], "goroutine"),
            (&[], ""),
        ] {
            assert_eq!(name_of_types(types, &shown_as), name);
        }
    }
}
