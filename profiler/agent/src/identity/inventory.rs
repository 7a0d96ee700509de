//! Which containers and units exist on this node and how much CPU time each has used, from the cgroup tree.
//!
//! Lists what runs idle, and keeps the way from a cgroup id to its owner for processes that were gone before `/proc` was
//! read. cgroup v2 gives `cpu.stat` for every group, even on hybrid hosts where the cpu controller is on v1.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::cgroup::{Unit, unit_of_path};

/// Bounds of one walk; a node with 500 pods has some 3,000 groups.
const MAX_GROUPS: usize = 20_000;
/// Files kept open; what is beyond is opened at each scan.
const MAX_OPEN_FILES: usize = 512;
/// Owners kept by cgroup id, groups that are gone included.
const MAX_OWNERS: usize = 32_768;

/// A container or unit and the CPU time it has used since its group was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitUsage {
    /// The owner; never [`Unit::Plain`].
    pub unit: Arc<Unit>,
    /// Its group's directory.
    pub cgroup: PathBuf,
    /// CPU time used, in nanoseconds.
    pub cpu_ns: u64,
}

/// Where the cgroup hierarchies are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupMounts {
    /// cgroup v2.
    pub unified: Option<PathBuf>,
    /// The v1 hierarchy that accounts CPU time.
    pub cpuacct: Option<PathBuf>,
}

impl CgroupMounts {
    /// The mounts that this process sees.
    pub fn find() -> Self {
        fs::read_to_string("/proc/self/mountinfo").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// From the text of `/proc/PID/mountinfo`: `id parent dev root mountpoint options … - type source superoptions`.
    pub fn parse(mountinfo: &str) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(point), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else {
                continue;
            };
            let is_cpuacct = || right.split([' ', ',']).any(|option| option == "cpuacct");
            // The first of several mounts of one hierarchy is the host's usual place.
            match kind {
                "cgroup2" => mounts.unified = mounts.unified.or_else(|| Some(point.into())),
                "cgroup" if is_cpuacct() => mounts.cpuacct = mounts.cpuacct.or_else(|| Some(point.into())),
                _ => {}
            }
        }
        mounts
    }
}

struct Counter {
    file: Option<File>,
    seen: u64,
}

struct Owner {
    unit: Arc<Unit>,
    seen: u64,
}

/// The cgroup tree as last seen.
pub struct Inventory {
    mounts: CgroupMounts,
    counters: HashMap<PathBuf, Counter>,
    owners: HashMap<u64, Owner>,
    scans: u64,
}

impl Inventory {
    /// Nothing scanned yet.
    pub fn new(mounts: CgroupMounts) -> Self {
        Self { mounts, counters: HashMap::new(), owners: HashMap::new(), scans: 0 }
    }

    /// Walks the tree and reads the counters of every container and unit. Costs some microseconds per group.
    pub fn scan(&mut self) -> Vec<UnitUsage> {
        self.scans += 1;
        let mut found: HashMap<Arc<Unit>, UnitUsage> = HashMap::new();
        let unified = self.mounts.unified.clone().map(|mount| (mount, "cpu.stat"));
        let cpuacct = self.mounts.cpuacct.clone().map(|mount| (mount, "cpuacct.usage"));
        for (mount, counter) in unified.into_iter().chain(cpuacct) {
            for group in walk(&mount) {
                let unit = self.owner(&group, counter == "cpu.stat");
                // Parents come before children, so a unit's outermost group is the one that counts for it.
                if *unit != Unit::Plain
                    && let Entry::Vacant(vacant) = found.entry(Arc::clone(&unit))
                    && let Some(cpu_ns) = self.read_counter(group.dir.join(counter))
                {
                    vacant.insert(UnitUsage { unit, cgroup: group.dir, cpu_ns });
                }
            }
        }
        let scans = self.scans;
        self.counters.retain(|_, counter| counter.seen == scans);
        if self.owners.len() > MAX_OWNERS {
            self.owners.retain(|_, owner| owner.seen == scans);
        }
        found.into_values().collect()
    }

    /// The owner of the cgroup v2 group `id`, which is the inode of its directory; also of one that is gone.
    pub fn owner_of(&self, id: u64) -> Option<Arc<Unit>> {
        self.owners.get(&id).map(|owner| Arc::clone(&owner.unit))
    }

    fn owner(&mut self, group: &Group, is_unified: bool) -> Arc<Unit> {
        if !is_unified {
            return Arc::new(unit_of_path(&group.path));
        }
        let unit = || Arc::new(unit_of_path(&group.path));
        let owner = self.owners.entry(group.id).or_insert_with(|| Owner { unit: unit(), seen: 0 });
        owner.seen = self.scans;
        Arc::clone(&owner.unit)
    }

    fn read_counter(&mut self, path: PathBuf) -> Option<u64> {
        if let Some(counter) = self.counters.get_mut(&path) {
            counter.seen = self.scans;
            if let Some(cpu_ns) = counter.file.as_ref().and_then(read_cpu_ns) {
                return Some(cpu_ns);
            }
        }
        // Not seen before, or a group made anew under an old path.
        let file = File::open(&path).ok()?;
        let cpu_ns = read_cpu_ns(&file)?;
        let file = Some(file).filter(|_| self.counters.len() < MAX_OPEN_FILES);
        if file.is_some() {
            self.counters.insert(path, Counter { file, seen: self.scans });
        }
        Some(cpu_ns)
    }
}

/// `cpu.stat` begins with `usage_usec N`; `cpuacct.usage` is one number of nanoseconds.
fn read_cpu_ns(file: &File) -> Option<u64> {
    let mut buf = [0; 64];
    let read = file.read_at(&mut buf, 0).ok()?;
    let text = std::str::from_utf8(&buf[..read]).ok()?;
    let line = text.lines().next()?;
    match line.strip_prefix("usage_usec ") {
        Some(usec) => usec.parse::<u64>().ok()?.checked_mul(1_000),
        None => line.parse().ok(),
    }
}

struct Group {
    dir: PathBuf,
    /// From the root of the hierarchy, as `/proc/PID/cgroup` has it.
    path: String,
    id: u64,
}

/// All groups below `mount`, parents first. Groups that vanish meanwhile are left out.
fn walk(mount: &Path) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut to_visit = VecDeque::from([(mount.to_owned(), String::new())]);
    while let Some((dir, path)) = to_visit.pop_front() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if groups.len() == MAX_GROUPS {
                tracing::debug!(mount = %mount.display(), MAX_GROUPS, "more cgroups than are listed");
                return groups;
            }
            let path = format!("{path}/{}", entry.file_name().to_string_lossy());
            to_visit.push_back((entry.path(), path.clone()));
            groups.push(Group { dir: entry.path(), path, id: entry.ino() });
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f0ff4f2dfc0cd41d3a9a3f1f6bd3ba8fc2b9e7c6a1d54a0f1c9f8c4d6e2b7a1";

    #[test]
    fn mounts_of_hybrid_and_unified_hosts() {
        let hybrid = "\
33 32 0:29 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
40 32 0:36 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct
41 32 0:37 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
99 32 0:29 / /run/elsewhere rw - cgroup2 cgroup2 rw
broken line
";
        let mounts = CgroupMounts::parse(hybrid);
        assert_eq!(mounts.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(mounts.cpuacct.as_deref(), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(CgroupMounts::parse(""), CgroupMounts::default());
    }

    fn group(root: &Path, path: &str, file: &str, text: &str) {
        fs::create_dir_all(root.join(path)).unwrap();
        fs::write(root.join(path).join(file), text).unwrap();
    }

    #[test]
    fn every_unit_once_with_its_outermost_counter() {
        let (v2, v1) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let docker = format!("docker/{ID}");
        group(v2.path(), "system.slice/nginx.service", "cpu.stat", "usage_usec 7\nuser_usec 5\n");
        group(v2.path(), &docker, "cpu.stat", "usage_usec 1000\nuser_usec 5\n");
        group(v2.path(), &format!("{docker}/init.scope"), "cpu.stat", "usage_usec 1\n");
        group(v1.path(), &docker, "cpuacct.usage", "5\n");
        group(v1.path(), "system.slice/cron.service", "cpuacct.usage", "42\n");
        group(v1.path(), "system.slice/torn.service", "cpuacct.usage", "");
        let mounts = CgroupMounts { unified: Some(v2.path().into()), cpuacct: Some(v1.path().into()) };
        let mut inventory = Inventory::new(mounts);
        let scan = |inventory: &mut Inventory| {
            let mut counters: Vec<u64> = inventory.scan().iter().map(|usage| usage.cpu_ns).collect();
            counters.sort_unstable();
            counters
        };
        assert_eq!(scan(&mut inventory), [42, 7_000, 1_000_000]);
        fs::write(v2.path().join(&docker).join("cpu.stat"), "usage_usec 2000\n").unwrap();
        assert_eq!(scan(&mut inventory), [42, 7_000, 2_000_000]);

        let id = fs::metadata(v2.path().join(&docker))
            .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
            .unwrap();
        fs::remove_dir_all(v2.path().join("docker")).unwrap();
        assert_eq!(scan(&mut inventory), [5, 42, 7_000]);
        let owner = inventory.owner_of(id).expect("groups that are gone are remembered");
        assert!(matches!(&*owner, Unit::Container(container) if container.id == ID));
        assert_eq!(inventory.owner_of(u64::MAX), None);
    }
}
