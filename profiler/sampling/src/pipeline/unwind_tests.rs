//! Mapping sets published, stale frames cut, copied stacks finished.

use super::tests::{SECOND, Story, loaded, started};
use super::*;
use crate::Comm;
use crate::record::tests::{sample, stack_copy_at};
use crate::sideband::tests::range;
use pyrite_bpf::StackOutcome;
use pyrite_model::Avma;

const UNKNOWN: StackOutcome = StackOutcome::UnknownProcess;

fn walked_by(generation: u32) -> Sample {
    Sample { generation, ..sample() }
}

fn copied(user: &[u64], frames_before: u16) -> Sample {
    let copy = stack_copy_at(0x1030, frames_before, &[0; 4]);
    let user = user.iter().map(|avma| Avma(*avma)).collect();
    Sample { user, user_outcome: UNKNOWN, copy: Some(Box::new(copy)), ..sample() }
}

/// A copied stack that frame pointers led to an end of.
fn led(user: &[u64], frames_before: u16) -> Sample {
    Sample { user_outcome: StackOutcome::ChainEnd, ..copied(user, frames_before) }
}

fn library(story: &mut Story, tgid: u32, start: u64, inode: u64, path: &str) {
    let range = range(start, start + 0x1000, inode, path);
    story.change(ChangeKind::Mapped { tgid, range });
}

#[test]
fn the_mappings_of_a_program_start_are_published_as_one_set() {
    let mut story = started();
    for n in 0..30 {
        library(&mut story, 9, 0x10_0000 + n * 0x1000, 20 + n, "/lib");
    }
    story.until(90);
    assert!(story.sampling.has_pending_changes());
    assert_eq!(story.commands.len(), 31, "every file is to be opened before its event is in order");
    story.told();
    story.until(200).until(300);
    assert!(!story.sampling.has_pending_changes());
    assert_eq!(story.told().len(), 1);
    // The same code again is no change, other code is.
    story.at(400).map(9, "/bin/a").until(500);
    assert_eq!(story.told(), ["open 9 /bin/a"]);
    library(&mut story, 9, 0x10_0000, 99, "/new");
    story.until(600);
    assert_eq!(story.told().len(), 2, "the new file to open, the new set to publish");
}

#[test]
fn a_set_is_withdrawn_when_the_program_goes() {
    let mut story = started();
    story.until(200);
    assert_eq!(story.told(), ["open 9 /bin/a", "publish 9 /bin/a"]);
    story.at(300).change(ChangeKind::Exec { tgid: 9, comm: Comm::new(b"b") }).until(301);
    assert_eq!(story.told(), ["withdraw 9"]);
    story.at(302).map(9, "/bin/b").until(400).at(500).exit(9).until(600).until(9000);
    assert_eq!(story.told(), ["open 9 /bin/b", "publish 9 /bin/b", "withdraw 9"]);
    // It was there and gone between two rounds: nobody needs to hear of its mappings, but its samples need its file.
    story.at(9100).fork(1, 10).at(9101).exec(10, "/bin/b").at(9102).exit(10).until(9200);
    assert_eq!(story.told(), ["open 10 /bin/b"]);
}

#[test]
fn an_evicted_process_is_withdrawn() {
    let mut story = Story::new(Filter::default(), Limits { processes: 1, ..Limits::default() });
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").until(200).told();
    story.at(300).fork(1, 10).at(301).exec(10, "/bin/a").until(400);
    assert_eq!(story.told(), ["open 10 /bin/a", "withdraw 9", "publish 10 /bin/a"]);
}

#[test]
fn only_what_may_be_sampled_is_published() {
    let mut story = Story::new(Filter { roots: [9].into(), ..Filter::default() }, Limits::default());
    story.sampling.process_loaded(1, Ok(LoadedProcess { parent_tgid: 0, ..loaded(1, 1, "/init") }));
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").fork(1, 10).until(110);
    story.at(120).exec(10, "/bin/b").until(200);
    assert_eq!(story.told(), ["open 9 /bin/a", "publish 9 /bin/a"]);
}

#[test]
fn a_fork_shares_the_set_of_its_parent_until_it_changes_it() {
    let mut story = started();
    story.until(200).at(300).fork(9, 10).until(400);
    assert_eq!(story.generation(10), story.generation(9));
    library(story.at(500), 10, 0x10_0000, 20, "/lib");
    story.until(600);
    assert!(story.generation(10) > story.generation(9));
    // A parent that is changing shares nothing.
    library(story.at(700), 9, 0x10_0000, 20, "/lib");
    story.at(701).fork(9, 11);
    library(story.at(702), 9, 0x20_0000, 20, "/lib");
    story.until(800);
    assert_ne!(story.generation(11), story.generation(9));
}

#[test]
fn a_frame_that_was_walked_by_older_mappings_is_the_last_one() {
    let mut story = started();
    story.until(200);
    let old = story.generation(9);
    // A library comes in between; the walker does not know it yet.
    library(story.at(300), 9, 0x10_0000, 20, "/lib");
    let stack = || vec![Avma(0x1010), Avma(0x10_0010), Avma(0x1020)];
    story.at(310).tick(9, 100, Sample { user: stack(), ..walked_by(old) });
    story.at(320).tick(9, 100, Sample { user: vec![Avma(0x1010), Avma(0x1020)], ..walked_by(old) });
    story.until(400);
    let new = story.generation(9);
    story.at(410).tick(9, 100, Sample { user: stack(), ..walked_by(new) }).until(3000);
    assert_eq!(
        story.rows(),
        [
            "1000 9 /bin/a+1010 /bin/a+101f x1",
            "1000 9 /bin/a+1010 /lib+100f /bin/a+101f x1",
            "1000 9 /bin/a+1010 /lib+100f x1",
        ]
    );
    let stale = story.outcomes().iter().filter(|outcome| **outcome == StackOutcome::StaleMapping).count();
    assert_eq!(stale, 1);
}

#[test]
fn another_program_under_the_same_mappings_is_cut_at_the_leaf() {
    let mut story = started();
    story.until(200);
    let old = story.generation(9);
    story.at(300).exec(9, "/bin/b").at(301).tick(9, 100, walked_by(old)).until(3000);
    assert_eq!(story.rows(), ["1000 9 /bin/b+1010 x1"]);
    assert_eq!(story.outcomes(), [StackOutcome::StaleMapping]);
}

#[test]
fn a_fork_walked_by_its_parents_mappings_is_trusted_where_both_agree() {
    let by_parent = |generation| Sample { by_parent_mappings: true, ..walked_by(generation) };
    let check = |change: fn(&mut Story), expect: StackOutcome| {
        let mut story = started();
        story.until(200).at(300).fork(9, 10).at(301);
        change(&mut story);
        story.until(310);
        let (parent, time) = (story.generation(9), story.now);
        story.at(time / 1_000_000 + 20).tick(10, 300, by_parent(parent)).until(3000);
        assert_eq!(story.outcomes(), [expect]);
    };
    check(|_| {}, StackOutcome::ChainEnd);
    check(|story| library(story, 9, 0x10_0000, 20, "/lib"), StackOutcome::ChainEnd);
    check(|story| library(story, 9, 0x1000, 8, "/other"), StackOutcome::StaleMapping);
    check(|story| library(story, 10, 0x1000, 8, "/other"), StackOutcome::StaleMapping);
    // A fork of a fork, neither published: walked by what their ancestor had published.
    let mut story = started();
    story.until(200).at(300).fork(9, 10).at(301).fork(10, 11).at(310);
    let ancestor = story.generation(9);
    story.tick(11, 301, by_parent(ancestor)).until(3000);
    assert_eq!(story.outcomes(), [StackOutcome::ChainEnd]);
    // Nothing is known of where it comes from.
    let mut story = started();
    story.until(200).at(300).fork(1, 10).at(301).exec(10, "/bin/a").at(310);
    let unknown = story.generation(9);
    story.tick(10, 300, by_parent(unknown)).until(3000);
    assert_eq!(story.outcomes(), [StackOutcome::StaleMapping]);
}

#[test]
fn a_tgid_used_again_is_not_trusted_where_it_was_walked_by_the_mappings_of_its_former_life() {
    let mut story = started();
    story.at(110).fork(1, 10).at(111).exec(10, "/bin/b").until(200);
    let former = story.generation(10);
    assert!(former > story.generation(9), "no age of a mapping of 9 speaks against it");
    story.at(300).exit(10).at(301).fork(9, 10);
    story.at(310).tick(10, 301, walked_by(former)).until(400);
    assert_eq!(story.generation(10), story.generation(9), "the set of its parent");
    let own = story.generation(10);
    story.at(1410).tick(10, 301, walked_by(own)).until(3000);
    assert_eq!(story.outcomes(), [StackOutcome::StaleMapping, StackOutcome::ChainEnd]);
}

#[test]
fn a_publication_says_by_when_the_process_had_begun() {
    let mut story = Story::plain();
    story.sampling.process_loaded(8, Ok(loaded(8, 50, "/bin/a")));
    story.at(100).fork(1, 9).at(150).exec(9, "/bin/a").until(200);
    let begun = story.commands.iter().filter_map(|command| match command {
        Command::Publish { process, began_by, .. } => Some((process.tgid, began_by.0 / 1_000_000)),
        _ => None,
    });
    assert_eq!(begun.collect::<Vec<_>>(), [(8, 60), (9, 100)], "what /proc says may be 10 ms early");
}

#[test]
fn the_last_moments_of_a_process_do_not_bring_it_back() {
    let dying = Sample { is_exiting: true, ..sample() };
    let mut story = started();
    story.until(200).at(300).exit(9).at(301).tick(9, 100, dying).until(400).until(9000);
    assert_eq!(story.told(), ["open 9 /bin/a", "publish 9 /bin/a", "withdraw 9"]);
    assert_eq!((story.sampling.process_count(), story.stored()), (0, 1));
    // Who is not on his way out lives, whatever was counted.
    let mut story = started();
    story.until(200).at(300).exit(9).at(301).sample(9, 100).until(400).until(9000);
    assert_eq!(story.sampling.process_count(), 1);
}

#[test]
fn a_set_that_the_kernel_does_not_know_is_published_again_after_a_while() {
    let mut story = started();
    story.until(200).told();
    story.at(210).sample(9, 100).at(1190).sample(9, 100).until(1200);
    assert_eq!(story.told(), Vec::<String>::new(), "these came too soon after the publication");
    story.at(1300).sample(9, 100).until(1400);
    assert_eq!(story.told(), ["publish 9 /bin/a"]);
    story.at(1500).sample(9, 100).until(1600);
    assert_eq!(story.told(), Vec::<String>::new());
}

#[test]
fn code_at_an_address_that_nobody_told_of_waits_for_proc() {
    let mut story = started();
    story.until(200).asked.clear();
    let moved = |ip| copied(&[ip], 0);
    story.at(20_000).tick(9, 100, moved(0x9030)).at(20_001).tick(9, 100, moved(0x9030)).until(20_100);
    assert_eq!((story.asked.as_slice(), story.sampling.held()), (&[9][..], 2));
    let mut answer = loaded(9, 100, "/bin/a");
    (answer.ranges[0].start, answer.ranges[0].end) = (Avma(0x9000), Avma(0xd000));
    answer.read_at = BootNs(20_101_000_000);
    story.sampling.process_loaded(9, Ok(answer));
    story.until(20_200);
    assert_eq!(story.sampling.held(), 2, "finished, and in a second that is still open");
    story.at(25_000).tick(9, 100, moved(0x5_0000)).until(25_100);
    assert_eq!(story.asked, [9], "not so soon again");
    story.at(31_000).tick(9, 100, moved(0x5_0000)).until(31_100);
    assert_eq!(story.asked, [9, 9]);
}

#[test]
fn a_stack_that_leads_nowhere_has_its_process_read_again_ever_less_often() {
    let check = |is_readable: bool| {
        let mut story = started();
        let strange = || Sample { user_outcome: StackOutcome::BadFrame, ..sample() };
        let mut asked_at = Vec::new();
        for second in 20..120 {
            story.at(1000 * second).tick(9, 100, strange()).until(1000 * second + 1);
            if story.asked.pop().is_some() {
                asked_at.push(second);
                let read = LoadedProcess { read_at: BootNs(second * SECOND), ..loaded(9, 100, "/bin/a") };
                let answer = if is_readable { Ok(read) } else { Err(LoadFailure::Unreadable) };
                story.sampling.process_loaded(9, answer);
            }
        }
        assert_eq!(asked_at, [20, 41, 82]);
        assert_eq!(story.outcomes().len(), 99, "none of them has waited");
    };
    check(true);
    check(false);
}

#[test]
fn mappings_that_may_be_gone_are_looked_for_when_they_have_doubled() {
    let mut story = started();
    for n in 0..200 {
        library(story.at(20_000 + n), 9, 0x10_0000 + n * 0x1000, 20 + n, "/plugin");
        story.until(20_000 + n);
    }
    assert_eq!(story.asked, [9]);
    let read_at = BootNs(20_300 * 1_000_000);
    story.sampling.process_loaded(9, Ok(LoadedProcess { read_at, ..loaded(9, 100, "/bin/a") }));
    assert_eq!(story.sampling.mapping_count(), 1);
}

#[test]
fn a_mapping_beyond_the_bound_has_the_others_looked_at() {
    let limits = Limits { mappings_per_process: 2, ..Limits::default() };
    let mut story = Story::new(Filter::default(), limits);
    story.at(11_100).fork(1, 9).at(11_101).exec(9, "/bin/a").until(11_200);
    for n in 0..3 {
        library(story.at(11_300 + n), 9, 0x10_0000 + n * 0x1000, 20 + n, "/plugin");
    }
    story.until(11_400);
    assert_eq!((story.asked.as_slice(), story.sampling.notes().get(Note::MappingDropped)), (&[9][..], 2));
}

#[test]
fn what_proc_says_after_lost_events_is_published_only_where_it_is_new() {
    let mut story = Story::plain();
    story.sampling.process_loaded(9, Ok(loaded(9, 50, "/bin/a")));
    story.until(100);
    let first = story.generation(9);
    assert_ne!(first, 0);
    story.told();
    story.sampling.process_loaded(9, Ok(loaded(9, 50, "/bin/a")));
    story.until(200);
    assert_eq!(story.told(), Vec::<String>::new());
    story.at(300).change(ChangeKind::Lost { records: 1 }).at(310).tick(9, 50, walked_by(first)).until(400);
    let mut answer = loaded(9, 50, "/bin/a");
    answer.ranges.push(range(0x10_0000, 0x10_1000, 20, "/lib"));
    story.sampling.process_loaded(9, Ok(answer));
    story.until(3000);
    assert_eq!(story.told(), ["publish 9 /bin/a /lib"]);
    assert_eq!(story.outcomes(), [StackOutcome::ChainEnd], "what did not change can still be trusted");
}

#[test]
fn lost_events_are_counted_where_there_is_no_room_for_the_news_of_it() {
    let mut story = Story::new(Filter::default(), Limits { pending: 1, ..Limits::default() });
    story.at(100).sample(9, 50);
    for records in [5, u64::MAX] {
        story.change(ChangeKind::Lost { records });
    }
    let notes = [Note::SidebandFull, Note::SidebandLost].map(|note| story.sampling.notes().get(note));
    assert_eq!(notes, [2, u64::MAX]);
}

#[test]
fn a_copied_stack_is_finished_by_the_mappings_of_its_moment() {
    let mut story = started();
    story.at(110).tick(9, 100, copied(&[0x1010], 1)).at(120).exec(9, "/bin/b").at(130).exit(9).until(2000);
    assert_eq!(story.rows(), ["1000 9 /bin/a+1010 /bin/a+102f /bin/a+2000 /bin/a+3000 x1"]);
    assert_eq!(story.outcomes(), [StackOutcome::Complete]);
    assert_eq!((story.sampling.notes().get(Note::CopyFinished), story.sampling.copy_bytes()), (1, 0));
}

#[test]
fn a_copied_stack_waits_for_its_table_and_is_then_finished() {
    let mut story = started();
    story.tables.are_ready = false;
    story.at(110).tick(9, 100, copied(&[], 0)).until(120).until(121);
    assert_eq!((story.sampling.held(), story.sampling.copy_bytes()), (1, 32));
    assert_eq!(story.tables.walks, 1, "it is not tried again at once");
    story.tables.are_ready = true;
    story.until(2500);
    assert_eq!(story.rows(), ["1000 9 /bin/a+1030 /bin/a+2000 /bin/a+3000 x1"]);
}

#[test]
fn patience_ends() {
    let mut story = started();
    story.tables.are_ready = false;
    let guessed = Sample { frame_pointer_frames: 1, ..led(&[0x1030, 0x1050], 0) };
    story.at(110).tick(9, 100, guessed).until(200).until(1105);
    assert_eq!(story.sampling.held(), 1);
    story.until(1110).until(3000);
    assert_eq!(story.rows(), ["1000 9 /bin/a+1030 x1"], "what the frame pointers led to is a guess");
    assert_eq!(story.outcomes(), [StackOutcome::NoUnwindInfo]);
    assert!(story.stacks().all(|stack| !stack.has_guessed_frames), "none is left");
    assert_eq!(story.sampling.notes().get(Note::CopyGaveUp), 1);
}

#[test]
fn copies_beyond_the_bounds_are_dropped_and_their_samples_end_there() {
    let check = |limits: Limits, dropped: u64| {
        let mut story = Story::new(Filter::default(), limits);
        story.tables.are_ready = false;
        story.at(100).fork(1, 9).at(101).exec(9, "/bin/a");
        for ms in [110, 111, 112] {
            let guessed = Sample { frame_pointer_frames: 2, ..led(&[0x1010, 0x1030, 0x1050, 0x1060], 1) };
            story.at(ms).tick(9, 100, guessed);
        }
        story.until(120);
        let held = 32 * (3 - dropped) as usize;
        assert_eq!(
            (story.sampling.copy_bytes(), story.sampling.notes().get(Note::CopyDropped)),
            (held, dropped)
        );
        story.finish();
        assert_eq!((story.stored(), story.sampling.copy_bytes()), (3, 0));
        assert_eq!(story.rows(), ["1000 9 /bin/a+1010 /bin/a+102f x3"]);
        assert_eq!(story.outcomes(), [UNKNOWN]);
    };
    check(Limits { copy_bytes: 64, ..Limits::default() }, 1);
    check(Limits { copies: 1, ..Limits::default() }, 2);
    check(Limits::default(), 0);
}

#[test]
fn a_stack_that_ends_for_want_of_its_copy_says_why() {
    let check = |sample: Sample, is_known: bool, expect: StackOutcome| {
        let mut story = Story::new(Filter::default(), Limits { copies: 0, ..Limits::default() });
        story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").until(200);
        let generation = if is_known { story.generation(9) } else { 0 };
        story.at(310).tick(9, 100, Sample { generation, ..sample }).until(3000);
        assert_eq!(story.outcomes(), [expect]);
    };
    check(led(&[0x1030, 0x1050], 0), false, UNKNOWN);
    check(led(&[0x1030, 0x1050], 0), true, StackOutcome::NoUnwindInfo);
    check(led(&[0x1010, 0x1030], 1), true, StackOutcome::NoUnwindInfo);
    let stopped = Sample { user_outcome: StackOutcome::NoMapping, ..led(&[0x1010, 0x1030], 1) };
    check(stopped, true, StackOutcome::NoMapping);
}

#[test]
fn a_guess_behind_older_mappings_does_not_outlive_its_copy() {
    let mut story = Story::new(Filter::default(), Limits { copies: 0, ..Limits::default() });
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").until(200);
    let generation = story.generation(9);
    library(story.at(300), 9, 0x10_0000, 20, "/lib");
    let behind =
        |frames_before| Sample { generation, ..led(&[0x1010, 0x1030, 0x10_0010, 0x1050], frames_before) };
    story.at(310).tick(9, 100, behind(0)).at(320).tick(9, 100, behind(3)).until(3000);
    assert_eq!(story.rows(), ["1000 9 /bin/a+1010 /bin/a+102f /lib+100f x1", "1000 9 /bin/a+1010 x1"]);
    let mut outcomes = story.outcomes();
    outcomes.sort();
    assert_eq!(outcomes, [StackOutcome::NoUnwindInfo, StackOutcome::StaleMapping]);
}

#[test]
fn a_copy_that_was_reached_by_older_mappings_is_not_used() {
    let mut story = started();
    story.until(200);
    let old = story.generation(9);
    library(story.at(300), 9, 0x10_0000, 20, "/lib");
    let through = Sample { generation: old, ..copied(&[0x1010, 0x10_0010, 0x1020], 2) };
    let at = Sample { generation: old, ..copied(&[0x1010, 0x10_0010, 0x1020], 1) };
    story.at(310).tick(9, 100, through).at(320).tick(9, 100, at).until(3000);
    assert_eq!(
        story.rows(),
        ["1000 9 /bin/a+1010 /bin/a+102f /bin/a+2000 /bin/a+3000 x1", "1000 9 /bin/a+1010 /lib+100f x1"]
    );
}

#[test]
fn a_chain_that_ends_in_no_code_is_no_known_end() {
    let mut story = started();
    let astray = Sample { user: vec![Avma(0x1010), Avma(0x72_0403)], ..sample() };
    story.at(110).tick(9, 100, astray).until(2000);
    assert_eq!(story.outcomes(), [StackOutcome::NoMapping]);
}

#[test]
fn an_end_that_was_reached_without_tables_is_not_believed() {
    let mut story = started();
    for (ms, user_outcome) in [(110, StackOutcome::ChainEnd), (111, StackOutcome::Complete)] {
        story.at(ms).tick(9, 100, Sample { user_outcome, ..copied(&[0x1030, 0x1050], 0) });
    }
    story.until(2000);
    assert_eq!(story.rows(), ["1000 9 /bin/a+1030 /bin/a+2000 /bin/a+3000 x2"]);
}

#[test]
fn where_a_copy_ends_the_frame_pointers_go_on_if_they_led_the_same_way() {
    let check = |user: &[u64], outcome: StackOutcome, expect: (&str, StackOutcome)| {
        let mut story = started();
        story.tables.outcome = outcome;
        story.at(110).tick(9, 100, led(user, 0)).until(2000);
        let row = format!("1000 9 /bin/a+1030 {} x1", expect.0);
        assert_eq!((story.rows(), story.outcomes()), (vec![row], vec![expect.1]));
    };
    let by_both = ("/bin/a+2000 /bin/a+3000 /bin/a+106f", StackOutcome::ChainEnd);
    for outcome in [StackOutcome::CopyEnded, StackOutcome::Fault] {
        let by_rules = ("/bin/a+2000 /bin/a+3000", outcome);
        check(&[0x1030, 0x2001, 0x3001, 0x1070], outcome, by_both);
        check(&[0x1030, 0x1050, 0x1060, 0x1070], outcome, by_rules);
        check(&[0x1030, 0x3001, 0x1060, 0x1070], outcome, by_rules);
        check(&[0x1030, 0x2001, 0x3001], outcome, by_rules);
        check(&[0x1030, 0x2001, 0x3001, 0x72_0403], outcome, by_rules);
    }
    let bad = StackOutcome::BadFrame;
    check(&[0x1030, 0x2001, 0x3001, 0x1070], bad, ("/bin/a+2000 /bin/a+3000", bad));
}

#[test]
fn a_copy_without_a_caller_says_nothing_for_the_frame_pointers() {
    let mut story = started();
    (story.tables.callers, story.tables.outcome) = (vec![], StackOutcome::CopyEnded);
    story.at(110).tick(9, 100, led(&[0x1030, 0x1050], 0)).until(2000);
    assert_eq!(story.rows(), ["1000 9 /bin/a+1030 x1"]);
    assert_eq!(story.outcomes(), [StackOutcome::CopyEnded]);
}

#[test]
fn what_older_mappings_led_to_behind_a_copy_does_not_stand_against_it() {
    let check = |fourth: u64, expect: &str, outcome: StackOutcome| {
        let mut story = started();
        story.until(200);
        let old = story.generation(9);
        library(story.at(300), 9, 0x10_0000, 20, "/lib");
        story.tables.outcome = StackOutcome::CopyEnded;
        let led = led(&[0x1030, 0x2001, 0x3001, fourth, 0x1070], 0);
        story.at(310).tick(9, 100, Sample { generation: old, ..led }).until(3000);
        assert_eq!((story.rows(), story.outcomes()), (vec![expect.to_owned()], vec![outcome]));
    };
    let by_rules = "1000 9 /bin/a+1030 /bin/a+2000 /bin/a+3000";
    check(0x1056, &format!("{by_rules} /bin/a+1055 /bin/a+106f x1"), StackOutcome::ChainEnd);
    check(0x10_0010, &format!("{by_rules} /lib+100f x1"), StackOutcome::StaleMapping);
}

#[test]
fn a_process_read_from_proc_finishes_its_copies_too() {
    let mut story = Story::plain();
    story.at(100).tick(9, 50, copied(&[], 0)).until(SECOND / 1_000_000);
    story.sampling.process_loaded(9, Ok(loaded(9, 50, "/bin/old")));
    story.until(3000);
    assert_eq!(story.rows(), ["1000 9 /bin/old+1030 /bin/old+2000 /bin/old+3000 x1"]);
}
