//! Podman without its socket: each container's monitor, conmon, has the name and storage in its arguments.
//!
//! `conmon -c ID -n NAME -b GRAPHROOT/overlay-containers/ID/userdata …` is an ancestor of the container's processes.
//! The image is in `GRAPHROOT/overlay-containers/containers.json`, read through conmon's own root directory.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Metadata, RuntimeMiss};
use crate::identity::process;

/// How far up conmon is looked for.
const MAX_ANCESTORS: usize = 64;
/// A host with thousands of containers has a few megabytes.
const MAX_LIST_BYTES: u64 = 32 << 20;

/// What conmon was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Conmon {
    name: String,
    /// The directory that holds the container's own directory and `containers.json`.
    list: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// JSON within JSON.
    #[serde(default)]
    metadata: String,
}

#[derive(Default, Deserialize)]
struct ListedMetadata {
    #[serde(default, rename = "image-name")]
    image_name: String,
    #[serde(default)]
    name: String,
}

/// What is known of the container `id`, of which `tgid` is a process.
pub(super) fn inspect(tgid: Option<u32>, id: &str) -> Result<Metadata, RuntimeMiss> {
    let monitor = tgid.and_then(|tgid| find_conmon(tgid, id));
    let Some((root, conmon)) = monitor else {
        return listed(Path::new("/var/lib/containers/storage/overlay-containers/containers.json"), id);
    };
    let list = conmon.list.map(|list| join_below(&root, &list).join("containers.json"));
    let listed = list.map_or(Err(RuntimeMiss::NotFound), |list| listed(&list, id));
    match listed {
        Ok(metadata) => Ok(metadata),
        Err(_) if !conmon.name.is_empty() => Ok(Metadata { name: conmon.name, ..Metadata::default() }),
        Err(miss) => Err(miss),
    }
}

/// The conmon of container `id` among the ancestors of `tgid`, with the root directory that its paths start from.
fn find_conmon(tgid: u32, id: &str) -> Option<(PathBuf, Conmon)> {
    let mut next = tgid;
    for _ in 0..MAX_ANCESTORS {
        let (parent, comm) = process::parent_and_comm(next).ok()?;
        if comm == "conmon" {
            let conmon = parse_arguments(&process::arguments(next).ok()?, id)?;
            return Some((PathBuf::from(format!("/proc/{next}/root")), conmon));
        }
        next = Some(parent).filter(|&parent| parent > 1)?;
    }
    None
}

fn parse_arguments(arguments: &[String], id: &str) -> Option<Conmon> {
    let value = |short: &str, long: &str| {
        let at = arguments.iter().position(|a| a == short || a == long)?;
        arguments.get(at + 1).map(String::as_str)
    };
    if value("-c", "--cid")? != id {
        return None;
    }
    let bundle = value("-b", "--bundle").map(Path::new);
    // The bundle is `…/overlay-containers/ID/userdata`.
    let list = bundle.and_then(|bundle| bundle.parent()?.parent()).map(Path::to_owned);
    Some(Conmon { name: value("-n", "--name").unwrap_or_default().to_owned(), list })
}

fn join_below(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

fn listed(list: &Path, id: &str) -> Result<Metadata, RuntimeMiss> {
    let file = open_regular(list)?;
    let mut text = Vec::new();
    file.take(MAX_LIST_BYTES).read_to_end(&mut text).map_err(|_unreadable| RuntimeMiss::Denied)?;
    parse_list(&text, id)
}

/// Any process can call itself conmon and name any path: opening a FIFO would block, opening a device can act on it.
fn open_regular(path: &Path) -> Result<File, RuntimeMiss> {
    let open = |path: &Path, flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
    let handle = open(path, libc::O_PATH).map_err(|_no_such_storage| RuntimeMiss::NotFound)?;
    if !handle.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(RuntimeMiss::Malformed);
    }
    let through_handle = format!("/proc/self/fd/{}", handle.as_raw_fd());
    open(Path::new(&through_handle), libc::O_NONBLOCK).map_err(|_unreadable| RuntimeMiss::Denied)
}

fn parse_list(text: &[u8], id: &str) -> Result<Metadata, RuntimeMiss> {
    // Podman rewrites the file in place of the old one, so a torn one is rare; it is asked for again later.
    let all: Vec<Listed> = serde_json::from_slice(text).map_err(|_torn| RuntimeMiss::Malformed)?;
    let found = all.into_iter().find(|listed| listed.id == id).ok_or(RuntimeMiss::NotFound)?;
    let metadata: ListedMetadata = serde_json::from_str(&found.metadata).unwrap_or_default();
    let name = found.names.into_iter().next().unwrap_or(metadata.name);
    Ok(Metadata { name, image: metadata.image_name, ..Metadata::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conmon_arguments() {
        let line = "conmon --api-version 1 -c 12ab -u 12ab -r /usr/sbin/runc -b /d/root/overlay-containers/12ab/userdata \
                    -p /d/run/pidfile -n web --exit-dir /d/exits --full-attach";
        let arguments: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
        let expect = Conmon { name: "web".into(), list: Some("/d/root/overlay-containers".into()) };
        assert_eq!(parse_arguments(&arguments, "12ab"), Some(expect));
        assert_eq!(parse_arguments(&arguments, "34cd"), None, "conmon of an outer container");
        assert_eq!(parse_arguments(&arguments[..3], "12ab"), None);
        let bare = ["conmon", "-c", "12ab", "-n"].map(str::to_owned);
        assert_eq!(parse_arguments(&bare, "12ab"), Some(Conmon::default()));
    }

    #[test]
    fn storage_list() {
        let text = br#"[{"id":"12ab","names":["web"],"image":"f00","layer":"1",
            "metadata":"{\"image-name\":\"localhost/bb:1\",\"image-id\":\"f00\",\"name\":\"web\"}"},{"id":"34cd"}]"#;
        let web = Metadata { name: "web".into(), image: "localhost/bb:1".into(), ..Metadata::default() };
        assert_eq!(parse_list(text, "12ab"), Ok(web));
        assert_eq!(parse_list(text, "34cd"), Ok(Metadata::default()));
        assert_eq!(parse_list(text, "56ef"), Err(RuntimeMiss::NotFound));
        assert_eq!(parse_list(&text[..40], "12ab"), Err(RuntimeMiss::Malformed));
    }

    #[test]
    fn a_list_that_is_no_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("containers.json");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(listed(&fifo, "12ab"), Err(RuntimeMiss::Malformed));
        assert_eq!(listed(directory.path(), "12ab"), Err(RuntimeMiss::Malformed));
        assert_eq!(listed(&directory.path().join("absent"), "12ab"), Err(RuntimeMiss::NotFound));
    }

    #[test]
    fn paths_stay_below_the_root_they_are_seen_from() {
        let joined = join_below(Path::new("/proc/7/root"), Path::new("/var/lib"));
        assert_eq!(joined, Path::new("/proc/7/root/var/lib"));
    }
}
