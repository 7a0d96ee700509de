//! What the kernel says, kept on a tape and played again: the rows are the same. One such tape is a fixture.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;

use pyrite::sampler::SamplerConfig;
use pyrite_bpf::abi::pyrite_sample_header;
use pyrite_sampling::{
    self as sampling, ChangeKind, Event, Filter, Limits, Sampling, TapeEntry, TapeReader, decode_change,
    decode_sample, play,
};

use crate::common::privileged;
use crate::support::{Recording, Workload, stacks};

/// Parts of a tape, of which a drain makes one every 150 ms or sooner.
const PARTS: usize = 100_000;
/// Few ticks are enough to meet everything that the programs do, and make a small tape.
const FREQUENCY_HZ: u64 = 29;
/// First all files are met once, so that their tables are there. Then, one after the other: exec, a library where another one
/// was, forks, a tgid used again.
const SCRIPT: &str = "read files; LD_PRELOAD='./libp.so ./libq.so' ./a 1 wait; ./b 1 wait; \
    read go; ./a 1 exec ./b; ./a 1 swap ./libp.so ./libq.so; ./a 1 fork; ./a 1 reuse ./b";

/// Runs the script in a directory of its own, and returns its tgid, the tape of its time, and what the sampler told.
fn record() -> (u32, Vec<u8>, Vec<Event>) {
    let directory = tempfile::TempDir::new().unwrap();
    for (name, prefix, stride, flags) in [
        ("a", "a", 1, &["-no-pie"][..]),
        ("b", "b", 7, &["-no-pie"][..]),
        ("libp.so", "p", 1, &["-fPIC", "-shared", "-DLIBRARY"][..]),
        ("libq.so", "q", 7, &["-fPIC", "-shared", "-DLIBRARY"][..]),
    ] {
        let own =
            ["-fomit-frame-pointer".to_owned(), format!("-DPREFIX={prefix}"), format!("-DSTRIDE={stride}")];
        let all: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let built = Workload::build_with("lives", &all);
        fs::copy(built.path(), directory.path().join(name)).unwrap();
    }
    // Copies of stacks hold the environment, which is nobody's business.
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT]).current_dir(directory.path()).env_clear().stdin(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let root = shell.id();
    let (tape, parts) = sync_channel(PARTS);
    let recording = Recording::start(SamplerConfig {
        frequency_hz: FREQUENCY_HZ,
        filter: rooted(root),
        tape: Some(tape),
        ..SamplerConfig::default()
    });
    let mut script = shell.stdin.take().unwrap();
    script.write_all(b"files\n").unwrap();
    recording.settle();
    script.write_all(b"go\n").unwrap();
    assert!(shell.wait().unwrap().success());
    let (events, _) = recording.stop();
    (root, parts.iter().collect::<Vec<_>>().concat(), events)
}

/// What of a tape concerns a process and its descendants.
///
/// Sampling numbers mapping sets as they come, and each sample says by which number its stack was walked. Where the sets of
/// other processes are missing the numbers are others, so both tapes are played at the same time to learn which.
fn reduced(tape: &[u8], root: u32) -> Vec<u8> {
    let mut whole = Sampling::new(rooted(root), Limits::default());
    let mut part = Sampling::new(rooted(root), Limits::default());
    let mut generations = HashMap::from([(0_u32, 0_u32)]);
    let mut kept = Vec::new();
    let entries: Vec<TapeEntry<'_>> = TapeReader::new(tape).map(Result::unwrap).collect();
    let tree = descendants(&entries, root);
    // An entry and what the unwind tables answered to it.
    for group in entries.chunk_by(|_, next| matches!(next, TapeEntry::Walked(..))) {
        let (mut all, mut ours) = (Vec::new(), Vec::new());
        for entry in group {
            entry.write(&mut all);
        }
        match &group[0] {
            TapeEntry::Record(bytes) if tree.contains(&decode_sample(bytes).unwrap().tgid) => {
                let mut bytes = bytes.to_vec();
                let generation = &mut bytes[offset_of!(pyrite_sample_header, generation)..][..4];
                let known = u32::from_ne_bytes((&*generation).try_into().unwrap());
                generation.copy_from_slice(&generations[&known].to_ne_bytes());
                TapeEntry::Record(&bytes).write(&mut ours);
            }
            TapeEntry::Record(_) => {}
            entry if !concerns(entry, &tree) => {}
            _ => ours.clone_from(&all),
        }
        let of_whole = published(&play(&all, &mut whole).unwrap().commands);
        let of_part = published(&play(&ours, &mut part).unwrap().commands);
        for (tgid, generation) in of_part {
            let at = of_whole.iter().position(|(other, _)| *other == tgid).expect("both know the process");
            generations.insert(of_whole[at].1, generation);
        }
        kept.extend(ours);
    }
    kept
}

/// A process and all that descend from it.
///
/// Each CPU tells its changes by itself, so a fork may stand before the one that its parent came from.
fn descendants(entries: &[TapeEntry<'_>], root: u32) -> HashSet<u32> {
    let forks: Vec<(u32, u32)> = entries.iter().filter_map(fork).collect();
    let mut tree = HashSet::from([root]);
    loop {
        let known = tree.len();
        tree.extend(
            forks
                .iter()
                .filter(|(parent, _)| tree.contains(parent))
                .map(|(_, child)| *child)
                .collect::<Vec<_>>(),
        );
        if tree.len() == known {
            return tree;
        }
    }
}

/// The parent and the child, where an entry tells of a fork.
fn fork(entry: &TapeEntry<'_>) -> Option<(u32, u32)> {
    let TapeEntry::Sideband(bytes) = entry else { return None };
    match decode_change(bytes).unwrap().kind {
        ChangeKind::ProcessForked { tgid, parent_tgid } => Some((parent_tgid, tgid)),
        _ => None,
    }
}

/// Whether an entry that is no sample concerns one of these processes.
fn concerns(entry: &TapeEntry<'_>, tree: &HashSet<u32>) -> bool {
    match entry {
        TapeEntry::Sideband(bytes) => match decode_change(bytes).unwrap().kind {
            ChangeKind::ProcessForked { tgid, .. }
            | ChangeKind::Mapped { tgid, .. }
            | ChangeKind::Exec { tgid, .. }
            | ChangeKind::ThreadStarted { tgid }
            | ChangeKind::ThreadExited { tgid, .. } => tree.contains(&tgid),
            ChangeKind::Lost { .. } => true,
            ChangeKind::Other => false,
        },
        TapeEntry::Read(tgid, _) => tree.contains(tgid),
        _ => true,
    }
}

fn published(commands: &[sampling::Command]) -> Vec<(u32, u32)> {
    let published = commands.iter().filter_map(|command| match command {
        sampling::Command::Publish { process, generation, .. } => Some((process.tgid, generation.abi())),
        _ => None,
    });
    published.collect()
}

fn rooted(root: u32) -> Filter {
    Filter { roots: [root].into(), ..Filter::default() }
}

/// How often there was which stack in which second.
fn rows(events: &[Event]) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for event in events {
        let Event::Second(second) = event else { continue };
        for counted in &second.stacks {
            *rows.entry(format!("{:?} {:?}", second.start, counted.stack)).or_default() += counted.count;
        }
    }
    rows
}

fn played(tape: &[u8], filter: Filter) -> BTreeMap<String, u64> {
    rows(&play(tape, &mut Sampling::new(filter, Limits::default())).unwrap().events)
}

fn check_equal(played: &BTreeMap<String, u64>, recorded: &BTreeMap<String, u64>) {
    let only_in = |some: &BTreeMap<String, u64>, others: &BTreeMap<String, u64>| -> Vec<String> {
        let differing = some.iter().filter(|(row, count)| others.get(*row) != Some(count));
        differing.map(|(row, count)| format!("{count} × {row}")).collect()
    };
    let (missing, extra) = (only_in(recorded, played), only_in(played, recorded));
    assert!(missing.is_empty() && extra.is_empty(), "recorded: {missing:#?}\nplayed: {extra:#?}");
}

#[test]
fn bpf_tape_played_again_makes_the_same_rows() {
    let Some(_guard) = privileged("bpf_tape") else { return };
    let (root, tape, events) = record();
    let recorded = rows(&events);
    assert!(recorded.len() > 10, "{recorded:?}");
    check_equal(&played(&tape, rooted(root)), &recorded);
    // What of it concerns these programs makes their rows.
    check_equal(&played(&reduced(&tape, root), rooted(root)), &recorded);
}

#[test]
#[ignore = "records the tape in fixtures/streams anew; see the README there"]
fn bpf_tape_fixture() {
    let Some(_guard) = privileged("bpf_tape_fixture") else { return };
    let (root, tape, events) = record();
    let tape = reduced(&tape, root);
    println!(
        "{} bytes of tape, {} ticks",
        tape.len(),
        stacks(&events).map(|counted| counted.count).sum::<u64>()
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/streams/lives.tape");
    fs::write(path, tape).unwrap();
}
