//! Streams of records through the whole of sampling.

use super::*;
use pyrite_bpf::StackOutcome;

use crate::offcpu::tests::{departure, encode_end, encode_left};
use crate::record::tests::{encode as encode_sample, sample, stack_copy_at};
use crate::sideband::tests::{encode as encode_change, range};
use crate::{Comm, CountedStack, Mapping, Mappings, OffCpuEnd, StackCopy, UserFrame, Walked};
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use pyrite_model::{Avma, FileOffset};

const CLOCK: WallClock = WallClock { boot_at_unix_ns: 1_000_000_000_000 };
pub(super) const SECOND: u64 = 1_000_000_000;

/// A sampler fed with what a story tells: `at(ms)` moves the time that the next records carry.
pub(super) struct Story {
    pub(super) sampling: Sampling,
    pub(super) now: u64,
    pub(super) events: Vec<Event>,
    pub(super) asked: Vec<u32>,
    pub(super) commands: Vec<Command>,
    pub(super) tables: Tables,
}

/// Unwind tables that know one story: every copy goes on by its own frame and `callers`.
pub(super) struct Tables {
    pub(super) callers: Vec<u64>,
    pub(super) outcome: StackOutcome,
    pub(super) are_ready: bool,
    pub(super) walks: usize,
}

impl Unwinder for Tables {
    fn walk(&mut self, copy: &StackCopy, _: &Mappings, frames: &mut Vec<Avma>, limit: usize) -> Walked {
        self.walks += 1;
        frames.push(copy.ip);
        let callers = if self.are_ready { self.callers.as_slice() } else { &[] };
        frames.extend(callers.iter().map(|avma| Avma(*avma)));
        frames.truncate(limit);
        let outcome = if self.are_ready { self.outcome } else { StackOutcome::NoUnwindInfo };
        Walked { outcome, is_provisional: !self.are_ready, frame_pointer_frames: 0 }
    }
}

impl Story {
    pub(super) fn new(filter: Filter, limits: Limits) -> Self {
        Self {
            sampling: Sampling::new(filter, limits),
            now: 0,
            events: Vec::new(),
            asked: Vec::new(),
            commands: Vec::new(),
            tables: Tables {
                callers: vec![0x2001, 0x3001],
                outcome: StackOutcome::Complete,
                are_ready: true,
                walks: 0,
            },
        }
    }

    pub(super) fn plain() -> Self {
        Self::new(Filter::default(), Limits::default())
    }

    pub(super) fn at(&mut self, ms: u64) -> &mut Self {
        self.now = ms * 1_000_000;
        self
    }

    pub(super) fn change(&mut self, kind: ChangeKind) -> &mut Self {
        self.sampling.on_sideband(&encode_change(&Change { time: BootNs(self.now), kind }));
        self
    }

    pub(super) fn fork(&mut self, parent_tgid: u32, tgid: u32) -> &mut Self {
        self.change(ChangeKind::ProcessForked { tgid, parent_tgid })
    }

    pub(super) fn exec(&mut self, tgid: u32, path: &str) -> &mut Self {
        self.change(ChangeKind::Exec { tgid, comm: Comm::new(path.as_bytes()) });
        self.map(tgid, path)
    }

    pub(super) fn map(&mut self, tgid: u32, path: &str) -> &mut Self {
        self.change(ChangeKind::Mapped { tgid, range: range(0x1000, 0x5000, 7, path) })
    }

    pub(super) fn exit(&mut self, tgid: u32) -> &mut Self {
        self.change(ChangeKind::ThreadExited { tgid, tid: tgid })
    }

    pub(super) fn sample(&mut self, tgid: u32, start_ms: u64) -> &mut Self {
        self.tick(tgid, start_ms, sample())
    }

    /// A sample that is like `like` but for whose and when it is.
    pub(super) fn tick(&mut self, tgid: u32, start_ms: u64, like: Sample) -> &mut Self {
        let (time, start) = (BootNs(self.now), BootNs(start_ms * 1_000_000));
        self.sampling.on_record(&encode_sample(&Sample { time, tgid, start, ..like }));
        self
    }

    pub(super) fn until(&mut self, ms: u64) -> &mut Self {
        let until = BootNs(ms * 1_000_000);
        self.asked.extend(self.sampling.advance(until, CLOCK));
        self.commands.extend(self.sampling.take_commands());
        self.sampling.finish_copies(&mut self.tables, until);
        self.events.extend(self.sampling.take_events(until));
        self
    }

    /// The generation published last for a process, as samples state it.
    pub(super) fn generation(&self, tgid: u32) -> u32 {
        let published = self.commands.iter().rev().find_map(|command| match command {
            Command::Publish { process, generation, .. } if process.tgid == tgid => Some(generation.abi()),
            _ => None,
        });
        published.unwrap_or(0)
    }

    /// Commands that came since the last call, without their generations: `publish 9 /bin/a`.
    pub(super) fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.commands).iter().map(draw_command).collect()
    }

    pub(super) fn stacks(&self) -> impl Iterator<Item = &SampledStack> {
        let counted = self.events.iter().flat_map(|event| match event {
            Event::Second(second) => second.stacks.as_slice(),
            _ => &[],
        });
        counted.map(|counted| &counted.stack)
    }

    /// How each stack of the rows ended.
    pub(super) fn outcomes(&self) -> Vec<StackOutcome> {
        self.stacks().map(|stack| stack.user_outcome).collect()
    }

    pub(super) fn finish(&mut self) -> &mut Self {
        self.events.extend(self.sampling.finish());
        self
    }

    /// Seconds as lines: `second path+offset path+offset xcount`.
    pub(super) fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for event in &self.events {
            let Event::Second(second) = event else { continue };
            for CountedStack { stack, count } in &second.stacks {
                let frames: Vec<String> = stack.user.iter().map(draw).collect();
                rows.push(format!(
                    "{} {} {} x{count}",
                    second.start.0 / 1000,
                    stack.process.tgid,
                    frames.join(" ")
                ));
            }
        }
        rows.sort();
        rows
    }

    pub(super) fn stored(&self) -> u64 {
        let ticks = |event: &Event| match event {
            Event::Second(second) => second.ticks(),
            _ => 0,
        };
        self.events.iter().map(ticks).sum()
    }
}

fn draw_command(command: &Command) -> String {
    match command {
        Command::Open { tgid, file, .. } => format!("open {tgid} {}", file.path),
        Command::Publish { process, mappings, .. } => {
            let path = |mapping: &Mapping| match mapping.resolve(mapping.start) {
                UserFrame::File { file, .. } => file.path.to_string(),
                other => draw(&other),
            };
            let paths: Vec<String> = mappings.as_slice().iter().map(path).collect();
            format!("publish {} {}", process.tgid, paths.join(" "))
        }
        Command::Withdraw { tgid } => format!("withdraw {tgid}"),
    }
}

fn draw(frame: &UserFrame) -> String {
    match frame {
        UserFrame::File { file, offset: FileOffset(offset) } => format!("{}+{offset:x}", file.path),
        UserFrame::Vdso { offset } => format!("vdso+{:x}", offset.0),
        UserFrame::Anonymous(avma) => format!("anon:{:x}", avma.0),
        UserFrame::Unmapped(avma) => format!("?{:x}", avma.0),
    }
}

/// Process 9, which runs `/bin/a`.
pub(super) fn started() -> Story {
    let mut story = Story::plain();
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a");
    story
}

pub(super) fn loaded(tgid: u32, start_ms: u64, path: &str) -> LoadedProcess {
    LoadedProcess {
        tgid,
        parent_tgid: 1,
        start: BootNs(start_ms * 1_000_000),
        comm: Comm::new(b"old"),
        is_kernel_thread: false,
        threads: 1,
        read_at: BootNs(2 * SECOND),
        ranges: vec![range(0x1000, 0x5000, 7, path)],
    }
}

#[test]
fn a_process_that_is_gone_before_the_drain_still_resolves() {
    let mut story = Story::plain();
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(110).sample(9, 100).at(120).exit(9).until(2000);
    assert_eq!(story.rows(), ["1000 9 /bin/a+1010 /bin/a+101f x1"]);
    assert_eq!(story.asked, Vec::<u32>::new());
}

#[test]
fn rings_are_merged_by_time_not_by_arrival() {
    let mut story = Story::plain();
    story.at(110).sample(9, 100).at(130).sample(9, 100);
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(120).exec(9, "/bin/b").until(2000);
    assert_eq!(story.rows(), ["1000 9 /bin/a+1010 /bin/a+101f x1", "1000 9 /bin/b+1010 /bin/b+101f x1"]);
}

#[test]
fn what_comes_after_the_horizon_waits() {
    let mut story = Story::plain();
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(500).sample(9, 100).until(400);
    assert_eq!((story.sampling.held(), story.stored()), (1, 0));
    story.until(1100);
    assert_eq!((story.sampling.held(), story.stored()), (0, 1));
}

#[test]
fn a_forked_child_has_its_parents_mappings_and_keeps_its_own() {
    let mut story = Story::plain();
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(200).fork(9, 10).at(210).map(10, "/bin/b");
    story.at(220).sample(9, 100).sample(10, 200).until(2000);
    assert_eq!(story.rows(), ["1000 10 /bin/b+1010 /bin/b+101f x1", "1000 9 /bin/a+1010 /bin/a+101f x1"]);
}

#[test]
fn an_unknown_process_is_asked_for_once_and_its_samples_wait() {
    let mut story = Story::plain();
    story.at(100).sample(9, 50).at(200).sample(9, 50).at(300);
    story.asked = story.sampling.advance(BootNs(SECOND), CLOCK);
    assert_eq!((story.asked.as_slice(), story.sampling.held()), (&[9][..], 2));
    story.sampling.process_loaded(9, Ok(loaded(9, 50, "/bin/old")));
    story.until(1000);
    assert_eq!(story.rows(), ["1000 9 /bin/old+1010 /bin/old+101f x2"]);
}

#[test]
fn a_process_that_cannot_be_read_is_counted_and_its_samples_stay() {
    let mut story = Story::plain();
    story.at(20_100).sample(9, 20_050).until(20_200);
    story.sampling.process_loaded(9, Err(LoadFailure::Gone));
    story.at(20_300).sample(9, 20_050).until(21_000);
    assert_eq!(story.rows(), ["1020 9 ?1010 ?101f x2"]);
    assert_eq!(story.asked, [9]);
    assert_eq!(story.sampling.notes().get(Note::ProcessGone), 1);
}

#[test]
fn after_lost_events_nothing_is_trusted() {
    let mut story = Story::plain();
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(150).change(ChangeKind::Lost { records: 5 });
    story.at(200).sample(9, 100).until(900);
    assert_eq!(story.asked, [9]);
    story.sampling.process_loaded(9, Ok(loaded(9, 100, "/bin/b")));
    story.until(2000);
    assert_eq!(story.rows(), ["1000 9 /bin/b+1010 /bin/b+101f x1"]);
    assert_eq!(story.sampling.notes().get(Note::SidebandLost), 5);
}

#[test]
fn a_tgid_used_again_is_another_process() {
    let mut story = Story::plain();
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(110).sample(9, 100).at(120).exit(9);
    story.at(700).fork(1, 9).at(701).exec(9, "/bin/b").at(710).sample(9, 700).until(2000);
    let seen = story.events.iter().filter_map(|event| match event {
        Event::ProcessSeen { key, .. } => Some((key.tgid, key.start.0 / 1_000_000)),
        _ => None,
    });
    let keys: Vec<_> = seen.collect();
    assert_eq!(keys, [(9, 100), (9, 700)]);
    assert_eq!(story.rows(), ["1000 9 /bin/a+1010 /bin/a+101f x1", "1000 9 /bin/b+1010 /bin/b+101f x1"]);
}

#[test]
fn news_come_in_order_seen_mapped_rows_gone() {
    let mut story = Story::plain();
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(110).sample(9, 100).at(120).exit(9);
    story.until(1500).until(9000);
    let kinds: Vec<&str> = story
        .events
        .iter()
        .map(|event| match event {
            Event::ProcessSeen { .. } => "seen",
            Event::NewMapping { .. } => "mapped",
            Event::Second(_) => "rows",
            Event::ProcessGone { .. } => "gone",
        })
        .collect();
    assert_eq!(kinds, ["seen", "mapped", "rows", "gone"]);
    assert_eq!(story.sampling.process_count(), 0);
}

#[test]
fn a_leader_that_ends_before_its_threads_leaves_the_process_alive() {
    let mut story = Story::plain();
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(102).change(ChangeKind::ThreadStarted { tgid: 9 });
    story.at(200).exit(9).until(1000).until(9000).at(9500).sample(9, 100).until(11000);
    assert_eq!(story.rows(), ["1009 9 /bin/a+1010 /bin/a+101f x1"]);
}

#[test]
fn rows_belong_to_their_own_second_even_when_they_come_late() {
    let mut story = Story::plain();
    story
        .at(100)
        .fork(1, 9)
        .at(101)
        .exec(9, "/bin/a")
        .at(900)
        .sample(9, 100)
        .at(1100)
        .sample(9, 100)
        .until(1200);
    story.at(950).sample(9, 100).until(3000);
    let one = "1000 9 /bin/a+1010 /bin/a+101f x1";
    assert_eq!(story.rows(), [one, one, "1001 9 /bin/a+1010 /bin/a+101f x1"]);
}

#[test]
fn a_wall_clock_set_back_holds_no_row_back() {
    let mut story = Story::plain();
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(900).sample(9, 100).until(950);
    let an_hour_back = WallClock { boot_at_unix_ns: CLOCK.boot_at_unix_ns - 3600 * SECOND as i64 };
    drop(story.sampling.advance(BootNs(SECOND), an_hour_back));
    let events = story.sampling.take_events(BootNs(SECOND));
    story.events.extend(events);
    assert_eq!(story.stored(), 1);
}

#[test]
fn every_bound_is_counted() {
    let limits = Limits { processes: 2, pending: 4, waiting: 1, stacks: 1, ..Limits::default() };
    let mut story = Story::new(Filter::default(), limits);
    for tgid in 1..=5 {
        story.at(100).sample(tgid, 50);
    }
    assert_eq!(story.sampling.fates().get(TickFate::PendingFull), 1);
    story.until(200);
    assert_eq!(story.sampling.fates().get(TickFate::WaitingFull), 3);
    story.sampling.process_loaded(1, Ok(loaded(1, 50, "/bin/a")));
    story.at(300).sample(1, 50).at(310).sample(1, 50).map(1, "/bin/b").at(320).sample(1, 50).until(400);
    assert_eq!(story.sampling.fates().get(TickFate::SecondFull), 1);
    for tgid in 10..20 {
        story.at(500 + u64::from(tgid)).fork(1, tgid);
        story.until(600);
    }
    assert!(story.sampling.process_count() <= 2);
    assert!(story.sampling.notes().get(Note::ProcessEvicted) >= 9);
    story.sampling.on_record(b"junk");
    assert_eq!(story.sampling.fates().get(TickFate::Malformed), 1);
}

#[test]
fn a_filter_takes_descendants_and_cgroups() {
    let by_root = Filter { roots: [9].into(), ..Filter::default() };
    let mut story = Story::new(by_root, Limits::default());
    story.sampling.process_loaded(1, Ok(LoadedProcess { parent_tgid: 0, ..loaded(1, 1, "/init") }));
    story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(110).fork(9, 10).at(111).exec(10, "/bin/a");
    story.at(120).fork(1, 11).at(121).exec(11, "/bin/a");
    story.at(130).sample(9, 100).sample(10, 110).sample(11, 120).until(2000);
    assert_eq!((story.stored(), story.sampling.fates().get(TickFate::Filtered)), (2, 1));
    assert!(
        story.events.iter().all(|event| !matches!(event, Event::ProcessSeen { key, .. } if key.tgid == 11))
    );

    for (id, stored) in [(99, 1), (98, 0)] {
        let by_cgroup = Filter { cgroup_ids: [id].into(), ..Filter::default() };
        let mut story = Story::new(by_cgroup, Limits::default());
        story.at(100).fork(1, 9).at(101).exec(9, "/bin/a").at(130).sample(9, 100).until(2000);
        assert_eq!(story.stored(), stored);
    }
}

#[test]
fn what_is_forked_before_its_parent_is_known_is_placed_once_that_is() {
    let by_root = Filter { roots: [9].into(), ..Filter::default() };
    let mut story = Story::new(by_root, Limits::default());
    // A child of the root is placed by that alone; the child of one that has not been read yet is not.
    story.at(100).fork(9, 11).at(101).exec(11, "/bin/a").at(102).fork(8, 10).at(103).exec(10, "/bin/a");
    story.at(130).sample(10, 102).sample(11, 100).until(2000);
    assert_eq!((story.stored(), story.asked.as_slice()), (1, &[10][..]));
    story.sampling.process_loaded(8, Ok(LoadedProcess { parent_tgid: 9, ..loaded(8, 90, "/bin/b") }));
    story.sampling.process_loaded(10, Ok(LoadedProcess { parent_tgid: 8, ..loaded(10, 102, "/bin/a") }));
    story.until(3000);
    assert_eq!((story.stored(), story.sampling.fates().get(TickFate::Filtered)), (2, 0));
}

#[test]
fn a_kernel_thread_needs_no_proc_and_a_program_started_by_the_kernel_stops_being_one() {
    let kernel = |time: u64| Sample {
        is_kernel_thread: true,
        time: BootNs(time * 1_000_000),
        user: vec![],
        ..sample()
    };
    let mut story = Story::plain();
    story.sampling.on_record(&encode_sample(&kernel(10)));
    story.at(100).fork(2, 42);
    story.sampling.on_record(&encode_sample(&Sample { start: BootNs(100_000_000), ..kernel(110) }));
    story.at(700).exec(42, "/sbin/modprobe").until(2000);
    let seen: Vec<bool> = story
        .events
        .iter()
        .filter_map(|event| match event {
            Event::ProcessSeen { is_kernel_thread, .. } => Some(*is_kernel_thread),
            _ => None,
        })
        .collect();
    assert_eq!((seen.as_slice(), story.asked.as_slice(), story.stored()), (&[true, false][..], &[][..], 2));
}

fn any_step() -> impl Strategy<Value = (u64, u32, ChangeKind, bool)> {
    let tgid = 1_u32..6;
    let kind = prop_oneof![
        (1_u32..6, 1_u32..6).prop_map(|(tgid, parent_tgid)| ChangeKind::ProcessForked { tgid, parent_tgid }),
        (1_u32..6).prop_map(|tgid| ChangeKind::Exec { tgid, comm: Comm::new(b"x") }),
        (1_u32..6, 0_u64..3)
            .prop_map(|(tgid, inode)| ChangeKind::Mapped { tgid, range: range(0x1000, 0x3000, inode, "/x") }),
        (1_u32..6).prop_map(|tgid| ChangeKind::ThreadExited { tgid, tid: 43 }),
        (1_u32..6).prop_map(|tgid| ChangeKind::ThreadStarted { tgid }),
        Just(ChangeKind::Lost { records: 1 }),
    ];
    (0_u64..8000, tgid, kind, any::<bool>())
}

proptest! {
    #[test]
    fn every_record_is_stored_held_or_counted(steps in proptest::collection::vec(any_step(), 0..120), answered: bool, filtered: bool, ready: bool, pending in 1_usize..50, processes in 0_usize..4) {
        let limits = Limits { processes, pending, waiting: 3, stacks: 5, mappings: 4, mappings_per_process: 2, copies: 2, copy_bytes: 100, blocks: 3, block_stacks: 3 };
        let filter = if filtered { Filter { roots: [2].into(), ..Filter::default() } } else { Filter::default() };
        let mut story = Story::new(filter, limits);
        story.tables.are_ready = ready;
        let (mut sent, mut left) = (0, 0);
        for (i, (ms, tgid, change, is_sample)) in steps.into_iter().enumerate() {
            story.at(ms);
            if is_sample {
                let start = BootNs(ms / 2000 * 2_000_000_000);
                let copy = (ms % 3 == 0).then(|| Box::new(stack_copy_at(0x1030, (ms % 2) as u16, &[0; 5])));
                let user_outcome = if ms % 4 == 0 { StackOutcome::ChainEnd } else { StackOutcome::UnknownProcess };
                let (generation, by_parent_mappings) = ((ms % 5) as u32, ms % 7 == 0);
                let sample = Sample { is_kernel_thread: tgid == 5, copy, user_outcome, generation, by_parent_mappings, ..sample() };
                let sample = Sample { tgid, start, time: BootNs(story.now), ..sample };
                if ms % 5 == 0 {
                    left += 1;
                    story.sampling.on_record(&encode_left(&sample, departure()));
                    if ms % 10 == 0 {
                        let (tid, start) = (sample.tid, sample.time);
                        let end = OffCpuEnd { tid, start, end: BootNs(start.0 + 1), runnable_ns: None };
                        story.sampling.on_record(&encode_end(&end));
                    }
                } else {
                    story.sampling.on_record(&encode_sample(&sample));
                    sent += 1;
                }
            } else {
                story.change(change);
            }
            if i % 7 == 0 {
                story.until(ms);
                for tgid in std::mem::take(&mut story.asked) {
                    let answer = if answered { Ok(loaded(tgid, 0, "/y")) } else { Err(LoadFailure::Unreadable) };
                    story.sampling.process_loaded(tgid, answer);
                }
            }
            let fates = story.sampling.fates().total();
            prop_assert_eq!(sent, story.stored() + story.sampling.held() + fates);
        }
        story.finish();
        prop_assert_eq!(left, story.sampling.off_fates().settled() + story.sampling.open_blocks() as u64);
        prop_assert_eq!((story.sampling.held(), story.sampling.copies.bytes()), (0, 0));
        prop_assert_eq!(sent, story.stored() + story.sampling.fates().total());
    }
}
