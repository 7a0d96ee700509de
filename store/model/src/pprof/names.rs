//! What a pushed profile is called: the first part of its profile type id.

use std::collections::BTreeMap;

use crate::labels::names::PROFILE_NAME;
use crate::{LabelSet, SYNTHETIC_LABELS};

/// What a client calls its sample types, by the types' own names.
pub type DisplayNames = BTreeMap<String, String>;

/// Says which name a profile had before it was renamed.
const NAME_REPLACED: &str = "__name_replaced__";

/// Labels by which clients steer a Pyroscope server; they do not describe what was profiled.
const CONTROL_LABELS: [&str; 4] = ["__delta__", "__order__", "__otel__", "__session_id__"];

/// Name and stored labels of the series that one sample type of a profile belongs to: profiles of Go's delta
/// profiler lose their prefix, and CPU time found in a wall-clock profile counts as CPU profile.
pub(crate) fn series_identity(pushed: &LabelSet, sample_type: &str) -> (String, LabelSet) {
    let pushed_name = pushed.get(PROFILE_NAME).unwrap_or_default();
    let name = match pushed_name.strip_prefix("godeltaprof_").unwrap_or(pushed_name) {
        "wall" if sample_type == "cpu" => "process_cpu",
        name => name,
    };
    let mut labels = pushed.clone();
    for dropped in SYNTHETIC_LABELS.iter().chain(&CONTROL_LABELS) {
        labels.remove(dropped);
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
