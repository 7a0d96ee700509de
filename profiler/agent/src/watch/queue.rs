//! The queue from the sampler's thread to the rows thread. Bounded by what it holds and not by its length alone: a second
//! may be one stack or thirty thousand, and while a disk hangs seconds pile up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use pyrite_sampling::Event;

use crate::sampler::Delivery;

/// A process start makes about ten events, a second is one.
const MAX_EVENTS: usize = 8192;
/// Over a minute of two busy CPUs.
const MAX_BYTES: usize = 16 << 20;

/// The end that never waits.
pub(super) struct EventSender {
    events: SyncSender<Event>,
    queued_bytes: Arc<AtomicUsize>,
}

/// The end that takes.
pub(super) struct EventReceiver {
    events: Receiver<Event>,
    queued_bytes: Arc<AtomicUsize>,
}

/// An empty queue.
pub(super) fn event_queue() -> (EventSender, EventReceiver) {
    let (sender, events) = sync_channel(MAX_EVENTS);
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    (
        EventSender { events: sender, queued_bytes: Arc::clone(&queued_bytes) },
        EventReceiver { events, queued_bytes },
    )
}

impl EventSender {
    /// Queues an event. One second fits whatever its size, where nothing else is queued.
    pub(super) fn send(&self, event: Event) -> Delivery {
        let bytes = bytes_of(&event);
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = bytes == 0 || queued == 0 || queued + bytes <= MAX_BYTES;
        if fits && self.events.try_send(event).is_ok() {
            return Delivery::Taken;
        }
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Delivery::QueueFull
    }
}

impl EventReceiver {
    /// The next event, as soon as there is one.
    pub(super) fn recv_timeout(&self, timeout: Duration) -> Result<Event, RecvTimeoutError> {
        let event = self.events.recv_timeout(timeout)?;
        self.queued_bytes.fetch_sub(bytes_of(&event), Ordering::Relaxed);
        Ok(event)
    }

    /// What the queue holds, in bytes; goes on telling while the queue is used.
    pub(super) fn gauge(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.queued_bytes)
    }
}

/// Only seconds count: the other events are small, and bounded by their number.
fn bytes_of(event: &Event) -> usize {
    match event {
        Event::Second(second) => second.bytes(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use pyrite_bpf::StackOutcome;
    use pyrite_model::{Avma, UnixMs};
    use pyrite_sampling::{BootNs, Comm, CountedStack, ProcessKey, SampledStack, Second};

    use super::*;

    fn second(stacks: usize) -> Event {
        let stack = SampledStack {
            process: ProcessKey { tgid: 1, start: BootNs(1) },
            comm: Comm::new(b"a"),
            cgroup_id: 1,
            is_kernel_thread: false,
            has_guessed_frames: false,
            kernel_outcome: StackOutcome::Complete,
            user_outcome: StackOutcome::Absent,
            kernel: vec![Avma(7); 127],
            user: vec![],
        };
        let counted = CountedStack { stack, count: 1 };
        Event::Second(Second { start: UnixMs(0), stacks: vec![counted; stacks], off_cpu: vec![] })
    }

    fn gone() -> Event {
        Event::ProcessGone { key: ProcessKey { tgid: 1, start: BootNs(1) } }
    }

    #[test]
    fn seconds_are_refused_by_their_size_and_make_room_when_taken() {
        let (sender, receiver) = event_queue();
        assert_eq!(sender.send(second(20_000)), Delivery::Taken, "alone a second of any size fits");
        assert_eq!(sender.send(second(1)), Delivery::QueueFull);
        assert_eq!(sender.send(gone()), Delivery::Taken, "small events still pass");
        assert!(receiver.gauge().load(Ordering::Relaxed) > MAX_BYTES);
        for _ in 0..2 {
            receiver.recv_timeout(Duration::ZERO).unwrap();
        }
        assert_eq!(receiver.gauge().load(Ordering::Relaxed), 0);
        assert_eq!(sender.send(second(1)), Delivery::Taken);
    }

    #[test]
    fn events_are_refused_by_their_number() {
        let (sender, _receiver) = event_queue();
        let taken = (0..2 * MAX_EVENTS).filter(|_| sender.send(gone()) == Delivery::Taken).count();
        assert_eq!(taken, MAX_EVENTS);
    }
}
