//! The driver of stores against Pyrite's own server, and against servers that are not as they should be.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use pyrite_bench::load::{Comparison, Load, Orders, Outcome, PushOrders, Server, Spool, drive};
use pyrite_bench::recipe::Span;
use pyrite_server::{ServerLimits, ServerState, Tenancy, serve};
use pyrite_store::{Store, StoreConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const CONTAINERS: u32 = 4;
const MINUTES: u32 = 6;

fn load() -> Load {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    Load::new(1, CONTAINERS, Span { start_ms: now_s * 1000 - i64::from(MINUTES) * 60_000, minutes: MINUTES })
}

fn spool(load: &Load) -> Arc<Spool> {
    let spool = Spool::prepare(load).unwrap();
    assert_eq!(spool.pushes(), (CONTAINERS * MINUTES) as usize);
    Arc::new(spool)
}

fn orders(repeats: Option<u32>) -> Orders {
    let pushes = Some(PushOrders { in_flight: 3, per_second: None });
    Orders { pushes, idle: Duration::from_millis(1), repeats }
}

fn shown(outcome: Outcome, spool: &Spool) -> String {
    Comparison::new(&[outcome], Some(spool)).to_string()
}

/// Pyrite's server over a store of its own, on a free port.
struct Pyrite {
    server: Server,
    runtime: Runtime,
    _data: TempDir,
}

impl Pyrite {
    fn start() -> Self {
        let data = TempDir::new().unwrap();
        let (store, _) = Store::open(StoreConfig::new(data.path())).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let spec =
            format!("http://{},name=own,data={}", listener.local_addr().unwrap(), data.path().display());
        let state = ServerState::new(Arc::new(store), None, Tenancy::default(), ServerLimits::default());
        runtime.spawn(serve(listener, state, std::future::pending()));
        Self { server: spec.parse().unwrap(), runtime, _data: data }
    }

    fn stop(self) {
        self.runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

#[test]
fn every_answer_of_pyrite_is_as_pushed() {
    let pyrite = Pyrite::start();
    let load = load();
    let spool = spool(&load);
    let outcome = drive(&pyrite.server, &load, Some(&spool), &orders(Some(2))).unwrap();
    let table = shown(outcome, &spool);
    for row in [
        "acknowledged, p99, ms",
        "flame graph of all 4, warm, ms",
        "flame graph of one, first, ms",
        "diff of halves, all 4, warm, ms",
        "SelectSeries by service, 15 s, warm, ms",
        "LabelValues, warm, ms",
        "pprof of one, answer, kB",
        "at rest, at the end, bytes a sample",
    ] {
        assert!(table.lines().any(|line| line.starts_with(row)), "no {row}:\n{table}");
    }
    // All is there already.
    let asked = Orders { pushes: None, ..orders(Some(0)) };
    drive(&pyrite.server, &load, None, &asked).unwrap();
    pyrite.stop();
}

#[test]
fn twice_as_much_is_not_right() {
    let pyrite = Pyrite::start();
    let load = load();
    let spool = spool(&load);
    drive(&pyrite.server, &load, Some(&spool), &orders(None)).unwrap();
    let error = format!("{:#}", drive(&pyrite.server, &load, Some(&spool), &orders(Some(0))).err().unwrap());
    assert!(error.starts_with("own: flame graph of all 4: a total of "), "{error}");
    pyrite.stop();
}

/// A server that answers each request, counted from 0, with a status and nothing more.
fn answers(status: fn(usize) -> &'static str) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{},name=odd", listener.local_addr().unwrap()).parse().unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answered = Arc::clone(&answered);
            // Ends when the client hangs up.
            thread::spawn(move || answer_all(&stream.unwrap(), &answered, status));
        }
    });
    server
}

fn answer_all(stream: &TcpStream, answered: &AtomicUsize, status: fn(usize) -> &'static str) -> Result<()> {
    let mut requests = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            anyhow::ensure!(requests.read_line(&mut line)? > 0, "the client hung up");
            match line.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse()?;
                }
                None if line.trim().is_empty() => break,
                _ => {}
            }
        }
        std::io::copy(&mut (&mut requests).take(length), &mut std::io::sink())?;
        let status = status(answered.fetch_add(1, Ordering::Relaxed));
        write!(&mut &*stream, "HTTP/1.1 {status}\r\ncontent-length: 9\r\n\r\nall of it")?;
    }
}

#[test]
fn a_push_that_is_refused_for_now_is_sent_again() {
    let server = answers(|n| if n % 8 == 0 { "429 Too Many Requests" } else { "200 OK" });
    let load = load();
    let spool = spool(&load);
    let table = shown(drive(&server, &load, Some(&spool), &orders(None)).unwrap(), &spool);
    // 24 pushes and the refusals among them: of 28 answers those numbered 0, 8, 16 and 24.
    let refused = table.lines().find(|line| line.starts_with("told to come later")).unwrap();
    assert!(refused.ends_with(" 4.00"), "{table}");
    assert!(table.ends_with("odd, when it told pushes to come later: all of it\n"), "{table}");
}

#[test]
fn a_push_that_fails_ends_the_run() {
    let server = answers(|n| if n == 5 { "500 Internal Server Error" } else { "200 OK" });
    let load = load();
    let spool = spool(&load);
    let error = format!("{:#}", drive(&server, &load, Some(&spool), &orders(None)).err().unwrap());
    assert!(error.starts_with("pushing to odd: the server answers 500"), "{error}");
    assert!(error.ends_with("all of it"), "{error}");
}

/// It takes all pushes and answers queries with nine bytes that are no flame graph.
#[test]
fn an_answer_that_makes_no_sense_ends_the_run() {
    let server = answers(|_| "200 OK");
    let load = load();
    let spool = spool(&load);
    let error = drive(&server, &load, Some(&spool), &orders(Some(0))).err().unwrap();
    assert!(format!("{error:#}").starts_with("odd: flame graph of all 4: "), "{error:#}");
}

#[test]
fn pushes_keep_to_their_rate() {
    let server = answers(|_| "200 OK");
    let load = load();
    let spool = spool(&load);
    let pushes = Some(PushOrders { in_flight: 2, per_second: Some(40.0) });
    let begun = std::time::Instant::now();
    drive(&server, &load, Some(&spool), &Orders { pushes, ..orders(None) }).unwrap();
    // The last of 24 is due 23/40 s after the first.
    assert!(begun.elapsed() >= Duration::from_millis(575), "{:?}", begun.elapsed());
}
