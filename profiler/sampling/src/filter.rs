//! Which processes are asked for.

use std::collections::BTreeSet;

/// An empty filter takes everything; else a process is taken by its tgid, by an ancestor's, or by its cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Processes taken together with all that descend from them.
    pub roots: BTreeSet<u32>,
    /// cgroup v2 ids.
    pub cgroup_ids: BTreeSet<u64>,
}

impl Filter {
    /// Whether everything is taken.
    pub fn takes_all(&self) -> bool {
        self.roots.is_empty() && self.cgroup_ids.is_empty()
    }
}
