//! All pushes of a load, made beforehand and kept in a temporary file: those of a day are too much for memory.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::thread;

use anyhow::{Context, Result};
use hyper::body::Bytes;
use prost::Message as _;

use crate::load::wire::{LabelPair, PushRequest, RawProfileSeries, RawSample};
use crate::load::{LOAD_LABEL, Load};
use crate::recipe::{Container, Minute, encode, gzip};

/// The first part of the profile type of all pushes.
const PROFILE_NAME: &str = "process_cpu";

/// Requests, in the order of their profiles' times.
pub struct Spool {
    file: File,
    /// Where each request begins and how long it is.
    requests: Vec<(u64, usize)>,
    /// Samples of all profiles.
    pub samples: u64,
    /// The profiles before they were packed.
    pub raw_bytes: u64,
    /// The profiles as they are sent.
    pub packed_bytes: u64,
}

struct Request {
    time_ms: i64,
    samples: usize,
    raw_bytes: usize,
    packed_bytes: usize,
    bytes: Vec<u8>,
}

impl Spool {
    /// Makes all pushes, on every CPU.
    ///
    /// # Errors
    /// Where the directory for temporary files has no room for them.
    pub fn prepare(load: &Load) -> Result<Self> {
        let threads = thread::available_parallelism().map_or(1, Into::into);
        let mut spool = Self {
            file: tempfile::tempfile().context("no temporary file for the pushes")?,
            requests: Vec::new(),
            samples: 0,
            raw_bytes: 0,
            packed_bytes: 0,
        };
        let mut out = BufWriter::with_capacity(1 << 20, spool.file.try_clone()?);
        let mut end = 0;
        for minute in load.span.each_minute() {
            let mut requests = requests_of(load, minute, threads);
            requests.sort_by_key(|request| request.time_ms);
            for request in requests {
                out.write_all(&request.bytes).context("no room for the pushes")?;
                spool.requests.push((end, request.bytes.len()));
                end += request.bytes.len() as u64;
                spool.samples += request.samples as u64;
                spool.raw_bytes += request.raw_bytes as u64;
                spool.packed_bytes += request.packed_bytes as u64;
            }
        }
        out.flush().context("no room for the pushes")?;
        drop(out);
        Ok(spool)
    }

    /// How many pushes there are.
    pub fn pushes(&self) -> usize {
        self.requests.len()
    }

    /// A request's body; `None` behind the last.
    pub(super) fn request(&self, n: usize) -> Result<Option<Bytes>> {
        let Some(&(offset, len)) = self.requests.get(n) else { return Ok(None) };
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).context("the temporary file of the pushes")?;
        Ok(Some(bytes.into()))
    }
}

fn requests_of(load: &Load, minute: Minute, threads: usize) -> Vec<Request> {
    let containers = load.recipe.containers();
    let part = containers.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> = containers
            .chunks(part)
            .map(|part| {
                scope.spawn(move || part.iter().map(|c| request(load, c, minute)).collect::<Vec<_>>())
            })
            .collect();
        let joined = parts.into_iter().map(|part| part.join().expect("a recipe has no bad input to fail on"));
        joined.flatten().collect()
    })
}

fn request(load: &Load, container: &Container, minute: Minute) -> Request {
    let rows = container.minute(minute);
    let time_ms = load.span.start_ms + container.pushed_at_ms(minute);
    let raw = encode(container, &rows, time_ms);
    let raw_profile = gzip(&raw);
    let packed_bytes = raw_profile.len();
    let pair = |(name, value): (&str, String)| LabelPair { name: name.to_owned(), value };
    let own = [("__name__", PROFILE_NAME.to_owned()), (LOAD_LABEL, load.name.clone())];
    let labels = own.into_iter().chain(container.labels()).map(pair).collect();
    let series = vec![RawProfileSeries { labels, samples: vec![RawSample { raw_profile }] }];
    let bytes = PushRequest { series }.encode_to_vec();
    Request { time_ms, samples: rows.len(), raw_bytes: raw.len(), packed_bytes, bytes }
}
