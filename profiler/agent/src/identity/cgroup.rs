//! Cgroup paths to what owns them: a container, a systemd unit, or neither. Pure.
//!
//! A path is read from its leaf, so that the innermost owner wins: a container in a container, an application unit in a
//! user's session. Shapes come from the runtimes' own code and documentation; an unknown shape is [`Unit::Plain`].

/// Which runtime made a container, as far as its cgroup path tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Docker, and what follows its conventions.
    Docker,
    /// Podman.
    Podman,
    /// containerd, by its CRI plugin, `ctr` or nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// A Kubernetes runtime whose path does not say which.
    Kubernetes,
    /// `BuildKit` while it builds an image.
    BuildKit,
    /// LXC, LXD, Incus.
    Lxc,
    /// systemd-nspawn and other registered machines.
    Machine,
    /// Some runtime that uses 64 hex digits as container id.
    Unknown,
}

/// A container as its cgroup path names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    /// Who made it.
    pub runtime: Runtime,
    /// The full id; for LXC, machines and `ctr` the name its user gave.
    pub id: String,
    /// The pod's uid with dashes, where Kubernetes made it.
    pub pod_uid: Option<String>,
    /// The containerd namespace, where the path holds it.
    pub containerd_namespace: Option<String>,
}

/// A systemd unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SystemdUnit {
    /// Name without suffix, unescaped: `nginx`, `user@1000`, `session-3`.
    pub name: String,
    /// What the suffix was.
    pub kind: UnitKind,
}

/// Kinds of units that hold processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnitKind {
    /// `.service`
    Service,
    /// `.scope`
    Scope,
    /// `.mount`, `.socket`, `.swap`: helpers that systemd runs for them.
    Helper,
}

/// What owns a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A container.
    Container(Container),
    /// A systemd unit outside any container.
    Systemd(SystemdUnit),
    /// Neither.
    Plain,
}

impl Unit {
    fn rank(&self) -> u8 {
        match self {
            Self::Container(_) => 2,
            Self::Systemd(_) => 1,
            Self::Plain => 0,
        }
    }
}

/// The owner that the text of `/proc/PID/cgroup` states.
///
/// Lines are `hierarchy:controllers:path`. On cgroup v1 and hybrid hosts they can disagree, as not every manager uses
/// every hierarchy: the most specific owner wins, and of equals the first of unified, systemd's, then any controller's.
pub fn unit_of(proc_cgroup: &str) -> Unit {
    let mut paths: Vec<(u8, &str)> = proc_cgroup.lines().filter_map(ranked_path).collect();
    paths.sort_by_key(|(order, _)| *order);
    let mut best = Unit::Plain;
    for (_, path) in paths {
        let unit = unit_of_path(path);
        if unit.rank() > best.rank() {
            best = unit;
        }
    }
    best
}

fn ranked_path(line: &str) -> Option<(u8, &str)> {
    let mut fields = line.splitn(3, ':');
    let (_hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let order = match controllers {
        "" => 0,
        "name=systemd" => 1,
        _ => 2,
    };
    Some((order, path))
}

/// The owner of one cgroup directory, given by its path from the root of its hierarchy.
pub fn unit_of_path(path: &str) -> Unit {
    // Seen from inside a cgroup namespace, paths outside it begin with `/../`.
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != "..").collect();
    if parts.iter().any(|part| is_runtime_helper(part)) {
        return Unit::Plain;
    }
    for (i, part) in parts.iter().enumerate().rev() {
        let (above, below) = (&parts[..i], parts.get(i + 1).copied());
        if let Some((runtime, id, containerd_namespace)) = container_part(part, above, below) {
            let pod_uid = parts[..=i].iter().rev().find_map(|part| pod_uid(part));
            return Unit::Container(Container { runtime, id, pod_uid, containerd_namespace });
        }
    }
    parts.iter().rev().find_map(|part| systemd_unit(part)).map_or(Unit::Plain, Unit::Systemd)
}

/// Processes that a runtime keeps beside a container: they are not the container's own.
fn is_runtime_helper(part: &str) -> bool {
    let helper =
        ["libpod-conmon-", "crio-conmon-", "lxc.monitor"].iter().any(|prefix| part.starts_with(prefix));
    helper || part == "conmon"
}

type ContainerPart = (Runtime, String, Option<String>);

fn container_part(part: &str, above: &[&str], below: Option<&str>) -> Option<ContainerPart> {
    let parent = above.last().copied().unwrap_or_default();
    let known = |runtime, id: &str| Some((runtime, id.to_owned(), None));
    if let Some((runtime, id)) = prefixed_id(part) {
        return known(runtime, id);
    }
    let is_containerd_namespace =
        above.len() == 1 && matches!(parent, "default" | "k8s.io" | "moby" | "nerdctl");
    if is_containerd_namespace {
        return Some((Runtime::Containerd, part.to_owned(), Some(parent.to_owned())));
    }
    if is_hex(part, 64) || is_ecs_id(part, above) {
        return known(runtime_of_parent(above), part);
    }
    if parent == "buildkit" && is_lower_alphanumeric(part, 25) {
        return known(Runtime::BuildKit, part);
    }
    // systemd's cgroup driver given a path in the other driver's syntax: `slice:prefix:id`.
    if let [_, prefix, id] = part.split(':').collect::<Vec<_>>()[..]
        && !id.is_empty()
    {
        let namespace = Some(prefix.to_owned()).filter(|_| prefix != "cri-containerd" && prefix != "docker");
        let runtime = if prefix == "docker" { Runtime::Docker } else { Runtime::Containerd };
        return Some((runtime, id.to_owned(), namespace));
    }
    lxc_or_machine(part, parent, below)
}

fn prefixed_id(part: &str) -> Option<(Runtime, &str)> {
    const PREFIXES: [(&str, Runtime); 7] = [
        ("docker-", Runtime::Docker),
        ("libpod-payload-", Runtime::Podman),
        ("libpod-", Runtime::Podman),
        ("cri-containerd-", Runtime::Containerd),
        ("nerdctl-", Runtime::Containerd),
        ("containerd-", Runtime::Containerd),
        ("crio-", Runtime::CriO),
    ];
    let name = part.strip_suffix(".scope").unwrap_or(part);
    PREFIXES.iter().find_map(|(prefix, runtime)| {
        let id = name.strip_prefix(prefix).filter(|id| is_hex(id, 64))?;
        Some((*runtime, id))
    })
}

fn runtime_of_parent(above: &[&str]) -> Runtime {
    match above.last().copied().unwrap_or_default() {
        "docker" => Runtime::Docker,
        "libpod_parent" => Runtime::Podman,
        "buildkit" => Runtime::BuildKit,
        parent if pod_uid(parent).is_some() => Runtime::Kubernetes,
        _ if above.contains(&"ecs") => Runtime::Docker,
        _ => Runtime::Unknown,
    }
}

/// Fargate: `/ecs/TASK/TASK-NUMBER`, 32 hex digits and up to ten decimal ones.
fn is_ecs_id(part: &str, above: &[&str]) -> bool {
    above.contains(&"ecs")
        && part.split_once('-').is_some_and(|(task, number)| {
            is_hex(task, 32) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        })
}

fn lxc_or_machine(part: &str, parent: &str, below: Option<&str>) -> Option<ContainerPart> {
    let named = |runtime, name: &str| Some((runtime, unescape(name), None));
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return named(Runtime::Lxc, name);
    }
    if matches!(parent, "lxc" | "lxc.payload") {
        return named(Runtime::Lxc, part);
    }
    if let Some(name) = part.strip_prefix("systemd-nspawn@").and_then(|name| name.strip_suffix(".service")) {
        // The service's own process sits in `supervisor`; the machine's in `payload`.
        return if below == Some("supervisor") { None } else { named(Runtime::Machine, name) };
    }
    let machine = part.strip_prefix("machine-").and_then(|name| name.strip_suffix(".scope"))?;
    named(Runtime::Machine, machine)
}

/// The pod uid in a pod's cgroup: `podUID` (cgroupfs) or `kubepods-burstable-podUID.slice` (systemd, `_` for `-`).
fn pod_uid(part: &str) -> Option<String> {
    let name = part.split(':').next().unwrap_or(part);
    let uid = match name.strip_suffix(".slice") {
        Some(slice) if slice.contains("kubepods") => slice.rsplit_once("-pod")?.1,
        Some(_) => return None,
        None => name.strip_prefix("pod")?,
    };
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let only_uid = uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-' || b == b'_');
    (only_uid && digits == 32).then(|| uid.replace('_', "-"))
}

fn systemd_unit(part: &str) -> Option<SystemdUnit> {
    let (name, suffix) = part.rsplit_once('.')?;
    let kind = match suffix {
        "service" => UnitKind::Service,
        "scope" => UnitKind::Scope,
        "mount" | "socket" | "swap" => UnitKind::Helper,
        _ => return None,
    };
    (!name.is_empty()).then(|| SystemdUnit { name: unescape(name), kind })
}

/// Undoes systemd's `\x2d` escapes; anything else stays as it is.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        if let Some(byte) = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.extend_from_slice(b"\\x");
            rest = after;
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

fn is_lower_alphanumeric(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

#[cfg(test)]
#[rustfmt::skip]
mod tests {
    use super::*;

    const ID: &str = "3f0ff4f2dfc0cd41d3a9a3f1f6bd3ba8fc2b9e7c6a1d54a0f1c9f8c4d6e2b7a1";
    const INNER: &str = "aa0ff4f2dfc0cd41d3a9a3f1f6bd3ba8fc2b9e7c6a1d54a0f1c9f8c4d6e2b7bb";
    const UID: &str = "0a8c7b2e-4f1d-4c60-9a55-6d1f7b2c3e4f";

    fn container(runtime: Runtime, id: &str) -> Container {
        Container { runtime, id: id.to_owned(), pod_uid: None, containerd_namespace: None }
    }

    /// `ID`, `INNER`, `UID` and `U_D` in a line stand for the constants; `U_D` is the uid as systemd escapes it.
    fn expand(line: &str) -> String {
        let line = line.replace("INNER", INNER).replace("U_D", &UID.replace('-', "_"));
        line.replace("UID", UID).replace("ID", ID)
    }

    fn check(line: &str, expect: &Unit) {
        assert_eq!(unit_of(&expand(line)), *expect, "{line}");
    }

    fn check_container(line: &str, runtime: Runtime, id: &str) {
        check(line, &Unit::Container(container(runtime, &expand(id))));
    }

    fn check_pod(line: &str, runtime: Runtime) {
        let pod_uid = Some(UID.to_owned());
        check(line, &Unit::Container(Container { pod_uid, ..container(runtime, ID) }));
    }

    fn check_namespaced(line: &str, namespace: &str, id: &str) {
        let containerd_namespace = Some(namespace.to_owned());
        check(line, &Unit::Container(Container { containerd_namespace, ..container(Runtime::Containerd, &expand(id)) }));
    }

    fn check_unit(line: &str, name: &str, kind: UnitKind) {
        check(line, &Unit::Systemd(SystemdUnit { name: name.to_owned(), kind }));
    }

    #[test]
    fn docker() {
        check_container("0::/system.slice/docker-ID.scope", Runtime::Docker, "ID");
        check_container("0::/docker/ID", Runtime::Docker, "ID");
        check_container("12:memory:/docker/ID\n0::/", Runtime::Docker, "ID");
        check_container("0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", Runtime::Docker, "ID");
        check_container("4:cpu,cpuacct:/system.slice/docker-ID.scope\n1:name=systemd:/system.slice/docker-ID.scope\n0::/system.slice/containerd.service", Runtime::Docker, "ID");
        check_container("0::/../docker-ID.scope", Runtime::Docker, "ID");
        check_container("0::/actions_job/ID", Runtime::Unknown, "ID");
        check_container("0::/system.slice:docker:ID", Runtime::Docker, "ID");
        check_container("9:cpuset:/ecs/55091c13-b8cf-4801-b527-f4601742204d/ID", Runtime::Docker, "ID");
        check_container("9:cpuset:/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-1234567890", Runtime::Docker, "0123456789abcdef0123456789abcdef-1234567890");
    }

    #[test]
    fn a_container_in_a_container_is_the_inner_one() {
        check_container("0::/docker/ID/docker/INNER", Runtime::Docker, "INNER");
        check_container("0::/system.slice/docker-ID.scope/docker/INNER", Runtime::Docker, "INNER");
        check_container("0::/docker/ID/system.slice/nginx.service", Runtime::Docker, "ID");
        check_container("0::/docker/ID/init.scope", Runtime::Docker, "ID");
        check_pod("0::/docker/INNER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podU_D.slice/cri-containerd-ID.scope", Runtime::Containerd);
        check_pod("0::/system.slice/docker-INNER.scope/kubelet/kubepods/besteffort/podUID/ID", Runtime::Kubernetes);
    }

    #[test]
    fn podman() {
        check_container("0::/machine.slice/libpod-ID.scope", Runtime::Podman, "ID");
        check_container("0::/machine.slice/libpod-ID.scope/container", Runtime::Podman, "ID");
        check_container("8:memory:/libpod_parent/libpod-ID\n0::/libpod_parent/libpod-ID", Runtime::Podman, "ID");
        check_container("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", Runtime::Podman, "ID");
        check_container("0::/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_INNER.slice/libpod-ID.scope/container", Runtime::Podman, "ID");
        check_container("0::/system.slice/web.service/libpod-payload-ID", Runtime::Podman, "ID");
        check("0::/machine.slice/libpod-conmon-ID.scope", &Unit::Plain);
        check("0::/libpod_parent/conmon", &Unit::Plain);
        check("0::/machine.slice/libpod_pod_ID.slice", &Unit::Plain);
    }

    #[test]
    fn kubernetes() {
        check_pod("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_D.slice/cri-containerd-ID.scope", Runtime::Containerd);
        check_pod("0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_D.slice/crio-ID.scope", Runtime::CriO);
        check_pod("0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_D.slice/crio-ID.scope/container", Runtime::CriO);
        check_pod("0::/kubepods.slice/kubepods-podU_D.slice/docker-ID.scope", Runtime::Docker);
        check_pod("11:cpu,cpuacct:/kubepods/burstable/podUID/ID", Runtime::Kubernetes);
        check_pod("11:cpu,cpuacct:/kubepods/podUID/ID", Runtime::Kubernetes);
        check_pod("11:memory:/kubepods/besteffort/podUID/crio-ID", Runtime::CriO);
        check_pod("0::/../../kubepods-burstable-podU_D.slice/cri-containerd-ID.scope", Runtime::Containerd);
        check_pod("1:name=systemd:/system.slice/containerd.service/kubepods-burstable-podU_D.slice:cri-containerd:ID", Runtime::Containerd);
        check("0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_D.slice/crio-conmon-ID.scope", &Unit::Plain);
        check("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_D.slice", &Unit::Plain);
        let static_pod = Container { pod_uid: Some("0123456789abcdef0123456789abcdef".into()), ..container(Runtime::Kubernetes, ID) };
        check("4:cpu:/kubepods/burstable/pod0123456789abcdef0123456789abcdef/ID", &Unit::Container(static_pod));
    }

    #[test]
    fn containerd_without_kubernetes() {
        check_namespaced("0::/default/web", "default", "web");
        check_namespaced("3:memory:/k8s.io/ID\n0::/", "k8s.io", "ID");
        check_container("0::/system.slice/nerdctl-ID.scope", Runtime::Containerd, "ID");
        check_namespaced("0::/user.slice:nerdctl:web", "nerdctl", "web");
        check("0::/default", &Unit::Plain);
    }

    #[test]
    fn lxc_machines_and_builds() {
        check_container("0::/lxc.payload.web/system.slice/nginx.service", Runtime::Lxc, "web");
        check_container("5:memory:/lxc/101/ns/system.slice\n0::/", Runtime::Lxc, "101");
        check_container("0::/lxc.payload/db", Runtime::Lxc, "db");
        check("0::/lxc.monitor.web", &Unit::Plain);
        check_container("0::/machine.slice/machine-deb\\x2d12.scope/system.slice/cron.service", Runtime::Machine, "deb-12");
        check_container("0::/machine.slice/systemd-nspawn@deb.service/payload", Runtime::Machine, "deb");
        check_unit("0::/machine.slice/systemd-nspawn@deb.service/supervisor", "systemd-nspawn@deb", UnitKind::Service);
        check_container("0::/docker/buildkit/x1y2z3x1y2z3x1y2z3x1y2z3x", Runtime::BuildKit, "x1y2z3x1y2z3x1y2z3x1y2z3x");
    }

    #[test]
    fn systemd() {
        check_unit("0::/system.slice/nginx.service", "nginx", UnitKind::Service);
        check_unit("0::/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1", UnitKind::Service);
        check_unit("0::/init.scope", "init", UnitKind::Scope);
        check_unit("0::/user.slice/user-1000.slice/session-3.scope", "session-3", UnitKind::Scope);
        check_unit("0::/user.slice/user-1000.slice/user@1000.service/init.scope", "init", UnitKind::Scope);
        check_unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope", "vte-spawn-1", UnitKind::Scope);
        check_unit("0::/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service", "syncthing", UnitKind::Service);
        check_unit("0::/system.slice/run-docker\\x2dnetns.mount", "run-docker-netns", UnitKind::Helper);
        check_unit("0::/system.slice/postgresql.service/worker", "postgresql", UnitKind::Service);
        check_unit("9:memory:/\n1:name=systemd:/system.slice/ssh.service", "ssh", UnitKind::Service);
    }

    #[test]
    fn unknown_shapes_are_plain() {
        for line in [
            "", "\n", "0::/", "0::", "garbage", "0:", "::", "4:memory:/process_api/9afc5d7cbc081da8fff0302514c89e61",
            "0::/user.slice", "0::/.service", "0::/../..", "0::/docker", "0::/a:b:", "0::/\\x", "0::/lxc",
            "0::/kubepods/podXYZ/abc", "0::/docker-short.scope.d",
        ] {
            check(line, &Unit::Plain);
        }
        check_unit("0::/docker-short.scope", "docker-short", UnitKind::Scope);
        check_unit("0::/\\xzz\u{e9}.service", "\\xzz\u{e9}", UnitKind::Service);
    }

    #[test]
    fn no_path_panics() {
        let pieces = [
            "docker-", "libpod-", ID, ".scope", ".slice", "/", ":", "pod", UID, "kubepods-pod", "\\x2d", "\\x", "\u{e9}",
            "lxc", "default", "buildkit", "..", "machine-", "systemd-nspawn@", ".service", "cri-containerd", "ecs", "-", "",
        ];
        let mut random = 88_172_645_463_325_252_u64;
        for _ in 0..20_000 {
            let mut path = String::from("0::/");
            for _ in 0..8 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                path.push_str(pieces[(random % pieces.len() as u64) as usize]);
            }
            unit_of(&path);
        }
    }
}
