//! The events of every online CPU, CPUs that come and go included, and each CPU's books.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use hashbrown::HashMap;
use pyrite_bpf::Note;
use pyrite_sampling::{CpuBooks, Fates, Ledger, Notes};

use crate::sampler::SamplerError;
use crate::sys::{PerfEvent, PerfRing, TickSource, clock_ticks_hz};

/// The events of one program start, even of one without libraries: its files have to be opened while it lives, and its
/// mappings published while they are of use. How often that wakes the drain is up to the drain.
const WAKEUP_BYTES: u32 = 256;
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// What every CPU's events have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventSettings {
    pub(crate) source: TickSource,
    pub(crate) frequency_hz: u64,
    pub(crate) sideband_bytes: usize,
}

/// What other sources say of the CPUs, by number, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// What the BPF program counted since it was loaded.
    pub(crate) counted: Vec<Fates>,
    /// How long each online CPU has idled since boot.
    pub(crate) idle_ns: HashMap<u32, u64>,
}

#[derive(Debug)]
struct Cpu {
    number: u32,
    ticks: PerfEvent,
    sideband: PerfRing,
    /// Readings when the event was opened.
    counted_before: Fates,
    idle_before_ns: u64,
    enabled_ns: u64,
    books: CpuBooks,
}

/// All open events.
#[derive(Debug)]
pub(crate) struct Cpus {
    settings: EventSettings,
    program: OwnedFd,
    open: Vec<Cpu>,
    /// The books of events that are closed.
    closed: Ledger,
    pub(crate) notes: Notes,
}

impl Cpus {
    /// Opens the events of the CPUs that are `online`.
    pub(crate) fn open(
        settings: EventSettings,
        program: OwnedFd,
        online: &[u32],
    ) -> Result<Self, SamplerError> {
        let mut cpus =
            Self { settings, program, open: Vec::new(), closed: Ledger::default(), notes: Notes::default() };
        let readings = Readings { counted: Vec::new(), idle_ns: read_idle() };
        for &number in online {
            match cpus.open_cpu(number, &readings) {
                Ok(cpu) => cpus.open.push(cpu),
                // Went offline in between.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(source) => return Err(SamplerError::Perf { cpu: number, source }),
            }
        }
        Ok(cpus)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Memory of the rings for mapping and process events.
    pub(crate) fn ring_bytes(&self) -> usize {
        self.open.len() * self.settings.sideband_bytes
    }

    /// Hands every mapping and process event that is waiting to `each`.
    pub(crate) fn drain_sideband(&mut self, mut each: impl FnMut(&[u8])) {
        for cpu in &mut self.open {
            cpu.sideband.drain(&mut each);
        }
    }

    /// What to wait for.
    pub(crate) fn sideband_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.open.iter().map(|cpu| cpu.sideband.as_fd())
    }

    /// Switches every clock off. The books stay readable.
    pub(crate) fn disable(&mut self) {
        for cpu in &self.open {
            // It can only fail where the CPU has gone, and its clock with it.
            let _ = cpu.ticks.disable();
        }
    }

    /// Brings the books up to date.
    pub(crate) fn read_books(&mut self, readings: &Readings) {
        for cpu in &mut self.open {
            cpu.read_books(readings);
        }
    }

    /// Brings the books up to date, closes the events of CPUs that went away and opens those of CPUs that came. Returns
    /// whether mapping events may have been missed on a CPU that came.
    pub(crate) fn refresh(&mut self, readings: &Readings, last_words: impl FnMut(&[u8])) -> bool {
        let Ok(online) = online() else {
            // Short of descriptors, say. That nobody tells which CPUs there are takes none away.
            self.read_books(readings);
            return false;
        };
        let frequency_hz = self.settings.frequency_hz;
        let mut last_words = last_words;
        let mut gone = Vec::new();
        for mut cpu in std::mem::take(&mut self.open) {
            // A CPU that went and came back between two looks is online, but its event stands still for ever.
            let runs = cpu.read_books(readings);
            if runs && online.contains(&cpu.number) {
                self.open.push(cpu);
            } else {
                gone.push(cpu);
            }
        }
        for mut cpu in gone {
            cpu.sideband.drain(&mut last_words);
            self.closed.enter(&cpu.books, frequency_hz);
        }
        let mut gap = false;
        for number in online {
            if self.open.iter().all(|cpu| cpu.number != number) {
                match self.open_cpu(number, readings) {
                    Ok(cpu) => {
                        self.open.push(cpu);
                        gap = true;
                    }
                    Err(_) => self.notes.add(Note::CpuNotOpened, 1),
                }
            }
        }
        gap
    }

    /// The books of all CPUs so far.
    pub(crate) fn ledger(&self) -> Ledger {
        let mut ledger = self.closed;
        for cpu in &self.open {
            ledger.enter(&cpu.books, self.settings.frequency_hz);
        }
        ledger
    }

    fn open_cpu(&self, number: u32, readings: &Readings) -> io::Result<Cpu> {
        // Mapping events first: a sample of a process that is not known yet costs a look into /proc.
        let sideband =
            PerfRing::new(PerfEvent::open_sideband(number, WAKEUP_BYTES)?, self.settings.sideband_bytes)?;
        sideband.event().enable()?;
        let ticks = PerfEvent::open_ticks(number, self.settings.source, self.settings.frequency_hz)?;
        ticks.attach(self.program.as_fd())?;
        ticks.enable()?;
        Ok(Cpu {
            number,
            ticks,
            sideband,
            counted_before: readings.counted.get(number as usize).copied().unwrap_or_default(),
            idle_before_ns: readings.idle_ns.get(&number).copied().unwrap_or_default(),
            enabled_ns: 0,
            books: CpuBooks::default(),
        })
    }
}

impl Cpu {
    /// Returns whether the event has been running since the last time.
    fn read_books(&mut self, readings: &Readings) -> bool {
        if let Some(counted) = readings.counted.get(self.number as usize) {
            self.books.counted = counted.since(&self.counted_before);
        }
        if let Some(idle_ns) = readings.idle_ns.get(&self.number) {
            self.books.idle_ns = idle_ns.saturating_sub(self.idle_before_ns);
        }
        match self.ticks.counts() {
            Ok(counts) => {
                self.books.running_ns = counts.running_ns;
                let runs = counts.enabled_ns > self.enabled_ns;
                self.enabled_ns = counts.enabled_ns;
                runs
            }
            Err(_) => false,
        }
    }
}

/// The CPUs that are online now.
pub(crate) fn online() -> io::Result<Vec<u32>> {
    fs::read_to_string(ONLINE).map(|list| parse_cpu_list(&list))
}

/// How long each CPU has idled since boot, waiting for devices included.
pub(crate) fn read_idle() -> HashMap<u32, u64> {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    parse_idle(&text, clock_ticks_hz())
}

/// `cpuN user nice system idle iowait …` in clock ticks.
fn parse_idle(text: &str, clock_ticks_hz: u64) -> HashMap<u32, u64> {
    let tick_ns = 1_000_000_000 / clock_ticks_hz;
    text.lines()
        .filter_map(|line| {
            let mut fields = line.strip_prefix("cpu")?.split_ascii_whitespace();
            let number = fields.next()?.parse().ok()?;
            let mut ticks = fields.skip(3).map(|field| field.parse::<u64>().ok());
            Some((number, (ticks.next()?? + ticks.next()??) * tick_ns))
        })
        .collect()
}

/// The kernel's way to write a set of numbers: `0-3,8`.
fn parse_cpu_list(text: &str) -> Vec<u32> {
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(parse_cpu_list("0\n"), [0]);
        assert_eq!(parse_cpu_list(""), Vec::<u32>::new());
    }

    #[test]
    fn idle_times_are_per_cpu_and_in_nanoseconds() {
        let text = "cpu  9 9 9 9 9\ncpu0 1 2 3 40 5 6\ncpu1 1 2\nintr 5\n";
        let idle = parse_idle(text, 100);
        assert_eq!(idle.get(&0), Some(&450_000_000));
        assert_eq!(idle.len(), 1);
    }
}
