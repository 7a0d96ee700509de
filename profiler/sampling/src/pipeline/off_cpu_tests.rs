//! Records of threads off the CPU among those of ticks and the events of their processes.

use super::tests::{Story, loaded, started};
use super::*;
use crate::offcpu::tests::{departure, encode_end, encode_left, encode_tail};
use crate::record::tests::sample;
use crate::{OffCpuEnd, Probability, Tail};
use pyrite_bpf::OffFate;

/// The thread of `tgid` that [`sample`] is of, back after longer than foreseen.
fn tail(story: &mut Story, tgid: u32, start_ms: u64) {
    let tail = Tail { probability: Probability::CERTAIN, tail_ns: 5, runnable_ns: None };
    let (time, start) = (BootNs(story.now), BootNs(start_ms * 1_000_000));
    story.sampling.on_record(&encode_tail(&Sample { time, tgid, start, ..sample() }, tail));
}

fn left(story: &mut Story, tgid: u32, start_ms: u64) -> Sample {
    let (time, start) = (BootNs(story.now), BootNs(start_ms * 1_000_000));
    let sample = Sample { time, tgid, start, ..sample() };
    story.sampling.on_record(&encode_left(&sample, departure()));
    sample
}

#[test]
fn a_tail_says_nothing_of_mappings() {
    let mut story = started();
    story.until(200).told();
    tail(story.at(1300), 9, 100);
    story.until(1400);
    assert_eq!((story.told(), story.sampling.notes().get(Note::OffCpuTail)), (vec![], 1));
}

#[test]
fn a_tail_does_not_bring_a_process_back() {
    let mut story = started();
    story.until(200).at(300).exit(9);
    tail(story.at(301), 9, 100);
    story.until(400).until(9000);
    assert_eq!(story.sampling.process_count(), 0);
}

#[test]
fn a_tail_that_nobody_asked_for_is_not_lost() {
    let mut story = Story::new(Filter { roots: [9].into(), ..Filter::default() }, Limits::default());
    story.sampling.process_loaded(1, Ok(LoadedProcess { parent_tgid: 0, ..loaded(1, 1, "/init") }));
    story.at(100).fork(1, 9).fork(1, 10);
    tail(story.at(200), 9, 100);
    tail(story.at(201), 10, 100);
    story.until(300);
    let notes = [Note::OffCpuTail, Note::OffCpuTailLost].map(|note| story.sampling.notes().get(note));
    assert_eq!(notes, [1, 0]);
}

#[test]
fn broken_records_go_into_the_books_they_belong_to() {
    let mut story = started();
    let sent = left(story.at(110), 9, 100);
    story.until(200);
    let end = OffCpuEnd { tid: sent.tid, start: sent.time, end: BootNs(story.now), runnable_ns: None };
    let tail = Tail { probability: Probability::CERTAIN, tail_ns: 5, runnable_ns: None };
    for broken in [&encode_end(&end)[..20], &encode_tail(&sent, tail)[..20]] {
        story.sampling.on_record(broken);
        assert_eq!(story.sampling.off_fates().settled() + story.sampling.open_blocks() as u64, 1);
    }
    let notes = [Note::OffCpuEndLost, Note::OffCpuTailLost].map(|note| story.sampling.notes().get(note));
    assert_eq!(notes, [1, 1]);
    story.sampling.on_record(&encode_left(&sent, departure())[..20]);
    assert_eq!(story.sampling.off_fates().get(OffFate::Malformed), 1);
}

#[test]
fn a_departure_that_waits_for_proc_finds_its_end_however_late_its_turn_comes() {
    let mut story = Story::plain();
    let sent = left(story.at(100), 9, 50);
    let end = OffCpuEnd { tid: sent.tid, start: sent.time, end: BootNs(101_000_000), runnable_ns: None };
    story.sampling.on_record(&encode_end(&end));
    story.until(8000);
    assert_eq!(story.asked, [9]);
    story.sampling.process_loaded(9, Ok(loaded(9, 50, "/bin/old")));
    assert_eq!((story.sampling.open_blocks(), story.sampling.off_fates().get(OffFate::Closed)), (0, 1));
}

#[test]
fn nothing_is_open_of_a_thread_that_has_ended() {
    let mut story = started();
    let sent = left(story.at(110), 9, 100);
    story.until(200);
    assert_eq!(story.sampling.open_blocks(), 1);
    story.at(300).change(ChangeKind::ThreadExited { tgid: 9, tid: sent.tid }).until(400);
    assert_eq!((story.sampling.open_blocks(), story.sampling.off_fates().get(OffFate::EndLost)), (0, 1));
}
