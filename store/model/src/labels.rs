//! Label sets: sorted name/value pairs that identify where a profile came from.

use std::fmt;

/// Label names that Pyrite itself gives meaning to.
pub mod names {
    /// What a user calls the thing that runs: container name, else unit, else executable.
    pub const SERVICE_NAME: &str = "service_name";
    /// The full container id as the runtime gives it.
    pub const CONTAINER_ID: &str = "container_id";
    /// The container's name.
    pub const CONTAINER_NAME: &str = "container_name";
    /// The image reference the container was started from.
    pub const IMAGE: &str = "image";
    /// The Kubernetes pod name, else its uid.
    pub const POD: &str = "pod";
    /// The Kubernetes namespace.
    pub const NAMESPACE: &str = "namespace";
    /// The node's host name.
    pub const NODE: &str = "node";
    /// The thread's command name.
    pub const COMM: &str = "comm";
    /// The executable's path as the process sees it.
    pub const EXE: &str = "exe";
    /// The event behind a sample: `cycles`, `cpu-clock` or, off the CPU, `sched_switch`.
    pub const EVENT: &str = "event";
    /// What a thread did: `running`, `runnable` (it waited for a CPU) or `blocked` (it waited for anything else).
    pub const STATE: &str = "state";
    /// First part of the profile type id; set by clients on push.
    pub const PROFILE_NAME: &str = "__name__";
    /// The whole profile type id.
    pub const PROFILE_TYPE: &str = "__profile_type__";
    /// `false` where values that others count since a program's start are counted since the profile before.
    pub const DELTA: &str = "__delta__";
    /// The name that a profile was pushed under, where another was given to it.
    pub const NAME_REPLACED: &str = "__name_replaced__";
}

/// One name/value pair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// The label's name; unique within a set.
    pub name: String,
    /// The label's value; never empty within a set.
    pub value: String,
}

/// Labels sorted by name, each name once, no empty value (an empty value is the same as no label).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSet(Vec<Label>);

impl LabelSet {
    /// Builds a set from pairs in any order; of a name given twice the last value wins.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut set = Self::default();
        for (name, value) in pairs {
            set.set(name, value);
        }
        set
    }

    /// The value of `name`, or `None` where the set lacks it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name).ok().map(|i| self.0[i].value.as_str())
    }

    /// Sets `name` to `value`, replacing what was there; an empty value removes the label.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match (self.position(&name), value.is_empty()) {
            (Ok(i), true) => drop(self.0.remove(i)),
            (Ok(i), false) => self.0[i].value = value,
            (Err(_), true) => {}
            (Err(i), false) => self.0.insert(i, Label { name, value }),
        }
    }

    /// Removes `name` and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.position(name).ok().map(|i| self.0.remove(i).value)
    }

    /// The labels in name order.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        let text: usize = self.iter().map(|label| label.name.len() + label.value.len()).sum();
        size_of::<Self>() + size_of_val(&self.0[..]) + text
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|label| label.name.as_str().cmp(name))
    }
}

impl<'a> IntoIterator for &'a LabelSet {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, label) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}={:?}", label.name, label.value)?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_unique_and_without_empty_values() {
        let set = LabelSet::from_pairs([("b", "2"), ("a", "1"), ("b", "3"), ("c", "")]);
        assert_eq!(set.to_string(), r#"{a="1", b="3"}"#);
        assert_eq!(set.get("b"), Some("3"));
        assert_eq!(set.get("c"), None);
    }
}
