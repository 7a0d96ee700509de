//! The rules that the rows of all tables name, as the publisher knows them. The builder gives the ids.

use pyrite_unwind::{Rule, RuleId};

use crate::unwind::grace::Retired;

/// What the builder has done to the book of rules.
#[derive(Debug)]
pub(crate) struct RuleNews {
    /// Rules that have an id now.
    pub(crate) new: Vec<(RuleId, Rule)>,
    /// How many there are.
    pub(crate) count: usize,
}

/// Rules by id. One of which no table is left goes back to the builder when no program can still be on its way from a row
/// to it.
#[derive(Debug)]
pub(crate) struct Rules {
    by_id: Vec<Rule>,
    count: usize,
    /// Each once for every table that has gone.
    retired: Retired<RuleId>,
}

impl Rules {
    pub(crate) fn new() -> Self {
        Self { by_id: Vec::new(), count: 0, retired: Retired::new() }
    }

    pub(crate) fn learn(&mut self, news: RuleNews) {
        for (id, rule) in news.new {
            let at = usize::from(id.0);
            if self.by_id.len() <= at {
                self.by_id.resize(at + 1, Rule::UNSUPPORTED);
            }
            self.by_id[at] = rule;
        }
        self.count = news.count;
    }

    pub(crate) fn get(&self, id: RuleId) -> Option<Rule> {
        self.by_id.get(usize::from(id.0)).copied()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// A table with these rules has gone.
    pub(crate) fn retire(&mut self, ids: Vec<RuleId>) {
        self.retired.retire(ids);
    }

    /// See [`Retired::begin_grace`].
    pub(crate) fn begin_grace(&mut self) -> bool {
        self.retired.begin_grace()
    }

    /// See [`Retired::extend_grace`].
    pub(crate) fn extend_grace(&mut self) {
        self.retired.extend_grace();
    }

    /// See [`Retired::end_grace`].
    pub(crate) fn end_grace(&mut self) -> Vec<RuleId> {
        self.retired.end_grace()
    }
}
