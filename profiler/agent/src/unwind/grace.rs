//! Numbers that may be given to something else only when no BPF program can still hold them.

/// Numbers on their way back to use.
///
/// ```text
/// retire ──▶ retired ──a grace period begins──▶ leaving ──it ends──▶ handed back
/// ```
///
/// A grace period lasts until every program that ran at its beginning has ended, so what is retired while one runs waits
/// for the next.
#[derive(Debug)]
pub(crate) struct Retired<T> {
    retired: Vec<T>,
    leaving: Vec<T>,
}

impl<T> Retired<T> {
    pub(crate) fn new() -> Self {
        Self { retired: Vec::new(), leaving: Vec::new() }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.retired.len() + self.leaving.len()
    }

    /// Nothing published leads to these any more.
    pub(crate) fn retire(&mut self, numbers: impl IntoIterator<Item = T>) {
        self.retired.extend(numbers);
    }

    /// A grace period begins. Returns whether anything waits for it.
    pub(crate) fn begin_grace(&mut self) -> bool {
        assert!(self.leaving.is_empty(), "one grace period at a time");
        std::mem::swap(&mut self.retired, &mut self.leaving);
        !self.leaving.is_empty()
    }

    /// The grace period did not end: what waited for it waits for the next.
    pub(crate) fn extend_grace(&mut self) {
        self.retired.append(&mut self.leaving);
    }

    /// The grace period has ended: these may be used again.
    pub(crate) fn end_grace(&mut self) -> Vec<T> {
        std::mem::take(&mut self.leaving)
    }
}
