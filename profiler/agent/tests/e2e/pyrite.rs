//! Drives the real binary: starts it, talks HTTP to it, stops or kills it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// CPU time, the profile type that every test reads.
pub(crate) const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

/// Each test has a store of its own, so that what is younger than this is all of it.
const LONGEST_TEST_MS: i64 = 30 * 60 * 1000;

/// A running Pyrite; killed when dropped.
pub(crate) struct Pyrite {
    child: Child,
    address: String,
    /// When the process was started.
    pub(crate) started: Instant,
}

/// An HTTP response with its body as bytes.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The binary under test, with no configuration but its arguments.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pyrite"));
    command.args(args);
    command
}

/// The wall clock, in the API's unit.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis())
        .expect("before 292M")
}

/// Calls `probe` until it answers, for so long that what comes at all has come, however busy the machine is.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    const PATIENCE: Duration = Duration::from_mins(2);
    let start = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Pyrite {
    /// `pyrite run` on a free port.
    pub(crate) fn run(data: &Path, more: &[&str]) -> Self {
        Self::start("run", data, more, Stdio::inherit())
    }

    /// `pyrite server` on a free port.
    pub(crate) fn server(data: &Path) -> Self {
        Self::start("server", data, &[], Stdio::inherit())
    }

    /// The same with more arguments, and its log in a file.
    pub(crate) fn server_with(data: &Path, log: &Path, more: &[&str]) -> Self {
        Self::start("server", data, more, File::create(log).expect("ours to write").into())
    }

    fn start(subcommand: &str, data: &Path, more: &[&str], stderr: Stdio) -> Self {
        let started = Instant::now();
        let mut child = command(&[subcommand, "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, receiver) = mpsc::channel();
        // Reads on after the address so that Pyrite never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("http://") {
                    let _ = sender.send(address.trim().trim_end_matches('/').to_owned());
                }
            }
        });
        let address = receiver.recv_timeout(Duration::from_mins(2)).expect("pyrite prints its address");
        Self { child, address, started }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it as an operator would.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        eventually("pyrite ends after SIGTERM", || self.child.try_wait().expect("our child"))
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it still runs");
        self.child.wait().expect("our child");
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.request("GET", path, "", &[])
    }

    pub(crate) fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Response {
        self.request("POST", path, content_type, body)
    }

    /// A Connect JSON call that must succeed.
    pub(crate) fn call(&self, method: &str, request: &Value) -> Value {
        let path = format!("/querier.v1.QuerierService/{method}");
        let response = self.post(&path, "application/json", request.to_string().as_bytes());
        assert_eq!(response.status, 200, "{method}: {}", response.text());
        response.json()
    }

    /// CPU nanoseconds of every function itself, of all that is stored.
    pub(crate) fn self_values(&self, selector: &str) -> Vec<(String, i64)> {
        self.self_values_of(CPU, selector)
    }

    /// The same of any profile type.
    pub(crate) fn self_values_of(&self, profile_type: &str, selector: &str) -> Vec<(String, i64)> {
        let end = now_ms() + 1000;
        let start = end - LONGEST_TEST_MS;
        let request = json!({
            "profileTypeID": profile_type, "labelSelector": selector, "start": start, "end": end,
            "maxNodes": 65536,
        });
        let flamegraph = &self.call("SelectMergeStacktraces", &request)["flamegraph"];
        let names: Vec<&str> =
            flamegraph["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut values: Vec<(String, i64)> = names.iter().map(|name| ((*name).to_owned(), 0)).collect();
        for level in flamegraph["levels"].as_array().into_iter().flatten() {
            let numbers: Vec<i64> = level["values"].as_array().into_iter().flatten().map(int).collect();
            for node in numbers.chunks_exact(4) {
                values[usize::try_from(node[3]).expect("an index")].1 += node[2];
            }
        }
        values
    }

    /// All CPU time under a selector.
    pub(crate) fn cpu_ns(&self, selector: &str) -> i64 {
        self.self_values(selector).iter().map(|(_, ns)| ns).sum()
    }

    /// CPU nanoseconds per second of the last minute and per value of `label`; times are Unix milliseconds.
    pub(crate) fn cpu_series(&self, selector: &str, label: &str) -> BTreeMap<String, Vec<(i64, f64)>> {
        let end = now_ms() / 1000 * 1000 + 2000;
        let request = json!({
            "profileTypeID": CPU, "labelSelector": selector, "start": end - 60_000, "end": end, "step": 1.0,
            "groupBy": [label],
        });
        let answer = self.call("SelectSeries", &request);
        let point = |point: &Value| (int(&point["timestamp"]), point["value"].as_f64().unwrap_or(0.0));
        let series = answer["series"].as_array().into_iter().flatten();
        let entry = |series: &Value| {
            let value = series["labels"][0]["value"].as_str().unwrap_or_default().to_owned();
            (value, series["points"].as_array().into_iter().flatten().map(point).collect())
        };
        series.map(entry).collect()
    }

    /// What `/api/v1/services` says of the last minute, by name.
    pub(crate) fn services(&self) -> BTreeMap<String, Value> {
        let (from, until) = (now_ms() - 60_000, now_ms() + 1000);
        let answer = self.get(&format!("/api/v1/services?from={from}&until={until}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let services = answer.json()["services"].as_array().cloned().unwrap_or_default();
        services.into_iter().map(|s| (s["service_name"].as_str().unwrap_or_default().to_owned(), s)).collect()
    }

    fn request(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Response {
        self.request_of(None, method, path, (content_type, body))
    }

    /// A request that says whose it is.
    pub(crate) fn request_of(
        &self,
        tenant: Option<&str>,
        method: &str,
        path: &str,
        content: (&str, &[u8]),
    ) -> Response {
        let header = tenant.map_or_else(String::new, |tenant| format!("X-Scope-OrgID: {tenant}\r\n"));
        send_with(&self.address, method, path, content, &header).expect("pyrite answers")
    }
}

/// One HTTP request; an error where the answer does not come or is cut short.
pub(crate) fn send(address: &str, method: &str, path: &str, content: (&str, &[u8])) -> io::Result<Response> {
    send_with(address, method, path, content, "")
}

/// The same with more lines of header, each with its end.
fn send_with(
    address: &str,
    method: &str,
    path: &str,
    (content_type, body): (&str, &[u8]),
    header: &str,
) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: pyrite\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n{header}\r\n"
    )?;
    stream.write_all(body)?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw)?;
    parse_response(&raw).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl Drop for Pyrite {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An int64 of proto3 JSON: a string, and a number where a client sent one.
pub(crate) fn int(value: &Value) -> i64 {
    value
        .as_i64()
        .or_else(|| value.as_str()?.parse().ok())
        .unwrap_or_else(|| panic!("{value} is not an integer"))
}

fn parse_response(raw: &[u8]) -> Option<Response> {
    let split = raw.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&raw[..split]).to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = &raw[split + 4..];
    if head.contains("transfer-encoding: chunked") {
        return Some(Response { status, body: unchunk(body)? });
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    (length.trim().parse() == Ok(body.len())).then(|| Response { status, body: body.to_vec() })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 4 + size..)?;
    }
}
