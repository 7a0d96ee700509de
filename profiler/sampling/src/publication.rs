//! Which mapping set of which process the caller has been told of, and what it has to be told next.
//!
//! A set is open while it changes and sealed once it was published: the first change behind that opens another one with
//! another generation. However many mappings a program start makes, one round publishes them as one set.

use crate::{BootNs, Command, Generation};

/// A sample that met no mapping set so long after one was published shows that it has been lost.
const PUBLISH_AGAIN_AFTER_NS: u64 = 1_000_000_000;

/// The mapping set of one process, seen from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetState {
    /// Of the set as it is now.
    generation: Generation,
    /// Whether somebody may have been told of this generation, so that the set may not change under it.
    is_sealed: bool,
    published: Option<Generation>,
    published_as_of: BootNs,
    /// What the parent, or the one that it was forked from in turn, had published when the process was forked.
    pub(crate) inherited: Generation,
    /// The parent's set, where the process began with it.
    shared: Generation,
    /// The generation given last when the process began: no set of its own is as old.
    began_after: Generation,
    is_noted: bool,
}

/// What there is to tell about all of them.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    /// The generation given last.
    pub(crate) last: Generation,
    /// All events up to then are known.
    pub(crate) as_of: BootNs,
    /// Processes for which what is published may differ from what should be; each once.
    noted: Vec<u32>,
    pub(crate) commands: Vec<Command>,
}

impl SetState {
    /// An empty set, which nobody is told of, of a process that began when `last` was the generation given last.
    pub(crate) fn new(last: Generation) -> Self {
        Self {
            generation: Generation::NONE,
            is_sealed: true,
            published: None,
            published_as_of: BootNs::default(),
            inherited: Generation::NONE,
            shared: Generation::NONE,
            began_after: last,
            is_noted: false,
        }
    }

    /// The generation that what is added now belongs to. It counts as given once [`Self::changed`] is called.
    pub(crate) fn opening(&self, last: Generation) -> Generation {
        if self.is_sealed { last.next() } else { self.generation }
    }

    /// The set has become another one, of the generation that [`Self::opening`] named.
    pub(crate) fn changed(&mut self, publisher: &mut Publisher, tgid: u32) {
        self.generation = self.opening(publisher.last);
        publisher.last = publisher.last.max(self.generation);
        self.is_sealed = false;
        publisher.note(self, tgid);
    }

    /// The set of a process that has just been forked. It is the parent's own where nobody can change that any more.
    pub(crate) fn of_fork(parent: &Self, publisher: &mut Publisher, tgid: u32) -> Self {
        let inherited = parent.published.unwrap_or(parent.inherited);
        let mut child = Self { inherited, ..Self::new(publisher.last) };
        if parent.is_sealed {
            child.generation = parent.generation;
            child.shared = parent.generation;
            publisher.note(&mut child, tgid);
        } else {
            child.changed(publisher, tgid);
        }
        child
    }

    /// Whether samples may name this process's set by `generation`.
    pub(crate) fn is_known_as(&self, generation: Generation) -> bool {
        self.generation == generation || self.published == Some(generation)
    }

    /// Whether the process may ever have had the set of this generation, and not another process that had its tgid before.
    pub(crate) fn may_have_been(&self, generation: Generation) -> bool {
        generation == self.shared || generation > self.began_after
    }

    /// Has the set published again where it was, and nevertheless was not known at `time`, long afterwards: the kernel had no
    /// room, or the event of an exec is missing.
    pub(crate) fn was_unknown_at(&mut self, time: BootNs, publisher: &mut Publisher, tgid: u32) {
        let expected_from = self.published_as_of.saturating_add(PUBLISH_AGAIN_AFTER_NS);
        if self.published == Some(self.generation) && time > expected_from {
            self.published = None;
            publisher.note(self, tgid);
        }
    }

    /// Takes the generation to publish, if it is not published already.
    fn publish(&mut self, as_of: BootNs) -> Option<Generation> {
        self.is_sealed = true;
        let is_news = self.published != Some(self.generation);
        self.published = Some(self.generation);
        self.published_as_of = as_of;
        is_news.then_some(self.generation)
    }

    fn withdraw(&mut self) -> bool {
        self.published.take().is_some()
    }
}

impl Publisher {
    /// What is published of this process may no longer be what should be.
    pub(crate) fn note(&mut self, set: &mut SetState, tgid: u32) {
        if !set.is_noted {
            set.is_noted = true;
            self.noted.push(tgid);
        }
    }

    /// The processes noted since the last time.
    pub(crate) fn take_noted(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.noted)
    }

    /// Forgets a process together with what was published of it.
    pub(crate) fn forget(&mut self, mut set: SetState, tgid: u32) {
        if set.withdraw() {
            self.commands.push(Command::Withdraw { tgid });
        }
    }

    /// Settles one noted process: `publication` is made where its set should be published and is not; where it should not
    /// be known, there is none.
    pub(crate) fn settle(
        &mut self,
        set: &mut SetState,
        tgid: u32,
        publication: Option<impl FnOnce(Generation) -> Command>,
    ) {
        set.is_noted = false;
        if let Some(publication) = publication {
            self.commands.extend(set.publish(self.as_of).map(publication));
        } else if set.withdraw() {
            self.commands.push(Command::Withdraw { tgid });
        }
    }
}
