//! What is special about some functions of the Go runtime, and what a function's rows are made from.
//!
//! The runtime runs scheduler, garbage collector and C code on a stack per thread and goroutines on stacks of their own.
//!
//! * `systemstack`, `asmcgocall`, `cgocallback` and calls of the vDSO go from one to the other and come back. Their own frame
//!   pointer stays what it was, so the walk comes back through it, to the goroutine that asked for the work.
//! * `mcall` leaves a goroutine for good and calls the scheduler, whose stack ends there, as it does in Go's own tracebacks.
//! * `morestack` copies the goroutine's stack. Nothing leads back to the goroutine but the runtime's own variables; the
//!   frame pointer was cleared, so the chain ends there.
//! * `gogo` resumes a goroutine and belongs to no stack while it does.

use crate::rule::Rule;

use super::pclntab::{FLAG_SP_WRITE, FLAG_TOP_FRAME};

/// How a function's rows differ from what its deltas say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Not at all.
    Plain,
    /// It is the outermost frame.
    Outermost,
    /// The kernel returns from signal handlers to it.
    SignalReturn,
    /// It goes to another stack and comes back; its frame pointer is its own all the time.
    Switches,
    /// It goes to another stack for good, where this rule holds.
    Leaves(Rule),
}

impl Role {
    /// How much of a name must be known.
    pub(super) const NAME_BYTES: usize = 32;

    pub(super) fn of(name: &[u8], flags: u8) -> Self {
        match name {
            b"runtime.sigreturn" | b"runtime.sigreturn__sigaction" => Self::SignalReturn,
            b"runtime.mcall" => Self::Leaves(Rule::END),
            b"runtime.morestack" => Self::Leaves(Rule::FRAME_POINTER),
            b"runtime.gogo" | b"gogo" => Self::Leaves(Rule::UNSUPPORTED),
            // Flagged as outermost, but called by the kernel, with the interrupted code behind it.
            b"runtime.sigtramp" => Self::Plain,
            // The flags came with Go 1.17.
            b"runtime.goexit" | b"runtime.mstart" | b"runtime.rt0_go" => Self::Outermost,
            // `time.now` belongs to the runtime, whatever its name says.
            b"runtime.systemstack" | b"runtime.asmcgocall" | b"runtime.cgocallback" | b"time.now" => {
                Self::Switches
            }
            _ if name.starts_with(b"_rt0_") || flags & FLAG_TOP_FRAME != 0 => Self::Outermost,
            // Elsewhere such functions align the stack for vector code and may use the frame pointer for their data.
            _ if name.starts_with(b"runtime.") && flags & FLAG_SP_WRITE != 0 => Self::Switches,
            _ => Self::Plain,
        }
    }

    /// How many bytes before its entry a function's rows begin. The address that a signal handler returns to is looked up
    /// as return addresses are, one byte before, as no call precedes it.
    pub(super) fn bytes_before(self) -> u64 {
        u64::from(self == Self::SignalReturn)
    }
}

/// One function as its rows are made from it.
pub(super) struct Body<'a> {
    /// svma.
    pub(super) start: u64,
    /// (bytes behind the start, delta from there on).
    pub(super) spans: &'a [(u64, i32)],
    /// The first instructions.
    pub(super) code: &'a [u8],
}

impl Body<'_> {
    /// The instructions from `at` bytes behind the start on.
    pub(super) fn code_from(&self, at: u64) -> &[u8] {
        usize::try_from(at).ok().and_then(|at| self.code.get(at..)).unwrap_or_default()
    }

    /// Where the first span with something on the stack begins.
    pub(super) fn first_framed(&self) -> Option<u64> {
        self.spans.iter().find(|(_, delta)| *delta > 0).map(|(at, _)| *at)
    }
}

/// Where in a function the frame pointer is what, in bytes behind its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prologue {
    /// From here on the caller's frame pointer is in the frame.
    pub(super) saved_from: Option<u64>,
    /// From here on the frame pointer is the function's own.
    pub(super) own_from: Option<u64>,
}

/// The rows of a function of which nothing but its role matters, or `false`.
pub(super) fn rows_by_role(role: Role, body: &Body<'_>, rows: &mut Vec<(u64, Rule)>) -> bool {
    match role {
        Role::Outermost => rows.push((body.start, Rule::END)),
        Role::SignalReturn => rows.push((body.start.saturating_sub(role.bytes_before()), Rule::SIGNAL)),
        Role::Plain | Role::Switches | Role::Leaves(_) => return false,
    }
    true
}

/// Splits every span where the prologue changes the rule, and asks `rule` for what holds at each piece.
pub(super) fn split_rows(
    body: &Body<'_>,
    prologue: Prologue,
    rows: &mut Vec<(u64, Rule)>,
    rule: impl Fn(u64, i32) -> Rule,
) {
    for (index, (from, delta)) in body.spans.iter().enumerate() {
        let end = body.spans.get(index + 1).map_or(u64::MAX, |(next, _)| *next);
        rows.push((body.start.saturating_add(*from), rule(*from, *delta)));
        for at in [prologue.saved_from, prologue.own_from].into_iter().flatten() {
            if *from < at && at < end {
                rows.push((body.start.saturating_add(at), rule(at, *delta)));
            }
        }
    }
}

/// Lets `rule` hold from `at` bytes behind the function's start to its end.
pub(super) fn overrule_from(body: &Body<'_>, at: u64, rule: Rule, rows: &mut Vec<(u64, Rule)>) {
    let svma = body.start.saturating_add(at);
    rows.retain(|(from, _)| *from < svma);
    rows.push((svma, rule));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_of_the_runtime() {
        let switches = FLAG_SP_WRITE | 4;
        for (name, flags, role) in [
            ("main.main", 0, Role::Plain),
            ("runtime.goexit", 0, Role::Outermost),
            ("runtime.anything", FLAG_TOP_FRAME, Role::Outermost),
            ("_rt0_amd64_linux", 4, Role::Outermost),
            ("runtime.sigtramp", FLAG_TOP_FRAME, Role::Plain),
            ("runtime.sigreturn__sigaction", 4, Role::SignalReturn),
            ("runtime.nanotime1", switches, Role::Switches),
            ("runtime.systemstack", 0, Role::Switches),
            ("time.now", switches, Role::Switches),
            ("crypto/internal/vectors", switches, Role::Plain),
            ("runtime.mcall", switches, Role::Leaves(Rule::END)),
            ("runtime.morestack", switches, Role::Leaves(Rule::FRAME_POINTER)),
            ("gogo", switches, Role::Leaves(Rule::UNSUPPORTED)),
        ] {
            assert_eq!(Role::of(name.as_bytes(), flags), role, "{name}");
        }
    }
}
