//! Which mapping set of which process the caller has been told of, and what it has to be told next.
//!
//! A set is open while it changes and sealed once it was published: the first change behind that opens another one with
//! another generation. However many mappings a program start makes, one round publishes them as one set.

use crate::{BootNs, Command, Generation};

/// The mapping set of one process, seen from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetState {
    /// Of the set as it is now.
    generation: Generation,
    /// Whether somebody may have been told of this generation, so that the set may not change under it.
    is_sealed: bool,
    published: Option<Generation>,
    /// What the parent, or the one that it was forked from in turn, had published when the process was forked.
    pub(crate) inherited: Generation,
    /// When the process started, as samples state it.
    pub(crate) start: Option<BootNs>,
    is_noted: bool,
}

/// What there is to tell about all of them.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    /// The generation given last.
    pub(crate) last: Generation,
    /// Processes for which what is published may differ from what should be; each once.
    noted: Vec<u32>,
    pub(crate) commands: Vec<Command>,
}

impl SetState {
    /// An empty set, which nobody is told of.
    pub(crate) fn new() -> Self {
        Self {
            generation: Generation::NONE,
            is_sealed: true,
            published: None,
            inherited: Generation::NONE,
            start: None,
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
        let mut child = Self { inherited, ..Self::new() };
        if parent.is_sealed {
            child.generation = parent.generation;
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

    /// Takes the generation to publish, if it is not published already.
    fn publish(&mut self) -> Option<Generation> {
        self.is_sealed = true;
        let is_news = self.published != Some(self.generation);
        self.published = Some(self.generation);
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

    /// Settles one noted process: `publication` is made where its set should be published and is not.
    pub(crate) fn settle(
        &mut self,
        set: &mut SetState,
        tgid: u32,
        should_be_known: bool,
        publication: impl FnOnce(Generation, Option<BootNs>) -> Command,
    ) {
        set.is_noted = false;
        if should_be_known {
            let start = set.start;
            self.commands.extend(set.publish().map(|generation| publication(generation, start)));
        } else if set.withdraw() {
            self.commands.push(Command::Withdraw { tgid });
        }
    }
}
