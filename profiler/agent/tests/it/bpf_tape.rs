//! What the kernel says, kept on a tape and played again: the rows are the same. One such tape is a fixture.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use pyrite::sampler::SamplerConfig;
use pyrite_sampling::{
    ChangeKind, Event, Filter, Limits, Sampling, TapeEntry, TapeReader, decode_change, decode_sample, play,
};

use crate::support::{Recording, Workload, privileged, stacks};

/// Parts of a tape, of which a drain makes one every 150 ms or sooner.
const PARTS: usize = 100_000;
/// Few ticks are enough to meet everything that the programs do, and make a small tape.
const FREQUENCY_HZ: u64 = 29;
/// One after the other: exec, a library where another one was, forks, a tgid used again.
const SCRIPT: &str = "read go; ./a 1 exec ./b; ./a 1 swap ./libp.so ./libq.so; ./a 1 fork; ./a 1 reuse ./b";

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
        filter: Filter { roots: [root].into(), ..Filter::default() },
        tape: Some(tape),
        ..SamplerConfig::default()
    });
    std::thread::sleep(Duration::from_millis(500));
    shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(shell.wait().unwrap().success());
    let (events, _) = recording.stop();
    (root, parts.iter().collect::<Vec<_>>().concat(), events)
}

/// What of a tape concerns a process and its descendants.
fn reduced(tape: &[u8], root: u32) -> Vec<u8> {
    let mut tree = HashSet::from([root]);
    let mut kept = Vec::new();
    for entry in TapeReader::new(tape).map(Result::unwrap) {
        let is_ours = match &entry {
            TapeEntry::Record(bytes) => tree.contains(&decode_sample(bytes).unwrap().tgid),
            TapeEntry::Sideband(bytes) => match decode_change(bytes).unwrap().kind {
                ChangeKind::ProcessForked { tgid, parent_tgid } if tree.contains(&parent_tgid) => {
                    tree.insert(tgid);
                    true
                }
                ChangeKind::ProcessForked { tgid, .. }
                | ChangeKind::Mapped { tgid, .. }
                | ChangeKind::Exec { tgid, .. }
                | ChangeKind::ThreadStarted { tgid }
                | ChangeKind::ThreadExited { tgid } => tree.contains(&tgid),
                ChangeKind::Lost { .. } => true,
                ChangeKind::Other => false,
            },
            TapeEntry::Read(tgid, _) => tree.contains(tgid),
            // Only our own stacks were finished.
            _ => true,
        };
        if is_ours {
            entry.write(&mut kept);
        }
    }
    kept
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
    rows(&play(tape, &mut Sampling::new(filter, Limits::default())).unwrap())
}

#[test]
fn bpf_tape_played_again_makes_the_same_rows() {
    let Some(_guard) = privileged("bpf_tape") else { return };
    let (root, tape, events) = record();
    let recorded = rows(&events);
    assert!(recorded.len() > 20, "{recorded:?}");
    assert_eq!(played(&tape, Filter { roots: [root].into(), ..Filter::default() }), recorded);
    assert_eq!(played(&reduced(&tape, root), Filter::default()), recorded, "of the programs alone");
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
