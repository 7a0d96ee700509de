//! `pyrite record`: one profile of the node, a process, a container or a command, written to a file.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use hashbrown::HashMap;
use indicatif::{ProgressBar, ProgressStyle};
use pyrite_bpf::OffFate;
use pyrite_model::pprof::ExportMeta;
use pyrite_model::{Batch, LabelSet, ProfileType, StackId, StackProfile, SymbolTable, names};
use pyrite_sampling::{Event, Filter};
use pyrite_symbolizer::SymbolizerConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::{Format, Recording};
use super::workload::{Workload, exit_code};
use crate::cli::RecordArgs;
use crate::config::check_frequency;
use crate::identity::{Identity, IdentityConfig};
use crate::privilege;
use crate::rows::{RowMaker, RowStream};
use crate::sampler::{Delivery, OffCpuBudget, OffCpuStats, Sampler, SamplerConfig};
use crate::sys;

const DEFAULT_DURATION: Duration = Duration::from_secs(10);
const QUEUE_EVENTS: usize = 8192;
const TICK: Duration = Duration::from_millis(50);
/// How long a second waits for a container's name; nobody is waiting for the row.
const HOLD: Duration = Duration::from_secs(2);
/// Times off the CPU are written in microseconds, as its usual tools do.
const NS_PER_US: i64 = 1_000;

/// Records, writes the file, and ends with the exit code of the command if there was one.
pub fn record(args: &RecordArgs) -> Result<ExitCode> {
    let format = Format::of(&args.output)?;
    ensure_directory(&args.output)?;
    check_frequency(args.frequency)?;
    if let Some(refusal) = privilege::refusal() {
        bail!(refusal);
    }
    sys::raise_open_file_limit();
    let mut workload = match args.command.as_slice() {
        [] => None,
        command => Some(Workload::hold_back(command)?),
    };
    let session = Session::start(args, workload.as_ref())?;
    let recorded = session.run(args, workload.as_mut())?;
    write(&args.output, &recorded.encode(format)?)?;
    let total = recorded.values.total();
    let (seconds, file) = ((total as f64 * recorded.meta.period as f64) / 1e9, args.output.display());
    if args.off_cpu {
        eprintln!("{seconds:.2} s off the CPU in all threads together, written to {file}");
    } else {
        eprintln!("{total} samples, {seconds:.2} s of CPU, written to {file}");
    }
    match workload.as_mut() {
        Some(workload) => Ok(exit_code(workload.wait()?)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Refuses a file that could not be written before time is spent on recording.
pub(super) fn ensure_directory(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let is_there = directory.is_none_or(Path::is_dir);
    ensure!(is_there, "failed to write {}: its directory does not exist", path.display());
    Ok(())
}

/// Writes beside the target and renames: a recording that fails to be written leaves the old file as it was.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".partial");
    fs::write(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("failed to write {}", path.display()))
}

/// A running recording.
struct Session {
    sampler: Sampler,
    events: Receiver<Event>,
    stream: RowStream,
    started: Instant,
    started_at: SystemTime,
    collected: Collected,
}

impl Session {
    fn start(args: &RecordArgs, workload: Option<&Workload>) -> Result<Self> {
        let mut filter = Filter::default();
        let root = args.pid.or(workload.map(Workload::tgid));
        if let Some(tgid) = root {
            ensure!(Path::new(&format!("/proc/{tgid}")).exists(), "there is no process {tgid}");
            filter.roots.insert(tgid);
        }
        let mut identity = Identity::new(IdentityConfig::default())?;
        if let Some(name) = &args.container {
            ensure_container(name, &mut identity)?;
        }
        let (sender, events) = sync_channel(QUEUE_EVENTS);
        let frequency_hz = u64::from(args.frequency);
        let allow_freezing_kernel = args.allow_freezing_kernel;
        let off_cpu = if args.off_cpu { OffCpuBudget::Recording } else { OffCpuBudget::Off };
        let config = SamplerConfig {
            frequency_hz,
            filter,
            off_cpu,
            allow_freezing_kernel,
            ..SamplerConfig::default()
        };
        let executables = Arc::clone(&config.unwind.executables);
        let sampler = Sampler::start(config, move |event| match sender.try_send(event) {
            Ok(()) => Delivery::Taken,
            Err(_) => Delivery::QueueFull,
        })?;
        ensure!(
            sampler.stats().off_cpu.is_some() == args.off_cpu,
            "time off the CPU cannot be recorded on this kernel; the line above says why"
        );
        let symbols = SymbolizerConfig { debug_info: args.lines, ..SymbolizerConfig::default() };
        let maker = RowMaker::new(args.frequency, symbols, executables);
        let stream = RowStream::new(maker, identity, sampler.stats().source);
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let collected = Collected::new(args);
        Ok(Self { sampler, events, stream, started, started_at, collected })
    }

    fn run(mut self, args: &RecordArgs, workload: Option<&mut Workload>) -> Result<Recording> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.sample(args, workload))?;
        let stats = self.sampler.stop();
        while let Ok(event) = self.events.recv() {
            self.stream.on_event(event);
        }
        while let Some(ready) = self.stream.next_ready(Duration::ZERO) {
            self.collected.add(&ready.batch);
        }
        match &stats.off_cpu {
            Some(off_cpu) => say_what_is_missing(off_cpu),
            None if stats.ledger.lost() > 0 => {
                let (lost, owed) = (stats.ledger.lost(), stats.ledger.owed);
                eprintln!("{lost} of {owed} ticks were lost; their CPU time is missing");
            }
            None => {}
        }
        let time_ns = self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
        let (profile_type, period) = if args.off_cpu {
            (ProfileType::off_cpu(), NS_PER_US)
        } else {
            (ProfileType::cpu_time(), 1_000_000_000 / i64::from(args.frequency))
        };
        let duration_ns = self.started.elapsed().as_nanos() as i64;
        let meta = ExportMeta { profile_type, time_ns, duration_ns, period };
        let unit = if args.off_cpu { "µs" } else { "samples" };
        Ok(Recording { values: self.collected.into_profile(), unit, title: title(args), meta })
    }

    /// Takes events until time is up, the command has ended or the user has had enough.
    async fn sample(&mut self, args: &RecordArgs, mut workload: Option<&mut Workload>) -> Result<()> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let limit = args.duration.or(workload.is_none().then_some(DEFAULT_DURATION));
        let bar = progress_bar(limit);
        if let Some(workload) = workload.as_deref() {
            workload.begin()?;
        }
        while limit.is_none_or(|limit| self.started.elapsed() < limit) {
            self.take_events()?;
            bar.set_position(self.started.elapsed().as_millis() as u64);
            if let Some(workload) = workload.as_deref_mut()
                && workload.ended()?.is_some()
            {
                break;
            }
            // The terminal sends SIGINT to the command as well; SIGTERM came to us alone.
            match asked_to_end(&mut interrupt, &mut terminate).await {
                Some(Asked::Terminate) => {
                    if let Some(workload) = workload.as_deref() {
                        workload.terminate();
                    }
                    break;
                }
                Some(Asked::Interrupt) => break,
                None => {}
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn take_events(&mut self) -> Result<()> {
        loop {
            match self.events.try_recv() {
                Ok(event) => self.stream.on_event(event),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => bail!("sampling ended by itself; the lines above say why"),
            }
        }
        while let Some(ready) = self.stream.next_ready(HOLD) {
            self.collected.add(&ready.batch);
        }
        Ok(())
    }
}

enum Asked {
    Interrupt,
    Terminate,
}

async fn asked_to_end(interrupt: &mut Signal, terminate: &mut Signal) -> Option<Asked> {
    tokio::select! {
        _ = interrupt.recv() => Some(Asked::Interrupt),
        _ = terminate.recv() => Some(Asked::Terminate),
        () = tokio::time::sleep(TICK) => None,
    }
}

fn progress_bar(limit: Option<Duration>) -> ProgressBar {
    let bar = match limit {
        Some(limit) => ProgressBar::new(limit.as_millis() as u64),
        None => ProgressBar::new_spinner(),
    };
    let template = if limit.is_some() {
        "recording {wide_bar} {elapsed}/{msg}"
    } else {
        "recording {spinner} {elapsed}"
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    bar.set_message(limit.map_or_else(String::new, |limit| format!("{}s", limit.as_secs_f64())));
    bar
}

/// Refuses a container that is not there before time is spent on recording it.
fn ensure_container(name: &str, identity: &mut Identity) -> Result<()> {
    let asked = Instant::now();
    let mut known: Vec<String> = Vec::new();
    // The first inventory asks the runtimes for names; their answers come a little later.
    while asked.elapsed() < HOLD {
        let services = identity.inventory();
        if services.iter().any(|service| is_container(&service.labels, name)) {
            return Ok(());
        }
        known =
            services.iter().filter_map(|s| s.labels.get(names::CONTAINER_NAME).map(str::to_owned)).collect();
        std::thread::sleep(TICK);
    }
    match known.as_slice() {
        [] => bail!("there is no container {name:?}: no container is running here"),
        known => bail!("there is no container {name:?}; running: {}", known.join(", ")),
    }
}

fn is_container(labels: &LabelSet, name: &str) -> bool {
    /// Runtimes take an id by its beginning; shorter ones would be ambiguous.
    const MIN_ID_BYTES: usize = 8;
    let by_id = |id: &str| name.len() >= MIN_ID_BYTES && id.starts_with(name);
    labels.get(names::CONTAINER_NAME) == Some(name) || labels.get(names::CONTAINER_ID).is_some_and(by_id)
}

fn title(args: &RecordArgs) -> String {
    let of = match (&args.container, args.pid, args.command.as_slice()) {
        (Some(container), _, _) => format!("container {container}"),
        (_, Some(pid), _) => format!("process {pid}"),
        (_, _, []) => "this node".to_owned(),
        (_, _, command) => {
            let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
            words.join(" ")
        }
    };
    if args.off_cpu {
        return format!("time off the CPU of {of}");
    }
    format!("CPU time of {of}, {} Hz", args.frequency)
}

/// Shed departures are stood for by those that were captured; others that did not get through are missing.
fn say_what_is_missing(off_cpu: &OffCpuStats) {
    let (sent, shed) = (off_cpu.fates.get(OffFate::Sent), off_cpu.fates.get(OffFate::Shed));
    eprintln!("{sent} waits were captured on the node and stand for {shed} more");
    let lost = off_cpu.fates.lost();
    if lost > 0 {
        eprintln!("{lost} captured waits were lost, all or in part");
    }
}

/// Values by stack over the whole recording.
struct Collected {
    container: Option<String>,
    /// Rows of this type alone.
    profile_type: ProfileType,
    /// So much of a row is one of what is written.
    unit: i64,
    symbols: SymbolTable,
    values: HashMap<StackId, i64>,
}

impl Collected {
    fn new(args: &RecordArgs) -> Self {
        let (profile_type, unit) =
            if args.off_cpu { (ProfileType::off_cpu(), NS_PER_US) } else { (ProfileType::cpu_samples(), 1) };
        let container = args.container.clone();
        Self { container, profile_type, unit, symbols: SymbolTable::new(), values: HashMap::new() }
    }

    fn add(&mut self, batch: &Batch) {
        let remap = self.symbols.merge(&batch.symbols);
        let wanted =
            |labels: &LabelSet| self.container.as_ref().is_none_or(|name| is_container(labels, name));
        let wanted = batch.series.iter().filter(|s| s.profile_type == self.profile_type && wanted(&s.labels));
        for row in wanted.flat_map(|series| &series.rows) {
            *self.values.entry(remap.stacks[row.stack.index()]).or_default() += row.value;
        }
    }

    fn into_profile(self) -> StackProfile {
        let unit = self.unit;
        let in_units = self.values.into_iter().map(|(stack, value)| (stack, value / unit));
        StackProfile { symbols: self.symbols, values: in_units.filter(|(_, value)| *value > 0).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_or_identified() {
        let id = "0123456789abcdef0123456789abcdef";
        let labels = LabelSet::from_pairs([(names::CONTAINER_NAME, "web"), (names::CONTAINER_ID, id)]);
        for name in ["web", id, "0123456789ab"] {
            assert!(is_container(&labels, name), "{name}");
        }
        for name in ["we", "0123", "", "abcdef0123456789"] {
            assert!(!is_container(&labels, name), "{name}");
        }
    }
}
