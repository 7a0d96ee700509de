//! The tape in `fixtures/streams`, played: every row that came of it is in the golden file beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use pyrite_bpf::TickFate;
use pyrite_sampling::{
    CountedStack, Event, Filter, Limits, Sampling, TapeEntry, TapeReader, UserFrame, play,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/streams").join(name)
}

/// Plays a tape and writes down what came of it: a line for every stack of a second, then the counters.
fn outcome(tape: &[u8]) -> String {
    // The process that all others descend from is read from /proc before anything else.
    let Some(Ok(TapeEntry::Read(root, _))) =
        TapeReader::new(tape).find(|entry| matches!(entry, Ok(TapeEntry::Read(..))))
    else {
        panic!("no process was read")
    };
    let mut sampling = Sampling::new(Filter { roots: [root].into(), ..Filter::default() }, Limits::default());
    let events = play(tape, &mut sampling).unwrap().events;
    let mut lines = Vec::new();
    let (mut first_ms, mut tgids) = (None, Vec::new());
    for event in &events {
        let Event::Second(second) = event else { continue };
        let since_ms = second.start.0 - *first_ms.get_or_insert(second.start.0);
        let mut rows: Vec<_> = second.stacks.iter().collect();
        rows.sort_by_key(|counted| (counted.stack.process, draw(counted)));
        for counted in rows {
            let tgid = counted.stack.process.tgid;
            // Which number a process had is of no interest, but that it is the same one is.
            let rank = tgids.iter().position(|known| *known == tgid).unwrap_or(tgids.len());
            if rank == tgids.len() {
                tgids.push(tgid);
            }
            lines.push(format!("{:2} s, process {rank}: {}", since_ms / 1000, draw(counted)));
        }
    }
    let mut text = lines.join("\n") + "\n\n";
    let stored: u64 = events.iter().map(ticks).sum();
    writeln!(text, "ticks: {stored}, lost: {}, held: {}", lost(&sampling), sampling.held()).unwrap();
    for (note, count) in sampling.notes().iter().filter(|(_, count)| *count > 0) {
        writeln!(text, "{}: {count}", note.name()).unwrap();
    }
    text
}

fn ticks(event: &Event) -> u64 {
    match event {
        Event::Second(second) => second.ticks(),
        _ => 0,
    }
}

fn lost(sampling: &Sampling) -> u64 {
    TickFate::ALL.iter().map(|fate| sampling.fates().get(*fate)).sum()
}

fn draw(counted: &CountedStack) -> String {
    let CountedStack { stack, count } = counted;
    let frames: Vec<String> = stack.user.iter().map(draw_frame).collect();
    let kernel = if stack.kernel.is_empty() { "" } else { "kernel " };
    format!("{count} x {} {} {kernel}{}", stack.comm, stack.user_outcome.name(), frames.join(" "))
}

fn draw_frame(frame: &UserFrame) -> String {
    match frame {
        UserFrame::File { file, offset } => format!("{}+{:x}", file.base_name(), offset.0),
        UserFrame::Vdso { offset } => format!("vdso+{:x}", offset.0),
        UserFrame::Anonymous(avma) => format!("anonymous:{:x}", avma.0),
        UserFrame::Unmapped(avma) => format!("unmapped:{:x}", avma.0),
    }
}

#[test]
fn the_recorded_lives_make_the_rows_that_they_made() {
    let tape = fs::read(fixture("lives.tape")).unwrap();
    let golden = fixture("lives.golden");
    let outcome = outcome(&tape);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&golden, &outcome).unwrap();
    }
    let expect = fs::read_to_string(&golden).unwrap_or_default();
    let differing = outcome.lines().zip(expect.lines()).find(|(new, old)| new != old);
    assert!(
        outcome == expect,
        "first difference: {differing:?}; fixtures/streams/README.md says when and how to make the files anew"
    );
}
