//! Building the workloads, running a sampler beside them, and reading what came out.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
use pyrite::sampler::{Delivery, Sampler, SamplerConfig, SamplerStats};
use pyrite_sampling::{CountedStack, Event, UserFrame};
use tempfile::TempDir;

use crate::common::fixture;

/// A workload, built into a directory of its own.
pub(crate) struct Workload {
    directory: TempDir,
    name: &'static str,
}

impl Workload {
    /// With frame pointers.
    pub(crate) fn build(name: &'static str) -> Self {
        Self::build_with(name, &["-fno-omit-frame-pointer"])
    }

    pub(crate) fn build_with(name: &'static str, flags: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let built = Self { directory, name };
        let source = fixture(&format!("workloads/{name}.c"));
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-pthread"]).args(flags).arg(source).arg("-o").arg(built.path());
        assert!(cc.status().expect("cc is installed").success());
        built
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(self.name)
    }

    pub(crate) fn command(&self) -> Command {
        Command::new(self.path())
    }

    /// The file offsets of a function.
    pub(crate) fn function(&self, name: &str) -> Range<u64> {
        self.functions().into_iter().find(|function| function.name == name).unwrap().offsets
    }

    /// All functions.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let bytes = fs::read(self.path()).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let is_function = |symbol: &object::Symbol<'_, '_>| {
            symbol.kind() == object::SymbolKind::Text && symbol.is_definition() && symbol.size() > 0
        };
        let function = |symbol: object::Symbol<'_, '_>| {
            let holds = |segment: &object::Segment<'_, '_>| {
                (segment.address()..segment.address() + segment.size()).contains(&symbol.address())
            };
            let segment = file.segments().find(holds).unwrap();
            let start = symbol.address() - segment.address() + segment.file_range().0;
            Function { name: symbol.name().unwrap().to_owned(), offsets: start..start + symbol.size() }
        };
        file.symbols().filter(is_function).map(function).collect()
    }
}

/// A function of a workload.
pub(crate) struct Function {
    pub(crate) name: String,
    /// Where in the file it lies.
    pub(crate) offsets: Range<u64>,
}

/// A process that runs until it is dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn tgid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It can only have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long something is waited for that comes, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How long unwind tables are waited for, of which beside builds there is always another to be made.
const TABLES_MADE: Duration = Duration::from_mins(1);

/// A sampler whose events are collected.
pub(crate) struct Recording {
    sampler: Sampler,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recording {
    pub(crate) fn start(config: SamplerConfig) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&events);
        let sampler = Sampler::start(config, move |event| {
            collected.lock().unwrap().push(event);
            Delivery::Taken
        });
        Self { sampler: sampler.unwrap_or_else(|error| panic!("{error}: {error:?}")), events }
    }

    pub(crate) fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Waits until the sampler has met what runs on the node, and made its unwind tables.
    pub(crate) fn settle(&self) {
        const MET: Duration = Duration::from_secs(3);
        let begun = Instant::now();
        let is_settled = || begun.elapsed() > MET && self.sampler.stats().unwind.tables.pending == 0;
        while begun.elapsed() < TABLES_MADE && !is_settled() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the events so far are as wanted.
    pub(crate) fn wait_for(&self, what: &str, is_there: impl Fn(&[Event]) -> bool) {
        eventually(what, || is_there(&self.events.lock().unwrap()));
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The events, and the closed books.
    pub(crate) fn stop(self) -> (Vec<Event>, SamplerStats) {
        let stats = self.sampler.stop();
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        (events, stats)
    }
}

/// All counted stacks in the events.
pub(crate) fn stacks(events: &[Event]) -> impl Iterator<Item = &CountedStack> {
    events.iter().flat_map(|event| match event {
        Event::Second(second) => second.stacks.as_slice(),
        _ => &[],
    })
}

/// Ticks of the stacks that match.
pub(crate) fn ticks<'a>(
    stacks: impl Iterator<Item = &'a CountedStack>,
    matches: impl Fn(&CountedStack) -> bool,
) -> u64 {
    stacks.filter(|counted| matches(counted)).map(|counted| counted.count).sum()
}

/// Where the user leaf of a stack is, if in a file of that path.
pub(crate) fn leaf_offset(counted: &CountedStack, path: &Path) -> Option<u64> {
    match counted.stack.user.first() {
        Some(UserFrame::File { file, offset }) if *file.path == *path.to_string_lossy() => Some(offset.0),
        _ => None,
    }
}
