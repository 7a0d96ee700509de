//! Counted stacks to rows of the store: every address gets its name, every process its labels.
//!
//! A second is turned as a whole, so that each distinct address is named once and each file is visited once. Executables
//! are opened when a process that maps them is first sampled and stay open, so that code of a process that has exited
//! still has names.

use std::path::Path;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use pyrite_model::{
    Avma, Batch, FileKey, FileOffset, LabelSet, LocationId, ProfileType, Row, SeriesRows, StackId,
    SymbolTable, UnixMs,
};
use pyrite_sampling::{
    CodeOrigin, CountedStack, MappedFile, OffCpuStack, ProcessKey, SampledStack, Second, ThreadState,
    UserFrame,
};
use pyrite_symbolizer::{Address, ExecutableRef, Executables, Miss, Symbolizer, SymbolizerConfig};

use crate::mapped_file;
use crate::rows::marker::marker;

/// The kernel's function that every switch goes through; its name is as old as the scheduler.
const SWITCH: &str = "__schedule";

/// Names addresses and forms rows. Owned by one thread.
pub struct RowMaker {
    symbolizer: Symbolizer,
    executables: Arc<Executables>,
    vdso: ExecutableRef,
    frequency_hz: u32,
}

/// A distinct code address within one second.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Kernel(Avma),
    File(FileKey, FileOffset),
    Vdso(FileOffset),
    Anonymous,
    Unmapped,
}

impl RowMaker {
    /// Names code in `executables`. `frequency_hz` is what a sample's CPU time is computed from.
    pub fn new(frequency_hz: u32, symbols: SymbolizerConfig, executables: Arc<Executables>) -> Self {
        Self { symbolizer: Symbolizer::new(symbols), executables, vdso: Executables::vdso(), frequency_hz }
    }

    /// Opens a file that a process has just mapped at `start..end`, while the process lives.
    pub fn open(&mut self, process: ProcessKey, file: &MappedFile, start: Avma, end: Avma) {
        let paths = mapped_file::candidates(process.tgid, &file.path, start, end);
        self.executables.open(file.key, Path::new(&*file.path), &paths);
    }

    /// The rows of one second, each stack under the labels that `labels_of` gives its process in that state.
    pub fn batch<'a>(
        &mut self,
        second: &Second,
        labels_of: impl Fn(&SampledStack, ThreadState) -> &'a LabelSet,
    ) -> Batch {
        let mut symbols = SymbolTable::new();
        let names = self.locate(second, &mut symbols);
        let mut running: HashMap<&LabelSet, Vec<(StackId, u64)>> = HashMap::new();
        for CountedStack { stack, count } in &second.stacks {
            let id = names.intern(stack, &stack.kernel, None, &mut symbols);
            running.entry(labels_of(stack, ThreadState::Running)).or_default().push((id, *count));
        }
        let mut off_cpu: HashMap<&LabelSet, Vec<(StackId, u64)>> = HashMap::new();
        for OffCpuStack { stack, state, ns } in &second.off_cpu {
            let id = names.intern(stack, names.without_switch(&stack.kernel), Some(*state), &mut symbols);
            off_cpu.entry(labels_of(stack, *state)).or_default().push((id, *ns));
        }
        // Buckets of the API are closed on the right, so a row belongs to the instant at which its second ends.
        let end = UnixMs(second.start.0 + 1000);
        let mut series: Vec<SeriesRows> =
            running.into_iter().flat_map(|(labels, counts)| self.series(end, labels, &counts)).collect();
        series.extend(off_cpu.into_iter().map(|(labels, values)| off_cpu_series(end, labels, &values)));
        Batch { series, symbols, ..Batch::default() }
    }

    /// Counters of the caches, for `/metrics`.
    pub fn stats(&self) -> (pyrite_symbolizer::SymbolizerStats, pyrite_symbolizer::ExecutablesStats) {
        (self.symbolizer.stats(), self.executables.stats())
    }

    /// Names every distinct address of the second.
    fn locate(&mut self, second: &Second, symbols: &mut SymbolTable) -> Names {
        let mut addresses: HashMap<Place, Address> = HashMap::new();
        let mut files: HashMap<FileKey, ExecutableRef> = HashMap::new();
        let running = second.stacks.iter().map(|counted| &counted.stack);
        for stack in running.chain(second.off_cpu.iter().map(|off| &*off.stack)) {
            for &avma in &stack.kernel {
                addresses.entry(Place::Kernel(avma)).or_insert(Address::Kernel(avma));
            }
            for frame in &stack.user {
                addresses.entry(place(frame)).or_insert_with(|| self.address(frame, &mut files));
            }
        }
        let (places, addresses): (Vec<Place>, Vec<Address>) = addresses.into_iter().unzip();
        let resolved = self.symbolizer.resolve(&addresses);
        let mut names = Names::default();
        for (place, symbol) in places.into_iter().zip(resolved) {
            if let Place::Kernel(avma) = place
                && symbol.frames.last().is_some_and(|frame| &*frame.name == SWITCH)
            {
                names.switch.insert(avma);
            }
            names.locations.insert(place, symbol.intern(symbols));
        }
        names
    }

    fn address(&mut self, frame: &UserFrame, files: &mut HashMap<FileKey, ExecutableRef>) -> Address {
        match frame {
            UserFrame::File { file, offset } => {
                let executable = files.entry(file.key).or_insert_with(|| {
                    // It is open already unless it was evicted, and then its path may still lead to it.
                    let path = Path::new(&*file.path);
                    self.executables.open(file.key, path, &[path.to_path_buf()])
                });
                Address::File { executable: Arc::clone(executable), offset: *offset }
            }
            UserFrame::Vdso { offset } => {
                Address::File { executable: Arc::clone(&self.vdso), offset: *offset }
            }
            UserFrame::Anonymous(_) => Address::Unknown(Miss::Anonymous),
            UserFrame::Unmapped(_) => Address::Unknown(Miss::Unmapped),
        }
    }

    /// The two series that a sampled second makes of one label set: CPU time and number of samples.
    fn series(&self, time: UnixMs, labels: &LabelSet, counts: &[(StackId, u64)]) -> [SeriesRows; 2] {
        let rows = |value_of: &dyn Fn(u64) -> i64| {
            counts.iter().map(|&(stack, count)| Row { time, stack, value: value_of(count) }).collect()
        };
        let cpu_ns = |count: u64| cpu_ns(count, self.frequency_hz);
        [
            SeriesRows { labels: labels.clone(), profile_type: ProfileType::cpu_time(), rows: rows(&cpu_ns) },
            SeriesRows {
                labels: labels.clone(),
                profile_type: ProfileType::cpu_samples(),
                rows: rows(&|count| count as i64),
            },
        ]
    }
}

/// The CPU time that `count` samples stand for, whatever event made them.
fn cpu_ns(count: u64, frequency_hz: u32) -> i64 {
    let frequency_hz = u128::from(frequency_hz);
    ((u128::from(count) * 1_000_000_000 + frequency_hz / 2) / frequency_hz) as i64
}

fn place(frame: &UserFrame) -> Place {
    match frame {
        UserFrame::File { file, offset } => Place::File(file.key, *offset),
        UserFrame::Vdso { offset } => Place::Vdso(*offset),
        UserFrame::Anonymous(_) => Place::Anonymous,
        UserFrame::Unmapped(_) => Place::Unmapped,
    }
}

/// The series that time off the CPU makes of one label set.
fn off_cpu_series(time: UnixMs, labels: &LabelSet, values: &[(StackId, u64)]) -> SeriesRows {
    let row =
        |&(stack, ns): &(StackId, u64)| Row { time, stack, value: i64::try_from(ns).unwrap_or(i64::MAX) };
    SeriesRows {
        labels: labels.clone(),
        profile_type: ProfileType::off_cpu(),
        rows: values.iter().map(row).collect(),
    }
}

/// The names of a second's addresses.
#[derive(Default)]
struct Names {
    locations: HashMap<Place, LocationId>,
    /// Addresses in the function that switches.
    switch: HashSet<Avma>,
}

impl Names {
    /// The kernel frames of a thread that left the CPU without the scheduler's innermost and our own program on top of it,
    /// which are the same in every such stack.
    fn without_switch<'a>(&self, kernel: &'a [Avma]) -> &'a [Avma] {
        let at = kernel.iter().position(|avma| self.switch.contains(avma));
        at.map_or(kernel, |at| &kernel[at + 1..])
    }

    /// Adds the stack, kernel part at the leaf, each part with a frame at its root that says so where its walk did not
    /// reach the end. What the thread waited for off the CPU is a frame of its own at the leaf, so that one graph tells
    /// waiting for a CPU from waiting for anything else.
    fn intern(
        &self,
        stack: &SampledStack,
        kernel: &[Avma],
        off_cpu: Option<ThreadState>,
        symbols: &mut SymbolTable,
    ) -> StackId {
        let mut leaf_first: Vec<LocationId> = Vec::with_capacity(kernel.len() + stack.user.len() + 3);
        leaf_first.extend(off_cpu.map(|state| symbols.intern_named_location(&format!("[{}]", state.name()))));
        leaf_first.extend(kernel.iter().map(|avma| self.locations[&Place::Kernel(*avma)]));
        leaf_first
            .extend(marker(stack.kernel_outcome, None).map(|text| symbols.intern_named_location(&text)));
        leaf_first.extend(stack.user.iter().map(|frame| self.locations[&place(frame)]));
        let stopped_in = stack.user.last().map(CodeOrigin::of);
        let user = marker(stack.user_outcome, stopped_in.as_ref());
        leaf_first.extend(user.map(|text| symbols.intern_named_location(&text)));
        if leaf_first.is_empty() {
            leaf_first.push(symbols.intern_named_location("[no stack]"));
        }
        symbols.intern_stack(&leaf_first).expect("a stack has at least its marker")
    }
}

#[cfg(test)]
mod tests {
    use pyrite_bpf::StackOutcome;
    use pyrite_model::TableLens;
    use pyrite_sampling::BootNs;

    use super::*;
    use crate::rows::empty_stack;

    fn stack(comm: &[u8], user: Vec<UserFrame>) -> SampledStack {
        let process = ProcessKey { tgid: 1, start: BootNs(1) };
        SampledStack { user_outcome: StackOutcome::ChainEnd, user, ..empty_stack(process, comm) }
    }

    fn batch(stacks: &[(SampledStack, u64)]) -> Batch {
        let stacks = stacks.iter().map(|(stack, count)| CountedStack { stack: stack.clone(), count: *count });
        let second = Second { start: UnixMs(5_000), stacks: stacks.collect(), off_cpu: vec![] };
        let labels = ["a", "b"].map(|comm| LabelSet::from_pairs([("comm", comm)]));
        let label =
            |stack: &SampledStack, _: ThreadState| &labels[usize::from(stack.comm.as_bytes() == b"b")];
        RowMaker::new(97, SymbolizerConfig::default(), Arc::new(Executables::new(1))).batch(&second, label)
    }

    fn names(batch: &Batch, stack: StackId) -> Vec<String> {
        pyrite_model::frame_names(&batch.symbols, stack).into_iter().map(Into::into).collect()
    }

    #[test]
    fn one_series_pair_per_label_set() {
        let frames = || vec![UserFrame::Anonymous(Avma(7))];
        let batch =
            batch(&[(stack(b"a", frames()), 2), (stack(b"b", frames()), 1), (stack(b"a", vec![]), 3)]);
        assert_eq!(batch.series.len(), 4);
        let mut totals: Vec<(String, i64)> = batch
            .series
            .iter()
            .map(|s| {
                (format!("{} {}", s.labels, s.profile_type.sample_type), s.rows.iter().map(|r| r.value).sum())
            })
            .collect();
        totals.sort();
        let expect =
            [("{comm=\"a\"} cpu", 51_546_392), ("{comm=\"a\"} samples", 5), ("{comm=\"b\"} cpu", 10_309_278)];
        for ((name, value), (expect_name, expect_value)) in totals.iter().zip(expect) {
            assert_eq!(name, expect_name);
            // Each row rounds by itself.
            assert!((value - expect_value).abs() <= 1, "{name}: {value}");
        }
    }

    #[test]
    fn a_stack_that_was_cut_says_so_at_its_root() {
        let check = |user_outcome, user: Vec<UserFrame>, expect: &str| {
            let batch = batch(&[(SampledStack { user_outcome, ..stack(b"a", user) }, 1)]);
            assert_eq!(names(&batch, batch.series[0].rows[0].stack)[0], expect);
        };
        let library = || {
            let key = FileKey { dev_major: 0, dev_minor: 0, inode: 1 };
            let file = Arc::new(MappedFile { key, path: "/nowhere/libfoo.so (deleted)".into() });
            vec![UserFrame::Anonymous(Avma(7)), UserFrame::File { file, offset: FileOffset(1) }]
        };
        check(StackOutcome::NoUnwindInfo, library(), "[truncated: no unwind info libfoo.so]");
        check(StackOutcome::TooDeep, library(), "[truncated: too many frames]");
        check(StackOutcome::CopyEnded, library(), "[truncated: stack copy ended]");
        check(StackOutcome::Fault, vec![], "[truncated: stack not readable]");
        check(StackOutcome::Absent, vec![], "[no stack]");
    }

    #[test]
    fn a_cut_in_the_kernel_does_not_hide_who_called_it() {
        let cut = SampledStack {
            kernel: vec![Avma(1)],
            kernel_outcome: StackOutcome::TooDeep,
            ..stack(b"a", vec![UserFrame::Unmapped(Avma(9))])
        };
        let batch = batch(&[(cut, 1)]);
        let names = names(&batch, batch.series[0].rows[0].stack);
        assert_eq!((names.len(), names[1].as_str()), (3, "[truncated: too many frames]"));
    }

    #[test]
    fn time_off_the_cpu_is_a_series_per_label_set_and_state() {
        let parked = Arc::new(stack(b"a", vec![UserFrame::Anonymous(Avma(7))]));
        let off = |state, ns| OffCpuStack { stack: Arc::clone(&parked), state, ns };
        let off_cpu =
            vec![off(ThreadState::Blocked, 5), off(ThreadState::Runnable, 3), off(ThreadState::Blocked, 2)];
        let second = Second { start: UnixMs(5_000), stacks: vec![], off_cpu };
        let labels = ["runnable", "blocked"].map(|state| LabelSet::from_pairs([("state", state)]));
        let label =
            |_: &SampledStack, state: ThreadState| &labels[usize::from(state == ThreadState::Blocked)];
        let batch = RowMaker::new(97, SymbolizerConfig::default(), Arc::new(Executables::new(1)))
            .batch(&second, label);
        let mut totals: Vec<(String, String, i64)> = batch
            .series
            .iter()
            .map(|s| (s.labels.to_string(), s.profile_type.to_string(), s.rows.iter().map(|r| r.value).sum()))
            .collect();
        totals.sort();
        let mut leaves: Vec<String> = batch
            .series
            .iter()
            .flat_map(|s| &s.rows)
            .filter_map(|row| names(&batch, row.stack).pop())
            .collect();
        leaves.sort();
        leaves.dedup();
        assert_eq!(leaves, ["[blocked]", "[runnable]"]);
        let id = || ProfileType::off_cpu().to_string();
        assert_eq!(
            totals,
            [(r#"{state="blocked"}"#.into(), id(), 7), (r#"{state="runnable"}"#.into(), id(), 3)]
        );
        assert!(batch.series.iter().flat_map(|s| &s.rows).all(|row| row.time == UnixMs(6_000)));
    }

    #[test]
    fn the_frames_of_the_switch_itself_are_left_out() {
        let names = Names { switch: [Avma(3)].into(), ..Names::default() };
        let kernel = [1, 2, 3, 4, 5].map(Avma);
        assert_eq!(names.without_switch(&kernel), [Avma(4), Avma(5)]);
        assert_eq!(names.without_switch(&kernel[3..]), [Avma(4), Avma(5)]);
    }

    #[test]
    fn equal_addresses_are_one_location() {
        let frames = || vec![UserFrame::Unmapped(Avma(9)); 3];
        let TableLens { locations, .. } =
            batch(&[(stack(b"a", frames()), 1), (stack(b"b", frames()), 1)]).symbols.lens();
        assert_eq!(locations, 1);
    }

    #[test]
    fn cpu_time_of_samples_is_rounded_not_truncated() {
        assert_eq!(cpu_ns(1, 97), 10_309_278);
        assert_eq!(cpu_ns(97, 97), 1_000_000_000);
        assert_eq!(cpu_ns(u64::from(u32::MAX), 1), 4_294_967_295_000_000_000);
    }
}
