//! A push over a real socket: how long a client waits until its profile is on disk, and what taking it in costs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use prost::encoding::encode_varint;
use pyrite_bench::figures::quantile;
use pyrite_model::{Matcher, ProfileType, Selector, Tenants, TimeRange, UnixMs};
use pyrite_server::{ServerLimits, ServerState, Tenancy, serve};
use pyrite_store::{StackQuery, Store, StoreConfig};

use crate::flame::{PUSHED_SAMPLES, pushed_profile};
use crate::harness::{Report, threads_cpu_time};

const PUSHES: u32 = 500;
const PUSHES_PER_SECOND: u32 = 50;
const SERVICES: u32 = 25;

/// 50 pushes a second for ten seconds; latency counts from when a push was due, not from when it was sent.
pub(crate) fn acknowledge(report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(StoreConfig::new(dir.path()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let state = ServerState::new(Arc::new(store.clone()), None, Tenancy::default(), ServerLimits::default());
    runtime.spawn(serve(listener, state, std::future::pending()));

    let now = UnixMs(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as i64);
    let bodies = (0..SERVICES).map(|n| push_request(n, now)).collect::<Result<Vec<_>>>()?;
    // The client is this thread; everything else is what the push costs.
    let me = std::fs::read_to_string("/proc/thread-self/comm")?;
    let server_cpu = || threads_cpu_time(|name| name != me.trim_end());
    let begun = server_cpu()?;
    let mut waited = push_all(address, &bodies)?;
    let cpu = server_cpu()?.saturating_sub(begun);

    let query = StackQuery::new(
        Tenants::default(),
        ProfileType::cpu_time(),
        Selector::all().with(Matcher::equal("service_name", "pushed-3")),
        TimeRange::new(UnixMs(now.0 - 60_000), UnixMs(now.0 + 120_000)),
    );
    let stored = store.merge_stacks(&query)?.total();
    ensure!(stored > 0 && store.stats().rows >= u64::from(PUSHES) * PUSHED_SAMPLES * 9 / 10, "all is stored");
    report.line(
        "push over HTTP, server side, 660 samples each",
        "samples",
        u64::from(PUSHES) * PUSHED_SAMPLES,
        cpu,
    )?;
    let (p50, p99) = (quantile(&mut waited, 0.5)?, quantile(&mut waited, 0.99)?);
    report.note("  acknowledged, 50 pushes/s", &format!("p50 {p50:.1?}, p99 {p99:.1?}"));
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(store.close()?)
}

fn push_all(address: SocketAddr, bodies: &[Vec<u8>]) -> Result<Vec<Duration>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (mut answers, mut requests) = (BufReader::new(stream.try_clone()?), stream);
    let start = Instant::now();
    let mut waited = Vec::new();
    for n in 0..PUSHES {
        let due = start + Duration::from_secs(1) * n / PUSHES_PER_SECOND;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        requests.write_all(&bodies[(n % SERVICES) as usize])?;
        let status = read_answer(&mut answers)?;
        ensure!(status.starts_with("HTTP/1.1 200"), "{status}");
        waited.push(due.elapsed());
    }
    Ok(waited)
}

/// Reads one answer and returns its status line.
fn read_answer(answers: &mut impl BufRead) -> Result<String> {
    let mut status = String::new();
    answers.read_line(&mut status)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        answers.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().context("content-length is a number")?;
        }
    }
    std::io::copy(&mut answers.take(length), &mut std::io::sink())?;
    Ok(status)
}

/// `PushRequest { series: [{ labels, samples: [{ raw_profile }] }] }` as an HTTP request.
fn push_request(service: u32, now: UnixMs) -> Result<Vec<u8>> {
    let name = label("__name__", "process_cpu");
    let service_name = label("service_name", &format!("pushed-{service}"));
    let sample = field(2, &field(1, &pushed_profile(now, u64::from(service))?));
    let body = field(1, &[name, service_name, sample].concat());
    let head = format!(
        "POST /push.v1.PusherService/Push HTTP/1.1\r\nhost: pyrite\r\ncontent-type: application/proto\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    Ok([head.as_bytes(), &body].concat())
}

fn label(name: &str, value: &str) -> Vec<u8> {
    field(1, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat())
}

/// A length-delimited protobuf field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}
