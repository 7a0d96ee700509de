//! The agent's own work per sample: ring bytes to counted stacks, counted stacks to named rows.

use std::collections::HashMap;
use std::mem::offset_of;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use pyrite::rows::RowMaker;
use pyrite_bench::recipe::Random;
use pyrite_bpf::StackOutcome;
use pyrite_bpf::abi::{PYRITE_RECORD_SAMPLE, PYRITE_SAMPLE_USER_MODE, pyrite_sample_header as Header};
use pyrite_model::{Avma, FileKey, FileOffset, LabelSet, UnixMs};
use pyrite_sampling::{
    BootNs, Comm, Command, CountedStack, Event, Filter, Limits, LoadedProcess, MappedFile, MappedRange,
    ProcessKey, SampledStack, Sampling, Second, UnwindHealth, UserFrame, WallClock,
};
use pyrite_symbolizer::{Executables, SymbolizerConfig};

use crate::data::labels;
use crate::harness::Report;

const PROCESSES: u32 = 20;
const FRAMES: usize = 30;
const KERNEL_FRAMES: usize = 6;
/// Two CPUs at 97 Hz.
const SAMPLES_PER_SECOND: u64 = 194;
const SECOND_NS: u64 = 1_000_000_000;
const CODE_START: u64 = 0x40_0000;
const CODE_BYTES: u64 = 1 << 20;

/// Decoding, resolving against the process's mappings, and counting.
pub(crate) fn records_to_counted_stacks(report: &mut Report) -> Result<()> {
    let mut sampling = Sampling::new(Filter::default(), Limits::default());
    for tgid in 1..=PROCESSES {
        sampling.process_loaded(tgid, Ok(process(tgid)));
    }
    let generations = generations(&sampling.take_commands());
    ensure!(generations.len() == PROCESSES as usize, "every process has a mapping set of its own");
    let (mut random, mut now) = (Random(1), SECOND_NS);
    let (mut sent, mut told) = (0, 0);
    let mut records: Vec<Vec<u8>> =
        (0..100 * SAMPLES_PER_SECOND).map(|_| record(&mut random, &generations)).collect();
    report.measure("BPF record → counted stack, 30 + 6 frames", "samples", || {
        for second in records.chunks_mut(SAMPLES_PER_SECOND as usize) {
            for (n, record) in second.iter_mut().enumerate() {
                let time_ns = now + n as u64 * SECOND_NS / SAMPLES_PER_SECOND;
                record[offset_of!(Header, time_boot_ns)..][..8].copy_from_slice(&time_ns.to_ne_bytes());
                sampling.on_record(record);
            }
            now += SECOND_NS;
            sent += SAMPLES_PER_SECOND;
            ensure!(sampling.advance(BootNs(now), WallClock::default()).is_empty(), "every process is known");
            told += ticks(&sampling.take_events(BootNs(now)));
        }
        Ok(100 * SAMPLES_PER_SECOND)
    })?;
    told += ticks(&sampling.finish());
    ensure!(told == sent && sampling.fates().total() == 0, "{told} of {sent} samples came out");
    Ok(())
}

/// Keeping the score of unwinding; a stack goes through five files.
pub(crate) fn counted_stacks_to_score(report: &mut Report) -> Result<()> {
    let mut random = Random(3);
    let files: Vec<Arc<MappedFile>> = (0..40)
        .map(|inode| {
            let key = FileKey { dev_major: 8, dev_minor: 1, inode };
            Arc::new(MappedFile { key, path: format!("/usr/lib/lib{inode}.so").into() })
        })
        .collect();
    let offsets: Vec<FileOffset> = (0..3_000).map(FileOffset).collect();
    let mut stacks = Vec::new();
    for _ in 0..20 * SAMPLES_PER_SECOND {
        let mut counted = counted(&mut random, &files[0], &offsets);
        for frames in counted.stack.user.chunks_mut(FRAMES / 5) {
            let met = &files[random.below(files.len() as u64) as usize];
            for frame in frames {
                if let UserFrame::File { file, .. } = frame {
                    *file = Arc::clone(met);
                }
            }
        }
        stacks.push(counted);
    }
    let seconds = stacks.chunks(SAMPLES_PER_SECOND as usize).enumerate();
    let seconds: Vec<Second> = seconds
        .map(|(n, stacks)| Second {
            start: UnixMs(n as i64 * 1000),
            stacks: stacks.to_vec(),
            off_cpu: Vec::new(),
        })
        .collect();
    let (mut health, mut fed) = (UnwindHealth::default(), 0);
    report.measure("counted stack → score of unwinding, 30 frames", "samples", || {
        for second in &seconds {
            health.on_second(second);
        }
        fed += stacks.len() as u64;
        Ok(stacks.len() as u64)
    })?;
    let complete = health.totals().get(StackOutcome::Complete);
    ensure!(complete == fed, "{complete} of {fed} stacks are complete");
    Ok(())
}

/// Naming every address and forming the batch, names cached; the rows are of this program's own functions.
pub(crate) fn counted_stacks_to_named_rows(report: &mut Report) -> Result<()> {
    let exe = std::env::current_exe()?;
    let code = own_code(&exe.to_string_lossy())?;
    let mut maker = RowMaker::new(97, SymbolizerConfig::default(), Arc::new(Executables::new(1)));
    let mut random = Random(2);
    let labels: Vec<LabelSet> = (0..PROCESSES as usize).map(labels).collect();
    // Programs stay within the same few thousand addresses; stacks differ nearly every time.
    let offsets: Vec<FileOffset> = (0..3_000)
        .map(|_| FileOffset(code.file_offset.0 + random.below(code.end.0 - code.start.0)))
        .collect();
    let file = Arc::new(MappedFile { key: code.file, path: exe.to_string_lossy().into() });
    let seconds: Vec<Second> = (0..20)
        .map(|second| Second {
            start: UnixMs(second * 1000),
            stacks: (0..SAMPLES_PER_SECOND).map(|_| counted(&mut random, &file, &offsets)).collect(),
            off_cpu: Vec::new(),
        })
        .collect();
    report.measure("counted stack → row with names and labels", "samples", || {
        for second in &seconds {
            let batch = maker.batch(second, |stack, _| &labels[stack.process.tgid as usize]);
            let samples = batch.series.iter().filter(|series| series.profile_type.sample_type == "samples");
            let counted: i64 = samples.flat_map(|series| &series.rows).map(|row| row.value).sum();
            ensure!(counted == SAMPLES_PER_SECOND as i64, "{counted} samples in the rows");
        }
        Ok(seconds.len() as u64 * SAMPLES_PER_SECOND)
    })?;
    let (symbols, _) = maker.stats();
    ensure!(symbols.hits > symbols.lookups * 3, "names come from the cache: {symbols:?}");
    ensure!(symbols.unknown.iter().sum::<u64>() < symbols.lookups / 2, "most have names: {symbols:?}");
    Ok(())
}

fn process(tgid: u32) -> LoadedProcess {
    let range = |n: u64| MappedRange {
        start: Avma(CODE_START + n * 2 * CODE_BYTES),
        end: Avma(CODE_START + n * 2 * CODE_BYTES + CODE_BYTES),
        file_offset: FileOffset(0x1000),
        file: FileKey { dev_major: 8, dev_minor: 1, inode: u64::from(tgid) * 100 + n },
        name: format!("/usr/lib/lib{n}.so").into(),
    };
    LoadedProcess {
        tgid,
        parent_tgid: 1,
        start: BootNs(u64::from(tgid)),
        comm: Comm::new(b"worker"),
        is_kernel_thread: false,
        threads: 1,
        read_at: BootNs(0),
        ranges: (0..12).map(range).collect(),
    }
}

/// What the stacks of each process are walked by.
fn generations(commands: &[Command]) -> HashMap<u32, u32> {
    let published = commands.iter().filter_map(|command| match command {
        Command::Publish { process, generation, .. } => Some((process.tgid, generation.abi())),
        _ => None,
    });
    published.collect()
}

/// A record whose time is to be filled in.
fn record(random: &mut Random, generations: &HashMap<u32, u32>) -> Vec<u8> {
    let tgid = 1 + random.below(u64::from(PROCESSES)) as u32;
    let mut bytes = vec![0; size_of::<Header>()];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(offset_of!(Header, kind), &PYRITE_RECORD_SAMPLE.to_ne_bytes());
    put(offset_of!(Header, start_boot_ns), &u64::from(tgid).to_ne_bytes());
    put(offset_of!(Header, cgroup_id), &u64::from(tgid).to_ne_bytes());
    put(offset_of!(Header, tgid), &tgid.to_ne_bytes());
    put(offset_of!(Header, tid), &tgid.to_ne_bytes());
    put(offset_of!(Header, kernel_frames), &(KERNEL_FRAMES as u16).to_ne_bytes());
    put(offset_of!(Header, user_frames), &(FRAMES as u16).to_ne_bytes());
    put(offset_of!(Header, flags), &[PYRITE_SAMPLE_USER_MODE as u8]);
    put(offset_of!(Header, user_stack), &[StackOutcome::Complete as u8]);
    put(offset_of!(Header, generation), &generations[&tgid].to_ne_bytes());
    put(offset_of!(Header, comm), b"worker");
    for _ in 0..KERNEL_FRAMES {
        bytes.extend((0xffff_ffff_8100_0000 + random.below(1 << 22)).to_ne_bytes());
    }
    for _ in 0..FRAMES {
        let mapping = CODE_START + random.below(12) * 2 * CODE_BYTES;
        bytes.extend((mapping + 1 + random.below(CODE_BYTES - 1)).to_ne_bytes());
    }
    bytes
}

fn counted(random: &mut Random, file: &Arc<MappedFile>, offsets: &[FileOffset]) -> CountedStack {
    let mut offset = || offsets[random.below(offsets.len() as u64) as usize];
    let user = (0..FRAMES).map(|_| UserFrame::File { file: Arc::clone(file), offset: offset() }).collect();
    let tgid = random.below(u64::from(PROCESSES)) as u32;
    let stack = SampledStack {
        process: ProcessKey { tgid, start: BootNs(u64::from(tgid)) },
        comm: Comm::new(b"worker"),
        cgroup_id: 1,
        is_kernel_thread: false,
        has_guessed_frames: false,
        kernel_outcome: StackOutcome::Absent,
        user_outcome: StackOutcome::Complete,
        kernel: vec![],
        user,
    };
    CountedStack { stack, count: 1 }
}

fn ticks(events: &[Event]) -> u64 {
    let seconds = events.iter().map(|event| match event {
        Event::Second(second) => second.ticks(),
        _ => 0,
    });
    seconds.sum()
}

/// Where this program's own code is mapped.
fn own_code(exe: &str) -> Result<MappedRange> {
    let maps = std::fs::read("/proc/self/maps")?;
    let ranges = pyrite_sampling::parse_maps(&maps, 1000).context("maps has another shape")?;
    ranges.into_iter().find(|range| *range.name == *exe).context("this program's code is not mapped")
}
