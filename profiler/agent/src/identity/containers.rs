//! What is known of each container, and when its runtime is to be asked (again).

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::cgroup::{Container, Runtime};
use super::runtime::{Metadata, Question, RuntimeMiss, RuntimeWorker};

/// Containers remembered, those that are gone included.
const MAX_CONTAINERS: usize = 4_096;
/// A container may be running before its runtime answers for it, so a first miss is soon tried again.
const EARLY_RETRY: Duration = Duration::from_millis(250);
/// Later on a miss seldom changes.
const LATE_RETRY: Duration = Duration::from_mins(1);
/// Containers can be renamed.
const REFRESH: Duration = Duration::from_mins(10);
/// An answer that is not there by then was lost.
const LOST_AFTER: Duration = Duration::from_secs(15);

struct State {
    first_asked: Instant,
    last_asked: Option<Instant>,
    /// `None` while the first answer is awaited.
    result: Option<Result<Metadata, RuntimeMiss>>,
    waiting: bool,
}

/// The answer of [`Containers::get`].
pub(super) struct Known {
    pub(super) metadata: Metadata,
    /// Whether a better answer is not to be waited for.
    pub(super) is_final: bool,
}

/// The containers.
pub(super) struct Containers {
    worker: RuntimeWorker,
    hold: Duration,
    states: HashMap<Container, State>,
    pub(super) misses: [u64; RuntimeMiss::ALL.len()],
}

impl Containers {
    pub(super) fn new(worker: RuntimeWorker, hold: Duration) -> Self {
        Self { worker, hold, states: HashMap::new(), misses: [0; RuntimeMiss::ALL.len()] }
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Takes in what the runtimes have answered.
    pub(super) fn drain(&mut self) {
        while let Some(answer) = self.worker.answer() {
            if let Err(miss) = answer.result {
                self.misses[miss.index()] += 1;
            }
            let Some(state) = self.states.get_mut(&answer.container) else { continue };
            state.waiting = false;
            // A runtime that no longer answers does not make known names unknown.
            if answer.result.is_ok() || !matches!(state.result, Some(Ok(_))) {
                state.result = Some(answer.result);
            }
        }
    }

    /// What is known of `container` now; asks its runtime where that is due. `tgid` is one of its processes.
    pub(super) fn get(&mut self, container: &Container, tgid: impl FnOnce() -> Option<u32>) -> Known {
        if matches!(container.runtime, Runtime::Lxc | Runtime::Machine) {
            // Their cgroups carry the name itself.
            let metadata = Metadata { name: container.id.clone(), ..Metadata::default() };
            return Known { metadata, is_final: true };
        }
        let now = Instant::now();
        if !self.states.contains_key(container) {
            self.make_room();
            let state = State { first_asked: now, last_asked: None, result: None, waiting: false };
            self.states.insert(container.clone(), state);
        }
        let state = self.states.get_mut(container).expect("it was inserted if it was not there");
        if state.is_due(now, self.hold) {
            state.last_asked = Some(now);
            state.waiting = self.worker.ask(Question { container: container.clone(), tgid: tgid() });
            if !state.waiting {
                self.misses[RuntimeMiss::QueueFull.index()] += 1;
            }
        }
        let metadata =
            state.result.as_ref().and_then(|result| result.as_ref().ok()).cloned().unwrap_or_default();
        let settled = matches!(state.result, Some(Ok(_) | Err(RuntimeMiss::NoSocket | RuntimeMiss::Denied)));
        Known { metadata, is_final: settled || now - state.first_asked > self.hold }
    }

    fn make_room(&mut self) {
        if self.states.len() < MAX_CONTAINERS {
            return;
        }
        let mut ages: Vec<Option<Instant>> = self.states.values().map(|state| state.last_asked).collect();
        let (_, &mut cutoff, _) = ages.select_nth_unstable(MAX_CONTAINERS / 4);
        self.states.retain(|_, state| state.last_asked > cutoff);
    }
}

impl State {
    fn is_due(&self, now: Instant, hold: Duration) -> bool {
        let Some(last_asked) = self.last_asked else { return true };
        let since = now - last_asked;
        if self.waiting {
            return since > LOST_AFTER;
        }
        match &self.result {
            None => since > EARLY_RETRY,
            Some(Ok(_)) => since > REFRESH,
            Some(Err(_)) if now - self.first_asked < hold => since > EARLY_RETRY,
            Some(Err(_)) => since > LATE_RETRY,
        }
    }
}
