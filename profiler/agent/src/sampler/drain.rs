//! The thread that empties the rings, answers what the pure part asks for, and hands on what comes out.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use pyrite_bpf::{Note, TickFate};
use pyrite_sampling::{BootNs, Event, Fates, Notes, Sample, Sampling};

use crate::sampler::cpus::{Cpus, Readings, read_idle};
use crate::sampler::load::Attached;
use crate::sampler::switches::Switches;
use crate::sampler::{Delivery, OffCpuStats, SamplerStats, processes};
use crate::sys::{self, Alarm, CpuCounters};
use crate::unwind::Unwind;

/// What lies less far back than this may still be on its way into a ring, so it waits for the next round.
const HOLD_BACK_NS: u64 = 20_000_000;
/// How often the books are read and CPUs looked for.
const REFRESH: Duration = Duration::from_secs(1);
/// At most this often are the rings emptied, however loudly they call: a dead CPU's ring calls all the time.
const SHORTEST_ROUND: Duration = Duration::from_millis(10);
/// Processes read from `/proc` per round; the rest wait for the next.
const LOADS_PER_ROUND: usize = 256;
/// While `/proc` is read at the start, the rings are emptied after so many processes.
const SCAN_CHUNK: usize = 32;

/// What the thread shares with whoever started it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) alarm: Alarm,
    pub(crate) stop: AtomicBool,
    pub(crate) stats: Mutex<SamplerStats>,
}

pub(crate) struct Drain<S> {
    pub(crate) sampling: Sampling,
    pub(crate) _on_exec: Option<Attached>,
    pub(crate) witness: Option<SyncSender<Sample>>,
    pub(crate) tape: Option<SyncSender<Vec<u8>>>,
    pub(crate) unwind: Unwind,
    pub(crate) ring: RingBuf<MapData>,
    pub(crate) counters: PerCpuArray<MapData, CpuCounters>,
    pub(crate) switches: Option<Switches>,
    pub(crate) cpus: Cpus,
    pub(crate) ring_bytes: usize,
    pub(crate) interval: Duration,
    pub(crate) sink: S,
    pub(crate) shared: Arc<Shared>,
    /// What became of the ticks that were told.
    pub(crate) told: Fates,
    pub(crate) notes: Notes,
    pub(crate) tails_lost_in_kernel: u64,
    pub(crate) to_load: VecDeque<u32>,
}

impl<S: FnMut(Event) -> Delivery> Drain<S> {
    /// Runs until asked to stop, or until a thread that it cannot do without is gone; then nothing is left in any ring and
    /// the books are closed.
    pub(crate) fn run(mut self) {
        self.scan();
        let mut refreshed = Instant::now();
        while !self.shared.stop.load(Ordering::Acquire) {
            if self.unwind.has_lost_a_thread() {
                tracing::error!("a thread that unwinding needs has panicked; sampling ends");
                break;
            }
            let round = Instant::now();
            self.round();
            if refreshed.elapsed() >= REFRESH {
                refreshed = Instant::now();
                self.refresh();
            }
            self.wait();
            std::thread::sleep(SHORTEST_ROUND.saturating_sub(round.elapsed()));
        }
        self.close();
    }

    /// Learns of the processes that ran before us.
    fn scan(&mut self) {
        for chunk in processes::list().chunks(SCAN_CHUNK) {
            for tgid in chunk {
                self.sampling.process_loaded(*tgid, processes::load(*tgid));
            }
            self.round();
        }
    }

    fn round(&mut self) {
        let until = sys::boot_now().saturating_sub(HOLD_BACK_NS);
        self.read_rings();
        self.to_load.extend(self.sampling.advance(until, sys::wall_clock()));
        self.answer(LOADS_PER_ROUND);
        self.unwind_round(until);
        let events = self.sampling.take_events(until);
        self.hand_on(events);
    }

    fn read_rings(&mut self) {
        self.cpus.drain_sideband(|record| self.sampling.on_sideband(record));
        while let Some(record) = self.ring.next() {
            self.sampling.on_record(&record);
        }
    }

    fn answer(&mut self, limit: usize) {
        for tgid in self.to_load.drain(..limit.min(self.to_load.len())) {
            self.sampling.process_loaded(tgid, processes::load(tgid));
        }
    }

    /// Publishes what changed and finishes the stacks that could only be copied.
    fn unwind_round(&mut self, until: BootNs) {
        let now = sys::boot_now();
        self.unwind.carry_out(self.sampling.take_commands(), until, now);
        self.sampling.finish_copies(&mut self.unwind, now);
        self.unwind.wait_for_tables(self.sampling.unfinished_copies() > 0);
    }

    fn hand_on(&mut self, events: Vec<Event>) {
        let witnessed = self.sampling.take_witnessed();
        if let Some(witness) = &self.witness {
            // A harness that has gone, or does not keep up, misses samples and says so itself.
            for sample in witnessed {
                let _ = witness.try_send(sample);
            }
        }
        let part = self.sampling.take_tape();
        self.tape = self.tape.take().filter(|tape| tape.try_send(part).is_ok());
        for event in events {
            let (ticks, off_cpu) = match &event {
                Event::Second(second) => (Some(second.ticks()), second.off_cpu.len() as u64),
                _ => (None, 0),
            };
            match ((self.sink)(event), ticks) {
                (Delivery::Taken, Some(ticks)) => self.told.add(TickFate::Stored, ticks),
                (Delivery::Taken, None) => {}
                (Delivery::QueueFull, Some(ticks)) => {
                    self.told.add(TickFate::QueueFull, ticks);
                    self.notes.add(Note::OffCpuStackLost, off_cpu);
                }
                (Delivery::QueueFull, None) => self.notes.add(Note::NewsDropped, 1),
            }
        }
    }

    fn readings(&self) -> Readings {
        let counted = self.counters.get(&0, 0);
        let counted = counted.iter().flat_map(|cpus| cpus.iter()).map(|cpu| Fates::from_counts(cpu.0.ticks));
        Readings { counted: counted.collect(), idle_ns: read_idle() }
    }

    fn refresh(&mut self) {
        let readings = self.readings();
        if self.cpus.refresh(&readings, |record| self.sampling.on_sideband(record)) {
            self.sampling.sideband_gap();
        }
        self.publish();
    }

    /// What became of departures, and what the program could not tell of.
    fn off_cpu_stats(&mut self) -> Option<OffCpuStats> {
        let counts = self.switches.as_mut()?.counts();
        if counts.has_lost_ends {
            self.sampling.off_cpu_ends_lost();
        }
        self.tails_lost_in_kernel = counts.tails_lost;
        let mut fates = counts.fates;
        fates.merge(self.sampling.off_fates());
        Some(OffCpuStats { fates, open: self.sampling.open_blocks() })
    }

    fn publish(&mut self) {
        let off_cpu = self.off_cpu_stats();
        let mut ledger = self.cpus.ledger();
        let mut user = self.told;
        user.merge(self.sampling.fates());
        ledger.settle(&user);
        let mut notes = self.sampling.notes();
        notes.merge(&self.cpus.notes);
        notes.merge(&self.notes);
        notes.add(Note::OffCpuTailLost, self.tails_lost_in_kernel);
        let mut stats = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.ledger = ledger;
        stats.notes = notes;
        stats.cpus = self.cpus.len();
        stats.processes = self.sampling.process_count();
        stats.mappings = self.sampling.mapping_count();
        stats.copy_bytes = self.sampling.copy_bytes();
        stats.ring_bytes = self.ring_bytes + self.cpus.ring_bytes();
        stats.unwind = self.unwind.stats();
        stats.off_cpu = off_cpu;
        stats.drain_cpu = Duration::from_nanos(sys::thread_cpu_ns());
    }

    fn wait(&self) {
        let own = [self.shared.alarm.as_fd(), self.ring.as_fd(), self.unwind.as_fd()];
        // What a program start changes is published as soon as it is in order, and not with whatever comes next.
        let hold_back = Duration::from_nanos(HOLD_BACK_NS);
        let patience =
            if self.sampling.has_pending_changes() { hold_back.min(self.interval) } else { self.interval };
        sys::wait_readable(own.into_iter().chain(self.cpus.sideband_fds()), patience);
    }

    fn close(mut self) {
        self.cpus.disable();
        if let Some(switches) = &mut self.switches {
            switches.detach();
        }
        self.read_rings();
        self.to_load.extend(self.sampling.advance(BootNs::MAX, sys::wall_clock()));
        self.answer(usize::MAX);
        self.unwind_round(BootNs::MAX);
        // Ends by itself: sampling waits for no table longer than a second.
        while self.sampling.unfinished_copies() > 0 {
            std::thread::sleep(SHORTEST_ROUND);
            self.unwind_round(BootNs::MAX);
        }
        let events = self.sampling.finish();
        self.hand_on(events);
        let readings = self.readings();
        self.cpus.read_books(&readings);
        self.publish();
    }
}
