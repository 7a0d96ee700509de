//! The servers that are compared: where they listen and what can be read of them from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::load::meter::Meter;
use crate::process::{Running, printed_url};

/// A server and what is known of it. Written `URL[,name=NAME][,pid=PID|,cgroup=DIR][,data=DIR]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// What its column is headed.
    pub name: String,
    /// Where it listens; plain HTTP.
    pub url: String,
    /// How its CPU time and memory are read.
    pub meter: Option<Meter>,
    /// Where its data lies.
    pub data: Option<PathBuf>,
}

impl FromStr for Server {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(',');
        let url = parts.next().unwrap_or_default().to_owned();
        let host = url.strip_prefix("http://").filter(|host| !host.is_empty());
        let host = host.with_context(|| format!("{url:?} does not begin with http:// and a host"))?;
        let mut server = Self { name: host.to_owned(), url: url.clone(), meter: None, data: None };
        for part in parts {
            let (key, value) = part.split_once('=').with_context(|| format!("{part:?} is not KEY=VALUE"))?;
            match key {
                "name" => value.clone_into(&mut server.name),
                "data" => server.data = Some(value.into()),
                "pid" | "cgroup" if server.meter.is_some() => bail!("{text:?} has two of pid and cgroup"),
                "pid" => {
                    let pid = value.parse().with_context(|| format!("{value:?} is no process id"))?;
                    server.meter = Some(Meter::Process(pid));
                }
                "cgroup" => server.meter = Some(Meter::Cgroup(value.into())),
                _ => bail!("{key:?} is none of name, pid, cgroup and data"),
            }
        }
        Ok(server)
    }
}

/// A Pyrite that runs until this goes out of scope, and its data with it.
pub struct Started {
    /// How it is reached.
    pub server: Server,
    _running: Running,
    _data: TempDir,
}

impl Started {
    /// Starts `pyrite server` on a free port with an empty data directory in the directory for temporary files.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn pyrite(binary: &Path) -> Result<Self> {
        let data = tempfile::tempdir().context("no directory for its data")?;
        let mut child = Command::new(binary)
            .args(["server", "--listen", "127.0.0.1:0", "--data"])
            .arg(data.path())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start; run `make build`", binary.display()))?;
        let pid = child.id();
        let url = printed_url(&mut child);
        let running = Running(vec![child]);
        let server = Server {
            name: "pyrite".to_owned(),
            url: url?,
            meter: Some(Meter::Process(pid)),
            data: Some(data.path().to_owned()),
        };
        Ok(Self { server, _running: running, _data: data })
    }
}

/// What the files below a directory take on the disk. Files that go meanwhile take nothing.
///
/// # Errors
/// Where there is no such directory.
pub fn disk_bytes(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;

    ensure!(directory.is_dir(), "{} is no directory", directory.display());
    let (mut bytes, mut open) = (0, vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let entry = entry?;
            match entry.metadata() {
                Ok(found) if found.is_dir() => open.push(entry.path()),
                Ok(found) => bytes += found.blocks() * 512,
                Err(_gone) => {}
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_they_are_written() {
        let all = "http://127.0.0.1:4040,name=peer,pid=7,data=/srv/peer";
        let expect = Server {
            name: "peer".into(),
            url: "http://127.0.0.1:4040".into(),
            meter: Some(Meter::Process(7)),
            data: Some("/srv/peer".into()),
        };
        assert_eq!(all.parse::<Server>().unwrap(), expect);
        let short: Server = "http://host:1,cgroup=/sys/fs/cgroup/peer".parse().unwrap();
        let cgroup = Some(Meter::Cgroup("/sys/fs/cgroup/peer".into()));
        assert_eq!((short.name.as_str(), short.meter, short.data), ("host:1", cgroup, None));
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for (text, reason) in [
            ("127.0.0.1:4040", "http://"),
            ("https://host", "http://"),
            ("http://", "http://"),
            ("http://host,pid", "KEY=VALUE"),
            ("http://host,pid=me", "process id"),
            ("http://host,pid=1,cgroup=/x", "two of"),
            ("http://host,disk=/x", "none of"),
        ] {
            let error = text.parse::<Server>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn files_are_counted_at_every_depth() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(disk_bytes(dir.path()).unwrap(), 0);
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("one"), vec![1; 100_000]).unwrap();
        fs::write(dir.path().join("a/b/two"), vec![2; 200_000]).unwrap();
        let bytes = disk_bytes(dir.path()).unwrap();
        assert!((300_000..340_000).contains(&bytes), "{bytes}");
        assert!(disk_bytes(&dir.path().join("none")).is_err());
    }
}
